//! Events of `audit.k8s.io/v1`, as they are written of one request.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use hypernetes_api::{ApiError, TenantId, auth::UserInfo, names};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Audit,
    policy::{Decision, Level, Stage},
};
use crate::{fairness::account::Account, request::info::RequestInfo};

/// Of a URL and a user agent that are longer the beginning is recorded.
const MAX_URI: usize = 2048;
const MAX_AGENT: usize = 256;
/// An object that is longer is not recorded.
const MAX_OBJECT: usize = 256 << 10;
/// What an annotation says where one was not.
const OMITTED: &str = "audit.hypernetes.io/omitted";
/// Of a request whose client went away before it was answered: what it asked for may have been done.
const ABANDONED: &str = "audit.hypernetes.io/abandoned";

/// Where a connection comes from, in the extensions of its requests.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// What is found out of a request on its way inward, for who records it.
#[derive(Default)]
pub struct Trail {
    made_as: OnceLock<(UserInfo, TenantId)>,
    body: OnceLock<Bytes>,
    annotations: Mutex<BTreeMap<String, String>>,
}

impl Trail {
    /// Whom the request is made as, and in which logical cluster, whether they may or not.
    pub fn permitted(&self, user: &UserInfo, tenant: &TenantId) {
        let _ = self.made_as.set((user.clone(), tenant.clone()));
    }

    /// What admission found. The last that is said of a key counts: what is tried again is looked at again.
    pub fn annotate(&self, key: String, value: String) {
        self.annotations.lock().insert(key, value);
    }

    /// Its body, in JSON.
    pub fn body(&self, body: &Bytes) {
        let _ = self.body.set(body.clone());
    }
}

/// Who sends a request, as its head says.
pub struct Sender<'a> {
    pub uri: &'a str,
    pub agent: Option<&'a str>,
    pub peer: Option<IpAddr>,
    /// None: it is not known.
    pub user: Option<&'a UserInfo>,
    /// When it came, as [`now`] writes it.
    pub received: String,
}

/// What all events of a request say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    request_received_timestamp: String,
}

/// What an event says beside that.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tail<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Value::is_null")]
    object_ref: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    response_status: Value,
    stage: &'static str,
    stage_timestamp: String,
}

#[derive(Serialize, Default)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: Cow<'a, BTreeMap<String, Vec<String>>>,
}

impl<'a> From<&'a UserInfo> for User<'a> {
    fn from(user: &'a UserInfo) -> Self {
        Self { username: &user.name, uid: &user.uid, groups: &user.groups, extra: Cow::Borrowed(&user.extra) }
    }
}

/// The name that a body gives a new object.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
}

/// Microseconds, as `metav1.MicroTime`.
pub fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// What is recorded of one request until it is over. One that is dropped before was given up, or has panicked.
pub(crate) struct Record {
    audit: Arc<Audit>,
    decision: Decision,
    /// Who pays for the room that events take until they are written.
    account: Option<Arc<Account>>,
    /// What all its events begin with: an object without its end.
    head: String,
    /// What it is about; null for what is no resource.
    object: Value,
    /// Whose it is, as far as is known.
    tenant: Option<TenantId>,
    user: Option<String>,
    trail: Arc<Trail>,
    over: bool,
}

impl Record {
    pub fn begin(
        audit: &Arc<Audit>,
        decision: Decision,
        info: &RequestInfo,
        sender: &Sender<'_>,
        trail: &Arc<Trail>,
        account: Option<Arc<Account>>,
    ) -> Self {
        let head = Head {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: decision.level.as_str(),
            audit_id: uuid::Uuid::new_v4().to_string(),
            request_uri: cut(sender.uri, MAX_URI),
            verb: info.verb(),
            user: sender.user.map(Into::into).unwrap_or_default(),
            source_ips: sender.peer.map(|peer| [peer]),
            user_agent: sender.agent.map(|agent| cut(agent, MAX_AGENT)),
            request_received_timestamp: sender.received.clone(),
        };
        let mut head = serde_json::to_string(&head).unwrap_or_default();
        head.truncate(head.len().saturating_sub(1));
        let mut record = Self {
            audit: audit.clone(),
            decision,
            account,
            head,
            object: object(info),
            tenant: sender.user.map(|user| user.tenant.clone()),
            user: sender.user.map(|user| user.name.clone()),
            trail: trail.clone(),
            over: false,
        };
        record.write(Stage::RequestReceived, Value::Null, None, None);
        record
    }

