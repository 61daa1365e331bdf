//! Kubernetes' protobuf, of every kind: what is encoded is decoded as it was, and upstream's bytes are what upstream's JSON is.

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_schema::{
    ObjectType, Schema,
    protobuf::{self, Envelope, encode},
};
use proptest::prelude::*;
use serde_json::Map;

use super::*;

/// Objects as kube-apiserver 1.36.2 gave them, in both languages.
const UPSTREAM: &str = include_str!("../../../apiserver/tests/data/protobuf-1.36.2.jsonl");

/// Numbers that look random, and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A value that a schema allows, with nothing in it that is empty: messages do not tell that from what is not there.
fn value(schema: &Arc<Schema>, dice: &mut Dice, depth: usize) -> Option<Value> {
    Some(match schema.resolve().as_ref() {
        Schema::String => format!("é{}", dice.roll(1000)).into(),
        Schema::Bytes => STANDARD.encode([dice.roll(256) as u8, 255, 0]).into(),
        Schema::Boolean => true.into(),
        Schema::Integer(range) if range.min < 0 && dice.roll(2) == 0 => (-1 - dice.roll(1 << 20) as i64).into(),
        Schema::Integer(_) => (1 + dice.roll(200)).into(),
        Schema::Number => (0.5 + dice.roll(1000) as f64).into(),
        Schema::IntOrString if dice.roll(2) == 0 => dice.roll(1 << 16).into(),
        Schema::IntOrString => format!("{}%", dice.roll(100)).into(),
        Schema::Quantity => format!("{}Mi", dice.roll(1000)).into(),
        Schema::Time => format!("2026-01-01T00:00:{:02}Z", dice.roll(60)).into(),
        Schema::MicroTime => format!("2026-01-01T00:00:00.{:06}Z", dice.roll(1_000_000)).into(),
        Schema::Any => json!({"any": [dice.roll(9), "thing", null]}),
        Schema::List { items, .. } => {
            let items: Vec<Value> = (0..=dice.roll(2)).filter_map(|_| value(items, dice, depth + 1)).collect();
            (!items.is_empty()).then(|| items.into())?
        }
        Schema::Map { values, .. } => {
            let entry = |at: u64, dice: &mut Dice| Some((format!("key{at}"), value(values, dice, depth + 1)?));
            let entries: Map<String, Value> = (0..=dice.roll(2)).filter_map(|at| entry(at, dice)).collect();
            (!entries.is_empty()).then(|| entries.into())?
        }
        Schema::Object(shape) => {
            let numbered = protobuf::numbered(&shape.name)?;
            let mut fields = Map::new();
            for field in shape.fields.iter().filter(|field| numbered.contains(&&*field.name)) {
                // Less the deeper it is.
                if dice.roll(2 + depth as u64) == 0
                    && depth < 12
                    && let Some(made) = value(&field.schema, dice, depth + 1)
                {
                    fields.insert(field.name.to_string(), made);
                }
            }
            (!fields.is_empty()).then(|| fields.into())?
        }
        Schema::OrElse(_) | Schema::Recursive(_) => return None,
    })
}

fn read(ty: &ObjectType, message: &[u8]) -> Value {
    let body = encode::enveloped(&ty.api_version(), &ty.kind, message);
    Envelope::open(&body).unwrap().decode(ty).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_encoded_is_decoded_as_it_was(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        for ty in registry::all_kinds().filter(|ty| encode::is_known(ty)) {
            let mut object = value(ty.schema(), &mut dice, 0).unwrap_or_else(|| json!({}));
            object["apiVersion"] = ty.api_version().into();
            object["kind"] = ty.kind.clone().into();
            let message = encode::message(&ty, &object).unwrap();
            prop_assert_eq!(read(&ty, &message), object.clone());
            if object["metadata"].is_object() && ty.schema().as_struct().unwrap().field("metadata").is_some() {
                let bare = encode::metadata(&ty, &object).unwrap();
                let bare = read(&ty, &bare);
                prop_assert_eq!(bare.get("metadata"), object.get("metadata"));
            }
        }
    }
}

/// Without what is empty.
fn full(value: &Value) -> Value {
    let keep = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) => true,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), full(value)));
            fields.filter(|(_, value)| keep(value)).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(full).collect(),
        other => other.clone(),
    }
}

#[test]
fn upstreams_bytes_are_what_upstreams_json_is() {
    let (mut kinds, mut wrong) = (std::collections::BTreeSet::new(), Vec::new());
    for line in UPSTREAM.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (json, bytes) = (&case["json"], STANDARD.decode(case["protobuf"].as_str().unwrap()).unwrap());
        let (version, kind) = (json["apiVersion"].as_str().unwrap(), json["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let ty = registry::kind(group, version, kind).unwrap();
        let mut json = json.clone();
        for claim in json["spec"]["volumeClaimTemplates"].as_array_mut().into_iter().flatten() {
            // What a claim is says its place: messages do not.
            ["apiVersion", "kind"].iter().for_each(|name| drop(claim.as_object_mut().unwrap().remove(*name)));
        }
        let json = &json;
        let theirs = Envelope::open(&bytes).unwrap().decode(&ty).unwrap();
        let ours = read(&ty, &encode::message(&ty, json).unwrap());
        if full(&theirs) != full(json) || theirs != ours {
            wrong.push(format!("{}\n  json  {json}\n  theirs {theirs}\n  ours   {ours}", case["request"]));
        }
        kinds.insert(kind.to_owned());
    }
    assert!(kinds.len() >= 45, "{kinds:?}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_of_another_shape_has_no_message() {
    let ty = registry::kind("", "v1", "Pod").unwrap();
    for wrong in [
        json!(7),
        json!({"metadata": {"name": 7}}),
        json!({"metadata": {"creationTimestamp": "yesterday"}}),
        json!({"metadata": {"labels": ["a"]}}),
        json!({"spec": {"containers": {"a": "b"}}}),
        json!({"spec": {"hostNetwork": "yes"}}),
        json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
    ] {
        assert!(encode::message(&ty, &wrong).is_err(), "{wrong}");
    }
}
