//! The CNI plugin (CNI specification 1.1.0, and 1.0.0): forwards to the agent on this host.
//!
//! Its result names the tap that the VM is to be given, and the namespace that the tap is in; it works with runtimes that
//! run pods as VMs. A sandbox's own namespace (`CNI_NETNS`) is not touched.

mod install;
mod plugin;
pub(crate) mod protocol;

pub use install::install;
pub use plugin::main;

/// File name of the plugin, and name of the network.
const NAME: &str = "hypernetes";
/// Versions that the plugin speaks, the newest last.
const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];
/// The capability with which a runtime offers a tap, or says that it wants one.
const TAP: &str = "hypernetes.io/tap";
