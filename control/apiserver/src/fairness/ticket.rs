//! What a request has taken.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hypernetes_api::{ApiError, Reason};
use hypernetes_schema::limits::MAX_BODY;

use crate::{
    fairness::{
        account::{Account, Taken, UserPlace},
        budget::{Budget, SERVER_MILLI_CPUS},
        held::Held,
        pace::Turn,
        payer::Payer,
    },
    metrics::rejected::Why,
};

/// A body that is longer takes milliseconds to read, check and write.
const LARGE: usize = 64 << 10;

/// What a request has taken, until its answer has been read or given up.
pub(crate) struct Ticket {
    /// None: it is served beside no connection's others.
    pub(super) payer: Option<Payer>,
    /// None: it is not charged.
    pub(super) account: Option<Arc<Account>>,
    pub(super) taken: Vec<Taken>,
    /// Among its tenant's users.
    #[allow(dead_code, reason = "held")]
    pub(super) place: Option<UserPlace>,
    /// Its turn was waited for where the connection is served.
    pub(super) waited: bool,
}

impl Ticket {
    /// Waits until the request may begin, if that has not been done.
    ///
    /// # Errors
    /// When it would wait for too long.
    pub async fn turn(&self) -> Result<Option<Turn>, ApiError> {
        match &self.account {
            Some(account) if !self.waited => {
                let turn = account.pace.turn(SERVER_MILLI_CPUS).await;
                turn.map(Some).inspect_err(|_| account.rejected.count(Why::Late))
            }
            _ => Ok(None),
        }
    }

    /// Whose request it is. None: it is not charged.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.account.clone()
    }

    /// Bytes that the answer keeps in memory for as long as it is not read.
    ///
    /// # Errors
    /// When too much that the tenant asked for is not read yet.
    pub fn respond(&mut self, bytes: u64) -> Result<(), ApiError> {
        if let Some(account) = &self.account {
            self.taken.push(Taken::take(account, Budget::ResponseBytes, bytes)?);
        }
        Ok(())
    }

    /// The whole body of the request.
    ///
    /// # Errors
    /// When it is too large or does not come, or there is too much of the tenant's already.
    pub async fn read(&mut self, mut body: Body) -> Result<Bytes, ApiError> {
        let mut taken = match &self.account {
            Some(account) => Some(Taken::take(account, Budget::RequestBytes, 0)?),
            None => None,
        };
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::bad_request(format!("reading the request: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(ApiError::new(Reason::RequestEntityTooLarge, format!("limit is {MAX_BODY}")));
            }
            if let Some(taken) = &mut taken {
                taken.more(data.len() as u64)?;
            }
            bytes.extend_from_slice(&data);
        }
        self.taken.extend(taken);
        if bytes.len() > LARGE
            && let Some(payer) = &self.payer
        {
            payer.steps_back().await;
        }
        Ok(bytes.freeze())
    }

    /// The place of a connection to a pod, until it is dropped.
    ///
    /// # Errors
    /// When the tenant has as many as it may.
    pub fn session(&self) -> Result<Option<Taken>, ApiError> {
        self.account.as_ref().map(|account| Taken::take(account, Budget::Sessions, 1)).transpose()
    }

    /// The answer, which holds what was taken for as long as it is not read.
    ///
    /// # Errors
    /// When too much that the tenant asked for is not read yet.
    pub fn hold(mut self, response: Response<Body>) -> Result<Response<Body>, ApiError> {
        // What is made while it is read has been charged by whoever makes it.
        self.respond(http_body::Body::size_hint(response.body()).exact().unwrap_or_default())?;
        Ok(response.map(|body| Body::new(Held::new(body, self))))
    }
}
