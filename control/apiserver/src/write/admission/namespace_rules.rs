//! A limit range or a quota that is new, or means something else than before, is a change of its namespace: what is being made in it
//! meanwhile looks at it again, because that guards the namespace. And a namespace has only so many of them: each is looked at whenever
//! something is made there.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_schema::walk::list;
use hypernetes_store::Op;
use serde_json::{Map, Value};

use super::{Additions, Operation, Plugin, Request, Step, namespace_guard, namespace_of, rules_of, text};
use crate::{namespace_rules::LIMIT_RANGES, stored_form};

pub(super) const PLUGIN: Plugin = Plugin { name: "NamespaceRules", about, step: Step::Validate(validate) };

/// Of limit ranges and of quotas. An object may be counted by all its namespace's quotas, which are written with it: etcd takes 128
/// operations in a transaction.
const MOST: usize = 32;
/// Of what one of them is about.
const MOST_PARTS: usize = 100;

fn about(request: &Request<'_>) -> bool {
    request.writes("", "LimitRange") || request.writes("", "ResourceQuota")
}

fn validate<'a>(
    request: &'a Request<'a>,
    object: &'a Value,
    added: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    check(request, object, added).boxed()
}

async fn check(request: &Request<'_>, object: &Value, added: &mut Additions) -> Result<(), ApiError> {
    let means_same = |old: &Value| old["spec"] == object["spec"] && old["status"]["hard"] == object["status"]["hard"];
    if request.old.is_some_and(means_same) {
        return Ok(());
    }
    let refuse = |why: String| Err(request.forbidden(text(object, &["metadata", "name"]), &why));
    let plural = request.call.resource.plural.as_str();
    let parts = match plural {
        LIMIT_RANGES => list(&object["spec"], "limits").len(),
        _ => object["spec"]["hard"].as_object().map_or(0, Map::len),
    };
    if parts > MOST_PARTS {
        return refuse(format!("it is about more than {MOST_PARTS} things"));
    }
    if request.operation == Operation::Create {
        let have = rules_of(request, added).await?.map_or(0, |rules| match plural {
            LIMIT_RANGES => rules.limits.len(),
            _ => rules.quotas.len(),
        });
        if have >= MOST {
            return refuse(format!("a namespace has no more than {MOST} {plural}"));
        }
    } else {
        added.guards.extend(namespace_guard(request)?);
    }
    if let Some(namespace) = namespace_of(request)? {
        added.ops.push(Op::Put(namespace.key.clone(), stored_form::keep(&namespace.value)));
    }
    Ok(())
}
