//! Starts a VMM locked in. See [`hypernetes_hypervisor::jail`].

fn main() -> std::process::ExitCode {
    hypernetes_hypervisor::jail::main()
}
