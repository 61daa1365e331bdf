//! What validating and mutating policies have in common.

use std::sync::OnceLock;

use hypernetes_kinds::expressions::admission::Variables;
use serde_json::Value;

use crate::{expressions::Expressions, matching::Matching};

/// A policy. Its expressions are compiled when it first matches.
#[derive(Debug)]
pub struct Policy<D> {
    pub name: String,
    pub matching: Matching,
    pub parameters: Option<ParameterKind>,
    /// What cannot be decided is refused.
    pub fails: bool,
    /// It is run again where something changes an object after it.
    pub reinvoked: bool,
    spec: Value,
    compiled: OnceLock<Result<Compiled<D>, String>>,
}

/// The kind that a policy's parameters are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterKind {
    pub api_version: String,
    pub kind: String,
}

#[derive(Debug)]
pub(crate) struct Compiled<D> {
    pub expressions: Expressions,
    pub does: D,
}

/// What a sort of policies does, made of its `spec`.
pub trait Does: Sized {
    /// Whether its expressions make objects.
    const MUTATES: bool;

    /// # Errors
    /// The first expression that does not compile.
    fn compile(spec: &Value, expressions: &Expressions) -> Result<Self, String>;
}

impl<D: Does> Policy<D> {
    pub fn of(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = Some(&spec["paramKind"]).filter(|kind| kind.is_object());
        Self {
            name: text(&policy["metadata"]["name"]),
            matching: Matching::of(&spec["matchConstraints"]),
            parameters: kind
                .map(|kind| ParameterKind { api_version: text(&kind["apiVersion"]), kind: text(&kind["kind"]) }),
            fails: spec["failurePolicy"] != "Ignore",
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
            spec: spec.clone(),
            compiled: OnceLock::new(),
        }
    }

    /// What is wrong with an expression was right when it was stored: by an earlier version.
    pub(crate) fn compiled(&self) -> Result<&Compiled<D>, &str> {
        let compile = || {
            let variables = Variables { params: self.parameters.is_some(), authorizer: true, mutates: D::MUTATES };
            let expressions = Expressions::compile(&self.spec, variables)?;
            Ok(Compiled { does: D::compile(&self.spec, &expressions)?, expressions })
        };
        self.compiled.get_or_init(compile).as_ref().map_err(String::as_str)
    }
}
