//! Named formats.

use super::{Overload, Sig, global, member, opaque, text};
use crate::cost::Cost;
use crate::errors::EvalError;
use crate::types::Opaque;
use crate::value::format as formats;
use crate::value::{OpaqueValue, Value};

const FORMAT: Sig = Sig::Opaque(Opaque::Format);

macro_rules! named {
    ($id:literal, $row:ident) => {
        global($id, $id, &[], FORMAT, Cost::One, |_, _| Ok(Value::Opaque(OpaqueValue::Format(&formats::$row))))
    };
}

pub(super) const ROWS: &[Overload] = &[
    named!("format.dns1123Label", DNS_1123_LABEL),
    named!("format.dns1123Subdomain", DNS_1123_SUBDOMAIN),
    named!("format.dns1035Label", DNS_1035_LABEL),
    named!("format.qualifiedName", QUALIFIED_NAME),
    named!("format.dns1123LabelPrefix", DNS_1123_LABEL_PREFIX),
    named!("format.dns1123SubdomainPrefix", DNS_1123_SUBDOMAIN_PREFIX),
    named!("format.dns1035LabelPrefix", DNS_1035_LABEL_PREFIX),
    named!("format.labelValue", LABEL_VALUE),
    named!("format.uri", URI),
    named!("format.uuid", UUID),
    named!("format.byte", BYTE),
    named!("format.date", DATE),
    named!("format.datetime", DATETIME),
    global("format.named", "format-named", &[Sig::String], Sig::Optional(&FORMAT), Cost::One, |_, args| {
        let name = text(args, 0)?;
        let found = formats::FORMATS.iter().find(|format| format.name == name);
        Ok(Value::optional(found.map(|format| Value::Opaque(OpaqueValue::Format(format)))))
    }),
    member(
        "validate",
        "format-validate",
        &[FORMAT, Sig::String],
        Sig::Optional(&Sig::List(&Sig::String)),
        Cost::Validate,
        |context, args| {
            let OpaqueValue::Format(format) = opaque(args, 0)? else { return Err(EvalError::NO_SUCH_OVERLOAD) };
            let text = text(args, 1)?;
            context.meter.grow(text.len())?;
            let wrong = (format.check)(text);
            Ok(Value::optional((!wrong.is_empty()).then(|| Value::list(wrong.into_iter().map(Value::text).collect()))))
        },
    ),
];
