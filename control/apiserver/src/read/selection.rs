//! What of an object decides whether it is selected, and where its metadata is: found in one pass over its bytes, and kept
//! beside them.

use std::{
    borrow::Cow,
    collections::HashMap,
    ops::Range,
    sync::{Arc, LazyLock},
};

use hypernetes_api::{ApiError, names};
use hypernetes_kinds::{Resource, Selectable, registry};
use hypernetes_store::Entry;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{
    made::{Made, count},
    request::selectors::{Labelled, Selector},
    stored_form,
};

/// Places are of the object's bytes ([`stored_form::object`]).
pub struct Selection {
    /// Where `metadata` ends; it begins them.
    pub metadata_end: usize,
    pub annotations: Annotations,
    labels: Labels,
    /// Which selectable fields they are.
    selectable: Arc<[Selectable]>,
    fields: Box<[Box<str>]>,
}

/// Where the annotations are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotations {
    None,
    At(Range<usize>),
    /// They are no map, or have what the server itself adds: it is not enough to know where they are.
    Odd,
}

enum Labels {
    /// As they are written, without any escapes: texts in quotation marks, each name before its value.
    At(Range<usize>),
    Owned(HashMap<String, Value>),
}

/// What an entry of the resource can be selected by.
///
/// # Errors
/// When it is damaged.
pub fn of<'e>(entry: &'e Entry, resource: &Arc<Resource>) -> Result<Selected<'e>, ApiError> {
    let made = entry.form(|| {
        count(Made::Selection);
        Selection::parse(stored_form::object(entry), resource).map_err(|error| error.to_string())
    });
    let selection = made.as_ref().map_err(|error| stored_form::damaged(error.clone()))?;
    Ok(Selected { entry, selection })
}

/// An entry, and what it can be selected by.
pub struct Selected<'e> {
    entry: &'e Entry,
    pub selection: &'e Selection,
}

impl Labelled for Selected<'_> {
    fn label(&self, key: &str) -> Option<Cow<'_, str>> {
        match &self.selection.labels {
            Labels::At(place) => {
                let text = str::from_utf8(stored_form::object(self.entry).get(place.clone())?).ok()?;
                let mut texts = text.split('"').skip(1).step_by(2);
                while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                    if name == key {
                        return Some(value.into());
                    }
                }
                None
            }
            Labels::Owned(labels) => labels.get(key)?.as_str().map(Cow::Borrowed),
        }
    }

    fn field(&self, field: &Selectable) -> Cow<'_, str> {
        if let Some(value) = of_key(self.entry, field) {
            return value.into();
        }
        let known = self.selection.selectable.iter().zip(&self.selection.fields);
        match known.into_iter().find(|(known, _)| *known == field) {
            Some((_, value)) => Cow::Borrowed(value),
            // The resource has another definition by now.
            None => {
                let object = stored_form::decode(self.entry).unwrap_or_default();
                field.value(&object).into_owned().into()
            }
        }
    }
}

/// An entry, where only what is in its key is asked for.
struct ByKey<'e>(&'e Entry);

impl Labelled for ByKey<'_> {
    fn label(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn field(&self, field: &Selectable) -> Cow<'_, str> {
        of_key(self.0, field).unwrap_or_default().into()
    }
}

fn of_key<'e>(entry: &'e Entry, field: &Selectable) -> Option<&'e str> {
    match field.name.as_str() {
        "metadata.name" => Some(entry.key.name()),
        "metadata.namespace" => Some(entry.key.namespace()),
        _ => None,
    }
}

/// Whether an entry of the resource is selected.
///
/// # Errors
/// When it is damaged, as far as it has to be looked at.
pub fn matches(selector: &Selector, entry: &Entry, resource: &Arc<Resource>) -> Result<bool, ApiError> {
    if selector.is_of_keys() {
        return Ok(selector.matches(&ByKey(entry)));
    }
    Ok(selector.matches(&of(entry, resource)?))
}

