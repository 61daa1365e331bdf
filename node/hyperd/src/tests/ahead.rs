//! VMs that wait and are connected already.

use super::*;

/// A plugin that may be run ahead of pods and has two addresses, and says what it was asked in `calls`.
fn plugin(node: &Node) {
    let (net, bin) = (node.path("root/cni/net.d"), node.path("root/cni/bin"));
    for directory in [&net, &bin, &node.path("addresses")] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let script = format!(
        r#"#!/bin/sh
cd {}
[ $CNI_COMMAND = CHECK ] || echo $CNI_COMMAND $CNI_CONTAINERID >>calls
case $CNI_COMMAND in
ADD)
    for last in 1 2 none; do
        [ $last = none ] && {{ echo '{{"code":100,"msg":"no address is left"}}'; exit 1; }}
        mkdir addresses/$last 2>/dev/null && break
    done
    echo $CNI_CONTAINERID >addresses/$last/owner
    nsenter --net=$CNI_NETNS ip link add eth0 address 52:54:00:00:00:0$last type veth peer name peer || exit 1
    echo '{{"cniVersion":"1.0.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],"ips":[{{"address":"10.9.0.'$last'/24","interface":0}}]}}' ;;
DEL)
    for owner in addresses/*/owner; do
        [ "$(cat $owner)" = $CNI_CONTAINERID ] && rm -r ${{owner%/owner}}
    done
    exit 0 ;;
esac
"#,
        node.directory.path().display()
    );
    crate::fake::script(&bin.join("two"), &script);
    let list =
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"two","capabilities":{"hypernetes.io/ahead":true}}]}"#;
    std::fs::write(net.join("1.conflist"), list).unwrap();
}

/// Runs a pod, and waits until behind it another VM is connected.
async fn one_and_one_that_waits(node: &Node) -> (String, Arc<Machine>) {
    plugin(node);
    node.hypervisor.copies.store(true, Ordering::Relaxed);
    let (first, _) = node.sandbox_of("acme", 0).await;
    assert_eq!(node.sandbox(&first).await.0.network.unwrap().ip, "10.9.0.1");
    let waiting = || node.hypervisor.machines().into_iter().find(|machine| machine.spec().id != first);
    let is_connected = |machine: Arc<Machine>| {
        machine
            .guest
            .configured
            .lock()
            .iter()
            .any(|asked| asked.interfaces.iter().any(|i| !i.addresses.is_empty() && i.mac.ends_with("02")))
    };
    wait_until("a VM to be connected", || waiting().is_some_and(is_connected)).await;
    // And to be in the pool.
    tokio::time::sleep(Duration::from_millis(100)).await;
    (first.clone(), waiting().unwrap())
}

fn calls(node: &Node) -> String {
    std::fs::read_to_string(node.path("calls")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_finds_its_vm_connected() {
    let node = Node::start().await;
    let (first, waiting) = one_and_one_that_waits(&node).await;
    let (second, machine) = node.sandbox_of("acme", 1).await;
    assert_eq!((&second, machine.is_running()), (&waiting.spec().id, true));
    assert_eq!(node.sandbox(&second).await.0.network.unwrap().ip, "10.9.0.2");
    let configured = machine.guest.configured.lock().last().cloned().unwrap();
    assert!(configured.interfaces.is_empty() && configured.entropy.len() >= 32);
    let hosts = configured.files.iter().find(|file| file.path == "hosts").unwrap();
    assert!(String::from_utf8_lossy(&hosts.data).contains("10.9.0.2\tweb\n"));
    assert_eq!(calls(&node).lines().take(2).collect::<Vec<_>>(), [format!("ADD {first}"), format!("ADD {second}")]);
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: second.clone() };
    node.runtime().await.remove_pod_sandbox(request).await.unwrap();
    assert!(calls(&node).contains(&format!("DEL {second}")));
    assert!(!node.path("root/netns").join(&second).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_wishes_of_its_own_is_connected_itself() {
    let node = Node::start().await;
    let (_, waiting) = one_and_one_that_waits(&node).await;
    let mut config = node.sandbox_config();
    config.annotations.insert(crate::TENANT_ANNOTATION.into(), "acme".into());
    config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    config.metadata.as_mut().unwrap().attempt = 1;
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    // A VM that is connected already would let it pass.
    let error = node.runtime().await.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("hostPort"), "{error}");
    assert!(waiting.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_goes_without_an_address_for_a_vm_that_waits() {
    let node = Node::start().await;
    let (_, waiting) = one_and_one_that_waits(&node).await;
    let (other, _) = node.sandbox_of("globex", 1).await;
    assert_eq!(node.sandbox(&other).await.0.network.unwrap().ip, "10.9.0.2");
    assert!(!waiting.is_running());
    assert!(calls(&node).contains(&format!("DEL {}", waiting.spec().id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_connected_is_disconnected_after_the_death_of_hyperd() {
    let mut node = Node::start().await;
    let (first, waiting) = one_and_one_that_waits(&node).await;
    node.kill().await;
    node.run().await;
    let id = waiting.spec().id;
    // The plugin says what it was asked before it has done it.
    wait_until("the address to be given back", || !node.path("addresses/2").exists()).await;
    assert!(!waiting.is_running() && calls(&node).ends_with(&format!("DEL {id}\n")), "{}", calls(&node));
    assert!(node.path("addresses/1").exists());
    wait_until("the VM's network to be gone", || {
        let count = |directory: &str| std::fs::read_dir(node.path(directory)).unwrap().count();
        count("root/netns") == 1 && count("root/networks") == 1
    })
    .await;
    assert_eq!(node.sandbox(&first).await.0.state, cri::PodSandboxState::SandboxReady as i32);
}
