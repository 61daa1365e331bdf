//! The stock openstack client against the service.

use hypernetes_testing::openstack::Client;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_works() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let k = keystone_with(IdentityConfig { public_url: url.clone(), ..config() }).await;
    let server = tokio::spawn(axum::serve(listener, k.router.clone()).into_future());
    let admin = Client::new(&url, PASSWORD);

    let token = admin.json("token issue").await;
    assert_eq!(token["project_id"], admin_project_id());
    let catalog = admin.ok("catalog list").await;
    for service in ["identity", "network", "volumev3"] {
        assert!(catalog.contains(service), "{catalog}");
    }
    let project = admin.json("project create acme --description d --tag t").await;
    assert_eq!((project["name"].as_str(), project["enabled"].as_bool()), (Some("acme"), Some(true)));
    assert_eq!(admin.json("project show acme").await["id"], project["id"]);
    assert!(admin.ok("project list").await.contains("acme"));
    admin.ok("project set acme --description changed").await;
    assert_eq!(admin.json("project show acme").await["description"], "changed");
    assert!(admin.refused("project create acme").await.contains("409"));
    let user = admin.json("user create jane --password s3cret --project acme --email j@example.org").await;
    assert_eq!(admin.json("user show jane").await["id"], user["id"]);
    assert!(admin.ok("user list").await.contains("jane"));
    admin.ok("user set jane --description d").await;
    admin.ok("role add --user jane --project acme member").await;
    let assignments = admin.ok("role assignment list --user jane --names").await;
    assert!(assignments.contains("member") && assignments.contains("acme@Default"), "{assignments}");
    admin.ok("role assignment list --project acme --effective --names").await;
    admin.ok("role create auditor").await;
    assert!(admin.ok("role list").await.contains("auditor"));
    admin.json("role show auditor").await;
    admin.ok("role delete auditor").await;
    admin.ok("group create crew").await;
    admin.ok("group add user crew jane").await;
    admin.ok("group contains user crew jane").await;
    assert!(admin.ok("user list --group crew").await.contains("jane"));
    admin.ok("role add --group crew --project acme reader").await;
    admin.ok("group remove user crew jane").await;
    admin.ok("group delete crew").await;
    admin.ok("role add --user jane --system all reader").await;
    admin.ok("role remove --user jane --system all reader").await;
    admin.ok("domain create d").await;
    assert!(admin.ok("domain list").await.contains("Default"));
    admin.ok("domain set d --disable").await;
    admin.ok("domain delete d").await;
    for list in ["service list", "endpoint list", "region list", "implied role list"] {
        assert!(!admin.ok(list).await.trim().is_empty(), "{list}");
    }
    assert!(admin.refused("role delete admin").await.contains("403"));

    let jane = admin.as_user("jane", "s3cret", "acme");
    let token = jane.json("token issue").await;
    assert_eq!(token["project_id"], project["id"]);
    assert!(jane.refused("user list").await.contains("403"));
    jane.ok("user password set --password changed --original-password s3cret").await;
    assert!(jane.refused("token issue").await.contains("401"));
    let jane = admin.as_user("jane", "changed", "acme");
    let token = jane.json("token issue").await;
    admin.ok(&format!("token revoke {}", token["id"].as_str().unwrap())).await;
    admin.ok("role remove --user jane --project acme member").await;
    assert!(jane.refused("token issue").await.contains("401"), "without a role in the project");
    admin.ok("user delete jane").await;
    admin.ok("project delete acme").await;
    assert!(!admin.ok("project list").await.contains("acme"));
    server.abort();
}
