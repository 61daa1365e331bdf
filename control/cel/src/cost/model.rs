//! What a call costs: in fact, by its arguments' sizes, and estimated, by what they can be.

use super::size::{CostEstimate, SizeEstimate, scaled};
use super::{CHARACTER, LIST, REGEX_CHARACTER};
use crate::errors::Result;
use crate::meter::Meter;
use crate::types::{Opaque, Type};
use crate::value::{List, OpaqueValue, Value};

/// How a row's cost is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cost {
    One,
    /// Always the same.
    Fixed(u64),
    /// A selector of an authorizer's check, which is parsed.
    Selector,
    /// Elements are compared: `min`, `isSorted`, `indexOf`.
    Elements,
    /// The first argument is gone through so many times; the result is as large.
    Through(u8),
    /// The same, for a result that has no size.
    Parse(u8),
    Replace,
    Split,
    Join,
    Find,
    ContainsIp {
        text: bool,
    },
    ContainsCidr {
        text: bool,
    },
    Validate,
    /// `startsWith`, `endsWith`.
    Affix,
    TextToBytes,
    BytesToText,
    Quote,
    Format,
    InList,
    /// `<` and its like of strings and bytes.
    Ordered,
    /// `==`, `!=`.
    Equality,
    AddText,
    AddList,
    Matches,
    ContainsText,
    /// Each element of one list is looked for in the other, so many times.
    Sets(u8),
    Slice,
    Range,
    Reverse,
    Flatten,
    /// `distinct` and `sort`: elements are compared with each other; of the argument at that index.
    SelfCompare {
        of: usize,
        sorts: bool,
    },
}

/// What the estimate knows of one argument.
#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub ty: Type,
    pub size: Option<SizeEstimate>,
    /// Of lists: what elements are, and how large.
    pub element: Option<(Type, SizeEstimate)>,
    pub literal: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct CallArguments {
    pub target: Option<Argument>,
    pub args: Vec<Argument>,
}

/// A call's cost without its arguments', and its result's size where that is known.
pub(crate) struct CostOf {
    pub cost: CostEstimate,
    pub size: Option<SizeEstimate>,
}

impl Argument {
    fn size(&self) -> SizeEstimate {
        self.size.unwrap_or(SizeEstimate::UNKNOWN)
    }
}

fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(value)) => size(value),
        _ => value.size().unwrap_or(1),
    }
}

/// The octets of an address, as an estimate knows them.
const OCTETS: SizeEstimate = SizeEstimate { min: 4, max: 16 };
/// Characters of a regular expression behind a named format, and of a format's name: upstream's `MaxNameFormatRegexSize`, `MaxFormatSize`.
const FORMAT_REGEX: f64 = 128.0;
const FORMAT_SIZE: u64 = 64;

impl Cost {
    /// Whether the cost is the overload's, not the function's: unknown where several may be meant.
    fn is_of_overload(self) -> bool {
        !matches!(
            self,
            Self::Fixed(_)
                | Self::Selector
                | Self::Elements
                | Self::Through(_)
                | Self::Parse(_)
                | Self::Replace
                | Self::Split
                | Self::Join
                | Self::Find
                | Self::Validate
                | Self::Equality
        )
    }

