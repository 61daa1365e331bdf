//! `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy`: what an expression says of a request, and what it makes of its
//! object. Neither does anything until a binding names it.

use std::{collections::HashSet, sync::LazyLock};

use hypernetes_cel::{Environment, Type, names};
use k8s_openapi::api::admissionregistration::v1::{MutatingAdmissionPolicy, ValidatingAdmissionPolicy};
use serde_json::{Value, json};

use super::{
    REINVOCATION, check_failure_policy,
    expression::{Expression, alone, check_amount, check_conditions},
    matching,
};
use crate::{
    columns::{Cell, between, column, text},
    condition,
    expressions::admission::{Variables, variable_type},
    field::{Errors, Field},
    format,
    internal::{Internal, TEXT},
    json_path::JsonPath,
    resource::Resource,
    subresource::Subresource,
};

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource::kubernetes::<ValidatingAdmissionPolicy>("validatingadmissionpolicies")
            .subresources([Subresource::status()])
            .columns(between([
                column("Validations", Cell::Count("spec.validations".into())).kind("integer"),
                column("ParamKind", Cell::Of(param_kind)),
            ]))
            .first_status(|_| json!({}))
            .counts_changes()
            .check(check_validating)
            .on_status(check_status),
        Resource::kubernetes::<MutatingAdmissionPolicy>("mutatingadmissionpolicies")
            .columns(between([
                column("Mutations", Cell::Count("spec.mutations".into())).kind("integer"),
                column("ParamKind", Cell::Of(param_kind)),
            ]))
            .counts_changes()
            .check(check_mutating),
    ]
}

fn param_kind(policy: &Value) -> Value {
    match policy["spec"].get("paramKind") {
        None => "<unset>".into(),
        Some(kind) => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")).into(),
    }
}

const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_BYTES: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

static ANNOTATIONS: Internal =
    Internal::List(&Internal::Struct(&[("key", "Key", TEXT), ("valueExpression", "ValueExpression", TEXT)]));
static CONFIGURATION: LazyLock<Type> = LazyLock::new(|| Type::Made("Object".into()));
static PATCH: LazyLock<Type> = LazyLock::new(|| Type::list(Type::Made("JSONPatch".into())));

fn check_validating(policy: &Field<'_>, errors: &mut Errors) {
    let spec = policy.get("spec");
    if !check_amount(&spec, errors) {
        return;
    }
    let params = spec.get("paramKind").is_set();
    check_spec(&spec, false, errors);
    check_conditions(&spec.get("matchConditions"), params, errors);
    let variables = spec.get("variables");
    let environments = Environments::of(&variables, !variables.is_empty(), params, errors);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        validations.required(errors, why);
        annotations.required(errors, why);
    }
    validations.items().for_each(|validation| environments.check_validation(&validation, errors));
    if annotations.len() > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        annotations.invalid_as(errors, ANNOTATIONS.shown(annotations.value), why);
    }
    let (name, mut keys) = (policy.walk(["metadata", "name"]), HashSet::new());
    for annotation in annotations.items() {
        environments.check_annotation(&annotation, name.text(), errors);
        if !keys.insert(annotation.get("key").text()) {
            annotation.get("key").duplicate(errors);
        }
    }
}

fn check_mutating(policy: &Field<'_>, errors: &mut Errors) {
    let spec = policy.get("spec");
    if !check_amount(&spec, errors) {
        return;
    }
    let params = spec.get("paramKind").is_set();
    check_spec(&spec, true, errors);
    check_conditions(&spec.get("matchConditions"), params, errors);
    let environments = Environments::of(&spec.get("variables"), true, params, errors);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        mutations.required(errors, "mutations must contain at least one item");
    }
    let environment = environments.usual.mutates();
    mutations.items().for_each(|mutation| check_mutation(&mutation, &environment, errors));
    spec.get("reinvocationPolicy").required_one_of(errors, REINVOCATION);
}

/// What both kinds say before their expressions.
fn check_spec(spec: &Field<'_>, mutates: bool, errors: &mut Errors) {
    check_failure_policy(&spec.get("failurePolicy"), errors);
    let kind = spec.get("paramKind");
    if kind.is_set() {
        check_param_kind(&kind, errors);
    }
    let constraints = spec.get("matchConstraints");
    if !constraints.is_set() {
        return constraints.required(errors, "");
    }
    matching::check(&constraints, errors);
    constraints.get("resourceRules").not_empty(errors);
    if mutates {
        matching::check_mutated(&constraints, errors);
    }
}

fn check_param_kind(param: &Field<'_>, errors: &mut Errors) {
    let (version, kind) = (param.get("apiVersion"), param.get("kind"));
    match version.text().split_once('/') {
        _ if version.is_empty() => version.required(errors, ""),
        Some((_, rest)) if rest.contains('/') => {
            version.invalid(errors, format!("unexpected GroupVersion string: {}", version.text()));
        }
        Some((group, number)) => {
            if !group.is_empty() {
                joined(&version, group, format::subdomain(group), errors);
            }
            check_version(&version, number, errors);
        }
        None => check_version(&version, version.text(), errors),
    }
    if kind.is_empty() {
        return kind.required(errors, "");
    }
    let faults = format::letter_label(&kind.text().to_lowercase());
    if !faults.is_empty() {
        kind.invalid(errors, format!("may have mixed case, but should otherwise match: {}", faults.join(",")));
    }
}

