//! A pod's runtime class is there, and says what the pod costs beside its containers and where it can run: upstream's RuntimeClass.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::ApiError;
use serde_json::{Map, Value, json};

use super::{Additions, Plugin, Request, Step, fields, projected, text};

pub(super) const PLUGIN: Plugin =
    Plugin { name: "RuntimeClass", about: |request| request.creates("", "Pod"), step: Step::Mutate(mutate) };

fn mutate<'a>(
    request: &'a Request<'a>,
    pod: &'a mut Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    admit(request, pod).boxed()
}

async fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = text(pod, &["metadata", "name"]).to_owned();
    let refuse = |why: &str| Err(request.forbidden(&name, why));
    let class = match text(pod, &["spec", "runtimeClassName"]) {
        "" => None,
        class => match projected(request, "node.k8s.io", "runtimeclasses", class).await? {
            None => return refuse(&format!("pod rejected: RuntimeClass {class:?} not found")),
            found => found,
        },
    };
    let class = class.unwrap_or_default();
    let (fixed, own) = (&class["overhead"]["podFixed"], &pod["spec"]["overhead"]);
    let is_set = |amounts: &Value| amounts.as_object().is_some_and(|amounts| !amounts.is_empty());
    match (is_set(fixed), is_set(own)) {
        (false, true) => {
            return refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead");
        }
        (true, true) if fixed != own => {
            return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead");
        }
        (true, _) => drop(fields(pod, &["spec"]).insert("overhead".into(), fixed.clone())),
        (false, false) => {}
    }
    if let Err(why) = place(pod, &class["scheduling"]) {
        return refuse(&why);
    }
    Ok(())
}

/// Adds where pods of the class can run to where the pod wants to.
///
/// # Errors
/// Why it can run nowhere, in words.
fn place(pod: &mut Value, scheduling: &Value) -> Result<(), String> {
    let empty = Map::new();
    for (key, wanted) in scheduling["nodeSelector"].as_object().unwrap_or(&empty) {
        let own = fields(pod, &["spec", "nodeSelector"]);
        match own.get(key).filter(|own| *own != wanted) {
            Some(other) => {
                let [wanted, other] = [wanted, other].map(|label| label.as_str().unwrap_or_default());
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {other}"
                ));
            }
            None => drop(own.insert(key.clone(), wanted.clone())),
        }
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        let spec = fields(pod, &["spec"]);
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(own) if own.contains(toleration) => {}
            Some(own) => own.push(toleration.clone()),
            None => drop(spec.insert("tolerations".into(), json!([toleration]))),
        }
    }
    Ok(())
}
