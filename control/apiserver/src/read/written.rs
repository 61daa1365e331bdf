//! How what was asked for is written, whatever form it is wanted in.

use bytes::{BufMut, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Revision};
use serde_json::json;

use crate::{
    Call,
    read::{
        form::Form,
        rows::Rows,
        shape::{self, Shape},
    },
};

/// How the objects of one call are written.
#[derive(Clone, Copy)]
pub enum Written {
    Rows(Rows),
    /// In a shape, or, without one, parsed and converted.
    Objects(Option<Shape>),
}

impl Written {
    pub fn of(call: &Call, form: Form) -> Self {
        match form {
            Form::Table(include) => Self::Rows(Rows::of(call, include)),
            Form::Object | Form::Metadata => Self::Objects(Shape::of(call, form)),
        }
    }

    /// The shape that all readers of the same kind share.
    pub fn shape(self) -> Option<Shape> {
        match self {
            Self::Objects(shape) => shape,
            Self::Rows(_) => None,
        }
    }

    /// Appends an entry as one of a list's; `at` is the version that it says it has.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn write(self, call: &Call, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        match self {
            Self::Rows(rows) => rows.write(call, out, entry, at),
            Self::Objects(shape) => shape::write(shape, call, out, entry, at),
        }
    }

    /// Appends an entry as an answer or an event of its own: a row is in a table then. `columns`: whether that says what its columns are;
    /// of a watch's tables only the first does.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn write_alone(
        self,
        call: &Call,
        out: &mut BytesMut,
        entry: &Entry,
        at: Revision,
        columns: bool,
    ) -> Result<(), ApiError> {
        let Self::Rows(rows) = self else { return self.write(call, out, entry, at) };
        let columns = if columns { call.resource.column_definitions() } else { json!([]) };
        let head = format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{at}"}},"columnDefinitions":{columns},"rows":["#
        );
        out.put_slice(head.as_bytes());
        rows.write(call, out, entry, at)?;
        out.put_slice(b"]}");
        Ok(())
    }
}
