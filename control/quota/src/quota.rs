//! One quota, and whether there is room in all of a namespace.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    amounts::{self, Amounts},
    counted::Counted,
    scope::Scope,
};

/// A `ResourceQuota` as its status has it: what is used counts only as far as somebody has added it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    pub name: String,
    /// What is kept to.
    pub hard: Amounts,
    pub used: Amounts,
    scopes: Vec<Scope>,
}

impl Quota {
    pub fn of(object: &Value) -> Self {
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            hard: amounts::read(&object["status"]["hard"]),
            used: amounts::read(&object["status"]["used"]),
            scopes: Scope::all(object),
        }
    }

    /// The names under which it counts objects of a kind.
    fn names<'a>(&'a self, counted: &'a Counted) -> impl Iterator<Item = &'a str> {
        self.hard.keys().map(String::as_str).filter(|name| counted.counts(name))
    }

    /// Whether an object is in all its scopes.
    fn has(&self, counted: &Counted, object: &Value) -> bool {
        self.scopes.iter().all(|scope| counted.is_in(scope, object))
    }

    /// What objects of a kind take of these names, all together.
    pub fn usage<'a>(
        &self,
        counted: &Counted,
        names: impl IntoIterator<Item = &'a str>,
        objects: impl IntoIterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Amounts {
        let mut sum = Amounts::new();
        for object in objects.into_iter().filter(|object| self.has(counted, object)) {
            amounts::add(&mut sum, &counted.usage(object, now));
        }
        let nothing = hypernetes_schema::quantity::Quantity::count(0);
        let each = names.into_iter().map(|name| (name.to_owned(), sum.get(name).copied().unwrap_or(nothing)));
        each.collect()
    }

    /// Whether it is about every object of a kind, whatever the object says.
    pub fn has_no_scopes(&self) -> bool {
        self.scopes.is_empty()
    }

    /// What is used once an object has become another, where that is more.
    ///
    /// # Errors
    /// Why it may not.
    fn room(&self, change: &Change<'_>) -> Result<Option<Amounts>, String> {
        let names: Vec<&str> = self.names(change.counted).collect();
        if names.is_empty() || !self.has(change.counted, change.new) {
            return Ok(None);
        }
        if let Some(why) = change.counted.missing(&names, change.new) {
            return Err(format!("failed quota: {}: {why}", self.name));
        }
        if names.iter().any(|name| !self.used.contains_key(*name)) {
            return Err(format!("status unknown for quota: {}, resources: {}", self.name, names.join(",")));
        }
        let before = change.old.filter(|old| self.has(change.counted, old));
        let before = before.map(|old| change.counted.usage(old, change.now)).unwrap_or_default();
        let mut more = amounts::grown(&change.counted.usage(change.new, change.now), &before);
        if more.is_empty() {
            return Ok(None);
        }
        more.retain(|name, _| self.hard.contains_key(name));
        let mut used = self.used.clone();
        amounts::add(&mut used, &more);
        let exceeded = |name: &String| used.get(name).zip(self.hard.get(name)).is_some_and(|(used, hard)| used > hard);
        let over: Vec<&String> = more.keys().filter(|name| exceeded(name)).collect();
        if over.is_empty() || change.is_of_status {
            return Ok(Some(used));
        }
        let shown = |amounts: &Amounts| amounts::shown(amounts.iter().filter(|(name, _)| over.contains(name)));
        Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            self.name,
            shown(&more),
            shown(&self.used),
            shown(&self.hard)
        ))
    }
}

/// An object becomes another.
struct Change<'a> {
    counted: &'a Counted,
    old: Option<&'a Value>,
    new: &'a Value,
    is_of_status: bool,
    now: Timestamp,
}

/// What is used of each quota, by its place among them, once an object is there (or has become another, where `old` is what it was).
/// What is written of a status has happened: it counts, and is not refused for it.
///
/// # Errors
/// Why there is no room, in upstream's words.
pub fn admit<'a>(
    quotas: impl IntoIterator<Item = &'a Quota>,
    counted: &Counted,
    old: Option<&Value>,
    new: &Value,
    is_of_status: bool,
    now: Timestamp,
) -> Result<Vec<(usize, Amounts)>, String> {
    let change = Change { counted, old, new, is_of_status, now };
    let each = quotas.into_iter().enumerate().map(|(place, quota)| Ok((place, quota.room(&change)?)));
    let each = each.filter_map(|one: Result<_, String>| match one {
        Ok((place, used)) => Some(Ok((place, used?))),
        Err(why) => Some(Err(why)),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: Value, used: Value) -> Quota {
        Quota::of(&json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}}))
    }

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn there_is_room_until_there_is_none() {
        let now = Timestamp::UNIX_EPOCH;
        let ask =
            |quota: &Quota, old: Option<&Value>, new: &Value| admit([quota], &Counted::Pods, old, new, false, now);
        let half = quota(json!({"cpu": "2", "secrets": "1"}), json!({"cpu": "1500m"}));
        let used = ask(&half, None, &pod("500m")).unwrap();
        assert_eq!(amounts::shown(&used[0].1), "cpu=2");
        assert_eq!(
            ask(&half, None, &pod("501m")).unwrap_err(),
            "exceeded quota: q, requested: cpu=501m, used: cpu=1500m, limited: cpu=2"
        );
        // What an object takes already is not asked for again, and less is never refused.
        assert_eq!(amounts::shown(&ask(&half, Some(&pod("1")), &pod("1500m")).unwrap()[0].1), "cpu=2");
        let over = quota(json!({"cpu": "1"}), json!({"cpu": "3"}));
        assert_eq!(ask(&over, Some(&pod("3")), &pod("2")).unwrap(), []);
        let unknown = quota(json!({"cpu": "1", "pods": "5"}), json!({"pods": "1"}));
        assert_eq!(ask(&unknown, None, &pod("1")).unwrap_err(), "status unknown for quota: q, resources: cpu,pods");
        let other = quota(json!({"secrets": "0"}), json!({"secrets": "0"}));
        assert_eq!(ask(&other, None, &pod("1")).unwrap(), []);
        let mut said = pod("1");
        said["spec"]["containers"][0]["resources"] = json!({});
        assert_eq!(ask(&half, None, &said).unwrap_err(), "failed quota: q: must specify cpu for: c");
    }
}