/// Resources whose watches are found by a field, and its place among those that they can be selected by.
static INDEXED: LazyLock<Vec<(&'static Arc<Resource>, usize)>> = LazyLock::new(|| {
    let indexed = registry::builtin().iter().filter_map(|resource| Some((resource, resource.indexed?)));
    indexed.collect()
});

/// The store's index of watches.
pub fn index(entry: &Entry) -> Option<&str> {
    let is =
        |resource: &Resource| *resource.id.group == *entry.key.group() && *resource.id.plural == *entry.key.plural();
    let (resource, field) = INDEXED.iter().find(|(resource, _)| is(resource))?;
    Some(&**of(entry, resource).ok()?.selection.fields.get(*field)?)
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    annotations: Option<&'a RawValue>,
}

/// Also where it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl Selection {
    fn parse(object: &[u8], resource: &Arc<Resource>) -> serde_json::Result<Self> {
        let paths: Vec<&str> = resource.selectable.iter().flat_map(Selectable::paths).collect();
        let mut found = vec![Value::Null; paths.len()];
        let wanted = paths.iter().copied().zip(0..).collect();
        let mut metadata: Option<&RawValue> = None;
        let top = Fields { wanted, found: &mut found, metadata: Some(&mut metadata) };
        let mut deserializer = serde_json::Deserializer::from_slice(object);
        top.deserialize(&mut deserializer)?;
        deserializer.end()?;
        let metadata = metadata.ok_or_else(|| serde::de::Error::missing_field("metadata"))?.get();
        let place = |text: &str| {
            let start = text.as_ptr() as usize - object.as_ptr() as usize;
            start..start + text.len()
        };
        let parsed: Metadata<'_> = serde_json::from_str(metadata)?;
        let mut values = found.iter();
        let value = |field: &Selectable| field.first(values.by_ref().take(field.paths().count())).into();
        Ok(Self {
            metadata_end: place(metadata).end,
            annotations: match parsed.annotations.map(RawValue::get) {
                None => Annotations::None,
                Some(text) if text.starts_with('{') && !text.contains(names::TENANT_ANNOTATION) => {
                    Annotations::At(place(text))
                }
                Some(_) => Annotations::Odd,
            },
            labels: match parsed.labels.map(RawValue::get) {
                None => Labels::At(0..0),
                Some(text) if is_plain(text) => Labels::At(place(text)),
                Some(text) => Labels::Owned(serde_json::from_str(text).unwrap_or_default()),
            },
            fields: resource.selectable.iter().map(value).collect(),
            selectable: resource.selectable.clone(),
        })
    }
}

/// Whether labels are texts alone, without escapes: those that are valid.
fn is_plain(text: &str) -> bool {
    let outside = |piece: &str| piece.bytes().all(|byte| b"{}:,".contains(&byte));
    text.starts_with('{') && !text.contains('\\') && text.split('"').step_by(2).all(outside)
}

