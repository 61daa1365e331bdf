//! `identity.hypernetes.io`: what Keystone's API shows, the operator's.

use hypernetes_api::types::identity::{Domain, Group, Project, Role, RoleAssignment, TokenRevocation, User};

use crate::{
    columns::{between, column, path},
    resource::{Home, Resource},
    subresource::Subresource,
};

const OF: &str = "identity";

pub(crate) fn resources() -> Vec<Resource> {
    let display_name = || column("Display Name", path("spec.displayName"));
    let named = || between([display_name()]);
    let project =
        Resource::own::<Project>(OF, "Project", "projects").subresources([Subresource::status()]).columns(between([
            display_name(),
            column("Domain", path("spec.domain")),
            column("Enabled", path("spec.enabled")),
        ]));
    let assignment = Resource::own::<RoleAssignment>(OF, "RoleAssignment", "roleassignments").columns(between([
        column("Role", path("spec.role")),
        column("User", path("spec.user")),
        column("Project", path("spec.project")),
    ]));
    let all = [
        Resource::own::<Domain>(OF, "Domain", "domains").columns(named()),
        Resource::own::<Group>(OF, "Group", "groups").columns(named()),
        project,
        Resource::own::<Role>(OF, "Role", "roles").columns(named()),
        assignment,
        Resource::own::<TokenRevocation>(OF, "TokenRevocation", "tokenrevocations").columns(named()),
        Resource::own::<User>(OF, "User", "users").columns(named()),
    ];
    all.into_iter().map(|resource| resource.home(Home::System)).collect()
}
