//! The Neutron API.

use kube::ResourceExt;

use super::*;

const MEMBER: &str = "member@0123456789abcdef0123456789abcdef";
const READER: &str = "reader@0123456789abcdef0123456789abcdef";
const OTHER: &str = "admin@fedcba9876543210fedcba9876543210";
const OPERATOR: &str = "admin@system";

impl Cloud {
    async fn create(&self, kind: &str, body: Value) -> Value {
        let created = self.call(MEMBER, "POST", &format!("/{kind}s"), json!({kind: body})).await.ok();
        created[kind].clone()
    }

    async fn not_created(&self, kind: &str, body: Value, code: u16, exception: &str) -> String {
        self.call(MEMBER, "POST", &format!("/{kind}s"), json!({kind: body})).await.refused(code, exception)
    }

    async fn change(&self, kind: &str, id: &Value, body: Value) -> Answer {
        let id = id.as_str().unwrap();
        self.call(MEMBER, "PUT", &format!("/{kind}s/{id}"), json!({kind: body})).await
    }

    async fn remove(&self, kind: &str, id: &Value) -> Answer {
        self.delete(MEMBER, &format!("/{kind}s/{}", id.as_str().unwrap())).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_subnets_and_ports_live() {
    let cloud = Cloud::new().await;
    let network = cloud.create("network", json!({"name": "blue", "description": "d", "mtu": 1400})).await;
    assert_eq!(
        (&network["status"], &network["mtu"], &network["admin_state_up"], &network["shared"], &network["project_id"]),
        (&json!("ACTIVE"), &json!(1400), &json!(true), &json!(false), &json!(ACME))
    );
    assert!(network.get("provider:segmentation_id").is_none());
    let object = cloud.api::<Network>(ACME).get("blue").await.unwrap();
    assert_eq!(json!(object.metadata.uid), network["id"]);
    let subnet = cloud
        .create(
            "subnet",
            json!({"name": "My Subnet", "network_id": network["id"], "ip_version": 4, "cidr": "10.1.0.7/24"}),
        )
        .await;
    assert_eq!((&subnet["cidr"], &subnet["gateway_ip"]), (&json!("10.1.0.0/24"), &json!("10.1.0.1")));
    assert_eq!(subnet["allocation_pools"], json!([{"start": "10.1.0.2", "end": "10.1.0.254"}]));
    assert_eq!((&subnet["name"], &subnet["network_id"]), (&json!("My Subnet"), &network["id"]));
    let port = cloud.create("port", json!({"network_id": network["id"], "name": "p"})).await;
    assert_eq!(port["fixed_ips"], json!([{"subnet_id": subnet["id"], "ip_address": "10.1.0.2"}]));
    assert_eq!((&port["status"], &port["mac_address"]), (&json!("DOWN"), &json!("fa:16:3e:01:00:02")));
    let fixed = json!([{"subnet_id": subnet["id"], "ip_address": "10.1.0.50"}]);
    let same_name = cloud.create("port", json!({"network_id": network["id"], "name": "p", "fixed_ips": fixed})).await;
    assert_eq!(same_name["name"], "p");
    let list = cloud.get(MEMBER, "/ports?name=p&fields=id&fields=name").await.ok();
    assert_eq!(list["ports"].as_array().unwrap().len(), 2);
    assert_eq!(list["ports"][0].as_object().unwrap().len(), 2);
    let by_ip = cloud.get(MEMBER, "/ports?fixed_ips=ip_address%3D10.1.0.50").await.ok();
    assert_eq!(by_ip["ports"][0]["id"], same_name["id"]);

    let changed =
        cloud.change("port", &port["id"], json!({"name": "q", "fixed_ips": [{"ip_address": "10.1.0.60"}]})).await.ok();
    assert_eq!(
        (&changed["port"]["name"], &changed["port"]["fixed_ips"][0]["ip_address"]),
        (&json!("q"), &json!("10.1.0.60"))
    );
    let next = cloud.create("port", json!({"network_id": network["id"]})).await;
    assert_eq!(next["fixed_ips"][0]["ip_address"], "10.1.0.2", "the address that was given up");
    let changed = cloud.change("network", &network["id"], json!({"name": "green", "admin_state_up": false})).await.ok();
    assert_eq!((&changed["network"]["name"], &changed["network"]["admin_state_up"]), (&json!("green"), &json!(false)));
    assert_eq!(changed["network"]["subnets"], json!([subnet["id"]]));
    let changed =
        cloud.change("subnet", &subnet["id"], json!({"dns_nameservers": ["192.0.2.53"], "enable_dhcp": false})).await;
    assert_eq!(changed.ok()["subnet"]["dns_nameservers"], json!(["192.0.2.53"]));

    assert!(cloud.remove("network", &network["id"]).await.refused(409, "NetworkInUse").contains("ports still in use"));
    cloud.remove("subnet", &subnet["id"]).await.refused(409, "SubnetInUse");
    for port in [&port, &same_name, &next] {
        assert_eq!(cloud.remove("port", &port["id"]).await.status, 204);
        cloud.remove("port", &port["id"]).await.refused(404, "PortNotFound");
    }
    assert_eq!(cloud.remove("network", &network["id"]).await.status, 204);
    cloud.remove("network", &network["id"]).await.refused(404, "NetworkNotFound");
    cloud.remove("subnet", &subnet["id"]).await.refused(404, "SubnetNotFound");
    assert!(
        cloud
            .api::<Subnet>(ACME)
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .iter()
            .all(|s| s.name_any() == "default")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_in_neutrons_words() {
    let cloud = Cloud::new().await;
    let network = cloud.create("network", json!({"name": "n"})).await["id"].clone();
    let subnet = |more: Value| {
        let mut body = json!({"network_id": network, "ip_version": 4, "cidr": "10.1.0.0/24"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, code, exception) in [
        (json!({"cidr": "10.1.0.0/99"}), 400, "HTTPBadRequest"),
        (json!({"cidr": 7}), 400, "HTTPBadRequest"),
        (json!({"cidr": "fd00::/64"}), 400, "InvalidInput"),
        (json!({"ip_version": 6}), 400, "InvalidInput"),
        (json!({"gateway_ip": "10.2.0.1"}), 400, "InvalidInput"),
        (json!({"gateway_ip": "x"}), 400, "HTTPBadRequest"),
        (json!({"allocation_pools": [{"start": "10.1.0.9", "end": "10.1.0.5"}]}), 400, "InvalidAllocationPool"),
        (json!({"allocation_pools": [{"start": "10.1.0.9", "end": "10.2.0.5"}]}), 400, "OutOfBoundsAllocationPool"),
        (
            json!({"allocation_pools": [{"start": "10.1.0.1", "end": "10.1.0.5"}]}),
            409,
            "GatewayConflictWithAllocationPools",
        ),
        (
            json!({"allocation_pools": [{"start": "10.1.0.2", "end": "10.1.0.5"}, {"start": "10.1.0.5", "end": "10.1.0.9"}]}),
            409,
            "OverlappingAllocationPools",
        ),
        (json!({"allocation_pools": "all"}), 400, "HTTPBadRequest"),
        (json!({"dns_nameservers": ["x"]}), 400, "HTTPBadRequest"),
        (json!({"host_routes": [{"destination": "0.0.0.0/0", "nexthop": "10.1.0.3"}]}), 400, "InvalidInput"),
        (json!({"network_id": "nowhere"}), 404, "NetworkNotFound"),
        (json!({"colour": "red"}), 400, "HTTPBadRequest"),
    ] {
        cloud.not_created("subnet", subnet(more), code, exception).await;
    }
    cloud.create("subnet", subnet(json!({}))).await;
    let why = cloud.not_created("subnet", subnet(json!({"cidr": "10.1.0.128/25"})), 400, "InvalidInput").await;
    assert!(why.contains("overlaps with another subnet"), "{why}");

    let port = |more: Value| {
        let mut body = json!({"network_id": network});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let taken = cloud.create("port", port(json!({"fixed_ips": [{"ip_address": "10.1.0.9"}]}))).await;
    for (more, code, exception) in [
        (json!({"fixed_ips": [{"ip_address": "10.1.0.9"}]}), 409, "IpAddressInUse"),
        (json!({"fixed_ips": [{"ip_address": "10.1.0.1"}]}), 409, "IpAddressInUse"),
        (json!({"fixed_ips": [{"ip_address": "10.7.0.1"}]}), 400, "InvalidIpForNetwork"),
        (json!({"fixed_ips": [{"ip_address": "10.1.0"}]}), 400, "HTTPBadRequest"),
        (json!({"fixed_ips": [{"subnet_id": "x"}]}), 404, "SubnetNotFound"),
        (json!({"mac_address": taken["mac_address"]}), 409, "MacAddressInUse"),
        (json!({"mac_address": "01:00:5e:00:00:01"}), 400, "HTTPBadRequest"),
        (json!({"device_owner": "hypernetes:pod"}), 403, "PolicyNotAuthorized"),
        (json!({"network_id": "x"}), 404, "NetworkNotFound"),
        (json!({"name": "n".repeat(256)}), 400, "HTTPBadRequest"),
        (json!({"port_security_enabled": false}), 400, "InvalidInput"),
        (json!({"project_id": GLOBEX}), 403, "PolicyNotAuthorized"),
    ] {
        cloud.not_created("port", port(more), code, exception).await;
    }
    let next = cloud.create("port", port(json!({}))).await;
    assert_eq!(next["fixed_ips"][0]["ip_address"], "10.1.0.2", "what was refused has taken nothing");
    for (body, exception) in [
        (json!({"mtu": 10}), "HTTPBadRequest"),
        (json!({"mtu": "much"}), "HTTPBadRequest"),
        (json!({"name": null}), "HTTPBadRequest"),
        (json!({"router:external": true}), "InvalidInput"),
    ] {
        cloud.not_created("network", body, 400, exception).await;
    }
    cloud.not_created("network", json!({"provider:segmentation_id": 5}), 403, "PolicyNotAuthorized").await;
    cloud.not_created("network", json!({"shared": true}), 403, "PolicyNotAuthorized").await;
    for body in ["", "[]", "{", "{}", "{\"network\": 5}", "{\"networks\": []}", "nonsense"] {
        cloud.send(MEMBER, "POST", "/networks", body).await.refused(400, "HTTPBadRequest");
    }
    cloud.send(MEMBER, "POST", "/networks", "x".repeat(2 << 20)).await.refused(413, "HTTPRequestEntityTooLarge");
    cloud.get(MEMBER, "/routes").await.refused(404, "HTTPNotFound");
    cloud.call(MEMBER, "PATCH", "/networks", Value::Null).await.refused(405, "HTTPMethodNotAllowed");
    for bad in ["limit=x", "marker=x", "sort_key=name&sort_dir=up"] {
        cloud.get(MEMBER, &format!("/networks?{bad}")).await.refused(400, "HTTPBadRequest");
    }
    cloud
        .change("subnet", &cloud.id_of(MEMBER, "subnets", "default").await.into(), json!({"cidr": "10.0.0.0/8"}))
        .await
        .refused(400, "HTTPBadRequest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_what() {
    let cloud = Cloud::new().await;
    for token in ["", "nonsense"] {
        let answer = cloud.get(token, "/networks").await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["code"]), (401, &json!(401)));
    }
    cloud.get("member@", "/networks").await.refused(403, "PolicyNotAuthorized");
    let own = cloud.id_of(READER, "networks", "default").await;
    cloud.get(READER, &format!("/networks/{own}")).await.ok();
    let body = json!({"network": {"name": "x"}});
    let why = cloud.call(READER, "POST", "/networks", body.clone()).await.refused(403, "PolicyNotAuthorized");
    assert_eq!(why, "rule:create_network is disallowed by policy");
    cloud.call(READER, "PUT", &format!("/networks/{own}"), body).await.refused(403, "PolicyNotAuthorized");
    cloud.delete(READER, &format!("/networks/{own}")).await.refused(403, "PolicyNotAuthorized");

    // Another tenant's admin sees nothing of it.
    cloud.get(OTHER, &format!("/networks/{own}")).await.refused(404, "NetworkNotFound");
    cloud.delete(OTHER, &format!("/networks/{own}")).await.refused(404, "NetworkNotFound");
    let on_it = json!({"port": {"network_id": own}});
    cloud.call(OTHER, "POST", "/ports", on_it).await.refused(404, "NetworkNotFound");
    assert_ne!(cloud.id_of(OTHER, "networks", "default").await, own);

    // The operator sees all, with segments.
    let all = cloud.get(OPERATOR, "/networks").await.ok();
    assert_eq!(all["networks"].as_array().unwrap().len(), 2);
    let filtered = cloud.get(OPERATOR, &format!("/networks?project_id={ACME}")).await.ok();
    assert_eq!(filtered["networks"].as_array().unwrap().len(), 1);
    assert!(filtered["networks"][0]["provider:segmentation_id"].as_u64().is_some());
    cloud.call(OPERATOR, "POST", "/networks", json!({"network": {}})).await.refused(400, "HTTPBadRequest");
    let made =
        cloud.call(OPERATOR, "POST", "/networks", json!({"network": {"name": "y", "project_id": ACME}})).await.ok();
    cloud.get(MEMBER, &format!("/networks/{}", made["network"]["id"].as_str().unwrap())).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_port_is_the_pods() {
    let cloud = Cloud::new().await;
    let pod = cloud.pod(ACME, "web").await;
    let port = json!(cloud.port_of(ACME, &pod).await.metadata.uid);
    assert!(cloud.remove("port", &port).await.refused(409, "ServicePortInUse").contains("hypernetes:pod"));
    cloud.change("port", &port, json!({"fixed_ips": [{"ip_address": "10.244.0.77"}]})).await.refused(409, "Conflict");
    cloud.change("port", &port, json!({"name": "web"})).await.ok();
    let list = cloud.get(MEMBER, &format!("/ports?device_id={}", pod.metadata.uid.unwrap())).await.ok();
    assert_eq!(list["ports"][0]["name"], "web");
    let network = json!(cloud.id_of(MEMBER, "networks", "default").await);
    cloud.remove("network", &network).await.refused(409, "NetworkInUse");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_order_and_pages() {
    let cloud = Cloud::new().await;
    for name in ["c", "a", "b"] {
        cloud.create("network", json!({"name": name})).await;
    }
    let names = |body: &Value| -> Vec<String> {
        body["networks"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect()
    };
    let sorted = cloud.get(MEMBER, "/networks?sort_key=name&sort_dir=desc").await.ok();
    assert_eq!(names(&sorted), ["default", "c", "b", "a"]);
    let page = cloud.get(MEMBER, "/networks?limit=2").await.ok();
    assert_eq!(names(&page), ["a", "b"]);
    let next = page["networks_links"][0]["href"].as_str().unwrap();
    let path = next.strip_prefix("https://cloud.example:6443/networking/v2.0").unwrap();
    let rest = cloud.get(MEMBER, path).await.ok();
    assert_eq!((names(&rest), rest.get("networks_links")), (vec!["c".into(), "default".into()], None));
    assert_eq!(names(&cloud.get(MEMBER, "/networks?name=a&name=c").await.ok()), ["a", "c"]);
    let up = cloud.get(MEMBER, "/networks?admin_state_up=False").await.ok();
    assert_eq!(names(&up), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_run_out() {
    let cloud = Cloud::new().await;
    let network = cloud.create("network", json!({"name": "tiny"})).await["id"].clone();
    cloud.not_created("port", json!({"network_id": network}), 409, "IpAddressGenerationFailure").await;
    let subnet = json!({"network_id": network, "ip_version": 4, "cidr": "10.1.0.0/30", "gateway_ip": null});
    let subnet = cloud.create("subnet", subnet).await;
    assert_eq!(subnet["gateway_ip"], Value::Null);
    let ports = futures::future::join_all(
        (0..5).map(|_| cloud.call(MEMBER, "POST", "/ports", json!({"port": {"network_id": network, "name": "p"}}))),
    )
    .await;
    let (made, refused): (Vec<_>, Vec<_>) = ports.into_iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (2, 3));
    for answer in refused {
        answer.refused(409, "IpAddressGenerationFailure");
    }
    cloud.change("subnet", &subnet["id"], json!({"gateway_ip": "10.1.0.2"})).await.refused(409, "GatewayIpInUse");
    cloud.remove("port", &made[0].body["port"]["id"]).await;
    cloud.create("port", json!({"network_id": network})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_ask_beside() {
    let cloud = Cloud::new().await;
    let extensions = cloud.get(READER, "/extensions").await.ok();
    assert!(extensions["extensions"].as_array().unwrap().iter().any(|e| e["alias"] == "quotas"));
    cloud.get(READER, "/extensions/net-mtu").await.ok();
    cloud.get(READER, "/extensions/router").await.refused(404, "HTTPNotFound");
    let details = cloud.get(READER, &format!("/quotas/{ACME}/details.json")).await.ok();
    assert_eq!(details["quota"]["network"], json!({"limit": -1, "used": 1, "reserved": 0}));
    cloud.get(READER, &format!("/quotas/{GLOBEX}")).await.refused(403, "PolicyNotAuthorized");
    for (path, key) in
        [("agents", "agents"), ("availability_zones", "availability_zones"), ("security-groups", "security_groups")]
    {
        assert_eq!(cloud.get(READER, &format!("/{path}")).await.ok()[key], json!([]));
    }
    let router = cloud.service.router();
    for path in ["/networking/", "/networking"] {
        let versions = send(router.clone(), "", "GET", path, "").await.body;
        assert_eq!(versions["versions"][0]["id"], "v2.0", "{path}");
    }
}
