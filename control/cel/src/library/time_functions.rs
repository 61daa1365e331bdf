//! Parts of times and durations.

use jiff::civil::DateTime;

use super::{Overload, Sig, member, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::Value;

/// A part of a time, in UTC and in a zone.
macro_rules! part {
    ($name:literal, $id:literal, $part:expr) => {
        [
            member($name, $id, &[Sig::Timestamp], Sig::Int, Cost::One, |_, args| part(args, $part)),
            member($name, concat!($id, "_with_tz"), &[Sig::Timestamp, Sig::String], Sig::Int, Cost::One, |_, args| {
                part(args, $part)
            }),
        ]
    };
}

/// A part of a duration.
macro_rules! of_duration {
    ($name:literal, $id:literal, $nanos:expr, $within:expr) => {
        member($name, $id, &[Sig::Duration], Sig::Int, Cost::One, |_, args| match args {
            [Value::Duration(nanos)] => Ok(Value::Int(*nanos / $nanos % $within)),
            _ => Err(EvalError::NO_SUCH_OVERLOAD),
        })
    };
}

const YEAR: [Overload; 2] = part!("getFullYear", "timestamp_to_year", |at| i64::from(at.year()));
const MONTH: [Overload; 2] = part!("getMonth", "timestamp_to_month", |at| i64::from(at.month()) - 1);
const DAY_OF_YEAR: [Overload; 2] =
    part!("getDayOfYear", "timestamp_to_day_of_year", |at| i64::from(at.day_of_year()) - 1);
const DAY_OF_MONTH: [Overload; 2] = part!("getDayOfMonth", "timestamp_to_day_of_month", |at| i64::from(at.day()) - 1);
const DATE: [Overload; 2] = part!("getDate", "timestamp_to_day_of_month_1_based", |at| i64::from(at.day()));
const DAY_OF_WEEK: [Overload; 2] =
    part!("getDayOfWeek", "timestamp_to_day_of_week", |at| { i64::from(at.weekday().to_sunday_zero_offset()) });
const HOURS: [Overload; 2] = part!("getHours", "timestamp_to_hours", |at| i64::from(at.hour()));
const MINUTES: [Overload; 2] = part!("getMinutes", "timestamp_to_minutes", |at| i64::from(at.minute()));
const SECONDS: [Overload; 2] = part!("getSeconds", "timestamp_to_seconds", |at| i64::from(at.second()));
const MILLISECONDS: [Overload; 2] =
    part!("getMilliseconds", "timestamp_to_milliseconds", |at| i64::from(at.millisecond()));

const DURATION: &[Overload] = &[
    of_duration!("getHours", "duration_to_hours", 3_600_000_000_000, i64::MAX),
    of_duration!("getMinutes", "duration_to_minutes", 60_000_000_000, i64::MAX),
    of_duration!("getSeconds", "duration_to_seconds", 1_000_000_000, i64::MAX),
    of_duration!("getMilliseconds", "duration_to_milliseconds", 1_000_000, i64::MAX),
];

pub(super) static TABLES: &[&[Overload]] = &[
    &YEAR,
    &MONTH,
    &DAY_OF_YEAR,
    &DAY_OF_MONTH,
    &DATE,
    &DAY_OF_WEEK,
    &HOURS,
    &MINUTES,
    &SECONDS,
    &MILLISECONDS,
    DURATION,
];

fn part<'a>(args: &[Value<'a>], part: fn(DateTime) -> i64) -> Result<Value<'a>> {
    let Some(Value::Timestamp(at)) = args.first() else { return Err(EvalError::NO_SUCH_OVERLOAD) };
    let zone = if args.len() > 1 { text(args, 1)? } else { "" };
    Ok(Value::Int(part(at.in_zone(zone).map_err(EvalError::new)?)))
}
