//! What tests of several crates share.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // tests panic

pub mod hostile;
