//! Operators: `a + b` is the function `_+_`.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Context;
use super::{LIST_A, MAP_AB, OPTIONAL_A, Overload, Sig, global, member};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Merges;
use crate::value::{Key, List, Map, Value};

const BOOL: Sig = Sig::Bool;
const INT: Sig = Sig::Int;
const UINT: Sig = Sig::Uint;
const DOUBLE: Sig = Sig::Double;
const STRING: Sig = Sig::String;
const BYTES: Sig = Sig::Bytes;
const DURATION: Sig = Sig::Duration;
const TIMESTAMP: Sig = Sig::Timestamp;

/// The rows of one ordering: of each type with itself, and of numbers of different types.
macro_rules! ordering {
    ($name:literal, $id:literal, $run:expr) => {
        [
            global($name, concat!($id, "_bool"), &[BOOL, BOOL], BOOL, Cost::One, $run),
            global($name, concat!($id, "_int64"), &[INT, INT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_int64_double"), &[INT, DOUBLE], BOOL, Cost::One, $run),
            global($name, concat!($id, "_int64_uint64"), &[INT, UINT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_uint64"), &[UINT, UINT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_uint64_double"), &[UINT, DOUBLE], BOOL, Cost::One, $run),
            global($name, concat!($id, "_uint64_int64"), &[UINT, INT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_double"), &[DOUBLE, DOUBLE], BOOL, Cost::One, $run),
            global($name, concat!($id, "_double_int64"), &[DOUBLE, INT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_double_uint64"), &[DOUBLE, UINT], BOOL, Cost::One, $run),
            global($name, concat!($id, "_string"), &[STRING, STRING], BOOL, Cost::Ordered, $run),
            global($name, concat!($id, "_bytes"), &[BYTES, BYTES], BOOL, Cost::Ordered, $run),
            global($name, concat!($id, "_timestamp"), &[TIMESTAMP, TIMESTAMP], BOOL, Cost::One, $run),
            global($name, concat!($id, "_duration"), &[DURATION, DURATION], BOOL, Cost::One, $run),
        ]
    };
}

pub(super) const LESS: [Overload; 14] = ordering!("_<_", "less", |_, args| ordered(args, |o| o.is_lt()));
pub(super) const LESS_EQUALS: [Overload; 14] = ordering!("_<=_", "less_equals", |_, args| ordered(args, |o| o.is_le()));
pub(super) const GREATER: [Overload; 14] = ordering!("_>_", "greater", |_, args| ordered(args, |o| o.is_gt()));
pub(super) const GREATER_EQUALS: [Overload; 14] =
    ordering!("_>=_", "greater_equals", |_, args| ordered(args, |o| o.is_ge()));

/// Those that the evaluator carries out itself are here for the checker and the estimate.
pub(super) const OTHERS: &[Overload] = &[
    global("_?_:_", "conditional", &[BOOL, Sig::A, Sig::A], Sig::A, Cost::One, elsewhere),
    global("_&&_", "logical_and", &[BOOL, BOOL], BOOL, Cost::One, elsewhere),
    global("_||_", "logical_or", &[BOOL, BOOL], BOOL, Cost::One, elsewhere),
    global("@not_strictly_false", "not_strictly_false", &[BOOL], BOOL, Cost::One, elsewhere),
    global("_[_]", "index_list", &[LIST_A, INT], Sig::A, Cost::One, elsewhere),
    global("_[_]", "index_map", &[MAP_AB, Sig::A], Sig::B, Cost::One, elsewhere),
    global("_[_]", "optional_list_index_int", &[Sig::Optional(&LIST_A), INT], OPTIONAL_A, Cost::One, elsewhere),
    global(
        "_[_]",
        "optional_map_index_value",
        &[Sig::Optional(&MAP_AB), Sig::A],
        Sig::Optional(&Sig::B),
        Cost::One,
        elsewhere,
    ),
    global("_[?_]", "list_optindex_optional_int", &[LIST_A, INT], OPTIONAL_A, Cost::One, elsewhere),
    global(
        "_[?_]",
        "optional_list_optindex_optional_int",
        &[Sig::Optional(&LIST_A), INT],
        OPTIONAL_A,
        Cost::One,
        elsewhere,
    ),
    global("_[?_]", "map_optindex_optional_value", &[MAP_AB, Sig::A], Sig::Optional(&Sig::B), Cost::One, elsewhere),
    global(
        "_[?_]",
        "optional_map_optindex_optional_value",
        &[Sig::Optional(&MAP_AB), Sig::A],
        Sig::Optional(&Sig::B),
        Cost::One,
        elsewhere,
    ),
    member("or", "optional_or_optional", &[OPTIONAL_A, OPTIONAL_A], OPTIONAL_A, Cost::One, elsewhere),
    member("orValue", "optional_orValue_value", &[OPTIONAL_A, Sig::A], Sig::A, Cost::One, elsewhere),
    global("!_", "logical_not", &[BOOL], BOOL, Cost::One, not),
    global("_==_", "equals", &[Sig::A, Sig::A], BOOL, Cost::Equality, |context, args| {
        Ok(Value::Bool(args[0].equals(&args[1], &mut context.meter)?))
    }),
    global("_!=_", "not_equals", &[Sig::A, Sig::A], BOOL, Cost::Equality, |context, args| {
        match args[0].equals(&args[1], &mut context.meter) {
            Err(error) if error.is_cancelled() => Err(error),
            // What cannot be compared is not equal.
            equal => Ok(Value::Bool(!matches!(equal, Ok(true)))),
        }
    }),
    global("_+_", "add_bytes", &[BYTES, BYTES], BYTES, Cost::AddText, add),
    global("_+_", "add_double", &[DOUBLE, DOUBLE], DOUBLE, Cost::One, add),
    global("_+_", "add_duration_duration", &[DURATION, DURATION], DURATION, Cost::One, add),
    global("_+_", "add_duration_timestamp", &[DURATION, TIMESTAMP], TIMESTAMP, Cost::One, add),
    global("_+_", "add_timestamp_duration", &[TIMESTAMP, DURATION], TIMESTAMP, Cost::One, add),
    global("_+_", "add_int64", &[INT, INT], INT, Cost::One, add),
    global("_+_", "add_list", &[LIST_A, LIST_A], LIST_A, Cost::AddList, add),
    global("_+_", "add_string", &[STRING, STRING], STRING, Cost::AddText, add),
    global("_+_", "add_uint64", &[UINT, UINT], UINT, Cost::One, add),
    global("_-_", "subtract_double", &[DOUBLE, DOUBLE], DOUBLE, Cost::One, subtract),
    global("_-_", "subtract_duration_duration", &[DURATION, DURATION], DURATION, Cost::One, subtract),
    global("_-_", "subtract_int64", &[INT, INT], INT, Cost::One, subtract),
    global("_-_", "subtract_timestamp_duration", &[TIMESTAMP, DURATION], TIMESTAMP, Cost::One, subtract),
    global("_-_", "subtract_timestamp_timestamp", &[TIMESTAMP, TIMESTAMP], DURATION, Cost::One, subtract),
    global("_-_", "subtract_uint64", &[UINT, UINT], UINT, Cost::One, subtract),
    global("_*_", "multiply_double", &[DOUBLE, DOUBLE], DOUBLE, Cost::One, multiply),
    global("_*_", "multiply_int64", &[INT, INT], INT, Cost::One, multiply),
    global("_*_", "multiply_uint64", &[UINT, UINT], UINT, Cost::One, multiply),
    global("_/_", "divide_double", &[DOUBLE, DOUBLE], DOUBLE, Cost::One, divide),
    global("_/_", "divide_int64", &[INT, INT], INT, Cost::One, divide),
    global("_/_", "divide_uint64", &[UINT, UINT], UINT, Cost::One, divide),
    global("_%_", "modulo_int64", &[INT, INT], INT, Cost::One, modulo),
    global("_%_", "modulo_uint64", &[UINT, UINT], UINT, Cost::One, modulo),
    global("-_", "negate_double", &[DOUBLE], DOUBLE, Cost::One, negate),
    global("-_", "negate_int64", &[INT], INT, Cost::One, negate),
    global("@in", "in_list", &[Sig::A, LIST_A], BOOL, Cost::InList, is_in),
    global("@in", "in_map", &[Sig::A, MAP_AB], BOOL, Cost::One, is_in),
    global("cel.@mapInsert", "@mapInsert_map_key_value", &[MAP_AB, Sig::A, Sig::B], MAP_AB, Cost::One, insert),
    global("cel.@mapInsert", "@mapInsert_map_map", &[MAP_AB, MAP_AB], MAP_AB, Cost::One, insert),
];

fn elsewhere<'a>(_: &mut Context<'a>, _: &mut [Value<'a>]) -> Result<Value<'a>> {
    Err(EvalError::NO_SUCH_OVERLOAD)
}

fn ordered<'a>(args: &[Value<'a>], decide: fn(Ordering) -> bool) -> Result<Value<'a>> {
    // Of NaN and a number neither is less.
    Ok(Value::Bool(decide(args[0].compare(&args[1])?)))
}

fn not<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(!*value)),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

const INTEGER_OVERFLOW: EvalError = EvalError::Value(std::borrow::Cow::Borrowed("integer overflow"));
const UNSIGNED_OVERFLOW: EvalError = EvalError::Value(std::borrow::Cow::Borrowed("unsigned integer overflow"));
const TIMESTAMP_OVERFLOW: EvalError = EvalError::Value(std::borrow::Cow::Borrowed("timestamp overflow"));

fn int<'a>(value: Option<i64>) -> Result<Value<'a>> {
    value.map(Value::Int).ok_or(INTEGER_OVERFLOW)
}

fn uint<'a>(value: Option<u64>) -> Result<Value<'a>> {
    value.map(Value::Uint).ok_or(UNSIGNED_OVERFLOW)
}

pub(super) fn add<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let [left, right] = args else { return Err(EvalError::NO_SUCH_OVERLOAD) };
    match (&*left, &*right) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            context.meter.grow(a.as_str().len() + b.as_str().len())?;
            Ok(Value::text([a.as_str(), b.as_str()].concat()))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            context.meter.grow(a.len() + b.len())?;
            Ok(Value::Bytes(Arc::from([&**a, &**b].concat())))
        }
        (Value::Duration(a), Value::Duration(b)) => a.checked_add(*b).map(Value::Duration).ok_or(INTEGER_OVERFLOW),
        (Value::Timestamp(at), Value::Duration(by)) | (Value::Duration(by), Value::Timestamp(at)) => {
            at.moved(i128::from(*by)).map(Value::Timestamp).ok_or(TIMESTAMP_OVERFLOW)
        }
        (Value::List(_), Value::List(_)) => {
            let Value::List(left) = std::mem::replace(left, Value::Null) else {
                return Err(EvalError::NO_SUCH_OVERLOAD);
            };
            let Value::List(right) = std::mem::replace(right, Value::Null) else {
                return Err(EvalError::NO_SUCH_OVERLOAD);
            };
            add_lists(context, left, &right).map(Value::List)
        }
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

/// A list that nobody else has is added to where it is, so that gathering costs no copies.
fn add_lists<'a>(context: &mut Context<'a>, left: List<'a>, right: &List<'a>) -> Result<List<'a>> {
    context.meter.grow_elements(right.len())?;
    let declared = left.declared();
    let mut values = match left {
        List::Made { values, .. } => match Arc::try_unwrap(values) {
            Ok(values) => values,
            Err(shared) => {
                context.meter.grow_elements(shared.len())?;
                (*shared).clone()
            }
        },
        List::Json { .. } => {
            context.meter.grow_elements(left.len())?;
            left.iter().collect::<Result<_>>()?
        }
    };
    match declared.map(|declared| &declared.merges) {
        None | Some(Merges::Atomic) => {
            for item in right.iter() {
                values.push(item?);
            }
        }
        Some(merges) => {
            for item in right.iter() {
                let item = item?;
                let so_far = List::Made { values: Arc::new(values), declared };
                let at = match merges {
                    Merges::Map(keys) => so_far.position_of_key(&item, keys, &mut context.meter)?,
                    _ => so_far.position(&item, &mut context.meter)?,
                };
                let List::Made { values: so_far, .. } = so_far else { return Err(EvalError::NO_SUCH_OVERLOAD) };
                values = Arc::try_unwrap(so_far).unwrap_or_else(|shared| (*shared).clone());
                match at {
                    Some(at) => values[at] = item,
                    None => values.push(item),
                }
            }
        }
    }
    Ok(List::Made { values: Arc::new(values), declared })
}

