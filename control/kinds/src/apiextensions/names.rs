//! The names of a kind that a tenant defines.

use std::{collections::HashSet, sync::OnceLock};

use crate::{
    field::{Errors, Field},
    format::letter_label,
};

/// The groups of all kinds that are built in.
static BUILT_IN: OnceLock<HashSet<String>> = OnceLock::new();

/// Says which groups are the server's own, once.
pub fn reserve(groups: HashSet<String>) {
    let _ = BUILT_IN.set(groups);
}

/// Whether the server itself has kinds in a group, or may once have: no tenant defines any in it. Before that is known, any is.
pub fn is_servers_own(group: &str) -> bool {
    let own = |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    own("hypernetes.io") || BUILT_IN.get().is_none_or(|groups| groups.contains(group))
}

/// Those that a spec has to have.
pub fn check_required(names: &Field<'_>, errors: &mut Errors) {
    for name in ["plural", "singular", "kind", "listKind"] {
        if names.get(name).is_empty() {
            names.get(name).required(errors, "");
        }
    }
}

pub fn check(names: &Field<'_>, errors: &mut Errors) {
    for name in ["plural", "singular"] {
        check_one(&names.get(name), errors);
    }
    for name in ["kind", "listKind"] {
        let field = names.get(name);
        let faults = letter_label(&field.text().to_lowercase());
        if !field.is_empty() && !faults.is_empty() {
            field.invalid(errors, format!("may have mixed case, but should otherwise match: {}", faults.join(",")));
        }
    }
    names.get("shortNames").items().for_each(|name| check_item(&name, errors));
    let (kind, list) = (names.get("kind"), names.get("listKind"));
    if !kind.is_empty() && kind.text() == list.text() {
        list.invalid(errors, "kind and listKind may not be the same");
    }
    names.get("categories").items().for_each(|name| check_item(&name, errors));
}

fn check_one(name: &Field<'_>, errors: &mut Errors) {
    if !name.is_empty() {
        check_item(name, errors);
    }
}

fn check_item(name: &Field<'_>, errors: &mut Errors) {
    let faults = letter_label(name.text());
    if !faults.is_empty() {
        name.invalid_text(errors, faults.join(","));
    }
}

/// How stable a version is: released ones, betas, alphas, and what is called otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stability {
    Other,
    Alpha,
    Beta,
    Released,
}

/// By what versions are put in order, the best the largest: `v2`, `v1`, `v1beta2`, `v1alpha1`, and what is called otherwise by
/// name, the first the best (upstream's `version.CompareKubeAwareVersionStrings`).
pub fn rank(version: &str) -> (Stability, u32, u32, std::cmp::Reverse<&str>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (major, rest) = rest.split_at(digits);
        let major = major.parse().ok().filter(|_| !major.starts_with('0'))?;
        if rest.is_empty() {
            return Some((Stability::Released, major, 0));
        }
        let beta = rest.strip_prefix("beta").map(|minor| (Stability::Beta, minor));
        let (stability, minor) = beta.or_else(|| Some((Stability::Alpha, rest.strip_prefix("alpha")?)))?;
        Some((stability, major, minor.parse().ok().filter(|_| !minor.starts_with('0'))?))
    };
    match parsed() {
        Some((stability, major, minor)) => (stability, major, minor, std::cmp::Reverse("")),
        None => (Stability::Other, 0, 0, std::cmp::Reverse(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_upstreams_order() {
        let mut versions =
            ["foo10", "v1beta1", "v10", "foo1", "v3beta1", "v11alpha2", "v2", "v11beta2", "v1", "v12alpha1"];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v1beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
        );
    }
}
