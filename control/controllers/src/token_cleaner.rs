//! Bootstrap tokens go when their time is over (upstream's tokencleaner). They are no use then (`authentication/bootstrap.rs` of
//! the API server): what is cleared away is only a Secret.
//!
//! They are few, and of the operator's cluster alone: nobody else's secrets are read here.

use std::{collections::HashMap, pin::pin, time::Duration};

use futures::StreamExt;
use hypernetes_api::TenantId;
use hypernetes_certificates::bootstrap_token::NAMESPACE;
use hypernetes_client::{Api, Clients};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::watcher,
};

use crate::Wiring;

/// How bootstrap tokens' Secrets are selected.
pub const TOKENS: &str = "type=bootstrap.kubernetes.io/token";
/// After a deletion that was not answered.
const AGAIN: Duration = Duration::from_secs(10);

pub fn start(wiring: &Wiring<'_>) {
    let cleaner = Cleaner { clients: wiring.informers.clients().clone() };
    wiring.spawn(cleaner.run());
}

struct Cleaner {
    clients: Clients,
}

/// A token as it was seen, and when its time is over.
struct Line {
    until: Timestamp,
    version: Preconditions,
}

impl Cleaner {
    async fn run(self) {
        let client = self.clients.tenant(&TenantId::system());
        let which = watcher::Config::default().fields(TOKENS);
        let watch = hypernetes_client::readable(hypernetes_client::watch_with::<Secret>(client, &(), which));
        let mut stream = pin!(watch);
        let mut lines: HashMap<String, Line> = HashMap::new();
        loop {
            let next = lines.iter().min_by_key(|(_, line)| line.until).map(|(name, line)| (name.clone(), line.until));
            let due = async {
                match &next {
                    Some((name, until)) => {
                        let left = Timestamp::now().duration_until(*until);
                        tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
                        name.clone()
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(watcher::Event::Init)) => lines.clear(),
                    Some(Ok(watcher::Event::InitApply(secret) | watcher::Event::Apply(secret))) => {
                        lines.remove(&secret.name_any());
                        lines.extend(line(&secret));
                    }
                    Some(Ok(watcher::Event::Delete(secret))) => drop(lines.remove(&secret.name_any())),
                    Some(Ok(watcher::Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "watching bootstrap tokens"),
                    None => return,
                },
                name = due => {
                    let Some(mut line) = lines.remove(&name) else { continue };
                    if !self.delete(&name, line.version.clone()).await {
                        line.until = Timestamp::now().checked_add(AGAIN).unwrap_or(Timestamp::MAX);
                        lines.insert(name, line);
                    }
                }
            }
        }
    }

    /// Whether that is done; what has changed meanwhile is seen again.
    async fn delete(&self, name: &str, version: Preconditions) -> bool {
        let secrets: Api<Secret> = Api::namespaced(self.clients.tenant(&TenantId::system()), NAMESPACE);
        let parameters = DeleteParams { preconditions: Some(version), ..Default::default() };
        match secrets.delete(name, &parameters).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(%error, "an expired bootstrap token stays");
                false
            }
        }
    }
}

/// `None`: it has no end, or is no bootstrap token.
fn line(secret: &Secret) -> Option<(String, Line)> {
    let entry = secret.data.as_ref()?.get("expiration")?;
    let until = std::str::from_utf8(&entry.0).ok()?.parse().ok()?;
    let there = secret.namespace().as_deref() == Some(NAMESPACE);
    let version = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
    there.then(|| (secret.name_any(), Line { until, version }))
}
