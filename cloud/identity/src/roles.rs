//! Roles: the fixed ones, what they imply, and where they are given.

use crate::ids::{digest, well_known_id};

/// The roles every installation has; each implies those after it.
pub(crate) const ROLES: [&str; 3] = ["admin", "member", "reader"];

pub(crate) fn role_id(name: &str) -> String {
    well_known_id(&format!("role/{name}"))
}

/// Ids of the roles that a role implies, and its own.
pub(crate) fn with_implied(role: &str) -> Vec<String> {
    match ROLES.iter().position(|name| role_id(name) == role) {
        Some(position) => ROLES[position..].iter().map(|name| role_id(name)).collect(),
        None => vec![role.to_owned()],
    }
}

/// Where a role is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    System,
    Domain(String),
    Project(String),
}

/// Name of a role assignment: the store itself refuses a second one.
pub(crate) fn assignment_name(role: &str, actor: (&str, &str), target: &Target, inherited: bool) -> String {
    let (kind, id) = match target {
        Target::System => ("system", ""),
        Target::Domain(id) => ("domain", id.as_str()),
        Target::Project(id) => ("project", id.as_str()),
    };
    digest(&[role, actor.0, actor.1, kind, id, if inherited { "inherited" } else { "direct" }])
}
