//! The type checker: which variable, type or overload each part of a tree means, and what type it has.

mod literals;
mod unify;

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr, StructExpr,
};

use crate::environment::{Environment, field_type, made_field_type};
use crate::errors::{CompileErrors, Issue};
use crate::library::Overload;
use crate::limits;
use crate::parse::Parsed;
use crate::types::{Opaque, Type};
use unify::{Substitution, most_general};

/// What the checker found out, by the number of the node.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    types: HashMap<u64, Type>,
    pub calls: HashMap<u64, Call>,
    pub names: HashMap<u64, Name>,
}

/// What a call means.
#[derive(Debug)]
pub(crate) struct Call {
    /// The overloads that fit: one, unless types are known only when it runs.
    pub overloads: Vec<&'static Overload>,
    /// Whether the target is but the function's namespace: `sets.contains(a, b)`.
    pub namespaced: bool,
}

/// What a name that is no variable of a macro means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name {
    Variable(usize),
    Type(&'static str),
    Composed(usize),
}

impl Checked {
    pub fn ty(&self, expr: &IdedExpr) -> &Type {
        self.types.get(&expr.id).unwrap_or(&Type::Dyn)
    }
}

pub(crate) fn check(source: &str, parsed: &Parsed, environment: &Environment) -> Result<Checked, CompileErrors> {
    let mut checker = Checker {
        parsed,
        environment,
        checked: Checked::default(),
        substitution: Substitution::default(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.expr(&parsed.expr);
    let Checker { mut checked, substitution, mut issues, .. } = checker;
    for ty in checked.types.values_mut() {
        *ty = substitution.resolve(ty, true);
    }
    if issues.is_empty() {
        literals::check(parsed, &checked, &mut issues);
    }
    if issues.is_empty() { Ok(checked) } else { Err(CompileErrors::new(source, issues)) }
}

struct Checker<'p> {
    parsed: &'p Parsed,
    environment: &'p Environment,
    checked: Checked,
    substitution: Substitution,
    /// Variables of macros, the innermost last.
    scopes: Vec<(&'p str, Type)>,
    issues: Vec<Issue>,
}

/// Parts that a type may have: `{x: x}` within `{x: x}` doubles it each time.
const TYPE_PARTS: usize = 2000;

fn parts(ty: &Type, left: &mut usize) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    match ty {
        Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => parts(of, left),
        Type::Map(entry) => parts(&entry.0, left) && parts(&entry.1, left),
        _ => true,
    }
}

impl<'p> Checker<'p> {
    fn report(&mut self, id: u64, message: String) {
        if self.issues.len() < limits::ERRORS {
            self.issues.push(Issue { position: self.parsed.position(id), message });
        }
    }

    fn ty(&self, expr: &IdedExpr) -> Type {
        self.checked.ty(expr).clone()
    }

    fn shown(&self, ty: &Type) -> Type {
        self.substitution.resolve(ty, true)
    }

    fn expr(&mut self, expr: &'p IdedExpr) {
        let mut ty = match &expr.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(literal) => of_literal(literal),
            Expr::Ident(name) => self.ident(expr.id, name),
            Expr::Select(select) => self.select(expr, select),
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(made) => self.made(expr.id, made),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        };
        if !parts(&ty, &mut TYPE_PARTS.clone()) {
            self.report(expr.id, "the type of the expression is too large".to_owned());
            ty = Type::Error;
        }
        self.checked.types.insert(expr.id, ty);
    }

    fn undeclared(&mut self, id: u64, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    /// A variable or type of this name.
    fn named(&mut self, id: u64, name: &str) -> Option<Type> {
        let name = match name.strip_prefix('.') {
            Some(name) => name,
            None => {
                if let Some((_, ty)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
                    return Some(ty.clone());
                }
                name
            }
        };
        if let Some(index) = self.environment.index(name) {
            self.checked.names.insert(id, Name::Variable(index));
            return self.environment.ty(index).cloned();
        }
        let (name, ty) = type_named(name)?;
        self.checked.names.insert(id, Name::Type(name));
        Some(Type::Type(Some(ty.into())))
    }

    fn ident(&mut self, id: u64, name: &str) -> Type {
        match self.named(id, name) {
            Some(ty) => ty,
            None => self.undeclared(id, name),
        }
    }

    fn select(&mut self, expr: &'p IdedExpr, select: &'p SelectExpr) -> Type {
        // A dotted name may be a type's.
        if let Some(name) = qualified(expr)
            && let Some(ty) = self.named(expr.id, &name)
        {
            return ty;
        }
        let ty = self.field(expr.id, &select.operand, &select.field, false);
        if select.test { Type::Bool } else { self.substitution.resolve(&ty, false) }
    }

    fn field(&mut self, id: u64, operand: &'p IdedExpr, field: &str, optional: bool) -> Type {
        self.expr(operand);
        let operand = self.substitution.resolve(self.checked.ty(operand), false);
        let (target, is_optional) = match &operand {
            Type::Optional(of) => (of.as_ref(), true),
            other => (other, false),
        };
        let found = match target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(object) => match field_type(object, field) {
                Some(ty) => ty,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Made(name) => match made_field_type(name, field) {
                Some(ty) => ty,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Opaque(Opaque::Variables) => match self.environment.composed(field) {
                Some((index, ty)) => {
                    self.checked.names.insert(id, Name::Composed(index));
                    ty.clone()
                }
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            // Most libraries' types are declared as objects that nobody describes; the abstract ones support no selection.
            Type::Opaque(opaque) if !matches!(opaque, Opaque::Ip | Opaque::Cidr) => {
                self.report(id, format!("unexpected failed resolution of '{}'", opaque.name()));
                Type::Error
            }
            Type::Variable(_) => {
                self.substitution.assign(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if is_optional || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, expr: &'p IdedExpr, call: &'p CallExpr) -> Type {
        if call.func_name == cel::common::ast::operators::OPT_SELECT
            && let [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }] = call.args.as_slice()
        {
            let ty = self.field(expr.id, operand, field.inner(), true);
            self.checked.types.insert(call.args[1].id, Type::String);
            return self.substitution.resolve(&ty, false);
        }
        for arg in &call.args {
            self.expr(arg);
        }
        let name = call.func_name.trim_start_matches('.');
        let Some(target) = &call.target else {
            return match self.environment.function(name) {
                Some(overloads) => self.resolve(expr, name, overloads, None, call, false),
                None => self.undeclared(expr.id, &call.func_name),
            };
        };
        if let Some(prefix) = qualified(target)
            && let Some(overloads) = self.environment.function(&format!("{}.{name}", prefix.trim_start_matches('.')))
        {
            return self.resolve(expr, overloads[0].name, overloads, None, call, true);
        }
        self.expr(target);
        match self.environment.function(name) {
            Some(overloads) => self.resolve(expr, name, overloads, Some(target), call, false),
            None => self.undeclared(expr.id, name),
        }
    }

    fn resolve(
        &mut self,
        expr: &'p IdedExpr,
        name: &str,
        overloads: &'static [&'static Overload],
        target: Option<&'p IdedExpr>,
        call: &'p CallExpr,
        namespaced: bool,
    ) -> Type {
        let args: Vec<Type> = target.into_iter().chain(&call.args).map(|arg| self.ty(arg)).collect();
        if matches!(name, "_&&_" | "_||_") {
            let mut failed = false;
            for (arg, ty) in call.args.iter().zip(&args) {
                if !self.substitution.assign(ty, &Type::Bool) {
                    failed = true;
                    self.report(arg.id, format!("expected type 'bool' but found '{ty}'"));
                }
            }
            self.checked.calls.insert(expr.id, Call { overloads: overloads.to_vec(), namespaced });
            return if failed { Type::Error } else { Type::Bool };
        }
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        for &overload in overloads {
            if overload.member != target.is_some() {
                continue;
            }
            // Variables are numbered as cel-go numbers them, since messages show them.
            let first = self.substitution.fresh_many(overload.parameters());
            let variables = (first, first + overload.parameters().saturating_sub(1));
            let expected: Vec<Type> = overload.args.iter().map(|sig| sig.instantiate(variables)).collect();
            if !self.substitution.assign_all(&args, &expected) {
                continue;
            }
            fitting.push(overload);
            let of_this = self.substitution.resolve(&overload.result.instantiate(variables), false);
            result = Some(match result {
                None => of_this,
                Some(so_far) if so_far.is_dyn() || so_far == of_this => so_far,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = args.iter().map(|ty| self.shown(ty).to_string()).collect();
            let signature = match (target, shown.split_first()) {
                (Some(_), Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.report(expr.id, format!("found no matching overload for '{name}' applied to '{signature}'"));
            return Type::Error;
        };
        self.checked.calls.insert(expr.id, Call { overloads: fitting, namespaced });
        result
    }

    /// The type of elements after one more. That they are of one type is looked at when all types are known.
    fn join(&mut self, so_far: Option<Type>, more: Type) -> Type {
        match so_far {
            None => more,
            Some(so_far) if self.substitution.assign(&so_far, &more) => most_general(so_far, more),
            Some(_) => Type::Dyn,
        }
    }

    fn unwrapped(&mut self, value: &'p IdedExpr, optional: bool) -> Type {
        let ty = self.substitution.resolve(self.checked.ty(value), false);
        match &ty {
            Type::Optional(of) if optional => of.as_ref().clone(),
            _ => {
                if optional && !ty.is_dyn() {
                    let message =
                        format!("expected type '{}' but found '{}'", Type::optional(self.shown(&ty)), self.shown(&ty));
                    self.report(value.id, message);
                }
                ty
            }
        }
    }

    fn list(&mut self, list: &'p ListExpr) -> Type {
        let mut element = None;
        for (index, value) in list.elements.iter().enumerate() {
            self.expr(value);
            let ty = self.unwrapped(value, list.optional_indices.contains(&index));
            element = Some(self.join(element, ty));
        }
        Type::list(element.unwrap_or_else(|| Type::Variable(self.substitution.fresh())))
    }

    fn map(&mut self, map: &'p MapExpr) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            self.expr(&entry.key);
            let key = self.ty(&entry.key);
            keys = Some(self.join(keys, key));
            self.expr(&entry.value);
            let value = self.unwrapped(&entry.value, entry.optional);
            values = Some(self.join(values, value));
        }
        let mut unknown = || Type::Variable(self.substitution.fresh());
        let keys = keys.unwrap_or_else(&mut unknown);
        Type::map(keys, values.unwrap_or_else(unknown))
    }

    fn made(&mut self, id: u64, made: &'p StructExpr) -> Type {
        let name = made.type_name.trim_start_matches('.');
        let Some(ty) = self.environment.made(name) else { return self.undeclared(id, &made.type_name) };
        for entry in &made.entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            self.expr(&field.value);
            let value = self.unwrapped(&field.value, field.optional);
            let Some(expected) = made_field_type(name, &field.field) else {
                let shown = self.shown(&value);
                // Upstream has such a field, but no type for it.
                let message = format!("expected type of field '{}' is '' but provided type is '{shown}'", field.field);
                self.report(entry.id, message);
                continue;
            };
            if !self.substitution.assign(&expected, &value) {
                let message = format!(
                    "expected type of field '{}' is '{expected}' but provided type is '{}'",
                    field.field,
                    self.shown(&value)
                );
                self.report(entry.id, message);
            }
        }
        ty
    }

    fn comprehension(&mut self, comprehension: &'p ComprehensionExpr) -> Type {
        self.expr(&comprehension.iter_range);
        self.expr(&comprehension.accu_init);
        let range = self.substitution.resolve(self.checked.ty(&comprehension.iter_range), false);
        let gathered = self.ty(&comprehension.accu_init);
        self.scopes.push((&comprehension.accu_var, gathered.clone()));
        let two = comprehension.iter_var2.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, of.as_ref().clone()),
            Type::List(of) => (of.as_ref().clone(), Type::Error),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Variable(_) => {
                self.substitution.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(comprehension.iter_range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let scopes = self.scopes.len();
        self.scopes.push((&comprehension.iter_var, first));
        if let Some(name) = &comprehension.iter_var2 {
            self.scopes.push((name, second));
        }
        self.expr(&comprehension.loop_cond);
        self.must_be(&comprehension.loop_cond, &Type::Bool);
        self.expr(&comprehension.loop_step);
        self.must_be(&comprehension.loop_step, &gathered);
        self.scopes.truncate(scopes);
        self.expr(&comprehension.result);
        self.scopes.truncate(scopes - 1);
        self.substitution.resolve(self.checked.ty(&comprehension.result), false)
    }

    fn must_be(&mut self, expr: &'p IdedExpr, ty: &Type) {
        let found = self.ty(expr);
        if !self.substitution.assign(ty, &found) {
            self.report(expr.id, format!("expected type '{ty}' but found '{found}'"));
        }
    }
}

fn of_literal(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// The dotted name that an expression spells.
fn qualified(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            let mut name = qualified(&select.operand)?;
            name.push('.');
            name.push_str(&select.field);
            Some(name)
        }
        _ => None,
    }
}

/// The types that a source may name, and their names.
fn type_named(name: &str) -> Option<(&'static str, Type)> {
    Some(match name {
        "bool" => ("bool", Type::Bool),
        "int" => ("int", Type::Int),
        "uint" => ("uint", Type::Uint),
        "double" => ("double", Type::Double),
        "string" => ("string", Type::String),
        "bytes" => ("bytes", Type::Bytes),
        "list" => ("list", Type::list(Type::Dyn)),
        "map" => ("map", Type::map(Type::Dyn, Type::Dyn)),
        "null_type" => ("null_type", Type::Null),
        "type" => ("type", Type::Type(None)),
        "optional_type" => ("optional_type", Type::optional(Type::Dyn)),
        "google.protobuf.Duration" => ("google.protobuf.Duration", Type::Duration),
        "google.protobuf.Timestamp" => ("google.protobuf.Timestamp", Type::Timestamp),
        _ => {
            let opaque = Opaque::ALL.into_iter().find(|opaque| opaque.name() == name)?;
            (opaque.name(), Type::Opaque(opaque))
        }
    })
}
