//! Strings: of CEL, and cel-go's extension in its second version.

use super::Context;
use super::{Overload, Sig, format_string, global, int, list, member, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::Value;

const STRING: Sig = Sig::String;
const INT: Sig = Sig::Int;
const STRINGS: Sig = Sig::List(&Sig::String);

pub(super) const ROWS: &[Overload] = &[
    member("contains", "contains_string", &[STRING, STRING], Sig::Bool, Cost::ContainsText, |_, args| {
        Ok(Value::Bool(text(args, 0)?.contains(text(args, 1)?)))
    }),
    member("startsWith", "starts_with_string", &[STRING, STRING], Sig::Bool, Cost::Affix, |_, args| {
        Ok(Value::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
    }),
    member("endsWith", "ends_with_string", &[STRING, STRING], Sig::Bool, Cost::Affix, |_, args| {
        Ok(Value::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
    }),
    member("charAt", "string_char_at_int", &[STRING, INT], STRING, Cost::One, char_at),
    member("indexOf", "string_index_of_string", &[STRING, STRING], INT, Cost::Elements, index_of),
    member("indexOf", "string_index_of_string_int", &[STRING, STRING, INT], INT, Cost::Elements, index_of),
    member("lastIndexOf", "string_last_index_of_string", &[STRING, STRING], INT, Cost::Elements, last_index_of),
    member(
        "lastIndexOf",
        "string_last_index_of_string_int",
        &[STRING, STRING, INT],
        INT,
        Cost::Elements,
        last_index_of,
    ),
    member("lowerAscii", "string_lower_ascii", &[STRING], STRING, Cost::Through(1), |context, args| {
        made(context, text(args, 0)?.to_ascii_lowercase())
    }),
    member("upperAscii", "string_upper_ascii", &[STRING], STRING, Cost::Through(1), |context, args| {
        made(context, text(args, 0)?.to_ascii_uppercase())
    }),
    member("trim", "string_trim", &[STRING], STRING, Cost::Through(1), |context, args| {
        made(context, text(args, 0)?.trim().to_owned())
    }),
    member("replace", "string_replace_string_string", &[STRING, STRING, STRING], STRING, Cost::Replace, replace),
    member(
        "replace",
        "string_replace_string_string_int",
        &[STRING, STRING, STRING, INT],
        STRING,
        Cost::Replace,
        replace,
    ),
    member("split", "string_split_string", &[STRING, STRING], STRINGS, Cost::Split, split),
    member("split", "string_split_string_int", &[STRING, STRING, INT], STRINGS, Cost::Split, split),
    member("substring", "string_substring_int", &[STRING, INT], STRING, Cost::Through(1), substring),
    member("substring", "string_substring_int_int", &[STRING, INT, INT], STRING, Cost::Through(1), substring),
    member("join", "list_join", &[STRINGS], STRING, Cost::Join, join),
    member("join", "list_join_string", &[STRINGS, STRING], STRING, Cost::Join, join),
    member("format", "string_format", &[STRING, Sig::List(&Sig::Dyn)], STRING, Cost::Format, |context, args| {
        let formatted = format_string::format(text(args, 0)?, list(args, 1)?, context)?;
        Ok(Value::text(formatted))
    }),
    // Only where objects can be made.
    global(
        "jsonpatch.escapeKey",
        "string_jsonpatch_escapeKey_string",
        &[STRING],
        STRING,
        Cost::Through(1),
        |context, args| made(context, text(args, 0)?.replace('~', "~0").replace('/', "~1")),
    ),
    global("strings.quote", "strings_quote", &[STRING], STRING, Cost::Quote, quote),
];

fn made<'a>(context: &mut Context<'a>, text: String) -> Result<Value<'a>> {
    context.meter.grow(text.len())?;
    Ok(Value::text(text))
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// Where the character of that index begins; the end of the text is the one behind the last.
fn at(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if text.is_ascii() {
        return (index <= text.len()).then_some(index);
    }
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index)
}

/// The index of the character that begins there.
fn index(text: &str, at: usize) -> i64 {
    crate::value::characters(&text[..at]) as i64
}

fn char_at<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, index) = (text(args, 0)?, int(args, 1)?);
    let at = at(of, index).ok_or_else(|| out_of_range(index))?;
    Ok(Value::text(of[at..].chars().next().map(String::from).unwrap_or_default()))
}

fn index_of<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, sought) = (text(args, 0)?, text(args, 1)?);
    let from = if args.len() > 2 { int(args, 2)? } else { 0 };
    if sought.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Some(from) = at(of, from) else { return Ok(Value::Int(-1)) };
    Ok(Value::Int(of[from..].find(sought).map_or(-1, |found| index(of, from + found))))
}

fn last_index_of<'a>(_: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, sought) = (text(args, 0)?, text(args, 1)?);
    let end = index(of, of.len());
    let from = if args.len() > 2 { int(args, 2)? } else { end };
    if sought.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    if args.len() > 2 && from >= end {
        return Ok(Value::Int(-1));
    }
    // What is found begins there at the latest.
    let latest = at(of, from).unwrap_or(of.len());
    let within = (latest + sought.len()).min(of.len());
    let within = (within..=of.len()).find(|at| of.is_char_boundary(*at)).unwrap_or(of.len());
    Ok(Value::Int(of[..within].rfind(sought).filter(|found| *found <= latest).map_or(-1, |found| index(of, found))))
}

fn replace<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let most = if args.len() > 3 { int(args, 3)? } else { -1 };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let times = if from.is_empty() { of.chars().count() + 1 } else { of.matches(from).count() }.min(most);
    context.meter.grow(of.len().saturating_add(times.saturating_mul(to.len())))?;
    Ok(Value::text(of.replacen(from, to, most)))
}

fn split<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, by) = (text(args, 0)?, text(args, 1)?);
    let most = if args.len() > 2 { int(args, 2)? } else { -1 };
    if most == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let count = if by.is_empty() { of.chars().count() } else { of.matches(by).count() + 1 }.min(most);
    context.meter.grow_elements(count)?;
    context.meter.grow(of.len())?;
    if !by.is_empty() {
        return Ok(Value::list(of.splitn(most, by).map(Value::text).collect()));
    }
    let mut parts = Vec::with_capacity(count);
    for (index, (at, character)) in of.char_indices().enumerate() {
        if index + 1 == most {
            parts.push(Value::text(&of[at..]));
            break;
        }
        parts.push(Value::text(character.encode_utf8(&mut [0; 4]) as &str));
    }
    Ok(Value::list(parts))
}

fn substring<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let (of, start) = (text(args, 0)?, int(args, 1)?);
    let end = if args.len() > 2 { int(args, 2)? } else { index(of, of.len()) };
    if args.len() > 2 && start > end {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let from = at(of, start).ok_or_else(|| out_of_range(start))?;
    let to = at(of, end).ok_or_else(|| out_of_range(end))?;
    made(context, of.get(from..to).unwrap_or_default().to_owned())
}

fn join<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let between = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut joined = String::new();
    for (index, item) in list(args, 0)?.iter().enumerate() {
        let item = item?;
        let item = item.as_str().ok_or(EvalError::NO_SUCH_OVERLOAD)?;
        context.meter.grow(item.len() + between.len())?;
        if index > 0 {
            joined.push_str(between);
        }
        joined.push_str(item);
    }
    Ok(Value::text(joined))
}

fn quote<'a>(context: &mut Context<'a>, args: &mut [Value<'a>]) -> Result<Value<'a>> {
    let of = text(args, 0)?;
    let mut quoted = String::with_capacity(of.len() + 2);
    quoted.push('"');
    for character in of.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    made(context, quoted)
}
