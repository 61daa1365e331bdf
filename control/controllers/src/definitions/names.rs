//! Which names are a definition's: of two of a group that want the same one, the one that has it. When its names are accepted, its
//! kind is served.

use std::{collections::HashSet, fmt, time::Duration};

use async_trait::async_trait;
use hypernetes_api::{TenantId, time::whole_seconds};
use hypernetes_client::Api;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    ResourceExt,
    api::{DynamicObject, Patch},
    discovery::ApiResource,
};
use serde_json::json;

use super::definition::{Condition, Definition, ESTABLISHED, Names};
use crate::{
    Wiring,
    runtime::{Context, During, Error, Queue, Reconciler, Recorder, Subject, Tenanted},
};

const ACCEPTED: &str = "NamesAccepted";

/// The definitions of one group of a tenant: what one lets go of another may take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    tenant: TenantId,
    name: String,
}

impl Tenanted for Group {
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

pub(super) fn start(wiring: &Wiring<'_>) {
    let queue: Queue<Group> = Queue::default();
    let groups = queue.clone();
    wiring.informers.of::<Definition>().subscribe(move |key, before, now| {
        let unchanged = before.is_some_and(|before| {
            now.is_some_and(|now| before.spec.names == now.spec.names && now.spec.names == now.status.accepted_names)
        });
        if let Some(one) = now.or(before).filter(|_| !unchanged) {
            groups.add(Group { tenant: key.tenant.clone(), name: one.spec.group.clone() });
        }
    });
    wiring.drive(Accepting { context: Context::new(wiring.informers, "customresourcedefinition-names") }, queue);
}

struct Accepting {
    context: Context,
}

#[async_trait]
impl Reconciler for Accepting {
    const NAME: &'static str = "customresourcedefinition-names";
    type Key = Group;

    async fn reconcile(&self, group: &Group) -> Result<Option<Duration>, Error> {
        let definitions = self.context.informers.of::<Definition>();
        let mut all = definitions.list_tenant(&group.tenant);
        all.retain(|one| one.spec.group == group.name);
        // Who came first is asked first.
        all.sort_by_key(|one| (one.metadata.creation_timestamp.clone(), one.name_any()));
        let mut accepted: Vec<Names> = all.iter().map(|one| one.status.accepted_names.clone()).collect();
        let kind = ApiResource::erase::<Definition>(&());
        let api: Api<DynamicObject> = Api::all_with(self.context.client(&group.tenant), &kind);
        for (at, one) in all.iter().enumerate() {
            let taken = Taken::of(&accepted);
            let (names, refusal) = taken.judge(&one.spec.names, &one.status.accepted_names);
            let conditions = conditions(one, refusal);
            accepted[at] = names.clone();
            if names == one.status.accepted_names && conditions == one.status.conditions {
                continue;
            }
            let patch = json!({
                "metadata": {"resourceVersion": one.metadata.resource_version},
                "status": {"acceptedNames": names, "conditions": conditions},
            });
            match api.patch_status(&one.name_any(), &self.context.patching(), &Patch::Merge(patch)).await {
                // It changed, or is gone, and this is called again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(None),
                other => drop(other.during("writing the names of a definition")?),
            }
        }
        Ok(None)
    }

    fn told(&self, _: &Group) -> Option<(&Recorder, Subject)> {
        None
    }
}

/// Names that definitions of the group have.
struct Taken<'a> {
    resources: HashSet<&'a str>,
    kinds: HashSet<&'a str>,
}

