//! Of several servers one acts: whoever holds a Lease in the system's `kube-system` (upstream's `leaderelection`, with its
//! fields and times; [`candidate`] has the rules).
//!
//! What is promised: work is done only while the lease is held. When it could not be renewed in time the work is given
//! up, no request is begun and no answer is taken ([`Term`]), all of it before anybody else can hold the lease. A write that was
//! sent before the end and arrives after it is refused once the lease is another's: the store compares the lease in the same
//! transaction ([`Fence`](hypernetes_client::fence::Fence)). So who reads after it has got the lease reads all that its
//! predecessor has done.
//!
//! Who does not hold it is told of each change of it, so that it begins as soon as the holder lets go, or has been silent for
//! the lease's time.

mod candidate;
mod presence;
mod term;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use hypernetes_api::TenantId;
use hypernetes_client::{Api, Clients, fence::Fence};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{ResourceExt, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::candidate::Candidate;
pub use self::{candidate::Timing, presence::server_of, term::Term};

/// Where leases of components are, as upstream has it.
const NAMESPACE: &str = "kube-system";
/// Attempts of several candidates are this part of [`Timing::retry`] apart (client-go's `JitterFactor`).
const JITTER: f64 = 1.2;

/// What becomes of a lease that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Nobody else can reach the store, as whoever opens its file locks it: the holder is a process that is gone. Work
    /// begins at once and goes on whatever becomes of the lease, which is there to be seen.
    AtOnce,
    /// It is waited for.
    AfterLease,
}

/// A process as a candidate for leases. Cheap to clone.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    /// Of this process alone: another one never has the same.
    identity: String,
    takeover: Takeover,
    timing: Timing,
    /// All leases of a process are renewed together, in one write of the store's.
    began: Instant,
}

impl Election {
    /// `identity`: of this process, and no other one before or after.
    pub fn new(clients: &Clients, identity: String, takeover: Takeover) -> Self {
        let api = Api::namespaced(clients.tenant(&TenantId::system()), NAMESPACE);
        Self { api, identity, takeover, timing: Timing::default(), began: Instant::now() }
    }

    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Does `work` whenever this process holds the lease of that name, until `stop`; then lets go of it. Of each term the
    /// work is given up when the term ends: it is told first ([`Term::stop`]), and dropped if it does not end.
    pub async fn run<W>(&self, name: &str, stop: &CancellationToken, work: impl Fn(Term) -> W)
    where
        W: Future<Output = ()>,
    {
        let mut candidate = Candidate::new(&self.identity, self.timing);
        if self.takeover == Takeover::AtOnce {
            return self.alone(name, &mut candidate, stop, work).await;
        }
        while stop.run_until_cancelled(self.campaign(name, &mut candidate)).await.is_some() {
            tracing::info!(lease = name, identity = self.identity, "leading");
            let (until, watched) = watch::channel(candidate.until());
            let fence = candidate.fence();
            let term = Term::new(stop.child_token(), watched, fence.clone().map(Arc::new));
            let mut working = pin!(work(term.clone()));
            let lost = tokio::select! {
                biased;
                () = self.renew(name, &mut candidate, &until, fence.as_ref()) => true,
                () = stop.cancelled() => false,
                () = &mut working => false,
            };
            term.stop().cancel();
            // So that it is over before another's begins, here or elsewhere.
            let ended = timeout((self.timing.lease - self.timing.renew) / 2, working).await.is_ok();
            if !lost {
                if ended {
                    self.release(name, &candidate).await;
                }
                return;
            }
            tracing::warn!(
                lease = name,
                identity = self.identity,
                "leading no more: the lease was not renewed in time"
            );
        }
    }

