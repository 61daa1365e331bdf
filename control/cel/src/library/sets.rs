//! Lists as sets.

use super::Context;
use super::{LIST_A, Overload, Sig, global, list};
use crate::cost::Cost;
use crate::errors::Result;
use crate::value::{List, Value};

const TWO: &[Sig] = &[LIST_A, LIST_A];

pub(super) const ROWS: &[Overload] = &[
    global("sets.contains", "list_sets_contains_list", TWO, Sig::Bool, Cost::Sets(1), |context, args| {
        contains(list(args, 0)?, list(args, 1)?, context).map(Value::Bool)
    }),
    global("sets.equivalent", "list_sets_equivalent_list", TWO, Sig::Bool, Cost::Sets(2), |context, args| {
        let (a, b) = (list(args, 0)?, list(args, 1)?);
        Ok(Value::Bool(contains(a, b, context)? && contains(b, a, context)?))
    }),
    global("sets.intersects", "list_sets_intersects_list", TWO, Sig::Bool, Cost::Sets(1), |context, args| {
        let (a, b) = (list(args, 0)?, list(args, 1)?);
        for item in a.iter() {
            if b.position(&item?, &mut context.meter)?.is_some() {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
];

fn contains<'a>(list: &List<'a>, part: &List<'a>, context: &mut Context<'a>) -> Result<bool> {
    for item in part.iter() {
        if list.position(&item?, &mut context.meter)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
