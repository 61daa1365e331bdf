//! The compact schema tree, and how it is made from `schemars`' output and the table of merge facts.
//!
//! Descriptions are not kept: a tree is names and shapes only, and definitions of Kubernetes are shared by all kinds that
//! use them. A definition that contains itself (JSON schema properties) refers back weakly.

use crate::facts::{self, Facts, ListKind, ListPatch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// What a value must look like.
#[derive(Debug, Default)]
pub enum Schema {
    /// Anything at all (`RawExtension`, `x-kubernetes-preserve-unknown-fields`).
    #[default]
    Any,
    String,
    /// base64 text
    Bytes,
    /// RFC 3339, whole seconds
    Time,
    /// RFC 3339, microseconds
    MicroTime,
    Boolean,
    Integer(IntegerRange),
    Number,
    IntOrString,
    Quantity,
    Object(Struct),
    Map {
        values: Arc<Schema>,
        /// Owned and replaced as a whole (`x-kubernetes-map-type: atomic`).
        atomic: bool,
    },
    List {
        items: Arc<Schema>,
        kind: ListKind,
        patch: ListPatch,
    },
    /// An object of that shape, a list of such, or something else altogether (`JSONSchemaPropsOrBool`).
    OrElse(Arc<Schema>),
    /// The definition that this is inside of.
    Recursive(Weak<Schema>),
}

/// Both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegerRange {
    pub min: i64,
    pub max: u64,
    /// As Go's decoder names the type.
    pub type_name: &'static str,
}

/// An object with known fields.
#[derive(Debug, Default)]
pub struct Struct {
    /// The definition, e.g. `core.v1.PodSpec`; empty for one without a name.
    pub name: Box<str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    pub atomic: bool,
    /// Fields that are not known are kept, whatever they hold (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
}

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    pub schema: Arc<Schema>,
    pub required: bool,
    /// The struct in this field is owned and replaced as a whole.
    pub atomic: bool,
    /// `x-kubernetes-patch-strategy: retainKeys`
    pub retain_keys: bool,
    /// The default that a list's key has when it is absent.
    pub key_default: Option<&'static str>,
}

impl Struct {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// The definition's last part: Go's name of the type.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl Schema {
    /// The schema itself, or the definition that it refers back to.
    pub fn resolve(self: &Arc<Self>) -> Arc<Schema> {
        match self.as_ref() {
            Schema::Recursive(weak) => weak.upgrade().unwrap_or_default(),
            _ => Arc::clone(self),
        }
    }

    pub fn as_struct(&self) -> Option<&Struct> {
        match self {
            Schema::Object(fields) => Some(fields),
            _ => None,
        }
    }
}

pub(crate) const DEFINITIONS: &str = "#/$defs/";
const KUBERNETES: &str = "io.k8s.";

/// `io.k8s.api.core.v1.Pod` → `core.v1.Pod`, as the tables of facts name it.
pub(crate) fn table_name(definition: &str) -> &str {
    for prefix in ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apimachinery.pkg."] {
        if let Some(rest) = definition.strip_prefix(prefix) {
            return rest;
        }
    }
    definition.strip_prefix("io.k8s.apiextensions-apiserver.pkg.apis.").unwrap_or(definition)
}

/// The tree of `root` (an answer of `subschema_for`), with the definitions of its generator.
/// `group` qualifies the names of definitions that are not Kubernetes'.
pub(crate) fn build(root: &Value, definitions: &Map<String, Value>, group: &str) -> Arc<Schema> {
    Builder { definitions, group, open: HashMap::new(), own: HashMap::new(), referred: HashSet::new() }.node(root, None)
}

/// The tree of `metadata`, which all kinds share.
pub(crate) fn metadata() -> Arc<Schema> {
    static METADATA: OnceLock<Arc<Schema>> = OnceLock::new();
    let made = METADATA.get_or_init(|| {
        let mut generator = schemars::SchemaGenerator::default();
        let root = generator.subschema_for::<meta::ObjectMeta>().to_value();
        build(&root, &generator.take_definitions(false), "")
    });
    Arc::clone(made)
}

fn shared() -> &'static Mutex<HashMap<String, Arc<Schema>>> {
    static SHARED: OnceLock<Mutex<HashMap<String, Arc<Schema>>>> = OnceLock::new();
    SHARED.get_or_init(Mutex::default)
}

struct Builder<'a> {
    definitions: &'a Map<String, Value>,
    group: &'a str,
    /// Definitions that are being built: reaching one again is recursion.
    open: HashMap<String, Weak<Schema>>,
    own: HashMap<String, Arc<Schema>>,
    /// Open definitions that something already built refers back to: it cannot be shared without them.
    referred: HashSet<String>,
}

