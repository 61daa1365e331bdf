//! The streaming server: exec, attach and port-forward over WebSocket and SPDY.
//!
//! CRI hands out URLs; each holds a token that works once, within a short time, and cannot be guessed.

mod port_forward;
mod port_forward_spdy;
mod remote_command;
mod remote_command_spdy;
pub(crate) mod spdy;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Request, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::any,
};
use parking_lot::Mutex;

use crate::{
    budget::{Budget, Limits, Owner, Share},
    error::{Error, Result},
    runtime::Runtime,
};

/// How long a URL is good for.
const EXPIRY: Duration = Duration::from_secs(60);
/// Sessions that are open or wait for their clients.
const LIMITS: Limits = Limits { pod: 64, tenant: 256, all: 1000 };
/// Largest message from a client.
const MAX_MESSAGE: usize = 4 << 20;

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Session {
    Exec { container_id: String, command: Vec<String>, streams: Streams },
    Attach { container_id: String, streams: Streams },
    PortForward { sandbox_id: String, ports: Vec<u16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    /// CRI: at least one stream, and no stderr beside a terminal.
    pub(crate) fn check(self) -> Result<Self> {
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(Error::InvalidArgument("one of stdin, stdout and stderr must be asked for".into()));
        }
        if self.tty && self.stderr {
            return Err(Error::InvalidArgument("with a terminal there is no stderr".into()));
        }
        Ok(self)
    }
}

/// Sessions that wait for their client, each with its share of the budget, which it keeps until it ends.
#[derive(Debug)]
pub(crate) struct Sessions {
    address: OnceLock<SocketAddr>,
    pending: Mutex<HashMap<String, (Session, Share, Instant)>>,
    budget: Arc<Budget>,
}

impl Sessions {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let budget = Budget::new("streaming sessions", LIMITS);
        Self { address: OnceLock::from(address), pending: Mutex::default(), budget }
    }

    /// The URL at which the session can be had once.
    pub(crate) fn offer(&self, owner: Owner, session: Session) -> Result<String> {
        let address = self.address.get().ok_or_else(|| Error::FailedPrecondition("no streaming server".into()))?;
        let kind = match session {
            Session::Exec { .. } => "exec",
            Session::Attach { .. } => "attach",
            Session::PortForward { .. } => "portforward",
        };
        let token = hex::encode(rand::random::<[u8; 32]>());
        let url = format!("http://{address}/{kind}/{token}");
        let mut pending = self.pending.lock();
        pending.retain(|_, (.., offered)| offered.elapsed() < EXPIRY);
        let share = self.budget.take(owner, 1)?;
        pending.insert(token, (session, share, Instant::now()));
        Ok(url)
    }

    fn take(&self, token: &str) -> Option<(Session, Share)> {
        let (session, share, offered) = self.pending.lock().remove(token)?;
        (offered.elapsed() < EXPIRY).then_some((session, share))
    }
}

pub(crate) fn router(runtime: Arc<Runtime>) -> Router {
    Router::new().route("/{kind}/{token}", any(serve)).with_state(runtime)
}

async fn serve(
    State(runtime): State<Arc<Runtime>>,
    Path((_kind, token)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Response {
    // The token is spent by a client that speaks one of both only: others may fall back to it.
    let upgrade = match upgrade {
        Ok(upgrade) => Upgrade::WebSocket(upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE)),
        Err(_) if spdy::is_wanted(request.headers()) => Upgrade::Spdy(request),
        Err(_) => return (StatusCode::BAD_REQUEST, "only WebSocket and SPDY/3.1 are spoken here\n").into_response(),
    };
    let Some((session, share)) = runtime.sessions.take(&token) else {
        return (StatusCode::NOT_FOUND, "no such session: it was used, or its time is over\n").into_response();
    };
    match (session, upgrade) {
        (Session::PortForward { sandbox_id, ports }, Upgrade::WebSocket(upgrade)) => {
            port_forward::serve(runtime, upgrade, sandbox_id, ports, share)
        }
        (Session::PortForward { sandbox_id, .. }, Upgrade::Spdy(request)) => {
            port_forward_spdy::upgrade(runtime, request, sandbox_id, share)
        }
        (Session::Exec { container_id, command, streams }, upgrade) => {
            let target = remote_command::Target::Exec(command);
            upgrade.remote_command(runtime, container_id, target, streams, share)
        }
        (Session::Attach { container_id, streams }, upgrade) => {
            let Ok(container) = runtime.container(&container_id) else {
                return (StatusCode::NOT_FOUND, "the container is gone\n").into_response();
            };
            // From before the client is answered on: what it starts then, it sees from the first byte on.
            let output = container.output.subscribe();
            upgrade.remote_command(runtime, container_id, remote_command::Target::Attach(output), streams, share)
        }
    }
}

/// What the client wants to go on with.
enum Upgrade {
    WebSocket(WebSocketUpgrade),
    Spdy(Request),
}

impl Upgrade {
    fn remote_command(
        self,
        runtime: Arc<Runtime>,
        container_id: String,
        target: remote_command::Target,
        streams: Streams,
        share: Share,
    ) -> Response {
        match self {
            Self::WebSocket(upgrade) => remote_command::serve(runtime, upgrade, container_id, target, streams, share),
            Self::Spdy(request) => remote_command_spdy::serve(runtime, request, container_id, target, streams, share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_once() {
        let sessions = Sessions::new(([127, 0, 0, 1], 1).into());
        let session = Session::PortForward { sandbox_id: "s".into(), ports: vec![80] };
        let owner = |tenant: &str, sandbox: &str| Owner { tenant: tenant.into(), sandbox_id: sandbox.into() };
        let url = sessions.offer(owner("acme", "s"), session.clone()).unwrap();
        let token = url.rsplit('/').next().unwrap();
        assert_eq!(token.len(), 64);
        let (taken, share) = sessions.take(token).unwrap();
        assert_eq!(taken, session);
        assert!(sessions.take(token).is_none());
        // One that is open counts as one that waits does.
        for _ in 1..LIMITS.pod {
            sessions.offer(owner("acme", "s"), session.clone()).unwrap();
        }
        assert!(matches!(sessions.offer(owner("acme", "s"), session.clone()), Err(Error::Exhausted(_))));
        // Others have theirs, also when a tenant spends all of its own.
        sessions.offer(owner("globex", "t"), session.clone()).unwrap();
        let mut spent = 0;
        while sessions.offer(owner("acme", &format!("s{}", spent / LIMITS.pod)), session.clone()).is_ok() {
            spent += 1;
        }
        assert_eq!(spent, LIMITS.tenant - LIMITS.pod);
        sessions.offer(owner("globex", "t"), session.clone()).unwrap();
        drop(share);
        sessions.offer(owner("acme", "s"), session).unwrap();
    }

    #[test]
    fn streams_are_checked() {
        let streams = |stdin, stdout, stderr, tty| Streams { stdin, stdout, stderr, tty };
        assert!(streams(false, false, false, false).check().is_err());
        assert!(streams(false, true, true, true).check().is_err());
        assert!(streams(true, true, false, true).check().is_ok());
    }
}
