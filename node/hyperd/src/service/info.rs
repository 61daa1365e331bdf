//! What `--verbose` tells of sandboxes and containers.

use std::collections::HashMap;

use serde_json::json;

use crate::{container::Container, records::SandboxState, sandbox::Sandbox};

pub(super) fn of_sandbox(sandbox: &Sandbox) -> HashMap<String, String> {
    let record = sandbox.record();
    let mut info = HashMap::from([
        ("boot_id".to_owned(), record.boot_id),
        ("agent_version".to_owned(), record.agent_version),
        ("protocol_version".to_owned(), record.protocol_version.to_string()),
        ("kernel_release".to_owned(), record.kernel_release),
    ]);
    if let Some(vm) = record.vm {
        info.insert("vm_pid".into(), vm.pid.to_string());
        info.insert("vm_cpus".into(), vm.spec.cpus.to_string());
        info.insert("vm_memory_mib".into(), vm.spec.memory_mib.to_string());
    }
    match record.state {
        SandboxState::NotReady { reason } | SandboxState::Stopped { reason } => {
            info.insert("reason".into(), reason);
        }
        SandboxState::Hibernated => {
            info.remove("vm_pid");
            info.insert("reason".into(), "it is hibernated".into());
        }
        SandboxState::Starting | SandboxState::Ready => {}
    }
    info
}

/// One entry, `info`, of JSON, as other runtimes have it. Environments hold secrets and are left out.
pub(super) fn of_container(container: &Container) -> HashMap<String, String> {
    let record = container.record();
    let process = record.process;
    let mounts = record.config.mounts.iter().map(|mount| {
        let image = mount.image.as_ref().map(|image| image.image.as_str()).filter(|image| !image.is_empty());
        json!({
            "destination": mount.container_path, "source": image.unwrap_or(&mount.host_path),
            "readonly": mount.readonly,
        })
    });
    let info = json!({
        "sandboxID": record.sandbox_id,
        // In the pod's virtual machine: on the node there is no such process.
        "guestPid": record.guest_pid,
        "args": process.args,
        "cwd": process.cwd,
        "terminal": process.tty,
        "privileged": process.privileged,
        "capabilities": process.capabilities,
        "ambientCapabilities": process.ambient_capabilities,
        "noNewPrivileges": process.no_new_privileges,
        "seccompPrograms": process.seccomp.len(),
        "oomScoreAdj": process.oom_score_adj,
        "disks": record.disks.keys().map(|slot| slot.0).collect::<Vec<_>>(),
        "mounts": mounts.collect::<Vec<_>>(),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
