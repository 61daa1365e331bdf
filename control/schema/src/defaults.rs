//! Defaulting by the table of defaults (`facts/defaults.txt`).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use serde_json::{Map, Value};

use crate::{
    Schema,
    facts::rows,
    walk::{self, child},
};

const TABLE: &str = include_str!("../facts/defaults.txt");

struct Row {
    path: Vec<&'static str>,
    value: Value,
    conditions: Vec<Condition>,
}

struct Condition {
    path: Vec<&'static str>,
    equals: Option<Value>,
    holds: bool,
}

type Table = HashMap<&'static str, Vec<Row>>;

fn table() -> &'static Table {
    static PARSED: OnceLock<Table> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut table = Table::new();
        for line in rows(TABLE) {
            let mut words = line.split_whitespace();
            let (Some(definition), Some(path), Some(json)) = (words.next(), words.next(), words.next()) else {
                debug_assert!(false, "short line {line:?}");
                continue;
            };
            let Ok(value) = serde_json::from_str(json) else {
                debug_assert!(false, "not JSON in {line:?}");
                continue;
            };
            let mut conditions = Vec::new();
            while let (Some(word), Some(what)) = (words.next(), words.next()) {
                let (path, equals) = match what.split_once('=') {
                    Some((path, json)) => (path, serde_json::from_str(json).ok()),
                    None => (what, None),
                };
                conditions.push(Condition { path: path.split('.').collect(), equals, holds: word == "if" });
            }
            table.entry(definition).or_default().push(Row { path: path.split('.').collect(), value, conditions });
        }
        table
    })
}

/// Fills in the table's defaults wherever their definitions occur, and behind them what `rules` say of a definition.
pub fn set(schema: &Arc<Schema>, object: &mut Value, rules: &dyn Fn(&str, &mut Map<String, Value>)) {
    walk::structs_mut(schema, object, &mut |definition, fields| {
        for row in table().get(&*definition.name).into_iter().flatten() {
            row.set(fields);
        }
        rules(&definition.name, fields);
    });
}

/// The definitions that the table has defaults for.
pub fn definitions() -> impl Iterator<Item = &'static str> {
    table().keys().copied()
}

impl Row {
    fn set(&self, fields: &mut Map<String, Value>) {
        if !self.conditions.iter().all(|condition| condition.met(fields)) {
            return;
        }
        let Some((last, way)) = self.path.split_last() else { return };
        let target = way.iter().fold(fields, |fields, step| child(fields, step));
        target.entry(*last).or_insert_with(|| self.value.clone());
    }
}

impl Condition {
    fn met(&self, fields: &Map<String, Value>) -> bool {
        let Some((first, rest)) = self.path.split_first() else { return false };
        let found = fields.get(*first).and_then(|value| rest.iter().try_fold(value, |value, step| value.get(step)));
        let there = match &self.equals {
            Some(wanted) => found == Some(wanted),
            None => found.is_some(),
        };
        there == self.holds
    }
}
