//! `--as`: acting as somebody else of the same logical cluster, for whoever may `impersonate` them.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};
use hypernetes_api::{ApiError, Reason, TenantId, auth::UserInfo, names};

use crate::{
    authorization::{Attributes, Authorizer, is_cluster_admin},
    request::{self, Scope},
};

const EXTRA: &str = "impersonate-extra-";
const GROUP: &str = "authentication.k8s.io";

/// Who a request is made as: who made it, unless its headers name another.
///
/// # Errors
/// `Forbidden` for whom one may not be; `BadRequest` for groups and the like of nobody.
pub async fn user(
    headers: &HeaderMap,
    user: UserInfo,
    scope: &Scope,
    authorizer: &Authorizer<'_>,
) -> Result<UserInfo, ApiError> {
    let text = |value: &HeaderValue| {
        let text = value.to_str().map(str::to_owned);
        text.map_err(|_| ApiError::bad_request("a header of impersonation is no text"))
    };
    let one = |name: &str| headers.get(name).map(text).transpose();
    let (name, uid) = (one("impersonate-user")?.unwrap_or_default(), one("impersonate-uid")?.unwrap_or_default());
    let mut groups = headers.get_all("impersonate-group").iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.entry(request::unescaped(key)).or_default().push(text(value)?);
        }
    }
    if name.is_empty() {
        return if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            Ok(user)
        } else {
            Err(ApiError::bad_request("uid, groups or extra fields are requested without impersonating a user"))
        };
    }
    let Scope::Tenant(tenant) = scope else {
        return Err(ApiError::bad_request("impersonation has to name one logical cluster"));
    };
    let asked = Asked { authorizer, user: &user, tenant };
    let account = name.strip_prefix(names::USER_SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => {
            let wanted = Attributes { resource: "serviceaccounts", namespace: Some(namespace), ..named(account) };
            asked.check(wanted).await?;
            if groups.is_empty() {
                groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => asked.check(Attributes { resource: "users", ..named(&name) }).await?,
    }
    for group in headers.get_all("impersonate-group").iter().map(text) {
        let group = group?;
        let wanted = Attributes { resource: "groups", ..named(&group) };
        if !asked.may_join(&group) {
            return Err(asked.forbidden(&wanted));
        }
        asked.check(wanted).await?;
    }
    for (key, values) in &extra {
        for value in values {
            let wanted = Attributes { group: GROUP, resource: "userextras", subresource: key, ..named(value) };
            asked.check(wanted).await?;
        }
    }
    if !uid.is_empty() {
        asked.check(Attributes { group: GROUP, resource: "uids", ..named(&uid) }).await?;
    }
    // Whether somebody is known is in one group or the other, as upstream has it.
    let known = if name == names::USER_ANONYMOUS { names::GROUP_UNAUTHENTICATED } else { names::GROUP_AUTHENTICATED };
    if !groups.iter().any(|group| group == known || group == names::GROUP_UNAUTHENTICATED) {
        groups.push(known.into());
    }
    Ok(UserInfo { name, uid, groups, extra, tenant: tenant.clone() })
}

fn named(name: &str) -> Attributes<'_> {
    Attributes { verb: "impersonate", name: Some(name), ..Default::default() }
}

struct Asked<'a> {
    authorizer: &'a Authorizer<'a>,
    user: &'a UserInfo,
    tenant: &'a TenantId,
}

impl Asked<'_> {
    async fn check(&self, wanted: Attributes<'_>) -> Result<(), ApiError> {
        if self.authorizer.allows(self.user, self.tenant, &wanted).await? {
            Ok(())
        } else {
            Err(self.forbidden(&wanted))
        }
    }

    /// Groups that give rights by themselves are joined by those alone who have these rights.
    fn may_join(&self, group: &str) -> bool {
        match group {
            names::GROUP_INFRASTRUCTURE | names::GROUP_NODES => false,
            names::GROUP_MASTERS
            | names::GROUP_KEYSTONE_ADMIN
            | names::GROUP_KEYSTONE_MEMBER
            | names::GROUP_KEYSTONE_READER => {
                is_cluster_admin(self.user) || self.user.groups.iter().any(|own| own == group)
            }
            _ => true,
        }
    }

    fn forbidden(&self, wanted: &Attributes<'_>) -> ApiError {
        let (resource, name) = (wanted.full_resource(), wanted.name.unwrap_or_default());
        let qualified =
            if wanted.group.is_empty() { resource.clone() } else { format!("{}.{}", wanted.resource, wanted.group) };
        let place = match wanted.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{qualified} {name:?} is forbidden: User {:?} cannot impersonate resource {resource:?} in API group {:?} {place}",
            self.user.name, wanted.group
        );
        ApiError::new(Reason::Forbidden, message)
    }
}
