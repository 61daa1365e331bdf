//! A pod as checks look at it, and how they say what they find.

use hypernetes_schema::walk::list;
use serde_json::Value;

/// A pod, or a template of some.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// All of it, those that come and go as well.
    pub fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |name| list(self.spec, name))
    }

    /// The security context of the pod, then of each container that has one, with the container's name; none: the pod's.
    pub fn contexts(self) -> impl Iterator<Item = (Option<&'a str>, &'a Value)> {
        let own = (None, &self.spec["securityContext"]);
        let of_containers = self.containers().map(|one| (Some(name(one)), &one["securityContext"]));
        std::iter::once(own).chain(of_containers).filter(|(_, context)| context.is_object())
    }

    pub fn annotations(self) -> impl Iterator<Item = (&'a String, &'a str)> {
        let all = self.metadata["annotations"].as_object().into_iter().flatten();
        all.map(|(key, value)| (key, value.as_str().unwrap_or_default()))
    }

    pub fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Its users are none of the host's.
    pub fn has_own_users(self) -> bool {
        self.spec["hostUsers"] == false
    }
}

pub fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// What is wrong: in short, and who has to do what.
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

pub type Found = Option<Violation>;

pub fn found(reason: &str, detail: String) -> Found {
    Some(Violation { reason: reason.into(), detail })
}

/// `"a", "b"`.
pub fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let each: Vec<String> = names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    each.join(", ")
}

pub fn plural(word: &'static str, words: &'static str, many: usize) -> &'static str {
    if many == 1 { word } else { words }
}

/// `container "a"`, `containers "a", "b"`.
pub fn containers<T: AsRef<str>>(names: &[T]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().map(AsRef::as_ref)))
}

/// `pod`, `container "a"`, or `pod and container "a"`.
pub fn setters<T: AsRef<str>>(pod: bool, names: &[T]) -> String {
    let some = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(some).collect();
    all.join(" and ")
}
