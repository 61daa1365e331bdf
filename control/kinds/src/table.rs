//! `meta.k8s.io/v1` Tables, what `kubectl get` prints.

use serde_json::{Value, json};

use crate::{cells::Cells, columns::Column, resource::Resource};

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
            let format = if column.name_like { "name" } else { "" };
            json!({
                "name": column.name, "type": column.kind, "format": format, "description": "",
                "priority": i32::from(column.wide),
            })
        };
        self.columns.iter().map(definition).collect()
    }

    /// The cells of an object's row.
    pub fn cells(&self, object: &Value) -> Cells {
        Cells::of(&self.columns, object)
    }
}
