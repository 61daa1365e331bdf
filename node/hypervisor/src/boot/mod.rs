//! Boot files made from the guest's parts, once for each content of these: the same for every VMM.

mod initrd;
mod kernel;

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::HypervisorError;

/// What goes into a VM.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    /// The kernel as Debian packages it (bzImage), or an ELF `vmlinux` with a PVH entry.
    pub vmlinuz: PathBuf,
    /// Directory of its modules; searched by file name. Need not exist for a kernel that has everything built in.
    pub modules: PathBuf,
    /// The static agent.
    pub hyperstart: PathBuf,
}

impl GuestFiles {
    /// For tests: what `make kernel` and `make build` have put into a checkout; the environment may name other places.
    ///
    /// # Panics
    /// When it is not there, with what to run.
    pub fn in_checkout(checkout: &Path) -> Self {
        let place = |variable: &str, usual: &str| {
            std::env::var_os(variable).map_or_else(|| checkout.join(usual), PathBuf::from)
        };
        let guest = place("HYPERNETES_GUEST", ".tools/guest");
        let files = Self {
            vmlinuz: guest.join("vmlinuz"),
            modules: guest.join("modules"),
            hyperstart: place("HYPERNETES_HYPERSTART", "target/release/hyperstart"),
        };
        assert!(files.vmlinuz.is_file(), "run scripts/guest-kernel.sh first");
        assert!(files.hyperstart.is_file(), "run scripts/build.sh first");
        files
    }
}

/// What every guest's kernel is told, in front of what its VMM needs it to be told. Entropy comes from the host before
/// anything of the pod runs; cryptomgr's self-tests cost a fifth of a boot. Starting a process waits for RCU: expedited, it
/// waits for microseconds instead of ticks. A disk's queue would else be as long as the transport allows, 1024, and memory is
/// set aside for each request in it: 0.7 MiB a disk. A kernel with dummy interfaces built in would make one.
pub const ARGUMENTS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on cryptomgr.notests \
     systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all rcupdate.rcu_expedited=1 virtio_blk.queue_depth=64 \
     dummy.numdummies=0";

#[derive(Debug, Clone)]
pub struct BootFiles {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Of everything that went in.
    pub key: String,
}

/// `channel` is the kernel module of the device that the VMM has the agent reached by.
pub async fn prepare(
    directory: &Path,
    guest: &GuestFiles,
    channel: &'static str,
) -> Result<BootFiles, HypervisorError> {
    for (path, what) in [
        (&guest.vmlinuz, "the guest's kernel is missing; make kernel fetches one"),
        (&guest.hyperstart, "the guest's agent is missing; make build makes it"),
    ] {
        if !path.is_file() {
            return Err(HypervisorError::Host(format!("{}: {what}", path.display())));
        }
    }
    let (directory, guest) = (directory.to_owned(), guest.clone());
    let made = tokio::task::spawn_blocking(move || make(&directory, &guest, channel)).await;
    made.map_err(io::Error::other)
        .and_then(|result| result)
        .map_err(|error| HypervisorError::Host(format!("preparing the guest's kernel and agent: {error}")))
}

const PIECE: usize = 64 << 10;

fn make(directory: &Path, guest: &GuestFiles, channel: &str) -> io::Result<BootFiles> {
    let mut hasher = Sha256::new();
    // Piece by piece: memory that is taken once at the start stays with this process.
    let mut piece = vec![0; PIECE];
    for path in [&guest.vmlinuz, &guest.hyperstart] {
        let mut file = fs::File::open(path)?;
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => hasher.update(&piece[..read]),
            }
        }
    }
    // A kernel's modules come from its own package: the kernel stands for them.
    hasher.update(guest.modules.as_os_str().as_encoded_bytes());
    let key = hex::encode(&hasher.finalize()[..8]);
    let files = BootFiles {
        kernel: directory.join(format!("{key}.vmlinux")),
        initrd: directory.join(format!("{key}.cpio")),
        key,
    };
    if files.kernel.is_file() && files.initrd.is_file() {
        return Ok(files);
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    // VMs run as users of their own and have to read these; nothing in them is secret.
    let put = |path: &Path, write: &dyn Fn(&Path) -> io::Result<()>| -> io::Result<()> {
        let temporary = path.with_extension("new");
        write(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
        fs::rename(&temporary, path)
    };
    put(&files.kernel, &|path| kernel::place(&guest.vmlinuz, path))?;
    put(&files.initrd, &|path| fs::write(path, initrd::build(&guest.hyperstart, &guest.modules, channel)?))?;
    Ok(files)
}
