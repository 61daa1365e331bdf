//! What validating and mutating policies have in common.

use std::sync::OnceLock;

use hypernetes_kinds::expressions::admission::Variables;
use hypernetes_schema::walk;
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

impl ParameterKind {
    /// That of a policy's `spec`, if it has one.
    pub fn of(spec: &Value) -> Option<Self> {
        let text = |field: &str| walk::text(spec, field).to_owned();
        let api_version = text("paramKind.apiVersion");
        spec["paramKind"].is_object().then(|| Self { api_version, kind: text("paramKind.kind") })
    }

    /// The core group is empty.
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }
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
        Self {
            name: walk::text(policy, "metadata.name").to_owned(),
            matching: Matching::of(&spec["matchConstraints"]),
            parameters: ParameterKind::of(spec),
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
