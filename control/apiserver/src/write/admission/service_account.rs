//! What belongs in every pod: its service account, and that account's token.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use hypernetes_store::{Key, ResourceId};
use serde_json::{Value, json};

use super::{Additions, Plugin, Request, Step, fields, text};
use crate::stored_form;

pub(super) const PLUGIN: Plugin =
    Plugin { name: "ServiceAccount", about: |request| request.creates("", "Pod"), step: Step::Mutate(mutate) };

fn mutate<'a>(
    request: &'a Request<'a>,
    pod: &'a mut Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    set_account(request, pod).boxed()
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
    let mounted = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    if used && !mounted.into_iter().any(|volume| volume["name"] == TOKEN_VOLUME) {
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
