//! What the plugin and the agent say to each other over the socket: one JSON object each way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most that either may say.
pub(crate) const MAX_MESSAGE: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Request {
    Add {
        container_id: String,
        tenant: String,
        pod_uid: String,
        /// One that the pod's VM is attached to already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tap: Option<OfferedTap>,
    },
    Del {
        container_id: String,
    },
    Check {
        container_id: String,
    },
    /// All attachments of other sandboxes are leftovers.
    Gc {
        valid: Vec<String>,
    },
    Status,
}

/// A tap that the runtime made, to be taken into the pod's network: the value of the capability `hypernetes.io/tap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferedTap {
    pub name: String,
    /// Path of the network namespace that it is in.
    pub netns: PathBuf,
}

/// The result of `Add` (null for the others), without `cniVersion`.
pub(crate) type Reply = Result<Value, Failure>;

/// An error as the CNI specification has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// Error codes of the CNI specification, section "Error".
pub(crate) mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN_LATER: u32 = 11;
    pub const UNAVAILABLE: u32 = 50;
    /// Ours: the host could not do it.
    pub const DATAPLANE: u32 = 100;
}

impl Failure {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Self::new(code::DATAPLANE, error.to_string())
    }
}
