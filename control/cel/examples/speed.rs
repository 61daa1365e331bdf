//! What ten expressions of a policy cost in processor time: `cargo run --release -p hypernetes-cel --example speed`.

use std::hint::black_box;
use std::time::Instant;

use hypernetes_cel::{Environment, Evaluation, Program, Type, Value, compile};
use serde_json::json;

const EXPRESSIONS: [&str; 10] = [
    "object.spec.replicas <= 50",
    "object.metadata.name.startsWith('web-') || object.metadata.namespace != 'prod'",
    "has(object.metadata.labels) && 'app' in object.metadata.labels",
    "object.spec.template.spec.containers.all(c, has(c.resources) && has(c.resources.limits))",
    "object.spec.template.spec.containers.all(c, c.image.matches('^registry\\\\.example\\\\.com/.+@sha256:[0-9a-f]{64}$') || c.image.startsWith('registry.example.com/'))",
    "object.spec.template.spec.containers.map(c, c.name).isSorted() || size(object.spec.template.spec.containers) < 9",
    "object.spec.template.spec.containers.all(c, quantity(c.resources.limits.memory).isLessThan(quantity('8Gi')))",
    "!object.spec.template.spec.?hostNetwork.orValue(false)",
    "object.spec.template.spec.containers.exists(c, c.?ports.orValue([]).exists(p, p.containerPort == 8080))",
    "object.metadata.annotations.all(k, k.size() < 64 && object.metadata.annotations[k] != '')",
];

fn main() {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example.com/team/web:1.2.3", "ports": [{"containerPort": 8080}],
            "resources": {"limits": {"memory": "512Mi", "cpu": "500m"}},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
        })
    };
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web-1", "namespace": "prod", "labels": {"app": "web"}, "annotations": {"a": "b", "c": "d"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [container("a"), container("b"), container("c")]}}}
    });
    let environment = Environment::new().variable("object", Type::Dyn);
    let begun = Instant::now();
    let programs: Vec<Program> = EXPRESSIONS.iter().filter_map(|source| compile(source, &environment).ok()).collect();
    assert_eq!(programs.len(), EXPRESSIONS.len());
    println!("compile, each: {:?}", begun.elapsed() / 10);
    let rounds = 20_000;
    let begun = Instant::now();
    let mut cost = 0;
    for _ in 0..rounds {
        let Ok(value) = Value::of_json(&object, None) else { return };
        let mut evaluation = Evaluation::new(vec![value]);
        for program in &programs {
            let outcome = black_box(evaluation.run(program));
            assert!(outcome.value.is_ok_and(|value| value.as_bool() == Some(true)));
            cost += outcome.cost;
        }
    }
    println!("ten expressions: {:?}, {} units", begun.elapsed() / rounds, cost / u64::from(rounds));
}
