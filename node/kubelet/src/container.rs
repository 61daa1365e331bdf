//! Making one container: image, mounts, environment, security, resources.

use std::collections::BTreeMap;

use hypernetes_api::{DnsLabel, PathComponent};
use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Container as ContainerSpec, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::Value;

use crate::{
    environment,
    events::tell,
    node::{
        cri::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, SANDBOX},
        tenant_limits,
    },
    objects::Objects,
    pod_dir::Place as File,
    qos,
    quantity::Amount,
    security, users, volumes,
    worker::Worker,
};

/// Tells hyperd the size of a container's writable layer, for which CRI has no field; other runtimes ignore it.
const EPHEMERAL_STORAGE: &str = "hypernetes.io/ephemeral-storage-bytes";

/// Where a container goes.
pub struct Place<'a> {
    pub sandbox: &'a str,
    pub attempt: u32,
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

pub async fn start(worker: &Worker, place: &Place<'_>, wanted: &ContainerSpec) -> Result<(), StartError> {
    let (shared, id) = (&worker.shared, &worker.id);
    let config_error = |message: String| StartError::new("CreateContainerConfigError", message);
    let failed = |error: std::io::Error| config_error(error.to_string());
    let own_name = DnsLabel::new(&wanted.name).map_err(|error| config_error(error.to_string()))?;
    let image = ensure_image(worker, place, wanted).await?;
    let env = environment::of(shared, id, place.pod, wanted).await.map_err(config_error)?;
    let dir = shared.pods.make(id.uid.clone()).map_err(failed)?;
    let mut mounts = volumes::mounts(&dir, place.spec, wanted, &env).map_err(config_error)?;
    let attempt = PathComponent::new(&place.attempt.to_string()).map_err(|error| config_error(error.to_string()))?;
    let own = File::of("containers").then(own_name.clone());
    let termination = own.then(attempt);
    dir.make_dir(&own).and_then(|()| dir.write(&termination, b"", 0o644, None)).map_err(failed)?;
    mounts.push(cri::Mount {
        container_path: wanted.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
        host_path: dir.path(&termination).display().to_string(),
        ..Default::default()
    });
    let mut security = security::of(place.spec, wanted, &id.uid, &shared.config.root.join("seccomp"));
    let must_not_be_root = security::must_not_be_root(place.spec, wanted);
    if must_not_be_root || (security.run_as_group.is_some() && security.run_as_user.is_none()) {
        let found = shared.runtime.image(image.clone(), &id.tenant).await;
        let found = found.map_err(|s| StartError::new("ImageInspectError", s.message()))?;
        if must_not_be_root {
            security::check_not_root(&security, found.as_ref(), id, &own_name).map_err(config_error)?;
        }
        users::complete(&mut security, found.as_ref());
    }
    let logs = shared.logs.make(id).map_err(failed)?;
    logs.make_dir(&File::of(own_name.clone())).map_err(failed)?;
    let log_directory = logs.root().display().to_string();
    let (name, namespace) = (id.name.to_string(), id.namespace.to_string());
    let labels = [
        (POD_NAME, name.as_str()),
        (POD_NAMESPACE, &namespace),
        (POD_UID, &id.uid),
        (CONTAINER_NAME, &wanted.name),
        (SANDBOX, place.sandbox),
    ];
    let expand = |words: Option<&Vec<String>>| -> Vec<String> {
        words.into_iter().flatten().map(|word| environment::expand(word, &env)).collect()
    };
    let (command, args) = (expand(wanted.command.as_ref()), expand(wanted.args.as_ref()));
    if command.iter().chain(&args).map(|word| word.len() + 1).sum::<usize>() > environment::MAX_BYTES {
        return Err(config_error("the command is larger than 2 MiB".into()));
    }
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: wanted.name.clone(), attempt: place.attempt }),
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
        annotations: storage_limit(wanted)
            .map(|bytes| (EPHEMERAL_STORAGE.to_owned(), bytes.to_string()))
            .into_iter()
            .collect(),
        log_path: format!("{own_name}/{}.log", place.attempt),
        stdin: wanted.stdin.unwrap_or(false),
        stdin_once: wanted.stdin_once.unwrap_or(false),
        tty: wanted.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: qos::oom_score_adj(place.spec, wanted, shared.allocatable.memory),
                ..resources(wanted)
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
        pod_sandbox_id: place.sandbox.to_owned(),
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

/// Pulls the image where the policy says so; its reference in the runtime.
async fn ensure_image(worker: &Worker, place: &Place<'_>, wanted: &ContainerSpec) -> Result<String, StartError> {
    let name = wanted.image.clone().unwrap_or_default();
    let (shared, id) = (&worker.shared, &worker.id);
    let failed = |reason: &'static str, message: String| StartError { image: true, ..StartError::new(reason, message) };
    let present = shared.runtime.image(name.clone(), &id.tenant).await.map_err(|s| match s.code() {
        tonic::Code::InvalidArgument => {
            failed("InvalidImageName", format!("Failed to apply default image tag {name:?}: {}", s.message()))
        }
        _ => failed("ImageInspectError", s.message().to_owned()),
    })?;
    let policy = wanted.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (present, policy) {
        (Some(present), "Never" | "IfNotPresent") => {
            if place.attempt == 0 {
                let text = format!("Container image {name:?} already present on machine");
                tell(shared, id, false, "Pulled", &text).await;
            }
            return Ok(present.id);
        }
        (None, "Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            return Err(failed("ErrImageNeverPull", message));
        }
        _ => {}
    }
    tell(shared, id, false, "Pulling", &format!("Pulling image {name:?}")).await;
    let auth = pull_secret(worker, place, &name).await;
    let max_bytes = tenant_limits::limits(shared, &id.tenant).await.image_bytes;
    match shared.runtime.pull(name.clone(), &id.tenant, max_bytes, auth).await {
        Ok(reference) => {
            tell(shared, id, false, "Pulled", &format!("Successfully pulled image {name:?}")).await;
            Ok(reference)
        }
        Err(status) => Err(failed("ErrImagePull", status.message().to_owned())),
    }
}

