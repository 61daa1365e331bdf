//! Columns of the tables that `kubectl get` prints, and what their cells show.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{json_path::JsonPath, selector_text};

/// What a cell shows.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// The value at a path, and what is shown where there is none.
    Path(Cow<'static, str>, Missing),
    /// How many entries the map or list at a path has.
    Count(Cow<'static, str>),
    /// Time since the RFC 3339 time at a path.
    Age(Cow<'static, str>),
    /// What a definition's path leads to.
    Found(JsonPath, CellKind),
    Of(fn(&Value) -> Value),
    /// The same, of something that changes with time.
    AsOf(fn(&Value) -> Shown),
}

/// What the cells of a definition's column show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellKind {
    String,
    Integer,
    Number,
    Boolean,
    Date,
}

impl CellKind {
    pub fn parse(text: &str) -> Self {
        match text {
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "date" => Self::Date,
            _ => Self::String,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
        }
    }
}

/// A text that says how long ago something was.
#[derive(Debug, Clone)]
pub(crate) struct Ago {
    /// In JSON and within its quotation marks.
    pub before: String,
    pub time: Timestamp,
    pub after: &'static str,
}

/// What a cell shows that may tell how long ago something was.
pub(crate) enum Shown {
    Always(Value),
    Ago(Ago),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Missing {
    Text(&'static str),
    Zero,
    False,
}

/// A column. Those of Kubernetes' kinds are upstream's.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `boolean` or `date`: a text whatever it says, as upstream has it.
    pub kind: &'static str,
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    /// Above 0: it is shown with `-o wide` only.
    pub priority: i32,
    pub cell: Cell,
}

impl Column {
    pub fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    pub fn named(self) -> Self {
        Self { format: "name".into(), ..self }
    }
}

pub(crate) fn column(name: &'static str, cell: Cell) -> Column {
    let format = if name == "Name" { "name" } else { "" };
    let (name, format, description) = (name.into(), format.into(), Cow::default());
    Column { name, kind: "string", format, description, priority: 0, cell }
}

pub(crate) fn wide(name: &'static str, cell: Cell) -> Column {
    Column { priority: 1, ..column(name, cell) }
}

/// Of a number.
pub(crate) fn integer(name: &'static str, path: &'static str) -> Column {
    column(name, number_at(path)).kind("integer")
}

pub(crate) fn boolean(name: &'static str, path: &'static str) -> Column {
    column(name, Cell::Path(path.into(), Missing::False)).kind("boolean")
}

pub(crate) fn path(path: &'static str) -> Cell {
    path_or(path, "<none>")
}

pub(crate) fn path_or(path: &'static str, missing: &'static str) -> Cell {
    Cell::Path(path.into(), Missing::Text(missing))
}

/// A number; zero where there is none.
pub(crate) fn number_at(path: &'static str) -> Cell {
    Cell::Path(path.into(), Missing::Zero)
}

pub(crate) fn name() -> Column {
    column("Name", path("metadata.name"))
}

pub(crate) fn age() -> Column {
    column("Age", Cell::Age("metadata.creationTimestamp".into()))
}

pub(crate) fn created_at() -> Column {
    column("Created At", path_or("metadata.creationTimestamp", "")).kind("date")
}

/// What most have.
pub(crate) fn usual() -> Vec<Column> {
    vec![name(), age()]
}

/// Name, the given, age.
pub(crate) fn between(columns: impl IntoIterator<Item = Column>) -> Vec<Column> {
    std::iter::once(name()).chain(columns).chain([age()]).collect()
}

/// Of what makes pods by a template in `spec.template`: what is in them.
pub(crate) fn containers() -> [Column; 2] {
    [
        wide("Containers", Cell::Of(|o| of_containers(o, "spec.template", "name"))),
        wide("Images", Cell::Of(|o| of_containers(o, "spec.template", "image"))),
    ]
}

/// And which pods are its own.
pub(crate) fn selector() -> Column {
    wide("Selector", Cell::Of(|o| label_selector(at(o, "spec.selector"))))
}

pub(crate) fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

pub(crate) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn number(value: &Value, path: &str) -> i64 {
    at(value, path).and_then(Value::as_i64).unwrap_or(0)
}

pub(crate) fn list<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v Value> {
    at(value, path).and_then(Value::as_array).into_iter().flatten()
}

/// The texts of a list.
pub(crate) fn texts<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v str> {
    list(value, path).filter_map(Value::as_str)
}

/// A text, or, where that is empty, another.
pub(crate) fn or(text: &str, empty: &str) -> Value {
    if text.is_empty() { empty.into() } else { text.into() }
}

/// The first of many, and how many more there are.
pub(crate) fn first_of(all: impl IntoIterator<Item = String>, most: usize, between: &str) -> String {
    let all: Vec<String> = all.into_iter().collect();
    match all.len().saturating_sub(most) {
        0 => all.join(between),
        more => format!("{} + {more} more...", all[..most].join(between)),
    }
}

/// How long ago an RFC 3339 time was.
pub(crate) fn since(time: &str) -> Shown {
    match time.parse() {
        Ok(time) => Shown::Ago(Ago { before: String::new(), time, after: "" }),
        Err(_) => Shown::Always("<unknown>".into()),
    }
}

/// As `duration.HumanDuration` of apimachinery: two units at most, the smaller ones only while they matter.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => with(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

pub(crate) fn ratio(object: &Value, have: &str, want: &str) -> Value {
    format!("{}/{}", number(object, have), number(object, want)).into()
}

/// Of the containers of a template of pods, a field of each.
pub(crate) fn of_containers(object: &Value, template: &str, field: &str) -> Value {
    let containers = at(object, template).map(|template| list(template, "spec.containers"));
    containers.into_iter().flatten().map(|container| text(container, field)).collect::<Vec<_>>().join(",").into()
}

pub(crate) fn labels(map: Option<&Value>) -> Value {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or(&pairs.join(","), "<none>")
}

pub(crate) fn label_selector(selector: Option<&Value>) -> Value {
    or(&selector.map(selector_text::written).unwrap_or_default(), "<none>")
}

pub(crate) fn data_count(object: &Value, fields: &[&str]) -> Value {
    let count: usize = fields.iter().filter_map(|f| object.get(*f)?.as_object()).map(Map::len).sum();
    count.into()
}

/// Access modes of volumes, in short.
pub(crate) fn access_modes(object: &Value, path: &str) -> Value {
    let short = |mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    texts(object, path).map(short).collect::<Vec<_>>().join(",").into()
}

/// The addresses of a load balancer's status.
pub(crate) fn load_balancer(object: &Value) -> String {
    let each = list(object, "status.loadBalancer.ingress").map(|ingress| match text(ingress, "ip") {
        "" => text(ingress, "hostname"),
        ip => ip,
    });
    each.filter(|address| !address.is_empty()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
