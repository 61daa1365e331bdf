//! What clients of a store did and saw, and whether it can have been.
//!
//! Two checkers: of reads and writes the one of `todc-utils`, which searches for an order in which they can have happened one
//! after the other (Wing and Gong's search with Lowe's memory), cut by key, as objects are linearizable when each is; and of
//! watches our own, which compares what they told with what is known of all transactions.

use std::collections::BTreeMap;

use todc_utils::{Action, History, WGLChecker, specifications::Specification};

/// What a key holds; every write is of a value of its own.
pub type Value = Option<u64>;

/// What one client did with one key, with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    Read(Value),
    /// If the key held `from`, it has held `to` since.
    Write {
        from: Value,
        to: Value,
        outcome: Outcome,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused,
    /// It may have happened, or not, or may yet.
    Unknown,
}

/// An operation with when it began and ended, by one clock.
#[derive(Debug, Clone)]
pub struct Operation {
    pub key: String,
    pub did: Did,
    pub began: u64,
    pub ended: u64,
}

struct Register;

impl Specification for Register {
    type State = Value;
    type Operation = Did;

    fn init() -> Value {
        None
    }

    fn apply(did: &Did, state: &Value) -> (bool, Value) {
        match *did {
            Did::Read(value) => (value == *state, *state),
            Did::Write { from, to, outcome: Outcome::Done } => {
                (from == *state, if from == *state { to } else { *state })
            }
            Did::Write { from, outcome: Outcome::Refused, .. } => (from != *state, *state),
            Did::Write { from, to, outcome: Outcome::Unknown } => (true, if from == *state { to } else { *state }),
        }
    }
}

/// Whether there is an order. The first key of which there is none, with what was done.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let mut keys = BTreeMap::<&str, Vec<&Operation>>::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        if !WGLChecker::<Register>::is_linearizable(history(&operations)) {
            let mut text = format!("{key} is not linearizable:\n");
            for operation in operations {
                text += &format!("{:>9}–{:<9} {:?}\n", operation.began, operation.ended, operation.did);
            }
            return Err(text);
        }
    }
    Ok(())
}

fn history(operations: &[&Operation]) -> History<Did> {
    let mut actions = Vec::new();
    for (process, operation) in operations.iter().enumerate() {
        // What is not known to have ended may happen at any time after.
        let unknown = matches!(operation.did, Did::Write { outcome: Outcome::Unknown, .. });
        let ended = if unknown { u64::MAX } else { operation.ended };
        actions.push((operation.began, process, Action::Call(operation.did.clone())));
        actions.push((ended, process, Action::Response(operation.did.clone())));
    }
    actions.sort_by_key(|(when, ..)| *when);
    History::from_actions(actions.into_iter().map(|(_, process, action)| (process, action)).collect())
}

/// A change, as a watch told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub revision: u64,
    pub key: String,
    pub before: Value,
    pub now: Value,
}

/// What a watch told is in order, has no gap and nothing twice: of each key each change begins where the one before ended.
/// And what was acknowledged, with its revision, is among it; nothing is that nobody has tried to write.
pub fn check_watch(told: &[Told], acknowledged: &[(u64, String, Value)], tried: &[Value]) -> Result<(), String> {
    let mut held = BTreeMap::<&str, Value>::new();
    let mut last = (0, BTreeMap::<&str, ()>::new());
    for change in told {
        if change.revision < last.0 {
            return Err(format!("{change:?} came after revision {}", last.0));
        }
        if change.revision > last.0 {
            last = (change.revision, BTreeMap::new());
        }
        if last.1.insert(&change.key, ()).is_some() {
            return Err(format!("{change:?} came twice"));
        }
        let before = held.insert(&change.key, change.now).unwrap_or_default();
        if before != change.before {
            return Err(format!("{change:?}, where there was {before:?} before"));
        }
        if change.now.is_some() && !tried.contains(&change.now) {
            return Err(format!("{change:?} was written by nobody"));
        }
    }
    let all: std::collections::HashSet<_> =
        told.iter().map(|change| (change.revision, &change.key, change.now)).collect();
    for (revision, key, now) in acknowledged {
        if !all.contains(&(*revision, key, *now)) {
            return Err(format!("{key} became {now:?} at {revision}, and no watch told of it"));
        }
    }
    Ok(())
}
