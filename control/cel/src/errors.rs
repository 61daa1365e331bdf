//! What compilation and evaluation answer with, in cel-go's words.

use std::borrow::Cow;
use std::fmt;

use crate::types::Type;

/// Where in a source: lines from 1, columns (characters) from 0, as cel-go counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// One thing that is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub position: Position,
    pub message: String,
}

/// Why a source is no program. Its text is what upstream prints after `compilation failed: `.
#[derive(Debug, Clone)]
pub struct CompileErrors {
    pub issues: Vec<Issue>,
    text: String,
    instantiation: Option<Type>,
}

/// Longest line that is shown beneath a message.
const SNIPPET: usize = 16384;

impl CompileErrors {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.position);
        let text = issues.iter().map(|issue| shown(source, issue)).collect::<Vec<_>>().join("\n");
        Self { issues, text, instantiation: None }
    }

    /// A constant part that has no value.
    pub(crate) fn without_value(error: &EvalError, ty: Type) -> Self {
        Self { issues: Vec::new(), text: error.to_string(), instantiation: Some(ty) }
    }

    /// The type of the expression, if it is right as such but a part of it has no value: upstream finds that when it makes a
    /// program, after it has looked at the type.
    pub fn instantiation(&self) -> Option<&Type> {
        self.instantiation.as_ref()
    }

    /// An error that belongs to no place of the source. Upstream gives it line -1.
    pub(crate) fn whole(message: String) -> Self {
        let text = format!("ERROR: <input>:-1:0: {message}");
        let issues = vec![Issue { position: Position { line: 1, column: 0 }, message }];
        Self { issues, text, instantiation: None }
    }
}

fn shown(source: &str, issue: &Issue) -> String {
    let Position { line, column } = issue.position;
    // An empty source has no first column.
    let shown_column = if source.is_empty() { 0 } else { column + 1 };
    let mut text = format!("ERROR: <input>:{line}:{shown_column}: {}", issue.message);
    let Some(snippet) = source.split('\n').nth(line.saturating_sub(1) as usize).filter(|s| s.len() <= SNIPPET) else {
        return text;
    };
    if source.is_empty() {
        return text;
    }
    text.push_str("\n | ");
    text.push_str(&snippet.replace('\t', " "));
    text.push_str("\n | ");
    let mut characters = snippet.chars();
    for character in characters.by_ref().take(column as usize) {
        text.push(if character.len_utf8() > 1 { '．' } else { '.' });
    }
    text.push(if characters.next().is_some_and(|c| c.len_utf8() > 1) { '＾' } else { '^' });
    text
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl std::error::Error for CompileErrors {}

/// Why an evaluation has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalError {
    /// An error that `&&`, `||` and macros may absorb.
    Value(Cow<'static, str>),
    /// The evaluation was ended; nothing absorbs it.
    Cancelled(&'static str),
}

impl EvalError {
    pub(crate) const NO_SUCH_OVERLOAD: Self = Self::Value(Cow::Borrowed("no such overload"));
    pub(crate) const COST: Self = Self::Cancelled("operation cancelled: actual cost limit exceeded");
    pub(crate) const MEMORY: Self = Self::Cancelled("operation cancelled: memory limit exceeded");
    pub(crate) const STEPS: Self = Self::Cancelled("operation cancelled: step limit exceeded");

    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Value(message.into())
    }

    /// Whether the budget ended the evaluation.
    pub fn is_cost(&self) -> bool {
        *self == Self::COST
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_))
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(message) => f.write_str(message),
            Self::Cancelled(message) => f.write_str(message),
        }
    }
}
impl std::error::Error for EvalError {}

pub(crate) type Result<T> = std::result::Result<T, EvalError>;
