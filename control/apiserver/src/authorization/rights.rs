//! One tenant's roles and bindings, compiled: from a subject to the rules that its bindings give it.
//!
//! Nothing is looked through for a question: it costs what the subject's own bindings are, whatever else there is. Rules are
//! kept once, by the role that has them, however many bindings name it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock},
};

use hypernetes_api::{auth::UserInfo, names};

use crate::authorization::{
    compiled::{Binding, Role, Rules, Subject, aggregate},
    defaults,
    rbac::Rule,
};

/// What one binding gives to a user.
#[derive(Debug, Clone)]
pub struct Grant {
    pub binding: Arc<Binding>,
    /// Which of its subjects the user is.
    subject: usize,
    /// None: there is no such role.
    pub rules: Option<Rules>,
}

impl Grant {
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().flat_map(|rules| rules.iter()).flat_map(|part| part.iter())
    }

    /// What is missing, in upstream's words.
    pub fn error(&self) -> Option<String> {
        let role = &self.binding.role;
        let missing = || format!("{}.{} {:?} not found", role.kind().to_ascii_lowercase(), defaults::GROUP, role.name);
        self.rules.is_none().then(missing)
    }
}

/// As upstream's reasons have it.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding { name, namespace, role, subjects } = &*self.binding;
        match &**namespace {
            "" => write!(f, "ClusterRoleBinding {name:?}")?,
            namespace => write!(f, "RoleBinding \"{name}/{namespace}\"")?,
        }
        write!(f, " of {} {:?}", role.kind(), role.name)?;
        subjects.get(self.subject).map_or(Ok(()), |subject| write!(f, " to {subject}"))
    }
}

/// Bindings by their names.
type Named = BTreeMap<Box<str>, Arc<Binding>>;

/// What is in one namespace, or in none.
#[derive(Default)]
struct Place {
    roles: HashMap<Box<str>, Arc<Role>>,
    bindings: HashMap<Box<str>, Arc<Binding>>,
    /// By a subject's name; an account's is the user's that it is.
    users: HashMap<Box<str>, Named>,
    groups: HashMap<Box<str>, Named>,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.bindings.is_empty()
    }

    fn put_binding(&mut self, binding: Arc<Binding>) {
        self.remove_binding(&binding.name);
        for subject in &binding.subjects {
            let (of, name) = self.of(subject);
            of.entry(name).or_default().insert(binding.name.clone(), binding.clone());
        }
        self.bindings.insert(binding.name.clone(), binding);
    }

    fn remove_binding(&mut self, name: &str) {
        let Some(binding) = self.bindings.remove(name) else { return };
        for subject in &binding.subjects {
            let (of, subject) = self.of(subject);
            if let Some(named) = of.get_mut(&subject) {
                named.remove(name);
                if named.is_empty() {
                    of.remove(&subject);
                }
            }
        }
    }

    fn of(&mut self, subject: &Subject) -> (&mut HashMap<Box<str>, Named>, Box<str>) {
        match subject {
            Subject::User(name) => (&mut self.users, name.clone()),
            Subject::Group(name) => (&mut self.groups, name.clone()),
            Subject::Account { namespace, name } => {
                (&mut self.users, format!("{}{namespace}:{name}", names::USER_SERVICE_ACCOUNT_PREFIX).into())
            }
        }
    }

    /// The user's bindings, by name.
    fn bindings(&self, user: &UserInfo) -> Vec<Arc<Binding>> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str()));
        let named = self.users.get(user.name.as_str()).into_iter().chain(groups);
        named.flat_map(|named| named.values().cloned()).collect()
    }
}

/// The roles and bindings of one tenant that are stored, with the defaults beneath them.
#[derive(Default)]
pub struct Rights {
    /// By namespace; what is in none has the empty one.
    places: HashMap<Box<str>, Place>,
    /// Rules of ClusterRoles that select others, as far as they have been asked for since one was changed.
    aggregated: HashMap<Box<str>, Rules>,
}

impl Rights {
    fn place(&mut self, namespace: &str) -> &mut Place {
        self.places.entry(namespace.into()).or_default()
    }

