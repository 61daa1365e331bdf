//! `create`, `update`, `patch`, `delete`.

use axum::body::Body;
use http::{Response, StatusCode, header};
use hypernetes_api::{ApiError, Reason, names};
use hypernetes_schema::{
    Decoded, FieldValidation,
    managed::{self, Writer},
    patch as patches,
};
use hypernetes_store::{Entry, Guard, Key, Op, Prefix, RangeOptions, ResourceId, Revision, Txn, TxnError};
use serde_json::{Value, json};

use crate::{Call, Inner, codec, json_response, media, read, request::Scope, reviews};

/// Attempts of a patch or delete that says nothing of a version, when others write at the same time.
const ATTEMPTS: usize = 8;
const CHANGED: &str = "the object has been modified; please apply your changes to the latest version and try again";

pub(crate) fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
}

fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(object, |value, name| &value[*name]).as_str().unwrap_or_default()
}

fn validation(call: &Call) -> Result<FieldValidation, ApiError> {
    FieldValidation::parse(call.query.get("fieldValidation"))
}

fn decode(call: &Call) -> Result<Decoded, ApiError> {
    call.resource.ty.decode(&call.body, validation(call)?)
}

fn manager(call: &Call) -> String {
    let given = call.query.get("fieldManager");
    if !given.is_empty() {
        return given.to_owned();
    }
    let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
    agent.split('/').next().unwrap_or("unknown").chars().take(managed::MAX_MANAGER_LENGTH).collect()
}

fn is_infrastructure(call: &Call) -> bool {
    let groups = [names::GROUP_INFRASTRUCTURE, names::GROUP_NODES];
    call.user.tenant.is_system() && call.user.groups.iter().any(|g| groups.contains(&g.as_str()))
}

fn dry_run(call: &Call) -> Result<bool, ApiError> {
    match call.query.get("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!("dryRun: Invalid value: {other:?}"))),
    }
}

fn commit_error(call: &Call, name: &str, error: TxnError) -> ApiError {
    let (group, plural) = (&call.resource.ty.group, call.resource.plural);
    match error {
        TxnError::Conflict { current: Some(_), .. } => ApiError::conflict(group, plural, name, CHANGED),
        TxnError::Conflict { current: None, .. } => call.not_found(name),
        TxnError::NoSpace(why) => {
            ApiError::new(Reason::InsufficientStorage, format!("the server has no room to store this: {why}"))
        }
        TxnError::TooLarge(bytes) => {
            ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {bytes} bytes"))
        }
        TxnError::Io(why) => ApiError::internal(why),
    }
}

/// An answer of one object that was written, with the warnings that it caused.
fn answer(call: &Call, code: StatusCode, entry: &Entry, warnings: &[String]) -> Result<Response<Body>, ApiError> {
    let mut response = read::one(call, entry)?;
    *response.status_mut() = code;
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{quoted}\"").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

fn entry_of(key: Key, object: &Value, created: Revision, modified: Revision) -> Result<Entry, ApiError> {
    Ok(Entry { key, value: codec::encode(object)?, create_revision: created, mod_revision: modified })
}