fn check_version(field: &Field<'_>, version: &str, errors: &mut Errors) {
    match version {
        "" => field.invalid(errors, "version must be specified"),
        _ => joined(field, version, format::letter_label(version), errors),
    }
}

/// All faults of a part of a text as one error.
fn joined(field: &Field<'_>, part: &str, faults: format::Faults, errors: &mut Errors) {
    if !faults.is_empty() {
        field.invalid_quoted(errors, part, faults.join(","));
    }
}

/// What a policy's expressions may name, its variables included.
struct Environments {
    usual: Environment,
    /// Of messages, which ask no authorizer.
    messages: Environment,
}

impl Environments {
    /// Each variable may name those before it.
    fn of(variables: &Field<'_>, composed: bool, params: bool, errors: &mut Errors) -> Self {
        let make = |authorizer| {
            let variables = Variables { params, authorizer, mutates: false };
            if composed { variables.environment() } else { alone(variables) }
        };
        let mut all = Self { usual: make(true), messages: make(false) };
        for variable in variables.items() {
            let (name, expression) = (variable.get("name"), variable.get("expression"));
            if name.text().trim().is_empty() {
                name.required(errors, "name is not specified");
            } else if !names::is_identifier(name.text()) {
                name.invalid(errors, "must be a valid CEL identifier");
            }
            if expression.text().trim().is_empty() {
                expression.required(errors, "expression is not specified");
                continue;
            }
            let ty = Expression::whole(expression, &[]).check(&all.usual, errors);
            // One that is wrong may be anything: what names it is not wrong for it.
            let ty = ty.map_or(Type::Dyn, |ty| variable_type(&ty));
            all.usual = all.usual.compose(name.text(), ty.clone());
            all.messages = all.messages.compose(name.text(), ty);
        }
        all
    }

    fn check_validation(&self, validation: &Field<'_>, errors: &mut Errors) {
        let get = |name: &'static str| validation.get(name);
        let (expression, message, of_message) = (get("expression"), get("message"), get("messageExpression"));
        match expression.text().trim() {
            "" => expression.required(errors, "expression is not specified"),
            _ => drop(Expression::whole(expression, &[Type::Bool]).check(&self.usual, errors)),
        }
        match of_message.text().trim() {
            "" if of_message.is_empty() => {}
            "" => of_message.invalid(errors, "must be non-empty if specified"),
            _ => drop(Expression::whole(of_message, &[Type::String]).check(&self.messages, errors)),
        }
        let said = message.text().trim();
        if !message.is_empty() && said.is_empty() {
            message.invalid(errors, "must be non-empty if specified");
        } else if said.contains(['\n', '\r']) {
            message.invalid(errors, "must not contain line breaks");
        }
        get("reason").optional_one_of(errors, REASONS);
    }

    fn check_annotation(&self, annotation: &Field<'_>, policy: &str, errors: &mut Errors) {
        let (key, value) = (annotation.get("key"), annotation.get("valueExpression"));
        match policy {
            "" => key.invalid_text(errors, "requires metadata.name be non-empty"),
            _ => {
                let whole = format!("{policy}/{}", key.text());
                let faults = format::qualified_name(&whole);
                faults.into_iter().for_each(|fault| key.invalid_quoted(errors, &whole, fault));
            }
        }
        let source = value.text().trim();
        if source.is_empty() {
            value.required(errors, "valueExpression is not specified");
        } else if source.len() > MAX_ANNOTATION_BYTES {
            value.required(errors, &format!("must not exceed {MAX_ANNOTATION_BYTES} bytes in length"));
        } else {
            let shown = value.text();
            let wanted = &[Type::String, Type::Null];
            Expression { field: value, source, shown, wanted }.check(&self.usual, errors);
        }
    }
}

fn check_mutation(mutation: &Field<'_>, environment: &Environment, errors: &mut Errors) {
    let kind = mutation.get("patchType");
    let (name, other, wanted) = match kind.text() {
        "JSONPatch" => ("jsonPatch", "applyConfiguration", &PATCH),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", &CONFIGURATION),
        _ => return kind.required_one_of(errors, &["ApplyConfiguration", "JSONPatch"]),
    };
    let (patch, other_patch) = (mutation.get(name), mutation.get(other));
    if patch.is_set() {
        let wanted = std::slice::from_ref::<Type>(wanted);
        let expression = Expression::trimmed(patch.get("expression"), wanted);
        match expression.source {
            "" => expression.field.required(errors, ""),
            _ => drop(expression.check(environment, errors)),
        }
    } else {
        patch.required(errors, &format!("must be specified when patchType is {}", kind.text()));
    }
    if other_patch.is_set() {
        let why = format!("must not be specified when patchType is {}", kind.text());
        other_patch.invalid_quoted(errors, &format!("{{{other}}}"), why);
    }
}

fn check_status(policy: &Field<'_>, _: &Field<'_>, errors: &mut Errors) {
    let status = policy.get("status");
    for warning in status.walk(["typeChecking", "expressionWarnings"]).items() {
        warning.get("warning").not_empty(errors);
        let place = warning.get("fieldRef");
        match place.text().trim() {
            "" => place.required(errors, ""),
            path if !JsonPath::is_one(path) => place.invalid_quoted(errors, path, "invalid JSONPath"),
            _ => {}
        }
    }
    condition::check(&status.get("conditions"), errors);
}
