//! Label and field selectors, as list and watch take them.

use std::{borrow::Cow, collections::VecDeque};

use hypernetes_api::{ApiError, DnsSubdomain};
use hypernetes_kinds::Selectable;
use serde_json::Value;

/// What an object has to be to be shown. Parsed once for each request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    field: Selectable,
    value: String,
    equal: bool,
}

impl Selector {
    /// `selectable`: fields that can be selected by, besides the name and the namespace.
    ///
    /// # Errors
    /// `BadRequest` for what is no selector, or a field that cannot be selected by.
    pub fn parse(selectable: &[Selectable], labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: Labels { tokens: tokens(labels) }.terms()?,
            fields: parse_fields(&|path| selectable.iter().find(|field| field.name == path).cloned(), fields)?,
        })
    }

    /// Of a question about whatever resource: every field may be one of its.
    ///
    /// # Errors
    /// `BadRequest` for what is no selector.
    pub fn of_anything(labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self {
            labels: Labels { tokens: tokens(labels) }.terms()?,
            fields: parse_fields(&|path| Some(Selectable::field(path)), fields)?,
        })
    }

    /// And all that another wants.
    pub fn and(&mut self, other: Self) {
        self.labels.extend(other.labels);
        self.fields.extend(other.fields);
    }

    /// And a label, by an operator of `LabelSelector`s.
    ///
    /// # Errors
    /// `BadRequest` for what is no label, or no such operator.
    pub fn and_label(&mut self, key: &str, operator: &str, values: &[String]) -> Result<(), ApiError> {
        if !is_key(key) {
            return Err(bad(&format!("key: Invalid value: {key:?}: it is no label key")));
        }
        let values = values.iter().map(|value| checked_value(value)).collect::<Result<Vec<_>, _>>()?;
        self.labels.push(match operator {
            "In" => LabelTerm::In(key.to_owned(), values),
            "NotIn" => LabelTerm::NotIn(key.to_owned(), values),
            "Exists" => LabelTerm::Exists(key.to_owned()),
            "DoesNotExist" => LabelTerm::Absent(key.to_owned()),
            other => return Err(bad(&format!("{other:?} is no operator"))),
        });
        Ok(())
    }

    /// And a field, which is to have the value, or not to have it.
    pub fn and_field(&mut self, path: &str, value: &str, equal: bool) {
        self.fields.push(FieldTerm { field: Selectable::field(path), value: value.to_owned(), equal });
    }

    /// Of a `LabelSelector`, which objects have; none for what is not a good one.
    pub fn of_object(selector: &Value) -> Option<Self> {
        let pairs = selector["matchLabels"].as_object().into_iter().flatten();
        let equal = pairs.map(|(key, value)| Some(LabelTerm::In(key.clone(), vec![value.as_str()?.to_owned()])));
        let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|term| {
            let key = term["key"].as_str()?.to_owned();
            let values = term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            Some(match term["operator"].as_str()? {
                "In" => LabelTerm::In(key, values.collect()),
                "NotIn" => LabelTerm::NotIn(key, values.collect()),
                "Exists" => LabelTerm::Exists(key),
                "DoesNotExist" => LabelTerm::Absent(key),
                _ => return None,
            })
        });
        Some(Self { labels: equal.chain(expressions).collect::<Option<_>>()?, fields: Vec::new() })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether names and namespaces decide, which are in an object's key.
    pub fn is_of_keys(&self) -> bool {
        let in_key = |term: &FieldTerm| matches!(&*term.field.name, "metadata.name" | "metadata.namespace");
        self.labels.is_empty() && self.fields.iter().all(in_key)
    }

    /// The only value that a field may have.
    pub fn requires(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|term| term.equal && term.field.name == path).map(|term| term.value.as_str())
    }

    pub fn matches(&self, object: &impl Labelled) -> bool {
        let label = |key: &str| object.label(key);
        let number = |key: &str| label(key).and_then(|text| text.parse::<i64>().ok());
        self.labels.iter().all(|term| match term {
            LabelTerm::In(key, values) => label(key).is_some_and(|have| values.iter().any(|v| *v == have)),
            LabelTerm::NotIn(key, values) => !label(key).is_some_and(|have| values.iter().any(|v| *v == have)),
            LabelTerm::Exists(key) => label(key).is_some(),
            LabelTerm::Absent(key) => label(key).is_none(),
            LabelTerm::Greater(key, bound) => number(key).is_some_and(|have| have > *bound),
            LabelTerm::Less(key, bound) => number(key).is_some_and(|have| have < *bound),
        }) && self.fields.iter().all(|term| (object.field(&term.field) == term.value) == term.equal)
    }
}

