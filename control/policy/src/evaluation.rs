//! One policy's evaluation of one request, within upstream's budgets.

use hypernetes_cel::{Authorizer, Evaluation, Value as Cel, limits};
use hypernetes_kinds::expressions::admission::Values;
use serde_json::Value;

use crate::expressions::{Expression, Expressions};

/// What a policy looks at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// In the version in which the policy has matched; `null` where there is none.
    pub object: &'a Value,
    pub old: &'a Value,
    /// As [`crate::About::request`] makes it.
    pub request: &'a Value,
    /// The namespace that the request is in.
    pub namespace: &'a Value,
    pub params: &'a Value,
    /// Group, resource, subresource, namespace and name, for `authorizer.requestResource`.
    pub resource: [&'a str; 5],
    pub authorizer: &'a dyn Authorizer,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Of this expression.
    Expression(String),
    /// No other is evaluated either.
    Budget,
}

pub(crate) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Evaluations that share variables and a budget.
pub(crate) struct Run<'e> {
    evaluation: Evaluation<'e>,
    left: u64,
    budget: u64,
}

impl<'e> Run<'e> {
    fn new(expressions: &'e Expressions, subject: Subject<'e>, budget: u64) -> Result<Self, String> {
        let Subject { object, old, request, namespace, params, resource, authorizer } = subject;
        let values = Values { object, old_object: old, request, namespace_object: namespace, params, resource };
        let values = expressions.variables.values(&values);
        let values = values.map_err(|error| format!("failed to prepare variables for evaluation: {error}"))?;
        let evaluation = Evaluation::new(values).with_authorizer(authorizer).compose(&expressions.composed);
        Ok(Self { evaluation, left: budget, budget })
    }

    /// For what a policy says of a request that its conditions are met by.
    ///
    /// # Errors
    /// When request and namespace are not what they should be.
    pub fn of(expressions: &'e Expressions, subject: Subject<'e>) -> Result<Self, String> {
        Self::new(expressions, subject, limits::RUNTIME_BUDGET)
    }

    /// Units of cost that have been used.
    pub fn cost(&self) -> u64 {
        self.budget - self.left
    }

    pub fn value(&mut self, expression: &'e Expression) -> Result<Cel<'e>, Failure> {
        let outcome = self.evaluation.run(&expression.program);
        self.left = self.left.checked_sub(outcome.cost).ok_or(Failure::Budget)?;
        outcome.value.map_err(|error| {
            Failure::Expression(format!("expression '{}' resulted in error: {error}", expression.source))
        })
    }
}

/// Whether a policy's conditions are all met. One that is not decides, whatever is wrong with others. They do not see the namespace.
///
/// # Errors
/// What is wrong with those that have no value; what is then done is the failure policy's to say. The cost is there in any case.
pub(crate) fn conditions(expressions: &Expressions, subject: Subject<'_>) -> (Result<bool, String>, u64) {
    if expressions.conditions.is_empty() {
        return (Ok(true), 0);
    }
    let subject = Subject { namespace: &Value::Null, ..subject };
    let mut run = match Run::new(expressions, subject, limits::MATCH_CONDITIONS_BUDGET) {
        Ok(run) => run,
        Err(why) => return (Err(why), 0),
    };
    let mut wrong: Vec<String> = Vec::new();
    for condition in &expressions.conditions {
        match run.value(condition) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => return (Ok(false), run.cost()),
            Err(Failure::Expression(why)) => {
                if !wrong.contains(&why) {
                    wrong.push(why);
                }
            }
            Err(Failure::Budget) => return (Err(OUT_OF_BUDGET.to_owned()), limits::MATCH_CONDITIONS_BUDGET),
        }
    }
    let cost = run.cost();
    match wrong.as_slice() {
        [] => (Ok(true), cost),
        [one] => (Err(one.clone()), cost),
        // As upstream's aggregates are printed.
        many => (Err(format!("[{}]", many.join(", "))), cost),
    }
}
