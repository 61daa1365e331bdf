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
    agent::{Agent, AgentError, CALL_TIMEOUT, Greeting},
    error::Result,
    exec::ProcessHandle,
    hibernate::SINCE_RECONFIGURED,
    process,
};

/// Of the interface, until the pod's is known. Locally administered.
pub(crate) const MAC: &str = "52:54:00:00:00:01";
/// That it gets another is rehearsed, too.
const OTHER_MAC: &str = "52:54:00:00:00:02";
const CONTAINER: &str = "rehearsal";
const FILES: &str = "rehearsal";
/// In the image of templates, without the leading `/`.
const PROGRAM: &str = "bin/rehearse";
const PASSWD: &[u8] = b"root:x:0:0::/:\n";
/// Of what the program said, for messages.
const MAX_SAID: usize = 256;
const SIGKILL: u32 = 9;
const PATIENCE: Duration = Duration::from_secs(10);

/// x86-64: `exit(0)`, `pause()` for ever, and a write to each page of [`SWEPT_BYTES`] before `exit(0)`.
const EXIT: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
const PAUSE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
const SWEEP: [u8; 33] = [
    0xbf, 0x00, 0x10, 0x40, 0x00, // mov edi, 0x401000
    0xb9, 0xff, 0x1f, 0x00, 0x00, // mov ecx, 8191
    0xc6, 0x07, 0x01, // mov byte [rdi], 1
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
    0xff, 0xc9, // dec ecx
    0x75, 0xf2, // jnz to the write
    0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05,
];
const SWEPT_BYTES: u64 = 8192 * 4096;

