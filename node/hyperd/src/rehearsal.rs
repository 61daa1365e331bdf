//! What a VM goes through before its pod is known: a container's whole life, of nothing.
//!
//! A copied VM has all of its template's memory but none of its speed: each page is mapped when it is first touched, and
//! where the processor is emulated all code is translated anew. What was rehearsed is there when the pod comes. Where VMs are
//! forked, the template rehearses, for all of them; elsewhere each does that waits in the pool.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{DiskSource, Vm};
use hypernetes_image::ImageError;
use k8s_cri::v1 as cri;

use crate::{
    agent::{Agent, CALL_TIMEOUT, Greeting},
    error::Result,
    exec::ProcessHandle,
    hibernate::SINCE_RECONFIGURED,
    process,
};

/// Of the interface, until the pod's is known. Locally administered.
pub(crate) const MAC: &str = "52:54:00:00:00:01";
const CONTAINER: &str = "rehearsal";
const FILES: &str = "rehearsal";
const SIGKILL: u32 = 9;
const PATIENCE: Duration = Duration::from_secs(10);

/// x86-64: `exit(0)`, and `pause()` for ever.
const EXIT: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
const PAUSE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

/// The smallest program that a kernel runs: an ELF header, one segment, the code (System V ABI, "ELF").
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let (executable, x86_64, version, program_headers): (u16, u16, u32, u64) = (2, 62, 1, 64);
    elf.extend(executable.to_le_bytes());
    elf.extend(x86_64.to_le_bytes());
    elf.extend(version.to_le_bytes());
    elf.extend((BASE + HEADERS).to_le_bytes());
    elf.extend(program_headers.to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    // Sizes and numbers of headers: one program header, no sections.
    for number in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(number.to_le_bytes());
    }
    let (load, read_and_execute): (u32, u32) = (1, 5);
    elf.extend(load.to_le_bytes());
    elf.extend(read_and_execute.to_le_bytes());
    for number in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// What templates do before VMs are forked from them.
struct OfTemplates {
    /// With nothing in it: a template has seen nobody's image.
    image: PathBuf,
}

/// What templates that VMs are forked from are to rehearse. Keeps an image in that directory.
///
/// # Errors
/// When that cannot be written.
pub fn of_templates(
    directory: &Path,
) -> std::result::Result<Arc<dyn hypernetes_hypervisor::qemu::Rehearsal>, ImageError> {
    let image = directory.join("rehearsal.erofs");
    hypernetes_image::blank(&image)?;
    Ok(Arc::new(OfTemplates { image }))
}

#[async_trait]
impl hypernetes_hypervisor::qemu::Rehearsal for OfTemplates {
    async fn rehearse(&self, vm: &dyn Vm) -> std::result::Result<(), String> {
        let rehearse = async {
            let agent = Agent::new(vm.agent());
            let greeting = agent.hello_within(PATIENCE).await?;
            let has_interface = vm.record().spec.nic.is_some();
            // Without entropy nothing of a VM's identity is decided.
            run(vm, &agent, &greeting, Vec::new(), has_interface, Some(self.image.clone())).await
        };
        rehearse.await.map_err(|error| error.to_string())
    }
}

