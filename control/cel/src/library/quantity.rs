//! Quantities of resources.

use std::cmp::Ordering;
use std::sync::Arc;

use hypernetes_schema::quantity::Quantity;

use super::{Overload, Sig, global, int, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::{OpaqueValue, Value};

const QUANTITY: Sig = Sig::Opaque(Opaque::Quantity);
const TWO: &[Sig] = &[QUANTITY, QUANTITY];

pub(super) const ROWS: &[Overload] = &[
    global("quantity", "string_to_quantity", &[Sig::String], QUANTITY, Cost::Parse(1), |_, args| {
        Quantity::parse(text(args, 0)?).map(made).map_err(|error| EvalError::new(error.to_string()))
    }),
    global("isQuantity", "is_quantity_string", &[Sig::String], Sig::Bool, Cost::Parse(1), |_, args| {
        Ok(Value::Bool(Quantity::parse(text(args, 0)?).is_ok()))
    }),
    global("sign", "quantity_sign", &[QUANTITY], Sig::Int, Cost::One, |_, args| {
        let quantity = of(args, 0)?;
        Ok(Value::Int(if quantity.is_zero() {
            0
        } else if quantity.is_negative() {
            -1
        } else {
            1
        }))
    }),
    member("isGreaterThan", "quantity_is_greater_than", TWO, Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(of(args, 0)? > of(args, 1)?))
    }),
    member("isLessThan", "quantity_is_less_than", TWO, Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(of(args, 0)? < of(args, 1)?))
    }),
    member("compareTo", "quantity_compare_to", TWO, Sig::Int, Cost::One, |_, args| {
        Ok(Value::Int(match of(args, 0)?.cmp(&of(args, 1)?) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }))
    }),
    member("asApproximateFloat", "quantity_get_float", &[QUANTITY], Sig::Double, Cost::One, |_, args| {
        Ok(Value::Double(of(args, 0)?.approximate()))
    }),
    member("asInteger", "quantity_get_int", &[QUANTITY], Sig::Int, Cost::One, |_, args| {
        let quantity = of(args, 0)?;
        if !quantity.is_integer() {
            return Err(EvalError::new("cannot convert value to integer"));
        }
        Ok(Value::Int(quantity.value()))
    }),
    member("isInteger", "quantity_is_integer", &[QUANTITY], Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(of(args, 0)?.is_integer()))
    }),
    member("add", "quantity_add", TWO, QUANTITY, Cost::One, |_, args| Ok(made(of(args, 0)? + of(args, 1)?))),
    member("add", "quantity_add_int", &[QUANTITY, Sig::Int], QUANTITY, Cost::One, |_, args| {
        Ok(made(of(args, 0)? + Quantity::units(int(args, 1)?)))
    }),
    member("sub", "quantity_sub", TWO, QUANTITY, Cost::One, |_, args| Ok(made(of(args, 0)? - of(args, 1)?))),
    member("sub", "quantity_sub_int", &[QUANTITY, Sig::Int], QUANTITY, Cost::One, |_, args| {
        Ok(made(of(args, 0)? - Quantity::units(int(args, 1)?)))
    }),
];

fn made<'a>(quantity: Quantity) -> Value<'a> {
    Value::Opaque(OpaqueValue::Quantity(Arc::new(quantity)))
}

fn of(args: &[Value<'_>], index: usize) -> Result<Quantity> {
    match opaque(args, index)? {
        OpaqueValue::Quantity(quantity) => Ok(**quantity),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}
