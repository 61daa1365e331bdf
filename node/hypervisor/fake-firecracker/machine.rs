//! The machine: what may be asked of it when, and what it has open.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Read,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::agent;

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    NotStarted,
    Running,
    Paused,
}

#[derive(Default)]
pub struct Machine {
    state: State,
    config: Option<MachineConfig>,
    boot: Option<BootSource>,
    drives: BTreeMap<String, (Drive, File)>,
    network: Option<NetworkInterface>,
    vsock: Option<(Vsock, std::os::unix::net::UnixListener)>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    vcpu_count: u8,
    mem_size_mib: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: String,
    initrd_path: Option<String>,
    boot_args: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    drive_id: String,
    is_root_device: bool,
    is_read_only: bool,
    path_on_host: String,
    cache_type: CacheType,
}

#[derive(Clone, Serialize, Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DriveUpdate {
    drive_id: String,
    path_on_host: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkInterface {
    iface_id: String,
    host_dev_name: String,
    guest_mac: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vsock {
    guest_cid: u32,
    uds_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action_type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmState {
    state: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSnapshot {
    snapshot_type: String,
    snapshot_path: String,
    mem_file_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadSnapshot {
    snapshot_path: String,
    mem_backend: MemoryBackend,
    resume_vm: bool,
    network_overrides: Vec<NetworkOverride>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryBackend {
    backend_type: String,
    backend_path: String,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    config: MachineConfig,
    drives: Vec<Drive>,
    network: Option<NetworkInterface>,
    vsock: Option<Vsock>,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let wrong = |e| format!("An error occurred when deserializing the json body of a request: {e}.");
    serde_json::from_slice(body).map_err(wrong)
}

fn open(drive: &Drive) -> Result<File, String> {
    let path = &drive.path_on_host;
    let opened = OpenOptions::new().read(true).write(!drive.is_read_only).open(path);
    opened.map_err(|e| {
        format!("Unable to create the virtio block device: Error manipulating the backing file: {e} {path}")
    })
}

impl Machine {
    pub fn put(&mut self, path: &str, body: &[u8]) -> Result<(), String> {
        if path == "/snapshot/create" {
            return self.save(parse(body)?);
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let early = |state: &State| match state {
            State::NotStarted => Ok(()),
            _ => Err("The requested operation is not supported after starting the microVM.".to_owned()),
        };
        match parts[..] {
            ["machine-config"] => {
                let config: MachineConfig = parse(body)?;
                early(&self.state)?;
                if !(1..=32).contains(&config.vcpu_count) {
                    return Err("The vCPU number is invalid! The vCPU number can only be between 1 and 32.".into());
                }
                self.config = Some(config);
            }
            ["boot-source"] => {
                let boot: BootSource = parse(body)?;
                early(&self.state)?;
                let mut magic = [0; 4];
                let kernel = File::open(&boot.kernel_image_path).and_then(|mut file| file.read_exact(&mut magic));
                kernel.map_err(|e| format!("The kernel file cannot be opened: {e}"))?;
                if &magic != b"\x7fELF" {
                    return Err("Invalid Elf magic number".into());
                }
                let initrd = boot.initrd_path.as_ref().map_or(Ok(()), |path| File::open(path).map(drop));
                initrd.map_err(|e| format!("The initrd file cannot be opened: {e}"))?;
                if boot.boot_args.as_ref().is_some_and(|line| line.contains('\n')) {
                    return Err("The kernel command line is invalid".into());
                }
                self.boot = Some(boot);
            }
            ["drives", id] => {
                let drive: Drive = parse(body)?;
                early(&self.state)?;
                check_id(id, &drive.drive_id)?;
                if drive.is_root_device {
                    return Err("there is a root in the initrd".into());
                }
                let file = open(&drive)?;
                self.drives.insert(drive.drive_id.clone(), (drive, file));
            }
            ["network-interfaces", id] => {
                let interface: NetworkInterface = parse(body)?;
                early(&self.state)?;
                check_id(id, &interface.iface_id)?;
                let bytes: Vec<&str> = interface.guest_mac.split(':').collect();
                if bytes.len() != 6 || bytes.iter().any(|byte| u8::from_str_radix(byte, 16).is_err()) {
                    return Err("Invalid MAC address".into());
                }
                has_interface(&interface.host_dev_name)?;
                self.network = Some(interface);
            }
            ["vsock"] => {
                let vsock: Vsock = parse(body)?;
                early(&self.state)?;
                if vsock.guest_cid < 3 {
                    return Err("Invalid guest CID".into());
                }
                self.listen(vsock)?;
            }
            ["actions"] => {
                let action: Action = parse(body)?;
                if action.action_type != "InstanceStart" {
                    return Err(format!("unknown variant `{}`", action.action_type));
                }
                early(&self.state)?;
                if self.boot.is_none() || self.config.is_none() {
                    return Err("Cannot start microvm without kernel configuration.".into());
                }
                self.run();
            }
            ["snapshot", "load"] => {
                let load: LoadSnapshot = parse(body)?;
                early(&self.state)?;
                if self.boot.is_some() || !self.drives.is_empty() {
                    return Err(
                        "Loading a microVM snapshot not allowed after configuring boot-specific resources.".into()
                    );
                }
                // The real one has ended by then.
                if let Err(error) = self.load(&load) {
                    eprintln!("Error: {error}");
                    std::process::exit(1);
                }
            }
            _ => return Err(format!("Invalid request method and/or path: PUT {path}.")),
        }
        Ok(())
    }

    pub fn patch(&mut self, path: &str, body: &[u8]) -> Result<(), String> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        if !matches!(parts[..], ["drives", _] | ["vm"]) {
            return Err(format!("Invalid request method and/or path: PATCH {path}."));
        }
        if self.state == State::NotStarted {
            return Err("The requested operation is not supported before starting the microVM.".into());
        }
        match parts[..] {
            ["drives", id] => {
                let update: DriveUpdate = parse(body)?;
                check_id(id, &update.drive_id)?;
                let (drive, file) = self.drives.get_mut(id).ok_or("Unable to patch the block device: not found")?;
                let updated = Drive { path_on_host: update.path_on_host, ..drive.clone() };
                *file = open(&updated)?;
                *drive = updated;
            }
            _ => match parse::<VmState>(body)?.state.as_str() {
                "Paused" => self.state = State::Paused,
                "Resumed" => self.state = State::Running,
                other => return Err(format!("unknown variant `{other}`, expected `Paused` or `Resumed`")),
            },
        }
        Ok(())
    }

    fn listen(&mut self, vsock: Vsock) -> Result<(), String> {
        let listener = std::os::unix::net::UnixListener::bind(&vsock.uds_path);
        let listener = listener.map_err(|e| format!("Cannot create backend for vsock device: {e}"))?;
        self.vsock = Some((vsock, listener));
        Ok(())
    }

    fn run(&mut self) {
        self.state = State::Running;
        println!("hyperstart is up");
        if let Some((_, listener)) = &self.vsock {
            agent::serve(listener.try_clone().unwrap());
        }
    }

    fn save(&mut self, request: CreateSnapshot) -> Result<(), String> {
        if self.state != State::Paused {
            return Err("save/restore unavailable while running".into());
        }
        assert_eq!(request.snapshot_type, "Full");
        let config = self.config.clone().unwrap();
        let failed = |e| format!("Cannot write the snapshot: {e}");
        let memory = File::create(request.mem_file_path).map_err(failed)?;
        memory.set_len(config.mem_size_mib << 20).map_err(failed)?;
        let drives = self.drives.values().map(|(drive, _)| drive.clone()).collect();
        let network = self.network.clone();
        let saved = Saved { config, drives, network, vsock: self.vsock.as_ref().map(|(vsock, _)| vsock.clone()) };
        fs::write(request.snapshot_path, serde_json::to_vec(&saved).unwrap()).map_err(failed)
    }

    fn load(&mut self, request: &LoadSnapshot) -> Result<(), String> {
        assert_eq!(request.mem_backend.backend_type, "File");
        let failed = |e: std::io::Error| format!("Load snapshot error: {e}");
        let saved: Saved = parse(&fs::read(&request.snapshot_path).map_err(failed)?)?;
        let memory = File::open(&request.mem_backend.backend_path).map_err(failed)?;
        if memory.metadata().map_err(failed)?.len() != saved.config.mem_size_mib << 20 {
            return Err("the memory has another size".into());
        }
        for drive in saved.drives {
            let file = open(&drive)?;
            self.drives.insert(drive.drive_id.clone(), (drive, file));
        }
        self.network = saved.network;
        for change in &request.network_overrides {
            let network = self.network.as_mut().filter(|network| network.iface_id == change.iface_id);
            network.ok_or("Unknown Network Device")?.host_dev_name.clone_from(&change.host_dev_name);
        }
        self.network.iter().try_for_each(|network| has_interface(&network.host_dev_name))?;
        self.config = Some(saved.config);
        saved.vsock.map_or(Ok(()), |vsock| self.listen(vsock))?;
        self.run();
        self.state = if request.resume_vm { State::Running } else { State::Paused };
        Ok(())
    }
}

/// In the network namespace that it is in; the real one would open it.
fn has_interface(name: &str) -> Result<(), String> {
    let found = nix::net::if_::if_nametoindex(name);
    found.map(drop).map_err(|e| format!("Open tap device failed: {e} {name}"))
}

fn check_id(in_path: &str, in_body: &str) -> Result<(), String> {
    if in_path.is_empty() || !in_path.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        return Err("API Resource IDs can only contain alphanumeric characters and underscores.".into());
    }
    (in_path == in_body).then_some(()).ok_or_else(|| "The id from the path does not match the id from the body!".into())
}
