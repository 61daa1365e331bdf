//! The table of merge facts (`facts/merge.txt`), which `schemars` cannot tell.

use crate::tree::{ListKind, ListPatch};
use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("../facts/merge.txt");

/// What the table says of one field, or of a definition as a whole.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub list: ListKind,
    pub patch: ListPatch,
    pub atomic: bool,
    pub retain_keys: bool,
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

/// The lines of a table without comments and blank ones.
pub(crate) fn rows(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectType, Schema};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn collect(schema: &Arc<Schema>, seen: &mut BTreeSet<(String, String)>) {
        match schema.as_ref() {
            Schema::Object(fields) => {
                if !seen.insert((fields.name.to_string(), "-".into())) {
                    return;
                }
                for field in &fields.fields {
                    seen.insert((fields.name.to_string(), field.name.to_string()));
                    collect(&field.schema, seen);
                }
            }
            Schema::Map { values, .. } => collect(values, seen),
            Schema::List { items, .. } => collect(items, seen),
            _ => {}
        }
    }

    #[test]
    fn every_fact_is_of_a_field_that_exists() {
        let mut seen = BTreeSet::new();
        for ty in ObjectType::all_builtin() {
            collect(ty.schema(), &mut seen);
        }
        let unknown: Vec<String> = parse()
            .iter()
            .flat_map(|(definition, fields)| fields.iter().map(|(f, _)| ((*definition).to_owned(), (*f).to_owned())))
            .filter(|row| !seen.contains(row))
            .map(|(d, f)| format!("{d} {f}"))
            .collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
    }
}
