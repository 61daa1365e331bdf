//! `MatchResources`: which requests a policy, a binding or a webhook is about.

use hypernetes_kinds::{field::Field, selector};
use serde_json::Value;

use crate::about::{About, Matched};

/// Read once; a request is held against it without reading it anew.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    /// None: everything.
    namespaces: Option<Selector>,
    objects: Option<Selector>,
    excluded: Vec<Rule>,
    /// None: everything.
    included: Vec<Rule>,
    /// Another version of the same objects is not meant.
    exact: bool,
}

#[derive(Debug, Clone)]
struct Selector(Value);

#[derive(Debug, Clone)]
struct Rule {
    operations: Vec<Box<str>>,
    groups: Vec<Box<str>>,
    versions: Vec<Box<str>>,
    /// With the subresource behind a slash.
    resources: Vec<Box<str>>,
    scope: Box<str>,
    /// None: all.
    names: Vec<Box<str>>,
}

fn texts(value: &Value, field: &str) -> Vec<Box<str>> {
    let list = value[field].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(Into::into).collect()
}

/// Whether the list has it, or a star.
fn has(list: &[Box<str>], wanted: &str) -> bool {
    list.iter().any(|one| **one == *"*" || **one == *wanted)
}

impl Selector {
    /// None: it selects everything.
    fn of(value: &Value) -> Option<Self> {
        let selects_all = selector::is_empty(&Field::root(value));
        (!selects_all).then(|| Self(value.clone()))
    }

    /// # Errors
    /// It is none.
    fn selects(&self, labels: &Value) -> Result<bool, String> {
        let none = || "the selector cannot be read".to_owned();
        selector::matches(&Field::root(&self.0), labels).ok_or_else(none)
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources"),
            scope: rule["scope"].as_str().unwrap_or("*").into(),
            names: texts(rule, "resourceNames"),
        }
    }

    fn is_about(&self, about: &About<'_>, group: &str, version: &str) -> bool {
        // Namespaces are in none, whatever the request says.
        let is_in_none = about.is_namespace() || about.namespace.is_empty();
        let scope = match &*self.scope {
            "Namespaced" => !is_in_none,
            "Cluster" => is_in_none,
            _ => true,
        };
        let resource = |resource: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            (resource == "*" || resource == about.resource) && (subresource == "*" || subresource == about.subresource)
        };
        scope
            && has(&self.operations, about.operation)
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(|one| resource(one))
            && (self.names.is_empty() || self.names.iter().any(|name| **name == *about.name))
    }
}

impl Matching {
    /// Of a policy's `matchConstraints` or a binding's `matchResources`; of `null` everything.
    pub fn of(resources: &Value) -> Self {
        let rules = |field: &str| resources[field].as_array().into_iter().flatten().map(Rule::of).collect();
        Self {
            namespaces: Selector::of(&resources["namespaceSelector"]),
            objects: Selector::of(&resources["objectSelector"]),
            excluded: rules("excludeResourceRules"),
            included: rules("resourceRules"),
            exact: resources["matchPolicy"] == "Exact",
        }
    }

    /// Of a webhook.
    pub fn of_webhook(webhook: &Value) -> Self {
        let rules = webhook["rules"].as_array().into_iter().flatten().map(Rule::of);
        // One without rules is about nothing.
        let included = match rules.collect::<Vec<_>>() {
            none if none.is_empty() => vec![Rule::of(&Value::Null)],
            some => some,
        };
        Self { included, excluded: Vec::new(), ..Self::of(webhook) }
    }

    /// In what version a request is meant, if it is. `namespace` are the labels of the namespace that it is in (of a `Namespace` that
    /// is written: its own); `others` the groups, versions and kinds in which there are the same objects.
    ///
    /// # Errors
    /// What is wrong with a selector, where all else matches.
    pub fn matches<'a>(
        &self,
        about: &About<'a>,
        namespace: impl Fn() -> Value,
        others: &[Matched<'a>],
    ) -> Result<Option<Matched<'a>>, String> {
        if self.rules(&self.excluded, about, others).is_some() {
            return Ok(None);
        }
        let matched = match self.included.is_empty() {
            true => about.as_asked(),
            false => match self.rules(&self.included, about, others) {
                Some(matched) => matched,
                None => return Ok(None),
            },
        };
        // What is in no namespace is in none that could be excluded.
        let in_namespace = match &self.namespaces {
            Some(selector) if about.is_namespace() || !about.namespace.is_empty() => selector.selects(&namespace()),
            _ => Ok(true),
        };
        let by_labels = self.objects.as_ref().map_or(Ok(true), |selector| {
            let of = |object: &Value| match object {
                Value::Null => Ok(false),
                _ => selector.selects(&object["metadata"]["labels"]),
            };
            Ok(of(about.object)? || of(about.old)?)
        });
        match (in_namespace, by_labels) {
            (Ok(false), _) | (_, Ok(false)) => Ok(None),
            (Err(why), _) | (_, Err(why)) => Err(why),
            (Ok(true), Ok(true)) => Ok(Some(matched)),
        }
    }

    fn rules<'a>(&self, rules: &[Rule], about: &About<'a>, others: &[Matched<'a>]) -> Option<Matched<'a>> {
        let in_version = |one: &Matched<'a>| rules.iter().any(|rule| rule.is_about(about, one.group, one.version));
        let as_asked = about.as_asked();
        if in_version(&as_asked) {
            return Some(as_asked);
        }
        others.iter().filter(|_| !self.exact).find(|one| in_version(one)).copied()
    }
}
