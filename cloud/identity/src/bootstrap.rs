//! What every installation has: the domain `default`, the project and user `admin`, and the roles.

use futures::future::try_join_all;
use hypernetes_api::types::identity::{
    Domain, DomainSpec, IDENTITY_NAMESPACE, Project, ProjectSpec, Role, RoleAssignment, RoleAssignmentSpec, RoleSpec,
    User, UserSpec,
};
use hypernetes_client::Api;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;

use crate::{
    Identity,
    error::Error,
    ids::{DEFAULT_DOMAIN, admin_project_id, admin_user_id},
    roles::{ROLES, Target, assignment_name, role_id},
};

impl Identity {
    /// Makes what is missing; changes nothing that is there, the admin's password included. To be called at each start.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn bootstrap(&self, admin_password: &str) -> Result<(), Error> {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(IDENTITY_NAMESPACE.into());
        let namespaces: Api<Namespace> = Api::all(self.system.clone());
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        self.ready().await?;
        // Beside each other: each is a write, and waits for the disk; the admin's password has to be hashed first.
        tokio::try_join!(self.keyring.ensure(), self.first_objects(), self.admin(admin_password)).map(drop)
    }

    async fn first_objects(&self) -> Result<(), Error> {
        let domain =
            DomainSpec { display_name: "Default".into(), description: "The default domain".into(), enabled: true };
        let project = ProjectSpec {
            display_name: "admin".into(),
            domain: DEFAULT_DOMAIN.into(),
            description: "Its admins administer the installation".into(),
            enabled: true,
            ..ProjectSpec::default()
        };
        let role = |name: &&str| {
            let spec = RoleSpec { display_name: (*name).into(), ..RoleSpec::default() };
            self.ensure(Role::new(&role_id(name), spec))
        };
        let (admin, user) = (role_id("admin"), admin_user_id());
        let targets = [Target::Project(admin_project_id()), Target::System, Target::Domain(DEFAULT_DOMAIN.into())];
        let assigned = targets.iter().map(|target| self.assign(&admin, ("user", &user), target, false));
        tokio::try_join!(
            self.ensure(Domain::new(DEFAULT_DOMAIN, domain)),
            self.ensure(Project::new(&admin_project_id(), project)),
            try_join_all(ROLES.iter().map(role)),
            try_join_all(assigned),
        )
        .map(drop)
    }

    async fn admin(&self, password: &str) -> Result<(), Error> {
        let admin = admin_user_id();
        if self.directory.users.get(&admin).is_some() {
            return Ok(());
        }
        // The password first: a user without one could never be given it by a later start.
        self.passwords.set(&admin, password.to_owned()).await?;
        let user = UserSpec {
            display_name: "admin".into(),
            domain: DEFAULT_DOMAIN.into(),
            enabled: true,
            default_project: Some(admin_project_id()),
            ..UserSpec::default()
        };
        self.ensure(User::new(&admin, user)).await
    }

    async fn ensure<K: crate::directory::Kind>(&self, object: K) -> Result<(), Error> {
        let name = object.meta().name.clone().unwrap_or_default();
        if K::cache(&self.directory).get(&name).is_some() {
            return Ok(());
        }
        self.directory.ensure(&object).await
    }

    /// Gives a role; content when it is given already. The actor is `("user" | "group", id)`.
    pub(crate) async fn assign(
        &self,
        role: &str,
        actor: (&str, &str),
        target: &Target,
        inherited: bool,
    ) -> Result<(), Error> {
        let of = |kind: &str| (actor.0 == kind).then(|| actor.1.to_owned());
        let mut spec = RoleAssignmentSpec {
            role: role.to_owned(),
            user: of("user"),
            group: of("group"),
            inherited,
            ..RoleAssignmentSpec::default()
        };
        match target {
            Target::System => spec.system = true,
            Target::Domain(id) => spec.domain = Some(id.clone()),
            Target::Project(id) => spec.project = Some(id.clone()),
        }
        self.ensure(RoleAssignment::new(&assignment_name(role, actor, target, inherited), spec)).await
    }
}
