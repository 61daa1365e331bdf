//! `autoscaling/v1` `Scale`: how many pods a workload wants and has, the same for all of them, whatever their fields are called.

use hypernetes_schema::walk;
use serde_json::{Value, json};

use crate::selector_text;

/// Where a resource has what a `Scale` shows: paths, names with dots between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// How many are wanted, which is what is written through it.
    pub replicas: String,
    /// How many there are.
    pub status_replicas: String,
    pub selector: PodSelector,
}

/// Which pods these are, and in what form the resource says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSelector {
    /// A `LabelSelector`.
    Terms(String),
    /// A map of labels.
    Labels(String),
    /// As it is written in a query.
    Text(String),
}

impl PodSelector {
    fn written(&self, object: &Value) -> String {
        match self {
            Self::Terms(path) => selector_text::written(walk::get(object, path).unwrap_or(&Value::Null)),
            Self::Labels(path) => selector_text::written(&json!({"matchLabels": walk::get(object, path)})),
            Self::Text(path) => walk::text(object, path).to_owned(),
        }
    }
}

impl Scale {
    /// As upstream's workloads have it.
    pub(crate) fn usual(selector: PodSelector) -> Self {
        Self { replicas: "spec.replicas".into(), status_replicas: "status.replicas".into(), selector }
    }

    /// An object's `Scale`.
    pub fn of(&self, object: &Value) -> Value {
        let number = |path| walk::get(object, path).and_then(Value::as_i64).unwrap_or(0);
        let metadata = &object["metadata"];
        json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
            },
            "spec": {"replicas": number(&self.replicas)},
            "status": {"replicas": number(&self.status_replicas), "selector": self.selector.written(object)},
        })
    }

    /// Writes how many are wanted into an object.
    pub fn put(&self, object: &mut Value, replicas: i64) {
        let path: Vec<&str> = self.replicas.split('.').collect();
        let Some((last, way)) = path.split_last() else { return };
        walk::fields(object, way).insert((*last).to_owned(), replicas.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_written_as_in_a_query() {
        let object = json!({
            "map": {"b": "1", "a": "2"},
            "terms": {"matchLabels": {"b": "1"}, "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]},
            "text": "a in (x,y)",
        });
        for (selector, written) in [
            (PodSelector::Labels("map".into()), "a=2,b=1"),
            (PodSelector::Terms("terms".into()), "a in (x,y),b=1,!c"),
            (PodSelector::Text("text".into()), "a in (x,y)"),
            (PodSelector::Terms("none".into()), ""),
            (PodSelector::Text("map".into()), ""),
        ] {
            assert_eq!(Scale::usual(selector).of(&object)["status"]["selector"], written);
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let scale = Scale { replicas: "spec.pool.size".into(), ..Scale::usual(PodSelector::Text("status.by".into())) };
        let mut object = json!({"spec": {"pool": 7, "other": true}});
        scale.put(&mut object, 3);
        assert_eq!(object, json!({"spec": {"pool": {"size": 3}, "other": true}}));
        assert_eq!(scale.of(&object)["spec"]["replicas"], 3);
    }
}
