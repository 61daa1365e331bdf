//! No pod runs on the host, or asks its kubelet to wait for longer than a clock can be set.

use futures::future::BoxFuture;
use hypernetes_api::ApiError;
use serde_json::Value;

use super::{Additions, Plugin, Request, Step, ready, text};
use crate::request::options::MAX_GRACE;

pub(super) const PLUGIN: Plugin =
    Plugin { name: "HostIsolation", about: |request| request.writes("", "Pod"), step: Step::Validate(validate) };

const HOST_FIELDS: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

fn validate<'a>(request: &'a Request<'a>, pod: &'a Value, _: &'a mut Additions) -> BoxFuture<'a, Result<(), ApiError>> {
    ready(stays_off_the_host(request, pod))
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
