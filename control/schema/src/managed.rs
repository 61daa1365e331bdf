//! Server-side apply and field management ("Server-Side Apply" in Kubernetes' documentation;
//! the merge is structured-merge-diff's).

use crate::ObjectType;
use crate::fieldset::{self, Changes, FieldSet, View};
use crate::walk::{self, child};
use crate::{facts::ListKind, tree::Schema};
use hypernetes_api::error::{Cause, Details};
use hypernetes_api::{ApiError, Reason};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Who writes, as `metadata.managedFields` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The `fieldManager` query parameter, else the user agent up to its first `/`.
    pub manager: &'a str,
    /// `status`, `scale`, or empty.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}

/// Most entries of `Update` managers; the oldest are put together beyond it, as upstream does.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// More managers than that nobody sends.
const MAX_SENT: usize = 64;
/// Longest manager name, in bytes.
pub const MAX_MANAGER_LENGTH: usize = 128;

/// Fields that nobody owns: the server sets them, or they are the object's identity.
const UNOWNED: [&[&str]; 11] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:generateName"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:managedFields"],
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells one manager's entry from another's. An applier keeps its entry from version to version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ManagerKey {
    operation: Operation,
    manager: String,
    subresource: String,
    /// Of `Update` only.
    api_version: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    api_version: String,
    time: String,
    set: FieldSet,
}

type Managers = BTreeMap<ManagerKey, Entry>;

/// Merges an applied configuration into the live object, with `metadata.managedFields` of the outcome. Of the configuration
/// only what the endpoint may change is there: no status, or nothing else.
/// `live` is `None` when the object does not exist: the outcome is then the object to create.
/// Fields of other managers with another value are a `Conflict` in upstream's words unless `force`.
/// The outcome equals `live`, managed fields and their times included, when nothing changes.
pub fn apply(
    ty: &ObjectType,
    live: Option<&Value>,
    configuration: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    check_manager(writer.manager, true)?;
    if walk::get(configuration, "metadata.managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let schema = ty.schema().resolve();
    check_keys(&schema, configuration, "")?;
    let mut applied = fieldset::of_value(&schema, false, configuration);
    strip_unowned(&mut applied);

    let mut managers = live.map(read).unwrap_or_default();
    let empty = Value::Object(Map::new());
    let before = live.map(without_managed).unwrap_or_else(|| empty.clone());
    let key = ManagerKey {
        operation: Operation::Apply,
        manager: writer.manager.to_owned(),
        subresource: writer.subresource.to_owned(),
        api_version: String::new(),
    };
    let last = managers.remove(&key);
    let mut merged = if live.is_some() { merge(&schema, false, &before, configuration) } else { configuration.clone() };
    if let Some(last) = &last {
        let mut keep = applied.clone();
        managers.values().for_each(|entry| keep.add(&entry.set));
        prune(&schema, &mut merged, &last.set, &keep);
    }
    let mut changes = fieldset::compare(&schema, false, &before, &merged);
    strip_unowned(&mut changes.set);
    strip_unowned(&mut changes.removed);
    let conflicts: Vec<(&ManagerKey, FieldSet)> = managers
        .iter()
        .map(|(key, entry)| (key, entry.set.intersection(&changes.set)))
        .filter(|(_, both)| !both.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    give_up(&mut managers, &changes);
    let unchanged = before == merged && last.as_ref().is_some_and(|last| last.set == applied);
    let time = match &last {
        Some(last) if unchanged => last.time.clone(),
        _ => writer.now.to_owned(),
    };
    if !applied.is_empty() {
        managers.insert(key, Entry { api_version: ty.api_version(), time, set: applied });
    }
    write(&mut merged, managers);
    Ok(merged)
}

/// After a create, update or patch: gives the fields that changed to the writer. `managedFields` are what the writer sent, where
/// that is what they can be and came through the object's own endpoint: so a client moves to apply what it owned by updates. Sent
/// empty they are forgotten; not sent, they stay (as upstream).
/// With `live` equal to `object` in all else, `managedFields` is kept as it was.
pub fn track_update(ty: &ObjectType, live: Option<&Value>, object: &mut Value, writer: Writer<'_>) {
    let schema = ty.schema().resolve();
    let reset = walk::get(object, "metadata.managedFields").is_some_and(|sent| match sent.as_array() {
        Some(entries) => entries.iter().all(|entry| entry.as_object().is_none_or(Map::is_empty)),
        None => false,
    });
    let mut managers = match sent(object).filter(|_| writer.subresource.is_empty()) {
        _ if reset => Managers::new(),
        Some(sent) => sent,
        None => live.map(read).unwrap_or_default(),
    };
    // What both say of managers is not compared: nobody owns it.
    let nothing = Value::Object(Map::new());
    let mut changes = fieldset::compare(&schema, false, live.unwrap_or(&nothing), object);
    strip_unowned(&mut changes.set);
    strip_unowned(&mut changes.removed);
    let key = ManagerKey {
        operation: Operation::Update,
        manager: writer.manager.chars().take(MAX_MANAGER_LENGTH).collect(),
        subresource: writer.subresource.to_owned(),
        api_version: ty.api_version(),
    };
    let own = managers.remove(&key);
    give_up(&mut managers, &changes);
    let untouched = changes.set.is_empty() && changes.removed.is_empty();
    let (mut set, time) = own.map(|own| (own.set, Some(own.time))).unwrap_or_default();
    set.add(&changes.set);
    set.subtract(&changes.removed);
    if !set.is_empty() {
        let time = time.filter(|_| untouched).unwrap_or_else(|| writer.now.to_owned());
        managers.insert(key, Entry { api_version: ty.api_version(), time, set });
    }
    cap(&mut managers);
    write(object, managers);
}

/// Rules for the name of a manager. An apply must have one.
pub fn check_manager(manager: &str, required: bool) -> Result<(), ApiError> {
    if required && manager.is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    if manager.len() > MAX_MANAGER_LENGTH {
        return Err(ApiError::bad_request(format!(
            "fieldManager: Too long: may not be more than {MAX_MANAGER_LENGTH} bytes"
        )));
    }
    if manager.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "fieldManager: Invalid value: {manager:?}: should only contain printable characters"
        )));
    }
    Ok(())
}

