//! What a container needs in its VM before it can be made there: disks, files, mounts.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use hypernetes_guest_protocol::v1::{self, mount::Source as GuestSource};
use hypernetes_hypervisor::{DiskSlot, DiskSource};
use hypernetes_image::Image;
use k8s_cri::v1 as cri;

use crate::{
    agent::CALL_TIMEOUT,
    container::Container,
    error::{Error, Result},
    files::{FileSetSource, SINGLE, put_and_follow},
    host_paths::HostPathReadOnly,
    identity::ETC_SET,
    mounts::{self, Policy, Source},
    pod_dir::PodDir,
    records::{ContainerState, ProcessUser, TerminationLog},
    resources,
    runtime::Runtime,
    sandbox::{Live, Sandbox, check_namespaces, tenant_of},
    volumes::{self, Descriptor, Mode},
};

/// Supplementary groups of one process (the kernel has 65536): more are not believed.
const MAX_GROUPS: usize = 4096;
/// The tenant whose pods are the operator's own.
const OPERATOR: &str = "system";

/// Whether what is a tenant's, or nobody's, is the operator's own.
pub(crate) fn is_operators(tenant: &str) -> bool {
    matches!(tenant, "" | OPERATOR)
}

/// What is to be done for one container; everything that can be refused has been.
pub(crate) struct Prepared {
    root: DiskSource,
    mounts: Vec<(cri::Mount, Source)>,
    readonly_root: bool,
    share_pid_namespace: bool,
    pid_target: String,
    user_namespace: Option<v1::UserNamespace>,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    resources: v1::Resources,
    writable_bytes: u64,
}

impl Prepared {
    pub(crate) fn plan(runtime: &Runtime, sandbox: &Sandbox, container: &Container, image: &Image) -> Result<Self> {
        let policy = runtime.policy(&sandbox.record().config);
        let config = container.record().config;
        let mut mounts = Vec::new();
        let mut destinations = HashSet::new();
        for mount in config.mounts {
            if !destinations.insert(mount.container_path.clone()) {
                return Err(Error::InvalidArgument(format!("two mounts at {}", mount.container_path)));
            }
            let source = match mounts::image_reference(&mount) {
                Some(reference) => mounts::image(&mount, &runtime.image(sandbox, reference)?)?,
                None => policy.classify(&mount)?,
            };
            mounts.push((mount, source));
        }
        // Outer mounts first.
        mounts.sort_by_key(|(mount, _)| Path::new(&mount.container_path).components().count());
        let linux = config.linux.unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        // As CRI's enumeration has it: the pod's is what is asked for when nothing is.
        let options = context.namespace_options.unwrap_or_default();
        let pid_target = match options.pid() {
            cri::NamespaceMode::Target => target(runtime, sandbox, &options.target_id)?,
            _ => String::new(),
        };
        let user_namespace = check_namespaces(Some(&options))?;
        if user_namespace != sandbox.user_namespace()? {
            return Err(Error::InvalidArgument("the container's user namespace is not that of its pod".into()));
        }
        for (_, source) in &mut mounts {
            if let Source::Files { source, .. } = source {
                source.owner = user_namespace.map_or(0, |mapping| mapping.host_id);
            }
        }
        let prepared = Self {
            root: DiskSource { path: image.rootfs.clone(), read_only: true },
            mounts,
            readonly_root: context.readonly_rootfs,
            // The "node's" processes are the guest's, which are the pod's.
            share_pid_namespace: matches!(options.pid(), cri::NamespaceMode::Pod | cri::NamespaceMode::Node),
            pid_target,
            user_namespace,
            masked_paths: context.masked_paths,
            readonly_paths: context.readonly_paths,
            resources: resources::guest(&linux.resources.unwrap_or_default())?,
            writable_bytes: writable_bytes(&config.annotations)?,
        };
        prepared.check_agent(sandbox, &container.record().process)?;
        Ok(prepared)
    }

