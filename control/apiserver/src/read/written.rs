//! How what was asked for is written, whatever form it is wanted in.

use bytes::{BufMut, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_store::{Entry, Revision};
use serde_json::json;

use crate::{
    Call,
    read::{form::Form, look::Look, rows::Rows},
};

/// How the objects of one call are written.
pub enum Written {
    Rows(Rows),
    Objects(Look),
}

impl Written {
    pub fn of(call: &Call, form: Form) -> Self {
        match form {
            Form::Table(include) => Self::Rows(Rows::of(call, include)),
            Form::Object | Form::Metadata => Self::Objects(Look::of(call, form)),
        }
    }

    /// How objects look, where they are not in rows.
    pub fn look(&self) -> Option<&Look> {
        match self {
            Self::Objects(look) => Some(look),
            Self::Rows(_) => None,
        }
    }

    /// Appends an entry as one of a list's; `at` is the version that it says it has.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn write(&self, call: &Call, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        match self {
            Self::Rows(rows) => rows.write(call, out, entry, at),
            Self::Objects(look) => look.write(out, entry, at, &call.resource),
        }
    }

    /// Appends an entry as an answer or an event of its own: a row is in a table then. `columns`: whether that says what its columns are;
    /// of a watch's tables only the first does.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn write_alone(
        &self,
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
