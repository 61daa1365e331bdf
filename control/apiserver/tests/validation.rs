//! What is wrong with an object, as a running upstream says it: each case of `data/validation-1.36.2.jsonl` is an object that
//! was sent to kube-apiserver 1.36.2, with its answer. Ours has to be the same: code, reason, message and causes.

use std::collections::BTreeMap;

use hypernetes_testing::{
    requests::admin,
    server::{ACME, InProcess},
};
use serde_json::{Value, json};

const CASES: &str = include_str!("data/validation-1.36.2.jsonl");

/// What is compared: of an object that was taken, the code alone.
fn answer(code: u16, reason: &Value, message: &Value, causes: &Value) -> Value {
    match code {
        200..300 => json!({"code": code}),
        _ => {
            let causes = causes.as_array().cloned().unwrap_or_default();
            json!({"code": code, "reason": reason, "message": message, "causes": causes})
        }
    }
}

#[tokio::test]
async fn answers_are_upstreams() {
    let api = InProcess::start();
    api.namespace(ACME).await;
    api.account(ACME).await;
    let (mut agreement, mut wrong) = (BTreeMap::<String, (usize, usize)>::new(), Vec::new());
    for line in CASES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let path = case["request"].as_str().unwrap();
        let got = api.post(&admin(ACME), path, case["object"].clone()).await;
        let body = got.body;
        let ours = answer(got.status.as_u16(), &body["reason"], &body["message"], &body["details"]["causes"]);
        let wanted = answer(case["code"].as_u64().unwrap() as u16, &case["reason"], &case["message"], &case["causes"]);
        let kind = case["object"]["kind"].as_str().unwrap().to_owned();
        let (same, all) = agreement.entry(kind).or_default();
        *all += 1;
        match ours == wanted {
            true => *same += 1,
            false => wrong.push(format!("{}\n  upstream {wanted}\n  ours     {ours}", case["name"])),
        }
    }
    for (kind, (same, all)) in &agreement {
        println!("{kind:28} {same:3} of {all:3}");
    }
    assert!(agreement.values().map(|(_, all)| all).sum::<usize>() > 100, "the cases are there");
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}
