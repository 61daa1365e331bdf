//! `'%s'.format([…])`: of cel-go's extension of strings.

use crate::errors::{EvalError, Result};
use crate::eval::Evaluation;
use crate::library::time;
use crate::types::Type;
use crate::value::{List, Value};

/// A clause: how many digits behind the point, and its letter.
struct Clause {
    precision: Option<usize>,
    letter: char,
}

/// Digits behind the point that may be asked for.
const PRECISION: usize = 1000;

/// Literal texts and clauses, in order.
fn clauses(format: &str) -> std::result::Result<Vec<(String, Option<Clause>)>, String> {
    let mut found = Vec::new();
    let mut literal = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            literal.push(character);
            continue;
        }
        let mut letter = characters.next().ok_or("unexpected end of string")?;
        if letter == '%' {
            literal.push('%');
            continue;
        }
        let failed = |why: String| format!("could not parse formatting clause: {why}");
        let mut precision = None;
        if letter == '.' {
            let mut digits = String::new();
            letter = loop {
                match characters.next() {
                    Some(digit) if digit.is_ascii_digit() => digits.push(digit),
                    Some(other) => break other,
                    None => {
                        return Err(failed(
                            "error while parsing precision: could not find end of precision specifier".to_owned(),
                        ));
                    }
                }
            };
            let asked: usize =
                digits.parse().map_err(|_| failed("error while converting precision to integer".to_owned()))?;
            precision = Some(asked.min(PRECISION));
        }
        if !"sdfeboxX".contains(letter) {
            return Err(failed(format!("unrecognized formatting clause \"{letter}\"")));
        }
        found.push((std::mem::take(&mut literal), Some(Clause { precision, letter })));
    }
    found.push((literal, None));
    Ok(found)
}

/// What a format says to arguments of these types before it runs, and which argument is wrong.
pub(crate) fn check(format: &str, types: &[&Type]) -> std::result::Result<(), (Option<usize>, String)> {
    let clauses = clauses(format).map_err(|why| (None, why))?;
    let mut index = 0;
    for clause in clauses.iter().filter_map(|(_, clause)| clause.as_ref()) {
        let Some(ty) = types.get(index) else { return Err((None, format!("index {index} out of range"))) };
        let fits = ty.is_dyn_or_error()
            || match clause.letter {
                's' => true,
                'd' => matches!(ty, Type::Int | Type::Uint | Type::Double),
                'f' | 'e' => matches!(ty, Type::Double | Type::Int | Type::Uint | Type::String),
                'b' => matches!(ty, Type::Int | Type::Uint | Type::Bool),
                'x' | 'X' => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
                _ => matches!(ty, Type::Int | Type::Uint),
            };
        if !fits {
            return Err((Some(index), format!("error during formatting: {}", wants(clause.letter, &ty.to_string()))));
        }
        index += 1;
    }
    if index < types.len() {
        return Err((
            None,
            format!("too many arguments supplied to string.format (expected {index}, got {})", types.len()),
        ));
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

pub(crate) fn format<'a>(format: &str, args: &List<'a>, context: &mut Evaluation<'a>) -> Result<String> {
    let mut made = String::new();
    let mut index = 0;
    for (literal, clause) in clauses(format).map_err(EvalError::new)? {
        context.grow(literal.len())?;
        made.push_str(&literal);
        let Some(clause) = clause else { continue };
        let value = args.get(index).ok_or_else(|| EvalError::new(format!("index {index} out of range")))??;
        index += 1;
        let before = made.len();
        match clause.letter {
            's' => show(&mut made, &value, context)?,
            letter => made.push_str(&number(&clause, &value).ok_or_else(|| {
                EvalError::new(format!("error during formatting: {}", wants(letter, value.type_name())))
            })?),
        }
        context.grow(made.len() - before)?;
    }
    Ok(made)
}

fn number(clause: &Clause, value: &Value<'_>) -> Option<String> {
    let precision = clause.precision.unwrap_or(6);
    let double = || match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    };
    let not_finite = |value: f64| {
        (!value.is_finite()).then(|| {
            if value.is_nan() {
                "NaN"
            } else if value > 0.0 {
                "\u{221e}"
            } else {
                "-\u{221e}"
            }
            .to_owned()
        })
    };
    Some(match (clause.letter, value) {
        ('d', Value::Int(value)) => value.to_string(),
        ('d', Value::Uint(value)) => value.to_string(),
        ('d', Value::Double(value)) if !value.is_finite() => not_finite(*value)?,
        ('f', _) => {
            let value = double()?;
            not_finite(value).unwrap_or_else(|| format!("{value:.precision$}"))
        }
        ('e', _) => {
            let value = double()?;
            if let Some(text) = not_finite(value) {
                return Some(text);
            }
            let text = format!("{value:.precision$e}");
            let (mantissa, exponent) = text.split_once('e')?;
            let exponent: i32 = exponent.parse().ok()?;
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
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

fn signed(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

fn show<'a>(made: &mut String, value: &Value<'a>, context: &mut Evaluation<'a>) -> Result<()> {
    context.step(1)?;
    match value {
        Value::Null => made.push_str("null"),
        Value::Bool(value) => made.push_str(&value.to_string()),
        Value::Int(value) => made.push_str(&value.to_string()),
        Value::Uint(value) => made.push_str(&value.to_string()),
        Value::Double(value) => match number(&Clause { precision: None, letter: 'd' }, &Value::Double(*value)) {
            Some(text) => made.push_str(&text),
            None => made.push_str(&time::double_text(*value)),
        },
        Value::String(text) => {
            context.grow(text.as_str().len())?;
            made.push_str(text.as_str());
        }
        Value::Bytes(bytes) => made.push_str(&String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => made.push_str(&time::duration_text(*nanos)),
        Value::Timestamp(at) => made.push_str(&at.to_string()),
        Value::Type(name) => made.push_str(name.0),
        Value::List(list) => {
            made.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    made.push_str(", ");
                }
                show(made, &item?, context)?;
            }
            made.push(']');
        }
        Value::Map(map) => {
            made.push('{');
            let mut keys = map.keys();
            // Sorted by how they are printed.
            let mut texts = Vec::with_capacity(keys.len());
            for key in keys.drain(..) {
                let mut text = String::new();
                show(&mut text, &key, context)?;
                texts.push((text, key));
            }
            texts.sort_by(|a, b| a.0.cmp(&b.0));
            for (index, (text, key)) in texts.into_iter().enumerate() {
                if index > 0 {
                    made.push_str(", ");
                }
                made.push_str(&text);
                made.push_str(": ");
                let value = map.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD))?;
                show(made, &value, context)?;
            }
            made.push('}');
        }
        other => return Err(EvalError::new(format!("error during formatting: {}", wants('s', other.type_name())))),
    }
    Ok(())
}
