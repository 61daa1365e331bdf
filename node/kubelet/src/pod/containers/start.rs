//! Making one container: image, mounts, environment, security, resources.

use std::io;

use hypernetes_api::{DnsLabel, PathComponent};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodSpec};

use super::{
    environment,
    image::{self, ImageError},
    security,
};
use crate::{
    identity::PodId,
    node::{
        Shared,
        cri::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, SANDBOX},
    },
    pod::{
        events::tell,
        spec::{
            expansion::{MAX_BYTES, expand},
            qos, resources,
        },
        volumes,
    },
    pod_dir::{Place, PodDir},
};

/// Tells hyperd the size of a container's writable layer, for which CRI has no field; other runtimes ignore it.
const EPHEMERAL_STORAGE: &str = "hypernetes.io/ephemeral-storage-bytes";

/// An attempt to run a container: which one it is, and where.
pub struct Attempt<'a> {
    pub number: u32,
    pub sandbox: &'a str,
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
}

/// Why a container did not start, in the words that kubelet users know.
pub struct StartError {
    pub reason: &'static str,
    pub message: String,
    /// The image is what fails.
    pub image: bool,
    /// The runtime has the container, and has it as ended.
    pub ended: bool,
}

impl StartError {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), image: false, ended: false }
    }
}

fn config_error(message: String) -> StartError {
    StartError::new("CreateContainerConfigError", message)
}

impl From<ImageError> for StartError {
    fn from(ImageError { reason, message }: ImageError) -> Self {
        Self { image: true, ..Self::new(reason, message) }
    }
}

/// Makes the container and has it run.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    shared: &Shared,
    id: &PodId,
    attempt: &Attempt<'_>,
    wanted: &ContainerSpec,
) -> Result<(), StartError> {
    let failed = |error: io::Error| config_error(error.to_string());
    let own_name = DnsLabel::new(&wanted.name).map_err(|error| config_error(error.to_string()))?;
    let image = image::ensure(shared, id, attempt.spec, wanted, attempt.number).await?;
    let env = environment::of(shared, id, attempt.pod, wanted).await.map_err(config_error)?;
    let dir = shared.pods.make(id.uid.clone()).map_err(failed)?;
    let mut mounts = volumes::mounts(&dir, attempt.spec, wanted, &env).map_err(config_error)?;
    mounts.push(termination_log(&dir, &own_name, attempt.number, wanted)?);
    let security = security_context(shared, id, attempt.spec, wanted, &own_name, &image).await?;
    let logs = shared.logs.make(id).map_err(failed)?;
    logs.make_dir(&Place::of(own_name.clone())).map_err(failed)?;
    let log_directory = logs.root().display().to_string();
    let (name, namespace) = (id.name.to_string(), id.namespace.to_string());
    let labels = [
        (POD_NAME, name.as_str()),
        (POD_NAMESPACE, &namespace),
        (POD_UID, &id.uid),
        (CONTAINER_NAME, &wanted.name),
        (SANDBOX, attempt.sandbox),
    ];
    let expanded = |words: Option<&Vec<String>>| -> Vec<String> {
        words.into_iter().flatten().map(|word| expand(word, &env)).collect()
    };
    let (command, args) = (expanded(wanted.command.as_ref()), expanded(wanted.args.as_ref()));
    if command.iter().chain(&args).map(|word| word.len() + 1).sum::<usize>() > MAX_BYTES {
        return Err(config_error("the command is larger than 2 MiB".into()));
    }
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: wanted.name.clone(), attempt: attempt.number }),
        image: Some(cri::ImageSpec { image, ..Default::default() }),
        command,
        args,
        working_dir: wanted.working_dir.clone().unwrap_or_default(),
        envs: env
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts,
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        annotations: resources::storage_limit(wanted)
            .map(|bytes| (EPHEMERAL_STORAGE.to_owned(), bytes.to_string()))
            .into_iter()
            .collect(),
        log_path: format!("{own_name}/{}.log", attempt.number),
        stdin: wanted.stdin.unwrap_or(false),
        stdin_once: wanted.stdin_once.unwrap_or(false),
        tty: wanted.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: qos::oom_score_adj(attempt.spec, wanted, shared.allocatable.memory),
                ..resources::of_container(wanted)
            }),
            security_context: Some(security),
        }),
        ..Default::default()
    };
    let sandbox_config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata { name, uid: id.uid.to_string(), namespace, attempt: 0 }),
        log_directory,
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: attempt.sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let created = shared.runtime.create_container(request).await;
    let created = created.map_err(|s| StartError::new("CreateContainerError", s.message()))?;
    tell(shared, id, false, "Created", &format!("Created container: {}", wanted.name)).await;
    match shared.runtime.start_container(created).await {
        Ok(()) => {
            tell(shared, id, false, "Started", &format!("Started container {}", wanted.name)).await;
            Ok(())
        }
        Err(status) => Err(StartError { ended: true, ..StartError::new("RunContainerError", status.message()) }),
    }
}

/// The file in which the container says why it ends.
fn termination_log(
    dir: &PodDir,
    own_name: &DnsLabel,
    attempt: u32,
    wanted: &ContainerSpec,
) -> Result<cri::Mount, StartError> {
    let failed = |error: io::Error| config_error(error.to_string());
    let attempt = PathComponent::new(&attempt.to_string()).map_err(|error| config_error(error.to_string()))?;
    let own = Place::of("containers").then(own_name.clone());
    let file = own.then(attempt);
    dir.make_dir(&own).and_then(|()| dir.write(&file, b"", 0o644, None)).map_err(failed)?;
    Ok(cri::Mount {
        container_path: wanted.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
        host_path: dir.path(&file).display().to_string(),
        ..Default::default()
    })
}

/// Who the container's processes are and what they may, for which the image is asked where the pod does not say it all.
async fn security_context(
    shared: &Shared,
    id: &PodId,
    spec: &PodSpec,
    wanted: &ContainerSpec,
    own_name: &DnsLabel,
    image: &str,
) -> Result<cri::LinuxContainerSecurityContext, StartError> {
    let mut context = security::of(spec, wanted, &id.uid, &shared.config.root.join("seccomp"));
    let must_not_be_root = security::must_not_be_root(spec, wanted);
    if must_not_be_root || (context.run_as_group.is_some() && context.run_as_user.is_none()) {
        let found = shared.runtime.image(image.to_owned(), &id.tenant).await;
        let found = found.map_err(|s| StartError::new("ImageInspectError", s.message()))?;
        if must_not_be_root {
            security::check_not_root(&context, found.as_ref(), id, own_name).map_err(config_error)?;
        }
        security::complete_user(&mut context, found.as_ref());
    }
    Ok(context)
}