/// Finds what is at some paths of an object, and all of its metadata.
struct Fields<'w, 'f, 'de> {
    /// Paths, and where to put what is there.
    wanted: Vec<(&'w str, usize)>,
    found: &'f mut [Value],
    metadata: Option<&'f mut Option<&'de RawValue>>,
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'w, 'de> Visitor<'de> for Fields<'w, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let below = |place: &(&'w str, usize)| {
                let (first, rest) = place.0.split_once('.')?;
                (first == name).then_some((rest, place.1))
            };
            if let Some(metadata) = self.metadata.as_deref_mut().filter(|_| name == "metadata") {
                *metadata = Some(map.next_value()?);
            } else if self.wanted.iter().any(|(path, _)| *path == name) {
                let value: Value = map.next_value()?;
                for (path, index) in &self.wanted {
                    if *path == name {
                        self.found[*index] = value.clone();
                    } else if let Some((rest, index)) = below(&(path, *index)) {
                        let below = rest.split('.').try_fold(&value, |value, name| value.get(name));
                        self.found[index] = below.cloned().unwrap_or_default();
                    }
                }
            } else {
                let wanted: Vec<_> = self.wanted.iter().filter_map(below).collect();
                if wanted.is_empty() {
                    map.next_value::<IgnoredAny>()?;
                } else {
                    map.next_value_seed(Fields { wanted, found: &mut *self.found, metadata: None })?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hypernetes_store::{Key, Revision};
    use serde_json::json;

    use super::*;
    use crate::request::selectors::Selector;

    fn pods() -> &'static Arc<Resource> {
        registry::builtin_of("", "v1", "Pod").unwrap()
    }

    fn entry(pod: &Value) -> Entry {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let key = Key::new(&pods().id, &"acme".parse().unwrap(), "default", name).unwrap();
        stored_form::outside(key, &stored_form::encode(pod).unwrap(), Revision(3), Revision(5))
    }

    #[test]
    fn it_is_selected_as_the_parsed_object_is() {
        let pods_of = [
            json!({"metadata": {"name": "a", "namespace": "default"}}),
            json!({"metadata": {"name": "a", "namespace": "default", "labels": {"app": "web", "empty": "", "rank": "5"}},
                "spec": {"nodeName": "n1", "hostNetwork": true}, "status": {"phase": "Running", "podIP": null}}),
            json!({"metadata": {"name": "a", "namespace": "default", "labels": {"app": "w\"b", "x": 7, "rank": "many"}},
                "spec": [1, {"nodeName": "n2"}], "status": {"phase": {"of": "what"}}}),
            json!({"metadata": {"name": "a", "namespace": "default", "labels": 7}, "spec": null, "status": "odd"}),
        ];
        let labels = ["", "app=web", "app!=web", "app", "!app", "empty=", "rank>4", "rank<9", "x", "app in (web,x)"];
        let fields = [
            "",
            "spec.nodeName=n1",
            "spec.nodeName=",
            "spec.hostNetwork=false",
            "spec.hostNetwork=true",
            "status.phase=Running",
            "status.phase!=Running",
            "metadata.name=a",
            "metadata.namespace!=default",
            "status.podIP=",
            "spec.restartPolicy!=Always",
        ];
        for pod in pods_of {
            let entry = entry(&pod);
            let selected = of(&entry, pods()).unwrap();
            for label in labels {
                for field in fields {
                    let selector = Selector::parse(&pods().selectable, label, field).unwrap();
                    assert_eq!(selector.matches(&selected), selector.matches(&pod), "{label} {field} {pod}");
                }
            }
            assert_eq!(index(&entry), Some(pod["spec"]["nodeName"].as_str().unwrap_or_default()));
        }
    }

    #[test]
    fn the_places_of_metadata_and_annotations_are_found() {
        let of_pod = |pod: Value| {
            let entry = entry(&pod);
            let selection = of(&entry, pods()).unwrap().selection;
            let object = stored_form::object(&entry).to_vec();
            let metadata = &object[..selection.metadata_end][b"{\"metadata\":".len()..];
            assert_eq!(
                serde_json::from_slice::<Value>(metadata).unwrap(),
                stored_form::decode(&entry).unwrap()["metadata"]
            );
            (selection.annotations.clone(), object)
        };
        let plain = json!({"metadata": {"name": "a"}, "spec": {"x": "\"}"}});
        assert_eq!(of_pod(plain).0, Annotations::None);
        let (found, object) = of_pod(json!({"metadata": {"name": "a", "annotations": {"k": "}\"{"}}}));
        let Annotations::At(place) = found else { panic!("{found:?}") };
        assert_eq!(&object[place], br#"{"k":"}\"{"}"#);
        for odd in [json!(7), json!(null), json!([]), json!({"hypernetes.io/tenant": "another"})] {
            assert_eq!(of_pod(json!({"metadata": {"name": "a", "annotations": odd}})).0, Annotations::Odd, "{odd}");
        }
    }
}
