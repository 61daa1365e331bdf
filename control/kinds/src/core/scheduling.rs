//! Where a pod may run: affinity, tolerations, taints, spreading.

use std::collections::{HashMap, HashSet};

use crate::{
    field::{Errors, Field, quote, shown},
    format,
    internal::{Internal, NULL, TEXT},
    selector,
};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn label_key(field: &Field<'_>, errors: &mut Errors) {
    field.faulty(errors, format::qualified_name(field.text()));
}

/// `affinity` of a pod.
pub(crate) fn affinity(affinity: &Field<'_>, errors: &mut Errors) {
    let nodes = affinity.get("nodeAffinity");
    let required = nodes.get(REQUIRED);
    if required.is_set() {
        node_selector(&required, errors);
    }
    for term in nodes.get(PREFERRED).items() {
        weight(&term, errors);
        node_term(&term.get("preference"), false, errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(name);
        pods.get(REQUIRED).items().for_each(|term| pod_term(&term, errors));
        for term in pods.get(PREFERRED).items() {
            weight(&term, errors);
            pod_term(&term.get("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Field<'_>, errors: &mut Errors) {
    let weight = term.get("weight");
    if !(1..=100).contains(&weight.int().unwrap_or(0)) {
        weight.invalid_as(errors, weight.int().unwrap_or(0).to_string(), "must be in the range 1-100");
    }
}

/// `NodeSelector`: at least one term.
pub(crate) fn node_selector(selector: &Field<'_>, errors: &mut Errors) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(errors, "must have at least one node selector term");
    }
    terms.items().for_each(|term| node_term(&term, true, errors));
}

const EXPRESSIONS: Internal = Internal::List(&Internal::Struct(&[
    ("key", "Key", TEXT),
    ("operator", "Operator", TEXT),
    ("values", "Values", NULL),
]));
pub(crate) const NODE_TERMS: Internal = Internal::List(&Internal::Struct(&[
    ("matchExpressions", "MatchExpressions", EXPRESSIONS),
    ("matchFields", "MatchFields", EXPRESSIONS),
]));

fn node_term(term: &Field<'_>, check_values: bool, errors: &mut Errors) {
    for expression in term.get("matchExpressions").items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            }
            _ => operator.invalid_text(errors, "not a valid selector operator"),
        }
        label_key(&expression.get("key"), errors);
        if check_values {
            values.items().for_each(|value| value.faulty(errors, format::label_value(value.text())));
        }
    }
    for expression in term.get("matchFields").items() {
        let (operator, values, key) = (expression.get("operator"), expression.get("values"), expression.get("key"));
        match operator.text() {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    values.required(errors, why);
                }
            }
            _ => operator.invalid_text(errors, "not a valid selector operator"),
        }
        match key.text() {
            "metadata.name" => {
                values.items().for_each(|value| value.faulty(errors, format::subdomain(value.text())));
            }
            _ => key.invalid_text(errors, "not a valid field selector key"),
        }
    }
}

