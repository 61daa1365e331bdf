//! Rules of roles: what one allows, and which of those that someone wants to give away they do not hold themselves.

use std::fmt;

use serde_json::{Value, json};

use crate::authorization::Attributes;

/// `rbac.authorization.k8s.io` `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    /// Empty: whatever their names are.
    pub names: Vec<String>,
    /// Paths of what is no resource; a `*` at the end stands for any rest.
    pub paths: Vec<String>,
    pub verbs: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn any(have: &[String], wanted: &str) -> bool {
    have.iter().any(|have| have == "*" || have == wanted)
}

impl Rule {
    /// The rules of a Role or ClusterRole.
    pub fn of_role(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::parse).collect()
    }

    pub fn parse(rule: &Value) -> Self {
        Self {
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            paths: strings(&rule["nonResourceURLs"]),
            verbs: strings(&rule["verbs"]),
        }
    }

    /// Everything there is.
    pub fn all() -> [Self; 2] {
        let star = || vec!["*".to_owned()];
        [
            Self { groups: star(), resources: star(), verbs: star(), ..Self::default() },
            Self { paths: star(), verbs: star(), ..Self::default() },
        ]
    }

    pub fn allows(&self, wanted: &Attributes<'_>) -> bool {
        if !any(&self.verbs, wanted.verb) {
            return false;
        }
        if let Some(path) = wanted.path {
            return self.covers_path(path);
        }
        any(&self.groups, wanted.group)
            && self.covers_resource(wanted.resource, wanted.subresource)
            && (self.names.is_empty() || wanted.name.is_some_and(|name| self.names.iter().any(|have| have == name)))
    }

    fn covers_path(&self, path: &str) -> bool {
        self.paths
            .iter()
            .any(|have| have == "*" || have == path || have.strip_suffix('*').is_some_and(|p| path.starts_with(p)))
    }

    /// A subresource is covered by its own name, by `*/` and its name, and by `*`; never by its resource's.
    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|have| match have.split_once('/') {
            None => have == "*" || subresource.is_empty() && have == resource,
            Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
        })
    }

    /// As [`Self::covers_resource`], of a name as rules have it: with the subresource behind a slash.
    fn covers_name(&self, name: &str) -> bool {
        let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
        self.covers_resource(resource, subresource)
    }

    /// One rule for each verb, group, resource, name and path.
    fn atoms(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> =
            if self.names.is_empty() { vec![Vec::new()] } else { self.names.iter().map(one).collect() };
        let mut atoms = Vec::new();
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    atoms.extend(names.iter().map(|names| Self {
                        groups: one(group),
                        resources: one(resource),
                        names: names.clone(),
                        paths: Vec::new(),
                        verbs: one(verb),
                    }));
                }
            }
        }
        for path in &self.paths {
            let of_verb = |verb| Self { paths: one(path), verbs: one(verb), ..Self::default() };
            atoms.extend(self.verbs.iter().map(of_verb));
        }
        atoms
    }

    fn covers(&self, atom: &Self) -> bool {
        let all = |have: &[String], wanted: &[String]| wanted.iter().all(|wanted| any(have, wanted));
        all(&self.verbs, &atom.verbs)
            && all(&self.groups, &atom.groups)
            && atom.resources.iter().all(|resource| self.covers_name(resource))
            && atom.paths.iter().all(|path| self.covers_path(path))
            && (self.names.is_empty()
                || !atom.names.is_empty() && atom.names.iter().all(|name| self.names.contains(name)))
    }

    /// As a role has it, and `SelfSubjectRulesReview` lists it.
    pub fn to_json(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        for (field, texts) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ] {
            if !texts.is_empty() {
                rule[field] = json!(texts);
            }
        }
        rule
    }
}

/// As Kubernetes writes rules in its refusals.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown = parts.iter().filter(|(_, texts)| !texts.is_empty());
        let shown: Vec<String> = shown.map(|(name, texts)| format!("{name}:{}", Quoted(texts))).collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// `["a" "b"]`.
pub struct Quoted<'a>(pub &'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|text| format!("{text:?}")).collect();
        write!(f, "[{}]", quoted.join(" "))
    }
}

/// Most single rights that a role's rules may come to: what is checked one by one needs an end.
const MAX_ATOMS: usize = 20_000;

