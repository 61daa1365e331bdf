//! How the objects of one call look, and who makes them so.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_kinds::Resource;
use hypernetes_store::{Change, Entry, Revision};

use crate::{
    Call,
    read::{conversion::Conversion, form::Form, shape::Shape},
    stored_form::{self, Event},
};

#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Cut from the bytes of the cache.
    Cut(Shape),
    /// Parsed.
    Converted(Conversion),
}

impl Look {
    /// Of objects, or of their bare metadata.
    pub fn of(call: &Call, form: Form) -> Self {
        match Conversion::of(call, form) {
            Some(conversion) => Self::Converted(conversion),
            None => Self::Cut(Shape::of(call, form)),
        }
    }

    /// Whoever has the objects of the cache themselves sees no more.
    pub fn hides_nothing(&self) -> bool {
        match self {
            Self::Cut(shape) => shape.hides_nothing(),
            Self::Converted(_) => false,
        }
    }

    /// The object with the version that it has, where all readers share one copy of it.
    ///
    /// # Errors
    /// When the store holds something else than objects.
    pub fn shared(&self, entry: &Entry) -> Result<Option<Bytes>, ApiError> {
        match self {
            Self::Cut(shape) => Ok(shape.is_whole().then(|| stored_form::shared(entry))),
            Self::Converted(conversion) => conversion.object(entry).map(Some),
        }
    }

    /// Appends the object; `at` is the version that it says it has.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub fn write(
        &self,
        out: &mut BytesMut,
        entry: &Entry,
        at: Revision,
        resource: &Arc<Resource>,
    ) -> Result<(), ApiError> {
        match self {
            Self::Cut(shape) => shape.write(out, entry, at, resource),
            Self::Converted(conversion) => conversion.write(out, entry, at),
        }
    }

    /// A watch's line, which is made once for all whom the change is told to.
    ///
    /// # Errors
    /// As [`Self::shared`].
    pub fn line(
        &self,
        event: Event,
        entry: &Entry,
        change: &Change,
        resource: &Arc<Resource>,
    ) -> Result<Bytes, ApiError> {
        match self {
            Self::Cut(shape) => shape.line(event, entry, change, resource),
            Self::Converted(conversion) => conversion.line(event, entry, change),
        }
    }
}
