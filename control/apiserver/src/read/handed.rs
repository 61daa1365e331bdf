//! A watch of a component in this process: it is handed the objects of the cache themselves, each parsed once for all who
//! want it as the same type.

use std::{
    any::{Any, TypeId},
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::{StreamExt, stream};
use hypernetes_client::shared::{Objects, Told, Typed, Version};
use hypernetes_store::{Changes, Entry};
use parking_lot::Mutex;

use crate::{
    made::{Made, count},
    read::filter::Filter,
    stored_form::{self, Event},
};

/// So many are told before others have their turn.
const AT_ONCE: usize = 32;

struct Handed(Entry);

/// What an entry was parsed as, for as long as somebody has it: nobody has most of the past.
#[derive(Default)]
struct Parsed(Mutex<Vec<(TypeId, Weak<dyn Any + Send + Sync>)>>);

impl Version for Handed {
    fn tenant(&self) -> &str {
        self.0.key.tenant()
    }

    fn revision(&self) -> u64 {
        self.0.mod_revision.0
    }

    fn json(&self) -> &[u8] {
        stored_form::object(&self.0)
    }

    fn typed(&self, of: TypeId, make: &dyn Fn() -> Option<Typed>) -> Option<Typed> {
        let mut parsed = self.0.form(Parsed::default).0.lock();
        if let Some(have) = parsed.iter().find(|(ty, _)| *ty == of).and_then(|(_, typed)| typed.upgrade()) {
            return Some(have);
        }
        count(Made::Typed);
        let made = make()?;
        parsed.retain(|(ty, _)| *ty != of);
        // There is seldom another.
        parsed.reserve_exact(1);
        parsed.push((of, Arc::downgrade(&made)));
        Some(made)
    }
}

/// What is there and selected, and then what changes.
pub fn objects(filter: Filter, first: Vec<Entry>, changes: Changes) -> Objects {
    let state = Following { filter, first: first.into(), listed: false, changes, told: 0 };
    stream::unfold(state, async |mut state| Some((state.next().await?, state))).boxed()
}

struct Following {
    filter: Filter,
    first: VecDeque<Entry>,
    listed: bool,
    changes: Changes,
    told: usize,
}

impl Following {
    /// None: something was missed.
    async fn next(&mut self) -> Option<Told> {
        self.told += 1;
        if self.told.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
        // What is damaged is selected by nobody.
        while let Some(entry) = self.first.pop_front() {
            if matches!(self.filter.selected(Some(&entry)), Ok(Some(_))) {
                return Some(Told::Present(Arc::new(Handed(entry))));
            }
        }
        if !std::mem::replace(&mut self.listed, true) {
            return Some(Told::Listed);
        }
        loop {
            let change = self.changes.recv().await?.ok()?;
            let Ok(Some((event, entry))) = self.filter.means(&change) else { continue };
            let version = Arc::new(Handed(entry.clone()));
            return Some(match event {
                Event::Added | Event::Modified => Told::Changed(version),
                Event::Deleted => Told::Gone(version, change.revision.0),
            });
        }
    }
}
