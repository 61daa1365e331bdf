//! Making one container: image, mounts, environment, security, resources.

use hypernetes_api::names;
use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Container as ContainerSpec, Pod, PodSpec, Secret},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::Api;
use serde_json::Value;

use crate::{
    cri::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID},
    environment,
    events::tell,
    node, qos, security, users, volumes,
    worker::{SANDBOX, Worker, names_of},
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
    let shared = &worker.shared;
    let image = ensure_image(worker, place, wanted).await?;
    let config_error = |message: String| StartError::new("CreateContainerConfigError", message);
    let env = environment::of(shared, &worker.tenant, place.pod, wanted).await.map_err(config_error)?;
    let directory = shared.pod_directory(&worker.uid);
    let mut mounts = volumes::mounts(&directory, place.spec, wanted, &env).map_err(config_error)?;
    let termination = directory.join("containers").join(&wanted.name).join(place.attempt.to_string());
    let prepare = || -> std::io::Result<()> {
        termination.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(&termination, "")
    };
    prepare().map_err(|e| config_error(e.to_string()))?;
    mounts.push(cri::Mount {
        container_path: wanted.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
        host_path: termination.display().to_string(),
        ..Default::default()
    });
    let mut security = security::of(place.spec, wanted, &worker.uid, &shared.config.root.join("seccomp"));
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        let wanted = Some(cri::ImageSpec { image: image.clone(), ..Default::default() });
        let request = cri::ImageStatusRequest { image: wanted, verbose: false };
        let status = shared.runtime.images.clone().image_status(request).await;
        let status = status.map_err(|s| StartError::new("ImageInspectError", s.message()))?;
        users::complete(&mut security, status.into_inner().image.as_ref());
    }
    let (name, namespace) = names_of(place.pod);
    let log_directory = shared.log_directory(&worker.tenant, &namespace, &name, &worker.uid);
    std::fs::create_dir_all(log_directory.join(&wanted.name)).map_err(|e| config_error(e.to_string()))?;
    let labels = [
        (POD_NAME, name.as_str()),
        (POD_NAMESPACE, &namespace),
        (POD_UID, &worker.uid),
        (CONTAINER_NAME, &wanted.name),
        (SANDBOX, place.sandbox),
    ];
    let expand = |words: Option<&Vec<String>>| -> Vec<String> {
        words.into_iter().flatten().map(|word| environment::expand(word, &env)).collect()
    };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: wanted.name.clone(), attempt: place.attempt }),
        image: Some(cri::ImageSpec { image, ..Default::default() }),
        command: expand(wanted.command.as_ref()),
        args: expand(wanted.args.as_ref()),
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
        log_path: format!("{}/{}.log", wanted.name, place.attempt),
        stdin: wanted.stdin.unwrap_or(false),
        stdin_once: wanted.stdin_once.unwrap_or(false),
        tty: wanted.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: qos::oom_score_adj(place.spec, wanted, node::memory_kib() << 10),
                ..resources(wanted)
            }),
            security_context: Some(security),
        }),
        ..Default::default()
    };
    let sandbox_config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata { name, uid: worker.uid.clone(), namespace, attempt: 0 }),
        log_directory: log_directory.display().to_string(),
        ..Default::default()
    };
    let mut runtime = shared.runtime.runtime.clone();
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: place.sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let created = runtime.create_container(request).await;
    let created = created.map_err(|s| StartError::new("CreateContainerError", s.message()))?.into_inner();
    tell(shared, &worker.tenant, place.pod, false, "Created", &format!("Created container: {}", wanted.name)).await;
    let request = cri::StartContainerRequest { container_id: created.container_id };
    match runtime.start_container(request).await {
        Ok(_) => {
            tell(shared, &worker.tenant, place.pod, false, "Started", &format!("Started container {}", wanted.name))
                .await;
            Ok(())
        }
        Err(status) => Err(StartError { ended: true, ..StartError::new("RunContainerError", status.message()) }),
    }
}

