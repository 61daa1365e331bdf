//! The server's side of SPDY/3.1, as far as Kubernetes' clients speak it: they open streams, both sides send data.
//!
//! The rules are those of the draft
//! (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>), and KEP-4006 for the tunnel in a WebSocket.
//! Not here: streams of the server, priorities, windows, settings, credentials.

mod dictionary;
mod frame;
mod headers;
mod session;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;

pub(super) use self::{
    frame::Status,
    session::{Closer, Session},
    stream::{Receiver, Sender, Stream},
    transport::{is_wanted, tunnel, upgrade},
};
