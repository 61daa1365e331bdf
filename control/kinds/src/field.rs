//! A place in an object, and what is wrong there: upstream's `util/validation/field`.

use std::{collections::HashSet, fmt::Write, rc::Rc};

use hypernetes_api::error::Cause;
use serde_json::Value;

/// What kind of error a field has; the name of each is part of the API (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    Required,
    Invalid,
    Duplicate,
    NotFound,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    /// Of another type than its schema says.
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// The reason of a cause, and the words that begin its message.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Required => ("FieldValueRequired", "Required value"),
            Self::Invalid => ("FieldValueInvalid", "Invalid value"),
            Self::Duplicate => ("FieldValueDuplicate", "Duplicate value"),
            Self::NotFound => ("FieldValueNotFound", "Not found"),
            Self::NotSupported => ("FieldValueNotSupported", "Unsupported value"),
            Self::Forbidden => ("FieldValueForbidden", "Forbidden"),
            Self::TooLong => ("FieldValueTooLong", "Too long"),
            Self::TooMany => ("FieldValueTooMany", "Too many"),
            Self::Internal => ("InternalError", "Internal error"),
            Self::TypeInvalid => ("FieldValueTypeInvalid", "Invalid value"),
        }
    }

    /// Whether the message shows the value.
    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One field's error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// `spec.containers[0].name`
    pub path: String,
    /// The value as upstream prints it: text in quotes, all else as JSON. Empty where it is not shown.
    pub value: String,
    pub detail: String,
    /// About a change and not about what is there: the old object cannot excuse it.
    pub of_change: bool,
}

impl FieldError {
    /// The cause of an `Invalid` status.
    pub fn cause(&self) -> Cause {
        let (reason, words) = self.kind.words();
        let mut message = words.to_owned();
        if self.kind.shows_value() && !self.value.is_empty() {
            message.push_str(": ");
            message.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            message.push_str(": ");
            message.push_str(&self.detail);
        }
        Cause { reason: reason.into(), message, field: self.path.clone() }
    }
}

/// The most errors that one object's validation keeps: an answer's size is bounded by it, whatever was sent.
pub const MAX_ERRORS: usize = 512;

/// What is wrong with one object so far, in the order in which it was found.
#[derive(Debug, Default)]
pub struct Errors {
    list: Vec<FieldError>,
    /// How many more there were than [`MAX_ERRORS`].
    dropped: usize,
}

impl Errors {
    pub fn push(&mut self, error: FieldError) {
        if self.list.len() < MAX_ERRORS {
            self.list.push(error);
        } else {
            self.dropped += 1;
        }
    }

    /// Puts others behind these.
    pub fn append(&mut self, others: Self) {
        let dropped = others.dropped;
        others.list.into_iter().for_each(|error| self.push(error));
        self.dropped += dropped;
    }

    /// Those that are not excused.
    pub fn without(self, excused: &HashSet<FieldError>) -> Self {
        let list = self.list.into_iter().filter(|error| !excused.contains(error)).collect();
        Self { list, dropped: self.dropped }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many were found, those that are not kept included.
    pub fn count(&self) -> usize {
        self.list.len() + self.dropped
    }

    /// Whether there were more errors than are kept.
    pub fn overflown(&self) -> bool {
        self.dropped > 0
    }

    /// Whether there is an error of what rules in CEL could not be asked about.
    pub(crate) fn block_rules(&self) -> bool {
        use ErrorKind::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        self.list.iter().any(|error| matches!(error.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid))
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.list
    }
}

/// Text in quotes as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            // Writing to a String does not fail.
            c if c.is_ascii_control() => drop(write!(quoted, "\\x{:02x}", u32::from(c))),
            c if c.is_ascii() || c.is_alphanumeric() || c.escape_debug().len() == 1 => quoted.push(c),
            c if u32::from(c) < 0x1_0000 => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => drop(write!(quoted, "\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// A value as an error shows it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => json(other),
    }
}

/// JSON as Go writes it: safe to stand in HTML.
pub(crate) fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => drop(write!(safe, "\\u{:04x}", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}

/// JSON with the fields of its structs in an order of upstream's, without those that are empty lists, maps or texts.
pub fn json_in_order(value: &Value, order: &[&str]) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(|item| json_in_order(item, order)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let rest = map.keys().map(String::as_str).filter(|key| !order.contains(key));
            let fields: Vec<String> = order
                .iter()
                .copied()
                .chain(rest)
                .filter_map(|key| Some((key, map.get(key).filter(|value| !is_empty(value))?)))
                .map(|(key, value)| format!("{}:{}", json(&key.into()), json(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        other => json(other),
    }
}

/// Absent, or empty text, list or map.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Maps (not structs): to upstream, empty ones are the same as none.
const MAPS: &[&str] = &["annotations", "labels", "limits", "matchLabels", "nodeSelector", "overhead", "requests"];

/// Whether two values are the same to upstream (`equality.Semantic`): nothing, an empty list, an empty text and an empty
/// map are one.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).all(|key| {
            let (a, b) = (a.get(key).unwrap_or(&NULL), b.get(key).unwrap_or(&NULL));
            same(a, b) || (MAPS.contains(&key.as_str()) && is_empty(a) && is_empty(b))
        }),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || (is_empty(a) && is_empty(b) && !a.is_object() && !b.is_object()),
    }
}

