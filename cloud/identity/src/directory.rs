//! Keystone's things as API objects of the system cluster: reads from watched copies, writes through the API server.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use hypernetes_api::types::identity::{Domain, Group, Project, Role, RoleAssignment, TokenRevocation, User};
use hypernetes_client::Api;
use hypernetes_facade::NotUpdated;
use kube::{
    Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams},
};

use crate::{
    cache::Cache,
    error::Error,
    roles::{Target, with_implied},
};

/// One kind of identity object.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
    + Clone
    + std::fmt::Debug
    + serde::Serialize
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// As Keystone's messages and JSON bodies call it.
    const WORD: &'static str;

    fn cache(directory: &Directory) -> &Cache<Self>;
}

/// All identity objects.
pub(crate) struct Directory {
    client: Client,
    pub domains: Cache<Domain>,
    pub projects: Cache<Project>,
    pub users: Cache<User>,
    pub groups: Cache<Group>,
    pub roles: Cache<Role>,
    pub assignments: Cache<RoleAssignment>,
    pub revocations: Cache<TokenRevocation>,
    /// Held from looking whether a name is free until it is taken.
    pub naming: tokio::sync::Mutex<()>,
}

macro_rules! kinds {
    ($($kind:ident $word:literal $field:ident;)*) => {$(
        impl Kind for $kind {
            const WORD: &'static str = $word;

            fn cache(directory: &Directory) -> &Cache<Self> {
                &directory.$field
            }
        }
    )*};
}

kinds! {
    Domain "domain" domains;
    Project "project" projects;
    User "user" users;
    Group "group" groups;
    Role "role" roles;
    RoleAssignment "role assignment" assignments;
    TokenRevocation "token revocation" revocations;
}

/// Index key of a name in a domain (`""`: in none).
pub(crate) fn name_key(domain: &str, name: &str) -> String {
    format!("name:{domain}/{name}")
}

/// Index key of the actor, target or role of an assignment, and of what a revocation is about.
pub(crate) fn key(kind: &str, id: &str) -> String {
    format!("{kind}:{id}")
}