impl Builder<'_> {
    fn definition(&mut self, name: &str) -> Arc<Schema> {
        if let Some(open) = self.open.get(name) {
            self.referred.insert(name.to_owned());
            return Arc::new(Schema::Recursive(open.clone()));
        }
        if let Some(done) = self.own.get(name) {
            return Arc::clone(done);
        }
        let kubernetes = name.starts_with(KUBERNETES);
        if kubernetes && let Some(done) = shared().lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(done);
        }
        let Some(body) = self.definitions.get(name) else { return Arc::default() };
        let built = Arc::new_cyclic(|me| {
            self.open.insert(name.to_owned(), me.clone());
            let built = match name {
                "io.k8s.apimachinery.pkg.api.resource.Quantity" => Schema::Quantity,
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => Schema::IntOrString,
                "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime" => Schema::MicroTime,
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"
                | "io.k8s.apimachinery.pkg.runtime.RawExtension"
                | "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" => Schema::Any,
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
                | "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool" => {
                    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
                    Schema::OrElse(self.definition(props))
                }
                _ => self.body(body, name, None),
            };
            self.open.remove(name);
            built
        });
        self.referred.remove(name);
        if kubernetes && self.referred.is_empty() {
            shared().lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&built));
        } else {
            self.own.insert(name.to_owned(), Arc::clone(&built));
        }
        built
    }

    /// A property, list item or map value.
    fn node(&mut self, value: &Value, facts: Option<&Facts>) -> Arc<Schema> {
        if let Some(name) = reference(value) {
            return self.definition(name);
        }
        Arc::new(self.body(value, "", facts))
    }

    fn body(&mut self, value: &Value, name: &str, facts: Option<&Facts>) -> Schema {
        if value.get("x-kubernetes-int-or-string").is_some() {
            return Schema::IntOrString;
        }
        if value.get("x-kubernetes-preserve-unknown-fields").is_some() {
            return Schema::Any;
        }
        let format = value.get("format").and_then(Value::as_str).unwrap_or_default();
        match type_of(value) {
            Some("string") => match format {
                "byte" => Schema::Bytes,
                "date-time" => Schema::Time,
                _ => Schema::String,
            },
            Some("boolean") => Schema::Boolean,
            Some("number") => Schema::Number,
            Some("integer") => Schema::Integer(integer(format)),
            Some("array") => Schema::List {
                items: value.get("items").map(|items| self.node(items, None)).unwrap_or_default(),
                kind: facts.map(|f| f.list.clone()).unwrap_or_default(),
                patch: facts.map(|f| f.patch.clone()).unwrap_or_default(),
            },
            Some("object") => self.object(value, name, facts),
            _ => Schema::Any,
        }
    }

    fn object(&mut self, value: &Value, name: &str, facts: Option<&Facts>) -> Schema {
        let atomic = facts.is_some_and(|f| f.atomic);
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            let own_name;
            let table = if name.is_empty() || name.starts_with(KUBERNETES) {
                table_name(name)
            } else {
                own_name = format!("{}.{name}", self.group);
                own_name.as_str()
            };
            let required: Vec<&str> = value
                .get("required")
                .and_then(Value::as_array)
                .map(|r| r.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let mut fields: Vec<Field> = properties
                .iter()
                .map(|(field, schema)| {
                    let facts = facts::of_field(table, field);
                    Field {
                        name: field.as_str().into(),
                        required: required.contains(&field.as_str()),
                        schema: self.node(schema, facts),
                        atomic: facts.is_some_and(|f| f.atomic),
                        retain_keys: facts.is_some_and(|f| f.retain_keys),
                        key_default: facts.and_then(|f| f.default),
                    }
                })
                .collect();
            fields.sort_by(|a, b| a.name.cmp(&b.name));
            let atomic = atomic || facts::of_field(table, "-").is_some_and(|f| f.atomic);
            return Schema::Object(Struct { name: table.into(), fields, atomic, open: false });
        }
        let values = match value.get("additionalProperties") {
            Some(values @ Value::Object(_)) => self.node(values, None),
            _ => Arc::default(),
        };
        Schema::Map { values, atomic }
    }
}

/// The definition that `value` is a reference to, also through `allOf: [$ref]` and `anyOf: [$ref, null]`.
pub(crate) fn reference(value: &Value) -> Option<&str> {
    if let Some(name) = value.get("$ref").and_then(Value::as_str) {
        return name.strip_prefix(DEFINITIONS);
    }
    ["allOf", "anyOf"]
        .iter()
        .filter_map(|k| value.get(*k)?.as_array())
        .flatten()
        .find_map(|alternative| alternative.get("$ref")?.as_str()?.strip_prefix(DEFINITIONS))
}

/// `type`, of which `["string", "null"]` is a string.
fn type_of(value: &Value) -> Option<&str> {
    match value.get("type")? {
        Value::String(one) => Some(one),
        Value::Array(many) => many.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        _ => None,
    }
}

fn integer(format: &str) -> IntegerRange {
    let (min, max, type_name) = match format {
        "int32" => (i32::MIN.into(), i32::MAX as u64, "int32"),
        "uint32" => (0, u32::MAX.into(), "uint32"),
        "uint16" => (0, u16::MAX.into(), "uint16"),
        "uint8" => (0, u8::MAX.into(), "uint8"),
        // JSON numbers of clients end at int64, and sizes in Kubernetes are int64.
        "uint64" | "uint" => (0, i64::MAX as u64, "uint64"),
        _ => (i64::MIN, i64::MAX as u64, "int64"),
    };
    IntegerRange { min, max, type_name }
}