    pub fn put_role(&mut self, namespace: &str, name: &str, role: Arc<Role>) {
        if namespace.is_empty() {
            self.aggregated.clear();
        }
        self.place(namespace).roles.insert(name.into(), role);
    }

    pub fn remove_role(&mut self, namespace: &str, name: &str) {
        if namespace.is_empty() {
            self.aggregated.clear();
        }
        self.remove(namespace, |place| drop(place.roles.remove(name)));
    }

    pub fn put_binding(&mut self, binding: Binding) {
        let binding = Arc::new(binding);
        self.place(&binding.namespace).put_binding(binding.clone());
    }

    pub fn remove_binding(&mut self, namespace: &str, name: &str) {
        self.remove(namespace, |place| place.remove_binding(name));
    }

    fn remove(&mut self, namespace: &str, remove: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places.get_mut(namespace) {
            remove(place);
            if place.is_empty() {
                self.places.remove(namespace);
            }
        }
    }

    /// What the user's bindings give it in a namespace, and for the whole cluster; those for the cluster first, by name.
    pub fn grants(&mut self, user: &UserInfo, namespace: Option<&str>) -> Vec<Grant> {
        let mut bindings = self.bindings(user, "");
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            bindings.extend(self.bindings(user, namespace));
        }
        bindings.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut grants = Vec::with_capacity(bindings.len());
        for binding in bindings {
            if let Some(subject) = binding.subject(user) {
                let rules = self.role(&binding.namespace, &binding.role.name, binding.role.cluster);
                grants.push(Grant { binding, subject, rules });
            }
        }
        grants
    }

    /// In a namespace, or in none: the user's bindings that are stored, and all defaults that are for anybody; by name.
    fn bindings(&self, user: &UserInfo, namespace: &str) -> Vec<Arc<Binding>> {
        let place = self.places.get(namespace);
        let written = |name: &str| place.is_some_and(|place| place.bindings.contains_key(name));
        let defaults = defaults::all().place(namespace).into_iter().flat_map(|place| &place.granting);
        let mut bindings: Vec<Arc<Binding>> = defaults.filter(|binding| !written(&binding.name)).cloned().collect();
        bindings.extend(place.into_iter().flat_map(|place| place.bindings(user)));
        bindings.sort_by(|a, b| a.name.cmp(&b.name));
        bindings
    }

    /// The rules of a role, if there is such a one.
    pub fn role(&mut self, namespace: &str, name: &str, cluster: bool) -> Option<Rules> {
        if !cluster {
            // What is in no namespace is a ClusterRole, and is not meant.
            return (!namespace.is_empty())
                .then(|| self.own_role(namespace, name))
                .flatten()
                .map(|role| role.own().clone());
        }
        let role = self.own_role("", name)?;
        if !role.is_aggregated() {
            return Some(role.own().clone());
        }
        let Some(stored) = self.places.get("").map(|place| &place.roles).filter(|roles| !roles.is_empty()) else {
            return aggregated_default(name);
        };
        if let Some(rules) = self.aggregated.get(name) {
            return Some(rules.clone());
        }
        let mut all = defaults::all().cluster_roles();
        all.extend(stored.iter().map(|(name, role)| (&**name, role)));
        let rules = aggregate(name, &all);
        self.aggregated.insert(name.into(), rules.clone());
        Some(rules)
    }

    /// The role of this name that is stored in a namespace, or in none; or the default.
    fn own_role(&self, namespace: &str, name: &str) -> Option<&Arc<Role>> {
        let stored = self.places.get(namespace).and_then(|place| place.roles.get(name));
        let default = || defaults::all().place(namespace)?.roles.get(name);
        stored.or_else(default)
    }
}

/// The rules of a default that selects others, where a tenant has no role of its own that could be selected: once for all.
fn aggregated_default(name: &str) -> Option<Rules> {
    static RULES: LazyLock<HashMap<&'static str, Rules>> = LazyLock::new(|| {
        let all = defaults::all().cluster_roles();
        let roles = all.iter().filter(|(_, role)| role.is_aggregated());
        roles.map(|(name, _)| (*name, aggregate(name, &all))).collect()
    });
    RULES.get(name).cloned()
}

#[cfg(test)]
mod tests;
