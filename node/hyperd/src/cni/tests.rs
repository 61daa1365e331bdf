//! CNI with plugins that are scripts (here) and with Debian's (`chains`), on a host of the test's own.

mod chains;
mod guest;

use std::{future::Future, path::PathBuf};

use hypernetes_hypervisor::{Nic, tap};
use nix::{
    mount::MsFlags,
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

use super::*;

/// Runs a test on a thread with a network and mounts of its own, which are gone with it.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        tool("ip", "link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn tool(program: &str, arguments: &str) -> String {
    let output = std::process::Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Setup {
    directory: tempfile::TempDir,
    cni: Cni,
}

impl Setup {
    fn new(bin_dir: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["net.d", "bin"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let bin_dir = bin_dir.map_or_else(|| root.join("bin"), PathBuf::from);
        let cni = Cni::new(root.join("net.d"), vec![bin_dir], root);
        Self { directory, cni }
    }

    /// Connects a pod that begins now.
    async fn add(&self, pod: &Pod, tap: Option<&PreparedTap>) -> Result<Option<PodNetwork>, CniError> {
        self.cni.add(self.cni.choose(&Default::default()).await?, pod, tap).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, list: &Value) {
        std::fs::write(self.path("net.d/10-test.conflist"), list.to_string()).unwrap();
    }

    /// A plugin that notes what it is asked in `calls`, and then does as the script says.
    fn plugin(&self, name: &str, script: &str) {
        let notes = format!("input=$(cat); echo \"{name} $CNI_COMMAND $CNI_NETNS\" >>{}", self.path("calls").display());
        let input = format!("echo \"$input\" >{}", self.path(&format!("{name}.input")).display());
        crate::fake::script(&self.path("bin").join(name), &format!("#!/bin/sh\n{notes}\n{input}\n{script}\n"));
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("calls"));
        text.lines().map(|line| line.replace(self.directory.path().to_str().unwrap(), "").trim().to_owned()).collect()
    }

    fn input(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(&format!("{name}.input"))).unwrap()).unwrap()
    }
}

