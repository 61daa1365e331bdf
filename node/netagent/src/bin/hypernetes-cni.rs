//! The CNI plugin's program: one short process for each pod, so it holds nothing else.

fn main() -> std::process::ExitCode {
    hypernetes_netagent::cni::main()
}
