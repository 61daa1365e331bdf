//! What a system of e5e31f4 had goes on with today's server.
//!
//! `e5e31f4/` has the directory that the binary of that version made, and what its API said of all objects when it was killed;
//! how it was made is in its README. These tests run as root: the server is given its own user.

mod credentials;
mod system;

use std::{
    collections::BTreeSet,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixDatagram, process::CommandExt},
    },
    process::Command,
    time::Instant,
};

use http::StatusCode;
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::{Value, json};
use system::{BINARY, Data, PATIENCE, Server, objects_of_before, of_before, path_of, plural, tenant};

const CLUSTERS: [&str; 3] = ["system", "acme", "globex"];

fn cluster(name: &str) -> &str {
    if name == "system" { name } else { tenant(name) }
}

/// Kinds that are the server's and its controllers' to write, at any time.
const KEPT_UP: [&str; 12] = [
    "Deployment",
    "Lease",
    "Namespace",
    "Network",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "Port",
    "Project",
    "ReplicaSet",
    "Volume",
];

/// What an object says, but for what is written anew whenever anything of it is.
fn said(object: &Value) -> Value {
    let mut object = object.clone();
    for field in ["managedFields", "resourceVersion"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    let kind = object["kind"].as_str().unwrap().to_owned();
    let fields = object.as_object_mut().unwrap();
    if KEPT_UP.contains(&kind.as_str()) {
        fields.remove("status");
    }
    // No kubelet is there, and the node gets a taint that says so.
    if kind == "Node" {
        fields.remove("spec");
    }
    object
}

/// All objects of before are what they were.
async fn everything_is_there(server: &Server) {
    let operator = server.operator();
    let mut kinds = BTreeSet::new();
    for name in CLUSTERS {
        for before in &objects_of_before()[name] {
            let kind = before["kind"].as_str().unwrap();
            let path = path_of(cluster(name), &plural(kind), before);
            let now = operator.get(&path).await.good();
            // The keys of Keystone's tokens follow each other, and the server's certificate may be another authority's now.
            if matches!(before["metadata"]["name"].as_str(), Some("token-keys" | "kube-root-ca.crt")) {
                continue;
            }
            let same = now["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"];
            assert!(same || KEPT_UP.contains(&kind), "{path} was written: {now:#}");
            if same {
                assert_eq!(&now, before, "{path}");
            }
            assert_eq!(said(&now), said(before), "{path}");
            kinds.insert(kind);
        }
    }
    assert!(kinds.len() >= 25, "the fixture has a few kinds only: {kinds:?}");
}

#[tokio::test]
async fn every_object_is_what_it_was_and_deployments_go_on() {
    let data = Data::unpack();
    let server = data.serve();
    everything_is_there(&server).await;
    let operator = server.operator();
    for name in ["acme", "globex"] {
        let base = format!("/clusters/{}", tenant(name));
        let path = format!("{base}/apis/apps/v1/namespaces/default/deployments/web");
        let pods = format!("{base}/api/v1/namespaces/default/pods?labelSelector=app%3Dweb");
        let sets = format!("{base}/apis/apps/v1/namespaces/default/replicasets");
        let names = |list: &Value| -> BTreeSet<String> {
            let items = list["items"].as_array().unwrap().iter();
            items.map(|item| item["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
        };
        let before = names(&operator.get(&pods).await.good());
        let set = names(&operator.get(&sets).await.good());
        assert_eq!((before.len(), set.len()), (2, 1), "{name}");
        operator.merge(&path, &json!({"spec": {"replicas": 3}})).await.good();
        let three = |answer: &system::Answer| answer.body["items"].as_array().is_some_and(|items| items.len() == 3);
        let now = operator.until(&pods, "a third pod is made", three).await;
        assert!(names(&now).is_superset(&before), "{name}: the pods of before are not made anew");
        assert_eq!(names(&operator.get(&sets).await.good()), set, "{name}: of the same replica set");
        let third = now["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|pod| !before.contains(pod["metadata"]["uid"].as_str().unwrap()));
        assert_eq!(third.unwrap()["spec"]["serviceAccountName"], "robot");
    }
}

#[tokio::test]
async fn who_had_access_has_it_and_whoever_has_to_do_something_is_told() {
    let data = Data::unpack();
    // As it gave them out, and not yet ended.
    for name in ["acme", "globex"] {
        let (certificate, _) = credentials::certificate(&data, name, "keystone:admin", Some(name));
        std::fs::write(data.root().join(format!("server/pki/tenant-{}.crt", tenant(name))), certificate).unwrap();
    }
    let server = data.serve();
    let reach = server.reach();
    let settings = |name: &str| format!("/clusters/{}/api/v1/namespaces/default/configmaps/settings", tenant(name));

    // Passwords.
    let login = async |name: &str, domain: Value, password: &str, project: &str| {
        let user = json!({"name": name, "domain": domain, "password": password});
        let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let body = json!({"auth": {"identity": identity, "scope": scope}});
        reach.nobody().post("/identity/v3/auth/tokens", &body).await
    };
    let default = json!({"id": "default"});
    let password_of = |openrc: &str| {
        let text = data.read(openrc);
        let line = text.lines().find_map(|line| line.strip_prefix("export OS_PASSWORD=")).unwrap();
        line.trim_matches('\'').to_owned()
    };
    let acme = password_of("tenants/acme.openrc");
    let token = |answer: system::Answer| answer.token.unwrap_or_else(|| panic!("{}: {}", answer.status, answer.body));
    let admin = token(login("acme", default.clone(), &acme, "acme").await);
    let ann = token(login("ann", json!({"name": "corp"}), "ann of before", "acme").await);
    let bob = token(login("bob", default.clone(), "bob of before", "acme").await);
    token(login("admin", default.clone(), &password_of("server/admin.openrc"), "admin").await);
    assert_eq!(login("bob", default.clone(), "another", "acme").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(login("acme", default, &acme, "globex").await.status, StatusCode::UNAUTHORIZED);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for (who, token, may_write) in [("admin", &admin, true), ("member", &ann, true), ("reader", &bob, false)] {
        let user = reach.token(token);
        assert_eq!(user.get(&settings("acme")).await.good()["data"]["greeting"], "hello from acme", "{who}");
        let written = user.merge(&settings("acme"), &label).await.status;
        assert_eq!(written, if may_write { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{who}");
        assert!(!user.get(&settings("globex")).await.status.is_success(), "{who}");
    }

    // Tokens that had not ended. The role that the service account has is called `read settings?`.
    let pod = objects_of_before()["globex"]
        .iter()
        .find(|object| object["kind"] == "Pod" && object["metadata"]["labels"]["app"] == "web");
    for (name, bound) in [("acme", None), ("globex", pod)] {
        let robot = reach.token(&credentials::service_account_token(&data, name, bound));
        assert_eq!(robot.get(&settings(name)).await.good()["metadata"]["name"], "settings");
        let secret = format!("/clusters/{}/api/v1/namespaces/default/secrets/password", tenant(name));
        assert_eq!(robot.get(&secret).await.status, StatusCode::FORBIDDEN);
    }
    let stale = json!({"kind": "Pod", "metadata": {"name": pod.unwrap()["metadata"]["name"], "uid": "another"}});
    let robot = reach.token(&credentials::service_account_token(&data, "globex", Some(&stale)));
    assert_eq!(robot.get(&settings("globex")).await.status, StatusCode::UNAUTHORIZED);
    let keystone = reach.token(&credentials::keystone_token("globex", "globex"));
    assert_eq!(keystone.get(&settings("globex")).await.good()["data"]["greeting"], "hello from globex");

    // Certificates: the system's named nobody, and open nothing; who has a copy is told where the new one is.
    let (certificate, key) = credentials::certificate(&data, "operator", "system:masters", None);
    assert!(!reach.certificate(&certificate, &key).opens("/api/v1/nodes").await);
    server.operator().get("/api/v1/nodes").await.good();
    let kubeconfig = data.root().canonicalize().unwrap().join("server/operator.kubeconfig");
    let note = |text: &str| {
        let found = server.said.iter().find(|said| said.contains(text));
        found.unwrap_or_else(|| panic!("nothing is said of {text:?}: {:#?}", server.said))
    };
    assert!(note(&kubeconfig.display().to_string()).contains("install -m 0600"));
    assert!(data.log().contains("has a new certificate"), "{}", data.log());
    // Tenants' may go on, in their own tenant; whoever gave one out is told how to give another.
    let (certificate, key) = credentials::certificate(&data, "acme", "keystone:admin", Some("acme"));
    assert!(!reach.certificate(&certificate, &key).opens(&settings("globex")).await);
    for name in ["acme", "globex"] {
        assert!(
            note(&format!("`hypernetes tenant kubeconfig --static {name}`"))
                .contains(&format!("hypernetes tenant revoke {name} "))
        );
    }
    // By that command it is done, and not said again.
    for name in ["acme", "globex"] {
        let given = Command::new(BINARY)
            .args(["tenant", "kubeconfig", "--static", name, "--root"])
            .arg(data.root())
            .output()
            .unwrap();
        assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
        let user = reach.kubeconfig(&String::from_utf8(given.stdout).unwrap());
        assert_eq!(user.get(&settings(name)).await.good()["metadata"]["labels"]["of"], name);
    }
    drop(server);
    assert_eq!(data.serve().said, Vec::<String>::new());
}

/// Where something is wrong with an object of namespace `odd`, a change of it that mends nothing, and who says in an event
/// that nothing is done for it.
const REFUSED: &[(&str, &str, Option<&str>)] = &[
    ("Pod", "climbs", Some("FailedScheduling")),
    ("Pod", "climbs-bound", None),
    ("Pod", "takes-nothing", Some("FailedScheduling")),
    ("ConfigMap", "keys", None),
    ("Secret", "docker", None),
    ("Service", "nowhere", None),
    ("PersistentVolumeClaim", "less", Some("InvalidSpec")),
    ("PersistentVolumeClaim", "modeless", Some("InvalidSpec")),
    ("LimitRange", "below", None),
    ("Job", "always", None),
    ("ReplicaSet", "astray", Some("InvalidSpec")),
    ("Deployment", "nobody", Some("InvalidSpec")),
];

#[tokio::test]
async fn what_would_be_refused_today_can_be_read_changed_and_deleted_and_nothing_is_done_for_it() {
    let data = Data::unpack();
    let server = data.serve();
    // As the tenant's member: what the operator may is another matter.
    let member = server.reach().token(&credentials::keystone_token("acme", "acme"));
    let base = format!("/clusters/{}", tenant("acme"));
    for (kind, name, reason) in REFUSED {
        let before = of_before("acme", kind, name);
        let path = path_of(tenant("acme"), &plural(kind), before);
        let (collection, _) = path.rsplit_once('/').unwrap();
        // Made today it would be refused.
        let mut again = before.clone();
        again["metadata"] = json!({"name": "again", "namespace": "odd"});
        again.as_object_mut().unwrap().remove("status");
        let made = member.post(&format!("{collection}?dryRun=All"), &again).await;
        assert_eq!(made.status, StatusCode::UNPROCESSABLE_ENTITY, "{kind} {name}: {}", made.body);

        assert_eq!(said(&member.get(&path).await.good()), said(before));
        let list = member.get(collection).await.good();
        assert!(list["items"].as_array().unwrap().iter().any(|item| item["metadata"]["name"] == *name), "{path}");
        if let Some(reason) = reason {
            let events = format!("{base}/api/v1/namespaces/odd/events?fieldSelector=involvedObject.name%3D{name}");
            let is_told = |answer: &system::Answer| {
                let events = answer.body["items"].as_array().unwrap().iter();
                events.clone().any(|event| {
                    let names_field = event["message"].as_str().unwrap().contains("spec.");
                    event["reason"] == *reason && event["type"] == "Warning" && names_field
                })
            };
            member.until(&events, "it is told", is_told).await;
        }
        let changed = member.merge(&path, &json!({"metadata": {"labels": {"seen": "yes"}}})).await.good();
        assert_eq!(changed["metadata"]["labels"]["seen"], "yes");
        // A whole object as a client sends it.
        let mut whole = changed.clone();
        whole["metadata"]["labels"]["seen"] = json!("twice");
        let put = member.ask(http::Method::PUT, &path, "application/json", &whole).await;
        assert_eq!(put.good()["metadata"]["labels"]["seen"], "twice", "{path}");
    }
    // Nothing was made of them, and no pod was put onto a node.
    let pods = member.get(&format!("{base}/api/v1/namespaces/odd/pods")).await.good();
    let placed = |pod: &&Value| pod["spec"]["nodeName"].is_string();
    let pods: Vec<_> = pods["items"].as_array().unwrap().iter().collect();
    assert_eq!(pods.len(), 3, "{pods:#?}");
    assert_eq!(pods.into_iter().filter(placed).count(), 1);
    let claim = member.get(&format!("{base}/api/v1/namespaces/odd/persistentvolumeclaims/less")).await.good();
    assert!(claim["spec"]["volumeName"].is_null(), "{claim:#}");

    // Each can be deleted by itself, and all by the deletion of their namespace; so can roles of any name.
    for (kind, name, _) in &REFUSED[3..6] {
        let path = path_of(tenant("acme"), &plural(kind), of_before("acme", kind, name));
        member.delete(&path).await.good();
        assert_eq!(member.get(&path).await.status, StatusCode::NOT_FOUND);
    }
    let operator = server.operator();
    let role = path_of(tenant("acme"), "roles", of_before("acme", "Role", "read settings?"));
    operator.delete(&role).await.good();
    assert_eq!(operator.get(&role).await.status, StatusCode::NOT_FOUND);
    let gone = |answer: &system::Answer| answer.status == StatusCode::NOT_FOUND;
    // A pod that a kubelet has is the kubelet's to end; there is none here.
    let bound = format!("{base}/api/v1/namespaces/odd/pods/climbs-bound");
    operator.delete(&format!("{bound}?gracePeriodSeconds=0")).await.good();
    for namespace in ["odd", "shop"] {
        let path = format!("{base}/api/v1/namespaces/{namespace}");
        operator.delete(&path).await.good();
        operator.until(&path, "the namespace is gone with all that was in it", gone).await;
    }
    // What was being deleted goes when whoever held it lets go.
    let held = format!("{base}/api/v1/namespaces/default/configmaps/held");
    assert!(member.get(&held).await.good()["metadata"]["deletionTimestamp"].is_string());
    member.merge(&held, &json!({"metadata": {"finalizers": null}})).await.good();
    assert_eq!(member.get(&held).await.status, StatusCode::NOT_FOUND);
}

/// Waits until that many things have happened to the files below a server's directory, or the server is ready: then it has
/// not been told.
fn until_steps(inotify: &Inotify, ready: &UnixDatagram, steps: usize) -> bool {
    let began = Instant::now();
    let mut seen = 0;
    while seen < steps {
        let mut polled =
            [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        assert!(began.elapsed() < PATIENCE, "only {seen} of {steps} steps");
        poll(&mut polled, 1000u16).unwrap();
        let [changed, told] = polled.map(|fd| fd.any().unwrap_or(false));
        if changed {
            seen += inotify.read_events().unwrap().len();
        }
        let mut buffer = [0; 4096];
        if told && ready.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == b"READY=1") {
            return false;
        }
    }
    true
}

/// Killed at one step of taking the directory over after another, each attempt on what the one before has left, until one is
/// ready before it is killed.
#[tokio::test]
async fn whatever_step_it_is_killed_at_nothing_is_lost() {
    let data = Data::unpack();
    let server = data.root().join("server");
    let mut kills = 0;
    for attempt in 0.. {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        let flags = AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO;
        for directory in [server.clone(), server.join("pki"), data.root().join("volumes")] {
            inotify.add_watch(&directory, flags).unwrap();
        }
        let path = data.beside(&format!("notify-{attempt}"));
        let ready = UnixDatagram::bind(&path).unwrap();
        let mut child = data.spawn(&path);
        let killed = until_steps(&inotify, &ready, 1 + attempt * attempt / 2);
        child.kill().unwrap();
        child.wait().unwrap();
        if !killed {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 5, "it was killed {kills} times only");
    let server = data.serve();
    everything_is_there(&server).await;
    assert_eq!(std::fs::metadata(data.root().join("server")).unwrap().mode() & 0o777, 0o700);
}

/// `up` itself, as far as the server and the node's credentials: hyperd ends at once, and so does `up`.
#[tokio::test]
async fn up_takes_the_directory_over() {
    let data = Data::unpack();
    let beside = data.beside("bin");
    std::fs::create_dir(&beside).unwrap();
    let binary = beside.join("hypernetes");
    if std::fs::hard_link(BINARY, &binary).is_err() {
        std::fs::copy(BINARY, &binary).unwrap();
    }
    for program in ["hyperd", "hyperstart", "hypernetes-cni", "hypernetes-vmm"] {
        std::fs::copy("/bin/false", beside.join(program)).unwrap();
    }
    std::fs::write(beside.join("vmlinuz"), "").unwrap();
    // The host's name is the node's.
    let ended = Command::new("unshare")
        .args(["--uts", "sh", "-c", "hostname node-1 && exec \"$0\" \"$@\""])
        .arg(&binary)
        .args(["up", "--bind", "127.0.0.1:0", "--root"])
        .arg(data.root())
        .arg("--guest")
        .arg(&beside)
        .process_group(0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let record = data.read("run/server.pid");
    let pid: i32 = record.split(' ').next().unwrap().parse().unwrap();
    let stop = Killed(pid);
    assert!(said.contains("hyperd ended with"), "{said}");
    assert!(data.read("log/server.log").contains("has a new certificate"));
    assert_ne!(std::fs::metadata(data.root().join("server")).unwrap().uid(), 0);
    // The node's certificate of before named nobody; this one does, and the node is known by it.
    let reach = data.reach();
    let node = reach.kubeconfig(&data.read("node/node.kubeconfig"));
    assert_eq!(node.get("/api/v1/nodes/node-1").await.good()["metadata"]["name"], "node-1");
    reach.kubeconfig(&data.read("server/operator.kubeconfig")).get("/api/v1/nodes").await.good();
    drop(stop);
}

/// Kills a process when it is dropped.
struct Killed(i32);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}