/// Pulls the image where the policy says so; its reference in the runtime.
async fn ensure_image(worker: &Worker, place: &Place<'_>, wanted: &ContainerSpec) -> Result<String, StartError> {
    let name = wanted.image.clone().unwrap_or_default();
    let shared = &worker.shared;
    let mut images = shared.runtime.images.clone();
    // The runtime tells who may have what is there by who asks for it, and puts down for whom it pulls.
    let annotations = [(names::TENANT_ANNOTATION.to_owned(), worker.tenant.to_string())].into();
    let image = Some(cri::ImageSpec { image: name.clone(), annotations, ..Default::default() });
    let failed = |reason: &'static str, message: String| StartError { image: true, ..StartError::new(reason, message) };
    let status = images.image_status(cri::ImageStatusRequest { image: image.clone(), verbose: false }).await;
    let status = status.map_err(|s| match s.code() {
        tonic::Code::InvalidArgument => {
            failed("InvalidImageName", format!("Failed to apply default image tag {name:?}: {}", s.message()))
        }
        _ => failed("ImageInspectError", s.message().to_owned()),
    })?;
    let present = status.into_inner().image;
    let policy = wanted.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (present, policy) {
        (Some(present), "Never" | "IfNotPresent") => {
            if place.attempt == 0 {
                let text = format!("Container image {name:?} already present on machine");
                tell(shared, &worker.tenant, place.pod, false, "Pulled", &text).await;
            }
            return Ok(present.id);
        }
        (None, "Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            return Err(failed("ErrImageNeverPull", message));
        }
        _ => {}
    }
    tell(shared, &worker.tenant, place.pod, false, "Pulling", &format!("Pulling image {name:?}")).await;
    let auth = pull_secret(worker, place, &name).await;
    match images.pull_image(cri::PullImageRequest { image, auth, sandbox_config: None }).await {
        Ok(pulled) => {
            tell(shared, &worker.tenant, place.pod, false, "Pulled", &format!("Successfully pulled image {name:?}"))
                .await;
            Ok(pulled.into_inner().image_ref)
        }
        Err(status) => Err(failed("ErrImagePull", status.message().to_owned())),
    }
}

/// Credentials for an image's registry from the pod's `imagePullSecrets`.
async fn pull_secret(worker: &Worker, place: &Place<'_>, image: &str) -> Option<cri::AuthConfig> {
    let (_, namespace) = names_of(place.pod);
    let api: Api<Secret> = Api::namespaced(worker.shared.config.clients.tenant(&worker.tenant), &namespace);
    for reference in place.spec.image_pull_secrets.clone().unwrap_or_default() {
        let Ok(Some(secret)) = api.get_opt(&reference.name).await else { continue };
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

fn quantity(quantities: Option<&std::collections::BTreeMap<String, Quantity>>, name: &str) -> Option<f64> {
    parse(&quantities?.get(name)?.0)
}

/// A quantity as a number; the API server lets only such through.
fn parse(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("n", 1e-9),
    ];
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor))).unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|n| n * factor)
}

/// What a container asks for: a limit alone is a request, too.
pub fn request(wanted: &ContainerSpec, name: &str) -> Option<f64> {
    let resources = wanted.resources.as_ref()?;
    quantity(resources.requests.as_ref(), name).or_else(|| quantity(resources.limits.as_ref(), name))
}

fn resources(wanted: &ContainerSpec) -> cri::LinuxContainerResources {
    let resources = wanted.resources.clone().unwrap_or_default();
    let limit = |name: &str| quantity(resources.limits.as_ref(), name);
    let request = |name: &str| request(wanted, name);
    // As the kubelet converts: 1024 shares and a quota of 100 ms for each processor.
    let mut out = cri::LinuxContainerResources {
        cpu_shares: request("cpu").map_or(2, |cpu| (cpu * 1024.0).max(2.0) as i64),
        ..Default::default()
    };
    if let Some(cpu) = limit("cpu") {
        out.cpu_period = 100_000;
        out.cpu_quota = (cpu * 100_000.0).max(1000.0) as i64;
    }
    if let Some(memory) = limit("memory") {
        out.memory_limit_in_bytes = memory as i64;
    }
    out
}

fn storage_limit(wanted: &ContainerSpec) -> Option<u64> {
    let limits = wanted.resources.as_ref()?.limits.as_ref();
    quantity(limits, "ephemeral-storage").map(|bytes| bytes as u64).filter(|bytes| *bytes > 0)
}

/// What the pod's VM needs: the sum of its containers' limits, where all have one.
pub fn sandbox_resources(spec: &PodSpec) -> cri::LinuxContainerResources {
    let all: Vec<_> = spec.containers.iter().map(resources).collect();
    let sum = |get: fn(&cri::LinuxContainerResources) -> i64| {
        let values: Vec<i64> = all.iter().map(get).collect();
        if values.iter().all(|v| *v > 0) { values.iter().sum() } else { 0 }
    };
    cri::LinuxContainerResources {
        cpu_period: 100_000,
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
        assert_eq!(sandbox_resources(&spec).memory_limit_in_bytes, 0, "one without a limit has none together");
    }
}
