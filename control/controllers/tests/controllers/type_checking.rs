//! What policies' authors are told of their expressions, as a running upstream told them: `../data/type-checking-1.36.2.jsonl` has definitions in
//! its first line, and a policy with the status that kube-controller-manager 1.36.2 wrote in each other one, without the numbers that upstream
//! has behind the names of types.

use hypernetes_testing::{
    requests::admin,
    server::{ACME, GLOBEX},
    wait::until,
};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    common::{bench, merge},
    definitions::define,
};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";

fn seen(policy: &ValidatingAdmissionPolicy) -> bool {
    policy.status.as_ref().and_then(|status| status.observed_generation) == policy.metadata.generation
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_told_as_upstream_tells_it() {
    let bench = bench().await;
    let mut lines =
        include_str!("../data/type-checking-1.36.2.jsonl").lines().map(|line| serde_json::from_str(line).unwrap());
    let given: Value = lines.next().unwrap();
    for definition in given["given"].as_array().unwrap() {
        define(&bench.acme, definition.clone()).await;
    }
    let cases: Vec<Value> = lines.collect();
    for (number, case) in cases.iter().enumerate() {
        let policy = json!({"metadata": {"name": format!("p{number}")}, "spec": case["spec"]});
        let made = bench.post(&admin(ACME), POLICIES, policy).await;
        assert_eq!(made.status, 201, "{}: {}", case["case"], made.body);
    }
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(bench.acme.clone());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let policy = until(&policies, &format!("p{number}"), "looked at", seen).await;
        let status = serde_json::to_value(policy.status).unwrap();
        if status != case["status"] {
            wrong.push(format!("{}\n  upstream {}\n  ours     {status}", case["case"], case["status"]));
        }
    }
    println!("{} of {} are upstream's", cases.len() - wrong.len(), cases.len());
    assert!(cases.len() >= 60 && wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_looked_at_again_when_it_changes_and_by_what_its_own_tenant_has() {
    let bench = bench().await;
    let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    define(&bench.acme, crate::definitions::definition("widgets", "Widget", schema)).await;
    let rule = json!({"apiGroups": ["example.org"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["widgets"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "object.spec.size == 'a'"}]});
    for tenant in [ACME, GLOBEX] {
        let made = bench.post(&admin(tenant), POLICIES, json!({"metadata": {"name": "p"}, "spec": spec})).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let warnings = |policy: &ValidatingAdmissionPolicy| {
        let checked = policy.status.as_ref().and_then(|status| status.type_checking.clone()).unwrap();
        checked.expression_warnings.unwrap_or_default().len()
    };
    let (ours, theirs): (Api<ValidatingAdmissionPolicy>, Api<_>) =
        (Api::all(bench.acme.clone()), Api::all(bench.globex.clone()));
    assert_eq!(warnings(&until(&ours, "p", "looked at", seen).await), 1);
    assert_eq!(warnings(&until(&theirs, "p", "looked at", seen).await), 0, "another's definitions");
    merge(&ours, "p", json!({"spec": {"validations": [{"expression": "object.spec.size == 1"}]}})).await;
    assert_eq!(warnings(&until(&ours, "p", "looked at again", seen).await), 0);
}
