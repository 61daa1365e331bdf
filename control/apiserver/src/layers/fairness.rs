//! How much of the server whoever asks has already, and whose turn it is.

use axum::body::Body;
use http::Response;
use hypernetes_api::{ApiError, auth::UserInfo};

use super::request_info::Incoming;
use crate::{
    Inner,
    fairness::{pace::Turn, payer::Payer, seats::Seat, ticket::Ticket},
};

/// A request that may be worked on.
pub struct Entered {
    pub ticket: Ticket,
    /// Until what it costs is known.
    _turn: Option<Turn>,
    /// Until it is answered. A connection to a pod has none: it is not worked on here.
    _seat: Option<Seat>,
}

/// # Errors
/// `TooManyRequests`.
pub async fn enter(server: &Inner, request: &Incoming, user: &UserInfo) -> Result<Entered, ApiError> {
    let payer = request.extensions().get::<Payer>();
    let ticket = server.accounts.admit(user, payer, request.info.is_watch())?;
    let turn = ticket.turn().await?;
    let seat = match ticket.account() {
        Some(account) if !request.info.is_stream() => Some(server.seats.take(&account, &user.name).await?),
        _ => None,
    };
    Ok(Entered { ticket, _turn: turn, _seat: seat })
}

impl Entered {
    /// The answer, which holds what the request has taken until it has been read.
    ///
    /// # Errors
    /// `TooManyRequests` when too much that the tenant asked for is not read yet.
    pub fn hold(self, answer: Response<Body>) -> Result<Response<Body>, ApiError> {
        self.ticket.hold(answer)
    }
}
