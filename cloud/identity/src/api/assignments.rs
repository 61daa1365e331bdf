//! Who has which role where: given and taken under the target, listed under `/v3/role_assignments`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use http::StatusCode;
use hypernetes_api::types::identity::{Domain, Group, Project, Role, RoleAssignment, RoleAssignmentSpec, User};
use hypernetes_facade::Parameters;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Shared, caller::Caller, many, roles};
use crate::{
    Error, Identity,
    catalog::link,
    directory::{Directory, key},
    roles::{Target, assignment_name, with_implied},
};

pub(super) fn routes() -> Router<Arc<Identity>> {
    let mut router = Router::new().route("/role_assignments", get(list));
    for (actors, actor) in [("users", "user"), ("groups", "group")] {
        let targets = [("projects", Target::Project as fn(String) -> Target), ("domains", Target::Domain)];
        for (targets, target) in targets {
            router =
                on_target(router, &format!("/{targets}/{{target}}/{actors}/{{actor}}/roles"), "", move |id, who| {
                    Grant { target: target(id), actor: (actor, who), inherited: false }
                });
        }
        router = on_target(
            router,
            &format!("/OS-INHERIT/domains/{{target}}/{actors}/{{actor}}/roles"),
            "/inherited_to_projects",
            move |id, who| Grant { target: Target::Domain(id), actor: (actor, who), inherited: true },
        );
        router = on_system(router, &format!("/system/{actors}/{{actor}}/roles"), actor);
    }
    router
}

/// What the paths have in common: a target and an actor.
struct Grant {
    target: Target,
    actor: (&'static str, String),
    inherited: bool,
}

/// The routes of the grants on one kind of target to one kind of actor.
fn on_target(
    router: Router<Arc<Identity>>,
    path: &str,
    suffix: &str,
    grant: impl Fn(String, String) -> Grant + Copy + Send + Sync + 'static,
) -> Router<Arc<Identity>> {
    type Ids = Path<(String, String, String)>;
    let check = move |identity: Shared, caller: Caller, Path((target, actor, role)): Ids| async move {
        check(&identity, &caller, &grant(target, actor), &role)
    };
    let give = move |identity: Shared, caller: Caller, Path((target, actor, role)): Ids| async move {
        give(&identity, &caller, &grant(target, actor), &role).await
    };
    let take = move |identity: Shared, caller: Caller, Path((target, actor, role)): Ids| async move {
        take(&identity, &caller, &grant(target, actor), &role).await
    };
    let show = move |identity: Shared, caller: Caller, Path((target, actor)): Path<(String, String)>| async move {
        show(&identity, &caller, &grant(target, actor))
    };
    router
        .route(&format!("{path}/{{role}}{suffix}"), get(check).put(give).delete(take))
        .route(&format!("{path}{suffix}"), get(show))
}

fn on_system(router: Router<Arc<Identity>>, path: &str, kind: &'static str) -> Router<Arc<Identity>> {
    let grant = move |actor| Grant { target: Target::System, actor: (kind, actor), inherited: false };
    let check = move |identity: Shared, caller: Caller, Path((actor, role)): Path<(String, String)>| async move {
        check(&identity, &caller, &grant(actor), &role)
    };
    let give = move |identity: Shared, caller: Caller, Path((actor, role)): Path<(String, String)>| async move {
        give(&identity, &caller, &grant(actor), &role).await
    };
    let take = move |identity: Shared, caller: Caller, Path((actor, role)): Path<(String, String)>| async move {
        take(&identity, &caller, &grant(actor), &role).await
    };
    let show = move |identity: Shared, caller: Caller, Path(actor): Path<String>| async move {
        show(&identity, &caller, &grant(actor))
    };
    router.route(&format!("{path}/{{role}}"), get(check).put(give).delete(take)).route(path, get(show))
}

impl Grant {
    /// # Errors
    /// [`Error::NotFound`] when the target or the actor does not exist.
    fn check(&self, directory: &Directory) -> Result<(), Error> {
        match &self.target {
            Target::System => {}
            Target::Domain(id) => drop(directory.get::<Domain>(id)?),
            Target::Project(id) => drop(directory.get::<Project>(id)?),
        }
        match self.actor.0 {
            "user" => drop(directory.get::<User>(&self.actor.1)?),
            _ => drop(directory.get::<Group>(&self.actor.1)?),
        }
        Ok(())
    }

    fn assignment(&self, role: &str) -> String {
        assignment_name(role, (self.actor.0, &self.actor.1), &self.target, self.inherited)
    }
}

fn check(identity: &Identity, caller: &Caller, grant: &Grant, role: &str) -> Result<StatusCode, Error> {
    caller.reader("identity:check_grant")?;
    grant.check(&identity.directory)?;
    identity.directory.get::<Role>(role)?;
    match identity.directory.assignments.get(&grant.assignment(role)) {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Error::not_found("role assignment", role)),
    }
}

