//! The table of merge facts (`facts/merge.txt`), which `schemars` cannot tell.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("../facts/merge.txt");

/// `x-kubernetes-list-type` and `x-kubernetes-list-map-keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// By key fields, in the schema's order.
    Map(Vec<Box<str>>),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListPatch {
    #[default]
    Replace,
    /// Of scalars.
    Merge,
    MergeBy(Box<str>),
}

/// What the table says of one field, or of a definition as a whole.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub list: ListKind,
    pub patch: ListPatch,
    pub atomic: bool,
    pub retain_keys: bool,
    /// It need not be there, though the type has no empty value.
    pub optional: bool,
    /// Of its fields only one is there: the field that says which, and those that it chooses from.
    pub union: Option<&'static str>,
    /// JSON
    pub default: Option<&'static str>,
}

type Table = HashMap<&'static str, Vec<(&'static str, Facts)>>;

/// Facts of `field` of `definition` (short name); the field `-` is the definition itself.
pub(crate) fn of_field(definition: &str, field: &str) -> Option<&'static Facts> {
    static PARSED: OnceLock<Table> = OnceLock::new();
    let rows = PARSED.get_or_init(parse).get(definition)?;
    rows.iter().find(|(name, _)| *name == field).map(|(_, facts)| facts)
}

fn parse() -> Table {
    let mut table = Table::new();
    for line in rows(TABLE) {
        let mut words = line.split_whitespace();
        let (Some(definition), Some(field)) = (words.next(), words.next()) else { continue };
        let mut facts = Facts::default();
        for word in words {
            match word.split_once('=') {
                Some(("map", keys)) => facts.list = ListKind::Map(keys.split(',').map(Into::into).collect()),
                Some(("merge", key)) => facts.patch = ListPatch::MergeBy(key.into()),
                Some(("default", json)) => facts.default = Some(json),
                Some(("union", fields)) => facts.union = Some(fields),
                None if word == "optional" => facts.optional = true,
                None if word == "set" => facts.list = ListKind::Set,
                None if word == "merge" => facts.patch = ListPatch::Merge,
                None if word == "atomic" => facts.atomic = true,
                None if word == "retainKeys" => facts.retain_keys = true,
                _ => debug_assert!(false, "unknown fact {word:?}"),
            }
        }
        table.entry(definition).or_default().push((field, facts));
    }
    table
}

/// Every definition and field that the table has something to say of.
pub fn named() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = rows(TABLE).map(str::split_whitespace);
    lines.filter_map(|mut words| Some((words.next()?, words.next()?)))
}

/// The lines of a table without comments and blank ones.
pub(crate) fn rows(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}
