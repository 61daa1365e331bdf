//! The stock kubectl against a tenant's cluster: issue by issue what a user types.

use hypernetes_tests::{System, eventually, shell_pod};

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: t}}}}\ndata: {{key: {value}}}\n")
}

#[test]
fn objects_are_created_changed_and_deleted() {
    let tenant = System::shared().tenant("objects");
    let k = tenant.kubectl();
    k.input("create -f -", &config_map("a", "one")).success();
    let error = k.input("create -f -", &config_map("a", "one")).failure();
    assert!(error.contains("AlreadyExists"), "{error}");
    k.apply(&config_map("a", "two"));
    assert_eq!(k.field("configmap/a", ".data.key"), "two");
    k.input("apply --server-side --force-conflicts --field-manager=me -f -", &config_map("a", "three")).success();
    assert_eq!(k.field("configmap/a", ".data.key"), "three");
    let conflict = k.input("apply --server-side --field-manager=you -f -", &config_map("a", "four")).failure();
    assert!(conflict.contains("conflict") && conflict.contains("me"), "{conflict}");
    k.arguments(&["patch", "configmap", "a", "--type=merge", "-p", r#"{"data":{"key":"five","other":"x"}}"#]).success();
    k.arguments(&["patch", "configmap", "a", "--type=json", "-p", r#"[{"op":"remove","path":"/data/other"}]"#])
        .success();
    assert_eq!(k.field("configmap/a", ".data"), r#"{"key":"five"}"#);
    k.run("label configmap a colour=blue").success();
    assert_eq!(k.run("get configmaps -l colour=blue -o name").success(), "configmap/a");
    assert_eq!(k.run("get configmaps -l colour=red -o name").success(), "");
    k.run("annotate configmap a note=hello").success();
    // An edit that starts from an old version is refused.
    let old = k.run("get configmap a -o json").success().to_owned();
    k.run("label configmap a colour=green --overwrite").success();
    let stale = k.input("replace -f -", &old).failure();
    assert!(stale.contains("the object has been modified"), "{stale}");
    k.run("delete configmap a").success();
    let gone = k.run("get configmap a").failure();
    assert!(gone.contains(r#"configmaps "a" not found"#), "{gone}");
}

#[test]
fn output_comes_in_every_form() {
    let tenant = System::shared().tenant("output");
    let k = tenant.kubectl();
    k.apply(&config_map("shown", "v"));
    let table = k.run("get configmaps").success().to_owned();
    assert!(table.starts_with("NAME") && table.contains("DATA") && table.contains("AGE"), "{table}");
    assert!(k.run("get configmap shown -o yaml").success().contains("key: v"));
    assert_eq!(k.run("get configmap shown -o json").json()["data"]["key"], "v");
    assert!(k.run("get all -A").code == Some(0));
    let namespaces = k.run("get namespaces -o wide").success().to_owned();
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(name), "{namespaces}");
    }
    let explained = k.run("explain deployment.spec.strategy").success().to_owned();
    assert!(explained.contains("rollingUpdate") && explained.contains("FIELDS"), "{explained}");
    let resources = k.run("api-resources").success().to_owned();
    for resource in ["deployments", "networks", "volumes", "configmaps", "rolebindings"] {
        assert!(resources.contains(resource), "{resource} is missing");
    }
    assert_eq!(k.run("auth can-i create pods").success(), "yes");
    assert!(k.run("version").success().contains("Server Version: v1.36"));
    assert!(k.run("describe configmap shown").success().contains("key:"));
    assert!(k.run("get nodes -o wide").success().contains("Ready"));
    assert!(k.run("get storageclass").success().contains("(default)"));
}

#[test]
fn a_watch_shows_changes_as_they_come() {
    use std::io::{BufRead, BufReader};
    let tenant = System::shared().tenant("watch");
    let k = tenant.kubectl();
    let mut child = k
        .command()
        .args(["get", "configmaps", "-w", "-o", "name"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|l| drop(send.send(l))));
    // The watch has begun when it has shown what was there.
    lines.recv_timeout(hypernetes_tests::PATIENCE).unwrap();
    k.apply(&config_map("seen", "one"));
    eventually("the watch shows it", || lines.try_iter().any(|line| line.ends_with("/seen")).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: demo/web:1
        command: [sh, -c, 'echo started as $VERSION; exec sleep 100000']
        env: [{name: VERSION, value: one}]
";

#[test]
fn deployments_roll_out_scale_and_cascade() {
    let tenant = System::shared().tenant("deploy");
    let k = tenant.kubectl();
    k.apply(WEB);
    k.run("rollout status deployment/web --timeout=240s").success();
    let first = k.run("get pods -o name").success().to_owned();
    assert_eq!(first.lines().count(), 2, "{first}");
    k.apply(&WEB.replace("value: one", "value: two"));
    k.run("rollout status deployment/web --timeout=240s").success();
    assert_eq!(k.run("get replicasets -o name").success().lines().count(), 2);
    let log = eventually("a new pod's log", || {
        let out = k.run("logs deployment/web");
        out.stdout.contains("started as two").then_some(out.stdout)
    });
    assert!(log.contains("started as two"));
    assert!(k.run("rollout history deployment/web").success().contains('2'));
    k.run("scale deployment web --replicas=1").success();
    eventually("one pod is left", || (k.run("get pods -o name").success().lines().count() == 1).then_some(()));
    k.run("delete deployment web").success();
    eventually("its pods and replica sets go with it", || {
        k.run("get replicasets,pods -o name").success().is_empty().then_some(())
    });
}

#[test]
fn pods_end_as_kubelet_users_know_it() {
    let tenant = System::shared().tenant("ends");
    let k = tenant.kubectl();
    k.apply(&shell_pod("done", "echo out; echo err >&2; exit 0"));
    k.apply(&shell_pod("failed", "exit 7"));
    k.apply(&shell_pod("no-image", "true").replace("demo/web:1", "127.0.0.1:1/no/such:image"));
    k.apply(&shell_pod("bad-command", "true").replace("[sh, -c", "[no-such-program, -c"));
    k.apply(&shell_pod("crash", "echo try; exit 3").replace("restartPolicy: Never", "restartPolicy: Always"));
    let reason = |pod: &str, state: &str| {
        k.run(&format!("get pod {pod} -o jsonpath={{.status.containerStatuses[0].{state}.reason}}")).stdout
    };
    eventually("done is Completed", || (reason("done", "state.terminated") == "Completed").then_some(()));
    assert_eq!(k.field("pod/done", ".status.phase"), "Succeeded");
    let log = k.run("logs done").success().to_owned();
    assert!(log.contains("out") && log.contains("err"), "{log}");
    eventually("failed has its exit code", || {
        (k.run("get pod failed -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}").stdout == "7")
            .then_some(())
    });
    assert_eq!(k.field("pod/failed", ".status.phase"), "Failed");
    eventually("no-image says so", || {
        ["ErrImagePull", "ImagePullBackOff"].contains(&reason("no-image", "state.waiting").as_str()).then_some(())
    });
    eventually("bad-command says so", || {
        let terminated = reason("bad-command", "state.terminated");
        let waiting = reason("bad-command", "state.waiting");
        (["StartError", "ContainerCannotRun"].contains(&terminated.as_str()) || waiting == "RunContainerError")
            .then_some(())
    });
    eventually("crash backs off", || (reason("crash", "state.waiting") == "CrashLoopBackOff").then_some(()));
    assert!(k.run("logs crash --previous").success().contains("try"));
    let described = k.run("describe pod no-image").success().to_owned();
    assert!(described.contains("Events:") && described.contains("Failed"), "{described}");
}

#[test]
fn logs_and_exec_reach_into_the_vm() {
    let tenant = System::shared().tenant("exec");
    let k = tenant.kubectl();
    k.apply(&shell_pod("p", "for i in 1 2 3 4 5; do echo line $i; done; sleep 100000"));
    k.wait_ready("p");
    assert_eq!(k.shell("p", "echo hello").success(), "hello");
    assert_eq!(k.shell("p", "exit 42").code, Some(42));
    let both = k.shell("p", "echo out; echo err >&2");
    assert_eq!((both.stdout.trim(), both.stderr.trim()), ("out", "err"));
    let echoed = k.input("exec -i p -- cat", "through standard input\n");
    assert_eq!(echoed.success(), "through standard input");
    let large = "0123456789abcdef".repeat(64 << 10);
    let counted = k.input("exec -i p -- wc -c", &large);
    assert_eq!(counted.success(), (1 << 20).to_string());
    // With a terminal: `script` gives kubectl one.
    let tty = hypernetes_tests::Finished::of(&mut k.command_in_terminal("exec -it p -- sh -c 'tty; exit 5'"));
    assert!(tty.stdout.contains("/dev/pts/") || tty.stdout.contains("/dev/console"), "{tty:?}");
    assert_eq!(tty.code, Some(5), "{tty:?}");
    eventually("the log's last lines", || (k.run("logs p --tail=2").success() == "line 4\nline 5").then_some(()));
    let missing = k.arguments(&["exec", "p", "--", "no-such-program"]).failure();
    assert!(missing.contains("no-such-program"), "{missing}");
    // -f goes on until the pod ends.
    let mut follow = k.command().args(["logs", "-f", "p"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    k.run("delete pod p --grace-period=1").success();
    eventually("logs -f ends with the pod", || follow.try_wait().unwrap());
}

#[test]
fn service_accounts_roles_and_namespaces() {
    let tenant = System::shared().tenant("rbac");
    let k = tenant.kubectl();
    k.run("create namespace team").success();
    k.run("create serviceaccount robot -n team").success();
    k.run("create role reader -n team --verb=get,list --resource=pods").success();
    k.run("create rolebinding robot -n team --role=reader --serviceaccount=team:robot").success();
    let can = |verb: &str| {
        k.run(&format!("auth can-i {verb} pods -n team --as=system:serviceaccount:team:robot")).stdout.trim().to_owned()
    };
    assert_eq!((can("list"), can("delete")), ("yes".into(), "no".into()));
    let token = k.run("create token robot -n team").success().to_owned();
    assert_eq!(token.split('.').count(), 3);
    k.input("create -n team -f -", &config_map("in-team", "x")).success();
    k.run("delete namespace team --timeout=240s").success();
    assert!(k.run("get configmap in-team -n team").failure().contains("not found"));
    let error = k.run("delete namespace default").failure();
    assert!(error.contains("Forbidden") || error.contains("forbidden"), "{error}");
}

#[test]
fn what_users_type_besides_works() {
    let tenant = System::shared().tenant("daily");
    let k = tenant.kubectl();
    // An editor that changes one line.
    k.apply(&config_map("edited", "before"));
    let edited = hypernetes_tests::Finished::of(
        k.command().args(["edit", "configmap", "edited"]).env("KUBE_EDITOR", "sed -i s/before/after/"),
    );
    assert!(edited.success().contains("edited"), "{edited:?}");
    assert_eq!(k.field("configmap/edited", ".data.key"), "after");
    assert!(k.run("auth whoami").success().contains(&tenant.name));
    assert!(k.run("get all,configmaps -A").success().contains("kube-root-ca.crt"));

    k.apply(WEB);
    k.run("rollout status deployment/web --timeout=240s").success();
    k.run("set env deployment/web VERSION=two").success();
    k.run("rollout status deployment/web --timeout=240s").success();
    k.run("rollout undo deployment/web").success();
    k.run("rollout status deployment/web --timeout=240s").success();
    assert_eq!(k.field("deployment/web", ".spec.template.spec.containers[0].env[0].value"), "one");
    k.run("expose deployment web --port=80").success();
    assert_eq!(k.field("service/web", ".spec.selector.app"), "web");
    for object in ["deployment/web", "service/web", "node", "pvc", "namespace/default"] {
        k.run(&format!("describe {object}")).success();
    }
    // Its replica sets and pods outlive it when that is what is asked.
    k.run("delete deployment web --cascade=orphan").success();
    assert!(k.run("get replicasets -o name").success().contains("web"));
    k.run("delete replicasets --all --cascade=foreground --timeout=240s").success();
    assert_eq!(k.run("get pods -o name").success(), "", "foreground: the pods went first");

    k.run("run one --image=demo/web:1 --restart=Never -- sleep 100000").success();
    k.arguments(&["delete", "pod", "one", "--now"]).success();
    k.apply(&shell_pod("p", "mkdir /tmp/w; echo served > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"));
    k.wait_ready("p");
    // Files in and out, through tar in the container.
    let directory = tempfile::tempdir().unwrap();
    let (there, back) = (directory.path().join("there"), directory.path().join("back"));
    std::fs::write(&there, "carried").unwrap();
    k.arguments(&["cp", there.to_str().unwrap(), "p:/tmp/file"]).success();
    k.arguments(&["cp", "p:/tmp/file", back.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(back).unwrap(), "carried");
    eventually("what the pod serves comes through", || (forwarded(&k) == "served\n").then_some(()));
}

/// What the pod `p` serves at its port 8080, through `kubectl port-forward`.
fn forwarded(k: &hypernetes_tests::Kubectl) -> String {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut child = k
        .command()
        .args(["port-forward", "--address=127.0.0.1", "pod/p", ":8080"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    // It stays open: kubectl prints a line for each connection, and dies when it cannot.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    // Forwarding from 127.0.0.1:41234 -> 8080
    let address = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("{line}")).to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    // Cut off by who does not listen yet: nothing.
    let _ = stream.read_to_string(&mut answer);
    child.kill().unwrap();
    child.wait().unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer)
}