/// Which of the wanted rules are not among those that are held, in as few as say it. `None`: too many to look at.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Option<Vec<Rule>> {
    let size = |rule: &Rule| {
        let of_resources =
            rule.groups.len().saturating_mul(rule.resources.len()).saturating_mul(rule.names.len().max(1));
        of_resources.saturating_add(rule.paths.len()).saturating_mul(rule.verbs.len())
    };
    if wanted.iter().map(size).fold(0, usize::saturating_add) > MAX_ATOMS {
        return None;
    }
    let atoms = wanted.iter().flat_map(Rule::atoms);
    let mut found: Vec<Rule> = Vec::new();
    for atom in atoms.filter(|atom| !held.iter().any(|rule| rule.covers(atom))) {
        let same = |rule: &&mut Rule| {
            Rule { verbs: Vec::new(), ..(**rule).clone() } == Rule { verbs: Vec::new(), ..atom.clone() }
        };
        match found.iter_mut().find(same) {
            Some(rule) if rule.verbs.contains(&atom.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => found.push(atom),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::parse(&value)
    }

    fn missing_of(held: &[Value], wanted: Value) -> Vec<String> {
        let held: Vec<Rule> = held.iter().cloned().map(rule).collect();
        missing(&held, &[rule(wanted)]).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_met_in_every_part() {
        let rule = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "resourceNames": ["a"]}),
        );
        let wanted = Attributes { verb: "get", resource: "pods", ..Default::default() };
        let named = |name| Attributes { name: Some(name), ..wanted.clone() };
        assert!(rule.allows(&named("a")) && !rule.allows(&named("b")) && !rule.allows(&wanted));
        assert!(!rule.allows(&Attributes { verb: "delete", ..named("a") }));
        assert!(!rule.allows(&Attributes { subresource: "exec", ..named("a") }));
        let [all, paths] = Rule::all();
        assert!(all.allows(&Attributes { verb: "patch", group: "apps", ..wanted.clone() }));
        let path = |path| Attributes { verb: "get", path: Some(path), ..Default::default() };
        assert!(paths.allows(&path("/x")) && !all.allows(&path("/x")));
        let some =
            Rule { paths: vec!["/metrics".into(), "/logs/*".into()], verbs: vec!["get".into()], ..Rule::default() };
        assert!(some.allows(&path("/logs/x")) && !some.allows(&path("/other")));
    }

    #[test]
    fn what_is_given_away_has_to_be_held() {
        let pods = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        assert!(missing_of(std::slice::from_ref(&pods), pods.clone()).is_empty());
        let more = json!({"verbs": ["get", "create", "delete"], "apiGroups": ["", "apps"], "resources": ["pods"]});
        assert_eq!(
            missing_of(std::slice::from_ref(&pods), more),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["create" "delete"]}"#,
                r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "create" "delete"]}"#,
            ]
        );
        // The star is more than all that there are now; one name is less than all.
        let star = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(missing_of(std::slice::from_ref(&pods), star).len(), 1);
        let one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        assert!(missing_of(std::slice::from_ref(&pods), one.clone()).is_empty());
        assert_eq!(missing_of(&[one], pods).len(), 1);
        // Subresources are not their resource's.
        let all = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*"]});
        let logs = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]});
        assert!(missing_of(&[all], logs.clone()).is_empty());
        let any = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]});
        assert!(missing_of(&[any], logs.clone()).is_empty());
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(missing_of(&[pods], logs).len(), 1);
        let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/logs/*"]});
        assert!(
            missing_of(std::slice::from_ref(&urls), json!({"verbs": ["get"], "nonResourceURLs": ["/logs/a*"]}))
                .is_empty()
        );
        assert_eq!(missing_of(&[urls], json!({"verbs": ["get"], "nonResourceURLs": ["*"]})).len(), 1);
    }

    #[test]
    fn rules_without_end_are_not_multiplied_out() {
        let many = Rule {
            groups: vec!["g".into(); 1000],
            resources: vec!["r".into(); 1000],
            verbs: vec!["get".into(); 1000],
            ..Rule::default()
        };
        assert_eq!(missing(&Rule::all(), &[many]), None);
    }
}
