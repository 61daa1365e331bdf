//! `MutatingAdmissionPolicy`.

use hypernetes_cel::{Type, Value as Cel};
use hypernetes_schema::{FieldValidation, ObjectType, overlay, patch};
use serde_json::Value;

use crate::{
    evaluation::{Failure, OUT_OF_BUDGET, Run, Subject, conditions},
    expressions::{Expression, Expressions},
    policy::{Does, Policy},
};

pub type MutatingPolicy = Policy<Mutations>;

/// What a mutating policy makes of an object.
#[derive(Debug)]
pub struct Mutations(Vec<Mutation>);

#[derive(Debug)]
enum Mutation {
    Apply(Expression),
    Patch(Expression),
}

/// What came of a policy and one parameter.
#[derive(Debug, Default)]
pub struct Mutated {
    /// The object as it shall be; none: as it is.
    pub object: Option<Value>,
    /// What is wrong, where a failure is refused.
    pub refusals: Vec<String>,
    /// Whether its conditions were met.
    pub ran: bool,
    /// Units of cost that it took.
    pub cost: u64,
}

impl Does for Mutations {
    const MUTATES: bool = true;

    fn compile(spec: &Value, expressions: &Expressions) -> Result<Self, String> {
        let mutation = |one: &Value| {
            let source = |of: &str| one[of]["expression"].as_str().unwrap_or_default();
            let made = |name: &str| Type::Made(name.into());
            Ok(match one["patchType"].as_str() {
                Some("JSONPatch") => {
                    Mutation::Patch(expressions.expression(source("jsonPatch"), &[Type::list(made("JSONPatch"))])?)
                }
                _ => Mutation::Apply(expressions.expression(source("applyConfiguration"), &[made("Object")])?),
            })
        };
        let mutations = spec["mutations"].as_array().into_iter().flatten().map(mutation);
        mutations.collect::<Result<_, String>>().map(Self)
    }
}

impl Mutation {
    fn expression(&self) -> &Expression {
        match self {
            Self::Apply(expression) | Self::Patch(expression) => expression,
        }
    }

    /// None: it changes nothing.
    fn changed(&self, ty: &ObjectType, object: &Value, made: &Cel<'_>) -> Result<Option<Value>, String> {
        let changed = match self {
            Self::Apply(_) => {
                check_names(made)?;
                let mut configuration = json_of(made)?;
                configuration["apiVersion"] = ty.api_version().into();
                configuration["kind"] = ty.kind.clone().into();
                let merged = overlay(ty, object, &configuration);
                merged.map_err(|why| format!("error applying patch: {why}"))?
            }
            Self::Patch(_) => {
                check_names(made)?;
                let patched = patch::policy_patch(object.clone(), json_of(made)?);
                match patched.map_err(|why| format!("JSON Patch: {why}"))? {
                    Some(patched) => patched,
                    None => return Ok(None),
                }
            }
        };
        let decoded = ty.check(changed, FieldValidation::Strict).map_err(|error| error.message)?;
        Ok(Some(decoded.object))
    }
}

/// Objects that are made have the names of the fields that they are in.
fn check_names(made: &Cel<'_>) -> Result<(), String> {
    let wrong = |errors: Vec<String>| format!("type mismatch: {}", errors.join("\n"));
    match made {
        Cel::Made(object) if object.name() == "Object" => object.check_names().map_err(wrong),
        // Of operations those that set objects, which begin anew with each.
        Cel::List(list) => list.iter().flatten().try_for_each(|operation| match &operation {
            Cel::Made(operation) => operation
                .fields()
                .filter_map(|(_, value)| match value {
                    Cel::Made(object) => Some(object),
                    _ => None,
                })
                .try_for_each(|object| object.check_names().map_err(wrong)),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

fn json_of(made: &Cel<'_>) -> Result<Value, String> {
    let json = made.to_json();
    json.ok_or_else(|| "the expression evaluated to a type that could not marshal to JSON".to_owned())
}

impl MutatingPolicy {
    /// What it makes of an object of a type, which it matches. `subject.object` is that object.
    pub fn mutate(&self, subject: Subject<'_>, ty: &ObjectType) -> Mutated {
        let refuse = |why: String| if self.fails { vec![why] } else { Vec::new() };
        let compiled = match self.compiled() {
            Ok(compiled) => compiled,
            Err(why) => return Mutated { refusals: refuse(why.to_owned()), ..Mutated::default() },
        };
        let (met, mut cost) = conditions(&compiled.expressions, subject);
        match met {
            Ok(true) => {}
            Ok(false) => return Mutated { cost, ..Mutated::default() },
            Err(why) => return Mutated { refusals: refuse(why), cost, ..Mutated::default() },
        }
        let (mut object, mut refusals) = (None, Vec::new());
        for mutation in &compiled.does.0 {
            let seen = object.as_ref().unwrap_or(subject.object);
            if seen.is_null() {
                break;
            }
            let changed = Run::of(&compiled.expressions, Subject { object: seen, ..subject }).and_then(|mut run| {
                let made = run.value(mutation.expression());
                cost += run.cost();
                match made {
                    Ok(made) => mutation.changed(ty, seen, &made),
                    Err(Failure::Expression(why)) => Err(why),
                    Err(Failure::Budget) => Err(OUT_OF_BUDGET.to_owned()),
                }
            });
            match changed {
                Ok(None) => {}
                Ok(Some(mut changed)) => {
                    hypernetes_kinds::set_defaults(ty, &mut changed);
                    object = Some(changed);
                }
                Err(why) => refusals.extend(refuse(why)),
            }
        }
        let object = object.filter(|object| object != subject.object);
        Mutated { object, refusals, ran: true, cost }
    }
}
