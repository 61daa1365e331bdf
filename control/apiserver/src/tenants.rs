//! What the operator says of the tenants, followed for as long as the server runs: their budgets, and that one is closed.
//!
//! A project that is disabled, or whose domain is, is closed as one that is deleted: what was begun for it, watches and
//! connections to its pods, ends at once. What is asked afterwards is refused where it is found out who asks.

use std::time::Duration;

use hypernetes_api::{ApiError, TenantId};
use hypernetes_store::{Change, Entry, Prefix, RangeOptions, ResourceId, Store};

use crate::{directory::Directory, fairness::accounts::Accounts, stored_form};

/// When to look again after the store had no answer.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// For ever.
pub async fn follow(store: &Store, directory: &Directory, accounts: &Accounts) {
    Accounts::set_default(store);
    loop {
        if let Err(error) = follow_once(store, directory, accounts).await {
            tracing::debug!(%error, "following the tenants");
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    }
}

/// Until something was missed.
async fn follow_once(store: &Store, directory: &Directory, accounts: &Accounts) -> Result<(), ApiError> {
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
    settle_all(directory, accounts).await?;
    loop {
        tokio::select! {
            change = projects.recv() => match change {
                Some(Ok(change)) => project_changed(store, directory, accounts, &change).await?,
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

async fn project_changed(
    store: &Store,
    directory: &Directory,
    accounts: &Accounts,
    change: &Change,
) -> Result<(), ApiError> {
    let name = change.key.name();
    let Ok(tenant) = name.parse::<TenantId>() else { return Ok(()) };
    // Then the directory has been told, too.
    store.all_told(change.revision).await;
    accounts.settle(&tenant, directory.is_open(&tenant).await?);
    match &change.now {
        Some(entry) => apply(store, accounts, entry),
        None => store.quotas().set(&tenant, None),
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
