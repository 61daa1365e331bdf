//! Records what was asked for and what came of it, as far as the policy says.

use std::{net::IpAddr, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hypernetes_api::{
    ApiError, Reason, TenantId,
    auth::{Asking, UserInfo},
};

use super::{
    overheard::{Listener, overheard},
    request_info::Incoming,
};
use crate::{
    Inner,
    audit::{
        event::{MAX_ANSWER, Peer, Record, Sender, Trail, now},
        policy::Stage,
    },
    authentication,
    fairness::account::Account,
    request::info::RequestInfo,
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
        received: now(),
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
    Ok(overheard(answer, Recorded { code, kept, record: Some(record) }))
}

/// Has an answer recorded when it has been read, or given up.
struct Recorded {
    code: StatusCode,
    /// Of what is to be recorded itself. None: it is not, or is too long.
    kept: Option<Vec<u8>>,
    record: Option<Record>,
}

impl Listener for Recorded {
    fn hear(&mut self, data: &Bytes) {
        match &mut self.kept {
            Some(kept) if kept.len() + data.len() <= MAX_ANSWER => kept.extend_from_slice(data),
            kept => *kept = None,
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.answered(self.code.as_u16(), self.kept.as_deref());
        }
    }
}

/// A request to a service that knows its callers itself ([`super::outside`]): whose it is, and so what is recorded of it and where, is known
/// when it has been answered. It is recorded once, then; never what it sent or was answered.
pub struct Beside {
    server: Arc<Inner>,
    info: RequestInfo,
    asking: Asking,
    uri: String,
    agent: Option<String>,
    peer: Option<IpAddr>,
    received: String,
    over: bool,
}

impl Beside {
    /// `path`: of the whole request. None: nothing is recorded at all.
    pub fn begin(server: &Arc<Inner>, request: &Request<Body>, path: String, asking: &Asking) -> Option<Self> {
        server.audit.get()?;
        let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Self {
            server: server.clone(),
            asking: asking.clone(),
            uri: format!("{path}{query}"),
            agent: agent.map(str::to_owned),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
            info: RequestInfo::of_path(path, request.method()),
            received: now(),
            over: false,
        })
    }

    pub fn answered(mut self, code: StatusCode) {
        self.over = true;
        if let Some(record) = self.record() {
            record.answered(code.as_u16(), None);
        }
    }

    fn record(&self) -> Option<Record> {
        let audit = self.server.audit.get()?;
        let user = self.asking.token().map(authentication::named);
        let mut decision = audit.policy.decide(&self.info, user.as_ref())?;
        decision.omit_stages.push(Stage::RequestReceived);
        let sender = Sender {
            uri: &self.uri,
            agent: self.agent.as_deref(),
            peer: self.peer,
            user: user.as_ref(),
            received: self.received.clone(),
        };
        // Whoever is not known pays with all others who are not.
        let payer = user.as_ref().map_or_else(TenantId::system, |user| user.tenant.clone());
        let account = self.server.accounts.of(&payer);
        Some(Record::begin(audit, decision, &self.info, &sender, &Arc::<Trail>::default(), Some(account)))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.over {
            // Whoever asked has gone away: the record says so when it is dropped.
            drop(self.record());
        }
    }
}
