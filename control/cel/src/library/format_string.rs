//! `'%s'.format([…])`: of cel-go's extension of strings.

use std::cell::RefCell;

use super::Context;
use crate::errors::{EvalError, Result};
use crate::types::Type;
use crate::value::time;
use crate::value::url::quoted;
use crate::value::{List, Value};

/// A clause: how many digits behind the point, and its letter.
struct Clause {
    precision: Option<usize>,
    letter: char,
}

/// Digits behind the point that may be asked for.
const PRECISION: usize = 1000;

/// Goes through a format: literal texts to `literal`, clauses with the index of their argument to `clause`. An argument that
/// is not there is found before the clause is read.
fn walk<E: From<String>>(
    format: &str,
    args: usize,
    mut literal: impl FnMut(&str) -> std::result::Result<(), E>,
    mut clause: impl FnMut(Clause, usize) -> std::result::Result<(), E>,
) -> std::result::Result<usize, E> {
    let mut rest = format;
    let mut index = 0;
    while let Some(at) = rest.find('%') {
        literal(&rest[..at])?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal("%")?;
            rest = after;
            continue;
        }
        if index >= args {
            return Err(format!("index {index} out of range").into());
        }
        if rest.is_empty() {
            return Err("unexpected end of string".to_owned().into());
        }
        let read = read(rest).map_err(|why| format!("could not parse formatting clause: {why}"))?;
        rest = &rest[read.1..];
        clause(read.0, index)?;
        index += 1;
    }
    literal(rest)?;
    Ok(index)
}

/// A clause and how long it is.
fn read(text: &str) -> std::result::Result<(Clause, usize), String> {
    let mut precision = None;
    let mut letter_at = 0;
    if let Some(digits) = text.strip_prefix('.') {
        let end = digits.find(|c: char| !c.is_ascii_digit());
        let end = end.ok_or("error while parsing precision: could not find end of precision specifier")?;
        let asked: usize = digits[..end].parse().map_err(|_| {
            let digits = quoted(&digits[..end]);
            format!("error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {digits}: invalid syntax")
        })?;
        precision = Some(asked.min(PRECISION));
        letter_at = 1 + end;
    }
    let letter = text[letter_at..].chars().next().unwrap_or_default();
    if !"sdfeboxX".contains(letter) {
        return Err(format!("unrecognized formatting clause \"{letter}\""));
    }
    Ok((Clause { precision, letter }, letter_at + 1))
}

/// What is wrong, and with which argument.
struct Wrong(Option<usize>, String);

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self(None, message)
    }
}

impl From<String> for EvalError {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// What a format says to arguments of these types before it runs, and which argument is wrong.
pub(crate) fn check(format: &str, types: &[&Type]) -> std::result::Result<(), (Option<usize>, String)> {
    let clause = |clause: Clause, index: usize| {
        let ty = types[index];
        let fits = ty.is_dyn_or_error()
            || match clause.letter {
                's' => !matches!(ty, Type::Optional(_) | Type::Opaque(_) | Type::Object(_)),
                'f' | 'e' => matches!(ty, Type::Double | Type::String),
                'b' => matches!(ty, Type::Int | Type::Uint | Type::Bool),
                'x' | 'X' => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
                _ => matches!(ty, Type::Int | Type::Uint),
            };
        if fits {
            return Ok(());
        }
        let ty = match ty {
            Type::Optional(_) => "optional_type".to_owned(),
            other => other.to_string(),
        };
        Err(Wrong(Some(index), format!("error during formatting: {}", wants(clause.letter, &ty))))
    };
    let used = walk(format, types.len(), |_| Ok(()), clause).map_err(|Wrong(at, message)| (at, message))?;
    if used < types.len() {
        let given = types.len();
        return Err((None, format!("too many arguments supplied to string.format (expected {used}, got {given})")));
    }
    Ok(())
}

fn wants(letter: char, ty: &str) -> String {
    let wants = match letter {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'o' => "octal clause can only be used on integers",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
    };
    format!("{wants}, was given {ty}")
}

pub(crate) fn format<'a>(format: &str, args: &List<'a>, context: &mut Context<'a>) -> Result<String> {
    let made = RefCell::new(String::new());
    let literal = |text: &str| {
        made.borrow_mut().push_str(text);
        Ok(())
    };
    context.meter.grow(format.len())?;
    let clause = |clause: Clause, index: usize| {
        let value = args.get(index).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD))?;
        let made = &mut *made.borrow_mut();
        let before = made.len();
        match clause.letter {
            's' => show(made, &value, false, context)?,
            letter => made.push_str(&number(&clause, &value).ok_or_else(|| {
                EvalError::new(format!("error during formatting: {}", wants(letter, value.type_name())))
            })?),
        }
        context.meter.grow(made.len() - before)
    };
    walk(format, args.len(), literal, clause)?;
    Ok(made.into_inner())
}