async fn give(identity: &Identity, caller: &Caller, grant: &Grant, role: &str) -> Result<StatusCode, Error> {
    caller.admin("identity:create_grant")?;
    grant.check(&identity.directory)?;
    identity.directory.get::<Role>(role)?;
    identity.assign(role, (grant.actor.0, &grant.actor.1), &grant.target, grant.inherited).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn take(identity: &Identity, caller: &Caller, grant: &Grant, role: &str) -> Result<StatusCode, Error> {
    caller.admin("identity:revoke_grant")?;
    grant.check(&identity.directory)?;
    let name = grant.assignment(role);
    if identity.directory.assignments.get(&name).is_none() {
        return Err(Error::not_found("role assignment", role));
    }
    identity.directory.delete::<RoleAssignment>(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn show(identity: &Identity, caller: &Caller, grant: &Grant) -> Result<Json<Value>, Error> {
    caller.reader("identity:list_grants")?;
    let directory = &identity.directory;
    grant.check(directory)?;
    let assignments = directory.assignments.find(&key(grant.actor.0, &grant.actor.1)).into_iter();
    let here =
        assignments.filter(|a| target_of(&a.spec) == Some(grant.target.clone()) && a.spec.inherited == grant.inherited);
    let values = here.filter_map(|a| directory.roles.get(&a.spec.role)).map(|role| roles::to_json(identity, &role));
    Ok(many(identity, "roles", "role_assignments", values.collect()))
}

fn target_of(spec: &RoleAssignmentSpec) -> Option<Target> {
    let project = spec.project.clone().map(Target::Project);
    let domain = || spec.domain.clone().map(Target::Domain);
    project.or_else(domain).or(spec.system.then_some(Target::System))
}

async fn list(State(identity): Shared, caller: Caller, filters: Parameters) -> Result<Json<Value>, Error> {
    let own = filters.get("user.id").is_some_and(|id| caller.is_user(id));
    caller.reader_or(own, "identity:list_role_assignments")?;
    let directory = &identity.directory;
    let all = directory.assignments.all().into_iter().map(|assignment| assignment.spec.clone());
    let assignments: Vec<RoleAssignmentSpec> = match filters.flag("effective") {
        Some(true) => all.flat_map(|spec| effective(directory, spec)).collect(),
        _ => all.collect(),
    };
    let with_names = filters.flag("include_names") == Some(true);
    let passes = |name: &str, value: Option<&str>| filters.get(name).is_none_or(|wanted| value == Some(wanted));
    let passing = assignments.iter().filter(|spec| {
        passes("user.id", spec.user.as_deref())
            && passes("group.id", spec.group.as_deref())
            && passes("role.id", Some(&spec.role))
            && passes("scope.project.id", spec.project.as_deref())
            && passes("scope.domain.id", spec.domain.as_deref())
            && (filters.get("scope.system").is_none() || spec.system)
            && (filters.get("scope.OS-INHERIT:inherited_to").is_none() || spec.inherited)
    });
    let mut values: Vec<Value> = Vec::new();
    for value in passing.filter_map(|spec| to_json(&identity, spec, with_names)) {
        // A role may be given directly, by a group and by another role at once.
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(many(&identity, "role_assignments", "role_assignments", values))
}

/// What an assignment comes to: users for groups, all implied roles, projects for inherited ones.
fn effective(directory: &Directory, spec: RoleAssignmentSpec) -> Vec<RoleAssignmentSpec> {
    let users: Vec<String> = match &spec.group {
        Some(group) => directory.groups.get(group).map(|group| group.spec.members.clone()).unwrap_or_default(),
        None => spec.user.iter().cloned().collect(),
    };
    let targets: Vec<(Option<String>, Option<String>)> = match &spec.domain {
        Some(domain) if spec.inherited => {
            let projects = directory.projects.find(&key("domain", domain));
            projects.iter().map(|project| (Some(project.name_any()), None)).collect()
        }
        _ => vec![(spec.project.clone(), spec.domain.clone())],
    };
    let mut all = Vec::new();
    for user in &users {
        for (project, domain) in &targets {
            all.extend(with_implied(&spec.role).into_iter().map(|role| RoleAssignmentSpec {
                role,
                user: Some(user.clone()),
                group: None,
                project: project.clone(),
                domain: domain.clone(),
                system: spec.system,
                inherited: false,
            }));
        }
    }
    all
}

/// `None` for one whose role, actor or target is gone.
fn to_json(identity: &Identity, spec: &RoleAssignmentSpec, with_names: bool) -> Option<Value> {
    let directory = &identity.directory;
    let domain = |id: &str| {
        let name = directory.domains.get(id).map(|domain| domain.spec.display_name.clone());
        json!({"id": id, "name": name})
    };
    let named = |id: &str, name: &str, in_domain: Option<&str>| {
        let mut value = json!({"id": id});
        if with_names {
            value["name"] = json!(name);
            if let Some(id) = in_domain {
                value["domain"] = domain(id);
            }
        }
        value
    };
    let role = directory.roles.get(&spec.role)?;
    let mut value = json!({"role": named(&spec.role, &role.spec.display_name, role.spec.domain.as_deref())});
    let (actors, actor) = if let Some(id) = &spec.user {
        let user = directory.users.get(id)?;
        value["user"] = named(id, &user.spec.display_name, Some(&user.spec.domain));
        ("users", id)
    } else {
        let id = spec.group.as_ref()?;
        let group = directory.groups.get(id)?;
        value["group"] = named(id, &group.spec.display_name, Some(&group.spec.domain));
        ("groups", id)
    };
    let path = match target_of(spec)? {
        Target::System => {
            value["scope"] = json!({"system": {"all": true}});
            "system".to_owned()
        }
        Target::Domain(id) => {
            value["scope"] = json!({"domain": named(&id, &directory.domains.get(&id)?.spec.display_name, None)});
            format!("domains/{id}")
        }
        Target::Project(id) => {
            let project = directory.projects.get(&id)?;
            value["scope"] = json!({"project": named(&id, &project.spec.display_name, Some(&project.spec.domain))});
            format!("projects/{id}")
        }
    };
    let path = format!("{path}/{actors}/{actor}/roles/{}", spec.role);
    let path = if spec.inherited {
        value["scope"]["OS-INHERIT:inherited_to"] = json!("projects");
        format!("OS-INHERIT/{path}/inherited_to_projects")
    } else {
        path
    };
    value["links"] = json!({"assignment": link(&identity.config, &path)});
    Some(value)
}
