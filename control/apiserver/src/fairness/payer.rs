//! Whom a connection is charged to.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hypernetes_api::ApiError;

use crate::fairness::{
    account::{Account, Taken},
    background,
    budget::SERVER_MILLI_CPUS,
    clock::timed,
    pace::{Pace, Turn},
};

/// What one source may have of it before it has said who it is.
const SOURCE_MILLI_CPUS: u64 = 150;

/// Whom a connection is charged to, in the extensions of its requests: its source, until it is known which tenant asks over
/// it first.
#[derive(Clone)]
pub(crate) struct Payer(pub(super) Arc<Paying>);

pub(super) struct Paying {
    source: Arc<Pace>,
    /// What the connection itself has had done, whoever pays for it.
    own: Pace,
    /// With the connection's place. None: it is not charged.
    pub(super) known: OnceLock<Option<Taken>>,
}

impl Payer {
    pub fn source(pace: &Arc<Pace>) -> Self {
        Self(Arc::new(Paying { source: pace.clone(), own: Pace::of_connection(), known: OnceLock::new() }))
    }

    /// It is one of the system's own connections.
    pub fn is_system(&self) {
        let _ = self.0.known.set(None);
    }

    fn pace(&self) -> Option<&Arc<Pace>> {
        match self.0.known.get() {
            None => Some(&self.0.source),
            Some(known) => known.as_ref().map(|taken| &taken.account.pace),
        }
    }

    /// Does something of the connection's, each piece of it for whoever pays by then.
    pub async fn charged<T>(&self, work: impl Future<Output = T>) -> T {
        self.timed(work, |pace, cost| {
            pace.charge(cost);
            self.0.own.charge(cost);
        })
        .await
    }

    /// The same of what comes before anything can be asked for: no reason to let it wait.
    pub async fn admitted<T>(&self, work: impl Future<Output = T>) -> T {
        self.timed(work, |pace, cost| pace.charge(cost)).await
    }

    async fn timed<T>(&self, work: impl Future<Output = T>, charge: impl Fn(&Pace, Duration)) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| match self.pace() {
            Some(pace) => {
                let (result, cost) = timed(|| work.as_mut().poll(cx));
                charge(pace, cost);
                result
            }
            None => work.as_mut().poll(cx),
        })
        .await
    }

    /// Takes long from here on: that can wait for what others have.
    pub async fn steps_back(&self) {
        self.0.own.exhaust();
        tokio::task::yield_now().await;
    }

    /// Charges what others have done for the connection.
    pub fn charge(&self, cost: Duration) {
        if let Some(pace) = self.pace() {
            pace.charge(cost);
        }
    }

    /// Waits until a request may begin.
    ///
    /// # Errors
    /// When it would wait for too long.
    pub async fn turn(&self) -> Result<Option<Turn>, ApiError> {
        match self.pace() {
            Some(pace) => pace.turn(SERVER_MILLI_CPUS).await.map(Some),
            None => Ok(None),
        }
    }

    /// Does something of the connection's for whoever pays for it by then, where that one's work is done.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let payer = self.clone();
        background::spawn(self.clone(), async move { payer.charged(work).await });
    }

    pub(crate) fn is(&self, account: &Arc<Account>) -> bool {
        matches!(self.0.known.get(), Some(Some(taken)) if Arc::ptr_eq(&taken.account, account))
    }
}

impl background::Debtor for Payer {
    fn gives_way(&self, already: bool) -> bool {
        self.pace().is_some_and(|pace| pace.is_in_arrears(already) || self.0.own.is_in_arrears(already))
    }
}

/// The pace of a source that has not said who it is.
pub(crate) fn source_pace() -> Arc<Pace> {
    Arc::new(Pace::new(SOURCE_MILLI_CPUS))
}
