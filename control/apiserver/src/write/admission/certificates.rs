//! Certificate signing requests: who asks is who made the request; who may approve and sign is told by the verbs `approve` and
//! `sign` of the signer; and what nobody may ask for is refused when it is asked for. For bundles of trust there is `attest`.
//! Upstream's plugins CertificateApproval, CertificateSigning, CertificateSubjectRestriction and ClusterTrustBundleAttest.

use futures::{FutureExt, future::BoxFuture};
use hypernetes_api::{ApiError, Reason, names};
use hypernetes_certificates::{
    request::SigningRequest,
    signer::{self, Signer},
};
use hypernetes_kinds::Behaviour;
use hypernetes_store::Prefix;
use serde_json::{Value, json};

use super::{Additions, Operation, Plugin, Request, Step, fields, text};
use crate::{
    authentication::bootstrap,
    authorization::{Attributes, certificates::GROUP, escalation},
    write::now,
};

/// Requests in the system's cluster, beyond which nobody makes one more by a bootstrap token. They go by themselves after
/// a day at most.
const MAX_BOOTSTRAP_REQUESTS: usize = 1000;

pub(super) const PLUGIN: Plugin = Plugin { name: "Certificates", about, step: Step::Mutate(mutate) };

fn about(request: &Request<'_>) -> bool {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    writes && request.call.resource.ty.group == GROUP
}

fn mutate<'a>(
    request: &'a Request<'a>,
    object: &'a mut Value,
    _: &'a mut Additions,
) -> BoxFuture<'a, Result<(), ApiError>> {
    admit(request, object).boxed()
}

async fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let old = request.old;
    let name = text(object, &["metadata", "name"]).to_owned();
    match (request.call.resource.ty.kind.as_str(), request.operation, request.call.through()) {
        ("CertificateSigningRequest", Operation::Create, _) => {
            stamp(request, object);
            restrict(request, &name, object).await
        }
        ("CertificateSigningRequest", _, Some(part @ (Behaviour::Approval | Behaviour::Status))) => {
            let Some(old) = old else { return Ok(()) };
            time(object, old);
            let signer = text(old, &["spec", "signerName"]);
            let signs = old["status"]["certificate"] != object["status"]["certificate"];
            let (verb, what) = match part {
                Behaviour::Approval => ("approve", "approve requests"),
                _ if signs => ("sign", "sign requests"),
                _ => return Ok(()),
            };
            check(request, &name, verb, what, "with", signer).await
        }
        ("ClusterTrustBundle", ..) => {
            let signer = text(object, &["spec", "signerName"]);
            let same = old.is_some_and(|old| escalation::meaning(old) == escalation::meaning(object));
            if signer.is_empty() || same {
                Ok(())
            } else {
                check(request, &name, "attest", "attest", "for", signer).await
            }
        }
        _ => Ok(()),
    }
}

/// Whether the user may do this with the signer, or with all of its domain.
async fn check(
    request: &Request<'_>,
    name: &str,
    verb: &str,
    what: &str,
    preposition: &str,
    signer: &str,
) -> Result<(), ApiError> {
    let (call, tenant) = (request.call, request.call.tenant()?);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let authorizer = request.server.authorizer();
    for named in [signer, &domain] {
        let wanted = Attributes { verb, group: GROUP, resource: "signers", name: Some(named), ..Default::default() };
        if authorizer.allows(&call.user, &tenant, &wanted).await? {
            return Ok(());
        }
    }
    Err(request.forbidden(name, &format!("user not permitted to {what} {preposition} signerName {signer:?}")))
}

/// Sets who asks, whatever the request says of that.
fn stamp(request: &Request<'_>, object: &mut Value) {
    let user = &request.call.user;
    let spec = fields(object, &["spec"]);
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.as_str().into());
    spec.insert("groups".into(), json!(user.groups));
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
}

/// Conditions have the times at which they came and changed, where their writer does not say.
fn time(object: &mut Value, old: &Value) {
    let now = now();
    let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        let before = old["status"]["conditions"].as_array().into_iter().flatten();
        let before =
            before.into_iter().find(|one| one["type"] == condition["type"] && one["status"] == condition["status"]);
        let since = before.and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or(&now).to_owned();
        let Some(condition) = condition.as_object_mut() else { continue };
        for (field, value) in [("lastUpdateTime", &now), ("lastTransitionTime", &since)] {
            if condition.get(field).is_none_or(Value::is_null) {
                condition.insert(field.into(), value.as_str().into());
            }
        }
    }
}

/// What nobody asks for, whoever would approve of it.
async fn restrict(request: &Request<'_>, name: &str, object: &Value) -> Result<(), ApiError> {
    let (call, tenant) = (request.call, request.call.tenant()?);
    let asked = Signer::parse(text(object, &["spec", "signerName"]));
    let node = crate::authorization::nodes::identity(&call.user);
    let bootstraps = bootstrap::is_bootstrapper(&call.user);
    if node.is_none() && !bootstraps && asked != Some(Signer::ApiserverClient) {
        return Ok(());
    }
    let read = read(object).map_err(|why| request.forbidden(name, &format!("unable to parse csr: {why}")))?;
    if let Some(node) = node {
        let own = format!("{}{node}", names::USER_NODE_PREFIX);
        return match asked {
            Some(Signer::ApiserverClientKubelet | Signer::KubeletServing) if read.common_names == [own.as_str()] => {
                Ok(())
            }
            Some(Signer::ApiserverClientKubelet | Signer::KubeletServing) => {
                Err(request.forbidden(name, &format!("can only create a node CSR with CN={own}")))
            }
            _ => Err(request.forbidden(name, "a node asks for its own certificates only")),
        };
    }
    if bootstraps {
        if asked != Some(Signer::ApiserverClientKubelet) || signer::node_of(&read).is_none() {
            return Err(request.forbidden(name, "a bootstrap token is for asking for a node's client certificate"));
        }
        let prefix = Prefix::tenant(&call.resource.id, &tenant, None)?;
        if request.server.store.count(&prefix).await? >= MAX_BOOTSTRAP_REQUESTS {
            let message = "there are too many certificate signing requests for one more by a bootstrap token";
            return Err(ApiError::new(Reason::TooManyRequests, message));
        }
        return Ok(());
    }
    signer::restrict_subject(&read, &tenant).map_err(|why| request.forbidden(name, &why.to_string()))
}

fn read(object: &Value) -> Result<SigningRequest, String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.decode(text(object, &["spec", "request"])).map_err(|error| error.to_string())?;
    SigningRequest::parse(&text).map_err(|error| error.to_string())
}
