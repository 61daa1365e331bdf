//! What can be said of literals before anything runs: durations, times, expressions and formats must be right, and elements of
//! one type.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};

use super::Checked;
use crate::errors::Issue;
use crate::library::regex;
use crate::limits;
use crate::parse::{Parsed, for_each_part};
use crate::types::Type;
use crate::value::time::{self, Time};

pub(super) fn check(parsed: &Parsed, checked: &Checked, issues: &mut Vec<Issue>) {
    // What `format` is given may be of any types.
    let mut open = vec![(&parsed.expr, false)];
    while let Some((expr, formatted)) = open.pop() {
        let formats = formatted || matches!(&expr.expr, Expr::Call(call) if call.func_name == "format");
        for_each_part(&expr.expr, |part| open.push((part, formats)));
        if issues.len() >= limits::ERRORS {
            return;
        }
        let mut report = |id, message| issues.push(Issue { position: parsed.position(id), message });
        match &expr.expr {
            Expr::Call(call) => {
                if let [IdedExpr { id, expr: Expr::Literal(literal) }, ..] = call.args.as_slice() {
                    let wrong = match (call.func_name.as_str(), literal) {
                        ("duration", LiteralValue::String(text)) => time::parse_duration(text.inner()).is_none(),
                        // Declared, but nothing does it.
                        ("duration", LiteralValue::Int(_)) => true,
                        ("timestamp", LiteralValue::String(text)) => Time::parse(text.inner()).is_none(),
                        ("timestamp", LiteralValue::Int(seconds)) => Time::of_seconds(*seconds.inner()).is_none(),
                        ("duration" | "timestamp", LiteralValue::Null) => true,
                        ("matches", LiteralValue::String(text)) => regex::compile(text.inner()).is_err(),
                        _ => false,
                    };
                    if wrong {
                        report(*id, format!("invalid {} argument", call.func_name));
                    }
                }
                if call.func_name == "format"
                    && let Some(target) = &call.target
                    && let Expr::Literal(LiteralValue::String(text)) = &target.expr
                    && let [IdedExpr { expr: Expr::List(list), .. }] = call.args.as_slice()
                {
                    let types: Vec<&Type> = list.elements.iter().map(|element| checked.ty(element)).collect();
                    let positions = list.elements.iter().map(|element| element.id);
                    if let Err((at, message)) = crate::library::format_string::check(text.inner(), &types) {
                        report(at.and_then(|at| positions.clone().nth(at)).unwrap_or(expr.id), message);
                    }
                }
            }
            Expr::List(list) if !formatted => {
                let mut first: Option<Type> = None;
                for (index, element) in list.elements.iter().enumerate() {
                    let ty = unwrapped(checked.ty(element), list.optional_indices.contains(&index));
                    if let Some(message) = differs(first.as_ref(), &ty) {
                        report(element.id, message);
                        break;
                    }
                    first.get_or_insert(ty);
                }
            }
            Expr::Map(map) if !formatted => {
                let mut first: Option<(Type, Type)> = None;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let key = checked.ty(&entry.key).clone();
                    let value = unwrapped(checked.ty(&entry.value), entry.optional);
                    if let Some(message) = differs(first.as_ref().map(|first| &first.0), &key) {
                        report(entry.key.id, message);
                    }
                    if let Some(message) = differs(first.as_ref().map(|first| &first.1), &value) {
                        report(entry.value.id, message);
                    }
                    first.get_or_insert((key, value));
                }
            }
            _ => {}
        }
    }
}

fn unwrapped(ty: &Type, optional: bool) -> Type {
    match ty {
        Type::Optional(of) if optional => of.as_ref().clone(),
        _ => ty.clone(),
    }
}

fn differs(first: Option<&Type>, ty: &Type) -> Option<String> {
    let first = first.filter(|first| *first != ty)?;
    Some(format!("expected type '{first}' but found '{ty}'"))
}