    /// Refuses what an older agent would ignore.
    fn check_agent(&self, sandbox: &Sandbox, process: &v1::Process) -> Result<()> {
        let user = process.user.as_ref();
        let needs = [
            (!process.seccomp.is_empty(), "a seccomp profile"),
            (!process.raw_env.is_empty(), "an environment that is not UTF-8"),
            (process.oom_score_adj.is_some_and(|adjustment| adjustment != 0), "oom_score_adj"),
            (user.is_some_and(|user| user.strict_groups), "the Strict policy of supplemental groups"),
            (!self.pid_target.is_empty(), "sharing one container's processes"),
            (self.user_namespace.is_some(), "a user namespace"),
            (!self.resources.unified.is_empty() || !self.resources.cpuset_cpus.is_empty(), "such a limit"),
            (self.mounts.iter().any(|(mount, _)| mount.recursive_read_only), "a recursively read-only mount"),
            (self.mounts.iter().any(|(mount, _)| mount.propagation != 0), "mount propagation"),
        ];
        needs.into_iter().filter(|(needed, _)| *needed).try_for_each(|(_, what)| sandbox.requires(3, what))
    }
}

/// The full id of a container of the same pod whose processes are to be shared.
fn target(runtime: &Runtime, sandbox: &Sandbox, id: &str) -> Result<String> {
    let container = runtime.container(id)?;
    if container.sandbox_id != sandbox.id {
        return Err(Error::InvalidArgument(format!("the container {} is not of this pod", container.id)));
    }
    Ok(container.id.clone())
}

/// 0: half of the VM's memory, in which the layer lies.
fn writable_bytes(annotations: &HashMap<String, String>) -> Result<u64> {
    let Some(text) = annotations.get(crate::EPHEMERAL_STORAGE_ANNOTATION) else { return Ok(0) };
    let bytes = text.parse().ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| {
        Error::InvalidArgument(format!("the annotation {} is not a number", crate::EPHEMERAL_STORAGE_ANNOTATION))
    })
}

