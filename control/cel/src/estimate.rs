//! What an expression can cost, as cel-go estimates it: sizes come from the schema, by the path that leads to a value.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use crate::check::Checked;
use crate::cost::{Argument, CallArguments, CostEstimate, CostOf, LIST, MAP, OBJECT, SELECT, SizeEstimate};
use crate::environment::Environment;
use crate::parse::ACCUMULATOR;
use crate::types::Step;
use crate::types::Type;

/// Where a value is: a variable and the steps from there.
#[derive(Debug, Clone, PartialEq)]
struct Path {
    root: String,
    steps: Vec<Step>,
}

/// What elements of a list or map that is made are.
#[derive(Debug, Clone, Copy)]
struct Entries {
    of_list: bool,
    key: SizeEstimate,
    value: SizeEstimate,
}

#[derive(Debug, Clone)]
struct Local {
    name: String,
    path: Option<Path>,
    size: Option<SizeEstimate>,
    entries: Option<Entries>,
}

/// The root of a path that no variable is.
const NOWHERE: &str = "@nowhere";

/// Steps that a path may have. A longer one has no known size.
const PATH_STEPS: usize = 64;

struct Estimator<'p> {
    checked: &'p Checked,
    environment: &'p Environment,
    paths: HashMap<u64, Path>,
    sizes: HashMap<u64, SizeEstimate>,
    entries: HashMap<u64, Entries>,
    locals: Vec<Local>,
}

pub(crate) fn estimate(expr: &IdedExpr, checked: &Checked, environment: &Environment) -> CostEstimate {
    Estimator {
        checked,
        environment,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    }
    .cost(expr)
}

