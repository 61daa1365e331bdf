//! What one tenant can see and do of another's: nothing.

use hypernetes_tests::{Finished, System};

#[test]
fn the_same_names_are_different_things() {
    let system = System::shared();
    let (acme, globex) = (system.tenant("ten-a"), system.tenant("ten-b"));
    let (a, b) = (acme.kubectl(), globex.kubectl());
    a.run("create configmap same --from-literal=owner=acme").success();
    b.run("create configmap same --from-literal=owner=globex").success();
    assert_eq!(
        (a.field("cm/same", ".data.owner"), b.field("cm/same", ".data.owner")),
        ("acme".into(), "globex".into())
    );
    a.run("create namespace only-acme").success();
    assert!(!b.run("get namespaces").success().contains("only-acme"));
    assert!(b.run("get namespace only-acme").failure().contains("not found"));
    for resource in ["projects.identity.hypernetes.io", "users.identity.hypernetes.io"] {
        let refused = a.run(&format!("get {resource}")).failure();
        assert!(refused.contains("the server doesn't have a resource type"), "{refused}");
    }
    // Nodes are seen and not touched.
    let node = a.run("get nodes -o name").success().to_owned();
    for attempt in [format!("label {node} mine=yes"), format!("delete {node}")] {
        let refused = a.run(&attempt).failure();
        assert!(refused.contains("(Forbidden)") && refused.contains("read-only"), "{attempt}: {refused}");
    }
}

#[test]
fn another_tenants_address_is_refused() {
    let system = System::shared();
    let (acme, globex) = (system.tenant("cross-a"), system.tenant("cross-b"));
    let project =
        |t: &hypernetes_tests::Tenant| t.openstack().json("token issue")["project_id"].as_str().unwrap().to_owned();
    let (own, other) = (project(&acme), project(&globex));
    let k = acme.kubectl();
    let raw = |path: &str| k.arguments(&["get", "--raw", path]);
    raw(&format!("/clusters/{own}/api/v1/namespaces/default/pods")).success();
    for cluster in [other.as_str(), globex.name.as_str(), "system", "*"] {
        let refused = raw(&format!("/clusters/{cluster}/api/v1/namespaces/default/pods")).failure();
        assert!(refused.contains("(Forbidden)"), "{cluster}: {refused}");
    }
    // Paths that try to look like something else.
    for path in [
        format!("/clusters/{own}/../{other}/api/v1/pods"),
        format!("/clusters/{own}/clusters/{other}/api/v1/pods"),
        "/clusters//api/v1/pods".to_owned(),
    ] {
        let refused = raw(&path).failure();
        let answers = ["(NotFound)", "(Forbidden)", "(BadRequest)"];
        assert!(answers.iter().any(|answer| refused.contains(answer)), "{path}: {refused}");
    }
}

#[test]
fn a_tenant_cannot_write_what_infrastructure_says() {
    let tenant = System::shared().tenant("infra");
    let k = tenant.kubectl();
    let patch =
        |what: &str| k.arguments(&["patch", "network", "default", "--subresource=status", "--type=merge", "-p", what]);
    let refused = patch(r#"{"status":{"segmentId":1}}"#).failure();
    assert!(refused.contains("(Forbidden)"), "{refused}");
    // Nor can a status be smuggled in with the object.
    k.apply("apiVersion: volume.hypernetes.io/v1alpha1\nkind: Volume\nmetadata: {name: v}\nspec: {sizeBytes: 1073741824}\nstatus: {phase: Available, driver: file, sizeBytes: 1}\n");
    assert_ne!(k.field("volume/v", ".status.sizeBytes"), "1");
    k.run("delete volume v --timeout=240s").success();
}

#[test]
fn static_credentials_are_bound_to_their_tenant() {
    let system = System::shared();
    let tenant = system.tenant("static");
    let other = system.tenant("static-b");
    let output = Finished::of(system.hypernetes().args(["tenant", "kubeconfig", &tenant.name, "--static"]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("static.kubeconfig");
    std::fs::write(&path, output.success()).unwrap();
    let run = |arguments: &[&str]| Finished::of(tenant.kubectl().command().env("KUBECONFIG", &path).args(arguments));
    run(&["create", "configmap", "by-certificate"]).success();
    tenant.kubectl().run("get configmap by-certificate").success();
    let raw = format!("/clusters/{}/api/v1/namespaces", other.name);
    assert!(run(&["get", "--raw", &raw]).failure().contains("(Forbidden)"));
    let serial = output.stderr.trim_end().rsplit(' ').next().unwrap().to_owned();
    Finished::of(system.hypernetes().args(["tenant", "revoke", &tenant.name, &serial])).success();
    run(&["get", "configmap", "by-certificate"]).failure();
}
