//! Columns that a definition adds to its kind's table, and the paths that their cells are found by: Kubernetes' JSONPath, of
//! which the first value that is found is shown.

use std::borrow::Cow;

use serde_json::Value;

use crate::columns::{self, Cell, Column, Shown};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// From the end where it is negative.
    Index(i64),
    All,
    /// Items of which something at a path is equal to something, or is not.
    Where {
        path: Vec<Step>,
        equal: bool,
        value: Value,
    },
}

/// A path into an object; one that is not understood finds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath(Vec<Step>);

/// What a column's cells show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellKind {
    String,
    Integer,
    Number,
    Boolean,
    Date,
}

impl CellKind {
    fn parse(text: &str) -> Self {
        match text {
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "date" => Self::Date,
            _ => Self::String,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
        }
    }
}

/// The columns of a version of a definition: the name, and what it says; the age where it says nothing.
pub(crate) fn of_version(version: &Value) -> Vec<Column> {
    let said = version["additionalPrinterColumns"].as_array();
    let Some(said) = said.filter(|said| !said.is_empty()) else { return columns::usual() };
    let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
    let column = |column: &Value| {
        let kind = CellKind::parse(&text(column, "type"));
        Column {
            name: text(column, "name").into(),
            kind: kind.as_str(),
            format: text(column, "format").into(),
            description: match text(column, "description") {
                none if none.is_empty() => {
                    let what = "Custom resource definition column (in JSONPath format): ";
                    Cow::Owned(format!("{what}{}", text(column, "jsonPath")))
                }
                said => said.into(),
            },
            priority: column["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            cell: Cell::Found(JsonPath::parse(&text(column, "jsonPath")), kind),
        }
    };
    std::iter::once(columns::name()).chain(said.iter().map(column)).collect()
}

impl JsonPath {
    /// Of a path as `.spec.list[0].name`.
    pub(crate) fn parse(text: &str) -> Self {
        let steps = parse(&mut text.trim().chars().peekable(), None);
        Self(steps.unwrap_or_else(|| vec![Step::Index(0), Step::Field(String::new())]))
    }

    /// The first value that it leads to.
    pub(crate) fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        first(&self.0, value)
    }
}

type Text<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// Steps until the text, or what is in brackets, ends.
fn parse(text: &mut Text<'_>, end: Option<&[char]>) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    loop {
        match text.peek().copied() {
            None => return Some(steps),
            Some(c) if end.is_some_and(|end| end.contains(&c)) => return Some(steps),
            Some('.') => {
                text.next();
                let mut name = String::new();
                while let Some(c) = text.next_if(|c| !".[".contains(*c) && end.is_none_or(|end| !end.contains(c))) {
                    name.push(if c == '\\' { text.next()? } else { c });
                }
                match name.as_str() {
                    // A dot before a bracket, or alone.
                    "" if matches!(text.peek(), Some('[') | None) => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
            }
            Some('[') => {
                text.next();
                steps.push(bracket(text)?);
            }
            Some(_) => return None,
        }
    }
}

/// What is in brackets, the closing one included.
fn bracket(text: &mut Text<'_>) -> Option<Step> {
    let step = match text.peek().copied()? {
        '*' => {
            text.next();
            Step::All
        }
        '\'' | '"' => Step::Field(quoted(text)?),
        '?' => {
            text.next();
            (text.next()? == '(').then_some(())?;
            (text.next()? == '@').then_some(())?;
            let path = parse(text, Some(&['=', '!', ' ']))?;
            skip_spaces(text);
            let equal = match (text.next()?, text.next()?) {
                ('=', '=') => true,
                ('!', '=') => false,
                _ => return None,
            };
            skip_spaces(text);
            let value = match text.peek().copied()? {
                '\'' | '"' => Value::String(quoted(text)?),
                _ => {
                    let word: String = std::iter::from_fn(|| text.next_if(|c| !" )".contains(*c))).collect();
                    serde_json::from_str(&word).ok()?
                }
            };
            skip_spaces(text);
            (text.next()? == ')').then_some(())?;
            Step::Where { path, equal, value }
        }
        _ => {
            let number: String = std::iter::from_fn(|| text.next_if(|c| *c == '-' || c.is_ascii_digit())).collect();
            Step::Index(number.parse().ok()?)
        }
    };
    (text.next()? == ']').then_some(step)
}

fn skip_spaces(text: &mut Text<'_>) {
    while text.next_if(|c| *c == ' ').is_some() {}
}

fn quoted(text: &mut Text<'_>) -> Option<String> {
    let mark = text.next()?;
    let mut inside = String::new();
    loop {
        match text.next()? {
            '\\' => inside.push(text.next()?),
            c if c == mark => return Some(inside),
            c => inside.push(c),
        }
    }
}

fn first<'v>(steps: &[Step], value: &'v Value) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => first(rest, value.get(name.as_str())?),
        Step::Index(index) => {
            let list = value.as_array()?;
            let at = if *index < 0 {
                list.len().checked_sub(usize::try_from(-index).ok()?)?
            } else {
                usize::try_from(*index).ok()?
            };
            first(rest, list.get(at)?)
        }
        Step::All => match value {
            Value::Array(list) => list.iter().find_map(|item| first(rest, item)),
            Value::Object(map) => map.values().find_map(|item| first(rest, item)),
            _ => None,
        },
        Step::Where { path, equal, value: wanted } => {
            let fits = |item: &&Value| first(path, item).is_some_and(|found| (found == wanted) == *equal);
            value.as_array()?.iter().filter(fits).find_map(|item| first(rest, item))
        }
    }
}

/// A cell of that kind.
pub(crate) fn shown(found: Option<&Value>, kind: CellKind) -> Shown {
    let Some(found) = found else { return Shown::Always(Value::Null) };
    Shown::Always(match (kind, found) {
        (CellKind::Date, Value::String(time)) => return columns::since(time),
        (CellKind::String, Value::String(text)) => text.as_str().into(),
        (CellKind::String, other) => other.to_string().into(),
        (CellKind::Integer, Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| number.as_f64().map(|number| number as i64));
            whole.map_or(Value::Null, Value::from)
        }
        (CellKind::Number, Value::Number(_)) | (CellKind::Boolean, Value::Bool(_)) => found.clone(),
        _ => Value::Null,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_the_first_value() {
        let object = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]}});
        for (path, found) in [
            (".spec.list[0].v", Some(json!(1))),
            (".spec.list[-1].v", Some(json!(2))),
            (".spec.list[*].n", Some(json!("x"))),
            (".spec['a.b']", Some(json!(1))),
            (r".spec.a\.b", Some(json!(1))),
            (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
            (".status.conditions[?(@.type == 'Old')].status", Some(json!("False"))),
            (".status.conditions[?(@.type!='Ready')].type", Some(json!("Old"))),
            (".spec.list[?(@.v==2)].n", Some(json!("y"))),
            (".spec.list[7].v", None),
            (".spec.missing", None),
            ("..v", None),
            (".spec[", None),
            ("spec", None),
            (".spec.list[?(@.v>1)].n", None),
        ] {
            assert_eq!(JsonPath::parse(path).first(&object), found.as_ref(), "{path}");
        }
    }
}
