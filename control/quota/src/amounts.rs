//! Lists of quantities by the name of what they are of: requests, limits, what a quota allows.

use std::collections::BTreeMap;

use hypernetes_schema::quantity::Quantity;
use serde_json::{Map, Value};

pub type Amounts = BTreeMap<String, Quantity>;

/// What is no quantity is left out: validation lets none in.
pub fn read(list: &Value) -> Amounts {
    let quantity = |value: &Value| match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    };
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

pub fn write(amounts: &Amounts) -> Value {
    let entries = amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

pub fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match into.get_mut(name) {
            Some(sum) => *sum = *sum + *amount,
            None => drop(into.insert(name.clone(), *amount)),
        }
    }
}

/// The larger of each.
pub fn at_least(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if into.get(name).is_none_or(|have| have < amount) {
            into.insert(name.clone(), *amount);
        }
    }
}

/// `now` without `before`; what has become less is left out, and so is what is nothing.
pub(crate) fn grown(now: &Amounts, before: &Amounts) -> Amounts {
    let more = now.iter().map(|(name, amount)| {
        let less = before.get(name).copied();
        (name.clone(), less.map_or(*amount, |less| *amount - less))
    });
    more.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).collect()
}

/// As messages have them: `cpu=1,memory=1Gi`.
pub(crate) fn shown<'a>(amounts: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> String {
    let each: Vec<String> = amounts.into_iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    each.join(",")
}
