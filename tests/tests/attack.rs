//! `hypernetes attack` against a system of its own: nothing that it tries succeeds.
//!
//! `HYPERNETES_ATTACK_SECONDS` says how long each flood lasts (5).

use hypernetes_tests::{Finished, OwnSystem, eventually};

#[test]
fn no_attack_succeeds() {
    let own = OwnSystem::start();
    // What the attackers' pods run.
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/demo-web.tar");
    Finished::of(own.system.hypernetes().args(["image", "import", archive, "--name", "demo/web:1"])).success();
    // A registry that an attacker has, and that this host's operator trusts all the same.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configured = own.system.root.join(format!("hyperd/certs.d/127.0.0.1_{}_", registry.port()));
    std::fs::create_dir_all(&configured).unwrap();
    std::fs::write(configured.join("hosts.toml"), format!("server = \"http://{registry}\"\n")).unwrap();
    let registry = registry.to_string();
    let seconds = std::env::var("HYPERNETES_ATTACK_SECONDS").unwrap_or_else(|_| "5".into());
    let attack = Finished::of(own.system.hypernetes().args(["attack", "--seconds", &seconds, "--registry", &registry]));
    println!("{}", attack.stdout);
    assert_eq!(attack.code, Some(0), "{}{}", attack.stdout, attack.stderr);
    eventually("the tenants that it made are gone", || {
        let left = Finished::of(own.system.hypernetes().args(["tenant", "list"]));
        (!left.success().contains("attack-")).then_some(())
    });
}