impl Drop for Setup {
    /// What is mounted on cannot be removed.
    fn drop(&mut self) {
        for directory in [self.path(""), self.path("netns")] {
            for mounted in netns::all(&directory).unwrap_or_default() {
                let _ = nix::mount::umount2(&mounted, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

fn pod(id: &str) -> Pod {
    Pod { sandbox_id: id.into(), name: "web".into(), namespace: "default".into(), ..Pod::default() }
}

const TAP_RESULT: &str = r#"echo '{"cniVersion":"1.0.0","interfaces":[{"name":"tap0","mac":"52:54:00:AA:00:01","mtu":1450,"sandbox":"/run/netns/hn-1"}],
"ips":[{"address":"10.244.0.5/16","gateway":"10.244.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.96.0.10"]}}'"#;

#[tokio::test]
async fn a_plugin_for_vms_hands_over_its_tap() {
    let setup = Setup::new(None);
    setup.plugin("ours", TAP_RESULT);
    setup.configure(&json!({"cniVersion": "1.0.0", "name": "n",
        "plugins": [{"type": "ours", "x": 1, "capabilities": {"hypernetes.io/tap": true}}]}));
    let mut asking = pod("s1");
    asking.wishes.insert(pod::TAP.into(), true.into());
    asking.wishes.insert("dns".into(), json!({}));
    let network = setup.add(&asking, None).await.unwrap().unwrap();
    assert_eq!((network.tap.as_str(), network.mac.as_str(), network.mtu), ("tap0", "52:54:00:aa:00:01", 1450));
    assert_eq!(network.netns.as_deref(), Some(Path::new("/run/netns/hn-1")));
    assert_eq!(network.addresses[0].cidr, "10.244.0.5/16");
    assert_eq!(network.dns.nameservers, ["10.96.0.10"]);
    // No namespace was made; the plugin heard what it declared to hear, and nothing else.
    assert_eq!(setup.calls(), ["ours ADD"]);
    let input = setup.input("ours");
    assert_eq!((&input["x"], &input["name"]), (&json!(1), &json!("n")));
    assert_eq!(input["runtimeConfig"], json!({"hypernetes.io/tap": true}));
    assert!(input.get("capabilities").is_none());
    setup.cni.del("s1").await.unwrap();
    setup.cni.del("s1").await.unwrap();
    assert_eq!(setup.calls(), ["ours DEL"]);
}

#[test]
fn a_prepared_tap_outlives_its_vm_and_goes_with_the_pod() {
    on_a_host(async || {
        let setup = Setup::new(None);
        let plugins = setup.path("plugins");
        netns::make(&plugins).await.unwrap();
        let there = async |tap: &PreparedTap| {
            let name = tap.name.clone();
            netns::inside(&tap.netns, move || Ok(nix::net::if_::if_nametoindex(name.as_str()).is_ok())).await
        };
        for (style, last) in [
            (Style::Joined, None),
            (Style::Ahead(1), None),
            (Style::Tap, None),
            (Style::Tap, Some(setup.path("gone"))),
            (Style::Tap, Some(plugins.clone())),
        ] {
            let tap = setup.cni.prepare("s1", style, last.as_deref()).await.unwrap();
            assert_eq!(tap.netns == plugins, last.as_ref() == Some(&plugins));
            let nic = Nic { tap: tap.name.clone(), netns: Some(tap.netns.clone()), mac: String::new() };
            // As often as a VM comes back to it.
            for _ in 0..2 {
                drop(tap::open(&nic).await.unwrap());
                assert!(there(&tap).await.unwrap());
            }
            // What the plugin says that the pod's tap is may be another than the VM's.
            let network = PodNetwork {
                tap: tap.name.clone(),
                netns: Some(tap.netns.clone()),
                mac: String::new(),
                mtu: 0,
                addresses: vec![],
                routes: vec![],
                dns: Dns::default(),
            };
            let vm = tap::open(&nic).await.unwrap();
            assert!(setup.cni.took(&tap, &network).await);
            drop(vm);
            assert_eq!(setup.cni.took(&tap, &network).await, style != Style::Tap);
            assert!(tap.is_there());
            setup.cni.del("s1").await.unwrap();
            assert!(!there(&tap).await.unwrap_or(false));
            assert!(setup.cni.taps.list().unwrap().is_empty());
        }
        // hyperd was killed while a VM waited in a plugin's namespace, and then that went.
        setup.cni.prepare("left", Style::Tap, Some(&plugins)).await.unwrap();
        let cut_off = setup.cni.prepare("cut-off", Style::Tap, Some(&plugins)).await.unwrap();
        setup.cni.collect_garbage(&BTreeSet::from(["cut-off".to_owned()])).await;
        let names =
            || Ok(nix::net::if_::if_nameindex()?.iter().map(|i| i.name().to_string_lossy().into_owned()).collect());
        let left: Vec<String> = netns::inside(&plugins, names).await.unwrap();
        assert_eq!(left.iter().filter(|name| name.starts_with("vm")).collect::<Vec<_>>(), [&cut_off.name]);
        netns::make(&plugins).await.unwrap();
        assert!(!cut_off.is_there());
        setup.cni.del("cut-off").await.unwrap();
        assert!(setup.cni.taps.list().unwrap().is_empty());
    });
}

#[test]
fn a_chain_that_fails_is_undone_as_it_was() {
    on_a_host(async || {
        let setup = Setup::new(None);
        setup.plugin("one", r#"echo '{"cniVersion":"1.0.0"}'"#);
        setup.plugin(
            "two",
            r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"later","details":"busy"}'; exit 1; }"#,
        );
        setup.configure(&json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}, {"type": "two"}]}));
        let error = setup.add(&pod("s1"), None).await.unwrap_err();
        assert!(matches!(&error, CniError::Plugin { code: 11, message, .. } if message == "later: busy"), "{error}");
        assert!(error.is_temporary());
        assert_eq!(setup.calls(), ["one ADD /netns/s1", "two ADD /netns/s1"]);
        // What the configuration says by then does not matter.
        setup.configure(&json!({}));
        setup.cni.del("s1").await.unwrap();
        assert_eq!(setup.calls(), ["two DEL /netns/s1", "one DEL /netns/s1"]);
        assert!(!setup.path("netns/s1").exists() && setup.cni.attachments.list().unwrap().is_empty());

        setup.plugin("one", "echo oops >&2; exit 3");
        setup.configure(&json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}]}));
        let error = setup.add(&pod("s2"), None).await.unwrap_err().to_string();
        assert!(error.contains("oops") && error.contains("exit status: 3"), "{error}");
        setup.plugin("one", "echo garbage");
        assert!(matches!(setup.add(&pod("s3"), None).await, Err(CniError::Result { .. })));
        setup.plugin("one", r#"echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/elsewhere"}]}'"#);
        let error = setup.add(&pod("s4"), None).await.unwrap_err().to_string();
        assert!(error.contains("no interface eth0"), "{error}");
    });
}

