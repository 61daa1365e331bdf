//! The field that a rule's error is told of: `.spec.size`, `.labels['a.b']`.

use serde_json::Value;

/// As paths of errors have it, `.labels[a.b]`; none where it is no path, or leads to nothing that the schema knows.
pub fn normal(path: &str, schema: &Value) -> Option<String> {
    let (mut rest, mut schema, mut written) = (path, schema, String::new());
    while !rest.is_empty() {
        let (name, tail) = match rest.strip_prefix('.') {
            Some(tail) => {
                let end = tail.find(['.', '[', ']']).unwrap_or(tail.len());
                let (name, tail) = tail.split_at(end);
                (name.to_owned(), tail)
            }
            None => quoted(rest.strip_prefix("['")?)?,
        };
        rest = tail;
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            schema = properties.get(&name)?;
            written.extend([".", &name]);
        } else {
            schema = schema.get("additionalProperties").filter(|values| values.is_object())?;
            written.extend(["[", &name, "]"]);
        }
    }
    Some(written)
}

/// What is in single quotes, and what follows the bracket behind them.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut name, mut chars) = (String::new(), text.char_indices());
    loop {
        match chars.next()? {
            (at, '\'') => return Some((name, text.get(at + 1..)?.strip_prefix(']')?)),
            (_, '\\') => name.push(match chars.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                c @ ('\'' | '\\') => c,
                _ => return None,
            }),
            (_, c) => name.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_to_what_the_schema_knows() {
        let schema = json!({"properties": {"a": {"properties": {"x.y": {}, "it's": {}}},
            "m": {"additionalProperties": {"properties": {"b": {}}}}}});
        for (path, written) in [
            (".a", Some(".a")),
            (".a['x.y']", Some(".a.x.y")),
            (r".a['it\'s']", Some(".a.it's")),
            (".m.k.b", Some(".m[k].b")),
            (".m['k'].b", Some(".m[k].b")),
            (".z", None),
            ("a", None),
            (".a['x.y'", None),
            (".a[0]", None),
            (r".a['\q']", None),
            (" ", None),
        ] {
            assert_eq!(normal(path, &schema).as_deref(), written, "{path}");
        }
    }
}
