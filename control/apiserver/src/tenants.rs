//! What the operator says of the tenants, followed for as long as the server runs: their budgets, and that one is closed.
//!
//! A project that is disabled, or whose domain is, is closed as one that is deleted: what was begun for it, watches and
//! connections to its pods, ends at once. What is asked afterwards is refused where it is found out who asks. Of one that is deleted
//! nothing is kept: what was counted of it goes, and so does its audit log. That it was deleted is in the operator's.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Change, Entry, Prefix, RangeOptions, ResourceId, Store};

use crate::{audit::Audit, directory::Directory, fairness::accounts::Accounts, stored_form};

/// When to look again after the store had no answer.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// What is held to what is followed.
pub struct Followers<'a> {
    pub store: &'a Store,
    pub directory: &'a Directory,
    pub accounts: &'a Accounts,
    pub audit: &'a OnceLock<Arc<Audit>>,
}

/// For ever.
pub async fn follow(followers: &Followers<'_>) {
    Accounts::set_default(followers.store);
    loop {
        if let Err(error) = follow_once(followers).await {
            tracing::debug!(%error, "following the tenants");
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    }
}

/// Until something was missed.
async fn follow_once(followers: &Followers<'_>) -> Result<(), ApiError> {
    let Followers { store, directory, accounts, audit } = followers;
    let prefix = |plural| {
        Prefix::tenant(&ResourceId::new("identity.hypernetes.io", plural), &TenantId::system(), None)
            .map_err(|error| ApiError::internal(error.to_string()))
    };
    let (projects, domains) = (prefix("projects")?, prefix("domains")?);
    let listing = store.range(&projects, RangeOptions::default()).await?;
    let mut domains = store.watch(&domains, listing.revision).await?;
    let mut projects = store.watch(&projects, listing.revision).await?;
    for entry in &listing.entries {
        apply(store, accounts, entry);
    }
    // What came while nobody followed.
    let there = listing.entries.iter().filter_map(|entry| entry.key.name().parse().ok()).collect::<HashSet<TenantId>>();
    for gone in accounts.tenants().into_iter().filter(|tenant| !tenant.is_system() && !there.contains(tenant)) {
        accounts.forget(&gone);
    }
    settle_all(directory, accounts).await?;
    if let Some(audit) = audit.get() {
        audit.forget_others(there);
    }
    loop {
        tokio::select! {
            change = projects.recv() => match change {
                Some(Ok(change)) => project_changed(followers, &change).await?,
                _ => return Ok(()),
            },
            change = domains.recv() => match change {
                Some(Ok(change)) => {
                    store.all_told(change.revision).await;
                    settle_all(directory, accounts).await?;
                }
                _ => return Ok(()),
            },
        }
    }
}

async fn project_changed(followers: &Followers<'_>, change: &Change) -> Result<(), ApiError> {
    let Followers { store, directory, accounts, audit } = followers;
    let name = change.key.name();
    let Ok(tenant) = name.parse::<TenantId>() else { return Ok(()) };
    // Then the directory has been told, too.
    store.all_told(change.revision).await;
    match &change.now {
        Some(entry) => {
            accounts.settle(&tenant, directory.is_open(&tenant).await?);
            apply(store, accounts, entry);
            audit.get().inspect(|audit| audit.expect(&tenant));
        }
        None => {
            accounts.forget(&tenant);
            store.quotas().set(&tenant, None);
            audit.get().inspect(|audit| audit.forget(&tenant));
        }
    }
    Ok(())
}

async fn settle_all(directory: &Directory, accounts: &Accounts) -> Result<(), ApiError> {
    for tenant in accounts.tenants() {
        accounts.settle(&tenant, directory.is_open(&tenant).await?);
    }
    Ok(())
}

fn apply(store: &Store, accounts: &Accounts, project: &Entry) {
    let Ok(tenant) = project.key.name().parse::<TenantId>() else { return };
    let project = stored_form::decode(project).unwrap_or_default();
    let limits = project["spec"]["limits"].as_object().into_iter().flatten();
    let limits = limits.filter_map(|(name, limit)| Some((name.clone(), limit.as_u64()?))).collect();
    accounts.set(store, &tenant, &limits);
}
