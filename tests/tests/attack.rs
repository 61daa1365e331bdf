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
    let seconds = std::env::var("HYPERNETES_ATTACK_SECONDS").unwrap_or_else(|_| "5".into());
    let attack = Finished::of(own.system.hypernetes().args(["attack", "--seconds", &seconds]));
    println!("{}", attack.stdout);
    assert_eq!(attack.code, Some(0), "{}{}", attack.stdout, attack.stderr);
    eventually("the tenants that it made are gone", || {
        let left = Finished::of(own.system.hypernetes().args(["tenant", "list"]));
        (!left.success().contains("attack-")).then_some(())
    });
}
