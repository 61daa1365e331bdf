//! A write as admission's rules and expressions see it: in the versions in which it is served, and as what was sent to a subresource.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use hypernetes_api::ApiError;
use hypernetes_kinds::{Behaviour, Home, Served};
use hypernetes_policy::{About, Matched, Matching, Request as Sent};
use serde_json::{Map, Value, json};

use super::{Operation, Request, infrastructure_owned, namespace_of, text};
use crate::{
    authorization::{Attributes, nodes},
    policies::GROUP,
    stored_form,
};

/// Whether a tenant's own rules of admission have a say in a write. They hold for everybody who writes into the tenant's cluster, the system's own
/// controllers included; but what infrastructure says has happened (statuses, placements, ends of pods) is not for them.
pub fn is_subject(request: &Request<'_>) -> bool {
    let call = request.call;
    // Upstream's too: a rule that refused its own removal would be there for ever.
    if call.resource.ty.group == GROUP || call.resource.home != Home::Tenant {
        return false;
    }
    let wanted = Attributes {
        verb: "update",
        group: &call.resource.ty.group,
        resource: &call.resource.plural,
        subresource: call.subresource.as_ref().map_or("", |one| one.name),
        ..Attributes::default()
    };
    if nodes::is_reserved(&wanted) {
        return false;
    }
    let ends_pod = request.operation == Operation::Delete && request.is("", "Pod");
    !(call.is_infrastructure() && (ends_pod || call.resource.ty.is_own()))
}

/// The same for rules that change what is written: what is deleted is not changed, and what is infrastructure's to say nobody changes on its way.
pub fn is_changed(request: &Request<'_>) -> bool {
    request.operation != Operation::Delete && is_subject(request) && !request.call.resource.ty.is_own()
}

/// Cheap to make: what is not converted is not copied, and what only who matches sees is not made before.
pub struct Shown<'a> {
    request: &'a Request<'a>,
    /// As the server has it: the whole object, in the version in which it is stored.
    object: &'a Value,
    operation: &'static str,
    subresource: &'static str,
    /// Group, version and kind of what was sent.
    kind: (String, String, String),
    name: String,
    namespace: String,
    /// In the version in which it was asked for.
    asked: Objects<'a>,
    /// All versions in which there are such objects.
    served: Vec<Arc<Served>>,
    within: OnceLock<Value>,
}

/// An object, and what it was before; `null` where there is none.
#[derive(Clone)]
pub struct Objects<'a> {
    pub object: Cow<'a, Value>,
    pub old: Cow<'a, Value>,
}

const NONE: Cow<'static, Value> = Cow::Owned(Value::Null);

