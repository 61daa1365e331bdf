//! The stock openstack client against the service, with the built-in identity service.

use hypernetes_identity::{Identity, IdentityConfig, PasswordCost};
use hypernetes_testing::openstack::Client;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_works() {
    const PASSWORD: &str = "correct horse";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cloud = Cloud::empty(|config| VolumesConfig { public_url: url.clone(), max_bytes: 8 * GIB, ..config });
    let password_cost = PasswordCost { memory_kib: 64, passes: 1, parallel: 2 };
    let config = IdentityConfig { password_cost, ..IdentityConfig::new(&url) };
    let identity = Identity::start(&cloud.clients, config);
    identity.bootstrap(PASSWORD).await.unwrap();
    let volumes = cloud.service.router(identity.clone());
    let router = cloud.server.router().nest("/identity", identity.router()).nest("/volume", volumes);
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let admin = Client::new(&url, PASSWORD);
    let tenant = admin.json("token issue").await["project_id"].as_str().unwrap().to_owned();
    cloud.tenant(&tenant).await;
    cloud.class().await;

    let made = admin.json("volume create --size 2 --description d --property a=b data").await;
    assert_eq!((&made["name"], &made["size"], &made["type"]), (&json!("data"), &json!(2), &json!("standard")));
    let available = || async {
        let shown = admin.json("volume show data").await;
        (shown["status"] == "available").then_some(shown)
    };
    let shown = eventually(available).await;
    assert_eq!((&shown["id"], &shown["properties"]), (&made["id"], &json!({"a": "b"})));
    assert_eq!(cloud.files(&tenant).len(), 1);
    assert!(admin.refused("volume create --size 9 big").await.contains("more than 8 GiB"));
    admin.ok("volume set data --name moved --property c=d").await;
    let list = admin.json("volume list --long").await;
    assert_eq!(
        (&list[0]["Name"], &list[0]["Size"], &list[0]["Type"]),
        (&json!("moved"), &json!(2), &json!("standard"))
    );
    assert_eq!(list[0]["Properties"], json!({"a": "b", "c": "d"}));
    admin.ok("volume unset moved --property a").await;
    assert!(admin.ok("volume type list").await.contains("standard"));
    assert!(admin.ok("volume service list").await.contains("cinder-volume"));
    cloud.attach(&tenant, "data").await;
    let in_use = || async {
        let shown = admin.json("volume show moved").await;
        (shown["status"] == "in-use").then_some(())
    };
    eventually(in_use).await;
    assert!(admin.refused("volume delete moved").await.contains("in-use"));
    cloud.detach(&tenant, "data").await;
    admin.ok("volume delete moved").await;
    eventually(|| async { admin.run("volume show moved").await.err() }).await;
    assert!(cloud.files(&tenant).is_empty());
    server.abort();
}