fn number(clause: &Clause, value: &Value<'_>) -> Option<String> {
    let precision = clause.precision.unwrap_or(6);
    let double = || match value {
        Value::Double(value) => Some(*value),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    Some(match (clause.letter, value) {
        ('d', Value::Int(value)) => value.to_string(),
        ('d', Value::Uint(value)) => value.to_string(),
        ('f', _) => {
            let value = double()?;
            not_finite(value).map_or_else(|| grouped(&format!("{value:.precision$}")), str::to_owned)
        }
        ('e', _) => {
            let value = double()?;
            if let Some(text) = not_finite(value) {
                return Some(text.to_owned());
            }
            // Upstream's form of numbers looks at no precision here.
            let text = format!("{value:.6e}");
            let (mantissa, exponent) = text.split_once('e')?;
            let exponent: i32 = exponent.parse().ok()?;
            let digits: String =
                format!("{:02}", exponent.abs()).bytes().map(|digit| RAISED[usize::from(digit - b'0')]).collect();
            format!("{mantissa}×10{}{digits}", if exponent < 0 { "⁻" } else { "" })
        }
        ('b', Value::Bool(value)) => u8::from(*value).to_string(),
        ('b', Value::Int(value)) => signed(*value, |magnitude| format!("{magnitude:b}")),
        ('b', Value::Uint(value)) => format!("{value:b}"),
        ('o', Value::Int(value)) => signed(*value, |magnitude| format!("{magnitude:o}")),
        ('o', Value::Uint(value)) => format!("{value:o}"),
        ('x', Value::Int(value)) => signed(*value, |magnitude| format!("{magnitude:x}")),
        ('X', Value::Int(value)) => signed(*value, |magnitude| format!("{magnitude:X}")),
        ('x', Value::Uint(value)) => format!("{value:x}"),
        ('X', Value::Uint(value)) => format!("{value:X}"),
        ('x', Value::String(text)) => text.as_str().bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::String(text)) => text.as_str().bytes().map(|b| format!("{b:02X}")).collect(),
        ('x', Value::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', Value::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02X}")).collect(),
        _ => return None,
    })
}

const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];

fn not_finite(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "∞" } else { "-∞" })
    } else {
        None
    }
}

/// A decimal number with commas between its thousands.
fn grouped(number: &str) -> String {
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |number| ("-", number));
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut grouped = String::with_capacity(number.len() + number.len() / 3 + 1);
    grouped.push_str(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped.push_str(fraction);
    grouped
}

fn signed(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

/// A value as `%s` shows it; within lists and maps it is shown as it would be written.
fn show<'a>(made: &mut String, value: &Value<'a>, within: bool, context: &mut Context<'a>) -> Result<()> {
    context.meter.step(1)?;
    let wrapped = |name: &str, text: &str| if within { format!("{name}(\"{text}\")") } else { text.to_owned() };
    match value {
        Value::Null => made.push_str("null"),
        Value::Bool(value) => made.push_str(&value.to_string()),
        Value::Int(value) => made.push_str(&value.to_string()),
        Value::Uint(value) => made.push_str(&value.to_string()),
        Value::Double(value) if within && value.is_finite() => made.push_str(&format!("{value:.6}")),
        Value::Double(value) if within => made.push_str(&format!("\"{}\"", not_finite(*value).unwrap_or_default())),
        Value::Double(value) => made.push_str(&time::double_text(*value)),
        Value::String(text) => {
            context.meter.grow(text.as_str().len())?;
            if within {
                made.push_str(&quoted(text.as_str()));
            } else {
                made.push_str(text.as_str());
            }
        }
        Value::Bytes(bytes) => {
            context.meter.grow(bytes.len())?;
            let text = std::str::from_utf8(bytes).map_err(|_| {
                EvalError::new(
                    "error during formatting: could not convert argument \"invalid UTF-8 in bytes, cannot convert to string\" to string",
                )
            })?;
            made.push_str(&if within { format!("b\"{text}\"") } else { text.to_owned() });
        }
        Value::Duration(nanos) => made.push_str(&wrapped("duration", &time::duration_text(*nanos))),
        Value::Timestamp(at) => made.push_str(&wrapped("timestamp", &at.to_string())),
        Value::Type(name) => made.push_str(name.0),
        Value::List(list) => {
            made.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    made.push_str(", ");
                }
                show(made, &item?, true, context)?;
            }
            made.push(']');
        }
        Value::Map(map) => {
            // Sorted by how keys are shown.
            let mut entries = Vec::with_capacity(map.len());
            for key in map.keys() {
                let mut text = String::new();
                show(&mut text, &key, true, context)?;
                entries.push((text, map.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD))?));
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            made.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    made.push_str(", ");
                }
                made.push_str(&key);
                made.push(':');
                show(made, &value, true, context)?;
            }
            made.push('}');
        }
        other => return Err(EvalError::new(format!("error during formatting: {}", wants('s', other.type_name())))),
    }
    Ok(())
}
