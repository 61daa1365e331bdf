//! The time for which a lease is held, and clients that are good for so long.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use hypernetes_client::{AnyBody, Clients, Transport, fence::Fence};
use kube::client::Body;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, util::BoxCloneSyncService};

/// One time of acting. Cheap to clone.
#[derive(Clone)]
pub struct Term {
    stop: CancellationToken,
    /// Until when, unless the lease is renewed; `None`: nobody else can act.
    until: watch::Receiver<Option<Instant>>,
    /// What its writes are guarded by; `None`: nobody else can act.
    fence: Option<Arc<Fence>>,
}

impl Term {
    pub(super) fn new(
        stop: CancellationToken,
        until: watch::Receiver<Option<Instant>>,
        fence: Option<Arc<Fence>>,
    ) -> Self {
        Self { stop, until, fence }
    }

    /// Of someone who has no rival, until `stop`.
    pub fn alone(stop: CancellationToken) -> Self {
        Self::new(stop, watch::channel(None).1, None)
    }

    /// Cancelled when it ends. By then everything that acts has to be at an await point where it can be given up.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether it lasts. Also before anybody has got round to saying that it has ended: this process may have been
    /// stopped meanwhile.
    pub fn lasts(&self) -> bool {
        !self.stop.is_cancelled() && self.until.borrow().is_none_or(|until| Instant::now() < until)
    }

    /// Whether nobody else can act before it or after it, while this process is.
    pub(crate) fn is_alone(&self) -> bool {
        self.fence.is_none()
    }

    /// Clients through which nothing is asked after the end, and nothing that was asked before is answered after it. What they
    /// write is guarded by the lease ([`Fence`]): of what was asked before the end nothing is done once the lease is another's.
    pub fn clients(&self, clients: &Clients) -> Clients {
        let term = self.clone();
        clients.layered(move |inner| BoxCloneSyncService::new(During { term: term.clone(), inner }))
    }
}

/// It was asked, or answered, after the term.
#[derive(Debug, thiserror::Error)]
#[error("this server's lease has ended")]
struct Ended;

#[derive(Clone)]
struct During {
    term: Term,
    inner: Transport,
}

impl Service<Request<Body>> for During {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<AnyBody>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let term = self.term.clone();
        if let Some(fence) = &term.fence {
            request.extensions_mut().insert(fence.clone());
        }
        if !term.lasts() {
            return Box::pin(async { Err(Ended.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            match term.stop.run_until_cancelled(answer).await {
                Some(answer) if term.lasts() => answer,
                _ => Err(Ended.into()),
            }
        })
    }
}
