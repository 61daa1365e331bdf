//! Fields that objects can be selected by (`fieldSelector`), beside the name and the namespace: upstream's `SelectableFields`.

use std::borrow::Cow;

use serde_json::Value;

/// One such field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selectable {
    /// As selectors name it.
    pub name: String,
    /// Where its value is: the first of these paths that there is something at.
    paths: Vec<String>,
    /// What is compared where there is nothing: the field's zero value.
    absent: &'static str,
}

impl Selectable {
    /// Its value is at the path that is its name.
    pub fn field(name: &str) -> Self {
        Self { name: name.to_owned(), paths: vec![name.to_owned()], absent: "" }
    }

    pub(crate) fn at(self, paths: &[&str]) -> Self {
        Self { paths: paths.iter().map(|path| (*path).to_owned()).collect(), ..self }
    }

    pub(crate) fn or(self, absent: &'static str) -> Self {
        Self { absent, ..self }
    }

    /// Where its value is: names with dots between them.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// What an object has there, as text.
    pub fn value<'v>(&self, object: &'v Value) -> Cow<'v, str> {
        self.first(self.paths().filter_map(|path| path.split('.').try_fold(object, |value, name| value.get(name))))
    }

    /// [`Self::value`] of an object that has these at the paths.
    pub fn first<'v>(&self, mut values: impl Iterator<Item = &'v Value>) -> Cow<'v, str> {
        match values.find(|value| !value.is_null() && *value != "") {
            None => self.absent.into(),
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
        }
    }
}

impl From<&str> for Selectable {
    fn from(name: &str) -> Self {
        Self::field(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_absent_has_its_types_zero() {
        let unschedulable = Selectable::field("spec.unschedulable").or("false");
        assert_eq!(unschedulable.value(&json!({"spec": {"unschedulable": true}})), "true");
        for object in [json!({"spec": {}}), json!({}), json!({"spec": {"unschedulable": null}}), json!(7)] {
            assert_eq!(unschedulable.value(&object), "false", "{object}");
        }
        let source = Selectable::field("source").at(&["source.component", "reportingComponent"]);
        assert_eq!(source.value(&json!({"source": {"component": ""}, "reportingComponent": "kubelet"})), "kubelet");
        assert_eq!(source.value(&json!({"source": {"component": "a"}, "reportingComponent": "b"})), "a");
    }
}
