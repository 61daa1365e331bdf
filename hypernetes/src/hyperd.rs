//! `hypernetes hyperd`: the CRI runtime, alone or as one of `up`'s roles.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use hypernetes_hyperd::HyperdConfig;
use hypernetes_hypervisor::{
    Hypervisor,
    qemu::{GuestFiles, Qemu, QemuConfig, TemplateLimits},
};
use hypernetes_image::{ImageStore, Limits};

use crate::notify;

/// Run the CRI runtime: each pod sandbox is a virtual machine
///
/// Serves CRI v1 at DIR/hyperd.sock for a kubelet, crictl or `hypernetes image`. VMs run on when it ends; the next one
/// takes them over.
#[derive(clap::Args)]
pub struct Hyperd {
    /// Directory of all its state.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The guest's kernel: a directory with `vmlinuz` and `modules/` (see scripts/guest-kernel.sh).
    #[arg(long, value_name = "DIR", default_value = ".tools/guest", env = "HYPERNETES_GUEST")]
    guest: PathBuf,
    /// The guest's agent [default: `hyperstart` beside this program].
    #[arg(long, value_name = "FILE", env = "HYPERNETES_HYPERSTART")]
    hyperstart: Option<PathBuf>,
    /// What locks VMMs in [default: `hypernetes-vmm` beside this program].
    #[arg(long, value_name = "FILE", env = "HYPERNETES_VMM_JAILER")]
    vmm_jailer: Option<PathBuf>,
    /// The kubelet's directory of pods: mounts may name host paths below it only [default: DIR/pods].
    #[arg(long, value_name = "DIR")]
    pods_dir: Option<PathBuf>,
    /// Directory of volume files; may be given more than once. Volumes elsewhere are refused.
    #[arg(long, value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Directory of CNI configurations; the first by name is the pods' network [default: DIR/cni/net.d].
    #[arg(long, value_name = "DIR")]
    cni_config_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given more than once [default: DIR/cni/bin, /opt/cni/bin and /usr/lib/cni].
    #[arg(long, value_name = "DIR")]
    cni_bin_dir: Vec<PathBuf>,
}

impl Hyperd {
    pub async fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.root).with_context(|| format!("making {}", self.root.display()))?;
        let root = self.root.canonicalize()?;
        let hyperstart = match self.hyperstart {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("hyperstart"),
        };
        let jail = Some(match self.vmm_jailer {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("hypernetes-vmm"),
        });
        notify::status("preparing the guest's kernel, and finding out what can run it");
        let guest = GuestFiles { vmlinuz: self.guest.join("vmlinuz"), modules: self.guest.join("modules"), hyperstart };
        let templates = TemplateLimits::default();
        let qemu =
            Qemu::new(QemuConfig { directory: root.join("vmm"), guest, jail, accelerator: None, templates }).await?;
        let info = qemu.describe();
        notify::status(&format!("{} on {:?} ({})", info.vmm, info.accelerator, info.accelerator_reason));
        let images = ImageStore::open(root.join("images"), Limits::default())?;
        let mut config = HyperdConfig::new(&root, Arc::new(qemu), Arc::new(images));
        config.pods_dir = self.pods_dir.unwrap_or_else(|| root.join("pods"));
        config.volume_dirs = self.volumes;
        if let Some(directory) = self.cni_config_dir {
            config.cni_config_dir = directory;
        }
        if !self.cni_bin_dir.is_empty() {
            config.cni_bin_dirs = self.cni_bin_dir;
        }
        let socket = config.socket.clone();
        let mut stop = crate::stop_signal();
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
