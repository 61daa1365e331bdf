//! The parameters of a request's query.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;

use crate::{Facade, Fault};

/// The query's parameters, in order; a name may come several times.
#[derive(Debug, Default)]
pub struct Parameters(Vec<(String, String)>);

impl<F: Facade> FromRequestParts<F> for Parameters {
    type Rejection = F::Error;

    async fn from_request_parts(parts: &mut Parts, state: &F) -> Result<Self, F::Error> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        Ok(query.map(|Query(list)| Self(list)).map_err(|error| Fault::Query(error.body_text()))?)
    }
}

impl Parameters {
    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value; the last one where there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Whether a value passes: there is no such filter, or it says the same.
    pub fn passes(&self, name: &str, value: &str) -> bool {
        self.get(name).is_none_or(|wanted| wanted == value)
    }

    /// What a flag says, false in words or as 0: one without a value is true, as Keystone has it. None: it is not there.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let value = self.get(name)?.to_ascii_lowercase();
        Some(!matches!(value.as_str(), "0" | "false" | "no" | "off" | "f" | "n"))
    }

    /// [`Parameters::passes`] of a flag.
    pub fn passes_flag(&self, name: &str, value: bool) -> bool {
        self.flag(name).is_none_or(|wanted| wanted == value)
    }
}