fn pod_term(term: &Field<'_>, errors: &mut Errors) {
    let labels = term.get("labelSelector");
    selector::check(&labels, errors);
    selector::check(&term.get("namespaceSelector"), errors);
    for namespace in term.get("namespaces").items() {
        // Upstream's path is of the one, without an index.
        Field::at(namespace.value, term.path.child("namespace")).faulty(errors, format::label(namespace.text()));
    }
    let (keys, other_keys) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for list in [&keys, &other_keys] {
        if !list.is_empty() && !labels.is_set() {
            list.forbidden(errors, "must not be specified when labelSelector is not set");
        } else {
            list.items().for_each(|key| label_key(&key, errors));
        }
    }
    let others: HashSet<&str> = other_keys.items().map(|key| key.text()).collect();
    for key in keys.items().filter(|key| others.contains(key.text())) {
        key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    let topology = term.get("topologyKey");
    if topology.is_empty() {
        topology.required(errors, "can not be empty");
    }
    label_key(&topology, errors);
}

/// Labels of a new pod that it is spread by, and that the selector has, too.
pub(crate) fn spread_twice(list: &Field<'_>, labels: &Field<'_>, errors: &mut Errors) {
    for constraint in list.items() {
        let selector = constraint.get("labelSelector");
        let selected: HashSet<&str> = selector
            .get("matchLabels")
            .entries()
            .map(|(key, _)| key)
            .chain(selector.get("matchExpressions").items().map(|e| e.get("key").text()))
            .collect();
        for (at, key) in constraint.get("matchLabelKeys").items().enumerate() {
            if labels.key(key.text()).is_set() && selected.contains(key.text()) {
                // Upstream's path leaves the field out.
                let at = Field::at(key.value, constraint.path.index(at));
                at.invalid(errors, "exists in both matchLabelKeys and labelSelector");
            }
        }
    }
}

/// `tolerations` of a pod.
pub(crate) fn tolerations(list: &Field<'_>, errors: &mut Errors) {
    for toleration in list.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (effect, value) = (toleration.get("effect"), toleration.get("value"));
        if !key.is_empty() {
            label_key(&key, errors);
        } else if operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_text(errors, why);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            effect.invalid_text(errors, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "" | "Equal" => {
                let faults = format::label_value(value.text());
                if !faults.is_empty() {
                    operator.invalid_quoted(errors, value.text(), faults.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    operator.invalid_quoted(errors, value.text(), "value must be empty when `operator` is 'Exists'");
                }
            }
            // Upstream knows these two, which are switched off.
            "Lt" | "Gt" => operator.not_supported(errors, &["Equal", "Exists", "Lt", "Gt"]),
            _ => operator.not_supported(errors, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            effect.one_of(errors, EFFECTS);
        }
    }
}

/// `taints` of a node.
pub(crate) fn taints(list: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        label_key(&key, errors);
        let faults = format::label_value(value.text());
        if !faults.is_empty() {
            value.invalid(errors, faults.join(";"));
        }
        effect.required_one_of(errors, EFFECTS);
        if !seen.insert((key.text(), effect.text())) {
            // Upstream prints its own type.
            let part = |name: &'static str| shown(&taint.get(name).text().into());
            let internal = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                part("key"),
                part("value"),
                part("effect"),
                shown(taint.get("timeAdded").value)
            );
            taint.duplicate_because(errors, internal, "taints must be unique by key and effect pair");
        }
    }
}

/// `topologySpreadConstraints` of a pod.
pub(crate) fn spreading(list: &Field<'_>, errors: &mut Errors) {
    let kind = |constraint: &Field<'_>| {
        (constraint.get("topologyKey").text().to_owned(), constraint.get("whenUnsatisfiable").text().to_owned())
    };
    let last: HashMap<_, usize> = list.items().enumerate().map(|(at, constraint)| (kind(&constraint), at)).collect();
    for (at, constraint) in list.items().enumerate() {
        let (skew, topology, action) =
            (constraint.get("maxSkew"), constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if skew.int().unwrap_or(0) <= 0 {
            skew.invalid_as(errors, skew.int().unwrap_or(0).to_string(), "must be greater than zero");
        }
        if topology.is_empty() {
            topology.required(errors, "can not be empty");
        }
        action.one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        if last.get(&kind(&constraint)) != Some(&at) {
            let shown = quote(&format!("{{{}, {}}}", topology.text(), action.text()));
            let path = constraint.path.child("{topologyKey, whenUnsatisfiable}");
            Field::at(constraint.value, path).duplicate_as(errors, shown);
        }
        let domains = constraint.get("minDomains");
        if domains.int().is_some_and(|count| count <= 0) {
            domains.invalid(errors, "must be greater than zero");
        }
        if domains.is_set() && action.text() != "DoNotSchedule" {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", action.text());
            domains.invalid(errors, why);
        }
        constraint.get("nodeAffinityPolicy").optional_one_of(errors, &["Honor", "Ignore"]);
        constraint.get("nodeTaintsPolicy").optional_one_of(errors, &["Honor", "Ignore"]);
        let (keys, labels) = (constraint.get("matchLabelKeys"), constraint.get("labelSelector"));
        if !keys.is_empty() {
            if !labels.is_set() {
                keys.forbidden(errors, "must not be specified when labelSelector is not set");
            }
            keys.items().for_each(|key| label_key(&key, errors));
        }
        selector::check(&labels, errors);
    }
}