impl Directory {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            domains: Cache::new(|d| vec![name_key("", &d.spec.display_name)]),
            projects: Cache::new(|p| {
                vec![name_key(&p.spec.domain, &p.spec.display_name), key("domain", &p.spec.domain)]
            }),
            users: Cache::new(|u| vec![name_key(&u.spec.domain, &u.spec.display_name), key("domain", &u.spec.domain)]),
            groups: Cache::new(|g| {
                let mut keys = vec![name_key(&g.spec.domain, &g.spec.display_name), key("domain", &g.spec.domain)];
                keys.extend(g.spec.members.iter().map(|user| key("member", user)));
                keys
            }),
            roles: Cache::new(|r| vec![name_key(r.spec.domain.as_deref().unwrap_or(""), &r.spec.display_name)]),
            assignments: Cache::new(|a| {
                let spec = &a.spec;
                let mut keys = vec![key("role", &spec.role)];
                keys.extend(spec.user.iter().map(|id| key("user", id)));
                keys.extend(spec.group.iter().map(|id| key("group", id)));
                keys.extend(spec.project.iter().map(|id| key("project", id)));
                keys.extend(spec.domain.iter().map(|id| key("domain", id)));
                keys
            }),
            revocations: Cache::new(|r| {
                let spec = &r.spec;
                let mut keys: Vec<String> = spec.audit_id.iter().map(|id| key("audit", id)).collect();
                keys.extend(spec.user.iter().map(|id| key("user", id)));
                keys.extend(spec.project.iter().map(|id| key("project", id)));
                // Certificates are counted where they are issued.
                let charged = spec.charged_to.iter().filter(|_| spec.certificate.is_none());
                keys.extend(charged.map(|id| key("charged", id)));
                keys
            }),
            naming: tokio::sync::Mutex::new(()),
        }
    }

    /// Keeps the copies current until the future is dropped.
    pub async fn follow(&self) {
        tokio::join!(
            self.domains.follow(self.client.clone()),
            self.projects.follow(self.client.clone()),
            self.users.follow(self.client.clone()),
            self.groups.follow(self.client.clone()),
            self.roles.follow(self.client.clone()),
            self.assignments.follow(self.client.clone()),
            self.revocations.follow(self.client.clone()),
        );
    }

    /// Waits until every kind's first list has been read.
    pub async fn synced(&self) {
        tokio::join!(
            self.domains.synced(),
            self.projects.synced(),
            self.users.synced(),
            self.groups.synced(),
            self.roles.synced(),
            self.assignments.synced(),
            self.revocations.synced(),
        );
    }

    fn api<K: Kind>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub fn get<K: Kind>(&self, id: &str) -> Result<Arc<K>, Error> {
        K::cache(self).get(id).ok_or_else(|| Error::not_found(K::WORD, id))
    }

    pub fn named<K: Kind>(&self, domain: &str, name: &str) -> Option<Arc<K>> {
        K::cache(self).find(&name_key(domain, name)).into_iter().next()
    }

    /// # Errors
    /// [`Error::Conflict`] when another object of the kind has the name. `naming` must be held.
    pub fn check_name_free<K: Kind>(&self, domain: &str, name: &str, except: Option<&str>) -> Result<(), Error> {
        match self.named::<K>(domain, name) {
            Some(other) if Some(other.name_any().as_str()) != except => {
                let place = if domain.is_empty() { String::new() } else { format!(" at domain ID {domain}") };
                Err(Error::Conflict { kind: K::WORD, why: format!("Duplicate entry found with name {name}{place}") })
            }
            _ => Ok(()),
        }
    }

    pub async fn create<K: Kind>(&self, object: &K) -> Result<Arc<K>, Error> {
        let created = self.api::<K>().create(&PostParams::default(), object).await?;
        Ok(K::cache(self).apply(created))
    }

    /// [`Directory::create`], content when the object is there already.
    pub async fn ensure<K: Kind>(&self, object: &K) -> Result<(), Error> {
        match self.create(object).await {
            Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes an object; starts over from its newest version when someone else has changed it meanwhile.
    pub async fn update<K: Kind>(&self, id: &str, change: impl Fn(&mut K)) -> Result<Arc<K>, Error> {
        let known = K::clone(&*self.get::<K>(id)?);
        let change = |object: &mut K| {
            change(object);
            Ok::<(), Infallible>(())
        };
        // Whatever has the id by now is what was meant.
        match hypernetes_facade::update(&self.api::<K>(), known, |_| true, change).await {
            Ok(changed) => Ok(K::cache(self).apply(changed)),
            Err(NotUpdated::Gone) => Err(Error::not_found(K::WORD, id)),
            Err(NotUpdated::Contended) => {
                Err(Error::Conflict { kind: K::WORD, why: "others change it all the time".into() })
            }
            Err(NotUpdated::Refused(never)) => match never {},
            Err(NotUpdated::Api(kube::Error::Api(status))) if status.code == 404 => Err(Error::not_found(K::WORD, id)),
            Err(NotUpdated::Api(error)) => Err(error.into()),
        }
    }

    /// Deletes an object; one that is gone already is as good.
    pub async fn delete<K: Kind>(&self, id: &str) -> Result<(), Error> {
        match self.api::<K>().delete(id, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        K::cache(self).forget(id);
        Ok(())
    }

    /// Deletes all assignments with that role, actor or target.
    pub async fn delete_assignments(&self, kind: &str, id: &str) -> Result<(), Error> {
        for assignment in self.assignments.find(&key(kind, id)) {
            self.delete::<RoleAssignment>(&assignment.name_any()).await?;
        }
        Ok(())
    }

    /// Ids of the groups that a user is in.
    pub fn groups_of(&self, user: &str) -> Vec<Arc<Group>> {
        self.groups.find(&key("member", user))
    }

    /// Every assignment that gives the user a role, by itself or by its groups.
    pub fn assignments_of(&self, user: &str) -> Vec<Arc<RoleAssignment>> {
        let mut assignments = self.assignments.find(&key("user", user));
        for group in self.groups_of(user) {
            assignments.extend(self.assignments.find(&key("group", &group.name_any())));
        }
        assignments
    }

    /// The roles that the user has in the target, with those that they imply, by id.
    pub fn roles_in(&self, user: &str, target: &Target) -> Vec<Arc<Role>> {
        let assignments = self.assignments_of(user);
        let given = assignments.iter().filter(|a| self.reaches(a, target)).map(|a| a.spec.role.clone());
        let ids: BTreeSet<String> = given.flat_map(|role| with_implied(&role)).collect();
        ids.iter().filter_map(|id| self.roles.get(id)).collect()
    }

    /// Whether an assignment holds in the target; an inherited one does not in the domain, but in all its projects.
    pub fn reaches(&self, assignment: &RoleAssignment, target: &Target) -> bool {
        let spec = &assignment.spec;
        match target {
            Target::System => spec.system,
            Target::Domain(id) => !spec.inherited && spec.domain.as_deref() == Some(id),
            Target::Project(id) if spec.inherited => {
                self.projects.get(id).is_some_and(|p| spec.domain.as_deref() == Some(p.spec.domain.as_str()))
            }
            Target::Project(id) => spec.project.as_deref() == Some(id),
        }
    }
}
