//! The types that the checker knows, and how cel-go prints them.

mod declaration;

use std::fmt;
use std::sync::Arc;

pub use declaration::{Declaration, ListDeclaration, ObjectType};
pub(crate) use declaration::{Kind, Merges, Step};

/// A static type.
#[derive(Debug, Clone)]
pub enum Type {
    /// What a part has whose error is already reported: it fits everything.
    Error,
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// The type of types; of which one, where that is known.
    Type(Option<Arc<Type>>),
    Optional(Arc<Type>),
    /// An object of a schema.
    Object(Arc<ObjectType>),
    /// An object that an expression makes, by name: `Object.spec`, `JSONPatch`.
    Made(Arc<str>),
    /// A type of a library, which has no fields.
    Opaque(Opaque),
    /// A variable of the checker.
    Variable(u32),
}

/// The types of Kubernetes' libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opaque {
    Url,
    Ip,
    Cidr,
    Quantity,
    Semver,
    Format,
    Authorizer,
    PathCheck,
    GroupCheck,
    ResourceCheck,
    Decision,
    /// The object that a policy's own variables are fields of.
    Variables,
}

impl Opaque {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Url => "kubernetes.URL",
            Self::Ip => "net.IP",
            Self::Cidr => "net.CIDR",
            Self::Quantity => "kubernetes.Quantity",
            Self::Semver => "kubernetes.Semver",
            Self::Format => "kubernetes.NamedFormat",
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::PathCheck => "kubernetes.authorization.PathCheck",
            Self::GroupCheck => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Self::Decision => "kubernetes.authorization.Decision",
            Self::Variables => "kubernetes.variables",
        }
    }

    /// Whether cel-go declares it as a message type, which `null` fits, rather than as an abstract one, which it fits too.
    pub(crate) const ALL: [Self; 6] = [Self::Url, Self::Ip, Self::Cidr, Self::Quantity, Self::Semver, Self::Format];
}

impl Type {
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub fn optional(of: Type) -> Self {
        Self::Optional(Arc::new(of))
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }
}

/// Objects are one type when they have one name.
impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name() == b.name(),
            (Self::Made(a), Self::Made(b)) => a == b,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Variable(a), Self::Variable(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Type(None) => f.write_str("type"),
            Self::Type(Some(of)) => write!(f, "type({of})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Object(object) => f.write_str(object.name()),
            Self::Made(name) => f.write_str(name),
            Self::Opaque(opaque) => f.write_str(opaque.name()),
            Self::Variable(number) => write!(f, "_var{number}"),
        }
    }
}
