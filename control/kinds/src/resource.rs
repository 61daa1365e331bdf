//! The record of one resource: all that the server knows of it is said here, in one place, by its family's file.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use hypernetes_api::ResourceId;
use hypernetes_schema::{ObjectType, Scope};
use k8s_openapi::Resource as Kubernetes;
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::{
    columns::{self, Column},
    expressions::Rules as Expressions,
    field::{Errors, Field},
    format::{self, Faults},
    selectable::Selectable,
    subresource::{Behaviour, Subresource},
    unique::{Unique, Uniques},
    verb::Verb,
};

/// Where a resource's objects live, and who may write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Each tenant has its own.
    Tenant,
    /// The operator's; tenants see them and do not write them.
    Projected,
    /// The operator's; tenants do not see that it exists.
    System,
    /// Not stored: a question that is answered (`create` only).
    Virtual,
    /// Not stored: told as it is when it is asked for (`get` and `list`).
    Told,
}

/// What holds for an object.
pub type Check = fn(&Field<'_>, &mut Errors);
/// What holds for a change: the new object, and the old.
pub type Change = fn(&Field<'_>, &Field<'_>, &mut Errors);
/// What a resource's names may look like.
pub type NameRule = fn(&str) -> Faults;
/// Fills in what is left open of an object, or of a part of one.
pub(crate) type Defaults = fn(&mut Map<String, Value>);
/// A status made of a new object.
pub(crate) type FirstStatus = fn(&Map<String, Value>) -> Value;
/// Names on the way to a field.
pub type FieldPath = &'static [&'static str];

/// The rules of validation, besides those of `metadata`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// For every object.
    pub check: Option<Check>,
    /// For what is written: what is stored may be otherwise from before, and is not wrong for it.
    pub written: Option<Check>,
    /// For the names of new ones, besides what names may look like.
    pub named: Option<Check>,
    /// For new ones only.
    pub create: Option<Check>,
    /// For changes.
    pub update: Option<Change>,
    /// For changes of the status.
    pub status: Option<Change>,
    /// For changes through `approval`.
    pub approval: Option<Change>,
    /// Fields that are for life.
    pub immutable: &'static [FieldPath],
    /// Finalizers need no domain.
    pub plain_finalizers: bool,
    /// What is wrong with the metadata of a new object is said only when all else is right.
    pub metadata_last: bool,
    /// What a change may not do is said before what is wrong with the new object.
    pub change_first: bool,
}

/// What the server itself sets or keeps before a write: upstream's create and update strategies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Strategy {
    /// The changes of everything but metadata and status are counted in `metadata.generation`.
    pub counts_changes: bool,
    /// The status that a new object is stored with; none: no status.
    pub first_status: Option<FirstStatus>,
    /// What a change of the object changes of its status; none: nothing.
    pub changed_status: Option<ChangedStatus>,
    /// What becomes of an object that is marked for deletion, each time that it is; none: nothing.
    pub deleted: Option<Marked>,
    /// Fields that an update of the object does not change: another endpoint does.
    pub kept: &'static [FieldPath],
    /// Metadata that the status endpoint may change.
    pub metadata_by_status: &'static [&'static str],
}

/// Changes an object that is marked for deletion.
pub(crate) type Marked = fn(&mut Map<String, Value>);
/// Changes a status beside its object.
pub(crate) type ChangedStatus = fn(&mut Map<String, Value>);

/// How an object of one version becomes one of another. Each undoes what the other does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversion {
    pub from_stored: fn(&mut Map<String, Value>),
    pub to_stored: fn(&mut Map<String, Value>),
}

