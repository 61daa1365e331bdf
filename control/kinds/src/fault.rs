//! What is not as a definition's schema says, as an error of a field.

use hypernetes_schema::structural::{Fault, FaultKind};

use crate::field::{self, ErrorKind, FieldError};

/// What upstream says where something is wrong with an object as a whole.
pub(crate) const WHOLE: &str = "<nil>";

/// The error of a fault.
pub(crate) fn of_schema(fault: Fault) -> FieldError {
    let Fault { kind, path, value, detail } = fault;
    let shown = field::shown(&value);
    let (kind, value, detail) = match kind {
        FaultKind::Required => (ErrorKind::Required, String::new(), detail),
        FaultKind::TooLong(most) => (ErrorKind::TooLong, String::new(), format!("may not be more than {most} bytes")),
        FaultKind::TooMany(there, most) => {
            (ErrorKind::TooMany, there.to_string(), format!("must have at most {most} items"))
        }
        FaultKind::NotSupported(known) => {
            let known: Vec<String> = known.iter().map(|word| field::quote(word)).collect();
            (ErrorKind::NotSupported, shown, format!("supported values: {}", known.join(", ")))
        }
        FaultKind::TypeInvalid => (ErrorKind::TypeInvalid, shown, detail),
        FaultKind::Invalid => (ErrorKind::Invalid, shown, detail),
        FaultKind::Duplicate => (ErrorKind::Duplicate, shown, detail),
    };
    let path = path.unwrap_or_else(|| WHOLE.to_owned());
    FieldError { kind, path, value, detail, of_change: false }
}
