//! What expressions about a request may name: those of admission policies, and the match conditions of webhooks.

use std::sync::LazyLock;

use hypernetes_cel::{Declaration, Environment, EvalError, ObjectType, Opaque, Type, Value};
use hypernetes_schema::{self as schema, openapi};
use serde_json::Value as Json;

/// Which variables there are besides those that always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variables {
    /// `params`: the policy has parameters.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// Expressions make objects and patches.
    pub mutates: bool,
}

/// Their values; JSON's `null` for what is not there.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub object: &'a Json,
    pub old_object: &'a Json,
    /// As an `AdmissionRequest` has it, without the objects.
    pub request: &'a Json,
    pub namespace_object: &'a Json,
    pub params: &'a Json,
    /// Group, resource, subresource, namespace and name of the request.
    pub resource: [&'a str; 5],
}

impl Variables {
    /// With `variables`, which have no fields until some are composed.
    pub fn environment(self) -> Environment {
        let environment = Environment::new()
            .variable("object", Type::Dyn)
            .variable("oldObject", Type::Dyn)
            .declared("namespaceObject", &NAMESPACE)
            .declared("request", &REQUEST);
        self.rest(environment)
    }

    /// As [`Self::environment`], with objects and parameters of which it is known what they are; none: they may be anything.
    pub fn environment_of(self, object: Option<&Declaration>, params: Option<&Declaration>) -> Environment {
        let declare = |environment: Environment, name, declared: Option<&Declaration>| match declared {
            Some(declared) => environment.declared(name, declared),
            None => environment.variable(name, Type::Dyn),
        };
        let environment = declare(Environment::new(), "object", object);
        let environment = declare(environment, "oldObject", object)
            .declared("namespaceObject", &NAMESPACE)
            .declared("request", &REQUEST);
        match (self.params, params) {
            (true, Some(params)) => Self { params: false, ..self }.rest(environment.declared("params", params)),
            _ => self.rest(environment),
        }
    }

    fn rest(self, mut environment: Environment) -> Environment {
        if self.params {
            environment = environment.variable("params", Type::Dyn);
        }
        environment = environment.variable("variables", Type::Opaque(Opaque::Variables));
        // Last: who may not name them has the same places for all else.
        if self.authorizer {
            environment = environment.authorizer("authorizer", false).authorizer("authorizer.requestResource", true);
        }
        if self.mutates { environment.mutates() } else { environment }
    }

    /// In the order of [`Self::environment`].
    ///
    /// # Errors
    /// When the request or the namespace is not of its type.
    pub fn values<'a>(self, values: &Values<'a>) -> Result<Vec<Value<'a>>, EvalError> {
        let declared = |json: &'a Json, declared| match json {
            Json::Null => Ok(Value::Null),
            _ => Value::of_json(json, Some(declared)),
        };
        let mut list = vec![
            Value::of_json(values.object, None)?,
            Value::of_json(values.old_object, None)?,
            declared(values.namespace_object, &*NAMESPACE)?,
            declared(values.request, &*REQUEST)?,
        ];
        if self.params {
            list.push(Value::of_json(values.params, None)?);
        }
        list.push(Value::Variables);
        if self.authorizer {
            let [group, resource, subresource, namespace, name] = values.resource;
            list.extend([Value::authorizer(), Value::resource_check(group, resource, subresource, namespace, name)]);
        }
        Ok(list)
    }
}

/// What objects of a kind are to expressions that are checked by it: what clients are told of it. None: anything.
pub fn declared(ty: &schema::ObjectType) -> Option<Declaration> {
    Declaration::of_schema(&ty.kind, &openapi::whole(ty), true)
}

/// What a variable of a policy is to the expressions that name it, by the type of its own expression: of objects and of what
/// libraries have, nothing is known.
pub fn variable_type(ty: &Type) -> Type {
    match ty {
        Type::List(of) => Type::list(variable_type(of)),
        Type::Map(of) => Type::map(variable_type(&of.0), variable_type(&of.1)),
        Type::Null | Type::Bool | Type::Int | Type::Uint | Type::Double | Type::String | Type::Bytes => ty.clone(),
        Type::Duration | Type::Timestamp => ty.clone(),
        _ => Type::Dyn,
    }
}

fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Declaration)>) -> Declaration {
    Declaration::object(ObjectType::new(format!("kubernetes.{name}"), fields))
}

/// Upstream's `BuildRequestType` (`k8s.io/apiserver/pkg/admission/plugin/cel/compile.go`): an `AdmissionRequest` without uid and objects.
static REQUEST: LazyLock<Declaration> = LazyLock::new(|| {
    let text = Declaration::string;
    let texts = || Declaration::list(text());
    let named = |name, last| object(name, [("group", text()), ("version", text()), (last, text())]);
    let kind = || named("GroupVersionKind", "kind");
    let resource = || named("GroupVersionResource", "resource");
    let user = [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Declaration::map(texts()))];
    object(
        "AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", object("UserInfo", user)),
            ("dryRun", Declaration::boolean()),
            ("options", Declaration::any()),
        ],
    )
});

/// Upstream's `BuildNamespaceType`. Its `UID` is upstream's too: no namespace has it.
static NAMESPACE: LazyLock<Declaration> = LazyLock::new(|| {
    let (text, number, time) = (Declaration::string, Declaration::integer, Declaration::timestamp);
    let texts = || Declaration::list(text());
    let metadata = [
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", Declaration::map(text())),
        ("annotations", Declaration::map(text())),
        ("UID", text()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", number()),
        ("deletionTimestamp", time()),
        ("generation", number()),
        ("resourceVersion", text()),
        ("finalizers", texts()),
    ];
    let condition =
        [("status", text()), ("type", text()), ("lastTransitionTime", time()), ("message", text()), ("reason", text())];
    let status = [("conditions", Declaration::list(object("NamespaceCondition", condition))), ("phase", text())];
    object(
        "Namespace",
        [
            ("metadata", object("NamespaceMetadata", metadata)),
            ("spec", object("NamespaceSpec", [("finalizers", texts())])),
            ("status", object("NamespaceStatus", status)),
        ],
    )
});
