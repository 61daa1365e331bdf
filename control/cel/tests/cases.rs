//! Expressions of ours, and what upstream says to them.

use hypernetes_cel::{Declaration, Environment, Evaluation, List, Map, Value, compile};
use serde_json::Value as Json;

/// A value as the recorded answers print it.
fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) => format!("double({})", double(*value)),
        Value::String(text) => Json::from(text.as_str()).to_string(),
        Value::Bytes(bytes) => format!("bytes({})", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        Value::Duration(nanos) => format!("duration({nanos})"),
        Value::Timestamp(at) => format!("timestamp({at})"),
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("some({})", show(value)),
        Value::Type(_) | Value::Opaque(_) => value.describe(),
        Value::List(list) => {
            let items: Vec<String> = elements(list).iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> =
                entries(map).iter().map(|(key, value)| format!("{}: {}", show(key), show(value))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Made(made) if made.name() == "JSONPatch" => {
            let field = |name| made.fields().find(|(field, _)| *field == name).map(|(_, value)| show(value));
            let text = |name| field(name).unwrap_or_else(|| "\"\"".to_owned());
            let value = field("value").map(|value| format!(", value: {value}")).unwrap_or_default();
            format!("JSONPatch{{from: {}, op: {}, path: {}{value}}}", text("from"), text("op"), text("path"))
        }
        Value::Made(made) => {
            let named = if made.name() == "Object" { made.check_names() } else { Ok(()) };
            let wrong = named.err().map(|wrong| format!(" {}", wrong.join("\n"))).unwrap_or_default();
            format!("{}{}{wrong}", made.name(), value.to_json().unwrap())
        }
        Value::Variables => "variables".to_owned(),
    }
}

fn double(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap();
    let exponent: i32 = exponent.parse().unwrap();
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn elements<'a>(list: &List<'a>) -> Vec<Value<'a>> {
    (0..list.len()).map(|index| list.get(index).unwrap().unwrap()).collect()
}

fn entries<'a>(map: &Map<'a>) -> Vec<(Value<'a>, Value<'a>)> {
    map.entries().map(|entry| entry.unwrap()).collect()
}

/// What is different from the recorded answer.
fn difference(case: &Json) -> Option<String> {
    let text = |key: &str| case[key].as_str();
    let source = case["expr"].as_str().unwrap();
    let is_resource = case["root"].as_bool().unwrap_or(false);
    let declared = case.get("schema").map(|schema| Declaration::of_schema("selfType", schema, is_resource).unwrap());
    let any = Declaration::any();
    let of_self = declared.as_ref().unwrap_or(&any);
    let environment = match &declared {
        Some(declared) => Environment::new().declared("self", declared).declared("oldSelf", declared),
        None => Environment::new().variable("self", any.ty()).variable("oldSelf", any.ty()),
    };
    let environment = if case["mutates"] == true { environment.mutates() } else { environment };
    let differs = |what: &str, expected: &str, found: &str| {
        (expected != found).then(|| format!("{source}\n   {what} expected {expected}\n   {what} found    {found}"))
    };
    let program = match compile(source, &environment) {
        Ok(program) => program,
        Err(errors) => {
            let (compile, program) = if errors.instantiation().is_some() {
                ("", errors.to_string())
            } else {
                (&*errors.to_string(), String::new())
            };
            return differs("compile", text("compile").unwrap_or("-"), if compile.is_empty() { "-" } else { compile })
                .or_else(|| {
                    differs("program", text("program").unwrap_or("-"), if program.is_empty() { "-" } else { &program })
                });
        }
    };
    if let Some(error) = text("compile").or(text("program")) {
        return differs("compile", error, "(compiles)");
    }
    let cost = program.cost();
    let mut found = differs("type", text("type").unwrap(), &program.result_type().to_string());
    if let Some(estimate) = case["estimate"].as_array() {
        let estimate = format!("{} {}", estimate[0], estimate[1]);
        found = found.or_else(|| differs("estimate", &estimate, &format!("{} {}", cost.min, cost.max)));
    }
    let object = case["self"].clone();
    let outcome = match Value::of_json(&object, Some(of_self)) {
        Ok(value) => Evaluation::new(if case.get("self").is_some() { vec![value] } else { Vec::new() })
            .run(&program)
            .into_owned(show),
        Err(error) => (Err(error), 0),
    };
    let (value, cost) = outcome;
    found = found.or_else(|| match (&value, text("error")) {
        (Ok(value), None) => differs("value", text("value").unwrap(), value),
        (Ok(value), Some(error)) => differs("error", error, &format!("value {value}")),
        (Err(error), None) => differs("value", text("value").unwrap(), &format!("error {error}")),
        (Err(error), Some(expected)) => differs("error", expected, &error.to_string()),
    });
    found.or_else(|| differs("cost", &case["cost"].to_string(), &cost.to_string()))
}

/// The recorded answers: objects and schemas that cases share by name, then the cases.
const CASES: &str = include_str!("cases/kubernetes-1.36.2.jsonl");
/// Cases whose answers are known to be others here, and why.
const KNOWN: &str = include_str!("cases/known-differences.txt");

#[test]
fn expressions_mean_what_they_mean_upstream() {
    let mut shared = serde_json::Map::new();
    let mut cases = Vec::new();
    for line in CASES.lines() {
        let mut line: Json = serde_json::from_str(line).unwrap();
        if let Some(name) = line["define"].as_str() {
            shared.insert(name.to_owned(), line["value"].clone());
            continue;
        }
        for part in ["schema", "self"] {
            if let Some(name) = line[part]["use"].as_str() {
                line[part] = shared[name].clone();
            }
        }
        cases.push(line);
    }
    let known: Vec<&str> = KNOWN.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let is_known = |case: &Json| known.contains(&case["expr"].as_str().unwrap());
    let different: Vec<String> = cases.iter().filter(|case| !is_known(case)).filter_map(difference).collect();
    assert!(cases.len() >= 1000, "{} cases", cases.len());
    assert!(different.is_empty(), "{} of {} differ\n{}", different.len(), cases.len(), different.join("\n"));
    // What is no difference any more is not called one.
    let gone: Vec<&str> = cases
        .iter()
        .filter(|case| is_known(case) && difference(case).is_none())
        .filter_map(|case| case["expr"].as_str())
        .collect();
    assert!(gone.is_empty(), "no longer different: {gone:?}");
}
