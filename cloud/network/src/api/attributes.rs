//! The attributes in a body, each taken once and checked; what is left over is not known.

use serde_json::{Map, Value};

use super::{Envelope, Error};

/// Neutron's limits, in characters.
const NAME: usize = 255;
const TEXT: usize = 255;

/// What is under the resource's name. Several at once are not made.
pub(crate) fn item(body: Envelope, name: &str) -> Result<Map<String, Value>, Error> {
    let mut body = body.0;
    match body.remove(name) {
        Some(Value::Object(item)) => Ok(item),
        _ => Err(Error::bad_request(format!("Unable to find '{name}' in request body"))),
    }
}

pub(crate) struct Attributes(pub Map<String, Value>);

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(64).collect(),
        other => other.to_string().chars().take(64).collect(),
    }
}

impl Attributes {
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() > NAME.max(TEXT) => Err(Error::attribute(
                name,
                format_args!("'{}…' exceeds maximum length of {NAME}", &shown(&text.into())),
            )),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Null) if name != "name" => Ok(Some(String::new())),
            Some(other) => Err(Error::attribute(name, format_args!("'{}' is not a valid string", shown(&other)))),
        }
    }

    /// Booleans come as such, as 0 and 1, or in words.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match shown(&value).to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            other => Err(Error::attribute(name, format_args!("'{other}' cannot be converted to boolean"))),
        }
    }

    pub fn number(&mut self, name: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let text = shown(&value);
        text.parse().map(Some).map_err(|_| Error::attribute(name, format_args!("'{text}' is not an integer")))
    }

    /// A list of objects; null is an empty one.
    pub fn objects(&mut self, name: &str) -> Result<Option<Vec<Attributes>>, Error> {
        let list = match self.take(name) {
            None => return Ok(None),
            Some(Value::Null) => return Ok(Some(Vec::new())),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(Error::attribute(name, format_args!("'{}' is not a list", shown(&other)))),
        };
        let object = |value| match value {
            Value::Object(map) => Ok(Attributes(map)),
            other => Err(Error::attribute(name, format_args!("'{}' is not a dictionary", shown(&other)))),
        };
        list.into_iter().map(object).collect::<Result<_, _>>().map(Some)
    }

    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let list = match self.take(name) {
            None => return Ok(None),
            Some(Value::Null) => return Ok(Some(Vec::new())),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(Error::attribute(name, format_args!("'{}' is not a list", shown(&other)))),
        };
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(Error::attribute(name, format_args!("'{}' is not a valid string", shown(&other)))),
        };
        list.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// Attributes of features that are not there may be given as what they are without them: null, false, nothing.
    pub fn absent(&mut self, names: &[&str]) -> Result<(), Error> {
        for name in names {
            let nothing = match self.take(name) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Bool(true) | Value::Number(_)) => false,
            };
            if !nothing {
                return Err(Error::invalid(format_args!("{name} is not supported")));
            }
        }
        Ok(())
    }

    /// Fails if anything is left.
    pub fn finish(self) -> Result<(), Error> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                Err(Error::bad_request(format!("Unrecognized attribute(s) '{name}'")))
            }
        }
    }
}
