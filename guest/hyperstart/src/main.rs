//! hyperstart: PID 1 of a pod's VM, and the agent through which hyperd runs the pod's containers in it.
//!
//! Depends on nothing but the contract (`guest/protocol`). Whatever goes wrong here harms this pod's VM alone.

mod aside;
mod container;
mod conversation;
mod descriptor;
mod dial;
mod files;
mod hostfs;
mod init;
mod modules;
mod mountinfo;
mod mounts;
mod network;
mod output;
mod ownership;
mod port;
mod process;
mod reaper;
mod rehearse;
mod rootfs;
mod sandbox;
mod seccomp;
mod service;
mod state;
mod stats;
mod userns;
mod users;
mod vsock;
mod zygote;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        // The kernel starts it to have a module loaded.
        Some(modules::QUIETLY) => return modules::modprobe(arguments),
        Some(userns::HOLD) => return userns::hold(),
        // Started as a container's program, in a template.
        Some(rehearse::REHEARSE) => return rehearse::main(arguments),
        _ => {}
    }
    std::panic::set_hook(Box::new(|panic| eprintln!("hyperstart: {panic}")));
    if let Err(error) = init::prepare() {
        eprintln!("hyperstart: {error}");
        init::power_off();
    }
    println!("hyperstart {} is up", env!("CARGO_PKG_VERSION"));
    // Before there are threads.
    let zygote = match zygote::Zygote::start() {
        Ok(zygote) => zygote,
        Err(error) => {
            eprintln!("hyperstart: forking the zygote: {error}");
            init::power_off();
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hyperstart: starting the runtime: {error}");
            init::power_off();
        }
    };
    let error = runtime.block_on(conversation::serve(zygote));
    eprintln!("hyperstart: {error}");
    init::power_off();
}
