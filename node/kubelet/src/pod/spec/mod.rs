//! What a pod's specification says, for the node and in CRI's words: functions of the specification alone.

pub mod deadline;
pub mod downward_api;
pub mod expansion;
pub mod grace;
pub mod qos;
pub mod resources;
pub mod restart;
pub mod user_namespace;
