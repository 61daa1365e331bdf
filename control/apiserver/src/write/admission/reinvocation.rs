//! Running again: when a tenant's own rule has changed an object, the server's own mutators look at it again, and after them those rules that ask
//! to be (`reinvocationPolicy: IfNeeded`) and would see another object than they did, once.

use std::collections::HashSet;

use serde_json::Value;

/// A policy, its binding and its parameter; or a configuration and a webhook.
pub type Key = [String; 3];

/// Of one write, for one sort of rules.
#[derive(Default)]
pub struct Reinvocation {
    /// It is the second time.
    pub again: bool,
    /// A rule has changed the object: all mutators look again.
    pub wanted: bool,
    /// Those that ask to be run again, and have seen the object as it is.
    seen: HashSet<Key>,
    /// Those for which something has changed it since.
    stale: HashSet<Key>,
    /// The object as these rules have left it.
    left: Option<Value>,
}

impl Reinvocation {
    /// Before they run.
    pub fn look(&mut self, object: &Value) {
        if self.again && self.left.as_ref().is_some_and(|left| left != object) {
            self.stale.extend(self.seen.drain());
        }
    }

    /// After they have run.
    pub fn leave(&mut self, object: &Value) {
        self.left = Some(object.clone());
    }

    /// Whether one is to run. None runs the second time for the first time.
    pub fn runs(&self, key: &Key) -> bool {
        !self.again || self.stale.contains(key)
    }

    /// One has run, and may have changed the object.
    pub fn ran(&mut self, key: Key, changed: bool, again: bool) {
        if changed {
            self.stale.extend(self.seen.drain());
            self.wanted = true;
        }
        if again {
            self.seen.insert(key);
        }
    }
}
