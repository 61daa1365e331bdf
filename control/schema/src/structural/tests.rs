use serde_json::{Value, json};

use super::{FaultKind, Structural};

fn schema(value: Value) -> Structural {
    Structural::parse(&value)
}

fn of_spec(spec: Value) -> Structural {
    schema(json!({"type": "object", "properties": {"spec": spec}}))
}

fn pruned(schema: &Structural, mut object: Value) -> (Value, Vec<String>) {
    let mut dropped = Vec::new();
    schema.prune(&mut object, &mut |path| dropped.push(path));
    (object, dropped)
}

/// The causes of a spec's faults.
fn faults(spec: Value, value: Value) -> Vec<String> {
    let found = of_spec(spec).faults(&json!({"spec": value}));
    let words = |kind: FaultKind| match kind {
        FaultKind::TooLong(most) => format!("too long {most}"),
        FaultKind::TooMany(there, most) => format!("too many {there} {most}"),
        FaultKind::NotSupported(values) => format!("not supported {}", values.join(",")),
        kind => format!("{kind:?}"),
    };
    found
        .into_iter()
        .map(|one| format!("{}: {}: {}", one.path.unwrap_or_default(), words(one.kind), one.detail))
        .collect()
}

#[test]
fn what_is_not_known_is_dropped_and_told() {
    let schema = schema(json!({"type": "object", "properties": {
    "spec": {"type": "object", "properties": {
        "a": {"type": "integer"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "known": {"type": "object", "properties": {"b": {"type": "string"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "string"}}}},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
    }}}}));
    let (object, dropped) = pruned(
        &schema,
        json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "n", "odd": 1}, "other": 1, "spec": {
            "a": 1, "z": 2, "free": {"x": {"y": 1}, "known": {"b": "", "q": 1}}, "map": {"k": {"c": "", "e": 1}},
            "list": [{"d": ""}, {"f": 1}], "pod": {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"g": 1}, "h": 1}}}),
    );
    assert_eq!(
        object,
        json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "n", "odd": 1}, "spec": {
            "a": 1, "free": {"x": {"y": 1}, "known": {"b": ""}}, "map": {"k": {"c": ""}}, "list": [{"d": ""}, {}],
            "pod": {"kind": "Pod", "metadata": {"name": "p"}, "spec": {}}}})
    );
    let told =
        ["other", "spec.free.known.q", "spec.list[1].f", "spec.map.k.e", "spec.pod.h", "spec.pod.spec.g", "spec.z"];
    let mut dropped = dropped;
    dropped.sort();
    assert_eq!(dropped, told);
}

#[test]
fn defaults_are_filled_in_from_the_outside() {
    let schema = of_spec(json!({"type": "object", "default": {}, "properties": {
        "size": {"type": "integer", "default": 3},
        "none": {"type": "string", "nullable": true, "default": "x"},
        "plain": {"type": "string"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"q": {"type": "integer", "default": 1}}}},
    }}));
    let with = |mut object: Value| {
        schema.set_defaults(&mut object);
        object
    };
    assert_eq!(with(json!({})), json!({"spec": {"size": 3, "none": "x"}}));
    assert_eq!(
        with(json!({"spec": {"size": null, "none": null, "plain": null, "list": [{}], "map": {"k": {}}}})),
        json!({"spec": {"size": 3, "none": null, "list": [{"p": "TCP"}], "map": {"k": {"q": 1}}}})
    );
    let twice = with(with(json!({"spec": {"list": [{}]}})));
    assert_eq!(twice, with(json!({"spec": {"list": [{}]}})));
}

#[test]
fn values_are_as_their_schema_says() {
    for (spec, value, wrong) in [
        (json!({"type": "integer"}), json!("x"), "spec: TypeInvalid: spec in body must be of type integer: \"string\""),
        (json!({"type": "boolean"}), json!(1.5), "spec: TypeInvalid: spec in body must be of type boolean: \"number\""),
        (json!({"type": "string"}), json!(null), "spec: TypeInvalid: spec in body must be of type string: \"null\""),
        (
            json!({"type": "integer", "maximum": 3}),
            json!(4),
            "spec: Invalid: spec in body should be less than or equal to 3",
        ),
        (
            json!({"type": "number", "minimum": 0.5, "exclusiveMinimum": true}),
            json!(0.5),
            "spec: Invalid: spec in body should be greater than 0.5",
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            "spec: Invalid: spec in body should be a multiple of 5",
        ),
        (json!({"type": "string", "maxLength": 1}), json!("äö"), "spec: too long 1: "),
        (
            json!({"type": "string", "minLength": 3}),
            json!("äö"),
            "spec: Invalid: spec in body should be at least 3 chars long",
        ),
        (json!({"type": "string", "pattern": "^a$"}), json!("b"), "spec: Invalid: spec in body should match '^a$'"),
        (
            json!({"type": "string", "format": "date"}),
            json!("b"),
            "spec: TypeInvalid: spec in body must be of type date: \"b\"",
        ),
        (json!({"type": "string", "enum": ["a", "b"]}), json!("c"), "spec: not supported a,b: "),
        (json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}), json!(["", ""]), "spec: too many 2 1: "),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "b", "a", "a"]),
            "spec[2]: Duplicate: ",
        ),
        (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required: "),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"k": "v"}),
            "spec.k: TypeInvalid: spec.k in body must be of type integer: \"string\"",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec: TypeInvalid: spec in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "integer", "not": {"enum": [3]}}),
            json!(3),
            ": Invalid: \"spec\" must not validate the schema (not)",
        ),
    ] {
        assert_eq!(faults(spec.clone(), value.clone()), [wrong], "{spec} {value}");
    }
    for (spec, value) in [
        (json!({"type": "integer"}), json!(2.0)),
        (json!({"type": "string", "nullable": true}), json!(null)),
        (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
        (json!({"type": "string", "format": "colour"}), json!("b")),
    ] {
        assert_eq!(faults(spec.clone(), value.clone()), Vec::<String>::new(), "{spec} {value}");
    }
}

#[test]
fn of_alternatives_the_nearest_is_told() {
    let spec = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        faults(spec.clone(), json!({"a": "", "b": 1})),
        [": Invalid: \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives"]
    );
    assert_eq!(
        faults(spec.clone(), json!({})),
        [": Invalid: \"spec\" must validate one and only one schema (oneOf). Found none valid", "spec.a: Required: "]
    );
    assert!(faults(spec, json!({"b": 1})).is_empty());
}

#[test]
fn what_takes_too_long_is_not_taken_for_good() {
    let alternatives: Vec<Value> = (0..1000).map(|n| json!({"enum": [n]})).collect();
    let spec = json!({"type": "array", "items": {"type": "integer", "anyOf": alternatives}});
    let list: Vec<Value> = std::iter::repeat_n(json!(999), 10_000).collect();
    let wrong = faults(spec.clone(), list.into());
    assert_eq!(wrong.last().unwrap(), ": Invalid: the object takes more than 2000000 steps to validate");
    assert!(faults(spec, json!([999])).is_empty());
}
