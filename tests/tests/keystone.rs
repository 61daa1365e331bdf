//! The stock openstack client against the identity service, and kubectl with what it gives out.

use hypernetes_tests::System;

fn id(value: &serde_json::Value) -> String {
    value["id"].as_str().expect("an id").to_owned()
}

#[test]
fn tokens_projects_users_and_roles() {
    let system = System::shared();
    let admin = system.admin_openstack();
    let token = admin.json("token issue");
    assert!(token["id"].as_str().unwrap().len() > 32 && token["project_id"].is_string());
    let catalog = admin.run("catalog list").success().to_owned();
    for service in ["identity", "network", "volumev3"] {
        assert!(catalog.contains(service), "{catalog}");
    }
    let name = |what: &str| format!("{what}-{}", std::process::id());
    let project = admin.json(&format!("project create {} --description d", name("p")));
    let user = admin.json(&format!("user create {} --password s3cret-word --project {}", name("u"), id(&project)));
    admin.run(&format!("role add --user {} --project {} reader", id(&user), id(&project))).success();
    let assignments = admin.run(&format!("role assignment list --user {} --names", id(&user))).success().to_owned();
    assert!(assignments.contains("reader"), "{assignments}");
    assert!(admin.run("project list").success().contains(&name("p")));
    assert_eq!(admin.json(&format!("user show {}", id(&user)))["name"], name("u"));
    admin.run(&format!("project set {} --description changed", id(&project))).success();
    let twice = admin.run(&format!("project create {}", name("p"))).failure();
    assert!(twice.contains("409"), "{twice}");

    let reader =
        admin.with("OS_USERNAME", &name("u")).with("OS_PASSWORD", "s3cret-word").with("OS_PROJECT_NAME", &name("p"));
    let issued = reader.json("token issue");
    assert_eq!(issued["project_id"], id(&project));
    let refused = reader.run("user list").failure();
    assert!(refused.contains("403"), "{refused}");
    let wrong = reader.with("OS_PASSWORD", "not-it").run("token issue").failure();
    assert!(wrong.contains("401"), "{wrong}");

    // A revoked token is one no more.
    let revoked = issued["id"].as_str().unwrap().to_owned();
    admin.run(&format!("token revoke {revoked}")).success();
    let kubectl = |token: &str| {
        let server = system
            .operator()
            .run("config view --minify -o jsonpath={.clusters[0].cluster.server}")
            .success()
            .to_owned();
        hypernetes_tests::Finished::of(system.operator().command().env("KUBECONFIG", "/dev/null").args([
            "--server",
            &server,
            "--insecure-skip-tls-verify",
            "--token",
            token,
            "get",
            "pods",
        ]))
    };
    assert!(kubectl(&revoked).failure().contains("must be logged in"));

    // The role reader looks and does not touch.
    let token = reader.json("token issue")["id"].as_str().unwrap().to_owned();
    hypernetes_tests::eventually("the project is a tenant", || (kubectl(&token).code == Some(0)).then_some(()));

    admin.run(&format!("user delete {}", id(&user))).success();
    assert!(kubectl(&token).failure().contains("must be logged in"), "a deleted user's token");
    admin.run(&format!("project delete {}", id(&project))).success();
}

#[test]
fn a_reader_looks_and_does_not_touch() {
    let system = System::shared();
    let tenant = system.tenant("reader");
    let admin = system.admin_openstack();
    let user = format!("r-{}", tenant.name);
    admin.run(&format!("user create {user} --password a-reader-word")).success();
    admin.run(&format!("role add --user {user} --project {} reader", tenant.name)).success();
    let openstack = tenant.openstack().with("OS_USERNAME", &user).with("OS_PASSWORD", "a-reader-word");
    let token = openstack.json("token issue")["id"].as_str().unwrap().to_owned();
    let k = tenant.kubectl();
    let as_reader = |arguments: &str| {
        let server = k.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").success().to_owned();
        let mut command = k.command();
        command.env("KUBECONFIG", "/dev/null").args([
            "--server",
            &server,
            "--insecure-skip-tls-verify",
            "--token",
            &token,
        ]);
        hypernetes_tests::Finished::of(command.args(arguments.split_whitespace()))
    };
    k.run("create configmap seen --from-literal=a=b").success();
    assert!(as_reader("get configmaps").success().contains("seen"));
    assert!(as_reader("delete configmap seen").failure().contains("forbidden"));
    assert!(as_reader("get secrets").failure().contains("forbidden"), "view does not include secrets");
    let volume = openstack.run("volume create --size 1 v").failure();
    assert!(
        volume.contains("403") || volume.to_lowercase().contains("forbidden") || volume.contains("disallowed"),
        "{volume}"
    );
    assert!(openstack.run("network create n").failure().contains("403"));
    openstack.run("network list").success();
}

#[test]
fn kubectl_logs_in_by_itself() {
    let tenant = System::shared().tenant("login");
    let config = std::fs::read_to_string(tenant.kubeconfig()).unwrap();
    assert!(config.contains("client.authentication.k8s.io/v1"), "{config}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(tenant.kubeconfig()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    tenant.kubectl().run("get pods").success();
}
