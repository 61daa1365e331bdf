//! The macros of Kubernetes' CEL: calls that the parser rewrites into comprehensions, as cel-go rewrites them.

use cel::ParseError;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, operators};
use cel::parser::{Macro, MacroExprHelper};

use super::for_each_part;
use crate::limits;

/// The variable that a comprehension gathers into: no identifier can be written so.
pub(crate) const ACCUMULATOR: &str = "@result";
/// The variable of a comprehension that only binds.
pub(crate) const UNUSED: &str = "#unused";
/// The function that `sortBy` calls.
pub(crate) const SORT_BY_KEYS: &str = "@sortByAssociatedKeys";
/// The function that `transformMap` gathers with.
const MAP_INSERT: &str = "cel.@mapInsert";

type Expanded = Result<Option<IdedExpr>, ParseError>;

pub(crate) fn all() -> Vec<Macro> {
    let mut macros = vec![Macro::global("has", 1, |make, _, args| has(make, args.remove(0)))];
    for (name, kind) in [
        ("all", Quantifier::All),
        ("exists", Quantifier::Exists),
        ("exists_one", Quantifier::ExistsOne),
        ("existsOne", Quantifier::ExistsOne),
    ] {
        // `existsOne` is of the extension with two variables.
        if name != "existsOne" {
            macros.push(Macro::receiver(name, 2, move |make, target, args| quantifier(make, kind, target, args)));
        }
        macros.push(Macro::receiver(name, 3, move |make, target, args| quantifier(make, kind, target, args)));
    }
    macros.push(Macro::receiver("map", 2, map));
    macros.push(Macro::receiver("map", 3, map));
    macros.push(Macro::receiver("filter", 2, filter));
    for count in [3, 4] {
        macros.push(Macro::receiver("transformList", count, |make, target, args| {
            transform(make, target, args, |make, _, value| {
                let value = make.next_expr(Expr::List(ListExpr::new(vec![value])));
                let so_far = accumulated(make);
                call(make, operators::ADD, vec![so_far, value])
            })
        }));
        macros.push(Macro::receiver("transformMap", count, |make, target, args| {
            transform(make, target, args, |make, key, value| {
                let (so_far, key) = (accumulated(make), ident(make, key));
                call(make, MAP_INSERT, vec![so_far, key, value])
            })
        }));
        macros.push(Macro::receiver("transformMapEntry", count, |make, target, args| {
            transform(make, target, args, |make, _, value| {
                let so_far = accumulated(make);
                call(make, MAP_INSERT, vec![so_far, value])
            })
        }));
    }
    macros.push(Macro::receiver("sortBy", 2, sort_by));
    macros.push(Macro::receiver("optMap", 2, |make, target, args| optional_map(make, target, args, true)));
    macros.push(Macro::receiver("optFlatMap", 2, |make, target, args| optional_map(make, target, args, false)));
    macros
}

