//! Objects as they are stored: encoded once, as JSON without a resource version, which is known only after the commit.
//!
//! A stored value is a 4-byte big-endian offset, then the JSON. At the offset, behind the brace that opens `metadata`, an
//! answer has `"resourceVersion":"<n>",` spliced in; everything else of the bytes is sent as it lies in the store.

use bytes::{BufMut, Bytes, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Revision};
use serde_json::{Map, Value};

const HEADER: usize = 4;

/// # Errors
/// When the object has no metadata, which validation lets nothing through without.
pub fn encode(object: &Value) -> Result<Bytes, ApiError> {
    let internal = |what: &str| ApiError::internal(format!("encoding an object: {what}"));
    let map = object.as_object().ok_or_else(|| internal("it is no object"))?;
    let mut metadata =
        map.get("metadata").and_then(Value::as_object).cloned().ok_or_else(|| internal("no metadata"))?;
    metadata.remove("resourceVersion");
    if metadata.is_empty() {
        return Err(internal("its metadata is empty"));
    }
    let mut out = BytesMut::with_capacity(512);
    out.put_u32(0);
    out.put_slice(b"{\"metadata\":{");
    let offset = out.len() - HEADER;
    let put_rest = |out: &mut BytesMut, map: &Map<String, Value>| -> Result<(), ApiError> {
        let mut first = true;
        for (name, value) in map {
            if !first {
                out.put_u8(b',');
            }
            first = false;
            serde_json::to_writer((&mut *out).writer(), name).map_err(|e| internal(&e.to_string()))?;
            out.put_u8(b':');
            serde_json::to_writer((&mut *out).writer(), value).map_err(|e| internal(&e.to_string()))?;
        }
        out.put_u8(b'}');
        Ok(())
    };
    put_rest(&mut out, &metadata)?;
    let mut rest = map.clone();
    rest.remove("metadata");
    if !rest.is_empty() {
        out.put_u8(b',');
        put_rest(&mut out, &rest)?;
    } else {
        out.put_u8(b'}');
    }
    let offset = u32::try_from(offset).map_err(|_| internal("it is too large"))?;
    out[..HEADER].copy_from_slice(&offset.to_be_bytes());
    Ok(out.freeze())
}

/// The parts of a stored value before and behind the splice.
fn parts(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, json) = value.split_at_checked(HEADER)?;
    let offset = u32::from_be_bytes(head.try_into().ok()?) as usize;
    json.split_at_checked(offset)
}

/// What is JSON of a stored value, which has no resource version.
pub fn json(value: &[u8]) -> &[u8] {
    value.get(HEADER..).unwrap_or_default()
}

/// Appends the object as clients see it; `tenant` is for answers that span tenants.
pub fn write(out: &mut BytesMut, value: &[u8], revision: Revision) {
    let Some((before, behind)) = parts(value) else { return };
    out.reserve(value.len() + 40);
    out.put_slice(before);
    out.put_slice(format!("\"resourceVersion\":\"{revision}\",").as_bytes());
    out.put_slice(behind);
}

/// The object as a value, with its resource version.
///
/// # Errors
/// When the store holds something else than [`encode`] wrote.
pub fn decode(entry: &Entry) -> Result<Value, ApiError> {
    decode_bytes(&entry.value, entry.mod_revision)
}

pub fn decode_bytes(value: &[u8], revision: Revision) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(json(value))
        .map_err(|error| ApiError::internal(format!("a stored object is damaged: {error}")))?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| ApiError::internal("a stored object is damaged: it has no metadata"))?;
    metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_encoded_comes_back_with_its_revision() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "data": {"k": "\"metadata\":{"}, "metadata": {"name": "a", "resourceVersion": "old"}});
        let bytes = encode(&object).unwrap();
        let mut out = BytesMut::new();
        write(&mut out, &bytes, Revision(7));
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("7");
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
        assert_eq!(decode_bytes(&bytes, Revision(7)).unwrap(), expected);
        assert!(encode(&json!({"metadata": {}})).is_err());
        assert!(encode(&json!(5)).is_err());
    }
}