/// What can be selected.
pub trait Labelled {
    fn label(&self, key: &str) -> Option<Cow<'_, str>>;
    /// As text; of a field that is absent its zero value.
    fn field(&self, field: &Selectable) -> Cow<'_, str>;
}

impl Labelled for Value {
    fn label(&self, key: &str) -> Option<Cow<'_, str>> {
        self["metadata"]["labels"][key].as_str().map(Cow::Borrowed)
    }

    fn field(&self, field: &Selectable) -> Cow<'_, str> {
        field.value(self)
    }
}

fn bad(why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {}", why.chars().take(400).collect::<String>()))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word, or one of the signs `! = == != ( ) , > <`.
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(text) => text,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }
}

/// Longest first.
const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(mut text: &str) -> VecDeque<Token> {
    let mut tokens = VecDeque::new();
    loop {
        text = text.trim_start_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return tokens;
        }
        if let Some(sign) = SIGNS.into_iter().find(|sign| text.starts_with(sign)) {
            tokens.push_back(Token::Sign(sign));
            text = &text[sign.len()..];
            continue;
        }
        let end = text.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']).unwrap_or(text.len());
        tokens.push_back(Token::Word(text[..end].to_owned()));
        text = &text[end..];
    }
}

/// Upstream's grammar of label selectors: requirements with commas between them, and nothing behind the last.
struct Labels {
    /// Behind them is the end.
    tokens: VecDeque<Token>,
}

impl Labels {
    fn next(&mut self) -> Token {
        self.tokens.pop_front().unwrap_or(Token::End)
    }

    fn peek(&self) -> &Token {
        self.tokens.front().unwrap_or(&Token::End)
    }

    fn terms(&mut self) -> Result<Vec<LabelTerm>, ApiError> {
        let mut terms = Vec::new();
        if *self.peek() == Token::End {
            return Ok(terms);
        }
        loop {
            match self.peek() {
                Token::Word(_) | Token::Sign("!") => terms.push(self.term()?),
                other if terms.is_empty() => {
                    return Err(bad(&format!("found '{}', expected: !, identifier, or 'end of string'", other.text())));
                }
                other => return Err(bad(&format!("found '{}', expected: identifier after ','", other.text()))),
            }
            match self.next() {
                Token::End => return Ok(terms),
                Token::Sign(",") => {}
                other => return Err(bad(&format!("found '{}', expected: ',' or 'end of string'", other.text()))),
            }
        }
    }

    fn key(&mut self) -> Result<String, ApiError> {
        match self.next() {
            Token::Word(key) if is_key(&key) => Ok(key),
            Token::Word(key) => Err(bad(&format!("key: Invalid value: {key:?}: it is no label key"))),
            other => Err(bad(&format!("found '{}', expected: identifier", other.text()))),
        }
    }

