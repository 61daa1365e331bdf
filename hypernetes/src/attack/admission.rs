//! C2 and C4: rules that a tenant has of its own in admission, as a way to infrastructure's rights, to another tenant, to addresses that the server
//! reaches, and to everybody's time.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Caller, Stage},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// What another tenant's write may take meanwhile.
const LONG: Duration = Duration::from_secs(5);
/// Writes that a tenant has wait for its webhooks at once.
const WAITING: usize = 100;

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let (red, blue) = (&stage.red.admin, &stage.blue.admin);
    theirs(red, blue, findings).await?;
    borrowed(red, &stage.image, findings).await?;
    costly(red, blue, findings).await?;
    elsewhere(red, findings, &stage.address).await?;
    hanging(red, blue, findings).await
}

fn rule(resource: &str, operation: &str) -> Value {
    json!({"apiGroups": ["*"], "apiVersions": ["*"], "operations": [operation], "resources": [resource]})
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Makes a policy of a sort and binds it.
async fn bind(who: &Caller, sort: &str, name: &str, spec: &Value, actions: &[&str]) -> Result<()> {
    let (kind, plural) = match sort {
        "Validating" => ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        _ => ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
    };
    who.post(&format!("{GROUP}/{plural}"), &object(kind, name, spec)).await.needed("making a policy")?;
    let mut binding = json!({"policyName": name});
    if !actions.is_empty() {
        binding["validationActions"] = json!(actions);
    }
    let plural = plural.replace("policies", "policybindings");
    who.post(&format!("{GROUP}/{plural}"), &object(&format!("{kind}Binding"), name, &binding))
        .await
        .needed("binding a policy")?;
    Ok(())
}

async fn unbind(who: &Caller, sort: &str, name: &str) {
    let sort = sort.to_lowercase();
    for plural in ["policybindings", "policies"] {
        who.delete(&format!("{GROUP}/{sort}admission{plural}/{name}")).await;
    }
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// What one tenant has decided is nothing to another.
async fn theirs(red: &Caller, blue: &Caller, findings: &mut Findings) -> Result<()> {
    let spec =
        json!({"matchConstraints": {"resourceRules": [rule("*/*", "*")]}, "validations": [{"expression": "false"}]});
    bind(red, "Validating", "all", &spec, &["Deny"]).await?;
    let answer = blue.post(MAPS, &map("policies", json!({}))).await;
    findings.judge("another tenant's policy against everything", answer.is_success(), &answer);
    let own = red.post(MAPS, &map("policies", json!({}))).await;
    findings.refused("a write that a policy refuses", &own, &[422]);
    unbind(red, "Validating", "all").await;
    let answer = red.post(MAPS, &map("policies", json!({}))).await;
    findings.judge("a policy against its own removal", answer.is_success(), &answer);
    Ok(())
}

/// Changes that ride on what infrastructure writes for the tenant: the pods of a Deployment are made by a controller.
async fn borrowed(red: &Caller, image: &str, findings: &mut Findings) -> Result<()> {
    for (name, expression) in [
        ("node", "Object{spec: Object.spec{nodeName: 'elsewhere'}}"),
        ("host", "Object{spec: Object.spec{hostNetwork: true, hostPID: true}}"),
        ("finalizer", "Object{metadata: Object.metadata{finalizers: ['cri.hypernetes.io/attack']}}"),
        ("name", "Object{metadata: Object.metadata{name: 'another', namespace: 'kube-system'}}"),
    ] {
        let mutation = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
        let spec = json!({"matchConstraints": {"resourceRules": [rule("pods", "CREATE")]}, "mutations": [mutation],
            "reinvocationPolicy": "IfNeeded", "failurePolicy": "Ignore"});
        bind(red, "Mutating", name, &spec, &[]).await?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("borrowed-{name}")},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        findings.refused(
            &format!("a mutation of what is infrastructure's: {name}"),
            &red.post(PODS, &pod).await,
            &[403, 422],
        );
        unbind(red, "Mutating", name).await;
    }
    Ok(())
}

/// Expressions that take as long as they may, for each of many objects, while another tenant writes.
async fn costly(red: &Caller, blue: &Caller, findings: &mut Findings) -> Result<()> {
    let all = "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, a + b + c + d != ''))))";
    let validations: Vec<Value> = (0..20).map(|_| json!({"expression": all})).collect();
    let spec = json!({"matchConstraints": {"resourceRules": [rule("configmaps", "CREATE")]}, "validations": validations,
        "failurePolicy": "Ignore"});
    bind(red, "Validating", "costly", &spec, &["Deny"]).await?;
    let data: Value =
        (0..200).map(|number| (format!("k{number}"), json!("x".repeat(50)))).collect::<serde_json::Map<_, _>>().into();
    let objects: Vec<Value> = (0..20).map(|number| map(&format!("costly-{number}"), data.clone())).collect();
    let sent = futures::future::join_all(objects.iter().map(|object| red.post(MAPS, object)));
    let meanwhile = async {
        let began = Instant::now();
        (blue.post(MAPS, &map("meanwhile-costly", json!({}))).await, began.elapsed())
    };
    let (_, (answer, took)) = tokio::join!(sent, meanwhile);
    let held = answer.is_success() && took < LONG;
    findings.judge("another tenant's write beside costly expressions", held, format!("{answer} after {took:?}"));
    unbind(red, "Validating", "costly").await;
    Ok(())
}

/// A webhook, as a configuration has it.
fn webhook(client: &Value) -> Value {
    let webhook = json!({"name": "hook.attack.invalid", "rules": [rule("configmaps", "CREATE")], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, "clientConfig": client});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "hook"}, "webhooks": [webhook]})
}