/// The way to a field, sharing its beginning with those beside it.
#[derive(Debug, Clone, Default)]
pub struct Path(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    before: Path,
    what: What,
}

#[derive(Debug)]
enum What {
    Child(&'static str),
    Named(String),
    Index(usize),
    Key(String),
}

impl Path {
    fn with(&self, what: What) -> Self {
        Self(Some(Rc::new(Step { before: self.clone(), what })))
    }

    /// `.name`; may have dots.
    pub fn child(&self, name: &'static str) -> Self {
        self.with(What::Child(name))
    }

    /// `.name`, of a name that was sent.
    pub fn named(&self, name: &str) -> Self {
        self.with(What::Named(name.to_owned()))
    }

    /// `[at]`
    pub fn index(&self, at: usize) -> Self {
        self.with(What::Index(at))
    }

    /// `[key]`
    pub fn key(&self, key: &str) -> Self {
        self.with(What::Key(key.to_owned()))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Paths are as deep as a schema is.
        let Some(step) = &self.0 else { return Ok(()) };
        step.before.fmt(f)?;
        match &step.what {
            What::Child(name) if step.before.0.is_none() => f.write_str(name),
            What::Child(name) => write!(f, ".{name}"),
            What::Named(name) if step.before.0.is_none() => f.write_str(name),
            What::Named(name) => write!(f, ".{name}"),
            What::Index(at) => write!(f, "[{at}]"),
            What::Key(key) => write!(f, "[{key}]"),
        }
    }
}

static NULL: Value = Value::Null;

/// A value and where it is. Reading what is not there, or is of another type, gives what is empty: no input panics.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub value: &'a Value,
    pub path: Path,
}

impl<'a> Field<'a> {
    /// The whole object.
    pub fn root(value: &'a Value) -> Self {
        Self { value, path: Path::default() }
    }

    /// A value that stands at another place than its own.
    pub fn at(value: &'a Value, path: Path) -> Self {
        Self { value, path }
    }

    /// A field of a struct; `name` may not have dots.
    pub fn get(&self, name: &'static str) -> Field<'a> {
        Field { value: self.value.get(name).unwrap_or(&NULL), path: self.path.child(name) }
    }

    /// A field some steps away.
    pub fn walk(&self, names: impl AsRef<[&'static str]>) -> Field<'a> {
        names.as_ref().iter().fold(self.clone(), |field, name| field.get(name))
    }

    /// The value at a key of a map.
    pub fn key(&self, key: &str) -> Field<'a> {
        Field { value: self.value.get(key).unwrap_or(&NULL), path: self.path.key(key) }
    }

    /// The items of a list.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Field<'a>> + use<'a> {
        let (path, list) = (self.path.clone(), self.value.as_array().map_or(&[][..], Vec::as_slice));
        list.iter().enumerate().map(move |(at, value)| Field { value, path: path.index(at) })
    }

    /// The entries of a map, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        let mut entries: Vec<_> = self.value.as_object().into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.as_str());
        entries.into_iter().map(move |(key, value)| (key.as_str(), Field { value, path: path.key(key) }))
    }

