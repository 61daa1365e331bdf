//! hyperstart: PID 1 of a pod's VM, and the agent through which hyperd runs the pod's containers in it.
//!
//! Depends on nothing but the contract (`guest/protocol`). Whatever goes wrong here harms this pod's VM alone.

mod aside;
mod container;
mod dial;
mod files;
mod hostfs;
mod init;
mod mounts;
mod output;
mod port;
mod process;
mod reaper;
mod rootfs;
mod sandbox;
mod service;
mod state;
mod stats;
mod users;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // The agent starts itself anew to become a container's process: a fresh process has one thread, and may fork.
    if arguments.next().as_deref() == Some(process::LAUNCH) {
        return process::launch(arguments.collect());
    }
    std::panic::set_hook(Box::new(|panic| eprintln!("hyperstart: {panic}")));
    if let Err(error) = init::prepare() {
        eprintln!("hyperstart: {error}");
        init::power_off();
    }
    println!("hyperstart {} is up", env!("CARGO_PKG_VERSION"));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hyperstart: starting the runtime: {error}");
            init::power_off();
        }
    };
    let error = runtime.block_on(port::serve());
    eprintln!("hyperstart: {error}");
    init::power_off();
}