/// Other managers lose what was changed or removed.
fn give_up(managers: &mut Managers, changes: &Changes) {
    for entry in managers.values_mut() {
        entry.set.subtract(&changes.set);
        entry.set.subtract(&changes.removed);
    }
    managers.retain(|_, entry| !entry.set.is_empty());
}

fn strip_unowned(set: &mut FieldSet) {
    for path in UNOWNED {
        set.remove(path);
    }
    // `metadata` itself is nobody's.
    if set.children.get("f:metadata").is_some_and(|metadata| metadata.children.is_empty()) {
        set.children.remove("f:metadata");
    }
    set.member = false;
}

fn conflict(conflicts: &[(&ManagerKey, FieldSet)]) -> ApiError {
    let name = |key: &ManagerKey| {
        let mut text = format!("{:?}", key.manager);
        if !key.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", key.subresource));
        }
        if key.operation == Operation::Update {
            text.push_str(&format!(" using {}", key.api_version));
        }
        text
    };
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (key, set) in conflicts {
        let manager = name(key);
        lines.push(format!("conflicts with {manager}:"));
        for path in set.paths() {
            lines.push(format!("- {path}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field: path,
            });
        }
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    ApiError::new(Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
}

/// Every item of a list with keys must have them, and not those of another.
pub(crate) fn check_keys(schema: &Schema, value: &Value, path: &str) -> Result<(), ApiError> {
    match fieldset::view(schema, false, value) {
        View::Leaf => Ok(()),
        View::Fields(object) => object.iter().try_for_each(|(name, value)| {
            let (schema, atomic) = fieldset::below(schema, name);
            if atomic { Ok(()) } else { check_keys(&schema, value, &format!("{path}.{name}")) }
        }),
        View::Items(items, kind, list) => {
            let items = items.resolve();
            let mut seen = std::collections::BTreeSet::new();
            for (at, item) in list.iter().enumerate() {
                let Some(step) = fieldset::item_step(&items, kind, item) else {
                    return Err(ApiError::bad_request(format!(
                        "failed to create typed patch object: {path}: element {at}: associative list with keys has an element that omits its key fields"
                    )));
                };
                if !seen.insert(step.clone()) {
                    return Err(ApiError::bad_request(format!(
                        "failed to create typed patch object: {path}: duplicate entries for key {}",
                        FieldSet { member: false, children: BTreeMap::from([(step, FieldSet::leaf())]) }
                            .paths()
                            .join("")
                    )));
                }
                if matches!(kind, ListKind::Map(_)) {
                    check_keys(&items, item, &format!("{path}[{at}]"))?;
                }
            }
            Ok(())
        }
    }
}

/// `old` with what `new` sets.
pub(crate) fn merge(schema: &Schema, atomic: bool, old: &Value, new: &Value) -> Value {
    match (fieldset::view(schema, atomic, old), fieldset::view(schema, atomic, new)) {
        (View::Fields(old), View::Fields(new)) => {
            let mut merged = old.clone();
            for (name, value) in new {
                let (schema, atomic) = fieldset::below(schema, name);
                let value = match old.get(name) {
                    Some(old) => merge(&schema, atomic, old, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (View::Items(items, kind, old), View::Items(_, _, new)) => {
            let items = items.resolve();
            let steps = |list: &[Value]| -> Vec<Option<String>> {
                list.iter().map(|item| fieldset::item_step(&items, kind, item)).collect()
            };
            let placed = interleave(&steps(old), &steps(new)).into_iter().filter_map(|place| match place {
                (Some(old_at), Some(new_at)) => Some(merge(&items, false, old.get(old_at)?, new.get(new_at)?)),
                (Some(old_at), None) => old.get(old_at).cloned(),
                (None, new_at) => new.get(new_at?).cloned(),
            });
            Value::Array(placed.collect())
        }
        _ => new.clone(),
    }
}

/// Places of items in two lists that become one: what is known by the same step in both stands once. What the second list names stands in its
/// order; what it does not name keeps its place among what is named, and comes before what is new there (structured-merge-diff's order).
fn interleave(old: &[Option<String>], new: &[Option<String>]) -> Vec<(Option<usize>, Option<usize>)> {
    let places = |list: &[Option<String>]| -> HashMap<String, usize> {
        list.iter().enumerate().rev().filter_map(|(at, step)| Some((step.clone()?, at))).collect()
    };
    let (in_old, in_new) = (places(old), places(new));
    let find = |places: &HashMap<String, usize>, step: &Option<String>| places.get(step.as_ref()?).copied();
    // Those of the second list that are in the first, the next one of them first.
    let mut shared: VecDeque<usize> = (0..new.len()).filter(|at| find(&in_old, &new[*at]).is_some()).collect();
    let mut placed = Vec::with_capacity(old.len().max(new.len()));
    let mut done = vec![false; new.len()];
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < new.len() {
        if let Some(step) = old.get(left) {
            match find(&in_new, step) {
                None => placed.push((Some(left), None)),
                Some(at) if done[at] => {}
                // It comes when those that are named before it have come.
                Some(at) if right < new.len() && shared.front().is_some_and(|next| *next != at) => {}
                Some(at) => {
                    while right <= at && right < new.len() {
                        placed.push((find(&in_old, &new[right]), Some(right)));
                        done[right] = true;
                        if shared.front() == Some(&right) {
                            shared.pop_front();
                        }
                        right += 1;
                    }
                }
            }
            left += 1;
            continue;
        }
        if !done[right] {
            placed.push((find(&in_old, &new[right]), Some(right)));
            done[right] = true;
        }
        right += 1;
    }
    placed
}

/// Removes what the applier's last configuration set, nobody sets any more and nobody else has. What is below such a field
/// goes with it (its defaults, for instance).
fn prune(schema: &Schema, value: &mut Value, last: &FieldSet, keep: &FieldSet) {
    let gone = |step: &str| {
        (step.starts_with("f:") || step.starts_with("k:") || step.starts_with("v:"))
            && last.children.contains_key(step)
            && !keep.children.contains_key(step)
    };
    let nothing = FieldSet::default();
    match value {
        Value::Object(object) => {
            object.retain(|name, _| !gone(&format!("f:{name}")) || identity(name));
            for (name, value) in object.iter_mut() {
                let step = format!("f:{name}");
                if let Some(last) = last.children.get(&step) {
                    let (schema, atomic) = fieldset::below(schema, name);
                    if !atomic {
                        prune(&schema, value, last, keep.children.get(&step).unwrap_or(&nothing));
                    }
                }
            }
        }
        Value::Array(list) => {
            let Schema::List { items, kind, .. } = schema else { return };
            let items = items.resolve();
            list.retain(|item| !fieldset::item_step(&items, kind, item).is_some_and(|step| gone(&step)));
            for item in list.iter_mut() {
                if let Some(step) = fieldset::item_step(&items, kind, item)
                    && let Some(last) = last.children.get(&step)
                {
                    prune(&items, item, last, keep.children.get(&step).unwrap_or(&nothing));
                }
            }
        }
        _ => {}
    }
}

/// `metadata` is never pruned as a whole: it has the object's identity, which nobody owns.
fn identity(field: &str) -> bool {
    field == "metadata"
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// The managers that an object was sent with; none where there are none, or what is there are none.
fn sent(object: &Value) -> Option<Managers> {
    let entries = walk::list(object, "metadata.managedFields");
    let good = |entry: &Value| {
        matches!(walk::text(entry, "operation"), "Apply" | "Update")
            && walk::text(entry, "fieldsType") == "FieldsV1"
            && walk::text(entry, "manager").len() <= MAX_MANAGER_LENGTH
            && entry.get("fieldsV1").is_some_and(Value::is_object)
    };
    (!entries.is_empty() && entries.len() <= MAX_SENT && entries.iter().all(good)).then(|| read(object))
}

fn read(object: &Value) -> Managers {
    let mut managers = Managers::new();
    for entry in walk::list(object, "metadata.managedFields") {
        let operation = if walk::text(entry, "operation") == "Apply" { Operation::Apply } else { Operation::Update };
        let api_version = walk::text(entry, "apiVersion").to_owned();
        let key = ManagerKey {
            operation,
            manager: walk::text(entry, "manager").to_owned(),
            subresource: walk::text(entry, "subresource").to_owned(),
            api_version: if operation == Operation::Update { api_version.clone() } else { String::new() },
        };
        let mut set = entry.get("fieldsV1").map(FieldSet::from_fields_v1).unwrap_or_default();
        set.member = false;
        managers.insert(key, Entry { api_version, time: walk::text(entry, "time").to_owned(), set });
    }
    managers
}

/// Appliers first, then by time, as upstream sorts.
fn write(object: &mut Value, managers: Managers) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = child(object, "metadata");
    if managers.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let mut entries: Vec<(ManagerKey, Entry)> = managers.into_iter().collect();
    entries.sort_by(|(a, x), (b, y)| (a.operation, &x.time, a).cmp(&(b.operation, &y.time, b)));
    let list = entries.into_iter().map(|(key, entry)| {
        let fields = [
            ("manager", key.manager.into()),
            ("operation", key.operation.name().into()),
            ("apiVersion", entry.api_version.into()),
            ("fieldsType", "FieldsV1".into()),
            // Not through a macro, which would make it again.
            ("fieldsV1", entry.set.into_fields_v1()),
        ];
        let optional = [("time", entry.time), ("subresource", key.subresource)];
        let optional =
            optional.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, text.into()));
        Value::Object(
            fields.into_iter().chain(optional).map(|(name, value): (_, Value)| (name.to_owned(), value)).collect(),
        )
    });
    metadata.insert("managedFields".into(), list.collect());
}

/// Puts the oldest updates together when there are too many.
fn cap(managers: &mut Managers) {
    let mut updates: Vec<(String, ManagerKey)> = managers
        .iter()
        .filter(|(key, _)| key.operation == Operation::Update)
        .map(|(key, entry)| (entry.time.clone(), key.clone()))
        .collect();
    if updates.len() <= MAX_UPDATE_MANAGERS {
        return;
    }
    updates.sort();
    let surplus = updates.len() - MAX_UPDATE_MANAGERS + 1;
    for (_, key) in updates.into_iter().take(surplus) {
        let Some(old) = managers.remove(&key) else { continue };
        let bucket = ManagerKey { manager: ANCIENT.into(), subresource: String::new(), ..key };
        let entry = managers.entry(bucket).or_insert_with(|| Entry { set: FieldSet::default(), ..old.clone() });
        entry.set.add(&old.set);
        entry.time = entry.time.clone().max(old.time);
    }
}