/// What is done with objects of a version between the store and those who read and write them.
#[derive(Debug, Clone, Copy)]
enum Converted {
    /// Nothing: they are stored so.
    Not,
    By(Conversion),
    /// The version's name alone differs: a definition's, whose strategy is `None`.
    Named,
    /// The same, and they may have been stored by an earlier schema: what it says today is held against them.
    Anew,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A group and version in which a resource is served.
#[derive(Debug)]
pub struct Served {
    /// No other's of this process: what is made by it is known by this, without keeping what a definition was.
    pub number: u64,
    pub ty: Arc<ObjectType>,
    conversion: Converted,
    stored: Arc<ObjectType>,
    /// What is said to whoever uses it, where nobody should any more.
    pub deprecation: Option<String>,
    /// Why there are no new objects of it, if there are none: its definition is being deleted.
    pub closed: Option<&'static str>,
}

impl Served {
    fn stored(ty: Arc<ObjectType>) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { number, stored: ty.clone(), ty, conversion: Converted::Not, deprecation: None, closed: None }
    }

    /// Whether objects are served as they are stored.
    pub fn is_stored(&self) -> bool {
        matches!(self.conversion, Converted::Not)
    }

    /// A stored object as it is served.
    pub fn from_stored(&self, object: Value) -> Value {
        let mut object = self.convert(object, &self.ty, |conversion, fields| (conversion.from_stored)(fields));
        if let (Converted::Anew, Some(structural)) = (self.conversion, self.ty.structural()) {
            structural.prune(&mut object, &mut |_| {});
            structural.set_defaults(&mut object);
        }
        object
    }

    /// An object that is served, as it is stored.
    pub fn to_stored(&self, object: Value) -> Value {
        self.convert(object, &self.stored, |conversion, fields| (conversion.to_stored)(fields))
    }

    fn convert(
        &self,
        mut object: Value,
        ty: &ObjectType,
        convert: impl FnOnce(&Conversion, &mut Map<String, Value>),
    ) -> Value {
        let Some(fields) = object.as_object_mut().filter(|_| !self.is_stored()) else { return object };
        if let Converted::By(conversion) = &self.conversion {
            convert(conversion, fields);
        }
        fields.insert("apiVersion".into(), ty.api_version().into());
        fields.insert("kind".into(), ty.kind.clone().into());
        object
    }

    /// Group, version and kind of what a subresource's bodies are.
    pub fn kind_of(&self, subresource: &Subresource) -> (&str, &str, &str) {
        subresource.body.unwrap_or((&self.ty.group, &self.ty.version, &self.ty.kind))
    }
}

/// One resource.
#[derive(Debug)]
pub struct Resource {
    /// As of what is served of it.
    pub number: u64,
    /// The shape of its objects as they are stored.
    pub ty: Arc<ObjectType>,
    /// All groups and versions in which it is served.
    pub served: Vec<Arc<Served>>,
    pub id: ResourceId,
    pub plural: String,
    pub singular: String,
    /// Of lists of it.
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub subresources: Vec<Subresource>,
    pub home: Home,
    /// Its `status` is written by infrastructure alone.
    pub guarded_status: bool,
    /// All objects of a namespace can be deleted by one request.
    pub deleted_together: bool,
    /// Fields that can be selected by, besides the name and the namespace.
    pub selectable: Arc<[Selectable]>,
    /// The one of them that watches are found by: who watches those of one value is not met by changes of the others.
    pub indexed: Option<usize>,
    pub(crate) columns: Vec<Column>,
    pub(crate) names: NameRule,
    /// Defaults of the object that its definitions do not have wherever they occur.
    pub(crate) defaults: Option<Defaults>,
    pub(crate) rules: Rules,
    pub(crate) strategy: Strategy,
    pub(crate) uniques: Option<Uniques>,
    /// The rules in CEL of a kind that a tenant has defined, compiled when they are first needed.
    pub(crate) expressions: OnceLock<Option<Expressions>>,
}

