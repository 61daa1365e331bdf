//! From a checked tree to one that runs: names are places, constants are values, regular expressions are compiled.

use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use hypernetes_schema::structural::Pattern;

use crate::check::{Checked, Name};
use crate::errors::EvalError;
use crate::library::{self, Context, Overload};
use crate::limits;
use crate::meter::Meter;
use crate::parse::{ACCUMULATOR, UNUSED};
use crate::value::{Key, OwnedMap, Text, TypeName, Value};

/// A part of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value<'static>),
    Variable(usize),
    /// Its place, and its name.
    Composed(usize, Arc<str>),
    /// A variable of a macro. One that gathers is taken rather than copied, where it is put back by the same step.
    Local {
        slot: usize,
        take: bool,
    },
    Select {
        operand: Box<Node>,
        field: Box<str>,
        optional: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Test {
        operand: Box<Node>,
        field: Box<str>,
    },
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    Conditional(Box<(Node, Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    OptionalOr(Box<(Node, Node)>),
    OptionalOrValue(Box<(Node, Node)>),
    InConstants(Box<Node>, Box<[Value<'static>]>),
    Call(Box<Call>),
    List {
        elements: Box<[(Node, bool)]>,
    },
    Map {
        entries: Box<[(Node, Node, bool)]>,
    },
    /// An object of that type.
    Object {
        name: Arc<str>,
        fields: Box<[(Arc<str>, Node, bool)]>,
    },
    Fold(Box<Fold>),
    Bind(Box<Bind>),
}

#[derive(Debug)]
pub(crate) struct Call {
    pub name: &'static str,
    /// Those that may be meant.
    pub overloads: Box<[&'static Overload]>,
    pub args: Box<[Node]>,
    /// The compiled pattern, if the source says it.
    pub regex: Option<Pattern>,
}

/// Gathers over a list or map. What is gathered is in `slot`, the variables in the one or two places behind.
#[derive(Debug)]
pub(crate) struct Fold {
    pub slot: usize,
    pub two: bool,
    pub range: Node,
    pub init: Node,
    pub go_on: Node,
    pub step: Node,
    pub result: Node,
}

#[derive(Debug)]
pub(crate) struct Bind {
    pub slot: usize,
    pub init: Node,
    pub result: Node,
}

impl Node {
    /// Whether it is what cel-go calls an attribute: a variable and what is selected from it. Where such a one stands as a
    /// branch or an index, its variable costs nothing.
    pub fn is_attribute(&self) -> bool {
        matches!(
            self,
            Self::Variable(_)
                | Self::Composed(..)
                | Self::Local { .. }
                | Self::Select { .. }
                | Self::Index { .. }
                | Self::Test { .. }
                | Self::Conditional(_)
        )
    }

    fn constant(&self) -> Option<&Value<'static>> {
        match self {
            Self::Constant(value) => Some(value),
            _ => None,
        }
    }
}

/// The tree, and how many places its macros' variables take. `Err` is what upstream calls a failed instantiation: a constant part that has no value.
pub(crate) fn plan(expr: &IdedExpr, checked: &Checked) -> Result<(Node, usize), EvalError> {
    let mut planner = Planner { checked, scopes: Vec::new(), slots: 0, takes: false };
    let node = planner.node(expr)?;
    Ok((node, planner.slots))
}

struct Planner<'p> {
    checked: &'p Checked,
    /// The variables of macros, and their places. Each has one of its own, since what is bound is evaluated when it is asked for.
    scopes: Vec<(&'p str, usize)>,
    slots: usize,
    /// Whether this is the step of a macro that gathers into a list or map.
    takes: bool,
}

impl<'p> Planner<'p> {
    fn boxed(&mut self, expr: &'p IdedExpr) -> Result<Box<Node>, EvalError> {
        self.node(expr).map(Box::new)
    }

    fn node(&mut self, expr: &'p IdedExpr) -> Result<Node, EvalError> {
        Ok(match &expr.expr {
            Expr::Unspecified => return Err(EvalError::NO_SUCH_OVERLOAD),
            Expr::Literal(literal) => Node::Constant(constant(literal)),
            Expr::Ident(name) => self.name(expr, name)?,
            Expr::Select(select) => match self.checked.names.get(&expr.id) {
                Some(Name::Composed(index)) if !select.test => Node::Composed(*index, select.field.as_str().into()),
                Some(name @ (Name::Variable(_) | Name::Type(_))) => named(*name),
                _ => {
                    let (operand, field) = (self.boxed(&select.operand)?, select.field.as_str().into());
                    if select.test {
                        Node::Test { operand, field }
                    } else {
                        Node::Select { operand, field, optional: false }
                    }
                }
            },
            Expr::Call(call) => self.call(expr, call)?,
            Expr::List(list) => {
                let mut elements = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    elements.push((self.node(element)?, list.optional_indices.contains(&index)));
                }
                let constants: Option<Vec<_>> =
                    elements.iter().map(|(node, optional)| node.constant().filter(|_| !optional).cloned()).collect();
                match constants {
                    Some(values) => Node::Constant(Value::list(values)),
                    None => Node::List { elements: elements.into() },
                }
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    entries.push((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional));
                }
                constant_map(&entries).unwrap_or(Node::Map { entries: entries.into() })
            }
            Expr::Struct(made) => {
                let mut fields = Vec::with_capacity(made.entries.len());
                for entry in &made.entries {
                    let EntryExpr::StructField(field) = &entry.expr else { continue };
                    fields.push((field.field.as_str().into(), self.node(&field.value)?, field.optional));
                }
                Node::Object { name: made.type_name.trim_start_matches('.').into(), fields: fields.into() }
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
        })
    }

    fn name(&mut self, expr: &IdedExpr, name: &str) -> Result<Node, EvalError> {
        if let Some(name) = self.checked.names.get(&expr.id) {
            return Ok(named(*name));
        }
        match self.scopes.iter().rev().find(|(known, _)| *known == name) {
            Some((_, slot)) => Ok(Node::Local { slot: *slot, take: self.takes && name == ACCUMULATOR }),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn call(&mut self, expr: &'p IdedExpr, call: &'p CallExpr) -> Result<Node, EvalError> {
        let meant = self.checked.calls.get(&expr.id);
        let target = call.target.as_deref().filter(|_| !meant.is_some_and(|meant| meant.namespaced));
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for arg in target.into_iter().chain(&call.args) {
            args.push(self.node(arg)?);
        }
        let pair = |args: Vec<Node>| -> Result<Box<(Node, Node)>, EvalError> {
            let args: [Node; 2] = args.try_into().map_err(|_| EvalError::NO_SUCH_OVERLOAD)?;
            let [left, right] = args;
            Ok(Box::new((left, right)))
        };
        let two = |args: Vec<Node>| pair(args).map(|pair| (Box::new(pair.0), Box::new(pair.1)));
        Ok(match call.func_name.as_str() {
            operators::LOGICAL_AND => Node::And(pair(args)?),
            operators::LOGICAL_OR => Node::Or(pair(args)?),
            operators::CONDITIONAL => {
                let args: [Node; 3] = args.try_into().map_err(|_| EvalError::NO_SUCH_OVERLOAD)?;
                let [condition, yes, no] = args;
                Node::Conditional(Box::new((condition, yes, no)))
            }
            operators::NOT_STRICTLY_FALSE => {
                Node::NotStrictlyFalse(Box::new(args.pop().ok_or(EvalError::NO_SUCH_OVERLOAD)?))
            }
            operators::OPT_SELECT => {
                let (operand, field) = two(args)?;
                let field = field.constant().and_then(Value::as_str).unwrap_or_default().into();
                Node::Select { operand, field, optional: true }
            }
            name @ (operators::INDEX | operators::OPT_INDEX) => {
                let (operand, index) = two(args)?;
                Node::Index { operand, index, optional: name == operators::OPT_INDEX }
            }
            "or" if target.is_some() && args.len() == 2 => Node::OptionalOr(pair(args)?),
            "orValue" if target.is_some() && args.len() == 2 => Node::OptionalOrValue(pair(args)?),
            _ => {
                let meant = meant.ok_or(EvalError::NO_SUCH_OVERLOAD)?;
                return self.function(&meant.overloads, args);
            }
        })
    }

    fn function(&mut self, overloads: &[&'static Overload], args: Vec<Node>) -> Result<Node, EvalError> {
        let Some(first) = overloads.first() else { return Err(EvalError::NO_SUCH_OVERLOAD) };
        if let ([Overload { id: "in_list", .. }], [_, Node::Constant(Value::List(list))]) = (overloads, args.as_slice())
        {
            let primitive = |value: &Value<'_>| {
                matches!(
                    value,
                    Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_) | Value::Null
                )
            };
            let values: Option<Vec<_>> = list.iter().map(|value| value.ok().filter(primitive)).collect();
            if list.is_empty() {
                return Ok(Node::Constant(Value::Bool(false)));
            }
            if let Some(values) = values {
                let mut args = args;
                return Ok(Node::InConstants(Box::new(args.swap_remove(0)), values.into()));
            }
        }
        let regex = match (first.name, args.get(1).and_then(Node::constant).and_then(Value::as_str)) {
            ("matches" | "find" | "findAll", Some(pattern)) => {
                // Kept compiled with those of all definitions, as long as there is room.
                library::regex::compile(pattern).map_err(EvalError::new)?;
                Some(Pattern::new(pattern))
            }
            _ => None,
        };
        let converts = matches!(
            first.name,
            "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint"
        ) && matches!(args.as_slice(), [Node::Constant(_)]);
        if converts {
            let mut args: Vec<_> = args.iter().filter_map(Node::constant).cloned().collect();
            let mut context = Context { meter: Meter::new(limits::PER_CALL), authorizer: None };
            let overload = library::fitting(overloads, &args)?;
            return (overload.run)(&mut context, &mut args).map(Node::Constant);
        }
        Ok(Node::Call(Box::new(Call { name: first.name, overloads: overloads.into(), args: args.into(), regex })))
    }

    fn open(&mut self, name: &'p str) -> usize {
        let slot = self.slots;
        self.scopes.push((name, slot));
        self.slots += 1;
        slot
    }

    fn comprehension(&mut self, comprehension: &'p ComprehensionExpr) -> Result<Node, EvalError> {
        let takes = std::mem::take(&mut self.takes);
        let range = self.node(&comprehension.iter_range)?;
        let init = self.node(&comprehension.accu_init)?;
        let scopes = self.scopes.len();
        let slot = self.open(&comprehension.accu_var);
        if comprehension.iter_var == UNUSED && comprehension.accu_var != ACCUMULATOR {
            let result = self.node(&comprehension.result)?;
            self.scopes.truncate(scopes);
            self.takes = takes;
            return Ok(Node::Bind(Box::new(Bind { slot, init, result })));
        }
        self.open(&comprehension.iter_var);
        if let Some(second) = &comprehension.iter_var2 {
            self.open(second);
        }
        let go_on = self.node(&comprehension.loop_cond)?;
        self.takes = matches!(comprehension.accu_init.expr, Expr::List(_) | Expr::Map(_));
        let step = self.node(&comprehension.loop_step)?;
        self.takes = false;
        self.scopes.truncate(scopes + 1);
        let result = self.node(&comprehension.result)?;
        self.scopes.truncate(scopes);
        self.takes = takes;
        let two = comprehension.iter_var2.is_some();
        Ok(Node::Fold(Box::new(Fold { slot, two, range, init, go_on, step, result })))
    }
}

fn named(name: Name) -> Node {
    match name {
        Name::Variable(index) => Node::Variable(index),
        Name::Type(name) => Node::Constant(Value::Type(TypeName(name))),
        Name::Composed(index) => Node::Composed(index, Arc::default()),
    }
}

fn constant(literal: &LiteralValue) -> Value<'static> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(Arc::from(value.inner())),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::String(Text::Shared(Arc::from(value.inner()))),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

/// The map, if all its parts are constants.
fn constant_map(entries: &[(Node, Node, bool)]) -> Option<Node> {
    let mut map = OwnedMap::default();
    for (key, value, optional) in entries {
        if *optional {
            return None;
        }
        map.insert(Key::of(key.constant()?)?, value.constant()?.clone());
    }
    Some(Node::Constant(Value::Map(crate::value::Map::Made(Arc::new(map)))))
}
