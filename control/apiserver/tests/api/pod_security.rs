//! What Pod Security leaves behind besides answers: annotations in the audit log, warnings; and whom it is not for.

use hypernetes_apiserver::{Exemption, audit::Policy};
use hypernetes_testing::{
    requests::{Refused, admin},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::{Value, json};

use crate::layers::{audited, with_audit};

const PODS: &str = "/api/v1/namespaces/strict/pods";

fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": spec});
    pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    pod
}

/// A tenant's namespace that enforces `baseline`, and audits `restricted`.
async fn strict(bench: &InProcess, tenant: &str) {
    let labels =
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted"});
    let namespace = json!({"metadata": {"name": "strict", "labels": labels}});
    bench.post(&admin(tenant), "/api/v1/namespaces", namespace).await.ok();
    let account = json!({"metadata": {"name": "default"}});
    bench.post(&admin(tenant), "/api/v1/namespaces/strict/serviceaccounts", account).await.ok();
}

#[tokio::test]
async fn what_is_violated_is_in_the_tenants_log_whether_it_is_refused_or_not() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    strict(&bench, ACME).await;
    bench.post(&admin(ACME), PODS, pod("taken", &json!({}))).await.ok();
    bench.post(&admin(ACME), PODS, pod("refused", &json!({"hostPID": true}))).await.forbidden();
    // Whom a Deployment's pods would be refused for is told, and it is made.
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("", &json!({}))["spec"]}});
    let deployment = json!({"metadata": {"name": "web"}, "spec": spec});
    bench.post(&admin(ACME), "/apis/apps/v1/namespaces/strict/deployments", deployment).await.ok();
    let events = audited(&bench, &log, ACME);
    let note = |name: &str, key: &str| -> String {
        let event = events.iter().find(|event| event["objectRef"]["name"] == name).unwrap();
        event["annotations"][format!("pod-security.kubernetes.io/{key}")].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(note("taken", "enforce-policy"), "baseline:latest");
    assert_eq!(note("refused", "enforce-policy"), "baseline:latest");
    for name in ["taken", "refused", "web"] {
        let said = note(name, "audit-violations");
        assert!(said.starts_with("would violate PodSecurity \"restricted:latest\": "), "{name}: {said}");
    }
    assert_eq!(note("web", "enforce-policy"), "");
}

#[tokio::test]
async fn who_is_exempt_is_for_the_operator_to_say() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    for tenant in [ACME, GLOBEX] {
        strict(&bench, tenant).await;
    }
    let ported = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": ported});
    bench.post(&admin(ACME), PODS, pod("before")).await.forbidden();
    let exempt = ["user=admin"].map(|text| text.parse::<Exemption>().unwrap());
    bench.server.set_exemptions(exempt.into_iter().collect());
    bench.post(&admin(ACME), PODS, pod("after")).await.ok();
    let events = audited(&bench, &log, ACME);
    let event = events.iter().find(|event| event["objectRef"]["name"] == "after").unwrap();
    assert_eq!(event["annotations"]["pod-security.kubernetes.io/exempt"], "user");
    let mut other = admin(GLOBEX);
    other.name = "another".into();
    bench.post(&other, PODS, pod("after")).await.forbidden();
}

/// However many pods there are, and however they are called, an answer has room for what it says of them.
#[tokio::test]
async fn a_namespace_that_asks_for_more_is_told_of_pods_within_bounds() {
    let bench = InProcess::with_tenants().await;
    bench.account(ACME).await;
    for number in 0..60 {
        // Each is wrong in a way of its own.
        let mut one = pod(&format!("{}-{number}", "p".repeat(200)), &json!({}));
        let sysctls: Vec<_> = (0..=number).map(|bit| json!({"name": format!("kernel.x{bit}"), "value": "1"})).collect();
        one["spec"]["securityContext"] = json!({"sysctls": sysctls, "runAsUser": 0, "seLinuxOptions": {"role": "r"}});
        if number % 2 == 0 {
            one["spec"]["securityContext"]["runAsNonRoot"] = json!(true);
        }
        bench.post(&admin(ACME), "/api/v1/namespaces/default/pods", one).await.ok();
    }
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let answer = bench.merge(&admin(ACME), "/api/v1/namespaces/default", json!({"metadata": {"labels": labels}})).await;
    let warnings: Vec<&[u8]> = answer.headers.get_all("warning").iter().map(|one| one.as_bytes()).collect();
    assert!(answer.status.is_success() && warnings.len() == 3, "{warnings:?}");
    assert!(warnings.iter().map(|one| one.len()).sum::<usize>() < 8192);
}
