//! The schema tree.
use std::sync::{Arc, Weak};

/// What a value must look like.
#[derive(Debug, Default)]
pub struct Schema {
    pub shape: Shape,
    /// `null` is kept and not dropped.
    pub nullable: bool,
}

#[derive(Debug, Default)]
pub enum Shape {
    /// Anything at all (`RawExtension`, `x-kubernetes-preserve-unknown-fields`).
    #[default]
    Any,
    String,
    /// base64 text
    Bytes,
    /// RFC 3339
    Time,
    Boolean,
    Integer {
        bits: u8,
    },
    Number,
    IntOrString,
    Quantity,
    /// Known fields, sorted by name.
    Object {
        fields: Vec<Field>,
        /// Owned and replaced as a whole (`x-kubernetes-map-type: atomic`).
        atomic: bool,
    },
    Map {
        values: Arc<Schema>,
        atomic: bool,
    },
    List {
        items: Arc<Schema>,
        kind: ListKind,
        /// `x-kubernetes-patch-merge-key`, for strategic merge patches.
        patch_key: Option<Box<str>>,
        /// `x-kubernetes-patch-strategy: merge`
        patch_merge: bool,
    },
    /// The definition that this is inside of.
    Recursive(Weak<Schema>),
}

/// `x-kubernetes-list-type` and `x-kubernetes-list-map-keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// By key fields, in the schema's order.
    Map(Vec<Box<str>>),
}

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    pub schema: Arc<Schema>,
    pub atomic: bool,
    /// `x-kubernetes-patch-strategy: retainKeys`
    pub retain_keys: bool,
}
