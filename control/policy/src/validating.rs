//! `ValidatingAdmissionPolicy`.

use hypernetes_cel::{Type, Value as Cel, limits};
use hypernetes_schema::walk::{list, text};
use serde_json::Value;

use crate::{
    evaluation::{Failure, OUT_OF_BUDGET, Run, Subject, conditions},
    expressions::{Expression, Expressions},
    policy::{Does, Policy},
};

pub type ValidatingPolicy = Policy<Validations>;

/// What a validating policy says of a request.
#[derive(Debug)]
pub struct Validations {
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Option<String>,
}

/// What came of a policy and one parameter.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each validation; one alone where something is wrong with the policy; none where its conditions are not met.
    pub verdicts: Vec<Verdict>,
    /// For the audit log, by their own keys.
    pub annotations: Vec<(String, String)>,
    /// What is wrong with annotations: refused, whatever the binding's actions are.
    pub failed_annotations: Vec<String>,
    /// Units of cost that it took.
    pub cost: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    Denied {
        message: String,
        /// As a `Status` has it; none where something could not be evaluated.
        reason: Option<String>,
    },
}

impl Does for Validations {
    const MUTATES: bool = false;

    fn compile(spec: &Value, expressions: &Expressions) -> Result<Self, String> {
        let validation = |one: &Value| {
            let message = text(one, "messageExpression");
            Ok(Validation {
                expression: expressions.expression(text(one, "expression"), &[Type::Bool])?,
                message: text(one, "message").trim().to_owned(),
                message_expression: (!message.is_empty()).then(|| expressions.message(message)).transpose()?,
                reason: one["reason"].as_str().map(str::to_owned),
            })
        };
        let annotation = |one: &Value| {
            let types = [Type::String, Type::Null];
            Ok((text(one, "key").to_owned(), expressions.expression(text(one, "valueExpression"), &types)?))
        };
        Ok(Self {
            validations: list(spec, "validations").iter().map(validation).collect::<Result<_, String>>()?,
            annotations: list(spec, "auditAnnotations").iter().map(annotation).collect::<Result<_, String>>()?,
        })
    }
}

impl Validation {
    /// What is said to who is refused.
    fn said<'e>(&'e self, run: &mut Run<'e>) -> Result<String, Failure> {
        let made = match &self.message_expression {
            Some(expression) => match run.value(expression) {
                Ok(Cel::String(text)) => Some(text.as_str().trim().to_owned()),
                Ok(_) | Err(Failure::Expression(_)) => None,
                Err(Failure::Budget) => return Err(Failure::Budget),
            },
            None => None,
        };
        let good = |text: &String| !text.is_empty() && text.len() <= limits::MESSAGE_BYTES && !text.contains('\n');
        Ok(made.filter(good).unwrap_or_else(|| match self.message.as_str() {
            "" => format!("failed expression: {}", self.expression.source.trim()),
            message => message.to_owned(),
        }))
    }
}

impl ValidatingPolicy {
    /// What it says of a request that it matches.
    pub fn validate(&self, subject: Subject<'_>) -> Outcome {
        // Where nothing can be said, the failure policy does.
        let failed = |message: String| match self.fails {
            true => Verdict::Denied { message, reason: None },
            false => Verdict::Admitted,
        };
        let alone = |message: String, cost| Outcome { verdicts: vec![failed(message)], cost, ..Outcome::default() };
        let compiled = match self.compiled() {
            Ok(compiled) => compiled,
            Err(why) => return alone(why.to_owned(), 0),
        };
        let (met, cost) = conditions(&compiled.expressions, subject);
        match met {
            Ok(true) => {}
            Ok(false) => return Outcome { cost, ..Outcome::default() },
            // A policy that ignores failures does not hold then.
            Err(_) if !self.fails => return Outcome { cost, ..Outcome::default() },
            Err(why) => return alone(why, cost),
        }
        let mut run = match Run::of(&compiled.expressions, subject) {
            Ok(run) => run,
            Err(why) => return alone(why, cost),
        };
        let mut outcome = Outcome::default();
        for validation in &compiled.does.validations {
            let verdict = match run.value(&validation.expression) {
                Ok(Cel::Bool(true)) => Verdict::Admitted,
                Ok(_) => match validation.said(&mut run) {
                    Ok(message) => {
                        let reason = validation.reason.clone().unwrap_or_else(|| "Invalid".to_owned());
                        Verdict::Denied { message, reason: Some(reason) }
                    }
                    Err(_) => failed(format!("failed messageExpression: {OUT_OF_BUDGET}")),
                },
                Err(Failure::Expression(why)) => failed(why),
                Err(Failure::Budget) => return alone(OUT_OF_BUDGET.to_owned(), cost + limits::RUNTIME_BUDGET),
            };
            outcome.verdicts.push(verdict);
        }
        for (key, expression) in &compiled.does.annotations {
            match run.value(expression) {
                Ok(Cel::String(text)) if !text.as_str().trim().is_empty() => {
                    outcome.annotations.push((key.clone(), text.as_str().trim().to_owned()));
                }
                Ok(_) => {}
                Err(_) if !self.fails => {}
                Err(Failure::Expression(why)) => outcome.failed_annotations.push(why),
                Err(Failure::Budget) => return alone(OUT_OF_BUDGET.to_owned(), cost + limits::RUNTIME_BUDGET),
            }
        }
        outcome.cost = cost + run.cost();
        outcome
    }
}