impl<'a> Shown<'a> {
    pub fn of(request: &'a Request<'a>, object: &'a Value) -> Result<Self, ApiError> {
        let call = request.call;
        let behaviour = call.through();
        let operation = match (request.operation, behaviour) {
            (_, Some(Behaviour::Bind | Behaviour::Evict)) | (Operation::Create, _) => "CREATE",
            (Operation::Update, _) => "UPDATE",
            (Operation::Delete, _) => "DELETE",
            (Operation::Connect, _) => "CONNECT",
        };
        let (group, version, kind) = match &call.subresource {
            Some(subresource) => call.served.kind_of(subresource),
            None => (&*call.served.ty.group, &*call.served.ty.version, &*call.served.ty.kind),
        };
        let name = call.target.name.as_deref().unwrap_or_else(|| text(object, &["metadata", "name"])).to_owned();
        let namespace = match request.is("", "Namespace") {
            true => name.clone(),
            false => call.target.namespace.clone().unwrap_or_default(),
        };
        let mut shown = Self {
            request,
            object,
            operation,
            subresource: call.subresource.as_ref().map_or("", |one| one.name),
            kind: (group.to_owned(), version.to_owned(), kind.to_owned()),
            name,
            namespace,
            asked: Objects { object: NONE, old: NONE },
            served: served(request)?,
            within: OnceLock::new(),
        };
        shown.asked = shown.objects(&call.served);
        Ok(shown)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole objects are looked at, and so may be changed.
    pub fn is_whole(&self) -> bool {
        let whole = match self.request.call.through() {
            None => true,
            Some(behaviour) => {
                matches!(behaviour, Behaviour::Status | Behaviour::Approval | Behaviour::Finalize)
            }
        };
        whole && !self.asked.object.is_null()
    }

    fn objects(&self, served: &Served) -> Objects<'a> {
        let (call, object, old) = (self.request.call, self.object, self.request.old);
        let sent = |api_version: &str, kind: &str| {
            let metadata = json!({"name": self.name, "namespace": self.namespace});
            json!({"apiVersion": api_version, "kind": kind, "metadata": metadata})
        };
        let alone = |object| Objects { object, old: NONE };
        let of = |object: &'a Value| match served.is_stored() {
            true => Cow::Borrowed(object),
            false => Cow::Owned(served.from_stored(object.clone())),
        };
        match call.through() {
            Some(Behaviour::Bind) => {
                let mut binding = sent("v1", "Binding");
                binding["target"] = json!({"kind": "Node", "name": object["spec"]["nodeName"]});
                alone(Cow::Owned(binding))
            }
            Some(Behaviour::Evict) => alone(Cow::Owned(sent("policy/v1", "Eviction"))),
            Some(Behaviour::IssueToken | Behaviour::Connect(_)) => alone(Cow::Borrowed(object)),
            Some(Behaviour::Scale(scale)) => {
                let scaled = |of| Cow::Owned(scale.of(of));
                Objects { object: scaled(object), old: old.map_or(NONE, scaled) }
            }
            _ => match self.request.operation {
                Operation::Create => alone(of(object)),
                Operation::Delete => Objects { object: NONE, old: old.map_or(NONE, of) },
                Operation::Update | Operation::Connect => Objects { object: of(object), old: old.map_or(NONE, of) },
            },
        }
    }

    pub fn about(&self) -> About<'_> {
        let (group, version) = self.resource();
        About {
            operation: self.operation,
            group,
            version,
            kind: &self.kind.2,
            resource: &self.request.call.resource.plural,
            subresource: self.subresource,
            name: &self.name,
            namespace: &self.namespace,
            object: &self.asked.object,
            old: &self.asked.old,
        }
    }

    /// Of what was sent.
    pub fn api_version(&self) -> String {
        match &*self.kind.0 {
            "" => self.kind.1.clone(),
            group => format!("{group}/{}", self.kind.1),
        }
    }

    /// Group and version of the resource, which a subresource's kind is not always of.
    fn resource(&self) -> (&str, &str) {
        let ty = &self.request.call.served.ty;
        (&ty.group, &ty.version)
    }

    fn is_asked_for(&self, served: &Served) -> bool {
        (&*served.ty.group, &*served.ty.version) == self.resource()
    }

    /// What is sent in a version: a subresource's kind is one and the same in all.
    fn kind_in<'s>(&'s self, served: &'s Served) -> &'s str {
        if self.subresource.is_empty() { &served.ty.kind } else { &self.kind.2 }
    }

    fn version<'s>(&'s self, served: &'s Served) -> Matched<'s> {
        Matched { group: &served.ty.group, version: &served.ty.version, kind: self.kind_in(served) }
    }

    /// In what version something matches, of those in which there are such objects.
    ///
    /// # Errors
    /// What is wrong with a selector.
    pub fn matched(&self, matching: &Matching) -> Result<Option<Arc<Served>>, String> {
        let others = self.served.iter().filter(|served| !self.is_asked_for(served));
        let others: Vec<_> = others.map(|served| self.version(served)).collect();
        let matched = matching.matches(&self.about(), || self.namespace_labels(), &others)?;
        let is = |matched: Matched<'_>, served: &Served| {
            served.ty.group == matched.group && served.ty.version == matched.version
        };
        let served = |matched| self.served.iter().find(|served| is(matched, served));
        Ok(matched.map(|matched| served(matched).unwrap_or(&self.request.call.served).clone()))
    }

    /// The objects in a version.
    pub fn in_version(&self, served: &Served) -> Cow<'_, Objects<'a>> {
        match self.is_asked_for(served) {
            true => Cow::Borrowed(&self.asked),
            false => Cow::Owned(self.objects(served)),
        }
    }

    /// The object as it is stored when a rule of the tenant's has made this of it in a version; `None`: it is as it was.
    ///
    /// # Errors
    /// What of it is not a tenant's to change.
    pub fn stored(&self, served: &Served, changed: Value) -> Result<Option<Value>, &'static str> {
        let mut changed = if served.is_stored() { changed } else { served.to_stored(changed) };
        self.request.call.resource.set_defaults(&mut changed);
        match infrastructure_owned::changed(self.object, &changed) {
            Some(what) => Err(what),
            None => Ok((changed != *self.object).then_some(changed)),
        }
    }

    /// The namespace that it is in; `null` for what is in none.
    pub fn namespace(&self) -> &Value {
        self.within.get_or_init(|| {
            // `None` for a namespace itself, too.
            let namespace = namespace_of(self.request).ok().flatten();
            let mut namespace = namespace.and_then(|entry| stored_form::decode(&entry).ok()).unwrap_or_default();
            // Who has set what of it is not shown.
            if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
                metadata.remove("ownerReferences");
            }
            namespace
        })
    }

    /// Those by which namespaces are selected: of a namespace that is written its own.
    pub fn namespace_labels(&self) -> Value {
        let labels = |object: &Value| object["metadata"]["labels"].clone();
        match (self.request.is("", "Namespace"), self.request.old) {
            (true, Some(old)) if self.request.operation == Operation::Delete => labels(old),
            (true, _) => labels(self.object),
            (false, _) => labels(self.namespace()),
        }
    }

    /// An `AdmissionRequest` without uid and objects.
    pub fn admission_request(&self, served: &Served) -> Value {
        let (user, options) = (user(self.request), options(self.request));
        let sent = Sent { user: &user, dry_run: self.request.dry_run, options: &options };
        let mut made = self.about().request(self.version(served), sent);
        // What is sent to a subresource may be of another group.
        let (group, version, kind) = &self.kind;
        let of_sent = json!({"group": group, "version": version, "kind": kind});
        if !self.is_whole() && !self.asked.object.is_null() {
            made["kind"] = of_sent.clone();
            made["requestKind"] = of_sent;
        }
        made
    }

    /// Group, resource, subresource, namespace and name.
    pub fn resource_path(&self) -> [&str; 5] {
        let (group, _) = self.resource();
        let plural = &self.request.call.resource.plural;
        [group, plural, self.subresource, &self.namespace, &self.name]
    }
}

/// All versions of the same objects.
fn served(request: &Request<'_>) -> Result<Vec<Arc<Served>>, ApiError> {
    let call = request.call;
    if !call.resource.ty.is_defined() {
        return Ok(call.resource.served.clone());
    }
    let view = request.server.definitions.registry().view(&call.tenant()?);
    let same = view.all().iter().filter(|endpoint| endpoint.resource.id == call.resource.id);
    Ok(same.map(|endpoint| endpoint.served.clone()).collect())
}

fn user(request: &Request<'_>) -> Value {
    let user = &request.call.user;
    let mut shown = Map::new();
    for (field, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            shown.insert(field.into(), value.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        shown.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        shown.insert("extra".into(), json!(user.extra));
    }
    shown.into()
}

/// The options of the request, as they came in its query.
fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    for field in ["fieldManager", "fieldValidation"] {
        let given = request.call.query.get(field);
        if !given.is_empty() {
            options[field] = given.into();
        }
    }
    options
}