/// Credentials for an image's registry from the pod's `imagePullSecrets`.
async fn pull_secret(worker: &Worker, place: &Place<'_>, image: &str) -> Option<cri::AuthConfig> {
    let objects = Objects::of(&worker.shared, &worker.id);
    for reference in place.spec.image_pull_secrets.as_deref().unwrap_or_default() {
        // As upstream: one that is not there, or is no name, is passed over.
        let Ok(Some(secret)) = objects.secret(&reference.name).await else { continue };
        let data = secret.data.unwrap_or_default();
        let Some(config) = data.get(".dockerconfigjson") else { continue };
        let Ok(config) = serde_json::from_slice::<Value>(&config.0) else { continue };
        for (registry, entry) in config["auths"].as_object().into_iter().flatten() {
            let host = registry.trim_start_matches("https://").trim_start_matches("http://");
            let host = host.split('/').next().unwrap_or_default();
            if image.split('/').next() == Some(host) {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                return Some(cri::AuthConfig {
                    username: text("username"),
                    password: text("password"),
                    auth: text("auth"),
                    ..Default::default()
                });
            }
        }
    }
    None
}

fn quantity(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    Amount::of(list, name).ok().flatten()
}

/// What a container asks for: a limit alone is a request, too.
pub fn request(wanted: &ContainerSpec, name: &str) -> Option<Amount> {
    let resources = wanted.resources.as_ref()?;
    quantity(resources.requests.as_ref(), name).or_else(|| quantity(resources.limits.as_ref(), name))
}

/// Length of the kernel's period, in microseconds, and its least quota in one.
const CPU_PERIOD: i64 = 100_000;
const LEAST_QUOTA: i64 = 1000;
const LEAST_SHARES: i64 = 2;

fn resources(wanted: &ContainerSpec) -> cri::LinuxContainerResources {
    let limits = wanted.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    // As the kubelet converts: 1024 shares and a quota of 100 ms for each processor.
    let shares = request(wanted, "cpu").map_or(0, |cpu| cpu.millis().saturating_mul(1024) / 1000);
    let mut out = cri::LinuxContainerResources { cpu_shares: shares.max(LEAST_SHARES), ..Default::default() };
    if let Some(cpu) = quantity(limits, "cpu").map(Amount::millis).filter(|millis| *millis > 0) {
        out.cpu_period = CPU_PERIOD;
        out.cpu_quota = cpu.saturating_mul(CPU_PERIOD / 1000).max(LEAST_QUOTA);
    }
    if let Some(memory) = quantity(limits, "memory") {
        out.memory_limit_in_bytes = memory.units();
    }
    out
}

fn storage_limit(wanted: &ContainerSpec) -> Option<i64> {
    let limits = wanted.resources.as_ref()?.limits.as_ref();
    quantity(limits, "ephemeral-storage").map(Amount::units).filter(|bytes| *bytes > 0)
}

/// What the pod's VM needs: the sum of its containers' limits, where all have one.
pub fn sandbox_resources(spec: &PodSpec) -> cri::LinuxContainerResources {
    let all: Vec<_> = spec.containers.iter().map(resources).collect();
    let sum = |get: fn(&cri::LinuxContainerResources) -> i64| {
        let values: Vec<i64> = all.iter().map(get).collect();
        if values.iter().all(|v| *v > 0) { values.iter().fold(0, |sum: i64, v| sum.saturating_add(*v)) } else { 0 }
    };
    cri::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: sum(|r| r.cpu_quota),
        memory_limit_in_bytes: sum(|r| r.memory_limit_in_bytes),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_converted_as_the_kubelet_does() {
        let wanted: ContainerSpec = serde_json::from_value(json!({"name": "a", "resources":
            {"limits": {"cpu": "1500m", "memory": "64Mi", "ephemeral-storage": "10Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        assert_eq!(storage_limit(&wanted), Some(10 << 20));
        let out = resources(&wanted);
        assert_eq!((out.cpu_shares, out.cpu_quota, out.memory_limit_in_bytes), (256, 150_000, 64 << 20));
        let spec: PodSpec = serde_json::from_value(json!({"containers": [wanted, {"name": "b"}]})).unwrap();
        let whole: ContainerSpec = serde_json::from_value(json!({"name": "a", "resources":
            {"limits": {"cpu": "9223372036854775807", "memory": "-1"}}}))
        .unwrap();
        let out = resources(&whole);
        assert_eq!(
            (out.cpu_quota, out.memory_limit_in_bytes),
            (i64::MAX, 0),
            "no more than can be said, nothing less than none"
        );
        assert_eq!(sandbox_resources(&spec).memory_limit_in_bytes, 0, "one without a limit has none together");
    }
}
