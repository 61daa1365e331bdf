//! An object of each resource, in each cluster that has some, and what the matrix sends about it: requests that are good, so that
//! nothing but who asks can be wrong with them. Of Kubernetes' kinds it is the first that upstream took (the corpus), of our own
//! the least that there is.

use std::collections::BTreeMap;

use hypernetes_testing::{
    requests::{admin, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use super::{Home, Row, Served};

/// What each object is called, and one that is to be made.
const NAME: &str = "matrix";
const NEW: &str = "matrix-new";

/// [`NAME`], where it can be called so.
pub fn name_of(plural: &str) -> &'static str {
    match plural {
        "ipaddresses" => "192.0.2.1",
        "componentstatuses" => "etcd-0",
        DEFINITIONS => "matrix.example.org",
        _ => NAME,
    }
}
/// Their names are made of what they define.
const DEFINITIONS: &str = "customresourcedefinitions";
const CLUSTERS: [&str; 3] = [ACME, GLOBEX, "system"];
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// What there is to ask for.
pub struct There {
    /// As objects are made, by the path of their collection in a cluster.
    made_of: BTreeMap<String, Value>,
    /// As the operator reads them, by their path, the cluster's included.
    objects: BTreeMap<String, Value>,
}

/// By paths of collections, as the corpus has them: objects of the kind that were admitted.
fn of_the_corpus() -> Vec<(String, Value)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/corpus-1.36.2");
    let first = |file: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut cases = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let case = cases.find(|case| case["code"] == 201 && case.get("old").is_none()).unwrap();
        (case["request"].as_str().unwrap().to_owned(), case["object"].clone())
    };
    std::fs::read_dir(directory).unwrap().map(first).collect()
}

fn of_our_own() -> Vec<(String, Value)> {
    let all = [
        ("network", "networks", json!({})),
        ("network", "subnets", json!({"network": NAME, "cidr": "10.0.0.0/24"})),
        ("network", "ports", json!({"network": NAME})),
        ("volume", "volumes", json!({"sizeBytes": 1})),
        ("volume", "attachments", json!({"volume": NAME, "node": "another"})),
        ("identity", "domains", json!({"displayName": NAME, "enabled": true})),
        ("identity", "groups", json!({"displayName": NAME, "domain": "default"})),
        ("identity", "projects", json!({"displayName": NAME, "domain": "default", "enabled": true})),
        ("identity", "roles", json!({"displayName": NAME})),
        ("identity", "roleassignments", json!({"role": NAME, "user": NAME, "project": NAME})),
        ("identity", "tokenrevocations", json!({"user": NAME, "issuedBefore": "2026-01-01T00:00:00Z"})),
        ("identity", "users", json!({"displayName": NAME, "domain": "default"})),
    ];
    let path = |group: &str, plural: &str| format!("/apis/{group}.hypernetes.io/v1alpha1/{plural}");
    all.into_iter().map(|(group, plural, spec)| (path(group, plural), json!({"spec": spec}))).collect()
}

/// What is asked, where the resource is a question.
fn question(plural: &str) -> Value {
    let about = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    json!({"spec": match plural {
        "tokenreviews" => json!({"token": "none"}),
        "selfsubjectaccessreviews" => json!({"resourceAttributes": about}),
        "selfsubjectrulesreviews" => json!({"namespace": "default"}),
        "localsubjectaccessreviews" | "subjectaccessreviews" => json!({"user": "nobody", "resourceAttributes": about}),
        _ => json!({}),
    }})
}

/// As somebody would make it who makes another one.
fn renewed(mut object: Value, name: &str) -> Value {
    let labels = object["metadata"]["labels"].take();
    object["metadata"] = json!({"name": name, "labels": labels});
    if object["kind"] == "CustomResourceDefinition" {
        object["spec"]["names"]["plural"] = name.split('.').next().into();
    }
    object
}

/// With something to change about it.
fn labelled(mut object: Value) -> Value {
    object["metadata"]["labels"]["matrix"] = "changed".into();
    object
}

