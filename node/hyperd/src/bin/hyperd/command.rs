//! hyperd's options, and what they make of it.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use hypernetes_daemon::{confine::mounts::Touched, notify};
use hypernetes_hyperd::{HyperdConfig, PoolLimits};
use hypernetes_hypervisor::{GuestFiles, Vmm};
use hypernetes_image::{ImageStore, Options};

use crate::driver;

/// Run the CRI runtime: each pod sandbox is a virtual machine
///
/// Serves CRI v1 at DIR/hyperd.sock for a kubelet, crictl or hyperctl. VMs run on when it ends; the next one takes them over.
#[derive(clap::Parser)]
#[command(name = "hyperd", version, max_term_width = 110)]
pub struct Hyperd {
    /// What to log: a level, or directives such as `info,hypernetes_hyperd=debug`.
    #[arg(long, default_value = "info", env = "HYPERNETES_LOG")]
    pub log: String,
    /// Directory of all its state.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The guest's kernel: a directory with `vmlinuz` and `modules/` (see scripts/guest-kernel.sh).
    #[arg(long, value_name = "DIR", default_value = ".tools/guest", env = "HYPERNETES_GUEST")]
    guest: PathBuf,
    /// What runs the VMs.
    #[arg(long, default_value_t, value_name = "qemu|firecracker", env = "HYPERNETES_VMM")]
    vmm: Vmm,
    /// The guest's agent [default: `hyperstart` beside this program].
    #[arg(long, value_name = "FILE", env = "HYPERNETES_HYPERSTART")]
    hyperstart: Option<PathBuf>,
    /// What locks VMMs in [default: `hypernetes-vmm` beside this program].
    #[arg(long, value_name = "FILE", env = "HYPERNETES_VMM_JAILER")]
    vmm_jailer: Option<PathBuf>,
    /// Most VMs that wait, started, for the next pods; 0: none do.
    #[arg(long, value_name = "COUNT", default_value_t = PoolLimits::default().count)]
    pool: usize,
    /// Memory that the VMs of all pods may have together; a pod beyond is refused [default: four times what the host has for
    /// them].
    #[arg(long, value_name = "MIB")]
    vm_memory: Option<u64>,
    /// What emulated VMs are forked with [default: `libhypernetes_fork_preload.so` beside this program].
    #[arg(long, env = "HYPERNETES_FORK_LIBRARY", value_name = "FILE")]
    fork_library: Option<PathBuf>,
    /// The kubelet's directory of pods: mounts of tenants' pods may name host paths below it only [default: DIR/pods].
    #[arg(long, value_name = "DIR")]
    pods_dir: Option<PathBuf>,
    /// A directory or file of this host that the operator's own pods may mount, with all below it; `:ro`: for reading only.
    ///
    /// May be given more than once. Pods of tenants get nothing of it. Who can write there is root there: see
    /// docs/decisions/0016.
    #[arg(long = "allow-host-path", value_name = "PATH[:ro]")]
    allow_host_paths: Vec<hypernetes_hyperd::AllowedHostPath>,
    /// Directory of volume files; may be given more than once. Volumes elsewhere are refused.
    #[arg(long, value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Directory of CNI configurations; the first by name is the pods' network [default: DIR/cni/net.d].
    #[arg(long, value_name = "DIR")]
    cni_config_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given more than once [default: DIR/cni/bin, /opt/cni/bin and /usr/lib/cni].
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Vec<PathBuf>,
    #[command(flatten)]
    images: Images,
}

/// Where images come from, and which ones stay.
#[derive(clap::Args)]
struct Images {
    /// Mirrors, certificates and addresses of registries, laid out as containerd's certs.d [default: DIR/certs.d].
    #[arg(long, value_name = "DIR")]
    registry_hosts: Option<PathBuf>,
    /// Ask registries at loopback, link-local and private addresses that --registry-hosts has no directory for, too.
    ///
    /// Else whoever names an image could have this host ask whatever it reaches in the operator's network.
    #[arg(long)]
    internal_registries: bool,
    /// Which images are accepted: a containers-policy.json(5) with sigstoreSigned and digestRequired [default: all].
    #[arg(long, value_name = "FILE")]
    image_policy: Option<PathBuf>,
    /// An image that is never removed to make room; may be given more than once.
    #[arg(long, value_name = "IMAGE")]
    pinned_image: Vec<String>,
    /// Above this use of the disk, images that no container has are removed; 100: never.
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(1..=100))]
    image_gc_high: u8,
    /// Until the disk's use is down to this.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low: u8,
}