pub async fn create(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    if let Some(subresource) = call.target.subresource.as_deref() {
        return match subresource {
            "binding" => bind(server, call).await,
            "eviction" => evict(server, call).await,
            "token" => reviews::token(server, call).await,
            other => {
                let message = format!("the subresource {other} of {} is not served", call.resource.plural);
                Err(ApiError::new(Reason::MethodNotAllowed, message))
            }
        };
    }
    if call.target.name.is_some() {
        return Err(ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    let decoded = decode(call)?;
    create_object(server, call, decoded.object, &decoded.warnings, None).await
}

/// Stores a new object. `applied` is the outcome of a server-side apply, whose managed fields are there already.
async fn create_object(
    server: &Inner,
    call: &Call,
    mut object: Value,
    warnings: &[String],
    applied: Option<()>,
) -> Result<Response<Body>, ApiError> {
    let ty = &call.resource.ty;
    place(call, &mut object)?;
    name(&mut object);
    ty.set_defaults(&mut object);
    ty.prepare_create(&mut object);
    if call.resource.guarded_status
        && !is_infrastructure(call)
        && let Some(map) = object.as_object_mut()
        && !call.resource.has_status()
    {
        map.remove("status");
    }
    admit(server, call, &mut object, None).await?;
    let name = text(&object, &["metadata", "name"]).to_owned();
    hypernetes_kinds::create(ty, &object)?;
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = now().into();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
        metadata.remove("selfLink");
    }
    if applied.is_none() {
        let (manager, now) = (manager(call), now());
        managed::track_update(ty, None, &mut object, Writer { manager: &manager, subresource: "", now: &now });
    }
    let key = call.key(&name)?;
    let mut guards = vec![Guard::Absent(key.clone())];
    guards.extend(namespace_guard(server, call).await?);
    let value = codec::encode(&object)?;
    if dry_run(call)? {
        if server.store.get(&key).await.map_err(read::read_error)?.is_some() {
            return Err(ApiError::already_exists(&ty.group, call.resource.plural, &name));
        }
        return answer(call, StatusCode::CREATED, &entry_of(key, &object, Revision(0), Revision(0))?, warnings);
    }
    let committed = server.store.commit(Txn { guards, ops: vec![Op::Put(key.clone(), value.clone())] }).await;
    let revision = committed.map_err(|error| match error {
        TxnError::Conflict { key: changed, .. } if changed == key => {
            ApiError::already_exists(&ty.group, call.resource.plural, &name)
        }
        TxnError::Conflict { .. } => ApiError::new(Reason::Conflict, "the namespace has changed; try again"),
        other => commit_error(call, &name, other),
    })?;
    let entry = Entry { key, value, create_revision: revision, mod_revision: revision };
    answer(call, StatusCode::CREATED, &entry, warnings)
}

/// Sets the namespace that the path names; another one in the object is an error.
fn place(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let Some(namespace) = &call.target.namespace else { return Ok(()) };
    match text(object, &["metadata", "namespace"]) {
        "" => {
            object["metadata"]["namespace"] = namespace.clone().into();
            Ok(())
        }
        given if given == namespace => Ok(()),
        given => Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {given:?}"
        ))),
    }
}

/// `generateName` and five letters that make no words, as upstream's.
fn name(object: &mut Value) {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let metadata = &mut object["metadata"];
    let base: String = metadata["generateName"].as_str().unwrap_or_default().chars().take(58).collect();
    if metadata["name"].as_str().unwrap_or_default().is_empty() && !base.is_empty() {
        let suffix: String = (0..5).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect();
        metadata["name"] = format!("{base}{suffix}").into();
    }
}

