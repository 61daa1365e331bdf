//! `serviceaccounts/token`: a token for a service account (KEP-1205).

use axum::body::Body;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, error::Cause};
use hypernetes_kinds::registry;
use hypernetes_schema::FieldValidation;
use hypernetes_store::{Key, ResourceId};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::json_response,
    authentication::authorities::claims::{
        self, AUDIENCE, KubernetesClaims, LONGEST_SECONDS, Named, ServiceAccountClaims,
    },
    authorization::nodes,
    request::options::{OptionsOf, WriteOptions},
    stored_form,
    write::{Operation, admission},
};

const GROUP: &str = "authentication.k8s.io";
const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
/// More is no request; more than [`LONGEST_SECONDS`] is cut down to that.
const MAX_SECONDS: i64 = 1 << 32;

/// What a request says of the object that the token ends with.
struct Bound<'a> {
    version: &'a str,
    kind: &'a str,
    name: &'a str,
    uid: &'a str,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub async fn create(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(call, OptionsOf::Create)?;
    let ty = registry::kind(GROUP, "v1", "TokenRequest")
        .ok_or_else(|| ApiError::internal("there is no schema of TokenRequest"))?;
    let mut request = ty.decode(&call.body, FieldValidation::Ignore)?.object;
    let name = call.target.name.as_deref().unwrap_or_default();
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let spec = request["spec"].clone();
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let out_of_range = match seconds {
        ..SHORTEST_SECONDS => Some("may not specify a duration less than 10 minutes"),
        SHORTEST_SECONDS..=MAX_SECONDS => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    if let Some(why) = out_of_range {
        let cause = Cause {
            reason: "FieldValueInvalid".into(),
            message: format!("Invalid value: {seconds}: {why}"),
            field: "spec.expirationSeconds".into(),
        };
        return Err(ApiError::invalid(GROUP, "TokenRequest", "", vec![cause]));
    }
    let seconds = seconds.min(LONGEST_SECONDS);
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let reference = &spec["boundObjectRef"];
    let bound = reference.is_object().then(|| Bound {
        version: text(reference, "apiVersion"),
        kind: text(reference, "kind"),
        name: text(reference, "name"),
        uid: text(reference, "uid"),
    });
    let account = server.store.get(&call.key(name)?).await?;
    let account = stored_form::decode(&account.ok_or_else(|| call.not_found(name))?)?;
    let found = match &bound {
        Some(bound) => Some(bound_object(server, call, bound, name).await?),
        None => None,
    };
    if let Some(node) = nodes::identity(&call.user) {
        restrict(call, node, bound.as_ref(), found.as_ref(), &audiences)?;
    }
    admission::admit_use(server, call, Operation::Create, &account, &mut request, options.dry_run).await?;
    if audiences.is_empty() {
        audiences.push(AUDIENCE.into());
    }
    let identity = |object: &Value| Named {
        name: text(&object["metadata"], "name").into(),
        uid: text(&object["metadata"], "uid").into(),
    };
    let of_kind = |kind: &str| found.as_ref().filter(|found| found["kind"] == kind).map(identity);
    let (now, tenant) = (jiff::Timestamp::now(), call.tenant()?);
    let claims = ServiceAccountClaims {
        iss: claims::issuer(&tenant),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences.clone(),
        exp: now.as_second() + seconds,
        iat: now.as_second(),
        nbf: now.as_second(),
        jti: uuid::Uuid::new_v4().to_string(),
        tenant,
        kubernetes: KubernetesClaims {
            namespace: namespace.into(),
            serviceaccount: identity(&account),
            pod: of_kind("Pod"),
            secret: of_kind("Secret"),
        },
    };
    let expires = jiff::Timestamp::from_second(claims.exp).unwrap_or(now);
    request["apiVersion"] = format!("{GROUP}/v1").into();
    request["kind"] = "TokenRequest".into();
    request["metadata"] =
        json!({"name": name, "namespace": namespace, "creationTimestamp": hypernetes_api::time::now()});
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    // A token that was only tried opens no door.
    let token = if options.dry_run {
        String::new()
    } else {
        server.authenticator.authorities.of(&claims.tenant).await?.sign(&claims)?
    };
    request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
    Ok(json_response(StatusCode::CREATED, &request))
}

/// The pod or secret that a token is bound to, which must be the one with the uid that is given.
async fn bound_object(server: &Inner, call: &Call, bound: &Bound<'_>, account: &str) -> Result<Value, ApiError> {
    let plural = match (bound.version, bound.kind) {
        ("" | "v1", "Pod") => "pods",
        ("" | "v1", "Secret") => "secrets",
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let message = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(message));
        }
    };
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let not_found = || ApiError::not_found("", plural, bound.name);
    let key =
        Key::new(&ResourceId::new("", plural), &call.tenant()?, namespace, bound.name).map_err(|_| not_found())?;
    let entry = server.store.get(&key).await?;
    let object = stored_form::decode(&entry.ok_or_else(not_found)?)?;
    if plural == "pods" && object["spec"]["serviceAccountName"] != account {
        let other = text(&object["spec"], "serviceAccountName");
        let message =
            format!("cannot bind token for serviceaccount {account:?} to pod running with serviceaccount {other:?}");
        return Err(ApiError::bad_request(message));
    }
    let uid = text(&object["metadata"], "uid");
    if !bound.uid.is_empty() && bound.uid != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. \
             The object might have been deleted and then recreated",
            bound.uid
        );
        return Err(ApiError::conflict("", bound.kind, bound.name, &why));
    }
    Ok(object)
}

/// A node has tokens for the pods that are bound to it, and for whom these pods want them.
fn restrict(
    call: &Call,
    node: &str,
    bound: Option<&Bound<'_>>,
    pod: Option<&Value>,
    audiences: &[String],
) -> Result<(), ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let forbidden = |why: &str| Err(call.forbidden(name, why));
    let (Some(bound), Some(pod)) = (bound.filter(|bound| bound.kind == "Pod"), pod) else {
        return forbidden("node requested token not bound to a pod");
    };
    if bound.uid.is_empty() {
        return forbidden("node requested token with a pod binding without a uid");
    }
    if pod["spec"]["nodeName"] != node {
        return forbidden("node requested token bound to a pod scheduled on a different node");
    }
    let audience = match audiences {
        [] => "",
        [one] => one,
        _ => return forbidden("node may only request 0 or 1 audiences"),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&pod["spec"]["volumes"]);
    let mut wanted = volumes.iter().flat_map(|volume| list(&volume["projected"]["sources"]));
    if audience.is_empty() || wanted.any(|source| source["serviceAccountToken"]["audience"] == audience) {
        return Ok(());
    }
    let user = &call.user.name;
    forbidden(&format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}
