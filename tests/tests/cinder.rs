//! Volumes: through Cinder and through claims, one object; in use by one pod; gone for other tenants.

use hypernetes_tests::{System, eventually, shell_pod};

fn claim(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: 1Gi}}}}\n"
    )
}

fn with_claim(name: &str, claim: &str, script: &str) -> String {
    shell_pod(name, script)
        .replace("image: demo/web:1,", "image: demo/web:1, volumeMounts: [{name: v, mountPath: /v}],")
        + &format!("  volumes:\n  - {{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}\n")
}

#[test]
fn the_openstack_client_manages_volumes() {
    let tenant = System::shared().tenant("cinder");
    let (o, k) = (tenant.openstack(), tenant.kubectl());
    let volume = o.json("volume create --size 2 --description d disk");
    let id = volume["id"].as_str().unwrap().to_owned();
    let shown = eventually("it is available", || {
        let shown = o.json(&format!("volume show {id}"));
        (shown["status"] == "available").then_some(shown)
    });
    assert_eq!((shown["size"].as_u64(), shown["name"].as_str()), (Some(2), Some("disk")));
    assert!(o.run("volume list").success().contains("disk"));
    assert!(k.run("get volumes").success().contains("disk"));
    let theirs = System::shared().tenant("cinder-other");
    let missing = theirs.openstack().run(&format!("volume show {id}")).failure();
    assert!(missing.to_lowercase().contains("no volume found"), "{missing}");
    let delete = theirs.openstack().run(&format!("volume delete {id}")).failure();
    assert!(!delete.is_empty());
    let absurd = o.run("volume create --size 999999999 huge").failure();
    assert!(absurd.contains("400") || absurd.contains("413") || absurd.contains("Invalid"), "{absurd}");
    o.run(&format!("volume delete {id}")).success();
    eventually("it is gone", || (!o.run("volume list").success().contains("disk")).then_some(()));
}

/// A pod that is nobody, and a group: everything that it mounts is the group's.
#[test]
fn volumes_are_the_pods_groups() {
    let tenant = System::shared().tenant("group");
    let k = tenant.kubectl();
    k.apply(&claim("data"));
    k.run("create secret generic s --from-literal=p=hidden").success();
    let script = "id -G; stat -c %g /v; echo a >/v/a; stat -c %g /v/a; echo b >/part/b; echo c >/e/c; stat -c '%g %a' /e; \
                  stat -c %g /e/c; echo d >/in/d; cat /s/p; echo; sleep 100000";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: nobody}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         securityContext: {{runAsUser: 4000, runAsGroup: 4001, fsGroup: 2000}}\n  containers:\n  - name: main\n    image: demo/web:1\n    \
         command: [sh, -ec, \"{script}\"]\n    volumeMounts:\n    - {{name: v, mountPath: /v}}\n    - {{name: v, mountPath: /part, subPath: parts/one}}\n    \
         - {{name: e, mountPath: /e}}\n    - {{name: e, mountPath: /in, subPath: inner}}\n    - {{name: s, mountPath: /s}}\n  volumes:\n  \
         - {{name: v, persistentVolumeClaim: {{claimName: data}}}}\n  - {{name: e, emptyDir: {{}}}}\n  - {{name: s, secret: {{secretName: s, defaultMode: 256}}}}\n"
    );
    k.apply(&pod);
    k.wait_ready("nobody");
    let said = eventually("it has said all", || {
        let said = k.run("logs nobody").success().to_owned();
        said.contains("hidden").then_some(said)
    });
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["4001", "2000", "2000", "2000", "2000", "2777", "2000", "hidden"]
    );
    k.run("delete pod nobody --timeout=240s").success();
}

#[test]
fn a_claim_survives_its_pod_and_has_one_user() {
    let tenant = System::shared().tenant("claim");
    let (o, k) = (tenant.openstack(), tenant.kubectl());
    k.apply(&claim("data"));
    eventually("it is bound", || (k.field("pvc/data", ".status.phase") == "Bound").then_some(()));
    k.apply(&with_claim("writer", "data", "echo precious > /v/file; sync; sleep 100000"));
    k.wait_ready("writer");
    assert!(k.shell("writer", "mount | grep ' /v '").success().contains("ext4"));
    assert!(o.run("volume list").success().contains("in-use"));
    eventually("it is written", || (k.shell("writer", "sync; cat /v/file").stdout == "precious\n").then_some(()));
    // Held by one pod, it is refused to another.
    k.apply(&with_claim("second", "data", "cat /v/file; sleep 100000"));
    eventually("the second pod is told why it waits", || {
        let events = k.run("get events --field-selector involvedObject.name=second").stdout;
        (events.contains("FailedAttachVolume") && events.contains("Multi-Attach")).then_some(())
    });
    let volume = k.field("pvc/data", ".spec.volumeName");
    assert!(!volume.is_empty());
    k.run("delete pod writer --timeout=240s").success();
    k.wait_ready("second");
    eventually("the second pod reads it", || k.run("logs second").success().contains("precious").then_some(()));
    k.run("delete pod second --timeout=240s").success();
    eventually("it is available again", || o.run("volume list").success().contains("available").then_some(()));
    k.run("delete pvc data --timeout=240s").success();
    eventually("the volume goes with its claim", || o.run("volume list -f value").success().is_empty().then_some(()));
    eventually("and the persistent volume", || k.run("get pv -o name").success().is_empty().then_some(()));
}
