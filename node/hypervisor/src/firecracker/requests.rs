//! What is said to Firecracker's API (`src/firecracker/swagger/firecracker.yaml` of its source): nothing that version 1.12
//! does not know.

use serde::Serialize;

#[derive(Serialize)]
pub struct MachineConfig {
    pub vcpu_count: u32,
    pub mem_size_mib: u32,
}

#[derive(Serialize)]
pub struct BootSource<'a> {
    pub kernel_image_path: &'a str,
    pub initrd_path: &'a str,
    pub boot_args: &'a str,
}

#[derive(Serialize)]
pub struct Drive {
    pub drive_id: String,
    pub is_root_device: bool,
    pub is_read_only: bool,
    pub path_on_host: String,
    pub cache_type: CacheType,
}

#[derive(Serialize)]
pub enum CacheType {
    /// What the guest flushes is not flushed: it has written nothing.
    Unsafe,
    Writeback,
}

#[derive(Serialize)]
pub struct DriveUpdate {
    pub drive_id: String,
    pub path_on_host: String,
}

#[derive(Serialize)]
pub struct NetworkInterface<'a> {
    pub iface_id: &'a str,
    pub host_dev_name: &'a str,
    pub guest_mac: &'a str,
}

#[derive(Serialize)]
pub struct Vsock<'a> {
    pub guest_cid: u32,
    pub uds_path: &'a str,
}

#[derive(Serialize)]
pub struct Action {
    pub action_type: &'static str,
}

#[derive(Serialize)]
pub struct VmState {
    pub state: &'static str,
}

#[derive(Serialize)]
pub struct CreateSnapshot<'a> {
    pub snapshot_type: &'static str,
    pub snapshot_path: &'a str,
    pub mem_file_path: &'a str,
}

#[derive(Serialize)]
pub struct LoadSnapshot<'a> {
    pub snapshot_path: &'a str,
    pub mem_backend: MemoryBackend<'a>,
    pub resume_vm: bool,
    pub network_overrides: Vec<NetworkOverride<'a>>,
}

#[derive(Serialize)]
pub struct MemoryBackend<'a> {
    pub backend_type: &'static str,
    pub backend_path: &'a str,
}

#[derive(Serialize)]
pub struct NetworkOverride<'a> {
    pub iface_id: &'a str,
    pub host_dev_name: &'a str,
}
