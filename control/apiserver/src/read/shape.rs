//! In which shape an answer has objects as they are stored, and how their bytes become that of the bytes of the cache: without
//! parsing them.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use hypernetes_api::{ApiError, names};
use hypernetes_kinds::Resource;
use hypernetes_schema::walk::fields;
use hypernetes_store::{Change, Entry, Key, Revision};
use serde_json::{Value, json};

use crate::{
    Call,
    made::{Made, count},
    read::{
        form::Form,
        selection::{self, Annotations},
    },
    request::Scope,
    stored_form::{self, Event, HEAD},
};

/// What is the same for all readers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bare metadata.
    metadata: bool,
    /// With the annotation that says whose it is.
    of_all: bool,
}

/// All that there are.
const SHAPES: usize = 4;
const BARE: &[u8] = br#"{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"resourceVersion":""#;

impl Shape {
    pub fn of(call: &Call, form: Form) -> Self {
        Self { metadata: form == Form::Metadata, of_all: call.scope == Scope::All }
    }

    /// Objects as the cache has them.
    pub fn is_whole(self) -> bool {
        !self.metadata && !self.of_all
    }

    /// Whoever has the objects of the cache themselves sees no more.
    pub fn hides_nothing(self) -> bool {
        !self.metadata
    }

    fn index(self) -> usize {
        usize::from(self.metadata) | usize::from(self.of_all) << 1
    }

    /// Appends the object; `at` is the version that it says it has.
    ///
    /// # Errors
    /// When the store holds something else than objects.
    pub fn write(
        self,
        out: &mut BytesMut,
        entry: &Entry,
        at: Revision,
        resource: &Arc<Resource>,
    ) -> Result<(), ApiError> {
        let object = stored_form::object(entry);
        if self.is_whole() && at == entry.mod_revision {
            out.put_slice(object);
            return Ok(());
        }
        // What comes behind the digits of the version.
        let digits = object.strip_prefix(HEAD).map(|rest| rest.iter().take_while(|byte| **byte != b'"').count());
        let Some(behind) = digits.map(|digits| HEAD.len() + digits + 1) else {
            return self.write_parsed(out, entry, at);
        };
        let (mut end, mut annotations) = (object.len(), Annotations::None);
        if self.metadata || self.of_all {
            let selection = selection::of(entry, resource)?.selection;
            end = if self.metadata { selection.metadata_end } else { end };
            annotations = selection.annotations.clone();
        }
        out.reserve(end + 160);
        let head = if self.metadata { BARE } else { HEAD };
        let version = |out: &mut BytesMut| {
            out.put_slice(head);
            out.put_slice(at.to_string().as_bytes());
            out.put_u8(b'"');
        };
        match annotations {
            _ if !self.of_all => {
                version(out);
                out.put_slice(&object[behind..end]);
            }
            Annotations::None => {
                version(out);
                out.put_slice(b",\"annotations\":{");
                put_tenant(out, &entry.key);
                out.put_u8(b'}');
                out.put_slice(&object[behind..end]);
            }
            Annotations::At(place) => {
                version(out);
                let first = place.start + 1;
                out.put_slice(&object[behind..first]);
                put_tenant(out, &entry.key);
                if object.get(first) != Some(&b'}') {
                    out.put_u8(b',');
                }
                out.put_slice(&object[first..end]);
            }
            Annotations::Odd => return self.write_parsed(out, entry, at),
        }
        if self.metadata {
            out.put_u8(b'}');
        }
        Ok(())
    }

    fn write_parsed(self, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        let mut object = stored_form::decode_at(entry, at)?;
        if self.of_all {
            annotate(&entry.key, &mut object);
        }
        let shown = if self.metadata { bare_metadata(&object) } else { object };
        serde_json::to_writer(out.writer(), &shown).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// A watch's line: the event that the entry came with, or one that is made once for all whom the change is told to.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn line(
        self,
        event: Event,
        entry: &Entry,
        change: &Change,
        resource: &Arc<Resource>,
    ) -> Result<Bytes, ApiError> {
        if self.is_whole()
            && let Some(line) = stored_form::line(entry, event)
        {
            return Ok(line);
        }
        let lines = change.form(Lines::default);
        let made = lines.0[event as usize * SHAPES + self.index()].get_or_init(|| {
            count(Made::Line);
            event.line(entry.value.len() + 160, |out| self.write(out, entry, change.revision, resource))
        });
        made.clone()
    }
}

/// Lines of a change that were made, by event and shape.
struct Lines([OnceLock<Result<Bytes, ApiError>>; Event::ALL * SHAPES]);

impl Default for Lines {
    fn default() -> Self {
        Self([const { OnceLock::new() }; Event::ALL * SHAPES])
    }
}

/// As `PartialObjectMetadata`.
pub fn bare_metadata(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

/// Adds whose an object is, for answers that span tenants.
pub fn annotate(key: &Key, object: &mut Value) {
    let annotations = fields(object, &["metadata", "annotations"]);
    annotations.insert(names::TENANT_ANNOTATION.into(), key.tenant().into());
}

fn put_tenant(out: &mut BytesMut, key: &Key) {
    for piece in ["\"", names::TENANT_ANNOTATION, "\":\"", key.tenant(), "\""] {
        out.put_slice(piece.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_kinds::registry;

    use super::*;

    const PLAIN: Shape = Shape { metadata: false, of_all: false };

    #[test]
    fn bytes_become_what_the_parsed_object_would() {
        let resource = registry::builtin_of("", "v1", "ConfigMap").unwrap();
        let objects = [
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a", "annotations": {}}, "data": {"annotations": "{\"x\"}"}}),
            json!({"metadata": {"name": "a", "annotations": {"k": "v\"}"}, "labels": {"a": "b"}}, "kind": "ConfigMap"}),
            json!({"metadata": {"name": "a", "annotations": {"hypernetes.io/tenant": "globex", "k": "v"}}}),
            json!({"metadata": {"name": "a", "annotations": null}}),
            json!({"metadata": {"name": "a", "annotations": 7}}),
        ];
        for object in objects {
            let key = Key::new(&resource.id, &"acme".parse().unwrap(), "default", "a").unwrap();
            let stored = stored_form::encode(&object).unwrap();
            let entry = stored_form::outside(key, &stored, Revision(3), Revision(98));
            for (shape, at) in [
                PLAIN,
                Shape { metadata: true, ..PLAIN },
                Shape { of_all: true, ..PLAIN },
                Shape { metadata: true, of_all: true },
            ]
            .into_iter()
            .flat_map(|shape| [(shape, 98), (shape, 1234)])
            {
                let mut out = BytesMut::new();
                shape.write(&mut out, &entry, Revision(at), resource).unwrap();
                let mut expected = BytesMut::new();
                shape.write_parsed(&mut expected, &entry, Revision(at)).unwrap();
                let [out, expected] = [out, expected].map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
                assert_eq!(out, expected);
                assert_eq!(expected["metadata"]["resourceVersion"], at.to_string());
                let named = out["metadata"]["annotations"]["hypernetes.io/tenant"] == "acme";
                assert_eq!(named, shape.of_all, "{out}");
            }
        }
    }
}
