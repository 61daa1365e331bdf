//! Pods are virtual machines.

use std::collections::BTreeSet;

use hypernetes_tests::{System, eventually, shell_pod};

#[test]
fn every_pod_has_a_kernel_of_its_own_and_its_containers_share_it() {
    let tenant = System::shared().tenant("vm");
    let k = tenant.kubectl();
    k.apply(&shell_pod("one", "sleep 100000"));
    k.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: two}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {name: a, image: demo/web:1, command: [sh, -c, 'httpd -f -p 8080 -h /']}\n  \
         - {name: b, image: demo/web:1, command: [sleep, '100000']}\n",
    );
    k.wait_ready("one");
    k.wait_ready("two");
    let boot_id = |pod: &str, container: &str| {
        k.arguments(&["exec", pod, "-c", container, "--", "cat", "/proc/sys/kernel/random/boot_id"])
            .success()
            .to_owned()
    };
    let (one, a, b) = (boot_id("one", "main"), boot_id("two", "a"), boot_id("two", "b"));
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    assert_eq!(a, b, "containers of one pod share its VM");
    assert_eq!(BTreeSet::from([&one, &a, &host]).len(), 3, "pods and the host have different kernels");
    // They share the network, and not their processes or files.
    let fetch = ["exec", "two", "-c", "b", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/etc/passwd"];
    eventually("one container serves the other", || k.arguments(&fetch).stdout.contains("root:").then_some(()));
    let processes = k.arguments(&["exec", "two", "-c", "b", "--", "ps"]).success().to_owned();
    assert!(!processes.contains("httpd"), "{processes}");
}

#[test]
fn limits_size_the_machine_and_hold_in_it() {
    let tenant = System::shared().tenant("limits");
    let k = tenant.kubectl();
    let pod = |name: &str, memory: &str, script: &str| {
        shell_pod(name, script).replace(
            "image: demo/web:1,",
            &format!(
                "image: demo/web:1, resources: {{limits: {{memory: {memory}, cpu: '2'}}, requests: {{cpu: 50m}}}},"
            ),
        )
    };
    k.apply(&pod("small", "64Mi", "sleep 100000"));
    k.apply(&pod("large", "512Mi", "sleep 100000"));
    // A shell variable that doubles for ever meets the limit.
    k.apply(&pod("greedy", "32Mi", "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"));
    k.wait_ready("small");
    k.wait_ready("large");
    let memory =
        |pod: &str| -> u64 { k.shell(pod, "awk '/MemTotal/ {print $2}' /proc/meminfo").success().parse().unwrap() };
    let (small, large) = (memory("small"), memory("large"));
    assert!(large > small + 300_000, "{small} KiB and {large} KiB");
    assert_eq!(k.shell("large", "grep -c ^processor /proc/cpuinfo").success(), "2");
    let reason = eventually("the greedy container was ended", || {
        let reason = k.run("get pod greedy -o jsonpath={.status.containerStatuses[0].state.terminated.reason}").stdout;
        (!reason.is_empty()).then_some(reason)
    });
    assert_eq!(reason, "OOMKilled");
    assert_eq!(k.shell("small", "echo unharmed").success(), "unharmed");
}

