//! Who owns whom. Only objects that own, are owned, or wait for their dependents take room here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hypernetes_api::TenantId;

use super::kinds::{Id, Identity, Kind};
use crate::runtime::Tenanted;

/// What is to be done about an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// It is an owner of whom the watch has not told yet: is it there?
    Verify(Id),
    /// It may have lost its owners, or waits for its dependents.
    Attend(Id),
}

impl Tenanted for Work {
    fn tenant(&self) -> &TenantId {
        let (Self::Verify(id) | Self::Attend(id)) = self;
        &id.tenant
    }
}

/// What an object's deletion waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deletion {
    /// It is not being deleted, or not for these.
    #[default]
    None,
    /// Its dependents that block it are deleted first (`foregroundDeletion`).
    Foreground,
    /// Its dependents let go of it first (`orphan`).
    Orphan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Presence {
    #[default]
    Unknown,
    Present,
    Absent,
}

#[derive(Default)]
struct Node {
    /// With whether the owner's deletion in the foreground waits for this object.
    owners: Vec<(Id, bool)>,
    dependents: HashSet<Id>,
    presence: Presence,
    deletion: Deletion,
}

impl Node {
    fn is_of_use(&self) -> bool {
        !self.owners.is_empty() || !self.dependents.is_empty() || self.deletion != Deletion::None
    }
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Id, Node>,
}

impl Graph {
    fn intern(&self, identity: Identity) -> Id {
        self.nodes.get_key_value(&identity).map_or_else(|| Arc::new(identity), |(id, _)| id.clone())
    }

    /// Takes in what the watch says of an object. `None` in place of its id: it is of no interest.
    pub fn observe(
        &mut self,
        identity: Identity,
        owners: Vec<(Identity, bool)>,
        deletion: Deletion,
    ) -> (Option<Id>, Vec<Work>) {
        if owners.is_empty() && deletion == Deletion::None && !self.nodes.contains_key(&identity) {
            return (None, Vec::new());
        }
        let id = self.intern(identity);
        let owners: Vec<(Id, bool)> = owners.into_iter().map(|(owner, blocks)| (self.intern(owner), blocks)).collect();
        let node = self.nodes.entry(id.clone()).or_default();
        node.presence = Presence::Present;
        let mut work = Vec::new();
        if deletion != Deletion::None && node.deletion != deletion {
            work.push(Work::Attend(id.clone()));
            work.extend(node.dependents.iter().cloned().map(Work::Attend));
        }
        node.deletion = deletion;
        let before = std::mem::replace(&mut node.owners, owners.clone());
        for (owner, blocked) in &before {
            match owners.iter().find(|(now, _)| now == owner) {
                None => self.let_go(owner, &id, &mut work),
                Some((_, blocks)) if *blocked && !blocks => self.nudge(owner, &mut work),
                Some(_) => {}
            }
        }
        for (owner, _) in &owners {
            if before.iter().any(|(had, _)| had == owner) {
                continue;
            }
            let node = self.nodes.entry(owner.clone()).or_default();
            node.dependents.insert(id.clone());
            match (node.presence, node.deletion) {
                (Presence::Unknown, _) => work.push(Work::Verify(owner.clone())),
                (Presence::Absent, _) | (_, Deletion::Foreground) => work.push(Work::Attend(id.clone())),
                _ => {}
            }
        }
        self.prune(&id);
        (Some(id), work)
    }

    /// The object is gone: its dependents may be next, and an owner that waited for it.
    pub fn gone(&mut self, identity: &Identity) -> Vec<Work> {
        let mut work = Vec::new();
        let Some((id, _)) = self.nodes.get_key_value(identity) else { return work };
        let id = id.clone();
        let Some(node) = self.nodes.get_mut(&id) else { return work };
        node.presence = Presence::Absent;
        node.deletion = Deletion::None;
        work.extend(node.dependents.iter().cloned().map(Work::Attend));
        for (owner, _) in std::mem::take(&mut node.owners) {
            self.let_go(&owner, &id, &mut work);
        }
        self.prune(&id);
        work
    }

    /// Those of a kind (of one tenant, where only its are listed) that a complete list did not have: they may have gone while
    /// nobody watched.
    pub fn unlisted(&mut self, kind: &Kind, of: Option<&TenantId>, listed: &HashSet<Id>) -> Vec<Work> {
        let mut work = Vec::new();
        for (id, node) in &mut self.nodes {
            let meant = *id.kind == *kind && of.is_none_or(|tenant| id.tenant == *tenant);
            if meant && node.presence == Presence::Present && !listed.contains(id) {
                node.presence = Presence::Unknown;
                work.push(Work::Verify(id.clone()));
            }
        }
        work
    }

    pub fn is_unknown(&self, id: &Id) -> bool {
        self.nodes.get(id).is_some_and(|node| node.presence == Presence::Unknown)
    }

    /// It is there. What the watch has said meanwhile is newer.
    pub fn verified(&mut self, id: &Id) {
        if let Some(node) = self.nodes.get_mut(id).filter(|node| node.presence == Presence::Unknown) {
            node.presence = Presence::Present;
        }
    }

