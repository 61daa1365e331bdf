//! `meta.k8s.io/v1` Tables, what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    columns::{Column, show},
    resource::Resource,
};

/// The `includeObject` query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    /// The object's metadata as `PartialObjectMetadata`: the default.
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

impl Resource {
    /// The `columnDefinitions` of the resource's tables.
    pub fn column_definitions(&self) -> Value {
        let definition = |column: &Column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name, "type": column.kind, "format": format, "description": "",
                "priority": i32::from(column.wide),
            })
        };
        self.columns.iter().map(definition).collect()
    }

    /// An object as a row; ages are told as of `now`.
    pub fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let cells: Vec<Value> = self.columns.iter().map(|column| show(&column.cell, object, now)).collect();
        let mut row = json!({"cells": cells});
        match include {
            IncludeObject::None => {}
            IncludeObject::Object => row["object"] = object.clone(),
            IncludeObject::Metadata => {
                row["object"] = json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                });
            }
        }
        row
    }
}
