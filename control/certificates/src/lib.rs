//! Certificates that are asked for through the API: what a signing request says ([`request`]), what each built-in signer
//! gives and what it refuses ([`signer`]), and how a certificate is made of that ([`issue`]).
//!
//! The API server validates and admits by it, the controllers approve and sign by it, and nodes ask by it: what is refused
//! when a request is made, and what is signed, are told by the same reading of the same bytes.
#![forbid(unsafe_code)]

pub mod bootstrap_token;
pub mod cluster_info;
mod handshake;
pub mod issue;
pub mod pem;
pub mod request;
pub mod signer;
