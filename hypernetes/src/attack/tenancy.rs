//! C4: every resource and verb of one tenant's credential on another's logical cluster, on all of them, and on the operator's.

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use super::{
    findings::Findings,
    stage::{Caller, FORBIDDEN, Stage},
};

/// As discovery tells of it.
struct Kind {
    /// Up to the plural, in the namespace `default` if it is namespaced.
    path: String,
    api_version: String,
    kind: String,
}

/// Everything that the operator is shown.
async fn kinds(operator: &Caller) -> Result<Vec<Kind>> {
    let groups = operator.get("/apis").await.needed("listing API groups")?;
    let groups = groups["groups"].as_array().cloned().unwrap_or_default();
    let named = groups.iter().filter_map(|group| group["preferredVersion"]["groupVersion"].as_str());
    let versions = std::iter::once("v1").chain(named);
    let mut kinds = Vec::new();
    for version in versions {
        let base = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
        let resources = operator.get(&base).await.needed("listing a group's resources")?;
        for resource in resources["resources"].as_array().context("a list of resources")? {
            let name = resource["name"].as_str().unwrap_or_default();
            let lists = resource["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
            if name.contains('/') || !lists {
                continue;
            }
            let place = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            kinds.push(Kind {
                path: format!("{base}{place}/{name}"),
                api_version: version.to_owned(),
                kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(kinds)
}

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let kinds = kinds(&stage.operator).await?;
    anyhow::ensure!(kinds.len() > 20, "discovery shows {} kinds only", kinds.len());
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "stringData": {"key": "blue"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    stage.blue.admin.post(secrets, &secret).await.needed("making a secret")?;

    let nobody = stage.anonymous.clone();
    let attackers = [("another tenant's admin", &stage.red.admin), ("another tenant's member", &stage.red.member)];
    let places = [
        ("the tenant", stage.blue.id.as_str()),
        ("all tenants", "*"),
        ("the operator", "system"),
        ("by name", &stage.blue.name),
    ];
    for (place, cluster) in places {
        for (who, attacker) in attackers.into_iter().chain([("nobody in particular", &nobody)]) {
            let allowed: &[u16] = if who == "nobody in particular" { &[401, 403] } else { FORBIDDEN };
            let mut wrong = Vec::new();
            let mut tried = 0;
            for kind in &kinds {
                for (verb, answer) in every_verb(attacker, cluster, kind).await {
                    tried += 1;
                    if !allowed.contains(&answer.code) {
                        wrong.push(format!("{verb} {}: {answer}", kind.path));
                    }
                }
            }
            let what = format!("{who} on {place} (/clusters/{cluster}), {tried} requests");
            findings.judge(
                &what,
                wrong.is_empty(),
                if wrong.is_empty() { "all refused".into() } else { wrong.join("; ") },
            );
        }
    }

    // The operator's own kinds are not even there, and equal names are different things.
    for kind in kinds.iter().filter(|kind| kind.api_version.starts_with("identity.hypernetes.io/")) {
        let answer = stage.red.admin.get(&kind.path).await;
        findings.refused(&format!("a tenant's admin lists {}", kind.path), &answer, &[403, 404]);
    }
    let answer = stage.red.admin.get(&format!("{secrets}/theirs")).await;
    findings.refused("another tenant's secret, by its name in one's own cluster", &answer, &[404]);
    impersonation(stage, findings).await
}

async fn every_verb(attacker: &Caller, cluster: &str, kind: &Kind) -> Vec<(&'static str, super::stage::Answer)> {
    let all = format!("/clusters/{cluster}{}", kind.path);
    let one = format!("{all}/theirs");
    // Where it is not refused after all, nothing of the system's own shall come to harm.
    let (write_all, write_one) = (format!("{all}?dryRun=All"), format!("{one}?dryRun=All"));
    let object = json!({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "theirs"}});
    let send = async |method: Method, path: &str, body: Option<&Value>, content: &str| {
        attacker.send(method, path, body.map(|body| (content, body.to_string()))).await
    };
    let (json, merge) = ("application/json", "application/merge-patch+json");
    vec![
        ("list", send(Method::GET, &all, None, json).await),
        ("watch", send(Method::GET, &format!("{all}?watch=true&timeoutSeconds=1"), None, json).await),
        ("get", send(Method::GET, &one, None, json).await),
        ("create", send(Method::POST, &write_all, Some(&object), json).await),
        ("update", send(Method::PUT, &write_one, Some(&object), json).await),
        ("patch", send(Method::PATCH, &write_one, Some(&object), merge).await),
        ("delete", send(Method::DELETE, &write_one, None, json).await),
        ("deletecollection", send(Method::DELETE, &write_all, None, json).await),
    ]
}

/// A token request in one's own cluster that names others.
async fn impersonation(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for (what, headers, codes) in [
        (
            "to be a node",
            &[("impersonate-user", "system:node:any"), ("impersonate-group", "system:nodes")][..],
            FORBIDDEN,
        ),
        (
            "to be the infrastructure",
            &[("impersonate-user", "x"), ("impersonate-group", "hypernetes:infrastructure")],
            FORBIDDEN,
        ),
        ("to be of a group and no user", &[("impersonate-group", "system:masters")], &[400, 403, 500]),
    ] {
        let answer = stage
            .red
            .member
            .send_with(Method::POST, reviews, Some(("application/json", review.to_string())), headers)
            .await;
        findings.refused(&format!("a member who says {what}"), &answer, codes);
    }
    Ok(())
}