#[test]
fn files_environment_and_scratch_space_arrive() {
    let tenant = System::shared().tenant("files");
    let k = tenant.kubectl();
    k.run("create configmap c --from-literal=a=first").success();
    k.run("create secret generic s --from-literal=p=hidden").success();
    k.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {colour: blue}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: demo/web:1\n    \
         command: [sleep, '100000']\n    env:\n    - {name: A, valueFrom: {configMapKeyRef: {name: c, key: a}}}\n    \
         - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n    - {name: BOTH, value: '$(A)-$(NAME)'}\n    \
         volumeMounts:\n    - {name: c, mountPath: /c}\n    - {name: s, mountPath: /s}\n    - {name: d, mountPath: /d}\n    - {name: e, mountPath: /e}\n  \
         - {name: other, image: demo/web:1, command: [sleep, '100000'], volumeMounts: [{name: e, mountPath: /e}]}\n  \
         volumes:\n  - {name: c, configMap: {name: c}}\n  - {name: s, secret: {secretName: s, defaultMode: 256}}\n  - {name: e, emptyDir: {}}\n  \
         - name: d\n    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}\n",
    );
    k.wait_ready("p");
    let main = |script: &str| k.arguments(&["exec", "p", "-c", "main", "--", "sh", "-c", script]).success().to_owned();
    assert_eq!(
        main("echo $BOTH; cat /c/a; echo; cat /s/p; echo; cat /d/labels"),
        "first-p\nfirst\nhidden\ncolour=\"blue\""
    );
    assert_eq!(main("stat -L -c %a /s/p"), "400");
    main("echo shared > /e/x");
    assert_eq!(k.arguments(&["exec", "p", "-c", "other", "--", "cat", "/e/x"]).success(), "shared");
    let account = main("ls /var/run/secrets/kubernetes.io/serviceaccount");
    for name in ["token", "ca.crt", "namespace"] {
        assert!(account.contains(name), "{account}");
    }
    // What changes in the config map changes in the pod.
    k.arguments(&["patch", "configmap", "c", "-p", r#"{"data":{"a":"second"}}"#]).success();
    eventually("the file follows the config map", || (main("cat /c/a") == "second").then_some(()));
}

#[test]
fn nothing_leaves_the_vm() {
    let tenant = System::shared().tenant("escape");
    let k = tenant.kubectl();
    let pod = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  {spec}\n  containers: [{{name: a, image: demo/web:1}}]\n"
        )
    };
    for spec in ["hostNetwork: true", "hostPID: true", "hostIPC: true", "volumes: [{name: h, hostPath: {path: /}}]"] {
        let refused = k.input("create -f -", &pod(spec)).failure();
        assert!(refused.contains("host"), "{spec}: {refused}");
    }
    // Privileged is root in its own guest.
    k.apply(
        &shell_pod("root", "sleep 100000")
            .replace("image: demo/web:1,", "image: demo/web:1, securityContext: {privileged: true},"),
    );
    k.wait_ready("root");
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(k.shell("root", "cat /proc/sys/kernel/random/boot_id").success(), host.trim());
}

/// The processes as they run, with every thread of theirs, beside a pod that they have started.
#[test]
fn what_runs_as_root_has_given_up_what_it_does_not_need() {
    let system = System::shared();
    let tenant = system.tenant("root");
    let k = tenant.kubectl();
    k.apply(&shell_pod("p", "sleep 100000"));
    k.wait_ready("p");
    // By name, capabilities(7); from linux/capability.h their bits.
    let (chown, dac_override, dac_read_search, fowner, fsetid, kill) = (0, 1, 2, 3, 4, 5);
    let (setgid, setuid, setpcap, net_admin, net_raw) = (6, 7, 8, 12, 13);
    let (sys_chroot, sys_ptrace, sys_admin, sys_nice) = (18, 19, 21, 23);
    let node = vec![chown, fsetid, dac_read_search, net_admin, sys_admin];
    let hyperd = vec![
        chown,
        dac_override,
        fowner,
        kill,
        setgid,
        setuid,
        setpcap,
        net_admin,
        net_raw,
        sys_chroot,
        sys_ptrace,
        sys_admin,
        sys_nice,
    ];
    for (role, kept) in [("server", vec![]), ("node", node), ("hyperd", hyperd)] {
        let kept = kept.iter().fold(0u64, |set, bit| set | 1 << bit);
        let pid = system.pid_of(role);
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        // One that has ended meanwhile is none.
        let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
        let mut count = 0;
        for status in statuses {
            let field = |name: &str| {
                let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
                value.unwrap_or_else(|| panic!("{name} in {status}")).to_owned()
            };
            let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
            // Threads that work for a guest have less.
            assert_eq!((set("CapPrm") & !kept, set("CapEff") & !kept, set("CapInh")), (0, 0, 0), "{role}: {status}");
            assert_eq!(field("NoNewPrivs"), "1", "{role}: {status}");
            if role != "server" {
                assert_eq!((set("CapBnd"), field("Seccomp").as_str()), (kept, "2"), "{role}: {status}");
            }
            count += 1;
        }
        let main = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(main.contains("\nUmask:\t0077\n"), "{role}: {main}");
        let effective = main.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        assert_eq!(u64::from_str_radix(effective, 16).unwrap(), kept, "{role}");
        assert!(count > 1, "{role} has {count} threads");
        if role != "server" {
            // Its own mounts: of the host's files it writes what it has to, and what is users' it does not see.
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            let options = |point: &str| {
                let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(point));
                line.and_then(|line| line.split(' ').nth(5))
                    .map(|options| options.split(',').next().unwrap().to_owned())
            };
            assert_eq!(options("/").as_deref(), Some("ro"), "{role}: {mounts}");
            assert_eq!(options(system.root.to_str().unwrap()).as_deref(), Some("rw"), "{role}: {mounts}");
            assert_eq!(options("/home").as_deref(), Some("ro"), "{role}: {mounts}");
        }
    }
}