const ALL: [Verb; 8] =
    [Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const ALL_BUT_TOGETHER: [Verb; 7] =
    [Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

/// Who acts on one of the system's own objects reads its spec, and would pass over one without.
fn spec_is_there(object: &Field<'_>, errors: &mut Errors) {
    let spec = object.get("spec");
    if !spec.is_set() {
        spec.required(errors, "");
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// How a record is written: what is not said is as most resources have it.
impl Resource {
    /// One of Kubernetes' types, each tenant's own.
    pub fn kubernetes<T: Kubernetes<Scope: Scope> + JsonSchema>(plural: &str) -> Self {
        Self::of(ObjectType::kubernetes::<T>(), plural)
    }

    /// One of the system's own types, in the group `<of>.hypernetes.io`, its status and finalizers infrastructure's.
    pub fn own<T: JsonSchema>(of: &str, kind: &str, plural: &str) -> Self {
        let group = format!("{of}.hypernetes.io");
        let ty = ObjectType::without_metadata::<T>(&group, "v1alpha1", kind, false);
        let resource = Self { guarded_status: true, ..Self::of(ty, plural) };
        resource.categories(&["hypernetes"]).counts_changes().check(spec_is_there)
    }

    /// A kind of any shape, each tenant's own.
    pub fn of(ty: ObjectType, plural: &str) -> Self {
        Self::of_shared(Arc::new(ty), plural)
    }

    fn of_shared(ty: Arc<ObjectType>, plural: &str) -> Self {
        let stored = Served::stored(ty.clone());
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            served: vec![Arc::new(stored)],
            id: ResourceId::new(&ty.group, plural),
            plural: plural.to_owned(),
            singular: ty.kind.to_lowercase(),
            list_kind: format!("{}List", ty.kind),
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            home: Home::Tenant,
            guarded_status: false,
            deleted_together: true,
            selectable: Arc::default(),
            indexed: None,
            columns: columns::usual(),
            names: format::subdomain,
            defaults: None,
            rules: Rules::default(),
            strategy: Strategy::default(),
            uniques: None,
            expressions: OnceLock::new(),
            ty,
        }
    }

    /// Serves the same objects in another version, or in another group.
    pub(crate) fn also_as(mut self, ty: ObjectType, conversion: Conversion) -> Self {
        let (ty, stored) = (Arc::new(ty), self.ty.clone());
        self.served.push(Arc::new(Served { conversion: Converted::By(conversion), stored, ..Served::stored(ty) }));
        self
    }

    /// A version of a kind that a tenant has defined. `changed`: its objects may be stored by an earlier schema.
    pub(crate) fn defined(
        ty: Arc<ObjectType>,
        stored: Arc<ObjectType>,
        plural: &str,
        changed: bool,
        deprecation: Option<String>,
        closed: Option<&'static str>,
    ) -> Self {
        let conversion = match changed {
            true => Converted::Anew,
            false if Arc::ptr_eq(&ty, &stored) => Converted::Not,
            false => Converted::Named,
        };
        let served = Served { conversion, stored, deprecation, closed, ..Served::stored(ty.clone()) };
        Self { served: vec![Arc::new(served)], ..Self::of_shared(ty, plural) }
    }

    pub fn home(self, home: Home) -> Self {
        Self { home, ..self }
    }

    pub fn short_names(self, short_names: &[&str]) -> Self {
        Self { short_names: owned(short_names), ..self }
    }

    pub fn categories(self, categories: &[&str]) -> Self {
        Self { categories: owned(categories), ..self }
    }

    pub fn subresources(self, subresources: impl IntoIterator<Item = Subresource>) -> Self {
        Self { subresources: subresources.into_iter().collect(), ..self }
    }

    pub fn selectable(self, fields: impl IntoIterator<Item = impl Into<Selectable>>) -> Self {
        Self { selectable: fields.into_iter().map(Into::into).collect(), ..self }
    }

    /// Watches are found by this of its selectable fields.
    pub(crate) fn indexed(self, field: &str) -> Self {
        Self { indexed: self.selectable.iter().position(|selectable| selectable.name == field), ..self }
    }

    pub(crate) fn columns(self, columns: Vec<Column>) -> Self {
        Self { columns, ..self }
    }

    pub(crate) fn names(self, names: NameRule) -> Self {
        Self { names, ..self }
    }

    pub(crate) fn deleted_one_by_one(self) -> Self {
        Self { deleted_together: false, ..self }
    }

    pub(crate) fn defaults(self, defaults: Defaults) -> Self {
        Self { defaults: Some(defaults), ..self }
    }

    pub fn check(mut self, check: Check) -> Self {
        self.rules.check = Some(check);
        self
    }

    pub(crate) fn on_write(mut self, check: Check) -> Self {
        self.rules.written = Some(check);
        self
    }

    pub(crate) fn named(mut self, check: Check) -> Self {
        self.rules.named = Some(check);
        self
    }

    pub(crate) fn on_create(mut self, check: Check) -> Self {
        self.rules.create = Some(check);
        self
    }

    pub(crate) fn on_update(mut self, change: Change) -> Self {
        self.rules.update = Some(change);
        self
    }

    pub(crate) fn on_status(mut self, change: Change) -> Self {
        self.rules.status = Some(change);
        self
    }

    pub(crate) fn on_approval(mut self, change: Change) -> Self {
        self.rules.approval = Some(change);
        self
    }

    pub(crate) fn immutable(mut self, fields: &'static [FieldPath]) -> Self {
        self.rules.immutable = fields;
        self
    }

    pub(crate) fn plain_finalizers(mut self) -> Self {
        self.rules.plain_finalizers = true;
        self
    }

    pub(crate) fn metadata_last(mut self) -> Self {
        self.rules.metadata_last = true;
        self
    }

    pub(crate) fn change_first(mut self) -> Self {
        self.rules.change_first = true;
        self
    }

    pub(crate) fn counts_changes(mut self) -> Self {
        self.strategy.counts_changes = true;
        self
    }

    pub(crate) fn first_status(mut self, status: FirstStatus) -> Self {
        self.strategy.first_status = Some(status);
        self
    }

    pub(crate) fn when_deleted(mut self, marked: Marked) -> Self {
        self.strategy.deleted = Some(marked);
        self
    }

    pub(crate) fn changed_status(mut self, change: ChangedStatus) -> Self {
        self.strategy.changed_status = Some(change);
        self
    }

    pub(crate) fn kept(mut self, fields: &'static [FieldPath]) -> Self {
        self.strategy.kept = fields;
        self
    }

    pub(crate) fn unique(mut self, uniques: Uniques) -> Self {
        self.uniques = Some(uniques);
        self
    }

    pub(crate) fn metadata_by_status(mut self, fields: &'static [&'static str]) -> Self {
        self.strategy.metadata_by_status = fields;
        self
    }
}

impl Resource {
    /// Whether `status` is written through an endpoint of its own.
    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|one| one.behaviour == Behaviour::Status)
    }

    /// Whether there are objects of it in the store.
    pub fn is_stored(&self) -> bool {
        !matches!(self.home, Home::Virtual | Home::Told)
    }

    /// Its subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|one| one.name == name)
    }

    pub fn verbs(&self) -> &'static [Verb] {
        match (self.home, self.deleted_together) {
            (Home::Virtual, _) => &[Verb::Create],
            (Home::Told, _) => &[Verb::Get, Verb::List],
            (_, true) => &ALL,
            (_, false) => &ALL_BUT_TOGETHER,
        }
    }

    /// [`Self::verbs`], as discovery shows them.
    pub fn shown_verbs(&self) -> Vec<&'static str> {
        self.verbs().iter().map(|verb| verb.as_str()).collect()
    }

    /// Whether its objects may have values that no two have.
    pub fn has_uniques(&self) -> bool {
        self.uniques.is_some()
    }

    /// What of an object no other one has.
    pub fn uniques(&self, object: &Value) -> Vec<Unique> {
        self.uniques.map(|uniques| uniques(object)).unwrap_or_default()
    }

    /// The rules in CEL that its objects are held to, if there are any.
    pub(crate) fn expressions(&self) -> Option<&Expressions> {
        if !self.ty.is_defined() {
            return None;
        }
        let expressions = || Expressions::of(&self.ty.definition().unwrap_or_default());
        self.expressions.get_or_init(expressions).as_ref()
    }

    /// Whether it is a kind of a group.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.ty.group == group && self.ty.kind == kind
    }
}
