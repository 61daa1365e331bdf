//! What a pod may not ask of a host, and what belongs in every pod: its service account, and that account's token.

use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Key, ResourceId};
use serde_json::{Value, json};

use super::{Operation, Request, fields, text};
use crate::{request::options::MAX_GRACE, stored_form};

const HOST_FIELDS: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

pub(super) async fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !request.is("", "Pod") || request.operation == Operation::Delete {
        return Ok(());
    }
    stays_off_the_host(request, pod)?;
    match request.operation {
        Operation::Create => {
            check_priority(request, pod).await?;
            check_overhead(request, pod).await?;
            set_tolerations(pod);
            set_account(request, pod).await
        }
        Operation::Update | Operation::Delete => Ok(()),
    }
}

/// On every write, whatever validation has let through.
fn stays_off_the_host(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let name = text(pod, &["metadata", "name"]);
    let forbidden = |what: &str| {
        let why = format!("{what}: a pod runs in a virtual machine of its own and never on the host");
        Err(request.forbidden(name, &why))
    };
    for field in HOST_FIELDS {
        if pod["spec"][field] == true {
            return forbidden(field);
        }
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        if volume.get("hostPath").is_some() {
            return forbidden("hostPath volumes");
        }
    }
    let grace = |pod: &Value| pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
    // One that was stored when there was no bound stays changeable otherwise.
    if grace(pod) > MAX_GRACE && request.old.is_none_or(|old| grace(old) != grace(pod)) {
        let why = format!("terminationGracePeriodSeconds must be less than or equal to {MAX_GRACE}");
        return Err(request.forbidden(name, &why));
    }
    Ok(())
}

/// Classes of priority that there always are.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// An object of a kind that is the operator's, for all tenants.
async fn projected(request: &Request<'_>, group: &str, plural: &str, name: &str) -> Result<Option<Value>, ApiError> {
    // A name that is none is nobody's.
    let Ok(key) = Key::new(&ResourceId::new(group, plural), &TenantId::system(), "", name) else { return Ok(None) };
    let entry = request.server.store.get(&key).await?;
    entry.as_ref().map(stored_form::decode).transpose()
}

/// A priority comes from a class: a pod cannot set one of its own.
async fn check_priority(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let (name, class) = (text(pod, &["metadata", "name"]), text(pod, &["spec", "priorityClassName"]));
    let value = match SYSTEM_CLASSES.iter().find(|known| known.0 == class) {
        _ if class.is_empty() => 0,
        Some((_, value)) => *value,
        None => match projected(request, "scheduling.k8s.io", "priorityclasses", class).await? {
            Some(found) => found["value"].as_i64().unwrap_or(0),
            None => return Err(request.forbidden(name, &format!("no PriorityClass with name {class} was found"))),
        },
    };
    match pod["spec"]["priority"].as_i64() {
        Some(given) if given != value => {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            Err(request.forbidden(name, &why))
        }
        _ => Ok(()),
    }
}

/// What a pod costs beside its containers is its runtime class's to say.
async fn check_overhead(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let (name, overhead) = (text(pod, &["metadata", "name"]), &pod["spec"]["overhead"]);
    if overhead.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let class = text(pod, &["spec", "runtimeClassName"]);
    let class = match class {
        "" => None,
        class => projected(request, "node.k8s.io", "runtimeclasses", class).await?,
    };
    let why = match class.map(|class| class["overhead"]["podFixed"].clone()).filter(|fixed| !fixed.is_null()) {
        None => "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        Some(fixed) if fixed == *overhead => return Ok(()),
        Some(_) => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
    };
    Err(request.forbidden(name, why))
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

async fn set_account(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let call = request.call;
    let pod_name = text(pod, &["metadata", "name"]).to_owned();
    let account = match text(pod, &["spec", "serviceAccountName"]) {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    let spec = fields(pod, &["spec"]);
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.clone().into());
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let missing = || {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        request.forbidden(&pod_name, &why)
    };
    // A name that is none is nobody's.
    let key = Key::new(&ResourceId::new("", "serviceaccounts"), &call.tenant()?, namespace, &account);
    let entry = request.server.store.get(&key.map_err(|_| missing())?).await?;
    let object = stored_form::decode(&entry.ok_or_else(missing)?)?;
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.or(object["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(pod);
    }
    Ok(())
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access";

/// The projected volume with the pod's token, the authority's certificate and the namespace, as upstream's admission adds it.
fn mount_token(pod: &mut Value) {
    let spec = fields(pod, &["spec"]);
    let mut used = false;
    for kind in ["containers", "initContainers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array();
            if mounts.is_some_and(|mounts| mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH)) {
                continue;
            }
            used = true;
            let mount = json!({"name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true});
            push(fields(container, &[]), "volumeMounts", mount);
        }
    }
    let volume = json!({"name": TOKEN_VOLUME, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    if used {
        push(spec, "volumes", volume);
    }
}

/// Puts one more into a list, which is made where there is none.
fn push(map: &mut serde_json::Map<String, Value>, field: &str, item: Value) {
    match map.entry(field).or_insert_with(|| json!([])) {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
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
