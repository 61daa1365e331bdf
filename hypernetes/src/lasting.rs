//! What keeps the certificates of a running server good for as long as it runs: those that it shows to clients and to kubelets, the
//! operator's kubeconfig in its directory, and the tenants' authorities.
//!
//! All of them are looked at every six hours, and what is due is made anew: a clock may have been set, a disk may have been full.

use std::{convert::Infallible, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use hypernetes_api::{ApiError, names};
use hypernetes_apiserver::{Shown, TlsConfig};
use jiff::Timestamp;

use crate::{
    kubeconfig,
    pki::{self, Authority, Client, Identity},
    renewals,
};

/// How long a clock may have been set and nobody has looked.
const LOOK: Duration = Duration::from_secs(6 * 3600);
const KUBECONFIG: &str = "operator.kubeconfig";

/// Where and as what a server is known.
pub struct Place {
    pub root: PathBuf,
    /// What `root` is called outside of this process.
    pub shown_root: PathBuf,
    pub url: String,
    pub addresses: Vec<IpAddr>,
}

/// The server's own certificates, and those that it gives the operator.
pub struct Lasting {
    place: Place,
    authority: Authority,
    serving: Shown,
    to_kubelets: Shown,
}

impl Lasting {
    /// With what is in the directory, and what has to be made anew.
    ///
    /// # Errors
    /// When it cannot be made, or written.
    pub fn open(place: Place, authority: Authority) -> Result<Self> {
        let shown = |own: Identity| Shown::new(&own.certificate, &own.key);
        let (serving, to_kubelets) = (serving(&authority, &place.addresses)?, to_kubelets(&authority)?);
        Ok(Self { serving: shown(serving)?, to_kubelets: shown(to_kubelets)?, place, authority })
    }

    /// What clients are shown.
    pub fn to_clients(&self) -> TlsConfig {
        self.config(&self.serving)
    }

    /// What kubelets are shown.
    pub fn to_kubelets(&self) -> TlsConfig {
        self.config(&self.to_kubelets)
    }

    fn config(&self, shown: &Shown) -> TlsConfig {
        TlsConfig { shown: shown.clone(), authority: self.authority.certificate().to_owned() }
    }

    /// Writes the operator's kubeconfig, with a certificate that is made anew when it is due.
    ///
    /// # Errors
    /// When it cannot be made, or written.
    pub fn write_kubeconfig(&self) -> Result<()> {
        let client = Client { user: "operator", group: names::GROUP_MASTERS };
        let operator = self.authority.client("operator", &client)?;
        let user = kubeconfig::User::Certificate(&operator);
        let config = kubeconfig::render("system", &self.place.url, self.authority.certificate(), &user);
        pki::write_private(&self.place.root.join(KUBECONFIG), config.as_bytes())
    }

    /// Makes anew what is due.
    ///
    /// # Errors
    /// When that cannot be made, or written: what is in use goes on.
    pub fn look(&self) -> Result<()> {
        let own = serving(&self.authority, &self.place.addresses)?;
        self.serving.set(&own.certificate, &own.key)?;
        let own = to_kubelets(&self.authority)?;
        self.to_kubelets.set(&own.certificate, &own.key)?;
        // Who has taken it away does not want it back before the next start.
        let Some(before) = renewals::operators_certificate(&self.place.root) else { return Ok(()) };
        self.write_kubeconfig()?;
        if Some(before) != renewals::operators_certificate(&self.place.root) {
            tracing::warn!("{}", renewals::copy_again(&self.place.shown_root));
        }
        Ok(())
    }

    /// Never ends. `authorities` renews the tenants' that are due then.
    pub async fn keep<F>(self, authorities: impl Fn(Timestamp) -> F + Send) -> Infallible
    where
        F: Future<Output = Result<(), ApiError>> + Send,
    {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look() {
                tracing::warn!(error = format!("{error:#}"), "has not renewed all of its certificates yet");
            }
            if let Err(error) = authorities(self.authority.now()).await {
                tracing::warn!(%error, "has not renewed the tenants' authorities yet");
            }
        }
    }
}

