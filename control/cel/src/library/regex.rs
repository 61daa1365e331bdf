//! Regular expressions: RE2's, which the `regex` crate's are, bounded in size.

use std::sync::Arc;

use ::regex::{Regex, RegexBuilder};
use hypernetes_schema::structural;

use super::Context;
use super::{Overload, Sig, int, member, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::value::Value;

const STRINGS: Sig = Sig::List(&Sig::String);

pub(super) const ROWS: &[Overload] = &[
    member("matches", "matches_string", &[Sig::String, Sig::String], Sig::Bool, Cost::Matches, |context, args| {
        run_compiled("matches", compile(text(args, 1)?).map_err(EvalError::new)?.as_ref(), args, context)
    }),
    super::global("matches", "matches", &[Sig::String, Sig::String], Sig::Bool, Cost::Matches, |context, args| {
        run_compiled("matches", compile(text(args, 1)?).map_err(EvalError::new)?.as_ref(), args, context)
    }),
    member("find", "string_find_string", &[Sig::String, Sig::String], Sig::String, Cost::Find, |context, args| {
        run_compiled("find", compile_here(text(args, 1)?)?.as_ref(), args, context)
    }),
    member("findAll", "string_find_all_string", &[Sig::String, Sig::String], STRINGS, Cost::Find, |context, args| {
        run_compiled("findAll", compile_here(text(args, 1)?)?.as_ref(), args, context)
    }),
    member(
        "findAll",
        "string_find_all_string_int",
        &[Sig::String, Sig::String, Sig::Int],
        STRINGS,
        Cost::Find,
        |context, args| run_compiled("findAll", compile_here(text(args, 1)?)?.as_ref(), args, context),
    ),
];

fn compile_here(pattern: &str) -> Result<Arc<Regex>> {
    compile(pattern).map_err(|error| EvalError::new(format!("Illegal regex: {error}")))
}

/// Go's words for the usual mistakes.
pub(crate) fn compile(pattern: &str) -> std::result::Result<Arc<Regex>, String> {
    let built = RegexBuilder::new(pattern)
        .size_limit(structural::MAX_COMPILED)
        .dfa_size_limit(structural::MAX_MATCHING)
        .nest_limit(100)
        .octal(false)
        .build();
    built.map(Arc::new).map_err(|error| {
        let text = error.to_string();
        let why = if text.contains("unclosed group") {
            format!("missing closing ): `{pattern}`")
        } else if text.contains("unopened group") {
            format!("unexpected ): `{pattern}`")
        } else if text.contains("unclosed character class") {
            format!("missing closing ]: `{}`", &pattern[pattern.find('[').unwrap_or(0)..])
        } else if text.contains("repetition operator missing expression") {
            let operator = pattern.find(['*', '+', '?']).and_then(|at| pattern.get(at..=at)).unwrap_or(pattern);
            format!("missing argument to repetition operator: `{operator}`")
        } else if text.contains("incomplete escape sequence") {
            "trailing backslash at end of expression: ``".to_owned()
        } else if text.contains("size limit") {
            format!("expression too large: `{pattern}`")
        } else {
            format!("invalid expression: `{pattern}`")
        };
        format!("error parsing regexp: {why}")
    })
}

/// One of the functions of this library, with a pattern that is compiled.
pub(crate) fn run_compiled<'a>(
    name: &str,
    regex: &Regex,
    args: &mut [Value<'a>],
    context: &mut Context<'a>,
) -> Result<Value<'a>> {
    let of = text(args, 0)?;
    match name {
        "find" => {
            let found = regex.find(of).map_or("", |found| found.as_str());
            context.meter.grow(found.len())?;
            Ok(Value::text(found))
        }
        "findAll" => {
            let most = if args.len() > 2 { int(args, 2)? } else { -1 };
            let mut all = Vec::new();
            for found in regex.find_iter(of).take(usize::try_from(most).unwrap_or(usize::MAX)) {
                context.meter.grow_elements(1)?;
                context.meter.grow(found.len())?;
                all.push(Value::text(found.as_str()));
            }
            Ok(Value::list(all))
        }
        _ => Ok(Value::Bool(regex.is_match(of))),
    }
}
