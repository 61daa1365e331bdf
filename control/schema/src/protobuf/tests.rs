use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret},
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One field: a number, or bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128);
    [&[number << 3 | 2, length], bytes].concat()
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC, &field(1, &meta), &field(2, message), &field(3, b""), &field(4, b"")].concat()
}

fn of(kind: &str) -> ObjectType {
    match kind {
        "Pod" => ObjectType::kubernetes::<Pod>(),
        "Secret" => ObjectType::kubernetes::<Secret>(),
        "Deployment" => ObjectType::kubernetes::<Deployment>(),
        other => panic!("{other}"),
    }
}

fn decode(api_version: &str, kind: &str, message: &[u8]) -> Result<Value> {
    let body = envelope(api_version, kind, message);
    let opened = Envelope::open(&body)?;
    assert_eq!((opened.api_version, opened.kind), (api_version, kind));
    opened.decode(&of(kind))
}

#[test]
fn maps_bytes_and_metadata() {
    let entry = [field(1, b"a"), field(2, &[0, 255])].concat();
    let label = [field(1, b"app"), field(2, b"web")].concat();
    let metadata = [field(1, b"s"), field(2, b""), field(3, b"default"), number(7, 0), field(11, &label)].concat();
    let secret = [field(1, &metadata), field(2, &entry), field(3, b"Opaque")].concat();
    assert_eq!(
        decode("v1", "Secret", &secret).unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"a": "AP8="},
            "metadata": {"name": "s", "namespace": "default", "labels": {"app": "web"}}})
    );
}

#[test]
fn inline_structs_pointers_and_alternatives() {
    // spec.volumes[0] = {name: "v", emptyDir: {}}: the source is a message of its own, with an empty pointer in it.
    let source = field(2, b"");
    let volume = [field(1, b"v"), field(2, &source)].concat();
    let request = [field(1, b"cpu"), field(2, &field(1, b"100m"))].concat();
    let port = [number(1, 1), field(3, b"http")].concat();
    let get = [field(1, b"/"), field(2, &port)].concat();
    let probe = [field(1, &field(2, &get)), number(2, 0)].concat();
    let container =
        [field(1, b"c"), field(2, b"i"), field(5, b""), field(8, &field(2, &request)), field(10, &probe)].concat();
    let spec = [field(1, &volume), field(2, &container), number(4, 0), number(11, 0)].concat();
    let pod = decode("v1", "Pod", &field(2, &spec)).unwrap();
    assert_eq!(
        pod["spec"],
        json!({"terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}}]})
    );
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(Envelope::open(b"{}").unwrap_err(), ProtobufError::NoEnvelope);
    assert_eq!(decode("v1", "Pod", &[0x0a, 0x7f, 1]).unwrap_err(), ProtobufError::Truncated);
    assert_eq!(decode("v1", "Pod", &number(1, 5)).unwrap_err(), ProtobufError::WireType);
    assert_eq!(decode("v1", "Pod", &field(1, &field(1, &[0xff]))).unwrap_err(), ProtobufError::NotText);
}

proptest! {
    #[test]
    fn nothing_panics(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Secret")] {
            let envelope = Envelope { api_version: version, kind, message: &message };
            let _ = envelope.decode(&of(kind));
        }
        let _ = Envelope::open(&[MAGIC, &message].concat());
    }
}
