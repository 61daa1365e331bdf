//! What a structural OpenAPI schema declares: the types of an object's parts, and how large they can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::Type;
use crate::limits::REQUEST_BYTES;
use crate::names::escape;

/// The declared shape of a JSON value.
#[derive(Debug, Clone)]
pub struct Declaration {
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    /// Characters, bytes, elements or entries that a value can have: upstream's `MaxElements`, which is 0 for what has none.
    pub(crate) most: u64,
    /// Bytes of the smallest value, written as JSON.
    least_bytes: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Of any shape, as JSON shows it.
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Date,
    IntOrString,
    List(Arc<ListDeclaration>),
    Map(Arc<Declaration>),
    Object(Arc<ObjectType>),
}

#[doc(hidden)]
#[derive(Debug)]
pub struct ListDeclaration {
    pub(crate) items: Declaration,
    pub(crate) merges: Merges,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Merges {
    Atomic,
    Set,
    /// By the fields of these names.
    Map(Vec<String>),
}

/// A type with named fields.
#[derive(Debug)]
pub struct ObjectType {
    name: String,
    /// By the name as expressions write it.
    fields: BTreeMap<String, Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    /// The name in JSON.
    pub name: String,
    pub declaration: Declaration,
}

impl ObjectType {
    /// An object whose fields' names expressions write as they are.
    pub fn new(name: impl Into<String>, fields: impl IntoIterator<Item = (&'static str, Declaration)>) -> Arc<Self> {
        let fields = fields
            .into_iter()
            .map(|(name, declaration)| (name.to_owned(), Field { name: name.to_owned(), declaration }))
            .collect();
        Arc::new(Self { name: name.into(), fields })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// The field that has this name in JSON.
    pub(crate) fn field_of_json(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).filter(|field| field.name == name).or_else(|| self.fields.get(escape(name)?.as_ref()))
    }
}

/// Bytes of `""`, of a date, of the shortest and the longest date and time, and of the same of durations, in quotes.
const STRING_BYTES: u64 = 2;
const DATE_BYTES: u64 = 12;
const DATE_TIME_BYTES: (u64, u64) = (21, 32);
const DURATION_BYTES: (u64, u64) = (3, 32);

impl Declaration {
    fn simple(kind: Kind, most: u64, least_bytes: u64) -> Self {
        Self { kind, nullable: false, most, least_bytes }
    }

    /// Of any shape.
    pub fn any() -> Self {
        Self::simple(Kind::Dyn, REQUEST_BYTES - 2, 1)
    }

    pub fn boolean() -> Self {
        Self::simple(Kind::Bool, 0, 4)
    }

    pub fn integer() -> Self {
        Self::simple(Kind::Int, 0, 1)
    }

    pub fn string() -> Self {
        Self::simple(Kind::String, REQUEST_BYTES - 2, STRING_BYTES)
    }

    pub fn timestamp() -> Self {
        Self::simple(Kind::Timestamp, DATE_TIME_BYTES.1, DATE_TIME_BYTES.0)
    }

    pub fn list(items: Declaration) -> Self {
        let most = (REQUEST_BYTES - 2) / (items.least_bytes + 1);
        Self::list_of(items, most, Merges::Atomic)
    }

    pub fn map(values: Declaration) -> Self {
        let most = (REQUEST_BYTES - 2) / (values.least_bytes + 6);
        Self::simple(Kind::Map(Arc::new(values)), most, 2)
    }

    pub fn object(object: Arc<ObjectType>) -> Self {
        Self::simple(Kind::Object(object), 0, 2)
    }

    fn list_of(items: Declaration, most: u64, merges: Merges) -> Self {
        Self::simple(Kind::List(Arc::new(ListDeclaration { items, merges })), most, 2)
    }

    /// What a structural schema (OpenAPI v3, as JSON) declares; `name` is the type's, `is_resource` whether it is that of a
    /// whole resource, which has `apiVersion`, `kind` and a name whatever it says. `None` if expressions cannot see such
    /// a value: arrays of nothing, and what is kept without a type.
    pub fn of_schema(name: &str, schema: &Json, is_resource: bool) -> Option<Self> {
        let mut declared = Self::of_type(name, schema, is_resource)?;
        declared.nullable = schema["nullable"].as_bool().unwrap_or(false);
        Some(declared)
    }

