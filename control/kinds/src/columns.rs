//! Columns of the tables that `kubectl get` prints, and what their cells show.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// What a cell shows.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// The text or number at a path, and what is shown where there is none.
    Path(Cow<'static, str>, &'static str),
    /// How many entries the map or list at a path has.
    Count(Cow<'static, str>),
    /// Time since the RFC 3339 time at a path.
    Age(Cow<'static, str>),
    Of(fn(&Value) -> Value),
}

/// A column. Those of Kubernetes' kinds are upstream's (`printersinternal`).
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: Cow<'static, str>,
    /// It is shown with `-o wide` only.
    pub wide: bool,
    pub cell: Cell,
}

pub(crate) fn column(name: &'static str, cell: Cell) -> Column {
    Column { name: name.into(), wide: false, cell }
}

pub(crate) fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name: name.into(), wide: true, cell }
}

pub(crate) fn path(path: &'static str) -> Cell {
    path_or(path, "<none>")
}

pub(crate) fn path_or(path: &'static str, missing: &'static str) -> Cell {
    Cell::Path(path.into(), missing)
}

pub(crate) fn count(path: &'static str) -> Cell {
    Cell::Count(path.into())
}

pub(crate) fn name() -> Column {
    column("Name", path("metadata.name"))
}

pub(crate) fn age() -> Column {
    column("Age", Cell::Age("metadata.creationTimestamp".into()))
}

/// What most have.
pub(crate) fn usual() -> Vec<Column> {
    vec![name(), age()]
}

/// Name, the given, age.
pub(crate) fn between(columns: impl IntoIterator<Item = Column>) -> Vec<Column> {
    std::iter::once(name()).chain(columns).chain([age()]).collect()
}

/// The cell of an object; ages are told as of `now`.
pub(crate) fn show(cell: &Cell, object: &Value, now: Timestamp) -> Value {
    let scalar = |path: &str, missing: &str| match at(object, path) {
        None | Some(Value::Null) => missing.into(),
        Some(Value::String(text)) if text.is_empty() => missing.into(),
        Some(Value::Array(_) | Value::Object(_)) => missing.into(),
        Some(value) => value.clone(),
    };
    match cell {
        Cell::Path(path, missing) => scalar(path, missing),
        Cell::Count(path) => match at(object, path) {
            Some(Value::Array(list)) => list.len().into(),
            Some(Value::Object(map)) => map.len().into(),
            _ => 0.into(),
        },
        Cell::Age(path) => since(text(object, path), now).into(),
        Cell::Of(make) => make(object),
    }
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

pub(crate) fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => duration(now.as_second() - time.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// As `duration.HumanDuration` of apimachinery: two units at most, the smaller ones only while they matter.
fn duration(seconds: i64) -> String {
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
    format!("{}/{}", number(object, have), at(object, want).and_then(Value::as_i64).unwrap_or(1)).into()
}

pub(crate) fn containers(object: &Value, field: &str) -> Value {
    let names: Vec<&str> = list(object, "spec.template.spec.containers").map(|c| text(c, field)).collect();
    names.join(",").into()
}

pub(crate) fn labels(map: &Value) -> Value {
    let empty = Map::new();
    let pairs: Vec<String> = map
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

pub(crate) fn selector(object: &Value) -> Value {
    labels(&at(object, "spec.selector.matchLabels").cloned().unwrap_or_default())
}

pub(crate) fn data_count(object: &Value, fields: &[&str]) -> Value {
    let count: usize = fields.iter().filter_map(|f| object.get(*f)?.as_object()).map(Map::len).sum();
    count.into()
}

pub(crate) fn shown_access_modes(object: &Value) -> Value {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let modes: Vec<&str> = list(object, "spec.accessModes").map(short).collect();
    modes.join(",").into()
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
