//! Whether a policy's expressions fit the kinds that it is about. What does not is told to whoever wrote it, and decides nothing.
//!
//! As upstream does it, but that `authorizer.requestResource` is there, and for bounds: what a policy may say at once takes half a second to
//! compile, and is compiled for as many kinds as no more than that is.

use std::collections::BTreeSet;

use hypernetes_cel::{Declaration, Environment, Type, compile};
use hypernetes_kinds::expressions::admission::{Variables, variable_type};
use hypernetes_schema::walk::list;
use serde_json::{Value, json};

use crate::policy::ParameterKind;

/// Kinds of a rule: upstream's figure. With these no other rule is looked at.
const MOST_OF_RULE: usize = 10;
const MOST_KINDS: usize = 50;
/// Names that a rule can be of, by its groups, versions and resources.
const MOST_NAMES: usize = 1000;
/// Bytes that are compiled for all kinds, each expression with what it costs beside its length.
const MOST_BYTES: usize = 256 << 10;
const BESIDE: usize = 256;
/// Bytes that are told of one policy.
const MOST_TOLD: usize = 256 << 10;

/// Group, version and kind.
pub type Kind = [String; 3];

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The kinds that a policy's expressions are checked by; `find` tells those of a group, version and resource.
pub fn kinds(policy: &Value, find: impl Fn(&str, &str, &str) -> Vec<Kind>) -> BTreeSet<Kind> {
    let mut kinds = BTreeSet::new();
    let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array();
    let mut names = rules.into_iter().flatten().flat_map(named).take(MOST_NAMES).peekable();
    let mut found = 0;
    while let Some((rule, [group, version, resource])) = names.next() {
        for kind in find(group, version, resource) {
            kinds.insert(kind);
            found += 1;
            if found == MOST_OF_RULE || kinds.len() == MOST_KINDS {
                return kinds;
            }
        }
        if names.peek().is_some_and(|(next, _)| !std::ptr::eq(*next, rule)) {
            found = 0;
        }
    }
    kinds
}

/// The groups, versions and resources of a rule, in order: none where it is about any group or version. Subresources are left out.
fn named(rule: &Value) -> impl Iterator<Item = (&Value, [&str; 3])> {
    let sorted = |field: &str, open: &[char]| {
        let mut all = texts(&rule[field]);
        all.retain(|one| !one.contains(open));
        all.sort_unstable();
        all
    };
    let any = |field: &str| texts(&rule[field]).iter().any(|one| one.contains('*'));
    let groups = if any("apiGroups") || any("apiVersions") { Vec::new() } else { sorted("apiGroups", &[]) };
    let (versions, resources) = (sorted("apiVersions", &[]), sorted("resources", &['*', '/']));
    groups.into_iter().flat_map(move |group| {
        let (versions, resources) = (versions.clone(), resources.clone());
        versions.into_iter().flat_map(move |version| {
            let resources = resources.clone();
            resources.into_iter().map(move |resource| (rule, [group, version, resource]))
        })
    })
}

/// `paramKind` as group, version and kind.
pub fn parameters(policy: &Value) -> Option<Kind> {
    let parameters = ParameterKind::of(&policy["spec"])?;
    let (group, version) = parameters.group_version();
    Some([group, version, &parameters.kind].map(str::to_owned))
}

