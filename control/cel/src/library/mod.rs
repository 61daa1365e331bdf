//! The functions of CEL and of Kubernetes' libraries: one row for each overload, which the checker, the evaluator and the cost
//! model all read. To add a function is to add a row to the table of its library.

mod authorizer;
mod cidr;
mod conversions;
mod format;
pub(crate) mod format_string;
mod ip;
mod lists;
mod lists_extension;
mod operators;
mod optional;
mod quantity;
pub(crate) mod regex;
mod semver;
mod sets;
mod strings;
mod time_functions;
mod url;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::meter::Meter;
use crate::types::{Opaque, Type};
use crate::value::check::Authorizer;
use crate::value::{List, OpaqueValue, Value};

/// What functions have besides their arguments.
pub(crate) struct Context<'a> {
    pub meter: Meter,
    /// Whom the `authorizer` library asks.
    pub authorizer: Option<&'a dyn Authorizer>,
}

/// What a function does with values that fit its overload's types.
pub(crate) type Run = for<'a> fn(&mut Context<'a>, &mut [Value<'a>]) -> Result<Value<'a>>;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Overload {
    pub name: &'static str,
    /// cel-go's name of the overload. It is unique.
    pub id: &'static str,
    /// Whether it is called as `a.f(b)`; then the first of `args` is `a`.
    pub member: bool,
    pub args: &'static [Sig],
    pub result: Sig,
    pub cost: Cost,
    pub run: Run,
}

/// A type of a row. `A` and `B` are the row's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sig {
    A,
    B,
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(&'static Sig),
    Map(&'static Sig, &'static Sig),
    Optional(&'static Sig),
    TypeOf(&'static Sig),
    Opaque(Opaque),
}

pub(crate) const LIST_A: Sig = Sig::List(&Sig::A);
pub(crate) const MAP_AB: Sig = Sig::Map(&Sig::A, &Sig::B);
pub(crate) const OPTIONAL_A: Sig = Sig::Optional(&Sig::A);

/// A row of a function that is called as `f(a, b)`.
pub(crate) const fn global(
    name: &'static str,
    id: &'static str,
    args: &'static [Sig],
    result: Sig,
    cost: Cost,
    run: Run,
) -> Overload {
    Overload { name, id, member: false, args, result, cost, run }
}

/// A row of a function that is called as `a.f(b)`.
pub(crate) const fn member(
    name: &'static str,
    id: &'static str,
    args: &'static [Sig],
    result: Sig,
    cost: Cost,
    run: Run,
) -> Overload {
    Overload { name, id, member: true, args, result, cost, run }
}

static TABLES: &[&[Overload]] = &[
    operators::OTHERS,
    &operators::LESS,
    &operators::LESS_EQUALS,
    &operators::GREATER,
    &operators::GREATER_EQUALS,
    conversions::ROWS,
    strings::ROWS,
    lists::ROWS,
    lists_extension::ROWS,
    lists_extension::SORTS,
    sets::ROWS,
    regex::ROWS,
    optional::ROWS,
    url::ROWS,
    ip::ROWS,
    cidr::ROWS,
    quantity::ROWS,
    semver::ROWS,
    format::ROWS,
    authorizer::ROWS,
];

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows() {
        functions.entry(row.name).or_default().push(row);
    }
    functions
});

/// The overload that values fit.
pub(crate) fn fitting(
    overloads: &[&'static Overload],
    args: &[Value<'_>],
) -> std::result::Result<&'static Overload, EvalError> {
    let fits = |overload: &&&'static Overload| {
        overload.args.len() == args.len() && overload.args.iter().zip(args).all(|(sig, arg)| sig.accepts(arg))
    };
    match (overloads.iter().find(fits), overloads.first()) {
        (Some(overload), _) => Ok(overload),
        (None, Some(overload)) => Err(no_overload(overload.name, args)),
        (None, None) => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

/// Whether a value of that type can be on the left of an operator, or says itself that it cannot.
fn has_operator(value: &Value<'_>, name: &str) -> bool {
    match value {
        Value::Int(_) | Value::Uint(_) | Value::String(_) | Value::Duration(_) | Value::Timestamp(_) => true,
        Value::Double(_) => name != "_%_",
        Value::Bool(_) => name.contains(['<', '>']),
        Value::Bytes(_) => name.contains(['<', '>', '+']),
        Value::List(_) => name == "_+_",
        _ => false,
    }
}

/// The message depends on how cel-go implements the function: by what its values can, or by overloads.
fn no_overload(name: &str, args: &[Value<'_>]) -> EvalError {
    if let ("_<_" | "_<=_" | "_>_" | "_>=_" | "_+_" | "_-_" | "_*_" | "_/_" | "_%_", Some(first)) = (name, args.first())
        && !has_operator(first, name)
    {
        return EvalError::new(format!("no such overload: {name}"));
    }
    if name.starts_with(['_', '!', '-', '@']) || matches!(name, "contains" | "startsWith" | "endsWith" | "matches") {
        return EvalError::NO_SUCH_OVERLOAD;
    }
    if name == "size" {
        return EvalError::new("no such overload: size");
    }
    let types: Vec<&str> = args.iter().map(Value::type_name).collect();
    EvalError::new(format!("no such overload: {name}({})", types.join(", ")))
}

fn rows() -> impl Iterator<Item = &'static Overload> {
    TABLES.iter().chain(time_functions::TABLES).copied().flatten()
}

/// The overloads of a function, if there is one of that name.
pub(crate) fn find(name: &str) -> Option<&'static [&'static Overload]> {
    BY_NAME.get(name).map(Vec::as_slice)
}

impl Overload {
    /// How many parameters its types have.
    pub(crate) fn parameters(&self) -> u32 {
        let all = self.args.iter().chain([&self.result]).map(|sig| sig.parameters());
        let (a, b) = all.fold((false, false), |so_far, of_this| (so_far.0 || of_this.0, so_far.1 || of_this.1));
        u32::from(a) + u32::from(b)
    }
}

impl Sig {
    /// The type for the checker, with variables of its own in place of the row's parameters.
    pub(crate) fn instantiate(self, variables: (u32, u32)) -> Type {
        match self {
            Self::A => Type::Variable(variables.0),
            Self::B => Type::Variable(variables.1),
            Self::Dyn => Type::Dyn,
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Uint => Type::Uint,
            Self::Double => Type::Double,
            Self::String => Type::String,
            Self::Bytes => Type::Bytes,
            Self::Duration => Type::Duration,
            Self::Timestamp => Type::Timestamp,
            Self::List(of) => Type::list(of.instantiate(variables)),
            Self::Map(key, value) => Type::map(key.instantiate(variables), value.instantiate(variables)),
            Self::Optional(of) => Type::optional(of.instantiate(variables)),
            Self::TypeOf(of) => Type::Type(Some(of.instantiate(variables).into())),
            Self::Opaque(opaque) => Type::Opaque(opaque),
        }
    }

    /// Whether it is, or has, the row's first and second parameter.
    fn parameters(self) -> (bool, bool) {
        match self {
            Self::A => (true, false),
            Self::B => (false, true),
            Self::List(of) | Self::Optional(of) | Self::TypeOf(of) => of.parameters(),
            Self::Map(key, value) => {
                let (key, value) = (key.parameters(), value.parameters());
                (key.0 || value.0, key.1 || value.1)
            }
            _ => (false, false),
        }
    }

    /// Whether a value may be an argument: of lists, maps and optionals only the outside is looked at.
    pub(crate) fn accepts(self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::A | Self::B | Self::Dyn, _)
            | (Self::Bool, Value::Bool(_))
            | (Self::Int, Value::Int(_))
            | (Self::Uint, Value::Uint(_))
            | (Self::Double, Value::Double(_))
            | (Self::String, Value::String(_))
            | (Self::Bytes, Value::Bytes(_))
            | (Self::Duration, Value::Duration(_))
            | (Self::Timestamp, Value::Timestamp(_))
            | (Self::List(_), Value::List(_))
            | (Self::Map(..), Value::Map(_))
            | (Self::Optional(_), Value::Optional(_))
            | (Self::TypeOf(_), Value::Type(_)) => true,
            (Self::Opaque(opaque), Value::Opaque(value)) => value.ty() == opaque,
            _ => false,
        }
    }
}

