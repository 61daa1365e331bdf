//! Objects as no validation would let them in: for tests of who acts on what is stored.
//!
//! They go straight into the store, past the API: what is there may be older than its rules.

use bytes::{BufMut, Bytes, BytesMut};
use hypernetes_api::TenantId;
use hypernetes_store::{Key, Op, ResourceId, Store, Txn};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

/// A kind that a tenant writes and somebody acts on.
pub struct Kind {
    pub group: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    /// Its objects are in the namespace `default`, or in none.
    pub namespaced: bool,
    /// What is good, to be spoiled.
    pub good: Value,
}

/// What `HOSTILE_SEED` says, which is told again when the test fails.
pub fn seed() -> StdRng {
    let seed = std::env::var("HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("HOSTILE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// What stands where a name, number or quantity is expected.
const TEXTS: [&str; 22] = [
    "",
    ".",
    "..",
    "/",
    "#",
    "a/b",
    "../../../../x",
    "x?watch=true&timeoutSeconds=99999999999",
    "x?watch=true&timeoutSeconds=99999999999#",
    "%2e%2e%2f",
    "a\0b",
    "a\r\nHost: x",
    "ä\u{202e}☃",
    "-200Gi",
    "1e999999999",
    "9223372036854775808",
    "99999999999999999999999%",
    "-9%",
    "9999-12-31T23:59:59.999999999Z",
    "-009999-01-01T00:00:00Z",
    "Always",
    "default",
];

/// One of these, or a long one.
pub fn text(random: &mut StdRng) -> String {
    match random.random_range(0..12) {
        0 => "x".repeat(300),
        1 => "☃".repeat(5000),
        _ => (*TEXTS.choose(random).unwrap()).to_owned(),
    }
}

/// The ends of what numbers there are, and small ones.
pub fn number(random: &mut StdRng) -> Value {
    match random.random_range(0..10) {
        0 => json!(i64::MAX),
        1 => json!(i64::MIN),
        2 => json!(i32::MAX),
        3 => json!(i32::MIN),
        4 => json!(u64::MAX),
        5 => json!(-1),
        6 => json!(1e308),
        7 => json!(0.5),
        8 => json!(0),
        _ => json!(random.random_range(-3..3)),
    }
}

/// Any JSON.
pub fn any(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2 => number(random),
        3 | 4 => text(random).into(),
        5 => (0..random.random_range(0..3)).map(|_| any(random, depth - 1)).collect(),
        _ => {
            let names = ["name", "metadata", "spec", "matchLabels", "storage", "uid", "", "a/b"];
            let pairs = (0..random.random_range(0..3))
                .map(|_| ((*names.choose(random).unwrap()).to_owned(), any(random, depth - 1)));
            Value::Object(pairs.collect())
        }
    }
}

/// Changes a few places of a good object: most keep their type, so that the object is taken for one of its kind. Numbers
/// of copies stay small: how many may be made is another matter.
pub fn spoil(random: &mut StdRng, value: &mut Value, name: &str, rate: f64) {
    match value {
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                match random.random_range(0.0..1.0) {
                    dice if dice < rate * 0.1 => drop(map.remove(&name)),
                    dice if dice < rate * 0.2 && name != "replicas" => drop(map.insert(name, any(random, 3))),
                    _ => spoil(random, &mut map[name.as_str()], &name, rate),
                }
            }
        }
        Value::Array(items) => {
            if random.random_bool(rate * 0.2) {
                items.clear();
            }
            items.iter_mut().for_each(|item| spoil(random, item, name, rate));
        }
        Value::String(old) if random.random_bool(rate) => *old = text(random),
        Value::Number(_) if name == "replicas" => *value = json!([i32::MIN, -1, 0, 1, 2].choose(random).unwrap()),
        Value::Number(_) if random.random_bool(rate) => *value = number(random),
        _ => {}
    }
}

/// Of the kind's object of that number, whose name is the plural's first letter and the number: some are being deleted, some
/// have owners that there are or are not.
pub fn metadata(random: &mut StdRng, kind: &Kind, number: usize) -> Value {
    let mut metadata = json!({
        "name": format!("{}{number}", &kind.plural[..1]), "uid": format!("{}-{number}", kind.plural),
        "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
    });
    if random.random_bool(0.3) {
        let owners = ["Deployment", "ReplicaSet", "Node", "Pod", "PersistentVolume", "ConfigMap", "Namespace"];
        let mut owner = json!({"apiVersion": "apps/v1", "kind": owners.choose(random).unwrap(), "name": "d0",
            "uid": "u", "controller": true, "blockOwnerDeletion": true});
        spoil(random, &mut owner, "", 0.2);
        metadata["ownerReferences"] = json!([owner]);
    }
    if random.random_bool(0.2) {
        let finalizer = ["foregroundDeletion", "orphan", "a/b"].choose(random).unwrap();
        metadata["finalizers"] = json!([finalizer]);
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        metadata["deletionGracePeriodSeconds"] = json!(0);
    }
    metadata
}

/// Puts spoiled objects of these kinds, so many of each, into the store, over those of before.
pub async fn attack(random: &mut StdRng, store: &Store, tenant: &TenantId, kinds: &[Kind], objects: usize) {
    for kind in kinds {
        for number in 0..objects {
            let mut object = kind.good.clone();
            let rate = *[0.0, 0.02, 0.1, 0.3].choose(random).unwrap();
            spoil(random, &mut object, "", rate);
            if random.random_bool(0.1) {
                object["spec"] = any(random, 4);
            }
            object["metadata"] = metadata(random, kind, number);
            self::store(store, kind, tenant, object).await;
        }
    }
}

/// Puts an object, which has a name, into the store; over the one that was there.
///
/// # Panics
/// When that cannot be written.
pub async fn store(store: &Store, kind: &Kind, tenant: &TenantId, mut object: Value) {
    object["kind"] = kind.kind.into();
    object["apiVersion"] = match kind.group {
        "" => "v1".into(),
        "apps" => "apps/v1".into(),
        group => format!("{group}/v1alpha1").into(),
    };
    let namespace = if kind.namespaced { "default" } else { "" };
    if kind.namespaced {
        object["metadata"]["namespace"] = namespace.into();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let resource = ResourceId::new(kind.group, kind.plural);
    let key = Key::new(&resource, tenant, namespace, name).expect("the object has a name");
    let txn = Txn { guards: vec![], ops: vec![Op::Put(key, stored(object))] };
    store.commit(txn).await.expect("the store takes it");
}

/// As the API server stores objects: without a version, and with the place where that belongs.
fn stored(mut object: Value) -> Bytes {
    let metadata = object.as_object_mut().unwrap().remove("metadata").unwrap().to_string();
    let rest = object.to_string();
    let mut out = BytesMut::new();
    out.put_u32(b"{\"metadata\":{".len() as u32);
    out.put_slice(format!("{{\"metadata\":{metadata},{}", &rest[1..]).as_bytes());
    out.freeze()
}
