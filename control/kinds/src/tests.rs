use hypernetes_schema::ObjectType;
use serde_json::{Value, json};

use super::*;

fn said(errors: Errors) -> Vec<String> {
    errors.into_vec().iter().map(FieldError::cause).map(|cause| cause.field + ": " + &cause.message).collect()
}

fn errors(kind: (&str, &str, &str), metadata: Value) -> Vec<String> {
    let ty = ObjectType::builtin(kind.0, kind.1, kind.2).unwrap();
    said(errors_of_create(&ty, &json!({"metadata": metadata})))
}

#[test]
fn names_are_what_paths_and_stores_can_hold() {
    let map = ("", "v1", "ConfigMap");
    let named = |name: &str| errors(map, json!({"name": name, "namespace": "default"}));
    for good in ["a", "a.b", "kube-root-ca.crt", &"a".repeat(253)] {
        assert_eq!(named(good), Vec::<String>::new(), "{good}");
    }
    for bad in ["", "A", "a/b", "../x", "..", "-a", "a_b", "a\u{0}", "é", &"a".repeat(254)] {
        assert_eq!(named(bad).len(), 1, "{bad}");
    }
    assert_eq!(named("")[0], "metadata.name: Required value: name or generateName is required");
    let dots = "metadata.name: Invalid value: \"a.b\": must not contain dots";
    assert_eq!(errors(("", "v1", "Namespace"), json!({"name": "a.b"})), [dots]);
    let role = ("rbac.authorization.k8s.io", "v1", "ClusterRole");
    assert!(errors(role, json!({"name": "system:node"})).is_empty());
    assert_eq!(errors(role, json!({"name": "a/b"})), ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]);
}

#[test]
fn labels_are_words() {
    let labels = |labels: Value| errors(("", "v1", "Namespace"), json!({"name": "a", "labels": labels})).len();
    assert_eq!(labels(json!({"app.kubernetes.io/name": "Web_1", "empty": ""})), 0);
    for bad in [json!({"a b": "c"}), json!({"a": "b c"}), json!({"/a": "b"}), json!({"a": "x".repeat(64)})] {
        assert_eq!(labels(bad.clone()), 1, "{bad}");
    }
}

#[test]
fn what_is_for_life_stays() {
    let ty = ObjectType::builtin("storage.k8s.io", "v1", "StorageClass").unwrap();
    let object =
        |provisioner: &str, uid: &str| json!({"metadata": {"name": "a", "uid": uid}, "provisioner": provisioner});
    assert!(errors_of_update(&ty, &object("a", "1"), &object("a", "1")).is_empty());
    assert_eq!(errors_of_update(&ty, &object("b", "2"), &object("a", "1")).len(), 2);
}

#[test]
fn what_was_wrong_before_may_stay_and_nothing_else() {
    let ty = ObjectType::builtin("", "v1", "ConfigMap").unwrap();
    let object = |labels: Value| json!({"metadata": {"name": "a", "namespace": "d", "labels": labels}});
    let old = object(json!({"a": "b c"}));
    assert!(!errors_of_create(&ty, &old).is_empty());
    assert!(errors_of_update(&ty, &object(json!({"a": "b c", "new": "good"})), &old).is_empty());
    let worse = said(errors_of_update(&ty, &object(json!({"a": "b c", "new": "not good"})), &old));
    assert!(worse.len() == 1 && worse[0].contains("\"not good\""), "{worse:?}");
    let other = said(errors_of_update(&ty, &object(json!({"a": "c d"})), &old));
    assert!(other.len() == 1 && other[0].contains("\"c d\""), "{other:?}");
    // Of so many errors that not all are kept, none is excused.
    let many: serde_json::Map<String, Value> =
        (0..=field::MAX_ERRORS).map(|i| (format!("a{i}"), "b c".into())).collect();
    let many = object(Value::Object(many));
    assert!(!errors_of_update(&ty, &many, &many).is_empty());
}
