//! Of a tenant that is deleted nothing is kept but that it was.

use std::{sync::Arc, time::Duration};

use hypernetes_apiserver::audit::{Audit, Policy};
use hypernetes_testing::{
    requests::{admin, infrastructure},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::Value;

use crate::{
    bench::{MAPS, map},
    layers::{audited, metrics, with_audit},
};

const PROJECTS: &str = "/apis/identity.hypernetes.io/v1alpha1/projects";

/// Waits until there is, or is not, a chain of the tenant.
async fn until_chain(bench: &InProcess, log: &Arc<Audit>, tenant: &str, there: bool) {
    let chain = bench.directory().join("audit").join(tenant);
    for _ in 0..3000 {
        log.flush();
        if chain.exists() == there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the chain of {tenant}: {there} was expected");
}

fn did(events: &[Value], verb: &str, name: &str) -> bool {
    events.iter().any(|event| event["verb"] == verb && event["objectRef"]["name"] == name)
}

#[tokio::test]
async fn a_deleted_tenants_log_and_counters_go() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    tokio::spawn(bench.server.follow_tenants());
    let (operator, of_acme) = (admin("system"), ["hypernetes_tenant_requests_total", ACME]);
    for tenant in [ACME, GLOBEX] {
        bench.post(&admin(tenant), MAPS, map("a", "1")).await.ok();
        until_chain(&bench, &log, tenant, true).await;
    }
    assert_eq!(metrics(&bench, &operator, &of_acme).await.len(), 1);
    bench.delete(&operator, &format!("{PROJECTS}/{ACME}")).await.ok();
    until_chain(&bench, &log, ACME, false).await;
    assert_eq!(metrics(&bench, &operator, &of_acme).await, [""; 0]);
    // What is still done with what it has left is the operator's to know, as is that it was deleted.
    bench.delete(&infrastructure(), &format!("/clusters/{ACME}{MAPS}/a")).await.ok();
    let system = audited(&bench, &log, "system");
    assert!(did(&system, "delete", ACME) && did(&system, "delete", "a"), "{system:#?}");
    assert!(!bench.directory().join("audit").join(ACME).exists());
    assert!(did(&audited(&bench, &log, GLOBEX), "create", "a"));
    // Another of the same id begins anew.
    bench.project(ACME, "again").await;
    for _ in 0..3000 {
        bench.post(&admin(ACME), MAPS, map("b", "1")).await;
        log.flush();
        if bench.directory().join("audit").join(ACME).exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = audited(&bench, &log, ACME);
    assert!(did(&again, "create", "b") && !did(&again, "create", "a"), "{again:#?}");
}

#[tokio::test]
async fn the_log_of_one_that_went_while_nobody_followed_goes_too() {
    let bench = InProcess::with_tenants().await;
    let log = with_audit(&bench, Policy::default());
    for tenant in [ACME, GLOBEX] {
        bench.post(&admin(tenant), MAPS, map("a", "1")).await.ok();
        until_chain(&bench, &log, tenant, true).await;
    }
    bench.delete(&admin("system"), &format!("{PROJECTS}/{ACME}")).await.ok();
    until_chain(&bench, &log, ACME, true).await;
    tokio::spawn(bench.server.follow_tenants());
    until_chain(&bench, &log, ACME, false).await;
    audited(&bench, &log, GLOBEX);
    assert!(bench.directory().join("audit").join(GLOBEX).exists());
}