fn subtract<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_sub(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_sub(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(*a - *b)),
        [Value::Duration(a), Value::Duration(b)] => a.checked_sub(*b).map(Value::Duration).ok_or(INTEGER_OVERFLOW),
        [Value::Timestamp(at), Value::Duration(by)] => {
            at.moved(-i128::from(*by)).map(Value::Timestamp).ok_or(TIMESTAMP_OVERFLOW)
        }
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            i64::try_from(a.nanos() - b.nanos()).map(Value::Duration).map_err(|_| INTEGER_OVERFLOW)
        }
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn multiply<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(*a * *b)),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn divide<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("division by zero")),
        [Value::Int(a), Value::Int(b)] => int(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(*a / *b)),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn modulo<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => int(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_rem(*b)),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn negate<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(value)] => int(value.checked_neg()),
        [Value::Double(value)] => Ok(Value::Double(-*value)),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn is_in<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.position(value, &mut context.meter)?.is_some())),
        [value, Value::Map(map)] => Ok(Value::Bool(map.get(value).is_some())),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

/// Entries of one more map, or one entry, in a map that nobody else has.
fn insert<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let Some(Value::Map(Map::Made(into))) = args.first_mut().map(|into| std::mem::replace(into, Value::Null)) else {
        return Err(EvalError::NO_SUCH_OVERLOAD);
    };
    let mut map = match Arc::try_unwrap(into) {
        Ok(map) => map,
        Err(shared) => {
            context.meter.grow_elements(2 * shared.len())?;
            (*shared).clone()
        }
    };
    let mut put = |context: &mut Context<'a>, key: &Value<'a>, value: Value<'a>| {
        context.meter.grow_elements(2)?;
        let made = Key::of(key).ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
        if !map.insert(made, value) {
            return Err(EvalError::new(format!("insert failed: key {} already exists", shown(key))));
        }
        Ok(())
    };
    match &args[1..] {
        [Value::Map(more)] => {
            for key in more.keys() {
                let value = more.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD))?;
                put(context, &key, value)?;
            }
        }
        [key, value] => put(context, key, value.clone())?,
        _ => return Err(EvalError::NO_SUCH_OVERLOAD),
    }
    Ok(Value::Map(Map::Made(Arc::new(map))))
}

fn shown(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.as_str().to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        other => other.type_name().to_owned(),
    }
}
