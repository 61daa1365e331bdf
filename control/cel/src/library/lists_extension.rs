//! cel-go's extension of lists, in its third version.

use std::cmp::Ordering;

use super::Context;
use super::{LIST_A, Overload, Sig, global, int, list, member};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::parse::SORT_BY_KEYS;
use crate::value::Value;

const INTS: Sig = Sig::List(&Sig::Int);
const LISTS: Sig = Sig::List(&LIST_A);

macro_rules! sorts {
    ($($list:expr, $id:literal);+ $(;)?) => {
        &[$(
            member("sort", concat!("list_", $id, "_sort"), &[$list], $list, Cost::SelfCompare { of: 0, sorts: true }, sort),
            member(
                SORT_BY_KEYS,
                concat!("list_", $id, "_sortByAssociatedKeys"),
                &[LIST_A, $list],
                LIST_A,
                Cost::SelfCompare { of: 1, sorts: true },
                sort_by,
            ),
        )+]
    };
}

pub(super) const SORTS: &[Overload] = sorts![
    INTS, "int";
    Sig::List(&Sig::Uint), "uint";
    Sig::List(&Sig::Double), "double";
    Sig::List(&Sig::Bool), "bool";
    Sig::List(&Sig::Duration), "duration";
    Sig::List(&Sig::Timestamp), "timestamp";
    Sig::List(&Sig::String), "string";
    Sig::List(&Sig::Bytes), "bytes";
];

pub(super) const ROWS: &[Overload] = &[
    member("slice", "list_slice", &[LIST_A, Sig::Int, Sig::Int], LIST_A, Cost::Slice, slice),
    member("flatten", "list_flatten", &[LISTS], LIST_A, Cost::Flatten, flatten),
    member(
        "flatten",
        "list_flatten_int",
        &[Sig::List(&Sig::Dyn), Sig::Int],
        Sig::List(&Sig::Dyn),
        Cost::Flatten,
        flatten,
    ),
    global("lists.range", "lists_range", &[Sig::Int], INTS, Cost::Range, range),
    member("reverse", "list_reverse", &[LIST_A], LIST_A, Cost::Reverse, reverse),
    member("distinct", "list_distinct", &[LIST_A], LIST_A, Cost::SelfCompare { of: 0, sorts: false }, distinct),
];

fn slice<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, start, end) = (list(args, 0)?, int(args, 1)?, int(args, 2)?);
    let cannot = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return cannot("negative indexes not supported".to_owned());
    };
    if from > to {
        return cannot("start index must be less than or equal to end index".to_owned());
    }
    if to > of.len() {
        return cannot(format!("list is length {}", of.len()));
    }
    context.meter.grow_elements(to - from)?;
    (from..to).filter_map(|index| of.get(index)).collect::<Result<_>>().map(Value::list)
}

fn flatten<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let depth = if args.len() > 1 { int(args, 1)? } else { 1 };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = Vec::new();
    flatten_into(&mut flat, list(args, 0)?, depth, context)?;
    Ok(Value::list(flat))
}

fn flatten_into<'a>(
    flat: &mut Vec<Value<'a>>,
    list: &crate::value::List<'a>,
    depth: i64,
    context: &mut Context<'a>,
) -> Result<()> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(flat, &inner, depth - 1, context)?,
            other => {
                context.meter.grow_elements(1)?;
                flat.push(other);
            }
        }
        context.meter.step(1)?;
    }
    Ok(())
}

fn range<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let end = int(args, 0)?.max(0);
    context.meter.grow_elements(usize::try_from(end).unwrap_or(usize::MAX))?;
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn reverse<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let of = list(args, 0)?;
    context.meter.grow_elements(of.len())?;
    of.iter().rev().collect::<Result<_>>().map(Value::list)
}

fn distinct<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let mut found: Vec<Value<'a>> = Vec::new();
    'items: for item in list(args, 0)?.iter() {
        let item = item?;
        for known in &found {
            if known.equals(&item, &mut context.meter)? {
                continue 'items;
            }
        }
        context.meter.grow_elements(1)?;
        found.push(item);
    }
    Ok(Value::list(found))
}

fn sort<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let of = args[0].clone();
    sorted(context, &mut [of.clone(), of])
}

fn sort_by<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    sorted(context, args)
}

/// The elements of the first list in the order of the second one's.
fn sorted<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, keys) = (list(args, 0)?, list(args, 1)?);
    context.meter.grow_elements(2 * of.len())?;
    let mut pairs = keys.iter().zip(of.iter()).map(|(key, item)| Ok((key?, item?))).collect::<Result<Vec<_>>>()?;
    let mut wrong = None;
    pairs.sort_by(|(a, _), (b, _)| {
        // What cannot be compared is as if equal, so that the order stays one.
        if std::mem::discriminant(a) != std::mem::discriminant(b) {
            wrong.get_or_insert_with(|| EvalError::new("list elements must have the same type"));
            return Ordering::Equal;
        }
        a.compare(b).unwrap_or_else(|error| {
            wrong.get_or_insert(error);
            Ordering::Equal
        })
    });
    match wrong {
        Some(error) => Err(error),
        None => Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect())),
    }
}
