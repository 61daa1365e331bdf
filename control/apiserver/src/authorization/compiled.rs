//! Roles and bindings as they are evaluated.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use hypernetes_api::{auth::UserInfo, names};
use serde_json::{Value, json};

use crate::{authorization::rbac::Rule, request::selectors::Selector};

/// The rules of a role, in the parts that it has them from.
pub type Rules = Arc<[Arc<[Rule]>]>;

/// A Role or a ClusterRole.
pub struct Role {
    own: Rules,
    /// `{"metadata": {"labels": …}}`
    labels: Value,
    /// Whose rules it has instead of its own.
    selects: Option<Vec<Selector>>,
}

impl Role {
    pub fn compile(role: &Value) -> Self {
        let rules: Arc<[Rule]> = Rule::of_role(role).into();
        let labels = match &role["metadata"]["labels"] {
            Value::Object(labels) if !labels.is_empty() => json!({"metadata": {"labels": labels}}),
            _ => Value::Null,
        };
        let rule = &role["aggregationRule"];
        let selectors =
            || rule["clusterRoleSelectors"].as_array().into_iter().flatten().filter_map(Selector::of_object);
        Self { own: [rules].into(), labels, selects: rule.is_object().then(|| selectors().collect()) }
    }

    pub fn is_aggregated(&self) -> bool {
        self.selects.is_some()
    }

    /// What it says itself.
    pub fn own(&self) -> &Rules {
        &self.own
    }
}

/// Which role a binding gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    pub cluster: bool,
    pub name: Box<str>,
}

impl RoleRef {
    /// Of a `roleRef`.
    pub fn compile(reference: &Value) -> Self {
        Self { cluster: reference["kind"] == "ClusterRole", name: text(&reference["name"]) }
    }

    pub fn kind(&self) -> &'static str {
        if self.cluster { "ClusterRole" } else { "Role" }
    }
}

/// Whom a binding is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    User(Box<str>),
    Group(Box<str>),
    Account { namespace: Box<str>, name: Box<str> },
}

impl Subject {
    /// `namespace`: the binding's, which an account is of that names none.
    fn compile(subject: &Value, namespace: &str) -> Option<Self> {
        let name = text(&subject["name"]);
        Some(match subject["kind"].as_str()? {
            "User" => Self::User(name),
            "Group" => Self::Group(name),
            "ServiceAccount" => {
                let given = subject["namespace"].as_str().filter(|namespace| !namespace.is_empty());
                let namespace = given.unwrap_or(namespace);
                (!namespace.is_empty()).then(|| Self::Account { namespace: namespace.into(), name })?
            }
            _ => return None,
        })
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => *user.name == **name,
            Self::Group(name) => user.groups.iter().any(|group| **group == **name),
            // Nobody else can have such a name: see `authentication`.
            Self::Account { namespace, name } => {
                user.name.strip_prefix(names::USER_SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'))
                    == Some((namespace, name))
            }
        }
    }
}

/// As upstream's reasons have it.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "User {name:?}"),
            Self::Group(name) => write!(f, "Group {name:?}"),
            Self::Account { namespace, name } => write!(f, "ServiceAccount \"{name}/{namespace}\""),
        }
    }
}

/// A RoleBinding or a ClusterRoleBinding.
#[derive(Debug)]
pub struct Binding {
    pub name: Box<str>,
    /// Empty for what is for the whole cluster.
    pub namespace: Box<str>,
    pub role: RoleRef,
    pub subjects: Vec<Subject>,
}

impl Binding {
    pub fn compile(binding: &Value, namespace: &str, name: &str) -> Self {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        Self {
            name: name.into(),
            namespace: namespace.into(),
            role: RoleRef::compile(&binding["roleRef"]),
            subjects: subjects.filter_map(|subject| Subject::compile(subject, namespace)).collect(),
        }
    }

    /// The first of its subjects that the user is.
    pub fn subject(&self, user: &UserInfo) -> Option<usize> {
        self.subjects.iter().position(|subject| subject.is(user))
    }
}

/// The rules of all roles that a role selects, of those that these select, and so on; each once.
pub fn aggregate(name: &str, all: &BTreeMap<&str, &Arc<Role>>) -> Rules {
    let (mut parts, mut seen, mut next) = (Vec::new(), HashSet::from([name]), vec![name]);
    while let Some(name) = next.pop() {
        let Some(role) = all.get(name) else { continue };
        let Some(selectors) = &role.selects else {
            parts.extend(role.own.iter().cloned());
            continue;
        };
        let selected = all.iter().filter(|(_, one)| selectors.iter().any(|selector| selector.matches(&one.labels)));
        let mut found: Vec<&str> = selected.map(|(name, _)| *name).filter(|name| seen.insert(*name)).collect();
        found.reverse();
        next.extend(found);
    }
    parts.into()
}

fn text(value: &Value) -> Box<str> {
    value.as_str().unwrap_or_default().into()
}
