//! Admission policies as a running upstream applied them: each line of `../data/policies-1.36.2.jsonl` is a scene in a namespace of its own, with
//! what is there before (policies and bindings that are about this namespace alone among it) and what is asked then, and for each question the answer
//! of kube-apiserver 1.36.2: code, reason, message, causes, warnings, parts of the object.

use hypernetes_testing::{
    requests::{Refused, admin, infrastructure, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::scenes::{self, Tally};

/// The fewest questions of all scenes.
const LEAST_CASES: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_do_what_upstreams_do() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let mut tally = Tally::default();
    for (number, line) in include_str!("../data/policies-1.36.2.jsonl").lines().enumerate() {
        let namespace = format!("scene-{number}");
        let scene = scenes::read(line, &namespace);
        bench.post(&acme, "/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.ok();
        let is_policy = |given: &&Value| given["path"].as_str().unwrap().contains("admissionregistration");
        let given = scene["given"].as_array().unwrap();
        for given in given.iter().filter(|one| !is_policy(one)).chain(given.iter().filter(is_policy)) {
            bench.post(&acme, given["path"].as_str().unwrap(), given["body"].clone()).await.ok();
        }
        for case in scene["asked"].as_array().unwrap() {
            tally.add(&scene, case, &scenes::ask(&bench, case).await, &scenes::wanted(case, &[]));
        }
    }
    tally.end(LEAST_CASES);
}

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn rule(resources: &[&str], operations: &[&str]) -> Value {
    json!({"apiGroups": ["*"], "apiVersions": ["*"], "resources": resources, "operations": operations})
}

/// A policy that refuses all that a rule is about, and its binding.
async fn refuse(bench: &InProcess, tenant: &str, name: &str, rule: Value) {
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "false", "message": "no"}]});
    bench.post(&admin(tenant), POLICIES, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    let spec = json!({"policyName": name, "validationActions": ["Deny"]});
    bench.post(&admin(tenant), BINDINGS, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
}

/// A policy that applies a configuration to all that a rule is about, and its binding.
async fn mutate(bench: &InProcess, tenant: &str, name: &str, rule: Value, expression: &str) {
    let mutation = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let spec =
        json!({"matchConstraints": {"resourceRules": [rule]}, "mutations": [mutation], "reinvocationPolicy": "Never"});
    bench.post(&admin(tenant), MUTATING, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    let spec = json!({"policyName": name});
    bench.post(&admin(tenant), MUTATING_BINDINGS, json!({"metadata": {"name": name}, "spec": spec})).await.ok();
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

/// The account that pods are given, which a controller makes that is not here.
async fn account(bench: &InProcess) {
    bench.post(&admin(ACME), "/api/v1/namespaces/default/serviceaccounts", map("default")).await.ok();
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// It holds from the moment that it is there until the moment that it is not, and for nobody else.
#[tokio::test]
async fn a_policy_is_its_tenants_own_and_holds_at_once() {
    let bench = InProcess::with_tenants().await;
    let (acme, globex) = (admin(ACME), admin(GLOBEX));
    bench.post(&acme, MAPS, map("before")).await.ok();
    refuse(&bench, ACME, "p", rule(&["configmaps"], &["CREATE", "UPDATE"])).await;
    bench.post(&acme, MAPS, map("a")).await.refused(422, "Invalid");
    let change = json!({"data": {"a": "b"}});
    bench.merge(&acme, &format!("{MAPS}/before"), change.clone()).await.refused(422, "Invalid");
    bench.post(&globex, MAPS, map("a")).await.ok();
    // A binding that goes takes the policy with it.
    bench.delete(&acme, &format!("{BINDINGS}/p")).await.ok();
    bench.post(&acme, MAPS, map("a")).await.ok();
    bench.merge(&acme, &format!("{MAPS}/before"), change).await.ok();
    // What another tenant calls the same is another.
    mutate(&bench, GLOBEX, "p", rule(&["configmaps"], &["CREATE"]), "Object{data: {'of': 'globex'}}").await;
    assert_eq!(bench.post(&globex, MAPS, map("b")).await.ok()["data"], json!({"of": "globex"}));
    assert_eq!(bench.post(&acme, MAPS, map("b")).await.ok()["data"], Value::Null);
}

/// What infrastructure says has happened is not asked about, and what it makes for a tenant is.
#[tokio::test]
async fn no_policy_stops_what_has_happened() {
    let bench = InProcess::with_tenants().await;
    let (acme, system) = (admin(ACME), infrastructure());
    let of_acme = |path: &str| format!("/clusters/{ACME}{path}");
    account(&bench).await;
    bench.post(&acme, PODS, pod("p")).await.ok();
    refuse(&bench, ACME, "all", rule(&["*/*"], &["*"])).await;
    let status = json!({"status": {"phase": "Failed"}});
    bench.merge(&system, &of_acme(&format!("{PODS}/p/status")), status).await.ok();
    bench.delete(&acme, &format!("{PODS}/p")).await.refused(422, "Invalid");
    bench.delete(&system, &of_acme(&format!("{PODS}/p"))).await.ok();
    bench.post(&system, &of_acme(PODS), pod("q")).await.refused(422, "Invalid");
    // It goes as it came.
    bench.delete(&acme, &format!("{BINDINGS}/all")).await.ok();
    bench.post(&system, &of_acme(PODS), pod("q")).await.ok();
}

/// A change that rides on what a component of the system writes has no more rights than the tenant who asked for it.
#[tokio::test]
async fn a_mutation_lends_nobody_the_rights_of_infrastructure() {
    let bench = InProcess::with_tenants().await;
    let (acme, system) = (admin(ACME), infrastructure());
    let path = format!("/clusters/{ACME}{PODS}");
    account(&bench).await;
    for (number, (expression, told)) in [
        ("Object{spec: Object.spec{nodeName: 'theirs'}}", "spec.nodeName may not be changed by a policy"),
        ("Object{metadata: Object.metadata{finalizers: ['cri.hypernetes.io/vm']}}", "a finalizer of infrastructure"),
        ("Object{metadata: Object.metadata{name: 'another'}}", "metadata.name may not be changed by a policy"),
        ("Object{metadata: Object.metadata{namespace: 'kube-system'}}", "metadata.namespace may not be changed"),
        ("Object{metadata: Object.metadata{uid: 'mine'}}", "metadata.uid may not be changed by a policy"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("p{number}");
        mutate(&bench, ACME, &name, rule(&["pods"], &["CREATE"]), expression).await;
        for (who, path) in [(&acme, PODS), (&system, path.as_str())] {
            let refused = bench.post(who, path, pod("p")).await;
            assert_eq!(refused.status, 403, "{expression}: {}", refused.body);
            assert!(refused.body["message"].as_str().unwrap().contains(told), "{}", refused.body);
        }
        bench.delete(&acme, &format!("{MUTATING_BINDINGS}/{name}")).await.ok();
    }
    mutate(&bench, ACME, "host", rule(&["pods"], &["CREATE"]), "Object{spec: Object.spec{hostNetwork: true}}").await;
    bench.post(&system, &path, pod("p")).await.refused(403, "Forbidden");
}

/// Who may write policies may not read by them what they may not read.
#[tokio::test]
async fn parameters_are_theirs_who_may_read_them() {
    let bench = InProcess::with_tenants().await;
    let (acme, some) = (admin(ACME), user("some", &[], ACME));
    let rules = json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    bench.post(&acme, roles, json!({"metadata": {"name": "policies"}, "rules": rules})).await.ok();
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"});
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "some"});
    let binding = json!({"metadata": {"name": "policies"}, "roleRef": reference, "subjects": [subject]});
    bench.post(&acme, &roles.replace("clusterroles", "clusterrolebindings"), binding).await.ok();
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "matchConstraints": {"resourceRules": [rule(&["configmaps"], &["CREATE"])]},
        "validations": [{"expression": "false", "messageExpression": "string(params.data)"}]});
    let policy = |name: &str| json!({"metadata": {"name": name}, "spec": spec});
    let told = bench.post(&some, POLICIES, policy("p")).await.refused(403, "Forbidden");
    assert!(told.contains("must have \"get\" permission on all objects of the referenced paramKind"), "{told}");
    bench.post(&acme, POLICIES, policy("p")).await.ok();
    let reference = json!({"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"});
    let spec = json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": reference});
    let told = bench.post(&some, BINDINGS, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let told = told.refused(403, "Forbidden");
    assert!(told.contains("does not have \"get\" permission on the object referenced by paramRef"), "{told}");
    bench.post(&acme, BINDINGS, json!({"metadata": {"name": "p"}, "spec": spec})).await.ok();
}

/// What a tenant's policies take is bounded, and what one of them takes is, too.
#[tokio::test]
async fn policies_are_bounded() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    let long = format!("object.metadata.name != '{}'", "x".repeat(90_000));
    let policy = |name: &str, validations: Value| {
        let constraints = json!({"resourceRules": [rule(&["configmaps"], &["CREATE"])]});
        json!({"metadata": {"name": name}, "spec": {"matchConstraints": constraints, "validations": validations}})
    };
    let mut made = 0;
    let refused = loop {
        let answer = bench.post(&acme, POLICIES, policy(&format!("p{made}"), json!([{"expression": long}]))).await;
        if answer.status != 201 {
            break answer.refused(403, "Forbidden");
        }
        made += 1;
    };
    assert!(
        refused.ends_with("all admission policies, bindings and webhooks together may have 524288 bytes"),
        "{refused}"
    );
    assert_eq!(made, 5);
    bench.post(&admin(GLOBEX), POLICIES, policy("p", json!([{"expression": long}]))).await.ok();
    // Webhooks are of the same, and a change is as a creation.
    let webhooks = |expression: &str| {
        let webhook = json!({"name": "hook.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "default", "name": "hook"}},
            "matchConditions": [{"name": "c", "expression": expression}]});
        json!({"metadata": {"name": "w"}, "webhooks": [webhook]})
    };
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    bench.post(&acme, path, webhooks("true")).await.ok();
    let change = bench.merge(&acme, &format!("{path}/w"), webhooks(&long)).await.refused(403, "Forbidden");
    assert!(change.contains("together may have 524288 bytes"), "{change}");
}
