//! What a request's body is written in. Everything behind this sees JSON.

use bytes::Bytes;
use http::{HeaderMap, header};
use hypernetes_api::{ApiError, Reason};
use hypernetes_kinds::registry;
use hypernetes_schema::{ObjectType, protobuf::Envelope};
use serde_json::Value;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";
const APPLY: &str = "application/apply-patch+yaml";

/// The body as JSON, where it is not in it already; patches in JSON keep their types.
///
/// # Errors
/// `BadRequest` for what is not in the language that it claims, `UnsupportedMediaType` for languages that are not known.
pub fn to_json(headers: &HeaderMap, ty: &ObjectType, body: Bytes) -> Result<Bytes, ApiError> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content.split(';').next().unwrap_or_default().trim() {
        // What a tenant has defined has no numbers for its fields.
        PROTOBUF if ty.is_defined() && !body.is_empty() => {
            Err(unsupported(PROTOBUF, "application/json, application/yaml"))
        }
        PROTOBUF => from_protobuf(&body),
        // JSON is YAML, and much the faster to read.
        YAML | APPLY if !body.is_empty() && !starts_json(&body) => from_yaml(&body),
        "" | "application/json" | YAML | APPLY => Ok(body),
        patch if patch.ends_with("-patch+json") => Ok(body),
        other => Err(unsupported(other, "application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    }
}

fn starts_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

pub fn unsupported(have: &str, accepted: &str) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}; got {have:?}"
    );
    ApiError::new(Reason::UnsupportedMediaType, message)
}

fn from_protobuf(body: &[u8]) -> Result<Bytes, ApiError> {
    // A DELETE without options has no body at all.
    if body.is_empty() {
        return Ok(Bytes::new());
    }
    let refuse = |error: &dyn std::fmt::Display| ApiError::bad_request(format!("decoding protobuf: {error}"));
    let envelope = Envelope::open(body).map_err(|error| refuse(&error))?;
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    let ty = registry::kind(group, version, envelope.kind).ok_or_else(|| {
        let Envelope { api_version, kind, .. } = envelope;
        ApiError::bad_request(format!("no kind {kind:?} is registered for version {api_version:?}"))
    })?;
    let object = envelope.decode(&ty).map_err(|error| refuse(&error))?;
    Ok(object.to_string().into())
}

fn from_yaml(body: &[u8]) -> Result<Bytes, ApiError> {
    let refuse =
        |error: &dyn std::fmt::Display| ApiError::bad_request(format!("error converting YAML to JSON: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| refuse(&error))?;
    // The parser's own budget ends documents whose aliases multiply.
    let value: Value = serde_saphyr::from_str(text).map_err(|error| refuse(&error))?;
    Ok(value.to_string().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(content: &str, body: &str) -> Result<Value, ApiError> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content.parse().unwrap())]);
        to_json(&headers, &registry::kind("", "v1", "Pod").unwrap(), Bytes::copy_from_slice(body.as_bytes()))
            .map(|json| serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn yaml_is_json_then() {
        let text = "metadata:\n  name: a\n  labels: {on: \"1\"}\ndata:\n  b: |\n    c\n  yes: 'no'\n";
        let value = json!({"metadata": {"name": "a", "labels": {"on": "1"}}, "data": {"b": "c\n", "yes": "no"}});
        assert_eq!(read("application/yaml", text).unwrap(), value);
        assert_eq!(read("application/apply-patch+yaml", "{\"a\": 1}").unwrap(), json!({"a": 1}));
        assert_eq!(
            read("application/yaml; charset=utf-8", "a: [1, 2.5, true, null]").unwrap(),
            json!({"a": [1, 2.5, true, null]})
        );
    }

    #[test]
    fn bombs_and_rubbish_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let before = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        for body in [bomb.as_str(), "a: [", "a: b: c", "a: *missing"] {
            let refused = read("application/yaml", body).expect_err(body);
            assert_eq!(refused.reason, Reason::BadRequest);
        }
        assert_eq!(read("text/plain", "a").unwrap_err().reason, Reason::UnsupportedMediaType);
        assert_eq!(read(PROTOBUF, "k8s\0rubbish").unwrap_err().reason, Reason::BadRequest);
    }
}