    /// What a call has cost. `known` is whether the checker knew which overload is meant.
    pub fn actual<'a>(self, known: bool, args: &[Value<'a>], result: &Value<'a>, meter: &mut Meter) -> Result<u64> {
        let of = |index: usize| args.get(index).map_or(1, size);
        // A negative depth wraps around, as it does upstream.
        let list_call = |factor: f64, size: u64| ((size as f64 * factor) as i64 as u64).wrapping_add(1 + LIST);
        if !known && self.is_of_overload() {
            return Ok(match self {
                Self::ContainsIp { .. } => scaled(2 * of(0), CHARACTER),
                Self::ContainsCidr { .. } => scaled(2 * of(0), CHARACTER) + scaled(of(0), CHARACTER) + 1,
                _ => 1,
            });
        }
        Ok(match self {
            Self::One => 1,
            Self::Fixed(cost) => cost,
            Self::Selector => {
                let length = of(1);
                LIST + scaled(length, CHARACTER) + scaled(scaled(length, 0.5), 50.0)
            }
            Self::Elements => match args.first() {
                Some(value) => traversal(value, meter)?,
                None => 0,
            },
            Self::Through(times) | Self::Parse(times) => scaled(of(0), f64::from(times) * CHARACTER),
            Self::Replace | Self::Split => scaled(of(0), 2.0 * CHARACTER),
            Self::Join => scaled(size(result), 2.0 * CHARACTER),
            Self::Find | Self::Matches => regex(of(0), of(1)),
            Self::ContainsIp { text } => scaled(2 * of(0), CHARACTER) + if text { scaled(of(1), CHARACTER) } else { 0 },
            Self::ContainsCidr { text } => {
                let own = scaled(2 * of(0), CHARACTER) + scaled(of(0), CHARACTER) + 1;
                own + if text { scaled(of(1), CHARACTER) } else { 0 }
            }
            Self::Validate => match args.first() {
                Some(Value::Opaque(OpaqueValue::Format(format))) => regex(of(1), format.regex_size),
                _ => 1,
            },
            Self::Affix | Self::TextToBytes | Self::BytesToText | Self::Quote | Self::Format => {
                scaled(of(0), CHARACTER)
            }
            Self::InList => of(1),
            Self::Equality if matches!(args.first(), Some(Value::Opaque(_))) => 1,
            Self::Ordered | Self::Equality => scaled(of(0).min(of(1)), CHARACTER),
            Self::AddText => scaled(of(0) + of(1), CHARACTER),
            Self::AddList => 1,
            Self::ContainsText => scaled(of(0), CHARACTER) * scaled(of(1), CHARACTER),
            Self::Sets(times) => 1 + of(0).saturating_mul(of(1)).saturating_mul(u64::from(times)),
            Self::Slice | Self::Range | Self::Reverse => list_call(1.0, size(result)),
            Self::Flatten => {
                let depth = match args.get(1) {
                    Some(Value::Int(depth)) => *depth as f64,
                    _ => 1.0,
                };
                list_call(depth, of(0))
            }
            Self::SelfCompare { of: index, .. } => {
                let Some(Value::List(list)) = args.get(index) else { return Ok(1) };
                let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
                let elements = list.len() as u64;
                list_call(if text { 2.0 + CHARACTER } else { 2.0 }, elements.saturating_mul(elements))
            }
        })
    }

    /// What a call can cost.
    pub fn estimate(self, call: &CallArguments) -> CostOf {
        let first = call.target.as_ref().or(call.args.first());
        let arg = |index: usize| call.args.get(index).map_or(SizeEstimate::UNKNOWN, Argument::size);
        let target = first.map_or(SizeEstimate::UNKNOWN, Argument::size);
        let only = |cost| CostOf { cost, size: None };
        let sized = |cost, size| CostOf { cost, size: Some(size) };
        let one = CostEstimate::exactly(1);
        let list_call = |factor: f64, size: SizeEstimate| {
            sized(size.cost(factor).plus(one).plus(CostEstimate::exactly(LIST)), size)
        };
        match self {
            Self::One => only(one),
            Self::Fixed(cost) => only(CostEstimate::exactly(cost)),
            Self::Selector => {
                let length = arg(0);
                let requirements = length.cost(0.5);
                let requirements = SizeEstimate { min: requirements.min, max: requirements.max }.cost(50.0);
                only(CostEstimate::exactly(LIST).plus(length.cost(CHARACTER)).plus(requirements))
            }
            Self::Elements => match first.and_then(|first| first.element.as_ref()) {
                Some((ty, size)) => {
                    let mut each = one;
                    if matches!(ty, Type::String | Type::Bytes) {
                        each = each.plus(size.cost(CHARACTER));
                    }
                    only(target.cost_each(each))
                }
                None => only(target.cost(CHARACTER)),
            },
            Self::Through(times) => sized(target.cost(f64::from(times) * CHARACTER), target),
            Self::Parse(times) => only(target.cost(f64::from(times) * CHARACTER)),
            Self::Replace => sized(target.cost(2.0 * CHARACTER), replaced(target, arg(0), arg(1))),
            Self::Split => {
                let most = call.args.get(1).and_then(|arg| arg.literal).map_or(target.max, |most| most as u64);
                sized(target.cost(2.0 * CHARACTER), SizeEstimate { min: 0, max: most })
            }
            Self::Join => {
                let element = first.and_then(|first| first.element.as_ref());
                let mut size = element.map_or(SizeEstimate { min: 0, max: 0 }, |(_, size)| target.times(*size));
                if !call.args.is_empty() {
                    let between = SizeEstimate { min: target.min.saturating_sub(1), max: target.max.saturating_sub(1) };
                    size = size.plus(arg(0).times(between));
                }
                sized(size.cost(CHARACTER), size)
            }
            Self::Matches if call.target.is_none() => only(one),
            Self::Find => sized(matched(target, arg(0)), SizeEstimate { min: 0, max: target.max }),
            Self::Matches => only(matched(target, arg(0))),
            Self::ContainsIp { text } => {
                let compared = OCTETS.plus(OCTETS).cost(CHARACTER);
                only(if text { compared.plus(arg(0).cost(CHARACTER)) } else { compared })
            }
            Self::ContainsCidr { text } => {
                let compared = OCTETS.plus(OCTETS).cost(CHARACTER).plus(OCTETS.cost(CHARACTER)).plus(one);
                only(if text { compared.plus(arg(0).cost(CHARACTER)) } else { compared })
            }
            Self::Validate => {
                let cost = arg(0).cost(CHARACTER);
                only(SizeEstimate { min: cost.min, max: cost.max }.cost(FORMAT_REGEX * REGEX_CHARACTER))
            }
            Self::Affix => only(arg(0).cost(CHARACTER)),
            Self::TextToBytes => {
                sized(arg(0).cost(CHARACTER), SizeEstimate { min: arg(0).min, max: arg(0).max.wrapping_mul(4) })
            }
            Self::BytesToText => sized(arg(0).cost(CHARACTER), SizeEstimate { min: arg(0).min / 4, max: arg(0).max }),
            Self::Quote => sized(
                arg(0).cost(CHARACTER),
                SizeEstimate { min: arg(0).min.wrapping_add(2), max: arg(0).max.wrapping_mul(2).wrapping_add(2) },
            ),
            Self::Format => only(target.cost(CHARACTER)),
            Self::InList => only(arg(1).cost(1.0)),
            Self::Equality | Self::Ordered => only(self.compared(&call.args)),
            Self::AddText => {
                let size = arg(0).plus(arg(1));
                sized(size.cost(CHARACTER), size)
            }
            Self::AddList => sized(one, arg(0).plus(arg(1))),
            Self::ContainsText => only(target.cost(CHARACTER).times(arg(0).cost(CHARACTER))),
            Self::Sets(times) => only(arg(0).times(arg(1)).cost(f64::from(times)).plus(one)),
            Self::Slice => {
                let value = |index: usize, default: u64| literal(call, index).unwrap_or(default);
                list_call(1.0, SizeEstimate::exactly(value(1, target.max).wrapping_sub(value(0, 0))))
            }
            Self::Range => list_call(1.0, SizeEstimate::exactly(literal(call, 0).unwrap_or(u64::MAX))),
            Self::Reverse => list_call(1.0, target),
            Self::Flatten => {
                let depth = if call.args.is_empty() { 1 } else { literal(call, 0).unwrap_or(u64::MAX) };
                list_call(depth as f64, target)
            }
            Self::SelfCompare { of, sorts } => {
                let compared = if of == 0 { first } else { call.args.first() };
                let size = compared.map_or(SizeEstimate::UNKNOWN, Argument::size);
                let element = compared.and_then(|argument| argument.element.as_ref());
                let text = sorts && matches!(element, Some((Type::String | Type::Bytes, _)));
                list_call(if text { 2.0 + CHARACTER } else { 2.0 }, size.times(size))
            }
        }
    }

    fn compared(self, args: &[Argument]) -> CostEstimate {
        let [left, right] = args else { return CostEstimate::exactly(1) };
        if let (Self::Equality, Type::Opaque(a), Type::Opaque(b)) = (self, &left.ty, &right.ty)
            && a == b
        {
            return match a {
                Opaque::Format => SizeEstimate { min: 1, max: FORMAT_SIZE }.cost(CHARACTER),
                Opaque::Url => SizeEstimate { min: 1, max: right.size.map_or(1, |size| size.max) }.cost(CHARACTER),
                _ => CostEstimate::exactly(1),
            };
        }
        let most = left.size().max.min(right.size().max);
        SizeEstimate { min: u64::from(most > 0), max: most }.cost(CHARACTER)
    }
}

