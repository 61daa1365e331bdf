//! The objects that a binding has as parameters of its policy.

use hypernetes_api::ApiError;
use hypernetes_kinds::{Endpoint, Home, field::Field, selector};
use hypernetes_policy::{Absent, Binding, ParameterKind, Parameters, Which};
use hypernetes_store::{Entry, Key, Prefix, RangeOptions};
use serde_json::Value;

use super::super::Request;
use crate::stored_form;

/// Objects that a selector may select: each is an evaluation of its own.
const MOST: usize = 500;

/// What could not be found: refused, or the server's own trouble.
pub enum Missing {
    Said(String),
    Error(ApiError),
}

impl<E: Into<ApiError>> From<E> for Missing {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// The resource of a kind of parameters. Of the operator's objects tenants see parts only: these are nobody's parameters.
pub async fn resource(request: &Request<'_>, kind: &ParameterKind) -> Result<Option<Endpoint>, ApiError> {
    let tenant = request.call.tenant()?;
    let (group, version) = kind.group_version();
    let view = request.server.definitions.view(&tenant).await?;
    let is = |one: &&Endpoint| {
        one.served.ty.group == group && one.served.ty.version == version && one.served.ty.kind == kind.kind
    };
    let found = view.all().iter().find(is).cloned();
    Ok(found.filter(|found| found.resource.home == Home::Tenant || tenant.is_system() && found.resource.is_stored()))
}

/// Each of them; `null` alone where a policy is bound without.
///
/// # Errors
/// What cannot be done, in upstream's words.
pub async fn collect(
    request: &Request<'_>,
    kind: Option<&Endpoint>,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Value>, Missing> {
    let (Some(Endpoint { resource, served }), Some(parameters)) = (kind, &binding.parameters) else {
        return Ok(vec![Value::Null]);
    };
    let said = |why: &str| Missing::Said(why.to_owned());
    let Parameters { namespace: named, of, absent } = parameters;
    let within = match (served.ty.namespaced, named.as_str(), namespace) {
        (true, "", "") => {
            return Err(said("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"));
        }
        (true, "", namespace) => namespace,
        (true, named, _) => named,
        (false, "", _) => "",
        (false, ..) => {
            return Err(said("paramRef.namespace must not be provided for a cluster-scoped `paramKind`"));
        }
    };
    let (tenant, store) = (request.call.tenant()?, &request.server.store);
    let shown = |entry: &Entry| Ok::<_, ApiError>(served.from_stored(stored_form::decode(entry)?));
    let mut found = Vec::new();
    match of {
        Which::Named(name) => {
            // A name that is none is nobody's.
            if let Ok(key) = Key::new(&resource.id, &tenant, within, name)
                && let Some(entry) = store.get(&key).await?
            {
                found.push(shown(&entry)?);
            }
        }
        Which::Selected(wanted) => {
            let prefix = Prefix::tenant(&resource.id, &tenant, Some(within).filter(|within| !within.is_empty()));
            if let Ok(prefix) = prefix {
                for entry in store.range(&prefix, RangeOptions::default()).await?.entries {
                    let object = shown(&entry)?;
                    if selector::matches(&Field::root(wanted), &object["metadata"]["labels"]) == Some(true) {
                        found.push(object);
                    }
                    if found.len() > MOST {
                        return Err(Missing::Said(format!("paramRef.selector selects more than {MOST} objects")));
                    }
                }
            }
        }
    }
    if found.is_empty() && *absent == Absent::Deny {
        return Err(said("no params found for policy binding with `Deny` parameterNotFoundAction"));
    }
    Ok(found)
}

/// What is said of a kind that there is not.
pub fn unknown(kind: &ParameterKind) -> String {
    let (group, version) = kind.group_version();
    format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'", kind.kind)
}
