//! A source that is ready to run.

use crate::check;
use crate::check::Name;
use crate::cost::CostEstimate;
use crate::environment::Environment;
use crate::errors::CompileErrors;
use crate::estimate::estimate;
use crate::parse::parse;
use crate::plan::{self, Node};
use crate::types::Type;

/// A checked expression. It is shared by whoever runs it.
#[derive(Debug)]
pub struct Program {
    pub(crate) node: Node,
    /// Places of its macros' variables.
    pub(crate) slots: usize,
    result: Type,
    cost: CostEstimate,
    /// Places of the variables that it names.
    names: Vec<usize>,
}

/// Makes a program of a source; its variables are the environment's.
///
/// # Errors
///
/// What is wrong with the source, in upstream's words: [`CompileErrors::instantiation`] says before which of upstream's
/// prefixes (`compilation failed: `, `program instantiation failed: `) they stand.
pub fn compile(source: &str, environment: &Environment) -> Result<Program, CompileErrors> {
    let parsed = parse(source)?;
    let checked = check::check(source, &parsed, environment)?;
    let (node, slots) = plan::plan(&parsed.expr, &checked).map_err(|error| {
        let ty = checked.ty(&parsed.expr).clone();
        CompileErrors::without_value(&error, ty)
    })?;
    let mut names: Vec<usize> = checked
        .names
        .values()
        .filter_map(|name| match name {
            Name::Variable(index) => Some(*index),
            Name::Type(_) | Name::Composed(_) => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    let result = checked.ty(&parsed.expr).clone();
    let cost = estimate(&parsed.expr, &checked, environment);
    Ok(Program { node, slots, result, cost, names })
}

impl Program {
    /// The type of its values. Rules must have `bool`, messages `string`.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// What it can cost, by the sizes that the environment's schemas declare.
    pub fn cost(&self) -> CostEstimate {
        self.cost
    }

    /// Whether it names a variable of the environment that it was compiled in: a rule that names `oldSelf` is one of
    /// transitions.
    pub fn uses(&self, environment: &Environment, name: &str) -> bool {
        environment.index(name).is_some_and(|index| self.names.binary_search(&index).is_ok())
    }
}