fn literal(call: &CallArguments, index: usize) -> Option<u64> {
    call.args.get(index)?.literal.map(|value| u64::try_from(value).unwrap_or(0))
}

fn regex(text: u64, pattern: u64) -> u64 {
    scaled(text.saturating_add(1), CHARACTER).saturating_mul(scaled(pattern, REGEX_CHARACTER))
}

fn matched(text: SizeEstimate, pattern: SizeEstimate) -> CostEstimate {
    text.plus(SizeEstimate::exactly(1)).cost(CHARACTER).times(pattern.cost(REGEX_CHARACTER))
}

/// How large a text is in which all that is replaced is replaced.
fn replaced(text: SizeEstimate, from: SizeEstimate, to: SizeEstimate) -> SizeEstimate {
    let times = |size: u64, by: u64| (size as f64 / by as f64).ceil() as u64;
    let (most, kept_of_most) = if from.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if to.max <= from.min {
        (0, text.max)
    } else {
        (times(text.max, from.min), 0)
    };
    let (least, kept_of_least) = if from.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if from.max <= to.min {
        (0, text.min)
    } else {
        (times(text.min, from.max), 0)
    };
    SizeEstimate { min: least, max: most }.times(to).plus(SizeEstimate { min: kept_of_least, max: kept_of_most })
}

/// The cost of going through a value and all that is in it. Strings are counted in bytes here.
fn traversal<'a>(value: &Value<'a>, meter: &mut Meter) -> Result<u64> {
    meter.step(1)?;
    Ok(match value {
        Value::String(text) => (text.as_str().len() as f64 * CHARACTER) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * CHARACTER) as u64,
        Value::List(list) => of_list(list, meter)?,
        Value::Map(map) => {
            let mut cost = 0;
            for key in map.keys() {
                cost += traversal(&key, meter)?;
                if let Some(value) = map.get(&key) {
                    cost += traversal(&value?, meter)?;
                }
            }
            cost
        }
        _ => 1,
    })
}

fn of_list<'a>(list: &List<'a>, meter: &mut Meter) -> Result<u64> {
    let mut cost = 0;
    for item in list.iter() {
        cost += match item {
            Ok(item) => traversal(&item, meter)?,
            Err(_) => 1,
        };
    }
    Ok(cost)
}