    /// The text, or the empty text.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub fn is_true(&self) -> bool {
        self.flag() == Some(true)
    }

    /// Whether the field is there (and not null).
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Absent, or empty text, list or map.
    pub fn is_empty(&self) -> bool {
        is_empty(self.value)
    }

    /// How many items a list or entries a map has.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    fn error(&self, errors: &mut Errors, kind: ErrorKind, value: String, detail: impl Into<String>) {
        let path = self.path.to_string();
        errors.push(FieldError { kind, path, value, detail: detail.into(), of_change: false });
    }

    /// It has to be there; `detail` may be empty.
    pub fn required(&self, errors: &mut Errors, detail: &str) {
        self.error(errors, ErrorKind::Required, String::new(), detail);
    }

    /// Its value is not a good one.
    pub fn invalid(&self, errors: &mut Errors, detail: impl Into<String>) {
        // An absent text is an empty one to upstream, whose types have no other.
        self.error(errors, ErrorKind::Invalid, shown(self.value), detail);
    }

    /// Its value, which upstream prints as `value`, is not a good one.
    pub fn invalid_as(&self, errors: &mut Errors, value: impl Into<String>, detail: impl Into<String>) {
        self.error(errors, ErrorKind::Invalid, value.into(), detail);
    }

    /// Errors of the field's text: one for each fault.
    pub fn faulty(&self, errors: &mut Errors, faults: impl IntoIterator<Item = String>) {
        faults.into_iter().for_each(|fault| self.invalid_text(errors, fault));
    }

    /// An error of a text that has to be there and be good.
    pub fn required_text(&self, errors: &mut Errors, check: fn(&str) -> Vec<String>) {
        match self.is_empty() {
            true => self.required(errors, ""),
            false => self.faulty(errors, check(self.text())),
        }
    }

    /// An error of a text that, where it is there, has to be good.
    pub fn optional_text(&self, errors: &mut Errors, check: fn(&str) -> Vec<String>) {
        if !self.is_empty() {
            self.faulty(errors, check(self.text()));
        }
    }

    /// An error where it is empty.
    pub fn not_empty(&self, errors: &mut Errors) {
        if self.is_empty() {
            self.required(errors, "");
        }
    }

    /// An error of a number that is less than nothing.
    pub fn non_negative(&self, errors: &mut Errors) {
        if self.int().is_some_and(i64::is_negative) {
            self.invalid(errors, "must be greater than or equal to 0");
        }
    }

    /// An error of a number outside of a range, ends included.
    pub fn in_range(&self, errors: &mut Errors, least: i64, most: i64) {
        if let Some(fault) = self.int().and_then(|number| crate::format::in_range(number, least, most)) {
            self.invalid(errors, fault);
        }
    }

    /// An error where it is there and its text is none of `known`.
    pub fn optional_one_of(&self, errors: &mut Errors, known: &[&str]) {
        if self.is_set() {
            self.one_of(errors, known);
        }
    }

    /// An error where it is empty, and another where its text is none of `known`.
    pub fn required_one_of(&self, errors: &mut Errors, known: &[&str]) {
        match self.is_empty() {
            true => self.required(errors, ""),
            false => self.one_of(errors, known),
        }
    }

    /// The text of the field is not a good one: as [`Field::invalid`], an absent one shown as empty.
    pub fn invalid_text(&self, errors: &mut Errors, detail: impl Into<String>) {
        self.error(errors, ErrorKind::Invalid, quote(self.text()), detail);
    }

    /// The key, or another text than the field's own, is not a good one.
    pub fn invalid_quoted(&self, errors: &mut Errors, text: &str, detail: impl Into<String>) {
        self.error(errors, ErrorKind::Invalid, quote(text), detail);
    }

    /// Its text is none of those that are known.
    pub fn not_supported(&self, errors: &mut Errors, known: &[&str]) {
        self.not_supported_as(errors, quote(self.text()), known);
    }

    /// As [`Field::not_supported`], with the value as upstream prints it.
    pub fn not_supported_as(&self, errors: &mut Errors, value: String, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|word| quote(word)).collect();
        self.error(errors, ErrorKind::NotSupported, value, format!("supported values: {}", known.join(", ")));
    }

    /// An error where the text is none of `known`; upstream's lists are sorted, mostly.
    pub fn one_of(&self, errors: &mut Errors, known: &[&str]) {
        if !known.contains(&self.text()) {
            self.not_supported(errors, known);
        }
    }

    /// It may not be there, or not with this beside it.
    pub fn forbidden(&self, errors: &mut Errors, detail: impl Into<String>) {
        self.error(errors, ErrorKind::Forbidden, String::new(), detail);
    }

    /// Another has the same value.
    pub fn duplicate(&self, errors: &mut Errors) {
        self.error(errors, ErrorKind::Duplicate, shown(self.value), "");
    }

    /// Another has the same value, which upstream prints as `value`.
    pub fn duplicate_as(&self, errors: &mut Errors, value: impl Into<String>) {
        self.error(errors, ErrorKind::Duplicate, value.into(), "");
    }

    /// As [`Field::duplicate_as`], with what is the same.
    pub fn duplicate_because(&self, errors: &mut Errors, value: impl Into<String>, detail: impl Into<String>) {
        self.error(errors, ErrorKind::Duplicate, value.into(), detail);
    }

    /// It names what is not there.
    pub fn not_found(&self, errors: &mut Errors) {
        self.error(errors, ErrorKind::NotFound, shown(self.value), "");
    }

    /// It names what is not there, by a text that is not the field's whole value.
    pub fn not_found_as(&self, errors: &mut Errors, text: &str) {
        self.error(errors, ErrorKind::NotFound, quote(text), "");
    }

    /// As [`Field::not_found_as`], with where it was looked for.
    pub fn not_found_because(&self, errors: &mut Errors, text: &str, detail: impl Into<String>) {
        self.error(errors, ErrorKind::NotFound, quote(text), detail);
    }

    /// What upstream cannot do, and says so.
    pub(crate) fn internal(&self, errors: &mut Errors, detail: &str) {
        self.error(errors, ErrorKind::Internal, String::new(), detail);
    }

    /// Longer than `most` bytes.
    pub fn too_long(&self, errors: &mut Errors, most: usize) {
        self.error(errors, ErrorKind::TooLong, String::new(), format!("may not be more than {most} bytes"));
    }

    /// More than `most` items.
    pub fn too_many(&self, errors: &mut Errors, most: usize) {
        let detail = format!("must have at most {most} items");
        self.error(errors, ErrorKind::TooMany, self.len().to_string(), detail);
    }

    /// A change of what is for life.
    pub fn immutable(&self, errors: &mut Errors) {
        let value = match self.value {
            // Most are selectors.
            Value::Object(_) => json_in_order(self.value, &["matchLabels", "matchExpressions"]),
            value => shown(value),
        };
        self.changed(errors, ErrorKind::Invalid, value, "field is immutable");
    }

    /// A change that is not allowed: an error that the old object does not excuse.
    pub fn changed(&self, errors: &mut Errors, kind: ErrorKind, value: String, detail: impl Into<String>) {
        errors.push(FieldError { kind, path: self.path.to_string(), value, detail: detail.into(), of_change: true });
    }

    /// A change that is forbidden.
    pub fn change_forbidden(&self, errors: &mut Errors, detail: impl Into<String>) {
        self.changed(errors, ErrorKind::Forbidden, String::new(), detail);
    }

    /// An error unless the value is the old one's. What is empty and what is absent are the same.
    pub fn kept(&self, errors: &mut Errors, old: &Field<'_>) {
        if !self.is_as(old) {
            self.immutable(errors);
        }
    }

    /// Whether the value is the old one's.
    pub(crate) fn is_as(&self, old: &Field<'_>) -> bool {
        self.is_empty() && old.is_empty() || same(self.value, old.value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_and_values_are_written_as_upstream_writes_them() {
        let object = json!({"spec": {"containers": [{"name": "C\u{e9}\n\u{0}\u{200b}"}], "hard": {"pods": -1}}});
        let root = Field::root(&object);
        let mut errors = Errors::default();
        let container = root.walk(["spec", "containers"]).items().next().unwrap();
        container.get("name").invalid(&mut errors, "no");
        container.get("image").required(&mut errors, "");
        root.walk(["spec", "hard"]).key("pods").invalid(&mut errors, "must be more");
        root.get("kind").not_supported(&mut errors, &["A", "B"]);
        let said: Vec<_> = errors.into_vec().iter().map(|e| e.cause()).map(|c| c.field + ": " + &c.message).collect();
        assert_eq!(
            said,
            [
                "spec.containers[0].name: Invalid value: \"C\u{e9}\\n\\x00\\u200b\": no",
                "spec.containers[0].image: Required value",
                "spec.hard[pods]: Invalid value: -1: must be more",
                "kind: Unsupported value: \"\": supported values: \"A\", \"B\"",
            ]
        );
    }

    #[test]
    fn errors_are_bounded() {
        let (value, mut errors) = (json!(1), Errors::default());
        (0..MAX_ERRORS + 9).for_each(|_| Field::root(&value).invalid(&mut errors, ""));
        assert!(errors.overflown() && errors.len() == MAX_ERRORS);
    }
}