    pub fn dependents(&self, id: &Id) -> Vec<Id> {
        self.nodes.get(id).into_iter().flat_map(|node| node.dependents.iter().cloned()).collect()
    }

    /// Those that the owner's deletion in the foreground waits for.
    pub fn blocking(&self, id: &Id) -> Vec<Id> {
        let blocks = |dependent: &Id| {
            let node = self.nodes.get(dependent);
            node.is_some_and(|node| node.owners.iter().any(|(owner, blocks)| owner == id && *blocks))
        };
        self.dependents(id).into_iter().filter(blocks).collect()
    }

    pub fn waits_for_dependents(&self, id: &Id) -> bool {
        self.nodes.get(id).is_some_and(|node| node.deletion == Deletion::Foreground)
    }

    fn let_go(&mut self, owner: &Id, dependent: &Id, work: &mut Vec<Work>) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
        }
        self.nudge(owner, work);
        self.prune(owner);
    }

    /// An owner that waits for its dependents looks again.
    fn nudge(&self, owner: &Id, work: &mut Vec<Work>) {
        if self.waits_for_dependents(owner) {
            work.push(Work::Attend(owner.clone()));
        }
    }

    fn prune(&mut self, id: &Id) {
        if self.nodes.get(id).is_some_and(|node| !node.is_of_use()) {
            self.nodes.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garbage::kinds::of_names;

    /// A config map, as everything here is one.
    fn map(tenant: &str, name: &str) -> Identity {
        let kinds = of_names(&[("", "ConfigMap", true)]);
        let kind = kinds.all().next().cloned().unwrap();
        Identity { tenant: tenant.parse().unwrap(), kind, namespace: "d".into(), name: name.into(), uid: name.into() }
    }

    fn attend(name: &str) -> Work {
        Work::Attend(Arc::new(map("acme", name)))
    }

    #[test]
    fn an_owner_is_verified_once_and_its_dependents_attended_when_it_goes() {
        let mut graph = Graph::default();
        let owned = |graph: &mut Graph, name: &str| {
            graph.observe(map("acme", name), vec![(map("acme", "owner"), true)], Deletion::None).1
        };
        let verify = Work::Verify(Arc::new(map("acme", "owner")));
        assert_eq!(owned(&mut graph, "a"), [verify]);
        graph.verified(&Arc::new(map("acme", "owner")));
        assert_eq!(owned(&mut graph, "b"), []);
        assert_eq!(graph.gone(&map("globex", "owner")), [], "another tenant's object of the same uid");
        let mut work = graph.gone(&map("acme", "owner"));
        work.sort_by_key(|work| format!("{work:?}"));
        assert_eq!(work, [attend("a"), attend("b")]);
        assert_eq!(owned(&mut graph, "c"), [attend("c")], "told later than its owner's end");
        for name in ["a", "b", "c"] {
            graph.gone(&map("acme", name));
        }
        assert!(graph.nodes.is_empty(), "nothing is kept of what is gone");
    }

    #[test]
    fn an_owner_in_the_foreground_looks_again_when_a_dependent_goes_or_lets_go() {
        let mut graph = Graph::default();
        let owner = || map("acme", "owner");
        for name in ["a", "b"] {
            graph.observe(map("acme", name), vec![(owner(), true)], Deletion::None);
        }
        let (_, work) = graph.observe(owner(), vec![], Deletion::Foreground);
        assert_eq!(work.len(), 3);
        assert_eq!(graph.blocking(&Arc::new(owner())).len(), 2);
        assert_eq!(graph.gone(&map("acme", "a")), [attend("owner")]);
        let (_, work) = graph.observe(map("acme", "b"), vec![(owner(), false)], Deletion::None);
        assert_eq!(work, [attend("owner")]);
        assert!(graph.blocking(&Arc::new(owner())).is_empty());
        let (_, work) = graph.observe(map("acme", "b"), vec![], Deletion::None);
        assert_eq!(work, [attend("owner")]);
        graph.gone(&owner());
        assert!(graph.nodes.is_empty());
    }

    #[test]
    fn what_a_list_lacks_is_doubted() {
        let mut graph = Graph::default();
        graph.observe(map("acme", "a"), vec![(map("acme", "owner"), true)], Deletion::None);
        let (owner, _) = graph.observe(map("acme", "owner"), vec![], Deletion::None);
        let owner = owner.unwrap();
        let work = graph.unlisted(&owner.kind, None, &HashSet::from([owner.clone()]));
        assert_eq!(work, [Work::Verify(Arc::new(map("acme", "a")))]);
        assert!(!graph.is_unknown(&owner));
        graph.verified(&Arc::new(map("acme", "a")));
        assert_eq!(graph.unlisted(&owner.kind, Some(&"globex".parse().unwrap()), &HashSet::new()), []);
        assert_eq!(graph.observe(map("acme", "unowned"), vec![], Deletion::None), (None, vec![]));
    }
}
