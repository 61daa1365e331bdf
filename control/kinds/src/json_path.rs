//! Kubernetes' JSONPath, as columns of definitions have it: the first value that a path leads to.

use serde_json::Value;

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

impl JsonPath {
    /// Of a path as `.spec.list[0].name`.
    pub(crate) fn parse(text: &str) -> Self {
        let steps = parse(&mut text.trim().chars().peekable(), None);
        Self(steps.unwrap_or_else(|| vec![Step::Index(0), Step::Field(String::new())]))
    }

    /// Whether a text is a path, which may begin with a name.
    pub(crate) fn is_one(text: &str) -> bool {
        let path = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        parse(&mut path.chars().peekable(), None).is_some()
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