impl There {
    /// Makes them. Whatever is stored has one.
    pub async fn make(bench: &InProcess, served: &[Served], rows: &BTreeMap<String, Row>) -> Self {
        for cluster in CLUSTERS {
            bench.account(cluster).await;
        }
        let mut there =
            Self { made_of: of_the_corpus().into_iter().chain(of_our_own()).collect(), objects: BTreeMap::new() };
        let home = |one: &Served| rows.get(&one.name()).map_or(Home::Tenant, |row| row.home);
        let stored: Vec<_> = served
            .iter()
            .filter(|one| one.subresource.is_empty() && !matches!(home(one), Home::Question | Home::Told))
            .collect();
        let homes = |one: &Served| if home(one) == Home::Tenant { &CLUSTERS[..] } else { &["system"] };
        let places: Vec<_> =
            stored.iter().flat_map(|one| homes(one).iter().map(move |cluster| (*one, *cluster))).collect();
        // All at once: they are written together.
        let make = |(one, cluster): &(&Served, &'static str)| {
            let made_of = there.made_of.get(&one.collection()).cloned();
            let (path, name) = (one.within(cluster), name_of(&one.plural));
            let made_of = made_of.map(|object| renewed(object, name));
            async move {
                let Some(object) = made_of else { return };
                let made = bench.post(&infrastructure(), &path, object).await;
                assert!(made.status.is_success(), "{path}: {}", made.body);
            }
        };
        futures::future::join_all(places.iter().map(make)).await;
        for (one, cluster) in places {
            let path = format!("{}/{}", one.within(cluster), name_of(&one.plural));
            let object = bench.get(&admin("system"), &path).await;
            assert!(object.status.is_success(), "there is no {}: it is made in there.rs", one.name());
            there.objects.insert(path, object.body);
        }
        there
    }

    /// Media type and body of a request.
    pub fn body(&self, one: &Served, home: Home, cluster: &str, verb: &str) -> (&'static str, String) {
        let object = || {
            let cluster = if home == Home::Tenant { cluster } else { "system" };
            // A question is not stored.
            self.objects
                .get(&format!("{}/{}", one.within(cluster), name_of(&one.plural)))
                .cloned()
                .unwrap_or_else(|| json!({}))
        };
        let named = json!({"name": NAME, "namespace": "default"});
        let approved = json!([{"type": "Approved", "status": "True", "reason": "matrix", "message": "matrix"}]);
        let body = match (verb, one.subresource.as_str()) {
            ("get" | "list" | "watch", _) => return (JSON, String::new()),
            ("create", "") if one.plural == "bindings" => {
                json!({"metadata": named, "target": {"kind": "Node", "name": NAME}})
            }
            ("create", "") if home == Home::Question => question(&one.plural),
            ("create", "") => {
                let made_of = self.made_of.get(&one.collection()).cloned();
                let new = match one.plural.as_str() {
                    "ipaddresses" => "192.0.2.2",
                    DEFINITIONS => "matrix-new.example.org",
                    _ => NEW,
                };
                let mut another = renewed(made_of.unwrap_or_else(object), new);
                if let Some(fields) = another.as_object_mut() {
                    fields.remove("status");
                }
                another
            }
            ("create", "binding") => json!({"metadata": named, "target": {"kind": "Node", "name": NAME}}),
            ("create", "eviction") => json!({"metadata": named}),
            ("create", "token") => json!({"spec": {}}),
            ("update", "scale") => json!({"metadata": named, "spec": {"replicas": 2}}),
            ("patch", "scale") => json!({"spec": {"replicas": 2}}),
            ("update", "approval") => {
                let mut object = object();
                object["status"] = json!({"conditions": approved});
                object
            }
            ("patch", "approval") => json!({"status": {"conditions": approved}}),
            ("update", _) => labelled(object()),
            ("patch", _) => labelled(json!({})),
            _ => json!({}),
        };
        (if verb == "patch" { MERGE } else { JSON }, body.to_string())
    }
}