/// With the authority's: who joins knows only a hash of that.
fn serving(authority: &Authority, addresses: &[IpAddr]) -> Result<Identity> {
    let own = authority.server("apiserver", addresses, &["localhost", "kubernetes.default.svc"])?;
    Ok(Identity { certificate: own.certificate + authority.certificate(), key: own.key })
}

fn to_kubelets(authority: &Authority) -> Result<Identity> {
    let infrastructure = Client { user: "hypernetes:apiserver", group: names::GROUP_INFRASTRUCTURE };
    authority.client("kubelet-client", &infrastructure)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hypernetes_certificates::issue;
    use jiff::SignedDuration;
    use tokio::time::Instant;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn days_left(until: i64, now: Timestamp) -> i64 {
        (until - now.as_second()) / 86_400
    }

    /// Nobody waits here: the clock goes on by itself.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_runs_for_years_goes_on_serving() {
        let directory = tempfile::tempdir().unwrap();
        let (began, first) = (Instant::now(), Timestamp::now());
        let now = move || first + SignedDuration::try_from(began.elapsed()).unwrap();
        let authority = Authority::open_at(&directory.path().join("pki"), Arc::new(now)).unwrap();
        let place = Place {
            root: directory.path().to_owned(),
            shown_root: "/srv".into(),
            url: "https://localhost:1".into(),
            addresses: vec![],
        };
        let lasting = Lasting::open(place, authority).unwrap();
        lasting.write_kubeconfig().unwrap();
        let (to_clients, to_kubelets) = (lasting.to_clients(), lasting.to_kubelets());
        let times = Arc::new(Mutex::new(Vec::new()));
        let told = times.clone();
        let keeping = tokio::spawn(lasting.keep(move |now| {
            told.lock().unwrap().push(now);
            std::future::ready(Ok(()))
        }));
        let (mut seen, mut copied) = (Vec::new(), Vec::new());
        for day in 0..800 {
            for shown in [&to_clients.shown, &to_kubelets.shown] {
                let certificate = shown.certificate().unwrap();
                let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
                assert!(parsed.validity().not_before.timestamp() < now().as_second());
                let left = days_left(parsed.validity().not_after.timestamp(), now());
                assert!((29..=365).contains(&left), "on day {day}: {left}");
                seen.push(certificate.clone());
            }
            let kubeconfig = renewals::operators_certificate(directory.path()).unwrap();
            let (_, until) = issue::validity(&kubeconfig).unwrap();
            assert!(days_left(until.as_second(), now()) >= 29, "on day {day}");
            copied.push(kubeconfig);
            tokio::time::sleep(DAY).await;
        }
        for (all, kinds) in [(seen.iter().map(|one| one.to_vec()).collect::<Vec<_>>(), 2), (copied, 1)] {
            let different: std::collections::HashSet<_> = all.into_iter().collect();
            // Twice and a bit of eleven months.
            assert_eq!(different.len(), 3 * kinds);
        }
        // The tenants' authorities are looked at as often.
        let times = times.lock().unwrap();
        let longest = times.windows(2).map(|pair| pair[0].duration_until(pair[1])).max().unwrap();
        assert!(times.len() > 800 * 3 && longest < SignedDuration::from_hours(7), "{longest}");
        keeping.abort();

        // What somebody has taken away stays away.
        let authority = Authority::open_at(&directory.path().join("pki"), Arc::new(now)).unwrap();
        std::fs::remove_file(directory.path().join(KUBECONFIG)).unwrap();
        let place = Place {
            root: directory.path().to_owned(),
            shown_root: "/srv".into(),
            url: String::new(),
            addresses: vec![],
        };
        Lasting::open(place, authority).unwrap().look().unwrap();
        assert!(!directory.path().join(KUBECONFIG).exists());
    }
}
