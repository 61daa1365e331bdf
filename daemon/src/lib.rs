//! What the processes of every role have in common: memory, log, runtime, readiness and their end, and what
//! those that are root give up.

pub mod allocator;
pub mod confine;
pub mod log;
pub mod mountinfo;
pub mod notify;
pub mod text;

use std::{io::IsTerminal, process::ExitCode};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Runs a program to its end; an error is printed behind the program's name. `directives` are a level or more, as
/// `info,hypernetes_kubelet=debug`.
pub fn run(program: &str, directives: &str, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    allocator::give_back_at_once();
    let filter = tracing_subscriber::EnvFilter::try_new(directives).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::ToStandardError)
        // It would say with a panic that it cannot write.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    confine::tell();
    raise_file_limit();
    // One choice of cryptography for every TLS connection of the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::say(format_args!("{program}: starting the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(format_args!("{program}: {error:#}"));
            // What threads are still doing is not waited for: whoever started this process starts it again.
            runtime.shutdown_background();
            ExitCode::FAILURE
        }
    }
}

/// More than there are processors: what one does for long the kernel shares out with the others.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(4, |processors| processors.get() * 2)
}

/// A role may have as many descriptors as the hard limit says: the soft one is for programs that use select(2).
fn raise_file_limit() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    let raised = getrlimit(RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "raising the limit of descriptors");
    }
}

/// Becomes true at SIGTERM or SIGINT.
pub fn stop_signal() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sender.send(true);
    });
    receiver
}
