//! A definition, as far as controllers go: schemas are what it has most of, and nobody here reads them.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, core::ClusterResourceScope, discovery::ApiResource};
use serde::{Deserialize, Serialize};

pub const ESTABLISHED: &str = "Established";

#[derive(Debug, Clone, Deserialize)]
pub struct Definition {
    pub metadata: ObjectMeta,
    pub spec: Spec,
    #[serde(default)]
    pub status: Status,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    pub group: String,
    pub names: Names,
    pub scope: String,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    pub plural: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub singular: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list_kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    pub name: String,
    pub served: bool,
    pub storage: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub accepted_names: Names,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub r#type: String,
    pub status: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

impl Definition {
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.r#type == kind)
    }

    pub fn is_established(&self) -> bool {
        self.condition(ESTABLISHED).is_some_and(|condition| condition.status == "True")
    }

    pub fn is_namespaced(&self) -> bool {
        self.spec.scope == "Namespaced"
    }

    /// Its kind, in the version that its objects are reached by; none while it is not served.
    pub fn kind(&self) -> Option<ApiResource> {
        let going = self.metadata.deletion_timestamp.is_some();
        // While it goes its objects can be reached as they are stored, served or not.
        let reached = |version: &&Version| version.served || going && version.storage;
        let version = self.spec.versions.iter().filter(reached).max_by_key(|version| version.storage)?;
        let names = &self.status.accepted_names;
        self.is_established().then(|| ApiResource {
            group: self.spec.group.clone(),
            version: version.name.clone(),
            api_version: format!("{}/{}", self.spec.group, version.name),
            kind: names.kind.clone(),
            plural: names.plural.clone(),
        })
    }
}

impl Resource for Definition {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
