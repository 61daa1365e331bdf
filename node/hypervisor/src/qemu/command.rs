//! QEMU's command line.

use std::{ffi::OsString, path::Path};

use super::{Shared, disks, vm::Origin};
use crate::{
    Accelerator, HypervisorError, VmSpec, boot,
    slots::{self, Slot},
};

/// Descriptors that QEMU is started with: it may open next to nothing by name.
pub const TAP_FD: i32 = 3;
pub const KERNEL_FD: i32 = 4;
pub const INITRD_FD: i32 = 5;
pub const MONITOR_FD: i32 = 6;
pub const AGENT_FD: i32 = 7;
pub const MEMORY_FD: i32 = 8;
/// Everything that the translator knows, but for what is fast only in silicon: with the "fast strings" the kernel copies byte by
/// byte, which is how they are emulated, and with 57 bits of addresses it walks five tables instead of four.
const EMULATED_CPU: &str = "max,-erms,-fsrm,-la57";
/// Translated code may take 128 MiB: more than most pods ever run, and within what a VM's control group leaves the VMM.
const TRANSLATOR: &str = "tcg,tb-size=128";
/// Name of the guest's console's buffer.
pub const CONSOLE: &str = "console";
const CONSOLE_BYTES: u32 = 64 << 10;

/// e.g. `QEMU 7.2.22`.
pub async fn version(program: &Path) -> Result<String, HypervisorError> {
    let output = tokio::process::Command::new(program).arg("--version").output().await;
    let output = output.map_err(|e| HypervisorError::Host(format!("running {}: {e}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split("version ").nth(1).and_then(|rest| rest.split([' ', '(', '\n']).next());
    let number =
        number.ok_or_else(|| HypervisorError::Host(format!("{} does not say its version", program.display())))?;
    Ok(format!("QEMU {number}"))
}

pub fn monitor_socket(directory: &Path) -> std::path::PathBuf {
    directory.join("monitor")
}

pub fn agent_socket(directory: &Path) -> std::path::PathBuf {
    directory.join("agent")
}

/// What the VM is called: to QEMU, and as a process.
pub fn name(id: &str) -> String {
    format!("{id},process=hypernetes-vm")
}

/// Whether that is the command line of the VM's process, its words ended by NULs.
pub fn is_named(line: &[u8], id: &str) -> bool {
    let words = format!("\0-name\0{}\0", name(id));
    line.windows(words.len()).any(|part| part == words.as_bytes())
}

/// The line is the same for a VM, the one it is copied from and the copy, but for the memory and what is in it: QEMU restores a
/// machine into one with the same devices in the same order.
pub fn arguments(shared: &Shared, spec: &VmSpec, accelerator: Accelerator, origin: &Origin<'_>) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-name", &name(&spec.id)]);
    // What works on this machine type and why: with acpi there are 24 virtio slots and SMP; without a real-time clock a boot
    // waits two seconds for it. The serial port is the console.
    let machine = "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on";
    // Wherever it comes from, it has the same name: by that QEMU finds it when it restores a machine.
    add(&["-M", &format!("{machine},memory-backend=memory"), "-object"]);
    let size = spec.memory_mib;
    match origin.shares_memory() {
        None => add(&[&format!("memory-backend-ram,id=memory,size={size}M")]),
        Some(share) => {
            let share = if share { "on" } else { "off" };
            let path = format!("/proc/self/fd/{MEMORY_FD}");
            add(&[&format!("memory-backend-file,id=memory,size={size}M,mem-path={path},share={share}")]);
        }
    }
    match accelerator {
        Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => add(&["-accel", TRANSLATOR, "-cpu", EMULATED_CPU]),
    }
    add(&["-smp", &spec.cpus.to_string(), "-m", &spec.memory_mib.to_string()]);
    add(&["-global", "virtio-mmio.force-legacy=false"]);
    if origin.is_restored() {
        // The kernel is in its memory already.
        add(&["-incoming", "defer"]);
    } else {
        add(&["-kernel", &format!("/proc/self/fd/{KERNEL_FD}"), "-initrd", &format!("/proc/self/fd/{INITRD_FD}")]);
    }
    // The time stamp counter's frequency is told: calibrating it under emulation fails at random (see `tsc`).
    let clock = format!("tsc=reliable tsc_early_khz={}", shared.tsc_khz);
    let append = ["-append", &format!("{} reboot=t {clock}", boot::ARGUMENTS)];
    if !origin.is_restored() {
        add(&append);
    }
    // The console's buffer is bounded: a guest that writes for ever overwrites itself.
    add(&["-chardev", &format!("ringbuf,id={CONSOLE},size={CONSOLE_BYTES}"), "-serial", &format!("chardev:{CONSOLE}")]);
    let socket = |id: &str, fd: i32| format!("socket,id={id},fd={fd},server=on,wait=off");
    add(&["-chardev", &socket("monitor", MONITOR_FD), "-mon", "chardev=monitor,mode=control"]);
    add(&["-chardev", &socket("agent", AGENT_FD)]);
    add(&["-device", "virtio-serial-device,id=serial", "-device"]);
    add(&["virtserialport,bus=serial.0,chardev=agent,name=hypernetes.agent"]);
    if let Some(nic) = &spec.nic {
        add(&["-netdev", &format!("tap,id=net,fd={TAP_FD}"), "-device"]);
        add(&[&format!("virtio-net-device,netdev=net,mac={}", nic.mac)]);
    }
    for slot in 0..spec.disk_slots {
        let read_only = if Slot::new(spec.disk_slots, slot).writable { "off" } else { "on" };
        let (empty, node) = (disks::empty_node(slot), disks::slot_node(slot));
        add(&["-blockdev", &format!("driver=null-co,node-name={empty},size={},read-zeroes=on", slots::DISK_BYTES)]);
        add(&["-blockdev", &format!("driver=raw,node-name={node},file={empty},read-only={read_only}")]);
        add(&["-device", &format!("virtio-blk-device,drive={node},serial=slot{slot}")]);
    }
    if !matches!(origin, Origin::Forkable(..)) {
        // What a copy may do is said by a filter of its own (see `filter`).
        add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    }
    line
}
