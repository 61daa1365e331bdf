//! Rows of tables: their cells are made of an object once, when first somebody asks for its row, and are shared. Ages are as of when a row is
//! shown.

use bytes::{BufMut, BytesMut};
use hypernetes_api::ApiError;
use hypernetes_kinds::{Cells, IncludeObject};
use hypernetes_store::{Entry, Revision};

use crate::{
    Call,
    authorization::nodes,
    made::{Made, count},
    read::{form::Form, look::Look},
    stored_form,
};

/// The cells of an object, as whoever sees all of it is shown them, or, `PROJECTED`, whoever does not.
struct Row<const PROJECTED: bool> {
    /// Whose columns they are ([`hypernetes_kinds::Resource::number`]).
    resource: u64,
    /// None: it is no object.
    cells: Option<Cells>,
}

/// How the rows of an answer are.
pub struct Rows {
    /// Their objects are shown without what is the operator's alone.
    projected: bool,
    /// How their objects look, where these are in them.
    object: Option<Look>,
}

impl Rows {
    pub fn of(call: &Call, include: IncludeObject) -> Self {
        let object = match include {
            IncludeObject::None => None,
            IncludeObject::Metadata => Some(Look::of(call, Form::Metadata)),
            IncludeObject::Object => Some(Look::of(call, Form::Object)),
        };
        Self { projected: nodes::is_projected(call), object }
    }

    /// Appends an entry as a row; `at` is the version that its object says it has.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn write(&self, call: &Call, out: &mut BytesMut, entry: &Entry, at: Revision) -> Result<(), ApiError> {
        out.put_slice(b"{\"cells\":");
        if self.projected {
            write_cells::<true>(call, out, entry)?;
        } else {
            write_cells::<false>(call, out, entry)?;
        }
        if let Some(look) = &self.object {
            out.put_slice(b",\"object\":");
            look.write(out, entry, at, &call.resource)?;
        }
        out.put_u8(b'}');
        Ok(())
    }
}

fn make(call: &Call, entry: &Entry, projected: bool) -> Result<Cells, ApiError> {
    count(Made::Cells);
    let mut object = stored_form::decode(entry)?;
    if projected {
        nodes::project(&mut object);
    }
    Ok(call.resource.cells(&object))
}

fn write_cells<const PROJECTED: bool>(call: &Call, out: &mut BytesMut, entry: &Entry) -> Result<(), ApiError> {
    let now = jiff::Timestamp::now();
    let put = |piece: &str| out.put_slice(piece.as_bytes());
    let row =
        entry.form(|| Row::<PROJECTED> { resource: call.resource.number, cells: make(call, entry, PROJECTED).ok() });
    match &row.cells {
        Some(cells) if row.resource == call.resource.number => cells.show(now, put),
        // The resource has other columns by now; or there is an error to be told.
        _ => make(call, entry, PROJECTED)?.show(now, put),
    }
    Ok(())
}