/// Configures the VM, with entropy of its own if it is to have an identity, and rehearses.
///
/// # Errors
/// When the VM is not fit to wait for a pod.
pub(crate) async fn run(
    vm: &dyn Vm,
    agent: &Agent,
    greeting: &Greeting,
    entropy: Vec<u8>,
    has_interface: bool,
    image: Option<PathBuf>,
) -> Result<()> {
    // Before all else: what the kernel decides while it rehearses is this VM's alone, too.
    let mut request = v1::ConfigureSandboxRequest {
        hostname: "localhost".into(),
        unix_time_nanos: crate::runtime::now_nanos().unsigned_abs(),
        entropy,
        ..Default::default()
    };
    if has_interface && greeting.version >= SINCE_RECONFIGURED {
        // Addresses for documentation (RFC 5737).
        request.interfaces.push(v1::Interface {
            mac: MAC.into(),
            name: crate::cni::INTERFACE.into(),
            addresses: vec!["192.0.2.2/24".into()],
            mtu: 1450,
        });
        request.routes.push(v1::Route {
            destination: "0.0.0.0/0".into(),
            gateway: "192.0.2.1".into(),
            interface: crate::cni::INTERFACE.into(),
        });
    }
    agent.call("ConfigureSandbox", CALL_TIMEOUT, |mut c| async move { c.configure_sandbox(request).await }).await?;
    let Some(image) = image.filter(|image| image.exists()) else { return Ok(()) };
    let file = |path: &str, code: &[u8]| v1::File {
        path: path.into(),
        mode: 0o755,
        data: program(code),
        ..Default::default()
    };
    agent.put_files(FILES, vec![file("exit", &EXIT), file("pause", &PAUSE)]).await?;
    let slot = vm.attach_disk(DiskSource { path: image, read_only: true }).await?;
    container(agent, slot.0).await?;
    vm.detach_disk(slot).await?;
    agent.put_files(FILES, Vec::new()).await?;
    Ok(())
}

async fn container(agent: &Agent, slot: u32) -> Result<()> {
    let config = cri::ContainerConfig { command: vec!["/.rehearsal/pause".into()], ..Default::default() };
    let process = process::container(&config, &Default::default(), "localhost")?;
    let request = v1::CreateContainerRequest {
        container_id: CONTAINER.into(),
        root: Some(v1::Disk { slot, fs_type: "erofs".into(), read_only: true }),
        mounts: vec![v1::Mount {
            destination: "/.rehearsal".into(),
            source: Some(v1::mount::Source::FileSet(FILES.into())),
            read_only: true,
            ..Default::default()
        }],
        resources: Some(v1::Resources { memory_bytes: 64 << 20, cpu_shares: 1024, ..Default::default() }),
        process: Some(process.clone()),
        ..Default::default()
    };
    agent.call("CreateContainer", CALL_TIMEOUT, |mut c| async move { c.create_container(request).await }).await?;
    let start = |exec_id: &str, process: Option<v1::Process>| v1::StartProcessRequest {
        container_id: CONTAINER.into(),
        exec_id: exec_id.into(),
        process,
    };
    let first = start("", None);
    agent.call("StartProcess", CALL_TIMEOUT, |mut c| async move { c.start_process(first).await }).await?;
    let exec = start("exec", Some(process::exec(&process, vec!["/.rehearsal/exit".into()], false, false)?));
    agent.call("StartProcess", CALL_TIMEOUT, |mut c| async move { c.start_process(exec).await }).await?;
    let handle =
        |exec_id: &str| ProcessHandle { agent: agent.clone(), container_id: CONTAINER.into(), exec_id: exec_id.into() };
    let follow = async {
        let mut following = handle("exec").follow(false).await?;
        while following.next().await?.is_some() {}
        following.exit_code().await?;
        handle("").signal(SIGKILL, true).await?;
        handle("").wait().await
    };
    tokio::time::timeout(PATIENCE, follow)
        .await
        .map_err(|_| crate::error::Error::Timeout { what: "the rehearsal", seconds: PATIENCE.as_secs() })??;
    let request = v1::RemoveProcessRequest { container_id: CONTAINER.into(), ..Default::default() };
    agent.call("RemoveProcess", CALL_TIMEOUT, |mut c| async move { c.remove_process(request).await }).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    #[test]
    fn the_programs_run() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, code: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, program(code)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert!(Command::new(write("exit", &EXIT)).status().unwrap().success());
        let mut pausing = Command::new(write("pause", &PAUSE)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(pausing.try_wait().unwrap().is_none());
        pausing.kill().unwrap();
        pausing.wait().unwrap();
    }
}
