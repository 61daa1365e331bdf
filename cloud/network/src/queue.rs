//! What the controllers of networks work on.

use hypernetes_api::TenantId;
use hypernetes_runtime::Tenanted;
use parking_lot::Mutex;

/// What has to be looked at: by `metadata.name`, but a pod by its uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Network(TenantId, String),
    Subnet(TenantId, String),
    Port(TenantId, String),
    Pod(TenantId, String),
}

impl Tenanted for Key {
    fn tenant(&self) -> &TenantId {
        let (Self::Network(tenant, _) | Self::Subnet(tenant, _) | Self::Port(tenant, _) | Self::Pod(tenant, _)) = self;
        tenant
    }
}

/// Of who acts; of who does not there is none, and what is added to it is forgotten.
#[derive(Default)]
pub(crate) struct Queue(Mutex<Option<hypernetes_runtime::Queue<Key>>>);

impl Queue {
    pub fn add(&self, key: Key) {
        if let Some(queue) = &*self.0.lock() {
            queue.add(key);
        }
    }

    pub fn is_open(&self) -> bool {
        self.0.lock().is_some()
    }

    /// A new one, for workers.
    pub fn open(&self) -> hypernetes_runtime::Queue<Key> {
        self.0.lock().insert(hypernetes_runtime::Queue::default()).clone()
    }

    pub fn close(&self) {
        *self.0.lock() = None;
    }
}