    fn of_type(name: &str, schema: &Json, is_resource: bool) -> Option<Self> {
        let count = |key: &str| schema[key].as_i64().map(|n| u64::try_from(n).unwrap_or(0));
        let is = |key: &str| schema[key].as_bool().unwrap_or(false);
        let text = |default: u64| count("maxLength").map_or(default, |most| most.saturating_mul(4));
        let either = schema.get("type").is_none() && schema["format"] == "int-or-string";
        if either || is("x-kubernetes-int-or-string") {
            return Some(Self::simple(Kind::IntOrString, text(REQUEST_BYTES - 2), 1));
        }
        match schema["type"].as_str()? {
            "array" => {
                let items = &schema["items"];
                let items = Self::of_schema(&format!("{name}.@idx"), items, embeds(items))?;
                let most = count("maxItems").unwrap_or((REQUEST_BYTES - 2) / (items.least_bytes + 1));
                let keys = schema["x-kubernetes-list-map-keys"].as_array();
                let merges = match schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => Merges::Set,
                    Some("map") => Merges::Map(
                        keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect(),
                    ),
                    _ => Merges::Atomic,
                };
                Some(Self::list_of(items, most, merges))
            }
            "object" if schema["additionalProperties"].is_object() => {
                let values = &schema["additionalProperties"];
                let values = Self::of_schema(&format!("{name}.@elem"), values, embeds(values))?;
                let most = count("maxProperties").unwrap_or((REQUEST_BYTES - 2) / (values.least_bytes + 6));
                Some(Self::simple(Kind::Map(Arc::new(values)), most, 2))
            }
            "object" => Some(Self::of_properties(name, schema, is_resource)),
            "string" => Some(match schema["format"].as_str() {
                Some("byte") => {
                    Self::simple(Kind::Bytes, count("maxLength").unwrap_or(REQUEST_BYTES - 2), STRING_BYTES)
                }
                Some("duration") => Self::simple(Kind::Duration, DURATION_BYTES.1, DURATION_BYTES.0),
                Some("date") => Self::simple(Kind::Date, DATE_BYTES, DATE_BYTES),
                Some("date-time") => Self::timestamp(),
                _ => {
                    let choices = schema["enum"].as_array().filter(|choices| !choices.is_empty()).map(|choices| {
                        choices.iter().filter_map(Json::as_str).map(|s| s.len() as u64).max().unwrap_or(0)
                    });
                    Self::simple(Kind::String, text(choices.unwrap_or(REQUEST_BYTES - 2)), STRING_BYTES)
                }
            }),
            "boolean" => Some(Self::boolean()),
            "number" => Some(Self::simple(Kind::Double, 0, 1)),
            "integer" => Some(Self::integer()),
            _ => None,
        }
    }

    fn of_properties(name: &str, schema: &Json, is_resource: bool) -> Self {
        let mut fields = BTreeMap::new();
        let mut least_bytes = 2;
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        for (property, of) in schema["properties"].as_object().into_iter().flatten() {
            let Some(declaration) = Self::of_schema(&format!("{name}.{property}"), of, embeds(of)) else { continue };
            if required.contains(&property.as_str()) && of.get("default").is_none() {
                least_bytes += property.len() as u64 + declaration.least_bytes + 4;
            }
            if let Some(written) = escape(property) {
                fields.insert(written.into_owned(), Field { name: property.clone(), declaration });
            }
        }
        if is_resource && !has_names(schema) {
            let mut insert = |of: &str, declaration| {
                fields.insert(of.to_owned(), Field { name: of.to_owned(), declaration });
            };
            insert("apiVersion", Self::string());
            insert("kind", Self::string());
            let metadata = [("name", Self::string()), ("generateName", Self::string())];
            insert("metadata", Self::object(ObjectType::new(format!("{name}.metadata"), metadata)));
        }
        let object = ObjectType { name: name.to_owned(), fields };
        Self::simple(Kind::Object(Arc::new(object)), 0, least_bytes)
    }

    /// The static type of such a value.
    pub fn ty(&self) -> Type {
        match &self.kind {
            Kind::Dyn | Kind::IntOrString => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::String => Type::String,
            Kind::Bytes => Type::Bytes,
            Kind::Duration => Type::Duration,
            Kind::Timestamp | Kind::Date => Type::Timestamp,
            Kind::List(list) => Type::list(list.items.ty()),
            Kind::Map(values) => Type::map(Type::String, values.ty()),
            Kind::Object(object) => Type::Object(object.clone()),
        }
    }

    /// Elements of a list or values of a map.
    pub fn element(&self) -> Option<&Declaration> {
        match &self.kind {
            Kind::List(list) => Some(&list.items),
            Kind::Map(values) => Some(values),
            _ => None,
        }
    }

    /// A field, by its name in JSON.
    pub fn property(&self, name: &str) -> Option<&Declaration> {
        match &self.kind {
            Kind::Object(object) => object.field_of_json(name).map(|field| &field.declaration),
            _ => None,
        }
    }

    /// How often such a value can be in one request: upstream's `maxCardinality`, which a rule's cost is multiplied by.
    pub fn cardinality(&self) -> u64 {
        REQUEST_BYTES / (self.least_bytes + 1)
    }

    /// Elements or entries that a list or map can have.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// How large a part is, by the path that an expression takes to it.
    pub(crate) fn most_at(&self, path: &[Step]) -> Option<u64> {
        let mut at = self;
        for step in path {
            at = match (step, &at.kind) {
                (Step::Element, _) => at.element()?,
                // Keys have no declared length: upstream's `StringType`.
                (Step::Key, Kind::Map(_)) => return Some(0),
                (Step::Field(name), Kind::Object(object)) => &object.field(name)?.declaration,
                _ => return None,
            };
        }
        Some(at.most)
    }
}

/// A step from a value to a part of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Field(String),
    Element,
    Key,
    Index,
}

/// Whether the schema itself has all that a resource always has.
fn has_names(schema: &Json) -> bool {
    let is = |of: &Json, ty| of["type"] == ty;
    let (own, metadata) = (&schema["properties"], &schema["properties"]["metadata"]);
    let texts =
        [&own["apiVersion"], &own["kind"], &metadata["properties"]["name"], &metadata["properties"]["generateName"]];
    is(metadata, "object") && texts.into_iter().all(|text| is(text, "string"))
}

fn embeds(schema: &Json) -> bool {
    schema["x-kubernetes-embedded-resource"].as_bool().unwrap_or(false)
}
