//! Tenant networks: one set of objects in two APIs, and packets that stay where they belong.

use hypernetes_tests::{System, shell_pod};

const SERVE: &str = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
// `wget -T` of Debian's static busybox crashes.
const FETCH: &str = "timeout 4 wget -q -O - http://ADDRESS:8080/";

#[test]
fn one_set_of_objects_in_two_apis() {
    let tenant = System::shared().tenant("neutron");
    let (o, k) = (tenant.openstack(), tenant.kubectl());
    assert!(o.run("network list").success().contains("default"));
    let network = o.json("network create blue");
    o.run("subnet create --network blue --subnet-range 10.9.0.0/24 blue-1").success();
    assert!(k.run("get networks").success().contains("blue"));
    assert!(k.run("get subnets").success().contains("10.9.0.0/24"));
    let port = o.json("port create --network blue p1");
    let address = port["fixed_ips"][0]["ip_address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.9.0."), "{port}");
    assert!(k.run("get ports").success().contains(&address));
    assert_eq!(o.json(&format!("network show {}", network["id"].as_str().unwrap()))["name"], "blue");
    let in_use = o.run("network delete blue").failure();
    assert!(
        in_use.contains("409") || in_use.to_lowercase().contains("in use") || in_use.contains("Conflict"),
        "{in_use}"
    );
    let taken = o.run(&format!("port create --network blue --fixed-ip ip-address={address} p2")).failure();
    assert!(taken.contains("409") || taken.contains("Conflict") || taken.contains("in use"), "{taken}");
    o.run("port delete p1").success();
    o.run("subnet delete blue-1").success();
    o.run("network delete blue").success();
    assert!(!k.run("get networks").success().contains("blue"));
    // Another tenant's is not found, by id or by name.
    let other = System::shared().tenant("neutron-other");
    let theirs = other.openstack().json("network show default");
    let missing = o.run(&format!("network show {}", theirs["id"].as_str().unwrap())).failure();
    assert!(missing.contains("404") || missing.contains("No Network found"), "{missing}");
}

#[test]
fn packets_stay_on_their_network() {
    let system = System::shared();
    let (acme, globex) = (system.tenant("net-a"), system.tenant("net-b"));
    let (a, b) = (acme.kubectl(), globex.kubectl());
    for k in [&a, &b] {
        k.apply(&shell_pod("server", SERVE));
        k.wait_ready("server");
        k.apply(&shell_pod("client", "sleep 100000"));
        k.wait_ready("client");
    }
    b.apply(&shell_pod("third", SERVE));
    b.wait_ready("third");
    let address = |k: &hypernetes_tests::Kubectl, pod: &str| k.field(&format!("pod/{pod}"), ".status.podIP");
    assert_eq!(address(&a, "server"), address(&b, "server"), "the same manifest, the same addresses");
    let fetch = |k: &hypernetes_tests::Kubectl, address: &str| k.shell("client", &FETCH.replace("ADDRESS", address));
    hypernetes_tests::eventually("its own pod answers", || {
        (fetch(&a, &address(&a, "server")).code == Some(0)).then_some(())
    });
    let third = address(&b, "third");
    hypernetes_tests::eventually("globex reaches its third pod", || {
        (fetch(&b, &third).stdout.trim() == "third").then_some(())
    });
    fetch(&a, &third).failure();
    // The host is not reached: not by its addresses, not by the gateway's.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in host_addresses().iter().map(String::as_str).chain(["10.244.0.1"]) {
        a.shell("client", &format!("timeout 2 wget -q -O - http://{host}:{port}/")).failure();
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a guest's packet reached the host");
    // Nor has the host a way to a pod: none of its interfaces leads to one, and its routes do not know the network. (Asked
    // of the kernel: a packet would go to whoever has the address in the host's own network.)
    let ip = |arguments: &[&str]| hypernetes_tests::Finished::of(std::process::Command::new("ip").args(arguments));
    let routes = ip(&["route", "show", "table", "all"]).success().to_owned();
    assert!(!routes.contains("10.244."), "{routes}");
    let links = ip(&["-brief", "link"]).success().to_owned();
    assert!(!links.lines().any(|link| link.starts_with("tap")), "{links}");
}

fn host_addresses() -> Vec<String> {
    let output = std::process::Command::new("hostname").arg("-I").output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|a| !a.contains(':')).map(str::to_owned).collect()
}

#[test]
fn a_namespace_can_be_on_another_network() {
    let tenant = System::shared().tenant("net-ns");
    let k = tenant.kubectl();
    k.apply("apiVersion: network.hypernetes.io/v1alpha1\nkind: Network\nmetadata: {name: back}\nspec: {}\n");
    k.apply("apiVersion: network.hypernetes.io/v1alpha1\nkind: Subnet\nmetadata: {name: back}\nspec: {network: back, cidr: 10.77.0.0/24}\n");
    k.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: backend, annotations: {network.hypernetes.io/network: back}}\n");
    k.apply(&shell_pod("front", SERVE));
    k.input("apply -n backend -f -", &shell_pod("db", SERVE)).success();
    k.input("apply -n backend -f -", &shell_pod("client", "sleep 100000")).success();
    k.wait_ready("front");
    for pod in ["db", "client"] {
        k.run(&format!("wait -n backend --for=condition=Ready pod/{pod} --timeout=240s")).success();
    }
    let db = k.run("get pod db -n backend -o jsonpath={.status.podIP}").success().to_owned();
    assert!(db.starts_with("10.77.0."), "{db}");
    let from = |namespace: &str, pod: &str, address: &str| {
        k.arguments(&["exec", "-n", namespace, pod, "--", "sh", "-c", &FETCH.replace("ADDRESS", address)])
    };
    hypernetes_tests::eventually("the same network answers", || {
        (from("backend", "client", &db).code == Some(0)).then_some(())
    });
    from("default", "front", &db).failure();
}