const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Addresses that the server reaches, and a tenant does not: as in CVE-2020-8555. What is told of the attempt tells nothing of who answered.
async fn elsewhere(red: &Caller, findings: &mut Findings, server: &str) -> Result<()> {
    let own = format!("https://{server}/readyz");
    for url in [
        own.as_str(),
        "https://127.0.0.1:2379/",
        "https://localhost:10250/pods",
        "https://[::1]:10250/",
        "https://169.254.169.254/latest",
        "https://0.0.0.0/",
        "https://kubernetes.default.svc.cluster.local/",
        "https://127.0.0.1.svc/",
    ] {
        let made = red.post(WEBHOOKS, &webhook(&json!({"url": url}))).await;
        if !made.is_success() {
            findings.held(&format!("a webhook at {url}"), &made);
            continue;
        }
        let answer = red.post(MAPS, &map("elsewhere", json!({}))).await;
        let text = answer.body["message"].as_str().unwrap_or_default();
        let reached = answer.is_success()
            || ["certificate", "tls:", "refused", "handshake"].iter().any(|word| text.contains(word));
        let told = text.contains("services of the cluster alone") || text.contains("not found");
        findings.judge(&format!("a webhook at {url}"), !reached && told, &answer);
        red.delete(&format!("{WEBHOOKS}/hook")).await;
    }
    for (namespace, name, path) in
        [("kube-system", "../../x", "/"), ("default", "nobody", "/../../api"), ("default", "nobody", "/a b\r\nX: y")]
    {
        let client = json!({"service": {"namespace": namespace, "name": name, "path": path}, "caBundle": ""});
        let made = red.post(WEBHOOKS, &webhook(&client)).await;
        if made.is_success() {
            let answer = red.post(MAPS, &map("elsewhere", json!({}))).await;
            findings.judge(&format!("a webhook of {namespace}/{name}{path:?}"), !answer.is_success(), &answer);
            red.delete(&format!("{WEBHOOKS}/hook")).await;
        } else {
            findings.held(&format!("a webhook of {namespace}/{name}{path:?}"), &made);
        }
    }
    Ok(())
}

/// Webhooks that nobody answers for, and many writes that wait for them.
async fn hanging(red: &Caller, blue: &Caller, findings: &mut Findings) -> Result<()> {
    let client = json!({"service": {"namespace": "default", "name": "nobody"}});
    red.post(WEBHOOKS, &webhook(&client)).await.needed("configuring a webhook")?;
    let objects: Vec<Value> = (0..WAITING).map(|number| map(&format!("hanging-{number}"), json!({}))).collect();
    let sent = futures::future::join_all(objects.iter().map(|object| red.post(MAPS, object)));
    let meanwhile = async {
        let began = Instant::now();
        (blue.post(MAPS, &map("meanwhile-hanging", json!({}))).await, began.elapsed())
    };
    let (answers, (answer, took)) = tokio::join!(sent, meanwhile);
    let held = answer.is_success() && took < LONG;
    findings.judge(
        "another tenant's write beside webhooks that nobody answers for",
        held,
        format!("{answer} after {took:?}"),
    );
    let let_in = answers.iter().filter(|answer| answer.is_success()).count();
    findings.judge("writes that a webhook would have to let in", let_in == 0, format!("{let_in} let in"));
    red.delete(&format!("{WEBHOOKS}/hook")).await;
    Ok(())
}