impl Estimator<'_> {
    fn cost(&mut self, expr: &IdedExpr) -> CostEstimate {
        let select = CostEstimate::exactly(SELECT);
        match &expr.expr {
            Expr::Unspecified | Expr::Literal(_) => CostEstimate::default(),
            Expr::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => Some(Path { root: name.clone(), steps: Vec::new() }),
                };
                self.go(expr.id, path, None);
                select
            }
            Expr::Select(of) => {
                if self.checked.names.contains_key(&expr.id) && !matches!(of.operand.expr, Expr::Ident(_)) {
                    // A type's dotted name.
                    return select;
                }
                let operand = self.cost(&of.operand);
                if of.test {
                    return operand;
                }
                self.go(expr.id, self.path(&of.operand), Some(Step::Field(of.field.clone())));
                match self.checked.ty(&of.operand) {
                    Type::Map(_) | Type::Object(_) | Type::Made(_) | Type::Opaque(_) => operand.plus(select),
                    _ => operand,
                }
            }
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let mut sum = CostEstimate::exactly(LIST);
                let mut value = (!list.elements.is_empty()).then_some(SizeEstimate { min: u64::MAX, max: 0 });
                for element in &list.elements {
                    sum = sum.plus(self.cost(element));
                    let size = self.size_or_unknown(element);
                    value = value.map(|value| value.or(size));
                }
                let value = value.unwrap_or(SizeEstimate { min: 0, max: 0 });
                self.entries.insert(expr.id, Entries { of_list: true, key: SizeEstimate::exactly(1), value });
                sum
            }
            Expr::Map(map) => {
                let mut sum = CostEstimate::exactly(MAP);
                let start = if map.entries.is_empty() {
                    SizeEstimate { min: 0, max: 0 }
                } else {
                    SizeEstimate { min: u64::MAX, max: 0 }
                };
                let mut entries = Entries { of_list: false, key: start, value: start };
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    entries.key = entries.key.or(self.size_or_unknown(&entry.key));
                    entries.value = entries.value.or(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, entries);
                sum
            }
            Expr::Struct(made) => {
                let fields = made.entries.iter().filter_map(|entry| match &entry.expr {
                    EntryExpr::StructField(field) => Some(&field.value),
                    EntryExpr::MapEntry(_) => None,
                });
                fields.fold(CostEstimate::exactly(OBJECT), |sum, value| sum.plus(self.cost(value)))
            }
            Expr::Comprehension(comprehension) if is_bind(comprehension) => {
                let made = self.cost(&comprehension.iter_range).plus(self.cost(&comprehension.accu_init));
                self.push(&comprehension.accu_var, &comprehension.accu_init);
                let sum = made.plus(self.cost(&comprehension.result));
                self.locals.pop();
                self.copy_sizes(expr.id, &comprehension.result);
                sum
            }
            Expr::Comprehension(comprehension) => self.comprehension(expr, comprehension),
        }
    }

    fn comprehension(&mut self, expr: &IdedExpr, comprehension: &ComprehensionExpr) -> CostEstimate {
        let range = &comprehension.iter_range;
        let init = &comprehension.accu_init;
        let mut sum = self.cost(range).plus(self.cost(init));
        self.push(&comprehension.accu_var, init);
        let entries = self.entries_of(range);
        let of_list = entries.map_or(matches!(self.checked.ty(range), Type::List(_)), |entries| entries.of_list);
        let (key, value) = (entries.map(|entries| entries.key), entries.map(|entries| entries.value));
        let (key_step, value_step) = if of_list { (Step::Index, Step::Element) } else { (Step::Key, Step::Element) };
        let path = self.path(range);
        let locals = self.locals.len();
        match &comprehension.iter_var2 {
            Some(second) => {
                self.push_step(&comprehension.iter_var, &path, key_step, key);
                self.push_step(second, &path, value_step, value);
            }
            None if of_list => self.push_step(&comprehension.iter_var, &path, value_step, value),
            None => self.push_step(&comprehension.iter_var, &path, key_step, key),
        }
        let go_on = self.cost(&comprehension.loop_cond);
        let step = self.cost(&comprehension.loop_step);
        self.locals.truncate(locals);
        sum = sum.plus(self.cost(&comprehension.result));
        self.locals.pop();
        let times = self.size_or_unknown(range);
        sum = sum.plus(times.cost_each(step.plus(go_on)));
        match &init.expr {
            Expr::Literal(_) => {
                if let Some(size) = self.size(init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Expr::List(_) | Expr::Map(_) => {
                self.sizes.insert(expr.id, times);
                if let Some(entries) = self.entries_of(&comprehension.loop_step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> CostEstimate {
        if call.func_name == "dyn" && call.target.is_none() && call.args.len() == 1 {
            let cost = self.cost(&call.args[0]);
            self.copy_sizes(expr.id, &call.args[0]);
            return cost.plus(CostEstimate::exactly(1));
        }
        let mut costs = Vec::with_capacity(call.args.len());
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            costs.push(self.cost(arg));
            args.push(self.argument(arg));
        }
        let of_args = costs.iter().fold(CostEstimate::default(), |sum, cost| sum.plus(*cost));
        if call.func_name == operators::OPT_SELECT {
            return of_args.plus(CostEstimate::exactly(1));
        }
        let checked = self.checked;
        let Some(meant) = checked.calls.get(&expr.id) else { return CostEstimate::default() };
        let mut sum = CostEstimate::default();
        let mut target = None;
        if let Some(of) = call.target.as_deref().filter(|_| !meant.namespaced) {
            sum = self.cost(of);
            target = Some(self.argument(of));
        }
        match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR if costs.len() == 2 => {
                return CostEstimate { min: costs[0].min, max: costs[0].max.saturating_add(costs[1].max) };
            }
            operators::CONDITIONAL if costs.len() == 3 => {
                let size = self.size_or_unknown(&call.args[1]).or(self.size_or_unknown(&call.args[2]));
                if let Some(entries) = union(self.entries_of(&call.args[1]), self.entries_of(&call.args[2])) {
                    self.entries.insert(expr.id, entries);
                }
                self.sizes.insert(expr.id, size);
                return costs[0].plus(costs[1].or(costs[2]));
            }
            operators::ADD if costs.len() == 2 => {
                if let Some(entries) = union(self.entries_of(&call.args[0]), self.entries_of(&call.args[1])) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        let arguments = CallArguments { target, args };
        let mut cost = CostEstimate { min: u64::MAX, max: 0 };
        let mut size: Option<SizeEstimate> = None;
        for overload in &meant.overloads {
            let CostOf { cost: of_this, size: result } = overload.cost.estimate(&arguments);
            cost = cost.or(of_this.plus(of_args));
            size = match (size, result) {
                (Some(size), Some(result)) => Some(size.or(result)),
                (size, result) => size.or(result),
            };
            if matches!(overload.id, "index_list" | "index_map")
                && let Some(of) = call.args.first()
            {
                size = self.entries_of(of).map(|entries| entries.value);
                self.go(expr.id, self.path(of), Some(Step::Element));
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        sum.plus(cost)
    }

    fn argument(&self, expr: &IdedExpr) -> Argument {
        let ty = self.checked.ty(expr).clone();
        let element = match &ty {
            Type::List(of) | Type::Optional(of) => Some(of.as_ref().clone()),
            Type::Map(entry) => Some(entry.0.clone()),
            _ => None,
        };
        let element = element.map(|ty| {
            let path = self.path(expr).filter(|path| path.root != ACCUMULATOR);
            let size = path.and_then(|path| self.declared(&path, Some(Step::Element)));
            (ty, size.unwrap_or(SizeEstimate::UNKNOWN))
        });
        let literal = match &expr.expr {
            Expr::Literal(LiteralValue::Int(value)) => Some(*value.inner()),
            _ => None,
        };
        Argument { ty, size: self.size(expr), element, literal }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn push(&mut self, name: &str, init: &IdedExpr) {
        let local = Local {
            name: name.to_owned(),
            path: self.path(init),
            size: self.size(init),
            entries: self.entries_of(init),
        };
        self.locals.push(local);
    }

    fn push_step(&mut self, name: &str, path: &Option<Path>, step: Step, size: Option<SizeEstimate>) {
        let path = match path.clone() {
            Some(mut path) => {
                path.steps.push(step);
                path
            }
            None => Path { root: NOWHERE.to_owned(), steps: Vec::new() },
        };
        self.locals.push(Local { name: name.to_owned(), path: Some(path), size, entries: None });
    }

    fn go(&mut self, id: u64, path: Option<Path>, step: Option<Step>) {
        // A step from nowhere begins a path, which upstream takes for one from the root.
        let (mut path, step) = match (path, step) {
            (Some(path), step) => (path, step),
            (None, Some(_)) => (Path { root: NOWHERE.to_owned(), steps: Vec::new() }, None),
            (None, None) => return,
        };
        path.steps.extend(step);
        if path.steps.len() <= PATH_STEPS {
            self.paths.insert(id, path);
        }
    }

    fn path(&self, expr: &IdedExpr) -> Option<Path> {
        if let Expr::Ident(name) = &expr.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned()
    }

    /// What the schema says of a path.
    fn declared(&self, path: &Path, step: Option<Step>) -> Option<SizeEstimate> {
        let mut steps = path.steps.clone();
        steps.extend(step);
        let most = self.environment.declaration(&path.root)?.most_at(&steps)?;
        Some(SizeEstimate { min: 0, max: most })
    }

    fn size(&self, expr: &IdedExpr) -> Option<SizeEstimate> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        match &expr.expr {
            Expr::Literal(literal) => {
                return Some(SizeEstimate::exactly(match literal {
                    LiteralValue::String(text) => crate::value::characters(text.inner()),
                    LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
                    _ => 1,
                }));
            }
            Expr::List(list) => return Some(SizeEstimate::exactly(list.elements.len() as u64)),
            Expr::Map(map) => return Some(SizeEstimate::exactly(map.entries.len() as u64)),
            _ => {}
        }
        if let Some(size) = self.path(expr).and_then(|path| self.declared(&path, None)) {
            return Some(size);
        }
        if is_scalar(self.checked.ty(expr)) {
            return Some(SizeEstimate::exactly(1));
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&self, expr: &IdedExpr) -> SizeEstimate {
        self.size(expr).unwrap_or(SizeEstimate::UNKNOWN)
    }

    fn entries_of(&self, expr: &IdedExpr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn copy_sizes(&mut self, id: u64, from: &IdedExpr) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(id, size);
        }
        if let Some(entries) = self.entries_of(from) {
            self.entries.insert(id, entries);
        }
    }
}

fn union(a: Option<Entries>, b: Option<Entries>) -> Option<Entries> {
    let (a, b) = (a?, b?);
    Some(Entries { of_list: a.of_list, key: a.key.or(b.key), value: a.value.or(b.value) })
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}

/// Whether a comprehension only binds a variable.
fn is_bind(comprehension: &ComprehensionExpr) -> bool {
    comprehension.iter_var == crate::parse::UNUSED && comprehension.accu_var != ACCUMULATOR
}
