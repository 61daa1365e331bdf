//! Objects as they are stored, and as everybody is shown them.
//!
//! A stored value is a 4-byte big-endian offset, then the JSON without a resource version, which is known only after the
//! commit; at the offset, behind the brace that opens `metadata`, is its place.
//!
//! What the store's cache holds is made of that when it is committed or loaded, once for all readers: a watch's event of
//! what happened, `{"type":"ADDED","object":` or `MODIFIED`, the object with its version, `}` and the end of the line. An
//! answer has the object out of it, a watch all of it.

use std::{borrow::Cow, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Key, Revision};
use serde_json::Value;

use crate::made::{Made, count};

const HEADER: usize = 4;
/// Where the place of the version is: in all that was ever stored.
const START: &[u8] = b"{\"metadata\":{";
/// What every shown object begins with, before the version's digits.
pub const HEAD: &[u8] = b"{\"metadata\":{\"resourceVersion\":\"";
const END: &[u8] = b"}\n";

/// What a watch says has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Added,
    Modified,
    Deleted,
}

impl Event {
    pub const ALL: usize = 3;

    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// All of a watch's line before the object.
    pub fn head(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }

    /// A watch's line, of an object that `write` appends.
    pub fn line<E>(self, size: usize, write: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<Bytes, E> {
        let mut out = BytesMut::with_capacity(self.head().len() + size + END.len());
        out.put_slice(self.head());
        write(&mut out)?;
        out.put_slice(END);
        Ok(out.freeze())
    }
}

/// # Errors
/// When the object has no metadata, which validation lets nothing through without.
pub fn encode(object: &Value) -> Result<Bytes, ApiError> {
    let internal = |what: &str| ApiError::internal(format!("encoding an object: {what}"));
    let map = object.as_object().ok_or_else(|| internal("it is no object"))?;
    let metadata = map.get("metadata").and_then(Value::as_object).ok_or_else(|| internal("no metadata"))?;
    let is_stored = |name: &str| name != "resourceVersion";
    if !metadata.keys().any(|name| is_stored(name)) {
        return Err(internal("its metadata is empty"));
    }
    let offset = u32::try_from(START.len()).map_err(|_| internal("it is too large"))?;
    let mut out = BytesMut::with_capacity(512);
    out.put_u32(offset);
    out.put_slice(START);
    let fields = metadata.iter().filter(|(name, _)| is_stored(name));
    put_fields(&mut out, fields, false).map_err(|e| internal(&e.to_string()))?;
    out.put_u8(b'}');
    let rest = map.iter().filter(|(name, _)| *name != "metadata");
    put_fields(&mut out, rest, true).map_err(|e| internal(&e.to_string()))?;
    out.put_u8(b'}');
    Ok(out.freeze())
}

/// `more`: there are fields before these.
fn put_fields<'v>(
    out: &mut BytesMut,
    fields: impl Iterator<Item = (&'v String, &'v Value)>,
    mut more: bool,
) -> serde_json::Result<()> {
    for (name, value) in fields {
        if std::mem::replace(&mut more, true) {
            out.put_u8(b',');
        }
        serde_json::to_writer((&mut *out).writer(), name)?;
        out.put_u8(b':');
        serde_json::to_writer((&mut *out).writer(), value)?;
    }
    Ok(())
}

/// The parts of a stored value before and behind the place of its version.
fn parts(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, json) = stored.split_at_checked(HEADER)?;
    let offset = u32::from_be_bytes(head.try_into().ok()?) as usize;
    json.split_at_checked(offset)
}

/// What is JSON of a stored value, which has no resource version.
pub fn json(stored: &[u8]) -> &[u8] {
    stored.get(HEADER..).unwrap_or_default()
}

/// What the cache holds of a stored value: the event that it came with. What is no object, or is damaged, it holds as it is:
/// whoever reads it as one is told so.
pub fn show(stored: &Bytes, revision: Revision, new: bool) -> Bytes {
    count(Made::Shown);
    // Of its own: it may be a part of all that was read with it.
    let Some((START, rest)) = parts(stored) else { return Bytes::copy_from_slice(stored) };
    let event = if new { Event::Added } else { Event::Modified };
    let version = revision.to_string();
    let size = event.head().len() + HEAD.len() + version.len() + stored.len() + END.len();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(event.head());
    out.extend_from_slice(HEAD);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
    out.extend_from_slice(rest);
    out.extend_from_slice(END);
    out.into_boxed_slice().into()
}

/// What is stored of what the cache holds: undoes [`show`].
pub fn keep(shown: &Bytes) -> Bytes {
    let behind = || {
        let head = [Event::Added, Event::Modified].map(Event::head).into_iter().find(|head| shown.starts_with(head))?;
        let rest = shown[head.len()..].strip_suffix(END)?.strip_prefix(HEAD)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rest = rest.get(digits..)?.strip_prefix(b"\"")?;
        Some(rest.strip_prefix(b",").unwrap_or(rest))
    };
    let Some(behind) = behind() else { return shown.clone() };
    let mut out = Vec::with_capacity(HEADER + START.len() + behind.len());
    out.extend_from_slice(&(START.len() as u32).to_be_bytes());
    out.extend_from_slice(START);
    out.extend_from_slice(behind);
    out.into_boxed_slice().into()
}