    /// Until it holds the lease.
    async fn campaign(&self, name: &str, candidate: &mut Candidate) {
        let mut changes = pin!(self.api.watch_object(name));
        loop {
            match self.attempt(name, candidate).await {
                Ok(()) if candidate.holds(Instant::now()) => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(lease = name, %error, "the lease cannot be had");
                    sleep(self.timing.retry.mul_f64(1.0 + rand::random_range(0.0..JITTER))).await;
                }
            }
            // A watch that is silent although there is something to tell costs a refused attempt, which looks.
            while let Some(free) = candidate.free().filter(|free| Instant::now() < *free) {
                match timeout_at(free, changes.next()).await {
                    Ok(Some(Ok(lease))) if candidate.is_news(lease.as_ref()) => candidate.saw(lease, Instant::now()),
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(error))) => tracing::debug!(lease = name, %error, "watching the lease"),
                    Ok(None) | Err(_) => sleep_until(free).await,
                }
            }
        }
    }

    /// For as long as it holds the lease, and holds it by the same term: one that was deleted is made anew in another.
    async fn renew(
        &self,
        name: &str,
        candidate: &mut Candidate,
        until: &watch::Sender<Option<Instant>>,
        fence: Option<&Fence>,
    ) {
        let mut period = self.timing.retry;
        let holds = |candidate: &Candidate| {
            let end = candidate.until().filter(|end| Instant::now() < *end)?;
            (candidate.fence().as_ref() == fence).then_some(end)
        };
        while let Some(end) = holds(candidate) {
            sleep_until(self.next(period).min(end)).await;
            period = self.timing.retry;
            match timeout_at(end, self.attempt(name, candidate)).await {
                Ok(Ok(())) if holds(candidate).is_some() => drop(until.send_replace(candidate.until())),
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(lease = name, %error, "the lease is not renewed");
                    // Little time is left.
                    period /= 4;
                }
                Err(_) => {}
            }
        }
    }

    /// The next of the moments that are so far apart, which are all its leases'.
    fn next(&self, period: Duration) -> Instant {
        let periods = self.began.elapsed().as_nanos() / period.as_nanos().max(1) + 1;
        self.began + period * u32::try_from(periods).unwrap_or(u32::MAX)
    }

    /// Takes the lease or renews it, if it can be had. Over what was seen last first, where it is its own.
    async fn attempt(&self, name: &str, candidate: &mut Candidate) -> Result<(), kube::Error> {
        let attempt = async {
            if candidate.holds(Instant::now()) && self.write(name, candidate).await? {
                return Ok(());
            }
            let seen = self.api.get_opt(name).await?;
            candidate.saw(seen, Instant::now());
            self.write(name, candidate).await.map(drop)
        };
        // So that one answer that does not come is not the end of a term.
        timeout(self.timing.renew / 2, attempt).await.unwrap_or_else(|_| Err(kube::Error::Service("no answer".into())))
    }

    /// Writes what is to be written. False: others were faster.
    async fn write(&self, name: &str, candidate: &mut Candidate) -> Result<bool, kube::Error> {
        let sent = Instant::now();
        let claim = match self.takeover {
            Takeover::AtOnce => Some(candidate.seize(Timestamp::now())),
            Takeover::AfterLease => candidate.claim(sent, Timestamp::now()),
        };
        let Some(lease) = claim else { return Ok(true) };
        match self.put(name, lease).await {
            Ok(written) => {
                candidate.wrote(written, sent);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, name: &str, mut lease: Lease) -> Result<Lease, kube::Error> {
        if lease.resource_version().is_some() {
            return self.api.replace(name, &PostParams::default(), &lease).await;
        }
        lease.metadata.name = Some(name.to_owned());
        self.api.create(&PostParams::default(), &lease).await
    }

    /// The next one need not wait. What cannot be written is another's after its time.
    async fn release(&self, name: &str, candidate: &Candidate) {
        let Some(lease) = candidate.release(Timestamp::now()) else { return };
        if let Ok(Err(error)) = timeout(self.timing.retry, self.put(name, lease)).await {
            tracing::debug!(lease = name, %error, "the lease is not let go of");
        }
    }

    /// [`Takeover::AtOnce`].
    async fn alone<W>(&self, name: &str, candidate: &mut Candidate, stop: &CancellationToken, work: impl Fn(Term) -> W)
    where
        W: Future<Output = ()>,
    {
        let show = async {
            loop {
                if let Err(error) = self.attempt(name, candidate).await {
                    tracing::debug!(lease = name, %error, "the lease is not written");
                }
                sleep_until(self.next(self.timing.renew / 2)).await;
            }
        };
        let working = work(Term::alone(stop.clone()));
        tokio::select! {
            biased;
            () = working => {}
            () = show => {}
        }
        self.release(name, candidate).await;
    }
}

#[cfg(test)]
mod tests;