fn has(make: &mut MacroExprHelper<'_>, argument: IdedExpr) -> Expanded {
    match argument.expr {
        Expr::Select(mut select) => {
            select.test = true;
            Ok(Some(make.next_expr(Expr::Select(select))))
        }
        _ => Err(make.new_error(argument.id, "invalid argument to has() macro")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Quantifier {
    All,
    Exists,
    ExistsOne,
}

fn quantifier(
    make: &mut MacroExprHelper<'_>,
    kind: Quantifier,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Expanded {
    let variables = variables(make, args, "argument must be a simple name")?;
    let Some(condition) = args.pop() else { return Ok(None) };
    let so_far = accumulated(make);
    let (init, go_on, step, result) = match kind {
        Quantifier::All => {
            let go_on = call(make, operators::NOT_STRICTLY_FALSE, vec![so_far]);
            let so_far = accumulated(make);
            let step = call(make, operators::LOGICAL_AND, vec![so_far, condition]);
            (boolean(make, true), go_on, step, accumulated(make))
        }
        Quantifier::Exists => {
            let not = call(make, operators::LOGICAL_NOT, vec![so_far]);
            let go_on = call(make, operators::NOT_STRICTLY_FALSE, vec![not]);
            let so_far = accumulated(make);
            let step = call(make, operators::LOGICAL_OR, vec![so_far, condition]);
            (boolean(make, false), go_on, step, accumulated(make))
        }
        Quantifier::ExistsOne => {
            let one = number(make, 1);
            let more = call(make, operators::ADD, vec![so_far, one]);
            let same = accumulated(make);
            let step = call(make, operators::CONDITIONAL, vec![condition, more, same]);
            let (found, one) = (accumulated(make), number(make, 1));
            let result = call(make, operators::EQUALS, vec![found, one]);
            (number(make, 0), boolean(make, true), step, result)
        }
    };
    comprehension(make, target, variables, init, go_on, step, result)
}

fn map(make: &mut MacroExprHelper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>) -> Expanded {
    let variable = vec![variable(make, &args[0], "argument is not an identifier")?];
    let Some(value) = args.pop() else { return Ok(None) };
    let condition = if args.len() == 2 { args.pop() } else { None };
    let value = make.next_expr(Expr::List(ListExpr::new(vec![value])));
    let so_far = accumulated(make);
    let step = call(make, operators::ADD, vec![so_far, value]);
    gather(make, target, variable, condition, step)
}

fn filter(make: &mut MacroExprHelper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>) -> Expanded {
    let variable = vec![variable(make, &args[0], "argument is not an identifier")?];
    let Some(condition) = args.pop() else { return Ok(None) };
    let Some(element) = args.pop() else { return Ok(None) };
    let element = make.next_expr(Expr::List(ListExpr::new(vec![element])));
    let so_far = accumulated(make);
    let step = call(make, operators::ADD, vec![so_far, element]);
    gather(make, target, variable, Some(condition), step)
}

/// A comprehension that gathers into a list, of those elements that meet a condition.
fn gather(
    make: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    variables: Vec<String>,
    condition: Option<IdedExpr>,
    step: IdedExpr,
) -> Expanded {
    let init = make.next_expr(Expr::List(ListExpr::default()));
    let step = if_met(make, condition, step);
    let (go_on, result) = (boolean(make, true), accumulated(make));
    comprehension(make, target, variables, init, go_on, step, result)
}

fn transform(
    make: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
    step: impl Fn(&mut MacroExprHelper<'_>, &str, IdedExpr) -> IdedExpr,
) -> Expanded {
    let variables = variables(make, args, "argument must be a simple name")?;
    let Some(value) = args.pop() else { return Ok(None) };
    let condition = args.pop();
    let step = step(make, &variables[0], value);
    let is_list = matches!(&step.expr, Expr::Call(call) if call.func_name == operators::ADD);
    let step = if_met(make, condition, step);
    let init = if is_list { Expr::List(ListExpr::default()) } else { Expr::Map(MapExpr::default()) };
    let (init, go_on, result) = (make.next_expr(init), boolean(make, true), accumulated(make));
    comprehension(make, target, variables, init, go_on, step, result)
}

fn if_met(make: &mut MacroExprHelper<'_>, condition: Option<IdedExpr>, step: IdedExpr) -> IdedExpr {
    match condition {
        Some(condition) => {
            let same = accumulated(make);
            call(make, operators::CONDITIONAL, vec![condition, step, same])
        }
        None => step,
    }
}

/// The variable that `sortBy` binds its target to.
const SORTED: &str = "@__sortBy_input__";

/// The target, bound, sorted by what the key is of each element.
fn sort_by(make: &mut MacroExprHelper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>) -> Expanded {
    let sortable = |target: &IdedExpr| {
        matches!(target.expr, Expr::List(_) | Expr::Select(_) | Expr::Ident(_) | Expr::Comprehension(_) | Expr::Call(_))
    };
    let Some(init) = target.take() else { return Ok(None) };
    if !sortable(&init) {
        let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(make.new_error(init.id, message));
    }
    let of = ident(make, SORTED);
    let Some(keys) = map(make, &mut Some(of), args)? else { return Ok(None) };
    let of = ident(make, SORTED);
    let mut sorted = member(make, SORT_BY_KEYS, of);
    if let Expr::Call(call) = &mut sorted.expr {
        call.args.push(keys);
    }
    Ok(Some(bind(make, SORTED, init, sorted)))
}

/// A comprehension that only binds a variable.
fn bind(make: &mut MacroExprHelper<'_>, variable: &str, init: IdedExpr, result: IdedExpr) -> IdedExpr {
    let range = make.next_expr(Expr::List(ListExpr::default()));
    let (go_on, step) = (boolean(make, false), ident(make, variable));
    make.next_expr(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: range,
        iter_var: UNUSED.to_owned(),
        iter_var2: None,
        accu_var: variable.to_owned(),
        accu_init: init,
        loop_cond: go_on,
        loop_step: step,
        result,
    })))
}

/// `target.hasValue() ? optional.of(…target.value() bound to the variable…) : optional.none()`.
fn optional_map(
    make: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
    wraps: bool,
) -> Expanded {
    let Expr::Ident(variable) = &args[0].expr else {
        let name = if wraps { "optMap" } else { "optFlatMap" };
        return Err(make.new_error(args[0].id, format!("{name}() variable name must be a simple identifier")));
    };
    let variable = variable.clone();
    let (Some(target), Some(value)) = (target.take(), args.pop()) else { return Ok(None) };
    args.clear();
    if count(&target) > limits::TREE_NODES / 4 {
        return Err(make.new_error(target.id, "the target of the macro is too large"));
    }
    // The copy has the same numbers: what is said of one is said of the other.
    let again = target.clone();
    let has_value = member(make, "hasValue", target);
    let value_of = member(make, "value", again);
    let bound = bind(make, &variable, value_of, value);
    let present = if wraps { call(make, "optional.of", vec![bound]) } else { bound };
    let absent = call(make, "optional.none", Vec::new());
    Ok(Some(call(make, operators::CONDITIONAL, vec![has_value, present, absent])))
}

fn count(expr: &IdedExpr) -> usize {
    let (mut nodes, mut open) = (0, vec![expr]);
    while let Some(expr) = open.pop() {
        nodes += 1;
        if nodes > limits::TREE_NODES {
            break;
        }
        for_each_part(&expr.expr, |part| open.push(part));
    }
    nodes
}

/// The names before the last argument, or the last two of four.
fn variables(
    make: &mut MacroExprHelper<'_>,
    args: &mut Vec<IdedExpr>,
    complaint: &str,
) -> Result<Vec<String>, ParseError> {
    let count = if args.len() > 2 { 2 } else { 1 };
    let mut names = Vec::with_capacity(count);
    for arg in args.drain(..count) {
        let name = variable(make, &arg, complaint)?;
        if names.contains(&name) {
            return Err(make.new_error(arg.id, format!("duplicate variable name: {name}")));
        }
        names.push(name);
    }
    Ok(names)
}

fn variable(make: &mut MacroExprHelper<'_>, arg: &IdedExpr, complaint: &str) -> Result<String, ParseError> {
    match &arg.expr {
        Expr::Ident(name) if name == ACCUMULATOR || name == "__result__" => {
            Err(make.new_error(arg.id, "iteration variable overwrites accumulator variable"))
        }
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err(make.new_error(arg.id, complaint)),
    }
}

fn comprehension(
    make: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    mut variables: Vec<String>,
    init: IdedExpr,
    go_on: IdedExpr,
    step: IdedExpr,
    result: IdedExpr,
) -> Expanded {
    let Some(range) = target.take() else { return Ok(None) };
    let second = if variables.len() > 1 { variables.pop() } else { None };
    let Some(first) = variables.pop() else { return Ok(None) };
    Ok(Some(make.next_expr(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: range,
        iter_var: first,
        iter_var2: second,
        accu_var: ACCUMULATOR.to_owned(),
        accu_init: init,
        loop_cond: go_on,
        loop_step: step,
        result,
    })))))
}

fn accumulated(make: &mut MacroExprHelper<'_>) -> IdedExpr {
    ident(make, ACCUMULATOR)
}

fn ident(make: &mut MacroExprHelper<'_>, name: &str) -> IdedExpr {
    make.next_expr(Expr::Ident(name.to_owned()))
}

fn boolean(make: &mut MacroExprHelper<'_>, value: bool) -> IdedExpr {
    make.next_expr(Expr::Literal(LiteralValue::Boolean(value.into())))
}

fn number(make: &mut MacroExprHelper<'_>, value: i64) -> IdedExpr {
    make.next_expr(Expr::Literal(LiteralValue::Int(value.into())))
}

fn call(make: &mut MacroExprHelper<'_>, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    make.next_expr(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
}

fn member(make: &mut MacroExprHelper<'_>, name: &str, target: IdedExpr) -> IdedExpr {
    make.next_expr(Expr::Call(CallExpr {
        func_name: name.to_owned(),
        target: Some(Box::new(target)),
        args: Vec::new(),
    }))
}