impl Runtime {
    pub(crate) fn policy(&self, sandbox: &cri::PodSandboxConfig) -> Policy<'_> {
        let tenant = sandbox.annotations.get(crate::TENANT_ANNOTATION).map(String::as_str).unwrap_or_default();
        Policy {
            pod: self.pod_dir(sandbox).ok(),
            // Tenants do not get what the operator allows to pods of their own.
            allowed: if is_operators(tenant) { &self.config.allowed_host_paths } else { &[] },
        }
    }

    /// The pod's own directory at the kubelet.
    pub(crate) fn pod_dir(&self, sandbox: &cri::PodSandboxConfig) -> Result<PodDir> {
        let uid = sandbox.metadata.as_ref().map(|metadata| metadata.uid.as_str()).unwrap_or_default();
        let uid = uid.parse().map_err(|error| Error::InvalidArgument(format!("the sandbox's uid: {error}")))?;
        Ok(PodDir::new(&self.config.pods_dir, uid))
    }

    pub(crate) async fn prepare_container(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        live: &Arc<Live>,
        container: &Arc<Container>,
        prepared: Prepared,
    ) -> Result<()> {
        // The record comes first: what follows is found and given back by it.
        container.update(&self.records, |_| {}).await?;
        let root = self.attach(sandbox, live, container, prepared.root).await?;
        let mut mounts = default_mounts(&prepared.mounts);
        for (mount, source) in prepared.mounts {
            mounts.push(self.prepare_mount(sandbox, live, container, &mount, source).await?);
        }
        let record = container.record();
        self.offer_modules(sandbox, live, &record.process).await?;
        let request = v1::CreateContainerRequest {
            container_id: container.id.clone(),
            root: Some(v1::Disk { slot: root.0, fs_type: "erofs".into(), read_only: true }),
            writable_bytes: prepared.writable_bytes,
            readonly_root: prepared.readonly_root,
            mounts,
            resources: Some(prepared.resources),
            process: Some(record.process),
            share_pid_namespace: prepared.share_pid_namespace,
            masked_paths: prepared.masked_paths,
            readonly_paths: prepared.readonly_paths,
            pid_target: prepared.pid_target,
            user_namespace: prepared.user_namespace,
        };
        let created = live
            .agent
            .call("CreateContainer", CALL_TIMEOUT, |mut c| async move { c.create_container(request).await })
            .await?;
        let user = sandbox.requires(3, "").is_ok().then(|| {
            let mut groups = created.groups;
            groups.truncate(MAX_GROUPS);
            ProcessUser { uid: created.uid, gid: created.gid, groups }
        });
        container
            .update(&self.records, |r| {
                r.user = user;
                r.state = ContainerState::Created;
            })
            .await
    }

    /// An image by reference or id, for a pod. One that the pod's tenant has not shown they may have is not there.
    pub(crate) fn image(&self, sandbox: &Sandbox, reference: &str) -> Result<Image> {
        let tenant = tenant_of(&sandbox.record().config)?;
        let tenant = tenant.as_deref().unwrap_or_default();
        let found = self.config.images.get(reference).filter(|image| self.config.images.may_use(&image.id, tenant));
        found.ok_or_else(|| Error::NotFound { kind: "image", id: reference.chars().take(300).collect() })
    }

    async fn prepare_mount(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        live: &Arc<Live>,
        container: &Arc<Container>,
        mount: &cri::Mount,
        source: Source,
    ) -> Result<v1::Mount> {
        use cri::MountPropagation as Propagation;
        let propagation = match mount.propagation() {
            // The host's mounts are followed by the host.
            _ if matches!(source, Source::HostPath(_)) => v1::mount::Propagation::Private,
            Propagation::PropagationPrivate => v1::mount::Propagation::Private,
            Propagation::PropagationHostToContainer => v1::mount::Propagation::Slave,
            Propagation::PropagationBidirectional => v1::mount::Propagation::Shared,
        };
        let mut guest = v1::Mount {
            destination: mount.container_path.clone(),
            read_only: mount.readonly,
            recursive_read_only: mount.recursive_read_only,
            propagation: propagation as i32,
            ..Default::default()
        };
        match source {
            Source::Image { rootfs, sub_path } => {
                guest.sub_path = sub_path;
                let disk = DiskSource { path: rootfs, read_only: true };
                let slot = self.attach(sandbox, live, container, disk).await?;
                let disk = v1::Disk { slot: slot.0, fs_type: "erofs".into(), read_only: true };
                guest.source = Some(GuestSource::Disk(disk));
            }
            Source::Volume { descriptor: volume, sub_path, fs_group } => {
                (guest.sub_path, guest.fs_group) = (sub_path, fs_group);
                let disk = self.volume_disk(sandbox, &volume).await?;
                let read_only = disk.read_only;
                guest.read_only |= read_only;
                guest.block_device = volume.mode == Mode::Block;
                let slot = self.attach(sandbox, live, container, disk).await?;
                guest.source =
                    Some(GuestSource::Disk(v1::Disk { slot: slot.0, fs_type: volumes::FILE_SYSTEM.into(), read_only }));
            }
            Source::Files { source, single } => {
                if single {
                    guest.sub_path = SINGLE.into();
                }
                guest.source = Some(GuestSource::FileSet(source.set.clone()));
                container.update(&self.records, |r| r.file_sets.push(source.clone())).await?;
                self.follow(sandbox, live, source).await?;
            }
            Source::Scratch { name, sub_path, like } => {
                guest.source = Some(GuestSource::Scratch(name));
                guest.sub_path = sub_path;
                if let Some(bytes) = mounts::memory_bytes(&like) {
                    (guest.memory, guest.size_bytes) = (true, bytes);
                }
                let root = sandbox.user_namespace()?.map_or(0, |mapping| mapping.host_id);
                guest.owner = like.metadata().ok().map(|like| v1::Owner {
                    mode: like.mode() & 0o7777,
                    uid: like.uid().saturating_add(root),
                    gid: like.gid().saturating_add(root),
                });
            }
            Source::HostPath(host_path) => {
                guest.source = Some(GuestSource::HostPath(host_path.name()));
                // The host refuses writes; where it is not all read-only the guest must let them through to it.
                guest.read_only = host_path.read_only == HostPathReadOnly::Recursive;
                container.update(&self.records, |r| r.host_paths.push(host_path.clone())).await?;
                live.serve_host_path(&host_path).await?;
            }
            Source::TerminationLog { host_path } => {
                let set = format!("termination-{}", container.id);
                let file = v1::File { path: SINGLE.into(), mode: 0o666, ..Default::default() };
                live.agent.put_files(&set, vec![file]).await?;
                guest.source = Some(GuestSource::FileSet(set));
                guest.sub_path = SINGLE.into();
                let log = TerminationLog { host_path, container_path: mount.container_path.clone() };
                container.update(&self.records, |r| r.termination_log = Some(log)).await?;
            }
        }
        Ok(guest)
    }

    async fn volume_disk(&self, sandbox: &Sandbox, volume: &Descriptor) -> Result<DiskSource> {
        let tenant = tenant_of(&sandbox.record().config)?;
        let path = volume.locate(tenant.as_ref(), &self.config.volume_dirs)?;
        // The attachment object is the cluster's lock; this one keeps two VMs of this host off one file.
        let elsewhere = self.containers().into_iter().find(|c| {
            c.sandbox_id != sandbox.id
                && c.record().disks.values().any(|d| d.path == path && !(d.read_only && volume.read_only))
                && self.sandbox(&c.sandbox_id).is_ok_and(|s| s.record().vm.is_some())
        });
        if let Some(other) = elsewhere {
            return Err(Error::FailedPrecondition(format!(
                "the volume {} is in use by the sandbox {}",
                volume.id(),
                other.sandbox_id
            )));
        }
        if volume.mode == Mode::Filesystem && !volume.read_only {
            volumes::format_if_blank(&path, &self.config.root.join("formatting")).await?;
        }
        Ok(DiskSource { path, read_only: volume.read_only })
    }

    /// Puts a disk into a slot, or finds the slot that already holds it for another container of the pod.
    async fn attach(
        &self,
        sandbox: &Arc<Sandbox>,
        live: &Live,
        container: &Container,
        disk: DiskSource,
    ) -> Result<DiskSlot> {
        let _disks = live.disks.lock().await;
        let present = live.vm.record().disks.into_iter().zip(0u32..).find_map(|(held, slot)| {
            let held = held.filter(|d| d.path == disk.path)?;
            Some((DiskSlot(slot), held))
        });
        let slot = match present {
            Some((slot, held)) if held.read_only == disk.read_only => slot,
            Some(_) => {
                return Err(Error::FailedPrecondition(format!(
                    "{} cannot be attached to one pod both read-only and writable",
                    disk.path.file_name().unwrap_or_default().display()
                )));
            }
            None => live.vm.attach_disk(disk.clone()).await?,
        };
        sandbox.update(&self.records, |r| r.vm = Some(live.vm.record())).await?;
        container.update(&self.records, |r| drop(r.disks.insert(slot, disk))).await?;
        Ok(slot)
    }

    /// Frees what only this container used: its slots and file sets.
    pub(crate) async fn detach_unused(&self, sandbox: &Arc<Sandbox>, live: &Live, container: &Container) -> Result<()> {
        let _disks = live.disks.lock().await;
        let record = container.record();
        let others: Vec<_> = self.containers_of(&sandbox.id).into_iter().filter(|c| c.id != container.id).collect();
        for source in record.file_sets {
            if !others.iter().any(|o| o.record().file_sets.contains(&source))
                && let Some(cancel) = live.followed.lock().remove(&source.set)
            {
                cancel.cancel();
            }
        }
        for host_path in record.host_paths {
            if !others.iter().any(|o| o.record().host_paths.contains(&host_path)) {
                live.release_host_path(&host_path).await;
            }
        }
        for slot in record.disks.into_keys() {
            if !others.iter().any(|o| o.record().disks.contains_key(&slot)) {
                live.vm.detach_disk(slot).await?;
            }
            container.update(&self.records, |r| drop(r.disks.remove(&slot))).await?;
        }
        sandbox.update(&self.records, |r| r.vm = Some(live.vm.record())).await
    }

    /// Copies a file set into the VM and keeps it as the host's is, once per VM.
    pub(crate) async fn follow(&self, sandbox: &Sandbox, live: &Arc<Live>, source: FileSetSource) -> Result<()> {
        let cancel = live.cancel.child_token();
        if live.followed.lock().contains_key(&source.set) {
            return Ok(());
        }
        let pod = self.pod_dir(&sandbox.record().config)?;
        put_and_follow(&self.watcher, source.clone(), pod, live.agent.clone(), cancel.clone()).await?;
        if let Some(earlier) = live.followed.lock().insert(source.set, cancel) {
            earlier.cancel();
        }
        Ok(())
    }
}

/// Names of the sandbox's own files below /etc, unless the container brings them itself.
fn default_mounts(own: &[(cri::Mount, Source)]) -> Vec<v1::Mount> {
    ["hostname", "hosts", "resolv.conf"]
        .into_iter()
        .map(|name| (name, format!("/etc/{name}")))
        .filter(|(_, path)| !own.iter().any(|(m, _)| m.container_path == *path || m.container_path == "/etc"))
        .map(|(name, destination)| v1::Mount {
            destination,
            source: Some(GuestSource::FileSet(ETC_SET.into())),
            sub_path: name.into(),
            ..Default::default()
        })
        .collect()
}
