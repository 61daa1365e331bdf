//! A pod stays for a while on a node that is not heard of.

use futures::future::BoxFuture;
use hypernetes_api::ApiError;
use serde_json::{Value, json};

use super::{Additions, Plugin, Request, Step, fields, ready};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultTolerationSeconds",
    about: |request| request.creates("", "Pod"),
    step: Step::Mutate(mutate),
};

fn mutate<'a>(_: &'a Request<'a>, pod: &'a mut Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    set_tolerations(pod);
    ready(Ok(()))
}

/// Taints of nodes that are not heard of for a while, and for how long a pod stays on one all the same.
const PASSING: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const PASSING_SECONDS: i64 = 300;

/// As upstream's `DefaultTolerationSeconds`: a node that has just come back takes pods before its taints are gone.
fn set_tolerations(pod: &mut Value) {
    let tolerations = fields(pod, &["spec"]).entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(tolerations) = tolerations else { return };
    for key in PASSING {
        let covers = |toleration: &Value, field: &str, value: &str| {
            toleration[field].as_str().is_none_or(|text| text.is_empty() || text == value)
        };
        if !tolerations.iter().any(|one| covers(one, "key", key) && covers(one, "effect", "NoExecute")) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": PASSING_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_for_a_while_on_a_node_that_is_not_heard_of_unless_it_says_otherwise() {
        let tolerations = |given: Value| {
            let mut pod = json!({"spec": {"tolerations": given}});
            set_tolerations(&mut pod);
            let all = pod["spec"]["tolerations"].as_array().unwrap().clone();
            all.iter().map(|one| (one["key"].clone(), one["tolerationSeconds"].clone())).collect::<Vec<_>>()
        };
        let [not_ready, unreachable] = PASSING.map(|key| (json!(key), json!(PASSING_SECONDS)));
        assert_eq!(tolerations(json!([])), [not_ready.clone(), unreachable.clone()]);
        let own = json!({"key": PASSING[0], "operator": "Exists", "tolerationSeconds": 5});
        assert_eq!(tolerations(json!([own])), [(json!(PASSING[0]), json!(5)), unreachable.clone()]);
        assert_eq!(tolerations(json!([{"operator": "Exists"}])).len(), 1);
        let other = json!({"key": "gpu", "effect": "NoExecute"});
        assert_eq!(tolerations(json!([other])), [(json!("gpu"), Value::Null), not_ready, unreachable]);
        let mut none = json!({"spec": {}});
        set_tolerations(&mut none);
        assert_eq!(none["spec"]["tolerations"].as_array().unwrap().len(), 2);
    }
}
