//! A policy's expressions, compiled: conditions, variables, and what its sort has besides.

use hypernetes_cel::{Environment, Program, Type, compile};
use hypernetes_kinds::expressions::admission::{Variables, variable_type};
use hypernetes_schema::walk::{list, text};
use serde_json::Value;

#[derive(Debug)]
pub struct Expressions {
    pub variables: Variables,
    environment: Environment,
    /// Of messages, which may not ask who may do what.
    of_messages: Environment,
    /// Behind `variables`, in the order of `spec.variables`.
    pub composed: Vec<Program>,
    pub conditions: Vec<Expression>,
}

#[derive(Debug)]
pub struct Expression {
    pub source: String,
    pub program: Program,
}

impl Expressions {
    /// `matchConditions` and `variables` of a policy's `spec`.
    ///
    /// # Errors
    /// The first expression that does not compile.
    pub fn compile(spec: &Value, variables: Variables) -> Result<Self, String> {
        let mut environment = variables.environment();
        let mut of_messages = Variables { authorizer: false, ..variables }.environment();
        let mut composed = Vec::new();
        for variable in list(spec, "variables") {
            let program = compile(text(variable, "expression"), &environment).map_err(failed)?;
            let (name, ty) = (text(variable, "name"), variable_type(program.result_type()));
            environment = environment.compose(name, ty.clone());
            of_messages = of_messages.compose(name, ty);
            composed.push(program);
        }
        let mut own = Self { variables, environment, of_messages, composed, conditions: Vec::new() };
        let conditions = list(spec, "matchConditions").iter();
        own.conditions = conditions
            .map(|condition| own.expression(text(condition, "expression"), &[Type::Bool]))
            .collect::<Result<_, _>>()?;
        Ok(own)
    }

    /// # Errors
    /// What is wrong with it.
    pub fn expression(&self, source: &str, wanted: &[Type]) -> Result<Expression, String> {
        Self::of(source, &self.environment, wanted)
    }

    /// # Errors
    /// What is wrong with it.
    pub fn message(&self, source: &str) -> Result<Expression, String> {
        Self::of(source, &self.of_messages, &[Type::String])
    }

    fn of(source: &str, environment: &Environment, wanted: &[Type]) -> Result<Expression, String> {
        let program = compile(source, environment).map_err(failed)?;
        let ty = program.result_type();
        if !wanted.contains(ty) {
            let types: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let wanted = match types.as_slice() {
                [one] => one.clone(),
                many => format!("one of [{}]", many.join(" ")),
            };
            return Err(format!("compilation error: must evaluate to {wanted} but got {ty}"));
        }
        Ok(Expression { source: source.to_owned(), program })
    }
}

fn failed(errors: impl std::fmt::Display) -> String {
    format!("compilation error: compilation failed: {errors}")
}
