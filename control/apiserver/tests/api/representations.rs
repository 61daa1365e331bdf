//! In what languages answers are had, through the server.

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use hypernetes_api::auth::UserInfo;
use hypernetes_kinds::registry;
use hypernetes_schema::protobuf::Envelope;
use hypernetes_testing::{
    requests::{admin, by},
    server::{ACME, InProcess},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::bench::{MAPS, map};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str = "as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

async fn ask(bench: &InProcess, who: &UserInfo, path: &str, accept: &str) -> (u16, String, Vec<u8>) {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let answer: Response<Body> = bench.server.router().oneshot(by(who, request)).await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let code = answer.status().as_u16();
    (code, kind, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
}

fn read(bytes: &[u8]) -> Value {
    let envelope = Envelope::open(bytes).unwrap();
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    // Bare metadata is of any kind.
    let kind = if envelope.kind == "PartialObjectMetadata" { "ConfigMap" } else { envelope.kind };
    let group = if group == "meta.k8s.io" { "" } else { group };
    envelope.decode(&registry::kind(group, version, kind).unwrap()).unwrap()
}

/// One field's bytes, of those that a message has under a number.
fn fields(mut message: &[u8], wanted: u64) -> Vec<&[u8]> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = varint(&mut message);
        if tag & 7 == 2 {
            let (bytes, rest) = message.split_at(length as usize);
            message = rest;
            if tag >> 3 == wanted {
                found.push(bytes);
            }
        }
    }
    found
}

#[tokio::test]
async fn objects_lists_events_and_errors_are_had_in_protobuf() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    for name in ["a", "b"] {
        bench.post(&acme, MAPS, map(name, "1")).await.ok();
    }
    let json = bench.get(&acme, &format!("{MAPS}/a")).await.ok();
    let (code, kind, body) = ask(&bench, &acme, &format!("{MAPS}/a"), PROTOBUF).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF));
    assert_eq!(read(&body), json);

    let bare = format!("{PROTOBUF};{METADATA}");
    let (_, _, body) = ask(&bench, &acme, &format!("{MAPS}/a"), &bare).await;
    let bare = read(&body);
    assert_eq!((&bare["kind"], &bare["metadata"]), (&json!("PartialObjectMetadata"), &json["metadata"]));
    assert_eq!(bare["data"], Value::Null);

    let (_, kind, body) = ask(&bench, &acme, &format!("{MAPS}?limit=1"), PROTOBUF).await;
    assert_eq!(kind, PROTOBUF);
    let unknown = body.strip_prefix(b"k8s\0").unwrap();
    let meta = fields(unknown, 1)[0];
    assert_eq!((fields(meta, 1)[0], fields(meta, 2)[0]), (&b"v1"[..], &b"ConfigMapList"[..]));
    let list = fields(unknown, 2)[0];
    assert_eq!(fields(list, 2).len(), 1, "one item");
    let meta = fields(list, 1)[0];
    assert!(!fields(meta, 3).is_empty(), "and where the next page begins");
    assert_eq!(meta.last_chunk(), Some(&[4 << 3, 1]), "and how much is there");

    // Frames: what a length says, is an event's message.
    let watch = format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=1&fieldSelector=metadata.name%3Da");
    let (_, kind, body) = ask(&bench, &acme, &watch, PROTOBUF).await;
    assert_eq!(kind, "application/vnd.kubernetes.protobuf;stream=watch");
    let (length, frame) = body.split_first_chunk::<4>().unwrap();
    let event = &frame[..u32::from_be_bytes(*length) as usize];
    assert_eq!(fields(event, 1)[0], b"ADDED");
    assert_eq!(read(fields(fields(event, 2)[0], 1)[0]), json);

    let (code, kind, body) = ask(&bench, &acme, &format!("{MAPS}/none"), PROTOBUF).await;
    assert_eq!((code, kind.as_str()), (404, PROTOBUF));
    let status = read(&body);
    assert_eq!(
        (&status["kind"], &status["reason"], &status["code"]),
        (&json!("Status"), &json!("NotFound"), &json!(404))
    );

    // What is sent in it is answered in it.
    let request = Request::post(MAPS).header("accept", PROTOBUF).header("content-type", "application/json");
    let request = request.body(Body::from(map("c", "1").to_string())).unwrap();
    let answer = bench.server.router().oneshot(by(&acme, request)).await.unwrap();
    assert_eq!(answer.headers()["content-type"], PROTOBUF);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read(&body)["metadata"]["name"], "c");
}

#[tokio::test]
async fn what_cannot_be_had_is_not_acceptable() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    bench.post(&acme, MAPS, map("a", "1")).await.ok();
    let one = format!("{MAPS}/a");
    for accept in ["text/html", "application/cbor", &format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")] {
        let (code, kind, body) = ask(&bench, &acme, &one, accept).await;
        assert_eq!(code, 406, "{accept}");
        if kind == "application/json" {
            let status: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(status["reason"], "NotAcceptable");
        }
    }
    // There are no messages of what is our own.
    let networks = "/apis/network.hypernetes.io/v1alpha1/networks";
    assert_eq!(ask(&bench, &acme, networks, PROTOBUF).await.0, 406);
    let (code, kind, _) = ask(&bench, &acme, networks, &format!("{PROTOBUF},application/json")).await;
    assert_eq!((code, kind.as_str()), (200, "application/json"));
}

#[tokio::test]
async fn yaml_is_had_of_everything_that_ends() {
    let bench = InProcess::with_tenants().await;
    let acme = admin(ACME);
    bench.post(&acme, MAPS, map("a", "1")).await.ok();
    for path in [format!("{MAPS}/a"), MAPS.to_owned(), "/api/v1".to_owned(), format!("{MAPS}/none")] {
        let (_, _, json) = ask(&bench, &acme, &path, "application/json").await;
        let (_, kind, yaml) = ask(&bench, &acme, &path, "application/yaml").await;
        assert_eq!(kind, "application/yaml", "{path}");
        let yaml: Value = serde_saphyr::from_str(std::str::from_utf8(&yaml).unwrap()).unwrap();
        assert_eq!(yaml, serde_json::from_slice::<Value>(&json).unwrap(), "{path}");
    }
    assert_eq!(ask(&bench, &acme, &format!("{MAPS}?watch=true"), "application/yaml").await.0, 406);
}