/// Where programs that it executes write: CNI plugins their locks and what they remember, and a kubelet that is not ours has
/// it write logs.
const OF_PROGRAMS: [&str; 4] = ["/run", "/tmp", "/var/lib/cni", "/var/log"];

impl Hyperd {
    /// What it touches of the host's files.
    pub fn touched(&self) -> Touched {
        let pods = self.pods_dir.clone().unwrap_or_else(|| self.root.join("pods"));
        let host_paths = self.allow_host_paths.iter().map(|allowed| allowed.path.clone());
        let programs = [&self.hyperstart, &self.vmm_jailer, &self.fork_library].into_iter().flatten().cloned();
        let images = [&self.images.registry_hosts, &self.images.image_policy].into_iter().flatten().cloned();
        let plugins = self.cni_config_dir.iter().chain(&self.cni_bin_dir).cloned();
        Touched {
            shares: vec![self.root.clone(), pods],
            writes: self.volumes.iter().cloned().chain(host_paths).chain(OF_PROGRAMS.map(PathBuf::from)).collect(),
            reads: std::env::current_exe()
                .into_iter()
                .chain([self.guest.clone()])
                .chain(programs)
                .chain(images)
                .chain(plugins)
                .collect(),
        }
    }

    pub async fn run(self) -> Result<()> {
        // Files that pods have open on this host, and connections: the usual soft limit is for programs that use select(2).
        let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        files.current = files.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, files)
            .context("raising the limit of open files")?;
        std::fs::create_dir_all(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        let root = self.root.canonicalize()?;
        let hyperstart = match self.hyperstart {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("hyperstart"),
        };
        let jail = match self.vmm_jailer {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("hypernetes-vmm"),
        };
        let fork = match self.fork_library {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("libhypernetes_fork_preload.so"),
        };
        notify::status("preparing the guest's kernel, and finding out what can run it");
        let guest = GuestFiles { vmlinuz: self.guest.join("vmlinuz"), modules: self.guest.join("modules"), hyperstart };
        let hypervisor = driver::new(self.vmm, &root, guest, jail, fork).await?;
        let info = hypervisor.describe();
        notify::status(&format!("{} on {:?} ({})", info.vmm, info.accelerator, info.accelerator_reason));
        let options = Options {
            hosts: Some(self.images.registry_hosts.unwrap_or_else(|| root.join("certs.d"))),
            policy: self.images.image_policy,
            pinned: self.images.pinned_image,
            internal_registries: self.images.internal_registries,
            ..Options::default()
        };
        let images = ImageStore::open_with(root.join("images"), options)?;
        let mut config = HyperdConfig::new(&root, hypervisor, Arc::new(images));
        config.pods_dir = self.pods_dir.unwrap_or_else(|| root.join("pods"));
        config.allowed_host_paths = self.allow_host_paths;
        config.pool.count = self.pool;
        config.vm_memory_mib = self.vm_memory.unwrap_or(config.vm_memory_mib);
        config.volume_dirs = self.volumes;
        // A kernel with everything built in has none.
        config.modules_dir = Some(self.guest.join("modules")).filter(|directory| directory.is_dir());
        if let Some(directory) = self.cni_config_dir {
            config.cni_config_dir = directory;
        }
        if !self.cni_bin_dir.is_empty() {
            config.cni_bin_dirs = self.cni_bin_dir;
        }
        config.image_collection.high_percent = self.images.image_gc_high;
        config.image_collection.low_percent = self.images.image_gc_low;
        let socket = config.socket.clone();
        let mut stop = hypernetes_daemon::stop_signal();
        let serve = hypernetes_hyperd::run(config, async move {
            let _ = stop.wait_for(|stopped| *stopped).await;
        });
        tokio::pin!(serve);
        // It is ready when its socket answers; what an earlier one left has been taken over by then.
        let answering = async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = &mut serve => return Ok(ended?),
            () = answering => notify::ready(),
        }
        Ok(serve.await?)
    }
}
