//! One version of one key: as an engine keeps it, and as the cache shows it to everybody.

use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;

use crate::{Key, METERED, Meter, Revision, Usage, forms::Forms};

/// What values are, which only who writes them knows. The same for all that opens one store.
#[derive(Debug, Clone, Copy)]
pub struct Values {
    /// What everybody is shown of a value that is stored, made once: by its revision, and whether its key is new then.
    pub show: fn(&Bytes, Revision, bool) -> Bytes,
    /// What is stored of what is shown: undoes `show`.
    pub keep: fn(&Bytes) -> Bytes,
    /// What each tenant's quota is compared with, besides objects and bytes.
    pub meter: Meter,
    /// What watches of a part of a resource find an entry by ([`Store::watch_of`](crate::Part::Indexed)).
    pub index: fn(&Entry) -> Option<&str>,
}

/// Values that are shown as they are stored.
impl Default for Values {
    fn default() -> Self {
        Self { show: |value, _, _| value.clone(), keep: Bytes::clone, meter: |_, _| [0; METERED], index: |_| None }
    }
}

/// What an engine keeps of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub key: Key,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// What the cache holds of one version. Cloning shares it, and all that was ever made of it.
#[derive(Clone)]
pub struct Entry(Arc<Version>);

/// What is in an [`Entry`].
pub struct Version {
    pub key: Key,
    /// As it is shown ([`Values::show`]).
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub(crate) usage: Usage,
    forms: Forms,
}

impl Entry {
    pub(crate) fn of(record: Record, values: &Values) -> Self {
        let usage = Usage::of(&record.key, &record.value, values.meter);
        let Record { key, value, create_revision, mod_revision } = record;
        let value = (values.show)(&value, mod_revision, create_revision == mod_revision);
        Self::new(key, value, create_revision, mod_revision, usage)
    }

    /// One that is in no store: of a write that was not carried out, or that somebody else has written over since.
    pub fn outside(key: Key, value: Bytes, create_revision: Revision, mod_revision: Revision) -> Self {
        Self::new(key, value, create_revision, mod_revision, Usage::default())
    }

    /// As an engine keeps it.
    pub(crate) fn record(&self, values: &Values) -> Record {
        let Version { key, value, create_revision, mod_revision, .. } = &*self.0;
        let (key, value) = (key.clone(), (values.keep)(value));
        Record { key, value, create_revision: *create_revision, mod_revision: *mod_revision }
    }

    fn new(key: Key, value: Bytes, create_revision: Revision, mod_revision: Revision, usage: Usage) -> Self {
        Self(Arc::new(Version { key, value, create_revision, mod_revision, usage, forms: Forms::default() }))
    }
}

impl Version {
    /// What is made of it when it is first asked for, and shared from then on. There is one of each type.
    pub fn form<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> &T {
        self.forms.get_or_make(make)
    }
}

impl Deref for Entry {
    type Target = Version;

    fn deref(&self) -> &Version {
        &self.0
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let of = |entry: &Self| (entry.create_revision, entry.mod_revision);
        Arc::ptr_eq(&self.0, &other.0) || (of(self), &self.key, &self.value) == (of(other), &other.key, &other.value)
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {:?}", self.key, self.mod_revision, self.value)
    }
}

/// One committed change. All changes of one transaction carry the same revision.
pub struct Change {
    pub revision: Revision,
    pub key: Key,
    /// The entry after the change; none when deleted.
    pub now: Option<Entry>,
    /// The entry before the change; none when created.
    pub before: Option<Entry>,
    forms: Forms,
}

impl Change {
    pub(crate) fn new(revision: Revision, key: Key, now: Option<Entry>, before: Option<Entry>) -> Self {
        Self { revision, key, now, before, forms: Forms::default() }
    }

    /// What is made of it when the first of those that it is told to asks, and shared by them.
    pub fn form<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> &T {
        self.forms.get_or_make(make)
    }

    /// The entries that it is about: one or two.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        [&self.before, &self.now].into_iter().flatten()
    }
}

/// Without what was made of it: what is kept of the past is no larger for how many have watched.
impl Clone for Change {
    fn clone(&self) -> Self {
        Self::new(self.revision, self.key.clone(), self.now.clone(), self.before.clone())
    }
}

impl PartialEq for Change {
    fn eq(&self, other: &Self) -> bool {
        let of = |change: &Self| (change.revision, change.key.clone());
        of(self) == of(other) && self.now == other.now && self.before == other.before
    }
}

impl Eq for Change {}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {:?} -> {:?}", self.key, self.revision, self.before, self.now)
    }
}