/// The smallest program that a kernel runs: an ELF header, one segment, the code (System V ABI, "ELF"). With so many bytes of
/// memory more, which can be written to.
fn program(code: &[u8], more: u64) -> Vec<u8> {
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
    let (load, read_and_execute, and_write): (u32, u32, u32) = (1, 5, 2);
    elf.extend(load.to_le_bytes());
    elf.extend((read_and_execute | if more > 0 { and_write } else { 0 }).to_le_bytes());
    for number in [0, BASE, BASE, length, length + more, 0x1000] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// What a rehearsal runs.
pub(crate) struct Play {
    /// The root file system of the container.
    pub image: PathBuf,
    /// Its first process, which stays, and another, which ends.
    first: Vec<String>,
    exec: Vec<String>,
    /// At `/.rehearsal` in it.
    programs: Vec<v1::File>,
}

impl Play {
    /// With anybody's image, whose programs nobody knows: with such as do nothing.
    pub(crate) fn nothing(image: PathBuf) -> Self {
        Self::of_code(image, &EXIT, 0)
    }

    /// Writes to memory that was free: where programs were before, whose translations are of no use. What is written over here
    /// each copy would have to find out, and forget, for itself.
    fn sweep(image: PathBuf) -> Self {
        Self::of_code(image, &SWEEP, SWEPT_BYTES)
    }

    fn of_code(image: PathBuf, exec: &[u8], more: u64) -> Self {
        let file = |path: &str, code: &[u8], more| v1::File {
            path: path.into(),
            mode: 0o755,
            data: program(code, more),
            ..Default::default()
        };
        Self {
            image,
            first: vec!["/.rehearsal/pause".into()],
            exec: vec!["/.rehearsal/exec".into()],
            programs: vec![file("exec", exec, more), file("pause", &PAUSE, 0)],
        }
    }
}

/// What templates do before VMs are forked from them: the agent plays the program.
struct OfTemplates {
    image: PathBuf,
}

/// What templates that VMs are forked from are to rehearse. Keeps an image with the agent `hyperstart` in that directory: a
/// template has seen nobody's.
///
/// # Errors
/// When the one cannot be read or the other not be written.
pub fn of_templates(
    hyperstart: &Path,
    directory: &Path,
) -> std::result::Result<Arc<dyn hypernetes_hypervisor::qemu::Rehearsal>, ImageError> {
    let image = directory.join("rehearsal.erofs");
    let program = std::fs::read(hyperstart).map_err(|source| ImageError::Store { path: hyperstart.into(), source })?;
    hypernetes_image::small(&[(PROGRAM, &program), ("etc/passwd", PASSWD), ("etc/group", b"root:x:0:\n")], &image)?;
    Ok(Arc::new(OfTemplates { image }))
}

#[async_trait]
impl hypernetes_hypervisor::qemu::Rehearsal for OfTemplates {
    async fn rehearse(&self, vm: &dyn Vm) -> std::result::Result<(), String> {
        let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let play = Play {
            image: self.image.clone(),
            first: command(&["/bin/rehearse", "rehearse", "wait"]),
            exec: command(&["/bin/rehearse", "rehearse"]),
            programs: vec![v1::File { path: "nothing".into(), mode: 0o644, ..Default::default() }],
        };
        let rehearse = async {
            let agent = Agent::new(vm.agent());
            let greeting = agent.hello_within(PATIENCE).await?;
            let has_interface = vm.record().spec.nic.is_some();
            // Without entropy nothing of a VM's identity is decided.
            run(vm, &agent, &greeting, Vec::new(), has_interface, [play, Play::sweep(self.image.clone())]).await
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
    plays: impl IntoIterator<Item = Play>,
) -> Result<()> {
    // Before all else: what the kernel decides while it rehearses is this VM's alone, too.
    let mut request = v1::ConfigureSandboxRequest {
        hostname: "localhost".into(),
        unix_time_nanos: crate::runtime::now_nanos().unsigned_abs(),
        entropy,
        ..Default::default()
    };
    let mut waiting = None;
    if has_interface && greeting.version >= SINCE_RECONFIGURED {
        let interface =
            v1::Interface { mac: OTHER_MAC.into(), name: crate::cni::INTERFACE.into(), ..Default::default() };
        let interfaces = vec![v1::Interface { waiting: true, ..interface.clone() }];
        waiting = Some(v1::ConfigureSandboxRequest { interfaces, ..Default::default() });
        // Addresses for documentation (RFC 5737).
        request.interfaces.push(v1::Interface { addresses: vec!["192.0.2.2/24".into()], mtu: 1450, ..interface });
        request.routes.push(v1::Route {
            destination: "0.0.0.0/0".into(),
            gateway: "192.0.2.1".into(),
            interface: crate::cni::INTERFACE.into(),
        });
    }
    for request in [Some(request), waiting].into_iter().flatten() {
        agent.configure(request, CALL_TIMEOUT).await?;
    }
    for play in plays.into_iter().filter(|play| play.image.exists()) {
        agent.put_files(FILES, play.programs.clone()).await?;
        let slot = vm.attach_disk(DiskSource { path: play.image.clone(), read_only: true }).await?;
        container(agent, slot.0, play).await?;
        vm.detach_disk(slot).await?;
        agent.put_files(FILES, Vec::new()).await?;
    }
    Ok(())
}

async fn container(agent: &Agent, slot: u32, play: Play) -> Result<()> {
    let config = cri::ContainerConfig { command: play.first, ..Default::default() };
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
    let exec = start("exec", Some(process::exec(&process, play.exec, false, false)?));
    agent.call("StartProcess", CALL_TIMEOUT, |mut c| async move { c.start_process(exec).await }).await?;
    let handle =
        |exec_id: &str| ProcessHandle { agent: agent.clone(), container_id: CONTAINER.into(), exec_id: exec_id.into() };
    let follow = async {
        let mut following = handle("exec").follow(false).await?;
        let mut said = Vec::new();
        while let Some(chunk) = following.next().await? {
            said.extend(chunk.data.into_iter().take(MAX_SAID));
        }
        match following.exit_code().await? {
            0 => {}
            code => {
                let said = crate::agent::clean(&String::from_utf8_lossy(&said));
                return Err(AgentError::Nonsense(format!("what was rehearsed ended with {code}: {said}")));
            }
        }
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
        let write = |name: &str, code: &[u8], more: u64| {
            let path = directory.path().join(name);
            fs::write(&path, program(code, more)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert!(Command::new(write("exit", &EXIT, 0)).status().unwrap().success());
        assert!(Command::new(write("sweep", &SWEEP, SWEPT_BYTES)).status().unwrap().success());
        let mut pausing = Command::new(write("pause", &PAUSE, 0)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(pausing.try_wait().unwrap().is_none());
        pausing.kill().unwrap();
        pausing.wait().unwrap();
    }
}