/// The argument at `index` as what the row says it is. The dispatcher has looked, so the error is never seen.
macro_rules! argument {
    ($name:ident, $ty:ty, $pattern:pat => $value:expr) => {
        pub(crate) fn $name<'v, 'a>(args: &'v [Value<'a>], index: usize) -> Result<$ty> {
            match args.get(index) {
                Some($pattern) => Ok($value),
                _ => Err(EvalError::NO_SUCH_OVERLOAD),
            }
        }
    };
}
argument!(text, &'v str, Value::String(text) => text.as_str());
argument!(int, i64, Value::Int(value) => *value);
argument!(list, &'v List<'a>, Value::List(list) => list);
argument!(opaque, &'v OpaqueValue, Value::Opaque(value) => value);
argument!(boolean, bool, Value::Bool(value) => *value);
argument!(any, &'v Value<'a>, value => value);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_overload_is_there_once() {
        let mut seen = HashSet::new();
        for row in rows() {
            assert!(seen.insert((row.id, row.member)), "{} is there twice", row.id);
            assert!(!row.member || !row.args.is_empty(), "{} has no receiver", row.id);
        }
    }

    /// What CONTRIBUTING says of a new function: that a recorded answer, or a test of policies, is about it.
    #[test]
    fn each_function_is_called_by_a_test() {
        let tests =
            [include_str!("../../tests/cases/kubernetes-1.36.2.jsonl"), include_str!("../../tests/policies.rs")];
        for row in rows() {
            // Operators and what macros call have no name that could be written.
            if row.name.starts_with(['_', '!', '-', '@']) || row.name.contains('@') {
                continue;
            }
            let call = if row.member { format!(".{}(", row.name) } else { format!("{}(", row.name) };
            assert!(tests.iter().any(|text| text.contains(&call)), "{} is called by no test", row.id);
        }
    }
}
