//! The cells of a row: made once of an object, and shown at any time.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{Ago, Cell, CellKind, Column, Missing, Shown, at, duration, since, text};

/// The cells of a row in JSON, without what tells how long ago something was: that is written in its places whenever they are shown.
#[derive(Debug)]
pub struct Cells {
    text: Box<str>,
    ages: Box<[Age]>,
}

#[derive(Debug)]
struct Age {
    /// Where in the text.
    place: u32,
    /// Seconds since 1970.
    since: i64,
}

impl Cells {
    pub(crate) fn of(columns: &[Column], object: &Value) -> Self {
        let (mut text, mut ages) = (String::from("["), Vec::new());
        for (number, column) in columns.iter().enumerate() {
            if number > 0 {
                text.push(',');
            }
            match shown(&column.cell, object) {
                Shown::Always(value) => text.push_str(&value.to_string()),
                Shown::Ago(Ago { before, time, after }) => {
                    text.push('"');
                    text.push_str(&before);
                    // An object is smaller than that.
                    let place = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    ages.push(Age { place, since: time.as_second() });
                    text.push_str(after);
                    text.push('"');
                }
            }
        }
        text.push(']');
        Self { text: text.into(), ages: ages.into() }
    }

    /// The pieces of the cells as they are at that time, one after the other.
    pub fn show(&self, now: Timestamp, mut write: impl FnMut(&str)) {
        let mut from = 0;
        for age in &self.ages {
            let place = age.place as usize;
            write(self.text.get(from..place).unwrap_or_default());
            write(&duration(now.as_second().saturating_sub(age.since)));
            from = place;
        }
        write(self.text.get(from..).unwrap_or_default());
    }
}

fn shown(cell: &Cell, object: &Value) -> Shown {
    let value = match cell {
        Cell::Path(path, missing) => match (at(object, path), missing) {
            (Some(Value::Number(number)), _) => number.clone().into(),
            (Some(Value::Bool(bool)), _) => (*bool).into(),
            (Some(Value::String(text)), _) if !text.is_empty() => text.as_str().into(),
            (_, Missing::Text(missing)) => (*missing).into(),
            (_, Missing::Zero) => 0.into(),
            (_, Missing::False) => false.into(),
        },
        Cell::Count(path) => match at(object, path) {
            Some(Value::Array(list)) => list.len().into(),
            Some(Value::Object(map)) => map.len().into(),
            _ => 0.into(),
        },
        Cell::Age(path) => return since(text(object, path)),
        Cell::Found(path, kind) => return found(path.first(object), *kind),
        Cell::Of(make) => make(object),
        Cell::AsOf(make) => return make(object),
    };
    Shown::Always(value)
}

/// What a path has led to, as a cell of that kind.
fn found(found: Option<&Value>, kind: CellKind) -> Shown {
    let Some(found) = found else { return Shown::Always(Value::Null) };
    Shown::Always(match (kind, found) {
        (CellKind::Date, Value::String(time)) => return since(time),
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