/// Why a name is not accepted: upstream's reason, and its message.
type Refusal = (&'static str, String);

impl<'a> Taken<'a> {
    fn of(accepted: &'a [Names]) -> Self {
        let resources = accepted.iter().flat_map(|names| {
            [&names.plural, &names.singular].into_iter().chain(&names.short_names).map(String::as_str)
        });
        let kinds = accepted.iter().flat_map(|names| [names.kind.as_str(), names.list_kind.as_str()]);
        Self { resources: resources.collect(), kinds: kinds.collect() }
    }

    /// Those of the names that are wanted which can be had; the others stay what they were.
    fn judge(&self, wanted: &Names, has: &Names) -> (Names, Option<Refusal>) {
        let in_use = |name: &str| format!("{name:?} is already in use");
        let mut refusal = None;
        let mut pick = |wanted: &String, has: &String, taken: &HashSet<&str>, reason: &'static str| {
            if wanted == has || !taken.contains(wanted.as_str()) {
                return wanted.clone();
            }
            refusal = Some((reason, in_use(wanted)));
            has.clone()
        };
        let mut names = Names {
            plural: pick(&wanted.plural, &has.plural, &self.resources, "PluralConflict"),
            singular: pick(&wanted.singular, &has.singular, &self.resources, "SingularConflict"),
            short_names: has.short_names.clone(),
            kind: pick(&wanted.kind, &has.kind, &self.kinds, "KindConflict"),
            list_kind: pick(&wanted.list_kind, &has.list_kind, &self.kinds, "ListKindConflict"),
            categories: wanted.categories.clone(),
        };
        let conflicts: Vec<String> = wanted
            .short_names
            .iter()
            .filter(|name| !has.short_names.contains(name) && self.resources.contains(name.as_str()))
            .map(|name| in_use(name))
            .collect();
        match conflicts.as_slice() {
            [] => names.short_names = wanted.short_names.clone(),
            [one] => refusal = Some(("ShortNamesConflict", one.clone())),
            several => refusal = Some(("ShortNamesConflict", format!("[{}]", several.join(", ")))),
        }
        (names, refusal)
    }
}

/// The conditions of a definition whose names are accepted, or are not. What is established stays so.
fn conditions(definition: &Definition, refusal: Option<Refusal>) -> Vec<Condition> {
    let mut conditions = definition.status.conditions.clone();
    let established = definition.is_established();
    match refusal {
        None => {
            set(&mut conditions, ACCEPTED, true, "NoConflicts", "no conflicts found");
            if !established {
                let message = "the initial names have been accepted";
                set(&mut conditions, ESTABLISHED, true, "InitialNamesAccepted", message);
            }
        }
        Some((reason, message)) => {
            set(&mut conditions, ACCEPTED, false, reason, &message);
            if !established {
                set(&mut conditions, ESTABLISHED, false, "NotAccepted", "not all names are accepted");
            }
        }
    }
    conditions
}

/// Sets a condition; since when it is so is kept where it was so before.
pub(super) fn set(conditions: &mut Vec<Condition>, kind: &str, holds: bool, reason: &str, message: &str) {
    let status = if holds { "True" } else { "False" };
    let (reason, message) = (reason.to_owned(), message.to_owned());
    let now = Some(Time(whole_seconds(Timestamp::now())));
    let found = conditions.iter_mut().find(|condition| condition.r#type == kind);
    match found {
        Some(condition) => {
            let since = if condition.status == status { condition.last_transition_time.clone() } else { now };
            *condition =
                Condition { r#type: kind.into(), status: status.into(), reason, message, last_transition_time: since };
        }
        None => conditions.push(Condition {
            r#type: kind.into(),
            status: status.into(),
            reason,
            message,
            last_transition_time: now,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, short: &[&str], kind: &str) -> Names {
        Names {
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|name| (*name).to_owned()).collect(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            categories: Vec::new(),
        }
    }

    #[test]
    fn a_name_is_had_by_one() {
        let has = [names("widgets", &["wd"], "Widget")];
        let taken = Taken::of(&has);
        assert_eq!(taken.judge(&has[0], &has[0]), (has[0].clone(), None));
        let other = names("gadgets", &["gd"], "Gadget");
        assert_eq!(taken.judge(&other, &Names::default()), (other, None));
        let (accepted, refusal) = taken.judge(&names("gadgets", &["wd"], "Widget"), &Names::default());
        assert_eq!((accepted.kind.as_str(), accepted.plural.as_str()), ("", "gadgets"));
        assert!(accepted.short_names.is_empty());
        assert_eq!(refusal.unwrap(), ("ShortNamesConflict", "\"wd\" is already in use".to_owned()));
    }
}
