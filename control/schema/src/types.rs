//! The shape of one kind: its schema, and the decoding that it guides, behind one handle.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope, Resource, SubResourceScope, apimachinery::pkg::apis::meta::v1 as meta,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::{Schema, Structural, tree};

/// One group, version and kind.
#[derive(Debug)]
pub struct ObjectType {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub namespaced: bool,
    source: Source,
    schema: OnceLock<Arc<Schema>>,
    /// What bodies are read by, where that is not the schema.
    body: OnceLock<Arc<Schema>>,
}

/// Where the schema comes from.
#[derive(Debug)]
enum Source {
    /// The type's own schema is the whole object's.
    Whole(Generate),
    /// The type's own schema has the object without `apiVersion`, `kind` and `metadata`.
    WithoutMetadata(Generate),
    /// A tenant's definition has it.
    Defined(Defined),
}

/// Gives the `openAPIV3Schema` of a definition's version, as it was written.
pub type Written = Box<dyn Fn() -> Value + Send + Sync>;

/// Most of what tenants define is never used, or seldom: it stays where it is written until it is, and is then understood once.
struct Defined {
    written: Written,
    structural: OnceLock<Arc<Structural>>,
}

impl Defined {
    fn structural(&self) -> &Arc<Structural> {
        self.structural.get_or_init(|| Arc::new(Structural::parse(&(self.written)())))
    }
}

impl fmt::Debug for Defined {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Defined").field("structural", &self.structural).finish_non_exhaustive()
    }
}

type Generate = fn(&mut SchemaGenerator) -> schemars::Schema;

fn generate<T: JsonSchema>(generator: &mut SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<T>()
}

/// Whether objects of a scope live in namespaces.
pub trait Scope {
    const NAMESPACED: bool;
}
impl Scope for ClusterResourceScope {
    const NAMESPACED: bool = false;
}
impl Scope for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}
impl Scope for SubResourceScope {
    const NAMESPACED: bool = true;
}

impl ObjectType {
    /// One of Kubernetes' types.
    pub fn kubernetes<T: Resource<Scope: Scope> + JsonSchema>() -> Self {
        Self::whole::<T>(T::GROUP, T::VERSION, T::KIND, <T::Scope as Scope>::NAMESPACED)
    }

    /// A type that has all of an object, under a name that is given.
    pub fn whole<T: JsonSchema>(group: &str, version: &str, kind: &str, namespaced: bool) -> Self {
        Self::new(group, version, kind, namespaced, Source::Whole(generate::<T>))
    }

    /// A type that has an object's parts but `apiVersion`, `kind` and `metadata`.
    pub fn without_metadata<T: JsonSchema>(group: &str, version: &str, kind: &str, namespaced: bool) -> Self {
        Self::new(group, version, kind, namespaced, Source::WithoutMetadata(generate::<T>))
    }

    fn new(group: &str, version: &str, kind: &str, namespaced: bool, source: Source) -> Self {
        let (group, version, kind) = (group.to_owned(), version.to_owned(), kind.to_owned());
        Self { group, version, kind, namespaced, source, schema: OnceLock::new(), body: OnceLock::new() }
    }

    /// A kind of a tenant's own.
    pub fn defined(group: &str, version: &str, kind: &str, namespaced: bool, written: Written) -> Self {
        let source = Source::Defined(Defined { written, structural: OnceLock::new() });
        Self::new(group, version, kind, namespaced, source)
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether the kind's type has no metadata of its own: it is none of Kubernetes'.
    pub fn is_own(&self) -> bool {
        !matches!(self.source, Source::Whole(_))
    }

    /// Whether a tenant has defined it.
    pub fn is_defined(&self) -> bool {
        matches!(self.source, Source::Defined(_))
    }

    /// The schema of a kind that a tenant has defined.
    pub fn structural(&self) -> Option<&Arc<Structural>> {
        match &self.source {
            Source::Defined(defined) => Some(defined.structural()),
            Source::Whole(_) | Source::WithoutMetadata(_) => None,
        }
    }

    /// The schema of a kind that a tenant has defined, as it was written. It is read anew each time.
    pub fn definition(&self) -> Option<Value> {
        match &self.source {
            Source::Defined(defined) => Some((defined.written)()),
            Source::Whole(_) | Source::WithoutMetadata(_) => None,
        }
    }

    /// What bodies are read by. Of a kind that a tenant has defined any value may be anything: what it should be is
    /// validation's.
    pub(crate) fn body(&self) -> &Arc<Schema> {
        match &self.source {
            Source::Defined(..) => self.body.get_or_init(Structural::body),
            Source::Whole(_) | Source::WithoutMetadata(_) => self.schema(),
        }
    }

    /// The schema tree, built on first use.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| match &self.source {
            Source::Defined(defined) => defined.structural().shape(),
            Source::Whole(_) | Source::WithoutMetadata(_) => {
                let (root, definitions) = self.generated();
                tree::build(&root, &definitions, &self.table_prefix())
            }
        })
    }

    /// `schemars`' output with descriptions, made anew each time: the root (a reference) and all definitions.
    pub(crate) fn generated(&self) -> (Value, Map<String, Value>) {
        let mut generator = SchemaGenerator::default();
        let root = match &self.source {
            Source::Whole(generate) | Source::WithoutMetadata(generate) => generate(&mut generator).to_value(),
            Source::Defined(..) => json!({"$ref": format!("{}{}", tree::DEFINITIONS, self.kind)}),
        };
        let metadata = generator.subschema_for::<meta::ObjectMeta>().to_value();
        let mut definitions = generator.take_definitions(false);
        if let Some(mut schema) = self.definition() {
            if schema.get("properties").is_none()
                && let Some(fields) = schema.as_object_mut()
            {
                fields.insert("properties".into(), json!({}));
            }
            definitions.insert(self.kind.clone(), schema);
        }
        if self.is_own()
            && let Some(properties) = tree::reference(&root)
                .and_then(|name| definitions.get_mut(name))
                .and_then(|body| body.get_mut("properties"))
                .and_then(Value::as_object_mut)
        {
            properties.insert("apiVersion".into(), json!({"type": "string", "description": API_VERSION_TEXT}));
            properties.insert("kind".into(), json!({"type": "string", "description": KIND_TEXT}));
            properties.insert("metadata".into(), metadata);
        }
        (root, definitions)
    }

    /// `network.hypernetes.io.v1alpha1`: what definitions of an own group are called by.
    pub(crate) fn table_prefix(&self) -> String {
        format!("{}.{}", self.group, self.version)
    }
}

pub(crate) const API_VERSION_TEXT: &str = "The version of the schema of this object, such as v1 or apps/v1.";
pub(crate) const KIND_TEXT: &str = "The kind of this object, in CamelCase. It cannot be changed.";
