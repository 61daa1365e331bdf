//! Events go when they have not happened again for a while (upstream's `--event-ttl`, there a lease in etcd).
//!
//! They are many, so no cache has them: of each, a line says until when it stays. All stay equally long, so the lines
//! are in order as they come, and one timer is enough for all tenants.

use std::{
    collections::VecDeque,
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use hypernetes_client::{Api, Clients, tenant_of};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Client, Resource, ResourceExt,
    api::{DeleteParams, Preconditions},
    core::PartialObjectMeta,
    runtime::watcher,
};

use crate::{Wiring, runtime::Key};

pub fn start(wiring: &Wiring<'_>) {
    let everywhere = wiring.informers.clients().all_tenants(wiring.informers.capability());
    let cleaner = Cleaner { clients: wiring.informers.clients().clone(), ttl: wiring.limits.event_ttl };
    wiring.spawn(cleaner.run(everywhere));
}

struct Cleaner {
    clients: Clients,
    ttl: Duration,
}

/// An event at one version; when it has happened again, there is a later line for that.
struct Line {
    until: Instant,
    key: Key,
    version: Option<String>,
}

impl Cleaner {
    async fn run(self, everywhere: Client) {
        let mut stream = pin!(hypernetes_client::watch::<PartialObjectMeta<Event>>(everywhere, &()));
        let mut lines: VecDeque<Line> = VecDeque::new();
        let mut listed: Vec<Line> = Vec::new();
        loop {
            let next = lines.front().map(|line| line.until);
            let due = async {
                match next {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(object))) => listed.extend(self.line(&object, true)),
                    Some(Ok(watcher::Event::InitDone)) => {
                        // The list has all there are: older lines would say the same again.
                        listed.sort_by_key(|line| line.until);
                        lines = std::mem::take(&mut listed).into();
                    }
                    Some(Ok(watcher::Event::Apply(object))) => lines.extend(self.line(&object, false)),
                    Some(Ok(watcher::Event::Delete(_))) => {}
                    Some(Err(error)) => tracing::debug!(%error, "watching events"),
                    None => return,
                },
                () = due => {
                    if let Some(line) = lines.pop_front() {
                        self.delete(line).await;
                    }
                }
            }
        }
    }

    fn line(&self, object: &impl Resource, old: bool) -> Option<Line> {
        let key = Key::new(&tenant_of(object)?, &object.namespace().unwrap_or_default(), &object.name_any());
        let age = if old { age(object.meta(), Timestamp::now()) } else { Duration::ZERO };
        Some(Line { until: Instant::now() + self.ttl.saturating_sub(age), key, version: object.resource_version() })
    }

    async fn delete(&self, line: Line) {
        let api: Api<Event> = Api::namespaced(self.clients.tenant(&line.key.tenant), &line.key.namespace);
        let preconditions = Preconditions { uid: None, resource_version: line.version };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        match api.delete(&line.key.name, &parameters).await {
            Ok(_) => {}
            // It has happened again, or somebody else has deleted it.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            // It is listed again when the watch begins anew.
            Err(error) => tracing::warn!(key = %line.key, %error, "an old event stays"),
        }
    }
}

/// Since the last write, as far as its metadata tell.
fn age(metadata: &ObjectMeta, now: Timestamp) -> Duration {
    let writes = metadata.managed_fields.iter().flatten().filter_map(|fields| fields.time.as_ref());
    let last = writes.chain(&metadata.creation_timestamp).map(|time| time.0).max();
    last.and_then(|last| now.duration_since(last).try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_as_old_as_its_last_write() {
        let metadata = |value| serde_json::from_value::<ObjectMeta>(value).unwrap();
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let made = json!({"creationTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(age(&metadata(made.clone()), now), Duration::from_secs(3600));
        let mut counted = made;
        counted["managedFields"] = json!([{"time": "2026-01-01T00:59:00Z"}]);
        assert_eq!(age(&metadata(counted), now), Duration::from_secs(60));
        assert_eq!(age(&metadata(json!({"creationTimestamp": "2027-01-01T00:00:00Z"})), now), Duration::ZERO);
    }
}