/// `expressionWarnings` of a policy, whose objects are of one of these kinds; of what nothing is declared, it may be anything.
pub fn warnings(policy: &Value, kinds: &[(Kind, Option<Declaration>)], parameters: Option<&Declaration>) -> Vec<Value> {
    let spec = &policy["spec"];
    let variables: Vec<(&str, &str)> = list(spec, "variables")
        .iter()
        .filter_map(|variable| Some((variable["name"].as_str()?, variable["expression"].as_str()?)))
        .collect();
    let places = list(spec, "validations").iter().enumerate().flat_map(|(at, validation)| {
        ["expression", "messageExpression"].into_iter().filter_map(move |field| {
            let source = validation[field].as_str().filter(|source| !source.is_empty() || field == "expression")?;
            Some((format!("spec.validations[{at}].{field}"), source))
        })
    });
    let places: Vec<(String, &str)> = places.collect();
    let sources = variables.iter().map(|(_, source)| source).chain(places.iter().map(|(_, source)| source));
    let bytes: usize = sources.map(|source| source.len() + BESIDE).sum();
    let many = (MOST_BYTES / bytes.max(1)).max(1);
    let all = Variables { params: spec["paramKind"].is_object(), authorizer: true, mutates: false };
    let (mut told, mut left) = (vec![Vec::new(); places.len()], MOST_TOLD);
    for ([group, version, kind], declared) in kinds.iter().take(many) {
        let environment = variables.iter().fold(all.environment_of(declared.as_ref(), parameters), compose);
        for ((_, source), told) in places.iter().zip(&mut told) {
            let Some(why) = wrong(source, &environment) else { continue };
            let text = format!("{group}/{version}, Kind={kind}: {why}\n");
            if let Some(less) = left.checked_sub(text.len()) {
                left = less;
                told.push(text);
            }
        }
    }
    let told = places.into_iter().zip(told).filter(|(_, told)| !told.is_empty());
    told.map(|((place, _), told)| json!({"fieldRef": place, "warning": told.join("\n")})).collect()
}

/// One that is wrong may be anything: what names it is not wrong for it.
fn compose(environment: Environment, (name, source): &(&str, &str)) -> Environment {
    let ty = match compile(source, &environment) {
        Ok(program) => variable_type(program.result_type()),
        Err(errors) => errors.instantiation().map_or(Type::Dyn, variable_type),
    };
    environment.compose(name, ty)
}

/// What does not fit. That a part has no value is not said: it is none of types.
fn wrong(source: &str, environment: &Environment) -> Option<String> {
    let errors = compile(source, environment).err().filter(|errors| errors.instantiation().is_none())?;
    Some(errors.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: Value, validations: Value) -> Value {
        json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": validations}})
    }

    fn rule(groups: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": groups, "apiVersions": ["v1"], "resources": resources})
    }

    #[test]
    fn names_are_looked_up_as_far_as_there_may_be_some() {
        let find = |group: &str, version: &str, resource: &str| vec![[group, version, resource].map(str::to_owned)];
        let many: Vec<String> = (0..2000).map(|number| format!("r{number:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let of = |rules: Value| kinds(&policy(rules, json!([])), find).len();
        assert_eq!(of(json!([rule(&["a"], &many)])), MOST_OF_RULE);
        assert_eq!(of(json!([rule(&["a"], &many[..9]), rule(&["b"], &many[..9])])), 18);
        assert_eq!(of(json!([rule(&["*"], &many), rule(&["b"], &["c/d", "*"])])), 0);
        assert_eq!(of(Value::Array(vec![rule(&["a", "b", "c"], &many[..3]); 300])), 9);
        let different: Vec<Value> = (0..300).map(|number| rule(&[&format!("g{number}")], &many[..3])).collect();
        assert_eq!(of(different.into()), MOST_KINDS);
        let (asked, none) = (std::cell::Cell::new(0), policy(json!([rule(&many, &many)]), json!([])));
        kinds(&none, |_, _, _| {
            asked.set(asked.get() + 1);
            Vec::new()
        });
        assert_eq!(asked.get(), MOST_NAMES);
    }

    #[test]
    fn long_policies_are_checked_for_fewer_kinds_and_tell_no_more_than_fits() {
        let kinds: Vec<_> = (0..10).map(|number| ([String::new(), "v1".into(), format!("K{number}")], None)).collect();
        let told = |many: usize, source: &str| {
            let one = json!({"expression": source});
            warnings(&policy(json!([]), Value::Array(vec![one; many])), &kinds, None)
        };
        let lines = |warning: &Value| warning["warning"].as_str().unwrap().matches("Kind=").count();
        assert_eq!(lines(&told(1, "nothing")[0]), 10);
        assert_eq!(lines(&told(512, "nothing")[0]), 1);
        let long = format!("nothing{}", " ".repeat(10_000));
        let all = told(12, &long);
        let bytes: usize = all.iter().map(|warning| warning["warning"].as_str().unwrap().len()).sum();
        assert!(bytes <= MOST_TOLD && !all.is_empty(), "{bytes}");
    }
}
