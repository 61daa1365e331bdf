//! Values that may be absent.

use super::Context;
use super::{LIST_A, OPTIONAL_A, Overload, Sig, global, list, member};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::Value;

const OPTIONALS: Sig = Sig::List(&OPTIONAL_A);

pub(super) const ROWS: &[Overload] = &[
    global("optional.of", "optional_of", &[Sig::A], OPTIONAL_A, Cost::One, |_, args| Ok(Value::some(args[0].clone()))),
    global("optional.ofNonZeroValue", "optional_ofNonZeroValue", &[Sig::A], OPTIONAL_A, Cost::One, |_, args| {
        Ok(if args[0].is_zero() { Value::Optional(None) } else { Value::some(args[0].clone()) })
    }),
    global("optional.none", "optional_none", &[], OPTIONAL_A, Cost::One, |_, _| Ok(Value::Optional(None))),
    member("value", "optional_value", &[OPTIONAL_A], Sig::A, Cost::One, |_, args| match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        _ => Err(EvalError::new("optional.none() dereference")),
    }),
    member("hasValue", "optional_hasValue", &[OPTIONAL_A], Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(matches!(args, [Value::Optional(Some(_))])))
    }),
    member("first", "list_first", &[LIST_A], OPTIONAL_A, Cost::One, |_, args| {
        list(args, 0)?.get(0).transpose().map(Value::optional)
    }),
    member("last", "list_last", &[LIST_A], OPTIONAL_A, Cost::One, |_, args| {
        let list = list(args, 0)?;
        list.get(list.len().wrapping_sub(1)).transpose().map(Value::optional)
    }),
    global("optional.unwrap", "optional_unwrap", &[OPTIONALS], LIST_A, Cost::One, unwrap),
    member("unwrapOpt", "optional_unwrapOpt", &[OPTIONALS], LIST_A, Cost::One, unwrap),
];

fn unwrap<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let mut values = Vec::new();
    for item in list(args, 0)?.iter() {
        match item? {
            Value::Optional(Some(value)) => {
                context.meter.grow_elements(1)?;
                values.push((*value).clone());
            }
            Value::Optional(None) => {}
            other => return Err(EvalError::new(format!("value {} is not optional", other.type_name()))),
        }
    }
    Ok(Value::list(values))
}
