//! How many connections into tenants' networks there may be on this node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hypernetes_api::TenantId;

/// In all.
const OF_ALL: usize = 1024;
/// Of one tenant.
const OF_ONE: usize = 64;

/// Those that are taken, by tenant. A tenant without any is not there.
#[derive(Default)]
pub struct Places(Mutex<HashMap<TenantId, usize>>);

/// There is no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("the node has {OF_ALL} relayed connections already")]
    OfAll,
    #[error("the tenant has {OF_ONE} relayed connections on this node already")]
    OfOne,
}

/// One of them, until it is dropped.
pub struct Place {
    places: Arc<Places>,
    tenant: TenantId,
}

impl Places {
    pub fn take(self: &Arc<Self>, tenant: &TenantId) -> Result<Place, Full> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= OF_ALL {
            return Err(Full::OfAll);
        }
        let own = taken.entry(tenant.clone()).or_default();
        if *own >= OF_ONE {
            return Err(Full::OfOne);
        }
        *own += 1;
        Ok(Place { places: self.clone(), tenant: tenant.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_more_than_there_is() {
        let places = Arc::new(Places::default());
        let take = |tenant: usize| places.take(&format!("t{tenant}").parse().unwrap());
        let mut own: Vec<Place> = (0..OF_ONE).map(|_| take(0).unwrap()).collect();
        assert_eq!(take(0).err(), Some(Full::OfOne));
        let others: Vec<Place> = (OF_ONE..OF_ALL).map(|n| take(n / OF_ONE).unwrap()).collect();
        assert_eq!(take(OF_ALL).err(), Some(Full::OfAll));
        own.pop();
        own.push(take(0).unwrap());
        drop((own, others));
        assert!(places.taken().is_empty());
    }
}