/// New objects come only into namespaces that exist and stay.
async fn namespace_guard(server: &Inner, call: &Call) -> Result<Option<Guard>, ApiError> {
    let (Some(namespace), Ok(tenant)) = (&call.target.namespace, call.tenant()) else { return Ok(None) };
    let key = Key::new(&ResourceId::new("", "namespaces"), &tenant, "", namespace)
        .map_err(|_| ApiError::not_found("", "namespaces", namespace))?;
    let entry = server.store.get(&key).await.map_err(read::read_error)?;
    let entry = entry.ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
    let object = codec::decode(&entry)?;
    if object["metadata"]["deletionTimestamp"].is_string() && call.resource.plural != "events" {
        let message = format!(
            "{} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            call.resource.plural
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    Ok(Some(Guard::Unchanged(key, entry.mod_revision)))
}

/// Rules that are not the schema's: what a pod may not ask of a host, and what belongs in every pod and claim.
async fn admit(server: &Inner, call: &Call, object: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    match (call.resource.ty.group.as_str(), call.resource.ty.kind.as_str(), old) {
        ("", "Pod", None) => admit_pod(server, call, object).await,
        ("", "PersistentVolumeClaim", None) if object["spec"].get("storageClassName").is_none() => {
            if let Some(class) = default_storage_class(server).await? {
                object["spec"]["storageClassName"] = class.into();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn default_storage_class(server: &Inner) -> Result<Option<String>, ApiError> {
    let classes = ResourceId::new("storage.k8s.io", "storageclasses");
    let prefix = Prefix::tenant(&classes, &hypernetes_api::TenantId::system(), None)?;
    let listing = server.store.range(&prefix, RangeOptions::default()).await.map_err(read::read_error)?;
    for entry in &listing.entries {
        let class = codec::decode(entry)?;
        if class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true" {
            return Ok(Some(entry.key.name().to_owned()));
        }
    }
    Ok(None)
}

async fn admit_pod(server: &Inner, call: &Call, pod: &mut Value) -> Result<(), ApiError> {
    let pod_name = text(pod, &["metadata", "name"]).to_owned();
    let forbidden = |what: &str| {
        let message = format!(
            "pods {pod_name:?} is forbidden: {what}: a pod runs in a virtual machine of its own and never on the host"
        );
        Err(ApiError::new(Reason::Forbidden, message))
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod["spec"][field] == true {
            return forbidden(field);
        }
    }
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        if volume.get("hostPath").is_some() {
            return forbidden("hostPath volumes");
        }
    }
    let account = match text(pod, &["spec", "serviceAccountName"]) {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    pod["spec"]["serviceAccountName"] = account.clone().into();
    pod["spec"]["serviceAccount"] = account.clone().into();
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let key = Key::new(&ResourceId::new("", "serviceaccounts"), &call.tenant()?, namespace, &account)?;
    let Some(entry) = server.store.get(&key).await.map_err(read::read_error)? else {
        let message = format!(
            "pods {pod_name:?} is forbidden: error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    };
    let account = codec::decode(&entry)?;
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(pod);
    }
    Ok(())
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The projected volume with the pod's token, the authority's certificate and the namespace, as upstream's admission adds it.
fn mount_token(pod: &mut Value) {
    let mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array();
        mounts.is_some_and(|mounts| mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH))
    };
    let name = "kube-api-access";
    let mut used = false;
    for kind in ["containers", "initContainers"] {
        for container in pod["spec"][kind].as_array_mut().into_iter().flatten() {
            if mounted(container) {
                continue;
            }
            used = true;
            let mount = json!({"name": name, "mountPath": TOKEN_PATH, "readOnly": true});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if pod["spec"]["initContainers"].is_null()
        && let Some(spec) = pod["spec"].as_object_mut()
    {
        spec.remove("initContainers");
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    if used {
        match pod["spec"]["volumes"].as_array_mut() {
            Some(volumes) => volumes.push(volume),
            None => pod["spec"]["volumes"] = json!([volume]),
        }
    }
}

/// How an update came about.
enum Change<'a> {
    Replace(&'a Decoded),
    Patch(&'a str),
}

pub async fn update(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    if call.target.subresource.as_deref() == Some("scale") {
        return scale(server, call, |_| {
            serde_json::from_slice(&call.body).map_err(|e| ApiError::bad_request(e.to_string()))
        })
        .await;
    }
    let decoded = decode(call)?;
    let name = call.target.name.as_deref().unwrap_or_default();
    let given = text(&decoded.object, &["metadata", "name"]);
    if given != name {
        let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(ApiError::bad_request(message));
    }
    write_existing(server, call, Change::Replace(&decoded)).await
}

pub async fn patch(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let content = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = content.split(';').next().unwrap_or_default().trim().to_owned();
    if call.target.subresource.as_deref() == Some("scale") {
        return scale(server, call, |old| match kind.as_str() {
            "application/json-patch+json" => patches::json_patch(old, &call.body),
            _ => patches::merge_patch(old, &call.body),
        })
        .await;
    }
    write_existing(server, call, Change::Patch(&kind)).await
}

async fn write_existing(server: &Inner, call: &Call, change: Change<'_>) -> Result<Response<Body>, ApiError> {
    let ty = &call.resource.ty;
    let name = call.target.name.as_deref().unwrap_or_default();
    let key = call.key(name)?;
    let subresource = call.target.subresource.as_deref().unwrap_or_default();
    if subresource == "status" && call.resource.guarded_status && !is_infrastructure(call) {
        let message = format!(
            "{}.{}/status {name:?} is forbidden: it is written by infrastructure only",
            call.resource.plural, ty.group
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    let applying = matches!(change, Change::Patch("application/apply-patch+yaml" | "application/apply-patch+cbor"));
    let manager = manager(call);
    let stamp = now();
    let writer = Writer { manager: &manager, subresource, now: &stamp };
    for attempt in 0..ATTEMPTS {
        let Some(entry) = server.store.get(&key).await.map_err(read::read_error)? else {
            if applying && subresource.is_empty() {
                let configuration = decode(call)?;
                let object = managed::apply(ty, None, &configuration.object, writer, true)?;
                return create_object(server, call, object, &configuration.warnings, Some(())).await;
            }
            return Err(call.not_found(name));
        };
        let old = codec::decode(&entry)?;
        let (mut object, warnings) = match &change {
            Change::Replace(decoded) => (decoded.object.clone(), decoded.warnings.clone()),
            Change::Patch(kind) => {
                let decoded = patched(call, kind, &old, writer)?;
                (decoded.object, decoded.warnings)
            }
        };
        let wanted = text(&object, &["metadata", "resourceVersion"]).to_owned();
        let stale = !wanted.is_empty() && wanted != entry.mod_revision.to_string();
        if stale {
            return Err(ApiError::conflict(&ty.group, call.resource.plural, name, CHANGED));
        }
        let uid = text(&object, &["metadata", "uid"]);
        if !uid.is_empty() && uid != text(&old, &["metadata", "uid"]) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(&old, &["metadata", "uid"])
            );
            return Err(ApiError::conflict(&ty.group, call.resource.plural, name, &why));
        }
        place(call, &mut object)?;
        ty.set_defaults(&mut object);
        match subresource {
            "status" => {
                ty.prepare_status_update(&mut object, &old);
                hypernetes_kinds::status_update(ty, &object, &old)?;
            }
            _ => {
                ty.prepare_update(&mut object, &old);
                admit(server, call, &mut object, Some(&old)).await?;
                hypernetes_kinds::update(ty, &object, &old)?;
            }
        }
        if !applying {
            managed::track_update(ty, Some(&old), &mut object, writer);
        }
        let value = codec::encode(&object)?;
        if value == entry.value {
            return answer(call, StatusCode::OK, &entry, &warnings);
        }
        if dry_run(call)? {
            return answer(
                call,
                StatusCode::OK,
                &entry_of(key, &object, entry.create_revision, entry.mod_revision)?,
                &warnings,
            );
        }
        let op = match is_gone(&object) {
            true => Op::Delete(key.clone()),
            false => Op::Put(key.clone(), value.clone()),
        };
        let txn = Txn { guards: vec![Guard::Unchanged(key.clone(), entry.mod_revision)], ops: vec![op] };
        match server.store.commit(txn).await {
            Ok(revision) => {
                let entry = Entry { key, value, create_revision: entry.create_revision, mod_revision: revision };
                return answer(call, StatusCode::OK, &entry, &warnings);
            }
            // Somebody else was faster; a patch starts again from what is there now.
            Err(TxnError::Conflict { .. }) if wanted.is_empty() || matches!(change, Change::Patch(_)) => {
                tracing::debug!(attempt, "a write met another");
            }
            Err(error) => return Err(commit_error(call, name, error)),
        }
    }
    Err(ApiError::conflict(&ty.group, call.resource.plural, name, CHANGED))
}

fn patched(call: &Call, kind: &str, old: &Value, writer: Writer<'_>) -> Result<Decoded, ApiError> {
    let ty = &call.resource.ty;
    let object = match kind {
        "application/json-patch+json" => patches::json_patch(old, &call.body)?,
        "application/merge-patch+json" => patches::merge_patch(old, &call.body)?,
        "application/strategic-merge-patch+json" => patches::strategic_merge_patch(ty.schema(), old, &call.body)?,
        "application/apply-patch+yaml" => {
            let configuration = decode(call)?;
            let force = call.query.flag("force");
            let mut object = managed::apply(ty, Some(old), &configuration.object, writer, force)?;
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            return Ok(Decoded { object, warnings: configuration.warnings });
        }
        other => {
            let accepted = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
            return Err(media::unsupported(other, accepted));
        }
    };
    ty.check(object, validation(call)?)
}

/// Marked for deletion, and nobody has anything left to do for it.
fn is_gone(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let finalizers = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    let graceful = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    let holds = finalizers(&metadata["finalizers"])
        || (object["kind"] == "Namespace" && finalizers(&object["spec"]["finalizers"]));
    metadata["deletionTimestamp"].is_string() && !holds && !graceful
}

/// `DeleteOptions`, from body and query.
struct DeleteOptions {
    grace: Option<i64>,
    policy: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

fn delete_options(call: &Call) -> Result<DeleteOptions, ApiError> {
    let body: Value = if call.body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&call.body).map_err(|e| ApiError::bad_request(format!("DeleteOptions: {e}")))?
    };
    let word = |name: &str| match call.query.get(name) {
        "" => body[name].as_str().map(str::to_owned),
        value => Some(value.to_owned()),
    };
    let grace = match call.query.number("gracePeriodSeconds")? {
        Some(seconds) => i64::try_from(seconds).ok(),
        None => body["gracePeriodSeconds"].as_i64(),
    };
    if grace.is_some_and(i64::is_negative) {
        return Err(ApiError::bad_request("gracePeriodSeconds must not be negative"));
    }
    let policy = word("propagationPolicy").or_else(|| {
        body["orphanDependents"].as_bool().map(|orphan| if orphan { "Orphan".into() } else { "Background".into() })
    });
    if let Some(policy) = &policy
        && !["Orphan", "Background", "Foreground"].contains(&policy.as_str())
    {
        return Err(ApiError::bad_request(format!("propagationPolicy: {policy:?} is not known")));
    }
    let precondition = |name: &str| body["preconditions"][name].as_str().map(str::to_owned);
    Ok(DeleteOptions { grace, policy, uid: precondition("uid"), resource_version: precondition("resourceVersion") })
}

pub async fn delete(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    // Infrastructure clears away what a tenant that is gone has left.
    if call.resource.plural == "namespaces" && name == "default" && !is_infrastructure(call) {
        return Err(ApiError::new(
            Reason::Forbidden,
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ));
    }
    let options = delete_options(call)?;
    let key = call.key(name)?;
    let (entry, gone) = delete_one(server, call, &key, &options).await?;
    if gone && call.resource.ty.kind != "Pod" {
        let object = codec::decode(&entry)?;
        let mut details = json!({"name": name, "kind": call.resource.plural, "uid": object["metadata"]["uid"]});
        if !call.resource.ty.group.is_empty() {
            details["group"] = call.resource.ty.group.clone().into();
        }
        let status =
            json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "details": details});
        return Ok(json_response(StatusCode::OK, &status));
    }
    answer(call, StatusCode::OK, &entry, &[])
}

/// Deletes an object or marks it; true when it is gone.
async fn delete_one(
    server: &Inner,
    call: &Call,
    key: &Key,
    options: &DeleteOptions,
) -> Result<(Entry, bool), ApiError> {
    let (group, plural, name) = (&call.resource.ty.group, call.resource.plural, key.name());
    for _ in 0..ATTEMPTS {
        let entry = server.store.get(key).await.map_err(read::read_error)?.ok_or_else(|| call.not_found(name))?;
        let mut object = codec::decode(&entry)?;
        for (what, wanted, have) in [
            ("UID", &options.uid, text(&object, &["metadata", "uid"]).to_owned()),
            ("ResourceVersion", &options.resource_version, entry.mod_revision.to_string()),
        ] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != have) {
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {have}");
                return Err(ApiError::conflict(group, plural, name, &why));
            }
        }
        mark_deleted(&mut object, options);
        if dry_run(call)? {
            return Ok((entry, false));
        }
        let value = codec::encode(&object)?;
        let gone = is_gone(&object);
        let op = if gone { Op::Delete(key.clone()) } else { Op::Put(key.clone(), value.clone()) };
        if !gone && value == entry.value {
            return Ok((entry, false));
        }
        let txn = Txn { guards: vec![Guard::Unchanged(key.clone(), entry.mod_revision)], ops: vec![op] };
        match server.store.commit(txn).await {
            Ok(revision) => {
                let entry =
                    Entry { key: key.clone(), value, create_revision: entry.create_revision, mod_revision: revision };
                return Ok((entry, gone));
            }
            Err(TxnError::Conflict { .. }) => {}
            Err(error) => return Err(commit_error(call, name, error)),
        }
    }
    Err(ApiError::conflict(group, plural, name, CHANGED))
}

/// Sets the marks of deletion: when, how gracefully, and who has to act first.
fn mark_deleted(object: &mut Value, options: &DeleteOptions) {
    let pod = object["kind"] == "Pod";
    let grace = if pod {
        let phase = text(object, &["status", "phase"]);
        let running = !text(object, &["spec", "nodeName"]).is_empty() && !matches!(phase, "Succeeded" | "Failed");
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        // A pod that no kubelet has ends at once.
        if running { options.grace.unwrap_or(own).max(0) } else { 0 }
    } else {
        0
    };
    let earlier = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let first = !object["metadata"]["deletionTimestamp"].is_string();
    if first || earlier.is_some_and(|earlier| grace < earlier) {
        let at = jiff::Timestamp::now()
            .saturating_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(jiff::Timestamp::MAX);
        let at = at.round(jiff::Unit::Second).unwrap_or(at);
        object["metadata"]["deletionTimestamp"] = at.to_string().into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    }
    if object["kind"] == "Namespace" {
        object["status"]["phase"] = "Terminating".into();
    }
    let finalizer = match options.policy.as_deref() {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return,
    };
    match object["metadata"]["finalizers"].as_array_mut() {
        Some(list) if list.iter().any(|f| f == finalizer) => {}
        Some(list) if first => list.push(finalizer.into()),
        None if first => object["metadata"]["finalizers"] = json!([finalizer]),
        _ => {}
    }
}

pub async fn delete_collection(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    if call.scope == Scope::All {
        return Err(ApiError::bad_request("a collection is deleted in one logical cluster at a time"));
    }
    let (options, selector) = (delete_options(call)?, read::selector(call)?);
    let listing = server.store.range(&read::prefix(call)?, RangeOptions::default()).await.map_err(read::read_error)?;
    for entry in &listing.entries {
        if selector.matches(&codec::decode(entry)?) {
            match delete_one(server, call, &entry.key, &options).await {
                Err(error) if error.reason == Reason::NotFound => {}
                other => drop(other?),
            }
        }
    }
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"});
    Ok(json_response(StatusCode::OK, &status))
}

/// Changes one stored object, whoever writes beside; `edit` may refuse.
async fn change(
    server: &Inner,
    call: &Call,
    key: &Key,
    edit: impl Fn(&mut Value) -> Result<(), ApiError>,
) -> Result<Value, ApiError> {
    for _ in 0..ATTEMPTS {
        let entry = server.store.get(key).await.map_err(read::read_error)?.ok_or_else(|| call.not_found(key.name()))?;
        let mut object = codec::decode(&entry)?;
        edit(&mut object)?;
        let op = Op::Put(key.clone(), codec::encode(&object)?);
        let txn = Txn { guards: vec![Guard::Unchanged(key.clone(), entry.mod_revision)], ops: vec![op] };
        match server.store.commit(txn).await {
            Ok(revision) => {
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                return Ok(object);
            }
            Err(TxnError::Conflict { .. }) => {}
            Err(error) => return Err(commit_error(call, key.name(), error)),
        }
    }
    Err(ApiError::conflict(&call.resource.ty.group, call.resource.plural, key.name(), CHANGED))
}

/// `autoscaling/v1` `Scale` of a workload.
pub fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    let metadata = &object["metadata"];
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    })
}

async fn scale(
    server: &Inner,
    call: &Call,
    wanted: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let key = call.key(call.target.name.as_deref().unwrap_or_default())?;
    let object = change(server, call, &key, |object| {
        let scale = wanted(&scale_of(object))?;
        let version = text(&scale, &["metadata", "resourceVersion"]);
        if !version.is_empty() && version != text(object, &["metadata", "resourceVersion"]) {
            return Err(ApiError::conflict(&call.resource.ty.group, call.resource.plural, key.name(), CHANGED));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            return Err(ApiError::bad_request("spec.replicas: must be greater than or equal to 0"));
        }
        if object["spec"]["replicas"] != replicas {
            object["spec"]["replicas"] = replicas.into();
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        Ok(())
    })
    .await?;
    Ok(json_response(StatusCode::OK, &scale_of(&object)))
}

/// `pods/binding`: the scheduler's decision.
async fn bind(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let binding: Value = serde_json::from_slice(&call.body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let node = text(&binding, &["target", "name"]).to_owned();
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name is required"));
    }
    let name = call.target.name.as_deref().unwrap_or_default();
    let key = call.key(name)?;
    change(server, call, &key, |pod| {
        let bound = text(pod, &["spec", "nodeName"]);
        if !bound.is_empty() || pod["metadata"]["deletionTimestamp"].is_string() {
            let why = format!("pod {name} is already assigned to node {bound:?}, or is being deleted");
            return Err(ApiError::conflict("", "pods/binding", name, &why));
        }
        pod["spec"]["nodeName"] = node.clone().into();
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
        match pod["status"]["conditions"].as_array_mut() {
            Some(conditions) => {
                conditions.retain(|c| c["type"] != "PodScheduled");
                conditions.push(condition);
            }
            None => pod["status"]["conditions"] = json!([condition]),
        }
        Ok(())
    })
    .await?;
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201});
    Ok(json_response(StatusCode::CREATED, &status))
}

/// `pods/eviction`: a deletion; disruption budgets are not looked at yet.
async fn evict(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let key = call.key(call.target.name.as_deref().unwrap_or_default())?;
    let options = DeleteOptions { grace: None, policy: None, uid: None, resource_version: None };
    delete_one(server, call, &key, &options).await?;
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201});
    Ok(json_response(StatusCode::CREATED, &status))
}
