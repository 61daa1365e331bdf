//! Bindings: which policy holds where, with which parameters.

use serde_json::Value;

use crate::matching::Matching;

/// `ValidatingAdmissionPolicyBinding` or `MutatingAdmissionPolicyBinding`.
#[derive(Debug, Clone)]
pub struct Binding {
    pub name: String,
    pub policy: String,
    pub parameters: Option<Parameters>,
    pub matching: Matching,
    /// `Deny`, `Warn`, `Audit`; a mutating policy's has none.
    pub actions: Vec<String>,
}

/// Where a binding's parameters are.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Empty: the request's.
    pub namespace: String,
    pub of: Which,
    /// What is done where there are none.
    pub absent: Absent,
}

#[derive(Debug, Clone)]
pub enum Which {
    Named(String),
    Selected(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    Allow,
    Deny,
}

impl Binding {
    pub fn of(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        Self {
            name: text(&binding["metadata"]["name"]),
            policy: text(&spec["policyName"]),
            parameters: Some(&spec["paramRef"]).filter(|reference| reference.is_object()).map(|reference| Parameters {
                namespace: text(&reference["namespace"]),
                of: match reference["name"].as_str().filter(|name| !name.is_empty()) {
                    Some(name) => Which::Named(name.to_owned()),
                    None => Which::Selected(reference["selector"].clone()),
                },
                // Absence of the field never lets in more than upstream does: it is required, and denies.
                absent: if reference["parameterNotFoundAction"] == "Allow" { Absent::Allow } else { Absent::Deny },
            }),
            matching: Matching::of(&spec["matchResources"]),
            actions: actions.map(text).collect(),
        }
    }
}