#[test]
fn what_an_earlier_hyperd_left_is_collected() {
    on_a_host(async || {
        let setup = Setup::new(None);
        setup.plugin("ours", r#"[ $CNI_COMMAND = ADD ] && exit 1; exit 0"#);
        setup.configure(&json!({"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "ours"}]}));
        for id in ["kept", "killed", "rebooted"] {
            setup.add(&pod(id), None).await.unwrap_err();
        }
        // A host that restarts forgets mounts.
        nix::mount::umount(&setup.path("netns/rebooted")).unwrap();
        // hyperd was killed before it wrote anything down.
        netns::make(&setup.path("netns/stray")).await.unwrap();
        setup.calls();
        setup.cni.collect_garbage(&BTreeSet::from(["kept".to_owned()])).await;
        let mut calls = setup.calls();
        assert_eq!(calls.pop().unwrap(), "ours GC");
        calls.sort();
        assert_eq!(calls, ["ours DEL", "ours DEL /netns/killed"]);
        assert_eq!(
            setup.input("ours")["cni.dev/valid-attachments"],
            json!([{"containerID": "kept", "ifname": "eth0"}])
        );
        assert_eq!(netns::names(&setup.path("netns")).unwrap(), ["kept"]);
        assert!(netns::exists(&setup.path("netns/kept")));
    });
}

#[tokio::test]
async fn changes_of_the_configuration_are_noticed() {
    let setup = Setup::new(None);
    assert_eq!(setup.cni.status().await.unwrap(), None);
    assert!(setup.add(&pod("s1"), None).await.unwrap().is_none());
    setup.configure(&json!({"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "ours"}]}));
    assert!(matches!(setup.cni.status().await, Err(CniError::Missing { .. })));
    setup.plugin("ours", r#"echo '{"code":50,"msg":"no agent"}'; exit 1"#);
    assert!(setup.cni.status().await.unwrap_err().to_string().contains("no agent"));
    setup.plugin("ours", "");
    assert_eq!(setup.cni.status().await.unwrap().as_deref(), Some("n"));
    assert_eq!(setup.calls(), ["ours STATUS", "ours STATUS"]);
    // A pod that has begun is connected to what there was then.
    let choice = setup.cni.choose(&Default::default()).await.unwrap();
    std::fs::write(setup.path("net.d/05-broken.conf"), "{").unwrap();
    assert!(matches!(setup.cni.status().await, Err(CniError::Config { .. })));
    setup.cni.add(choice, &pod("s2"), None).await.unwrap_err();
    assert_eq!(setup.calls().last().unwrap(), "ours ADD /netns/s2");
    setup.cni.del("s2").await.unwrap();
}

#[tokio::test]
async fn the_newest_common_version_is_spoken() {
    let setup = Setup::new(None);
    setup.plugin("new", r#"echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0","9.0.0"]}'"#);
    setup.plugin("old", r#"echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}'"#);
    let list = |versions: &[&str]| json!({"cniVersion": "1.0.0", "cniVersions": versions, "name": "n", "plugins": [{"type": "new"}, {"type": "old"}]});
    setup.configure(&list(&["0.4.0", "1.1.0"]));
    assert_eq!(setup.cni.load().await.unwrap().unwrap().version, Version::V0_4_0);
    setup.configure(&list(&["1.1.0"]));
    assert!(matches!(setup.cni.load().await, Err(CniError::Config { .. })));
}

#[test]
fn only_a_network_that_was_left_connected_is_connected() {
    let address = |cidr: &str| Address { cidr: cidr.into(), ip: result::parse_cidr(cidr).unwrap(), gateway: None };
    let connected = ["10.1.0.0/16".to_owned(), "fd00::/64".to_owned()];
    for (cidr, brings) in [("10.1.2.3/16", true), ("10.1.2.3/24", false), ("10.2.0.1/16", false), ("fd00::9/64", true)]
    {
        assert_eq!(brings_route(&address(cidr), &connected), brings, "{cidr}");
    }
    assert!(brings_route(&address("10.0.0.1/0"), &["0.0.0.0/0".to_owned()]));
}
