//! Columns that a definition adds to its kind's table.

use std::borrow::Cow;

use serde_json::Value;

use crate::{
    columns::{self, Cell, CellKind, Column},
    json_path::JsonPath,
};

/// The columns of a version of a definition: the name, and what it says; the age where it says nothing.
pub(crate) fn of_version(version: &Value) -> Vec<Column> {
    let said = version["additionalPrinterColumns"].as_array();
    let Some(said) = said.filter(|said| !said.is_empty()) else { return columns::usual() };
    let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
    let column = |column: &Value| {
        let kind = CellKind::parse(&text(column, "type"));
        Column {
            name: text(column, "name").into(),
            kind: kind.as_str(),
            format: text(column, "format").into(),
            description: match text(column, "description") {
                none if none.is_empty() => {
                    let what = "Custom resource definition column (in JSONPath format): ";
                    Cow::Owned(format!("{what}{}", text(column, "jsonPath")))
                }
                said => said.into(),
            },
            priority: column["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            cell: Cell::Found(JsonPath::parse(&text(column, "jsonPath")), kind),
        }
    };
    std::iter::once(columns::name()).chain(said.iter().map(column)).collect()
}
