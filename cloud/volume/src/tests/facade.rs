//! The Cinder API.

use super::*;

fn ids(list: &Value) -> Vec<&str> {
    list["volumes"].as_array().unwrap().iter().map(|volume| volume["id"].as_str().unwrap()).collect()
}

fn path(volume: &Value) -> String {
    format!("/volumes/{}", volume["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_lives() {
    let cloud = Cloud::new().await;
    cloud.class().await;
    let made = cloud.create(json!({"name": "data", "description": "d", "size": 2, "metadata": {"a": "b"}})).await;
    assert_eq!((&made["name"], &made["size"], &made["description"]), (&json!("data"), &json!(2), &json!("d")));
    assert_eq!((&made["volume_type"], &made["attachments"]), (&json!("standard"), &json!([])));
    assert_eq!(made["os-vol-tenant-attr:tenant_id"], ACME);
    let created = made["created_at"].as_str().unwrap();
    assert!(created.ends_with(".000000") && !created.contains('Z'), "{created}");
    let object = cloud.api::<Volume>(ACME).get("data").await.unwrap();
    assert_eq!(json!(object.metadata.uid), made["id"]);
    assert_eq!(object.spec.size_bytes, 2 * GIB);
    let shown = cloud.with_status(READER, &made["id"], "available").await;
    assert_eq!(shown["metadata"], json!({"a": "b"}));
    let files = cloud.files(ACME);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].file_stem().unwrap().to_str(), made["id"].as_str());
    assert_eq!(std::fs::metadata(&files[0]).unwrap().len(), 2 * GIB);

    // Names need not be Kubernetes' and not be the only ones.
    let odd = cloud.create(json!({"name": "My Data!", "size": "1"})).await;
    let again = cloud.create(json!({"name": "data", "size": 1, "volume_type": "standard"})).await;
    assert_eq!((&odd["name"], &again["name"]), (&json!("My Data!"), &json!("data")));
    assert_ne!(made["id"], again["id"]);
    let list = cloud.get(READER, "/volumes").await.ok();
    assert_eq!(list["volumes"].as_array().unwrap().len(), 3);
    assert!(list["volumes"][0].get("size").is_none(), "brief: {list}");
    let link = list["volumes"][0]["links"][0]["href"].as_str().unwrap();
    assert!(link.starts_with(&format!("https://cloud.example:6443/volume/v3/{ACME}/volumes/")), "{link}");
    let list = cloud.get(READER, "/volumes/detail?name=data").await.ok();
    assert_eq!(list["volumes"].as_array().unwrap().len(), 2);
    assert!(list["volumes"][0]["size"].is_u64());

    let changed = json!({"volume": {"name": "renamed", "description": "", "metadata": {"c": "d"}}});
    let changed = cloud.call(MEMBER, "PUT", &path(&made), changed).await.ok()["volume"].clone();
    assert_eq!((&changed["name"], &changed["description"]), (&json!("renamed"), &json!("")));
    assert_eq!((&changed["metadata"], &changed["id"]), (&json!({"c": "d"}), &made["id"]));
    assert_eq!(cloud.get(READER, &path(&made)).await.ok()["volume"]["name"], "renamed");

    for volume in [&made, &odd, &again] {
        let answer = cloud.delete(MEMBER, &path(volume)).await;
        assert_eq!((answer.status.as_u16(), &answer.body), (202, &Value::Null));
    }
    eventually(|| async { cloud.files(ACME).is_empty().then_some(()) }).await;
    let gone = || async { (cloud.get(READER, &path(&made)).await.status == 404).then_some(()) };
    eventually(gone).await;
    cloud.delete(MEMBER, &path(&made)).await.refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_filters() {
    let cloud = Cloud::new().await;
    for name in ["a", "b", "c"] {
        cloud.create(json!({"name": name, "size": 1})).await;
    }
    let all = cloud.get(READER, "/volumes").await.ok();
    let all = ids(&all);
    let first = cloud.get(READER, "/volumes?limit=2").await.ok();
    assert_eq!(ids(&first), all[..2]);
    let rest = cloud.get(READER, &format!("/volumes?limit=2&marker={}", all[1])).await.ok();
    assert_eq!(ids(&rest), all[2..]);
    assert_eq!(ids(&cloud.get(READER, "/volumes?offset=1&limit=1").await.ok()), all[1..2]);
    assert_eq!(ids(&cloud.get(READER, "/volumes?status=error").await.ok()), [""; 0]);
    for bad in ["limit=x", "limit=-1", "offset=y"] {
        cloud.get(READER, &format!("/volumes?{bad}")).await.refused(400, "badRequest");
    }
    cloud.get(READER, "/volumes?marker=nothing").await.refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_in_cinders_words() {
    let cloud = Cloud::new().await;
    cloud.class().await;
    for (body, words) in [
        (json!({}), "size"),
        (json!({"size": 0}), "size"),
        (json!({"size": -1}), "size"),
        (json!({"size": 1.5}), "size"),
        (json!({"size": "much"}), "size"),
        (json!({"size": [1]}), "size"),
        (json!({"size": u64::MAX}), "size"),
        (json!({"size": 16 * 1024 + 1}), "more than 16384 GiB"),
        (json!({"size": 1, "name": "n".repeat(256)}), "name"),
        (json!({"size": 1, "description": "n".repeat(256)}), "description"),
        (json!({"size": 1, "metadata": {"": "x"}}), "metadata"),
        (json!({"size": 1, "metadata": {"x": "n".repeat(256)}}), "metadata"),
        (json!({"size": 1, "metadata": {"x": 5}}), "Malformed request body"),
        (json!({"size": 1, "multiattach": true}), "not supported"),
        (json!({"size": 1, "snapshot_id": "x"}), "not supported"),
        (json!({"size": 1, "source_volid": "x"}), "not supported"),
        (json!({"size": 1, "imageRef": "x"}), "not supported"),
        (json!({"size": 1, "backup_id": "x"}), "not supported"),
        (json!({"size": 1, "name": 5}), "Malformed request body"),
    ] {
        let answer = cloud.call(MEMBER, "POST", "/volumes", json!({"volume": body})).await;
        let message = answer.refused(400, "badRequest");
        assert!(message.contains(words), "{body}: {message}");
    }
    for kind in ["nothing", "foreign"] {
        let body = json!({"volume": {"size": 1, "volume_type": kind}});
        let message = cloud.call(MEMBER, "POST", "/volumes", body).await.refused(404, "itemNotFound");
        assert_eq!(message, format!("Volume type {kind} could not be found."));
    }
    for body in ["", "[]", "{", "{}", "{\"volume\": 5}", "nonsense"] {
        cloud.send(MEMBER, "POST", "/volumes", body).await.refused(400, "badRequest");
    }
    cloud.send(MEMBER, "POST", "/volumes", "x".repeat(200_000)).await.refused(413, "overLimit");
    cloud.get(MEMBER, "/nothing").await.refused(404, "itemNotFound");
    cloud.call(MEMBER, "PATCH", "/volumes", Value::Null).await.refused(405, "badMethod");
    assert!(cloud.api::<Volume>(ACME).list(&Default::default()).await.unwrap().items.is_empty());
    assert!(cloud.files(ACME).is_empty());

    let volume = cloud.create(json!({"name": "v", "size": 1})).await;
    let extend = json!({"os-extend": {"new_size": 2}});
    let message = cloud.call(MEMBER, "POST", &format!("{}/action", path(&volume)), extend).await;
    assert!(message.refused(400, "badRequest").contains("os-extend"));
    let long = json!({"volume": {"name": "n".repeat(256)}});
    cloud.call(MEMBER, "PUT", &path(&volume), long).await.refused(400, "badRequest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_what() {
    let cloud = Cloud::new().await;
    let volume = cloud.create(json!({"name": "v", "size": 1})).await;
    for token in ["", "nonsense"] {
        let answer = cloud.get(token, "/volumes").await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["code"]), (401, &json!(401)));
    }
    cloud.get(READER, &path(&volume)).await.ok();
    let body = json!({"volume": {"name": "x", "size": 1}});
    let message = cloud.call(READER, "POST", "/volumes", body.clone()).await.refused(403, "forbidden");
    assert_eq!(message, "Policy doesn't allow volume:create to be performed.");
    cloud.call(READER, "PUT", &path(&volume), body.clone()).await.refused(403, "forbidden");
    cloud.delete(READER, &path(&volume)).await.refused(403, "forbidden");
    let metadata = format!("{}/metadata", path(&volume));
    cloud.call(READER, "POST", &metadata, json!({"metadata": {}})).await.refused(403, "forbidden");
    cloud.get(MEMBER, "/os-services").await.refused(403, "forbidden");

    // Another tenant's admin does not see that there is such a volume.
    let message = cloud.get(OTHER, &path(&volume)).await.refused(404, "itemNotFound");
    assert_eq!(message, format!("Volume {} could not be found.", volume["id"].as_str().unwrap()));
    cloud.call(OTHER, "PUT", &path(&volume), body).await.refused(404, "itemNotFound");
    cloud.delete(OTHER, &path(&volume)).await.refused(404, "itemNotFound");
    cloud.get(OTHER, &metadata).await.refused(404, "itemNotFound");
    assert_eq!(cloud.get(OTHER, "/volumes/detail").await.ok()["volumes"], json!([]));
    // Nor through a path that names the first one's project.
    let foreign = format!("/volume/v3/{ACME}/volumes");
    cloud.send_to(OTHER, "GET", &foreign, "").await.refused(400, "badRequest");
    cloud.send_to("member@", "GET", &foreign, "").await.refused(400, "badRequest");
    assert_eq!(cloud.get(READER, &path(&volume)).await.ok()["volume"]["name"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_changed_in_parts() {
    let cloud = Cloud::new().await;
    let volume = cloud.create(json!({"name": "v", "size": 1, "metadata": {"a": "1", "b": "2"}})).await;
    let all = format!("{}/metadata", path(&volume));
    let added = cloud.call(MEMBER, "POST", &all, json!({"metadata": {"c": "3"}})).await.ok();
    assert_eq!(added, json!({"metadata": {"a": "1", "b": "2", "c": "3"}}));
    let one = cloud.call(MEMBER, "PUT", &format!("{all}/a"), json!({"meta": {"a": "9"}})).await.ok();
    assert_eq!(one, json!({"meta": {"a": "9"}}));
    cloud.call(MEMBER, "PUT", &format!("{all}/a"), json!({"meta": {"b": "9"}})).await.refused(400, "badRequest");
    assert_eq!(cloud.delete(MEMBER, &format!("{all}/b")).await.status, 200);
    cloud.delete(MEMBER, &format!("{all}/b")).await.refused(404, "itemNotFound");
    cloud.get(READER, &format!("{all}/b")).await.refused(404, "itemNotFound");
    assert_eq!(cloud.get(READER, &format!("{all}/c")).await.ok(), json!({"meta": {"c": "3"}}));
    assert_eq!(cloud.get(READER, &all).await.ok(), json!({"metadata": {"a": "9", "c": "3"}}));
    let many: serde_json::Map<String, Value> = (0..129).map(|n| (n.to_string(), json!("x"))).collect();
    cloud.call(MEMBER, "PUT", &all, json!({"metadata": many})).await.refused(400, "badRequest");
    let replaced = cloud.call(MEMBER, "PUT", &all, json!({"metadata": {"z": "0"}})).await.ok();
    assert_eq!(replaced, json!({"metadata": {"z": "0"}}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_ask_beside() {
    let cloud = Cloud::new().await;
    cloud.class().await;
    cloud.create(json!({"size": 3})).await;
    let types = cloud.get(READER, "/types").await.ok();
    assert_eq!(types["volume_types"].as_array().unwrap().len(), 1, "classes of other drivers are no types: {types}");
    let id = types["volume_types"][0]["id"].as_str().unwrap();
    for name in ["default", "standard", id] {
        assert_eq!(cloud.get(READER, &format!("/types/{name}")).await.ok()["volume_type"]["name"], "standard");
    }
    cloud.get(READER, "/types/foreign").await.refused(404, "itemNotFound");
    let limits = cloud.get(READER, "/limits").await.ok()["limits"]["absolute"].clone();
    assert_eq!((&limits["totalVolumesUsed"], &limits["totalGigabytesUsed"]), (&json!(1), &json!(3)));
    let zones = cloud.get(READER, "/os-availability-zone").await.ok();
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneState"]["available"], true);
    assert_eq!(cloud.get(OTHER, "/os-services").await.ok()["services"][0]["state"], "up");
    for (path, status) in [("/volume", 300), ("/volume/v3", 200), ("/volume/v3/", 200)] {
        let answer = cloud.send_to("", "GET", path, "").await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.body["versions"][0]["id"], "v3.0", "{path}");
    }
}
