//! How many bytes of logs a tenant's containers have on this node, rotated ones and those of ended containers included, and how
//! many they may have. What would be more is lost, as on a full disk: it is the tenant's own disk that is full.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use k8s_cri::v1 as cri;
use parking_lot::Mutex;

use crate::{LOG_BYTES_ANNOTATION, TENANT_ANNOTATION, bytes_said, prepare::is_operators};

pub(crate) struct LogBudgets {
    /// Of a tenant of whom nothing is said.
    default: u64,
    tenants: Mutex<HashMap<String, Arc<Account>>>,
}

#[derive(Debug)]
struct Account {
    limit: AtomicU64,
    held: Mutex<u64>,
}

/// One container's part, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct LogShare {
    account: Arc<Account>,
    bytes: AtomicU64,
}

impl LogBudgets {
    pub(crate) fn new(default: u64) -> Self {
        Self { default, tenants: Mutex::default() }
    }

    fn limit(&self, config: &cri::PodSandboxConfig) -> u64 {
        bytes_said(&config.annotations, LOG_BYTES_ANNOTATION).unwrap_or(self.default)
    }

    /// From here on a tenant may have what is said with this pod, its newest.
    pub(crate) fn hear(&self, config: &cri::PodSandboxConfig) {
        let Some(tenant) = config.annotations.get(TENANT_ANNOTATION) else { return };
        let tenants = self.tenants.lock();
        if let Some(account) = tenants.get(tenant) {
            account.limit.store(self.limit(config), Ordering::Relaxed);
        }
    }

    /// The part of a container of such a pod. None: the pod is the operator's own, whose disk it is.
    pub(crate) fn share(&self, config: &cri::PodSandboxConfig) -> Option<Arc<LogShare>> {
        let tenant = config.annotations.get(TENANT_ANNOTATION).filter(|tenant| !is_operators(tenant))?;
        let mut tenants = self.tenants.lock();
        tenants.retain(|_, account| Arc::strong_count(account) > 1);
        let new = || Arc::new(Account { limit: AtomicU64::new(self.limit(config)), held: Mutex::default() });
        let account = tenants.entry(tenant.clone()).or_insert_with(new).clone();
        Some(Arc::new(LogShare { account, bytes: AtomicU64::new(0) }))
    }
}

impl LogShare {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// `QuotaExceeded` when the tenant would have more than it may.
    pub(crate) fn take(&self, bytes: u64) -> io::Result<()> {
        let mut held = self.account.held.lock();
        let limit = self.account.limit.load(Ordering::Relaxed);
        if held.checked_add(bytes).is_none_or(|sum| sum > limit) {
            let why = format!("the tenant has {} bytes of logs on this node, and may have {limit}", *held);
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        *held += bytes;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// There are so many bytes, whether they may be there or not.
    pub(crate) fn set(&self, bytes: u64) {
        let mut held = self.account.held.lock();
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        *held = (*held - before).saturating_add(bytes);
    }
}

impl Drop for LogShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(tenant: &str, limit: &str) -> cri::PodSandboxConfig {
        let annotations = [(TENANT_ANNOTATION, tenant), (LOG_BYTES_ANNOTATION, limit)];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        cri::PodSandboxConfig { annotations, ..Default::default() }
    }

    #[test]
    fn a_tenants_containers_share_what_it_may_have() {
        let budgets = LogBudgets::new(100);
        let (first, second) = (budgets.share(&pod("acme", "50")).unwrap(), budgets.share(&pod("acme", "50")).unwrap());
        first.take(30).unwrap();
        assert_eq!(second.take(21).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        second.take(20).unwrap();
        // What is found is counted even if it is too much.
        first.set(40);
        assert!(second.take(1).is_err());
        budgets.share(&pod("globex", "50")).unwrap().take(50).unwrap();
        drop(first);
        second.take(30).unwrap();
        budgets.hear(&pod("acme", "60"));
        second.take(10).unwrap();
        assert!(second.take(1).is_err());
        // What is no number, or not there, is no number of bytes, and not without end.
        for unsaid in ["", "-1", "many"] {
            budgets.hear(&pod("acme", unsaid));
            second.set(0);
            second.take(100).unwrap();
            assert!(second.take(1).is_err());
        }
        assert!(budgets.share(&pod("system", "1")).is_none() && budgets.share(&pod("", "1")).is_none());
        assert!(budgets.share(&cri::PodSandboxConfig::default()).is_none());
    }
}
