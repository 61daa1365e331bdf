//! Objects that are parsed for how they are shown: in a version that is not the stored one, or without what is the operator's
//! alone. Each is made once of a version of an object, when somebody first asks for it so, and a watch's line once of a change; all who
//! ask for the same share it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_kinds::Served;
use hypernetes_store::{Change, Entry, Revision};
use parking_lot::Mutex;

use crate::{
    Call,
    authorization::nodes,
    made::{Made, count},
    read::{
        form::Form,
        shape::{annotate, bare_metadata},
    },
    request::Scope,
    stored_form::{self, Event},
};

/// What is the same for all who ask for an object in this way.
#[derive(Debug, Clone)]
pub struct Conversion {
    served: Arc<Served>,
    /// Bare metadata.
    metadata: bool,
    /// With the annotation that says whose it is.
    of_all: bool,
    /// Without what is the operator's alone.
    projected: bool,
}

impl PartialEq for Conversion {
    fn eq(&self, other: &Self) -> bool {
        self.way() == other.way()
    }
}

/// By what a conversion is known: the number of what is served, and how it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way(u64, [bool; 3]);

/// So many are kept: there are as few as there are versions and ways, but for definitions that change.
const MOST_KEPT: usize = 8;

/// What was made so far.
pub struct Kept<K>(Mutex<Vec<(K, Result<Bytes, ApiError>)>>);

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq> Kept<K> {
    pub fn get_or_make(&self, key: K, make: impl FnOnce() -> Result<Bytes, ApiError>) -> Result<Bytes, ApiError> {
        let mut kept = self.0.lock();
        if let Some((_, made)) = kept.iter().find(|(have, _)| *have == key) {
            return made.clone();
        }
        let made = make();
        if kept.len() >= MOST_KEPT {
            drop(kept.remove(0));
        }
        kept.push((key, made.clone()));
        made
    }
}

type Objects = Kept<Way>;
type Lines = Kept<(Way, Event)>;

impl Conversion {
    /// None: nothing of the object has to be parsed for it.
    pub fn of(call: &Call, form: Form) -> Option<Self> {
        let (metadata, projected) = (form == Form::Metadata, nodes::is_projected(call));
        let needed = projected || !metadata && !call.served.is_stored();
        needed.then(|| Self { served: call.served.clone(), metadata, of_all: call.scope == Scope::All, projected })
    }

    fn way(&self) -> Way {
        Way(self.served.number, [self.metadata, self.of_all, self.projected])
    }

    /// The object, with the version that it has.
    ///
    /// # Errors
    /// When the store holds something else than objects.
    pub fn object(&self, entry: &Entry) -> Result<Bytes, ApiError> {
        entry.form(Objects::default).get_or_make(self.way(), || {
            count(Made::Converted);
            let mut out = BytesMut::new();
            self.convert(&mut out, entry, entry.mod_revision)?;
            Ok(Bytes::copy_from_slice(&out))
        })
    }

    /// Appends the object; `at` is the version that it says it has.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn write(&self, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        if at != entry.mod_revision {
            return self.convert(out, entry, at);
        }
        out.put_slice(&self.object(entry)?);
        Ok(())
    }

    /// A watch's line.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn line(&self, event: Event, entry: &Entry, change: &Change) -> Result<Bytes, ApiError> {
        change.form(Lines::default).get_or_make((self.way(), event), || {
            count(Made::Line);
            event.line(entry.value.len() + 160, |out| self.convert(out, entry, change.revision))
        })
    }

    fn convert(&self, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        let mut object = stored_form::decode_at(entry, at)?;
        if self.projected {
            nodes::project(&mut object);
        }
        if self.of_all {
            annotate(&entry.key, &mut object);
        }
        let shown = if self.metadata { bare_metadata(&object) } else { self.served.from_stored(object) };
        serde_json::to_writer(out.writer(), &shown).map_err(|error| ApiError::internal(error.to_string()))
    }
}