/// The event that an entry came with, if its value is one that was shown.
fn event(entry: &Entry) -> Option<Event> {
    [Event::Added, Event::Modified].into_iter().find(|event| entry.value.starts_with(event.head()))
}

/// A watch's line of this event, if that is what the entry came with.
pub fn line(entry: &Entry, of: Event) -> Option<Bytes> {
    event(entry).filter(|event| *event == of).map(|_| entry.value.clone())
}

fn place(entry: &Entry) -> Range<usize> {
    let start = event(entry).map_or(0, |event| event.head().len());
    start..entry.value.len().saturating_sub(END.len()).max(start)
}

/// The object, with its version.
pub fn object(entry: &Entry) -> &[u8] {
    &entry.value[place(entry)]
}

/// [`object`], shared.
pub fn shared(entry: &Entry) -> Bytes {
    entry.value.slice(place(entry))
}

/// An entry that is in no store, for an answer.
pub fn outside(key: Key, stored: &Bytes, created: Revision, modified: Revision) -> Entry {
    Entry::outside(key, show(stored, modified, created == modified), created, modified)
}

/// Whether this is what the entry was made of.
pub fn is_of(entry: &Entry, stored: &[u8]) -> bool {
    let (Some((start, rest)), object) = (parts(stored), object(entry)) else { return false };
    let (version, comma) = (entry.mod_revision.to_string(), b"\",");
    start == START
        && object.len() == HEAD.len() + version.len() + comma.len() + rest.len()
        && object.starts_with(HEAD)
        && object.ends_with(rest)
}

pub fn damaged(why: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::internal(format!("a stored object is damaged: {}", why.into()))
}

/// The object as a value, with its resource version.
///
/// # Errors
/// When the store holds something else than [`encode`] wrote.
pub fn decode(entry: &Entry) -> Result<Value, ApiError> {
    decode_at(entry, entry.mod_revision)
}

/// The object as it was, at the revision at which it went.
///
/// # Errors
/// As [`decode`].
pub fn decode_at(entry: &Entry, revision: Revision) -> Result<Value, ApiError> {
    count(Made::Parsed);
    let mut object: Value = serde_json::from_slice(object(entry)).map_err(|error| damaged(error.to_string()))?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| damaged("it has no metadata"))?;
    metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
    Ok(object)
}

#[cfg(test)]
mod tests {
    use hypernetes_store::ResourceId;
    use serde_json::json;

    use super::*;

    fn entry(stored: &Bytes, created: u64, modified: u64) -> Entry {
        let key = Key::new(&ResourceId::new("", "configmaps"), &"acme".parse().unwrap(), "default", "a").unwrap();
        outside(key, stored, Revision(created), Revision(modified))
    }

    #[test]
    fn what_is_encoded_comes_back_with_its_revision() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "data": {"k": "\"metadata\":{"}, "metadata": {"name": "a", "resourceVersion": "old"}});
        let bytes = encode(&object).unwrap();
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = json!("7");
        for (created, event, other) in [(7, Event::Added, Event::Modified), (5, Event::Modified, Event::Added)] {
            let entry = entry(&bytes, created, 7);
            assert_eq!(serde_json::from_slice::<Value>(super::object(&entry)).unwrap(), expected);
            assert_eq!(decode(&entry).unwrap(), expected);
            let line: Value = serde_json::from_slice(&line(&entry, event).unwrap()).unwrap();
            let name = if event == Event::Added { "ADDED" } else { "MODIFIED" };
            assert_eq!(line, json!({"type": name, "object": expected}));
            assert_eq!(super::line(&entry, other), None);
            // There is one copy of it.
            assert_eq!(shared(&entry).as_ptr(), super::object(&entry).as_ptr());
            assert!(is_of(&entry, &bytes));
            let changed = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}, "metadata": {"name": "a"}});
            assert!(!is_of(&entry, &encode(&changed).unwrap()));
        }
        assert!(encode(&json!({"metadata": {}})).is_err());
        assert!(encode(&json!(5)).is_err());
    }

    #[test]
    fn what_is_no_object_is_damaged() {
        for bytes in [&b""[..], b"1", b"\0\0\0\x0d{\"metadata\":{", b"\xff\xff\xff\xff{}", b"\0\0\0\0{\"metadata\":{}}"]
        {
            let entry = entry(&Bytes::copy_from_slice(bytes), 1, 1);
            let decoded = decode(&entry);
            assert!(decoded.is_err() || bytes.ends_with(b"{}}"), "{decoded:?}");
        }
    }

    #[test]
    fn what_is_shown_is_kept_as_it_was_stored() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "}\n"}});
        let no_object =
            [b"\"acme/port\"".as_slice(), b"true", b"", b"\0\0\0\x0dnot metadata", b"{\"type\":\"ADDED\",\"object\":"];
        let values = no_object.map(Bytes::from_static).into_iter().chain([encode(&object).unwrap()]);
        for stored in values {
            for new in [true, false] {
                assert_eq!(keep(&show(&stored, Revision(12), new)), stored, "{stored:?}");
            }
        }
    }
}
