//! The stock openstack client against the service, with the built-in identity service.

use hypernetes_identity::{Identity, IdentityConfig, PasswordCost};
use hypernetes_testing::openstack::Client;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_works() {
    const PASSWORD: &str = "correct horse";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cloud = Cloud::empty();
    let password_cost = PasswordCost { memory_kib: 64, passes: 1, parallel: 2 };
    let config = IdentityConfig { password_cost, ..IdentityConfig::new(&url) };
    let identity = Identity::start(&cloud.clients, config);
    identity.bootstrap(PASSWORD).await.unwrap();
    let service =
        NetworkService::start(&cloud.clients, AllTenants::grant(), identity.clone(), NetworkConfig::new(&url));
    let router = cloud.server.router().nest("/identity", identity.router()).merge(service.router());
    let server = tokio::spawn(axum::serve(listener, router).into_future());
    let admin = Client::new(&url, PASSWORD);
    let tenant = admin.json("token issue").await["project_id"].as_str().unwrap().to_owned();
    cloud.tenant(&tenant).await;

    assert!(admin.ok("network list").await.contains("default"));
    let network = admin.json("network create blue --description d --mtu 1400").await;
    assert_eq!(
        (&network["name"], &network["status"], &network["mtu"]),
        (&json!("blue"), &json!("ACTIVE"), &json!(1400))
    );
    assert!(admin.refused("subnet create s --network blue --subnet-range 10.1.0.0/99").await.contains("subnet"));
    let subnet =
        admin.json("subnet create s --network blue --subnet-range 10.1.0.0/24 --dns-nameserver 192.0.2.53").await;
    assert_eq!((&subnet["gateway_ip"], &subnet["network_id"]), (&json!("10.1.0.1"), &network["id"]));
    assert!(admin.refused("subnet create t --network blue --subnet-range 10.1.0.0/25").await.contains("overlaps"));
    let port = admin.json("port create p --network blue --fixed-ip subnet=s,ip-address=10.1.0.9").await;
    assert_eq!(port["fixed_ips"][0]["ip_address"], "10.1.0.9");
    assert_eq!(admin.json("port show p").await["id"], port["id"]);
    assert!(admin.ok("port list --network blue").await.contains("10.1.0.9"));
    let pod = cloud.pod(&tenant, "web").await;
    cloud.port_of(&tenant, &pod).await;
    let pods = admin.ok("port list --device-owner hypernetes:pod").await;
    assert!(pods.contains("10.244.0.2") && !pods.contains("10.1.0.9"), "{pods}");
    let list = admin.json("port list --device-owner hypernetes:pod").await;
    assert!(
        admin.refused(&format!("port delete {}", list[0]["ID"].as_str().unwrap())).await.contains("hypernetes:pod")
    );
    admin.ok("network set blue --name green --disable").await;
    assert_eq!(admin.json("network show green").await["admin_state_up"], false);
    admin.ok("subnet set s --no-dhcp --description changed").await;
    assert_eq!(admin.json("subnet show s").await["enable_dhcp"], false);
    admin.ok("port set p --description changed").await;
    assert_eq!(admin.json("port show p").await["description"], "changed");
    assert!(admin.ok("subnet list").await.contains("10.1.0.0/24"));
    assert!(admin.refused("network delete green").await.contains("in use"));
    assert!(admin.refused("subnet delete s").await.contains("IP allocation"));
    admin.ok("port delete p").await;
    admin.ok("subnet delete s").await;
    admin.ok("network delete green").await;
    assert!(admin.refused("network show green").await.contains("No Network found"));
    assert!(admin.ok("extension list --network").await.contains("Quota"));
    for list in ["security group list", "network agent list", "availability zone list --network"] {
        admin.ok(list).await;
    }
    admin.ok(&format!("quota show --network {tenant}")).await;
    server.abort();
}
