//! The evaluator. It counts what cel-go's cost tracker counts, where it counts it.

mod access;
mod call;
mod fold;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Program;
use crate::errors::{EvalError, Result};
use crate::library::Context;
use crate::meter::Meter;
use crate::plan::Node;
use crate::value::check::Authorizer;
use crate::value::{Key, Made, Map, OwnedMap, Value};
use crate::{cost, limits};

/// What programs are evaluated with: the values of an [`Environment`](crate::Environment)'s variables. One evaluation serves
/// any number of programs of one environment; each has a budget of its own.
pub struct Evaluation<'a> {
    values: Vec<Value<'a>>,
    composed: &'a [Program],
    /// What the composed variables have become, each evaluated when first asked for.
    cells: Vec<Option<Result<Value<'a>>>>,
    context: Context<'a>,
    locals: Vec<Local<'a>>,
    /// Where the locals of the running program begin.
    base: usize,
    /// What composed variables have cost since the last program began.
    composed_cost: u64,
    depth: usize,
}

/// What a program came to.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    pub value: Result<Value<'a>>,
    /// Units of cost, with those of the variables that were evaluated for it.
    pub cost: u64,
}

impl<'a> Outcome<'a> {
    /// What is made of the value, and the cost.
    pub fn into_owned<T>(self, make: impl FnOnce(&Value<'a>) -> T) -> (Result<T>, u64) {
        (self.value.map(|value| make(&value)), self.cost)
    }
}

/// A place of a macro's variable.
#[derive(Debug, Clone)]
enum Local<'a> {
    /// A value, or an error that the macro may absorb.
    Value(Result<Value<'a>>),
    /// What is bound to it, not asked for yet.
    Bound(&'a Node),
}

/// Parts within parts, over all composed variables that wait for each other.
const DEPTH: usize = 1200;

impl<'a> Evaluation<'a> {
    /// With a value for each variable, in the environment's order. Put [`Value::Variables`] for `variables`.
    pub fn new(values: Vec<Value<'a>>) -> Self {
        Self {
            values,
            composed: &[],
            cells: Vec::new(),
            context: Context { meter: Meter::new(limits::PER_CALL), authorizer: None },
            locals: Vec::new(),
            base: 0,
            composed_cost: 0,
            depth: 0,
        }
    }

    /// Whom the `authorizer` library asks.
    pub fn with_authorizer(mut self, authorizer: &'a dyn Authorizer) -> Self {
        self.context.authorizer = Some(authorizer);
        self
    }

    /// The programs behind `variables`, in the order in which the environment was told of them.
    pub fn compose(mut self, programs: &'a [Program]) -> Self {
        self.composed = programs;
        self.cells = vec![None; programs.len()];
        self
    }

    /// Evaluates a program within [`limits::PER_CALL`].
    pub fn run(&mut self, program: &'a Program) -> Outcome<'a> {
        self.run_within(program, limits::PER_CALL)
    }

    /// Evaluates a program that may cost so much.
    pub fn run_within(&mut self, program: &'a Program, limit: u64) -> Outcome<'a> {
        self.context.meter = Meter::new(limit);
        self.composed_cost = 0;
        self.depth = 0;
        self.base = 0;
        self.locals.clear();
        self.locals.resize(program.slots, Local::Value(Ok(Value::Null)));
        let value = self.eval(&program.node);
        Outcome { value, cost: self.context.meter.cost.saturating_add(self.composed_cost) }
    }

    fn charge(&mut self, cost: u64) -> Result<()> {
        self.context.meter.charge(cost)
    }

    fn eval(&mut self, node: &'a Node) -> Result<Value<'a>> {
        self.eval_attribute(node, true)
    }

    /// Evaluates a branch or an index: a variable costs nothing there, what is selected from it does.
    fn eval_branch(&mut self, node: &'a Node) -> Result<Value<'a>> {
        self.eval_attribute(node, !node.is_attribute())
    }

    fn eval_attribute(&mut self, node: &'a Node, counted: bool) -> Result<Value<'a>> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(EvalError::Cancelled("operation cancelled: expression recursion limit exceeded"));
        }
        let value = self.dispatch(node, counted);
        self.depth -= 1;
        value
    }

    fn dispatch(&mut self, node: &'a Node, counted: bool) -> Result<Value<'a>> {
        let base = if counted { cost::SELECT } else { 0 };
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(index) => {
                self.charge(base)?;
                self.values.get(*index).cloned().ok_or(EvalError::Value("no such attribute".into()))
            }
            Node::Local { slot, take } => {
                self.charge(base)?;
                self.local(*slot, *take)
            }
            Node::Composed(index, name) => {
                self.charge(base + cost::SELECT)?;
                self.composed(*index).map_err(|error| match error {
                    EvalError::Value(why) => {
                        EvalError::new(format!("composited variable {name:?} fails to evaluate: {why}"))
                    }
                    cancelled => cancelled,
                })
            }
            Node::Select { operand, field, optional } => self.select(operand, field, *optional, counted),
            Node::Index { operand, index, optional } => self.index(operand, index, *optional, counted),
            Node::Test { operand, field } => self.test(operand, field),
            Node::And(terms) => self.logical(terms, false),
            Node::Or(terms) => self.logical(terms, true),
            Node::Conditional(parts) => match self.eval(&parts.0)? {
                Value::Bool(true) => self.eval_branch(&parts.1),
                Value::Bool(false) => self.eval_branch(&parts.2),
                _ => Err(EvalError::NO_SUCH_OVERLOAD),
            },
            Node::NotStrictlyFalse(term) => {
                let value = self.eval(term);
                self.charge(1)?;
                match value {
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    Err(cancelled) if cancelled.is_cancelled() => Err(cancelled),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::OptionalOr(terms) => match self.eval(&terms.0)? {
                Value::Optional(None) => self.eval(&terms.1),
                other => Ok(other),
            },
            Node::OptionalOrValue(terms) => match self.eval(&terms.0)? {
                Value::Optional(None) => self.eval(&terms.1),
                Value::Optional(Some(value)) => Ok((*value).clone()),
                other => Ok(other),
            },
            Node::InConstants(searched, values) => {
                let searched = self.eval(searched)?;
                for value in values {
                    if searched.equals(value, &mut self.context.meter)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            Node::Call(call) => self.call(call),
            Node::List { elements } => self.list(elements),
            Node::Map { entries } => self.map(entries),
            Node::Object { name, fields } => self.object(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
        }
    }

    /// `&&` (decided by `false`) or `||` (decided by `true`): a term that decides hides what is wrong with the other.
    fn logical(&mut self, terms: &'a (Node, Node), decides: bool) -> Result<Value<'a>> {
        let mut wrong = None;
        for term in [&terms.0, &terms.1] {
            match self.eval(term) {
                Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => wrong = wrong.or(Some(EvalError::NO_SUCH_OVERLOAD)),
                Err(cancelled) if cancelled.is_cancelled() => return Err(cancelled),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        wrong.map_or(Ok(Value::Bool(!decides)), Err)
    }

    fn list(&mut self, elements: &'a [(Node, bool)]) -> Result<Value<'a>> {
        self.context.meter.grow_elements(elements.len())?;
        let mut values = Vec::with_capacity(elements.len());
        let made = elements.iter().try_for_each(|(node, optional)| {
            match (self.eval(node)?, optional) {
                (value, false) => values.push(value),
                (Value::Optional(value), true) => values.extend(value.map(|value| (*value).clone())),
                (other, true) => return Err(not_optional("element", &other)),
            }
            Ok(())
        });
        // What is not made costs the same.
        if !made.as_ref().is_err_and(EvalError::is_cancelled) {
            self.charge(cost::LIST)?;
        }
        made.map(|()| Value::list(values))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Result<Value<'a>> {
        self.context.meter.grow_elements(2 * entries.len())?;
        let mut map = OwnedMap::default();
        let made = entries.iter().try_for_each(|(key, value, optional)| {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            let key =
                Key::of(&key).ok_or_else(|| EvalError::new(format!("unsupported key type: {}", key.type_name())))?;
            match (value, optional) {
                (value, false) => {
                    map.insert(key, value);
                }
                (Value::Optional(Some(value)), true) => {
                    map.insert(key, (*value).clone());
                }
                (Value::Optional(None), true) => {}
                (other, true) => return Err(not_optional("entry", &other)),
            }
            Ok(())
        });
        if !made.as_ref().is_err_and(EvalError::is_cancelled) {
            self.charge(cost::MAP)?;
        }
        made.map(|()| Value::Map(Map::Made(Arc::new(map))))
    }

    fn object(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Result<Value<'a>> {
        self.context.meter.grow_elements(2 * fields.len())?;
        let mut made = BTreeMap::new();
        let done = fields.iter().try_for_each(|(field, value, optional)| {
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(None), true) => return Ok(()),
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (value, _) => value,
            };
            Made::check_field(name, field, &value)?;
            made.insert(field.clone(), value);
            Ok(())
        });
        if !done.as_ref().is_err_and(EvalError::is_cancelled) {
            self.charge(cost::OBJECT)?;
        }
        done?;
        Ok(Value::Made(Arc::new(Made { name: name.clone(), fields: made })))
    }

    fn composed(&mut self, index: usize) -> Result<Value<'a>> {
        let (Some(cell), Some(program)) = (self.cells.get_mut(index), self.composed.get(index)) else {
            return Err(EvalError::new("no such composed variable"));
        };
        if let Some(value) = cell {
            return value.clone();
        }
        // A variable that asked for itself would find this.
        *cell = Some(Err(EvalError::new("composited variable is not evaluated")));
        let outer = (self.context.meter.cost, self.base);
        self.context.meter.cost = 0;
        self.base = self.locals.len();
        self.locals.resize(self.base + program.slots, Local::Value(Ok(Value::Null)));
        let value = self.eval(&program.node);
        self.locals.truncate(self.base);
        self.composed_cost = self.composed_cost.saturating_add(self.context.meter.cost);
        (self.context.meter.cost, self.base) = outer;
        self.cells[index] = Some(value.clone());
        value
    }
}

fn not_optional(what: &str, value: &Value<'_>) -> EvalError {
    EvalError::new(format!("cannot initialize optional list {what} from non-optional value {}", value.type_name()))
}
