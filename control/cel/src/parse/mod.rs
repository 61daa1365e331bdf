//! From text to a tree: the parser of the `cel` crate, bounded.
//!
//! The parser recurses and its trees are dropped recursively, so it runs on a stack of its own, and what comes out of there
//! is no deeper than [`limits::TREE_DEPTH`]. A panic of it is an error here.

mod macros;

use std::collections::HashMap;
use std::sync::LazyLock;

use cel::Env;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, SourceInfo};

use crate::errors::{CompileErrors, Issue, Position};
use crate::limits;

pub(crate) use macros::{ACCUMULATOR, SORT_BY_KEYS, UNUSED};

/// A parsed expression and where each of its nodes began.
pub(crate) struct Parsed {
    pub expr: IdedExpr,
    positions: HashMap<u64, Position>,
}

impl Parsed {
    pub fn position(&self, id: u64) -> Position {
        self.positions.get(&id).copied().unwrap_or(Position { line: 1, column: 0 })
    }
}

/// Room for [`limits::NESTING`] expressions in the parser, and for a tree that is too deep until it is dropped.
const STACK: usize = 64 << 20;

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let mut env = Env::default();
    for each in macros::all() {
        // Each name and number of arguments is there once: a test parses them all.
        let _ = env.add_macro(each);
    }
    env
});

pub(crate) fn parse(source: &str) -> Result<Parsed, CompileErrors> {
    let size = source.chars().count();
    if size > limits::SOURCE_CHARACTERS {
        return Err(CompileErrors::whole(format!(
            "expression code point size exceeds limit: size: {size}, limit {}",
            limits::SOURCE_CHARACTERS
        )));
    }
    if tokens(source) > limits::SOURCE_TOKENS {
        return Err(CompileErrors::whole("max recursion depth exceeded".to_owned()));
    }
    let failed = || CompileErrors::whole("the expression cannot be parsed".to_owned());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel-parser".to_owned()).stack_size(STACK);
        thread.spawn_scoped(scope, || parse_here(source)).map_err(|_| failed())?.join().map_err(|_| failed())?
    })
}

/// About how many tokens a source has: words, and what else is neither a space nor in a string.
fn tokens(source: &str) -> usize {
    let (mut tokens, mut in_word, mut quote) = (0, false, None);
    for byte in source.bytes() {
        match (quote, byte) {
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                tokens += 1;
            }
            (None, byte) => {
                let word = byte.is_ascii_alphanumeric() || byte == b'_';
                tokens += usize::from(!(byte.is_ascii_whitespace() || word && in_word));
                in_word = word;
            }
        }
    }
    tokens
}

fn parse_here(source: &str) -> Result<Parsed, CompileErrors> {
    let parser = ENV.parser().max_recursion_depth(limits::NESTING).error_recovery_limit(30);
    match parser.parse_with_source_info(source) {
        Ok((expr, info)) => {
            if !within_bounds(&expr) {
                return Err(CompileErrors::whole("max recursion depth exceeded".to_owned()));
            }
            let positions = positions(source, &expr, &info);
            Ok(Parsed { expr, positions })
        }
        Err(errors) => {
            if errors.errors.iter().any(|error| error.msg == "UNKNOWN" || error.msg.contains("Recursion limit of")) {
                let message = format!("expression recursion limit exceeded: {}", limits::NESTING);
                return Err(CompileErrors::whole(message));
            }
            let issues = errors.errors.into_iter().take(limits::ERRORS).map(|error| Issue {
                position: Position {
                    line: u32::try_from(error.pos.0).unwrap_or(1).max(1),
                    column: u32::try_from(error.pos.1 - 1).unwrap_or(0),
                },
                message: error.msg,
            });
            Err(CompileErrors::new(source, issues.collect()))
        }
    }
}

/// Calls `visit` on each direct part of an expression.
pub(crate) fn for_each_part<'a>(expr: &'a Expr, mut visit: impl FnMut(&'a IdedExpr)) {
    match expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(visit),
        Expr::Comprehension(c) => {
            [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(visit);
        }
        Expr::List(list) => list.elements.iter().for_each(visit),
        Expr::Map(map) => map.entries.iter().for_each(|entry| for_each_of_entry(&entry.expr, &mut visit)),
        Expr::Struct(made) => made.entries.iter().for_each(|entry| for_each_of_entry(&entry.expr, &mut visit)),
        Expr::Select(select) => visit(&select.operand),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

fn for_each_of_entry<'a>(entry: &'a EntryExpr, visit: &mut impl FnMut(&'a IdedExpr)) {
    match entry {
        EntryExpr::StructField(field) => visit(&field.value),
        EntryExpr::MapEntry(entry) => {
            visit(&entry.key);
            visit(&entry.value);
        }
    }
}

fn within_bounds(expr: &IdedExpr) -> bool {
    let mut nodes = 0;
    let mut open = vec![(expr, 1)];
    while let Some((expr, depth)) = open.pop() {
        nodes += 1;
        if depth > limits::TREE_DEPTH || nodes > limits::TREE_NODES {
            return false;
        }
        for_each_part(&expr.expr, |part| open.push((part, depth + 1)));
    }
    true
}

fn is_negative(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(LiteralValue::Int(value)) => *value.inner() < 0,
        Expr::Literal(LiteralValue::Double(value)) => *value.inner() < 0.0,
        _ => false,
    }
}

fn positions(source: &str, expr: &IdedExpr, info: &SourceInfo) -> HashMap<u64, Position> {
    let mut offsets = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        let mut note = |id, sign| {
            let Some((start, _)) = info.offset_for(id) else { return };
            let start = start as usize;
            // The parser says where the digits of a negative number are.
            let signed = if sign { source.get(..=start).and_then(|before| before.rfind('-')) } else { None };
            offsets.push((signed.unwrap_or(start), id));
        };
        note(expr.id, is_negative(&expr.expr));
        if let Expr::Map(MapExpr { entries }) = &expr.expr {
            entries.iter().for_each(|entry| note(entry.id, false));
        }
        if let Expr::Struct(made) = &expr.expr {
            made.entries.iter().for_each(|entry| note(entry.id, false));
        }
        for_each_part(&expr.expr, |part| open.push(part));
    }
    offsets.sort_unstable();
    let mut found = HashMap::with_capacity(offsets.len());
    let mut position = Position { line: 1, column: 0 };
    let mut characters = source.char_indices().peekable();
    for (offset, id) in offsets {
        while let Some((_, character)) = characters.next_if(|(at, _)| *at < offset) {
            if character == '\n' {
                position = Position { line: position.line + 1, column: 0 };
            } else {
                position.column += 1;
            }
        }
        found.insert(id, position);
    }
    found
}