    pub fn wants_answer(&self) -> bool {
        self.decision.level >= Level::RequestResponse
    }

    /// A long-running answer has begun.
    pub fn started(&mut self, code: u16) {
        self.write(Stage::ResponseStarted, json!({"metadata": {}, "code": code}), None, None);
    }

    /// It was answered, with this body if that was to be recorded. None: it was too long, or no JSON.
    pub fn answered(mut self, code: u16, body: Option<&[u8]>) {
        let status = json!({"metadata": {}, "code": code});
        let omitted = self.wants_answer() && body.is_none();
        let note = omitted.then_some((OMITTED, "responseObject"));
        self.over = true;
        self.write(Stage::ResponseComplete, status, body, note);
    }

    pub fn refused(mut self, error: &ApiError) {
        let mut status = error.to_status();
        if self.decision.secret
            && let Some(status) = status.as_object_mut()
        {
            status.remove("message");
            status.remove("details");
        }
        self.over = true;
        self.write(Stage::ResponseComplete, status, None, None);
    }

    /// `note`: an annotation.
    fn write(
        &mut self,
        stage: Stage,
        status: Value,
        answer: Option<&[u8]>,
        note: Option<(&'static str, &'static str)>,
    ) {
        if self.decision.omit_stages.contains(&stage) {
            return;
        }
        let trail = self.trail.clone();
        let noted = trail.annotations.lock();
        let mut annotations: BTreeMap<&str, &str> = BTreeMap::from_iter(note);
        annotations.extend(noted.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let made_as = trail.made_as.get();
        if let Some((_, tenant)) = made_as {
            self.tenant = Some(tenant.clone());
        }
        let body = trail.body.get().filter(|body| !body.is_empty());
        if !self.object.is_null()
            && self.object["name"].is_null()
            && let Some(body) = body
            && let Ok(Named { metadata }) = serde_json::from_slice(body)
            && !metadata.name.is_empty()
        {
            self.object["name"] = metadata.name.into();
        }
        let asked = body.filter(|_| self.decision.level >= Level::Request).map(|body| self.shown(body));
        if asked == Some(None) {
            annotations.insert(OMITTED, "requestObject");
        }
        if let Some(tenant) = &self.tenant {
            annotations.insert(names::TENANT_ANNOTATION, tenant.as_str());
        }
        let other_user = |(user, _): &'_ &(UserInfo, TenantId)| self.user.as_ref() != Some(&user.name);
        let tail = Tail {
            annotations,
            impersonated_user: made_as.filter(other_user).map(|(user, _)| user.into()),
            object_ref: &self.object,
            request_object: asked.flatten(),
            response_object: answer.and_then(|answer| self.shown(answer)),
            response_status: status,
            stage: stage.as_str(),
            stage_timestamp: now(),
        };
        let rest = serde_json::to_string(&tail).unwrap_or_default();
        let line = format!("{},{}", self.head, rest.get(1..).unwrap_or("}"));
        self.audit.write(self.tenant.as_ref(), self.account.as_ref(), line);
    }

    /// An object as it is recorded. None: it is too long, or none.
    fn shown(&self, text: &[u8]) -> Option<Value> {
        if text.len() > MAX_OBJECT {
            return None;
        }
        let mut object: Value = serde_json::from_slice(text).ok()?;
        if self.decision.omit_managed_fields {
            let items = object["items"].as_array_mut().map(|items| items.iter_mut()).into_iter().flatten();
            items.for_each(without_managed_fields);
            without_managed_fields(&mut object);
        }
        Some(object)
    }
}

/// Longest answer that is kept to be recorded.
pub const MAX_ANSWER: usize = MAX_OBJECT;

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn object(info: &RequestInfo) -> Value {
    let Some(target) = info.resource() else { return Value::Null };
    let mut object = json!({"resource": target.plural, "apiVersion": target.version});
    let others = [
        ("namespace", target.namespace.as_deref()),
        ("name", target.name.as_deref()),
        ("apiGroup", Some(target.group.as_str()).filter(|group| !group.is_empty())),
        ("subresource", target.subresource.as_deref()),
    ];
    for (field, text) in others.into_iter().filter_map(|(field, text)| Some((field, text?))) {
        object[field] = text.into();
    }
    object
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if std::thread::panicking() {
            let status = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500});
            self.write(Stage::Panic, status, None, None);
        } else {
            self.write(Stage::ResponseComplete, Value::Null, None, Some((ABANDONED, "true")));
        }
    }
}
