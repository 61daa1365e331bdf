//! A ClusterRole with an `aggregationRule` shows the rules of the roles that it selects. What they may do the API server
//! knows without it; here it is written down for whoever reads the role.
//!
//! Roles that only select each other have no rules; roles that are selected and select others give what those have.

use std::{
    collections::{BTreeMap, HashSet},
    pin::pin,
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use hypernetes_api::TenantId;
use hypernetes_client::{Api, tenant_of};
use k8s_openapi::{api::rbac::v1::ClusterRole, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{
    ResourceExt,
    api::{DynamicObject, ListParams, Patch},
    core::PartialObjectMeta,
    discovery::ApiResource,
    runtime::watcher::Event,
};
use serde_json::{Value, json};

use crate::{
    Wiring,
    runtime::{Context, During, Error, Queue, Reconciler, Recorder, Subject, matches},
};

pub fn start(wiring: &Wiring<'_>) {
    let everywhere = wiring.informers.clients().all_tenants(wiring.informers.capability());
    let queue: Queue<TenantId> = Queue::default();
    let tenants = queue.clone();
    // No role is kept: few clusters have one that selects what is theirs.
    wiring.spawn(async move {
        let mut changes = pin!(hypernetes_client::watch::<PartialObjectMeta<ClusterRole>>(everywhere, &()));
        while let Some(event) = changes.next().await {
            match event {
                Ok(Event::InitApply(role) | Event::Apply(role) | Event::Delete(role)) => {
                    tenant_of(&role).into_iter().for_each(|tenant| tenants.add(tenant));
                }
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::debug!(%error, "watching cluster roles"),
            }
        }
    });
    wiring.drive(Aggregation { context: Context::new(wiring.informers, "clusterrole-aggregation-controller") }, queue);
}

struct Aggregation {
    context: Context,
}

#[async_trait]
impl Reconciler for Aggregation {
    const NAME: &'static str = "clusterrole-aggregation";
    type Key = TenantId;

    async fn reconcile(&self, tenant: &TenantId) -> Result<Option<Duration>, Error> {
        let kind = ApiResource::erase::<ClusterRole>(&());
        let api: Api<DynamicObject> = Api::all_with(self.context.client(tenant), &kind);
        let listed = match api.list(&ListParams::default()).await {
            // The tenant goes, or is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(None),
            other => other.during("listing cluster roles")?.items,
        };
        let roles: BTreeMap<String, Role> = listed.iter().map(|role| (role.name_any(), Role::of(role))).collect();
        for object in &listed {
            let name = object.name_any();
            let Some(role) = roles.get(&name).filter(|role| role.selectors.is_some()) else { continue };
            let rules = aggregate(&name, &roles);
            if object.metadata.deletion_timestamp.is_some() || is_same(&role.rules, &rules) {
                continue;
            }
            let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "rules": rules});
            match api.patch(&name, &self.context.patching(), &Patch::Merge(patch)).await {
                // It changes, or goes, and this is called again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                other => drop(other.during("writing the rules of a cluster role")?),
            }
        }
        Ok(None)
    }

    fn told(&self, _: &TenantId) -> Option<(&Recorder, Subject)> {
        None
    }
}

#[derive(Debug, Default)]
struct Role {
    labels: BTreeMap<String, String>,
    rules: Vec<Value>,
    /// Whom it takes its rules from.
    selectors: Option<Vec<LabelSelector>>,
}

impl Role {
    /// A selector that is none selects nothing.
    fn of(object: &DynamicObject) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let rule = &object.data["aggregationRule"];
        let selectors =
            list(&rule["clusterRoleSelectors"]).into_iter().filter_map(|one| serde_json::from_value(one).ok());
        Self {
            labels: object.metadata.labels.clone().unwrap_or_default(),
            rules: list(&object.data["rules"]),
            selectors: rule.is_object().then(|| selectors.collect()),
        }
    }
}

/// The rules of all roles that a role selects, of those that these select, and so on; each rule once.
fn aggregate(name: &str, roles: &BTreeMap<String, Role>) -> Vec<Value> {
    let (mut rules, mut seen, mut next) = (Vec::new(), HashSet::from([name]), vec![name]);
    while let Some(role) = next.pop().and_then(|name| roles.get(name)) {
        let Some(selectors) = &role.selectors else {
            for rule in &role.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            continue;
        };
        let is_selected = |role: &Role| selectors.iter().any(|one| matches(one, Some(&role.labels)));
        let selected = roles.iter().filter(|(_, role)| is_selected(role)).map(|(name, _)| name.as_str());
        let mut found: Vec<&str> = selected.filter(|name| seen.insert(*name)).collect();
        found.reverse();
        next.extend(found);
    }
    rules
}

/// In whatever order.
fn is_same(have: &[Value], wanted: &[Value]) -> bool {
    have.len() == wanted.len() && wanted.iter().all(|rule| have.contains(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(label: &str, rules: &[&str], selects: Option<&str>) -> Role {
        let selector = |label: &str| serde_json::from_value(json!({"matchLabels": {label: "true"}})).unwrap();
        Role {
            labels: BTreeMap::from([(label.to_owned(), "true".to_owned())]),
            rules: rules.iter().map(|rule| json!(rule)).collect(),
            selectors: selects.map(|label| vec![selector(label)]),
        }
    }

    #[test]
    fn rules_come_from_roles_that_are_selected_and_from_nowhere_else() {
        let roles = BTreeMap::from([
            ("admin".to_owned(), role("", &["old"], Some("to-admin"))),
            ("edit".to_owned(), role("to-admin", &["stale"], Some("to-edit"))),
            ("one".to_owned(), role("to-edit", &["a", "b"], None)),
            ("two".to_owned(), role("to-admin", &["b", "c"], None)),
            ("this".to_owned(), role("circle", &["x"], Some("circle"))),
            ("that".to_owned(), role("circle", &["y"], Some("circle"))),
        ]);
        assert_eq!(aggregate("admin", &roles), [json!("a"), json!("b"), json!("c")]);
        assert!(aggregate("this", &roles).is_empty() && aggregate("that", &roles).is_empty());
        assert!(is_same(&[json!(1), json!(2)], &[json!(2), json!(1)]) && !is_same(&[json!(1)], &[json!(2)]));
    }
}