    fn term(&mut self) -> Result<LabelTerm, ApiError> {
        if *self.peek() == Token::Sign("!") {
            self.next();
            return Ok(LabelTerm::Absent(self.key()?));
        }
        let key = self.key()?;
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(LabelTerm::Exists(key));
        }
        let operator = self.next();
        match operator.text() {
            "=" | "==" => Ok(LabelTerm::In(key, vec![self.value()?])),
            "!=" => Ok(LabelTerm::NotIn(key, vec![self.value()?])),
            "in" => Ok(LabelTerm::In(key, self.values()?)),
            "notin" => Ok(LabelTerm::NotIn(key, self.values()?)),
            sign @ (">" | "<") => {
                let value = self.value()?;
                let why = || bad("for 'Gt', 'Lt' operators, the value must be an integer");
                let value = value.parse().map_err(|_| why())?;
                Ok(if sign == ">" { LabelTerm::Greater(key, value) } else { LabelTerm::Less(key, value) })
            }
            other => {
                let expected = "in, notin, =, ==, !=, gt, lt";
                Err(bad(&format!("found '{other}', expected: {expected}")))
            }
        }
    }

    /// One value, which may be empty.
    fn value(&mut self) -> Result<String, ApiError> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(_) => checked_value(self.next().text()),
            other => Err(bad(&format!("found '{}', expected: identifier", other.text()))),
        }
    }

    /// `(a, b)`; between two commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, ApiError> {
        let open = self.next();
        if open != Token::Sign("(") {
            return Err(bad(&format!("found '{}', expected: '('", open.text())));
        }
        if *self.peek() == Token::Sign(")") {
            return Err(bad("for 'in', 'notin' operators, values set can't be empty"));
        }
        let mut values = Vec::new();
        loop {
            values.push(match self.peek() {
                Token::Word(_) => checked_value(self.next().text())?,
                Token::Sign("," | ")") => String::new(),
                other => return Err(bad(&format!("found '{}', expected: ',', or identifier", other.text()))),
            });
            match self.next() {
                Token::Sign(")") => return Ok(values),
                Token::Sign(",") => {}
                other => return Err(bad(&format!("found '{}', expected: ',' or ')'", other.text()))),
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    is_word(name) && prefix.is_none_or(|prefix| DnsSubdomain::new(prefix).is_ok())
}

fn checked_value(value: &str) -> Result<String, ApiError> {
    if value.is_empty() || is_word(value) {
        return Ok(value.to_owned());
    }
    Err(bad(&format!("values[0][key]: Invalid value: {value:?}: it is no label value")))
}

/// Upstream's grammar of field selectors: `\` before `,`, `=` and itself takes them as they are; empty terms are skipped, but
/// where all are empty it selects nothing that one could have meant.
///
/// `known`: a field of that path, if it can be selected by.
fn parse_fields(known: &dyn Fn(&str) -> Option<Selectable>, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let cannot = |term: &str| ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"));
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut terms = Vec::new();
    for term in split_escaped(text).into_iter().filter(|term| !term.is_empty()) {
        let at = operator(term).ok_or_else(|| cannot(term))?;
        let (path, rest) = term.split_at(at);
        let (operator, value) = match rest {
            _ if rest.starts_with("!=") => ("!=", &rest[2..]),
            _ if rest.starts_with("==") => ("==", &rest[2..]),
            _ => ("=", &rest[1..]),
        };
        let field = match path {
            "metadata.name" | "metadata.namespace" => Selectable::field(path),
            _ => {
                let unknown = || ApiError::bad_request(format!("field label not supported: {path}"));
                known(path).ok_or_else(unknown)?
            }
        };
        let value = unescaped(value).ok_or_else(|| cannot(term))?;
        terms.push(FieldTerm { field, value, equal: operator != "!=" });
    }
    if terms.is_empty() {
        return Err(cannot(text));
    }
    Ok(terms)
}

/// Splits at commas that are not escaped.
fn split_escaped(text: &str) -> Vec<&str> {
    let (mut start, mut escaped, mut terms) = (0, false, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Where the first operator is.
fn operator(term: &str) -> Option<usize> {
    term.char_indices().find(|(at, c)| *c == '=' || term[*at..].starts_with("!=")).map(|(at, _)| at)
}

fn unescaped(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?,
            ',' | '=' => return None,
            c => c,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selectable() -> &'static [Selectable] {
        &hypernetes_kinds::registry::builtin_of("", "v1", "Pod").unwrap().selectable
    }

    fn matches(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front", "rank": "5"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        Selector::parse(selectable(), labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn terms_are_all_met() {
        for yes in [
            "",
            "app=web",
            "app==web,tier",
            "app in (x, web)",
            "app notin (x),!none",
            "tier!=back",
            "none!=x",
            " app = web ",
            "rank>4,rank<6",
            "app in (,web)",
            "none notin (a,,b)",
        ] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["app=x", "none", "!app", "app in (x)", "app notin (web)", "app=web,none", "rank>5", "app<9", "app="]
        {
            assert!(!matches(no, ""), "{no}");
        }
        assert!(matches("", "spec.nodeName=n1,metadata.name!=b,status.phase=Running"));
        assert!(!matches("", "spec.nodeName=n2"));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let bad = [
            ",",
            ",,,",
            "a=b,",
            ",a=b",
            "a,,b",
            "=",
            "!",
            "!!a",
            "a in (",
            "a in )",
            "a in ((x))",
            "a in ()",
            "a in x",
            "=x",
            "a b",
            "a=b c",
            "a foo (x)",
            "a=b=c",
            "a=b)",
            "(a)",
            "a>b",
            "a=-",
            "-a",
            "a/b/c",
            "a=\"b\"",
            "a=%",
            "*",
            "a!b",
        ];
        for bad in bad {
            assert!(Selector::parse(selectable(), bad, "").is_err(), "{bad}");
        }
        assert!(Selector::parse(selectable(), "", "spec.nonsense=x").is_err());
        assert!(Selector::parse(selectable(), "", "metadata.name").is_err());
        for bad in [
            ",",
            ",,,",
            "=",
            "=x",
            "metadata.name=a=b",
            "metadata.name=a\\b",
            " ",
            "metadata.name=a,x",
            " metadata.name=a",
        ] {
            assert!(Selector::parse(selectable(), "", bad).is_err(), "{bad}");
        }
        assert!(Selector::parse(selectable(), " ", "metadata.name=a,").is_ok());
    }
}
