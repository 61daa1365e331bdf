//! Records what was asked for and what came of it, as far as the policy says.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hypernetes_api::{ApiError, Reason, auth::UserInfo};

use super::request_info::Incoming;
use crate::{
    Inner,
    audit::event::{MAX_ANSWER, Peer, Record, Sender},
    fairness::account::Account,
};

/// The record of a request. None: nothing is to be recorded of it.
pub fn begin(
    server: &Inner,
    request: &Incoming,
    user: Option<&UserInfo>,
    account: Option<Arc<Account>>,
) -> Option<Record> {
    let audit = server.audit.get()?;
    let decision = audit.policy.decide(&request.info, user)?;
    let sender = Sender {
        uri: request.uri().path_and_query().map_or("", |whole| whole.as_str()),
        agent: request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()),
        peer: request.extensions().get::<Peer>().map(|peer| peer.0),
        user,
    };
    Some(Record::begin(audit, decision, &request.info, &sender, &request.trail, account))
}

/// Records one whose credential is none.
pub fn refused(server: &Inner, request: &Incoming, error: &ApiError) {
    if error.reason == Reason::Unauthorized
        && let Some(record) = begin(server, request, None, None)
    {
        record.refused(error);
    }
}

/// Records what comes of the work. What goes on for long is recorded when it begins and when it ends.
pub async fn recorded(
    record: Option<Record>,
    request: &Incoming,
    work: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    let Some(mut record) = record else { return work.await };
    let answer = match work.await {
        Ok(answer) => answer,
        Err(error) => {
            record.refused(&error);
            return Err(error);
        }
    };
    let code = answer.status();
    let goes_on = request.info.is_long_running() && (code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS);
    if goes_on {
        record.started(code.as_u16());
    } else if !record.wants_answer() {
        record.answered(code.as_u16(), None);
        return Ok(answer);
    }
    let kept = (!goes_on).then(Vec::new);
    Ok(answer.map(|body| Body::new(Recorded { body, code, kept, record: Some(record) })))
}

/// An answer that is recorded when it has been read, or given up.
struct Recorded {
    body: Body,
    code: StatusCode,
    /// Of what is to be recorded itself. None: it is not, or is too long.
    kept: Option<Vec<u8>>,
    record: Option<Record>,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            match &mut self.kept {
                Some(kept) if kept.len() + data.len() <= MAX_ANSWER => kept.extend_from_slice(data),
                kept => *kept = None,
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.answered(self.code.as_u16(), self.kept.as_deref());
        }
    }
}
