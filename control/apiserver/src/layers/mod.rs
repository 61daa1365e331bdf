//! What every request goes through, in this order, whoever sends it and whatever for: each layer is a file, and does one thing.
//!
//! ```text
//! panic ─▶ request info ─▶ authentication ─▶ fairness ─▶ audit ─▶ metrics ─▶ deadline ─▶ authorization ─▶ handler
//! ```
//!
//! There is no other way to a handler: what a layer finds out is a value that the next one takes, so that one that is left out does
//! not compile, or is missed by the test of its name (`tests/api/layers.rs`). Who is refused before it is
//! audited and measured, because of what it sent, who it is or how much it had, is counted where that is seen, here.

mod audit;
mod authentication;
mod authorization;
mod deadline;
mod fairness;
mod handler;
mod language;
mod metrics;
mod outside;
mod overheard;
mod panic;
mod request_info;

use axum::body::Body;
use http::{Request, Response};
use hypernetes_api::ApiError;

use crate::{Inner, accept::Language, answer::error_response};

/// The answer to a request from anywhere.
pub(crate) async fn answer(server: &Inner, request: Request<Body>) -> Response<Body> {
    let wanted = language::wanted(request.headers());
    let answer = Box::pin(hypernetes_store::as_of_now(through(server, request)));
    let answer = panic::caught(async { answer.await.unwrap_or_else(|error| error_response(&error)) }).await;
    if wanted == Language::Json { answer } else { language::translated(answer, wanted).await }
}

async fn through(server: &Inner, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let (incoming, body) =
        request_info::parse(request).inspect_err(|error| metrics::refused(server, None, None, error))?;
    let refused = |error: &ApiError| {
        metrics::refused(server, Some(&incoming), None, error);
        audit::refused(server, &incoming, error);
    };
    let user = authentication::who(server, &incoming).await.inspect_err(refused)?;
    let mut entered = fairness::enter(server, &incoming, &user).await.inspect_err(|error| {
        // Only who is charged is turned away.
        metrics::refused(server, Some(&incoming), Some(server.accounts.of(&user.tenant)), error);
    })?;
    let account = entered.ticket.account();
    let record = audit::begin(server, &incoming, Some(&user), account.clone());
    // In one place: what is handed on by each layer is a pointer.
    let work = Box::pin(async {
        let answer = deadline::within(&incoming, async {
            let permitted = authorization::check(server, &incoming, user).await?;
            handler::answer(server, &incoming, body, permitted, &mut entered.ticket).await
        });
        let answer = answer.await?;
        entered.hold(answer)
    });
    let measured = metrics::measured(server, &incoming, account, work);
    audit::recorded(record, &incoming, measured).await
}
