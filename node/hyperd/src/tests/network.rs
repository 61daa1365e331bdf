//! Networks of pods.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_added_and_deleted() {
    let node = Node::start().await;
    let (net, bin) = (node.path("root/cni/net.d"), node.path("root/cni/bin"));
    for dir in [&net, &bin] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let calls = node.path("calls");
    let plugin = bin.join("fake");
    let script = format!(
        r#"#!/bin/sh
echo $CNI_COMMAND >> {calls}
[ -e {fail} ] && {{ echo '{{"code":100,"msg":"no"}}'; exit 1; }}
echo '{{"cniVersion":"1.0.0","interfaces":[{{"name":"tap7","mac":"52:54:00:00:00:07"}}],"ips":[{{"address":"10.244.0.7/16","gateway":"10.244.0.1"}}],"routes":[{{"dst":"0.0.0.0/0"}}]}}'"#,
        calls = calls.display(),
        fail = node.path("fail").display()
    );
    crate::fake::script(&plugin, &script);
    std::fs::write(
        net.join("1.conflist"),
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"fake","capabilities":{"hypernetes.io/tap":true}}]}"#,
    )
    .unwrap();

    let mut client = node.runtime().await;
    let status = client.status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner().status.unwrap();
    assert!(status.conditions.iter().all(|c| c.status), "{status:?}");
    let sandbox = node.run_sandbox().await;
    assert_eq!(node.sandbox(&sandbox).await.0.network.unwrap().ip, "10.244.0.7");
    let machine = node.machine();
    assert_eq!(machine.spec().nic.unwrap().tap, "tap7");
    let [identity, network] = machine.guest.configured.lock().clone().try_into().unwrap();
    assert!(identity.entropy.len() >= 32);
    assert_eq!(network.interfaces[0].addresses, ["10.244.0.7/16"]);
    assert_eq!(network.routes[0].gateway, "10.244.0.1");
    assert!(network.files.iter().any(|file| file.path == "hosts" && file.data.starts_with(b"127.0.0.1\tlocalhost")));
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    // A verbose status asks the plugins whether all is as it was.
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "ADD\nCHECK\nDEL\n");

    std::fs::write(node.path("fail"), "").unwrap();
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    let error = client.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("code 100"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_being_added_when_hyperd_was_killed_is_undone() {
    let mut node = Node::start().await;
    let (net, bin) = (node.path("root/cni/net.d"), node.path("root/cni/bin"));
    for dir in [&net, &bin] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let calls = node.path("calls");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND $CNI_NETNS >> {}\n[ $CNI_COMMAND = ADD ] && exec sleep 60\nexit 0\n",
        calls.display()
    );
    crate::fake::script(&bin.join("slow"), &script);
    let list = net.join("1.conflist");
    std::fs::write(&list, r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"slow"}]}"#).unwrap();
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox_config()), ..Default::default() };
    let mut client = node.runtime().await;
    let asked = tokio::spawn(async move { client.run_pod_sandbox(request).await });
    wait_until("the plugin to be called", || calls.exists()).await;
    let netns = std::fs::read_dir(node.path("root/netns")).unwrap().next().unwrap().unwrap().path();
    node.kill().await;
    asked.abort();
    std::fs::remove_file(list).unwrap();
    node.run().await;
    let calls = std::fs::read_to_string(&calls).unwrap();
    assert_eq!(calls, format!("ADD {0}\nDEL {0}\n", netns.display()));
    for left in ["root/netns", "root/networks", "root/sandboxes"] {
        assert_eq!(std::fs::read_dir(node.path(left)).unwrap().count(), 0, "{left}");
    }
}
