//! A pod's volumes: small files written for the runtime to copy into the VM, scratch space, and disks.
//!
//! Files are laid out as the kubelet always has: `..data` is a link to the newest directory, and each name a link through
//! it, so that a change of one link changes all of a volume at once. The directories' names are the kubelet's, too
//! (`volumes/kubernetes.io~configmap/NAME`): the runtime knows by them what a mount is.

mod claim;
#[cfg(test)]
mod claim_tests;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use hypernetes_api::TenantId;
use k8s_cri::v1 as cri;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        ConfigMap, Container as ContainerSpec, DownwardAPIVolumeFile, KeyToPath, Pod, PodSpec, Secret, ServiceAccount,
        Volume as VolumeSpec,
    },
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

pub use claim::release;

use crate::{
    environment::{self, Environment},
    worker::{Setback, Shared, names_of},
};

const DEFAULT_MODE: i32 = 0o644;

/// A volume's files: path, mode, content.
type Files = BTreeMap<String, (i32, Vec<u8>)>;

fn kind_of(volume: &VolumeSpec) -> Option<&'static str> {
    Some(if volume.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if volume.secret.is_some() {
        "kubernetes.io~secret"
    } else if volume.projected.is_some() {
        "kubernetes.io~projected"
    } else if volume.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if volume.empty_dir.is_some() {
        "kubernetes.io~empty-dir"
    } else if volume.persistent_volume_claim.is_some() {
        claim::PLUGIN
    } else {
        return None;
    })
}

fn directory_of(pod_directory: &Path, volume: &VolumeSpec) -> Option<PathBuf> {
    Some(pod_directory.join("volumes").join(kind_of(volume)?).join(&volume.name))
}

/// Writes what the pod's volumes hold, again where it has changed.
pub async fn prepare(shared: &Arc<Shared>, tenant: &TenantId, pod: &Pod, pod_directory: &Path) -> Result<(), Setback> {
    let (_, namespace) = names_of(pod);
    let client = shared.config.clients.tenant(tenant);
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(directory) = directory_of(pod_directory, volume) else {
            return Err(failed_mount(&volume.name, "this kind of volume is not supported"));
        };
        let failed = |error: io::Error| failed_mount(&volume.name, &error.to_string());
        if volume.empty_dir.is_some() {
            fs::create_dir_all(&directory).and_then(|()| share(&directory, 0o777, group)).map_err(failed)?;
            continue;
        }
        if let Some(source) = &volume.persistent_volume_claim {
            claim::Wanted { shared, tenant, pod, name: &volume.name, source }.publish(&directory).await?;
            if group.is_some() {
                share(&claim::target(&directory), 0o770, group).map_err(failed)?;
            }
            continue;
        }
        let files = files_of(&client, pod, &namespace, volume).await.map_err(|why| failed_mount(&volume.name, &why))?;
        write(&directory, &files, group).map_err(failed)?;
    }
    Ok(())
}

/// Makes a directory everybody's, or that of the pod's group (`fsGroup`), which what is made in it belongs to, too. The runtime
/// makes what the pod sees like it.
fn share(directory: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    // Block volumes have a file there.
    if !directory.is_dir() {
        return Ok(());
    }
    let mode = mode | group.map_or(0, |_| 0o2000);
    chown(directory, None, group)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
}

/// In the words of upstream's event.
fn failed_mount(volume: &str, why: &str) -> Setback {
    Setback { reason: "FailedMount", message: format!("MountVolume.SetUp failed for volume {volume:?} : {why}") }
}

async fn files_of(client: &Client, pod: &Pod, namespace: &str, volume: &VolumeSpec) -> Result<Files, String> {
    let mut files = Files::new();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        config_map(&maps, &source.name, source.items.as_deref(), source.optional, mode, &mut files).await?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        secret(&secrets, name, source.items.as_deref(), source.optional, mode, &mut files).await?;
    } else if let Some(source) = &volume.downward_api {
        downward(pod, source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE), &mut files)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                config_map(&maps, &map.name, map.items.as_deref(), map.optional, mode, &mut files).await?;
            }
            if let Some(from) = &source.secret {
                secret(&secrets, &from.name, from.items.as_deref(), from.optional, mode, &mut files).await?;
            }
            if let Some(fields) = &source.downward_api {
                downward(pod, fields.items.as_deref(), mode, &mut files)?;
            }
            if let Some(token) = &source.service_account_token {
                let audiences: Vec<String> = token.audience.iter().cloned().collect();
                let content =
                    service_account_token(client, pod, namespace, audiences, token.expiration_seconds).await?;
                files.insert(token.path.clone(), (mode, content.into_bytes()));
            }
        }
    }
    Ok(files)
}

fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(name, content)| (name, (mode, content))));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(content) => drop(files.insert(item.path.clone(), (item.mode.unwrap_or(mode), content.clone()))),
            None if optional => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

async fn config_map(
    api: &Api<ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(map) = api.get_opt(name).await.map_err(|e| e.to_string())? else {
        return if optional { Ok(()) } else { Err(format!("configmap {name:?} not found")) };
    };
    let texts = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let data =
        texts.chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0))).collect();
    select(data, items, optional, mode, files)
}

async fn secret(
    api: &Api<Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    files: &mut Files,
) -> Result<(), String> {
    let optional = optional == Some(true);
    let Some(secret) = api.get_opt(name).await.map_err(|e| e.to_string())? else {
        return if optional { Ok(()) } else { Err(format!("secret {name:?} not found")) };
    };
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    select(data, items, optional, mode, files)
}

fn downward(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, mode: i32, files: &mut Files) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let Some(field) = &item.field_ref else { continue };
        let value = environment::field_of(pod, &field.field_path)
            .ok_or_else(|| format!("fieldPath {:?} is not known", field.field_path))?;
        files.insert(item.path.clone(), (item.mode.unwrap_or(mode), value.into_bytes()));
    }
    Ok(())
}

async fn service_account_token(
    client: &Client,
    pod: &Pod,
    namespace: &str,
    audiences: Vec<String>,
    seconds: Option<i64>,
) -> Result<String, String> {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences).filter(|audiences| !audiences.is_empty()),
            expiration_seconds: seconds,
            bound_object_ref: Some(BoundObjectReference {
                kind: Some("Pod".into()),
                api_version: Some("v1".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..Default::default()
    };
    let token =
        api.create_token_request(&account, &PostParams::default(), &request).await.map_err(|e| e.to_string())?;
    token.status.and_then(|status| status.token).ok_or_else(|| "the token request has no answer".into())
}

/// Writes files so that a reader sees the old ones or the new ones. Tokens alone change nothing: each would be another.
fn write(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let mut hasher = Sha256::new();
    for (path, (mode, content)) in files {
        let plain = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !plain || path.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is not a path in a volume")));
        }
        hasher.update(path.as_bytes());
        hasher.update(mode.to_le_bytes());
        // What is in a token differs each time it is made.
        if !path.ends_with("token") {
            hasher.update(content);
        }
        hasher.update([0]);
    }
    let name = format!("..{}", hex::encode(&hasher.finalize()[..8]));
    let target = directory.join(&name);
    if target.exists() && fs::read_link(directory.join("..data")).is_ok_and(|link| link == Path::new(&name)) {
        return Ok(());
    }
    fs::create_dir_all(&target)?;
    for (path, (mode, content)) in files {
        let file = target.join(path);
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&file, content)?;
        // The group reads what its pod is given.
        let mode = (*mode & 0o777).unsigned_abs() | group.map_or(0, |_| 0o440);
        chown(&file, None, group)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    let old = fs::read_link(directory.join("..data")).ok();
    let replace = |link: &Path, to: &Path| -> io::Result<()> {
        let temporary = directory.join("..new");
        let _ = fs::remove_file(&temporary);
        symlink(to, &temporary)?;
        fs::rename(&temporary, link)
    };
    replace(&directory.join("..data"), Path::new(&name))?;
    let mut tops: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    tops.dedup();
    for top in &tops {
        let (link, to) = (directory.join(top), Path::new("..data").join(top));
        if fs::read_link(&link).ok().as_deref() != Some(&to) {
            replace(&link, &to)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !tops.iter().any(|top| *top == name.to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old.filter(|old| *old != Path::new(&name)) {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(())
}

/// The container's mounts in CRI's words. A block volume is among them: the runtime sees by its descriptor that it is
/// to be a device there, where CRI's own devices are files of a host that the VM does not share.
pub fn mounts(
    pod_directory: &Path,
    spec: &PodSpec,
    wanted: &ContainerSpec,
    env: &Environment,
) -> Result<Vec<cri::Mount>, String> {
    let place = |name: &str| {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == name);
        let volume = volume.ok_or_else(|| format!("volume {name:?} is not defined"))?;
        let directory = directory_of(pod_directory, volume).ok_or("this kind of volume is not supported")?;
        Ok::<_, String>(if volume.persistent_volume_claim.is_some() { claim::target(&directory) } else { directory })
    };
    let mut mounts = Vec::new();
    for mount in wanted.volume_mounts.clone().unwrap_or_default() {
        let mut host = place(&mount.name)?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(path)) => environment::expand(path, env),
            _ => String::new(),
        };
        if Path::new(&sub_path).components().any(|c| !matches!(c, std::path::Component::Normal(_))) {
            return Err(format!("subPath {sub_path:?} must be a relative path without '..'"));
        }
        if !sub_path.is_empty() {
            host.push(sub_path);
        }
        mounts.push(cri::Mount {
            container_path: mount.mount_path,
            host_path: host.display().to_string(),
            readonly: mount.read_only.unwrap_or(false),
            ..Default::default()
        });
    }
    for device in wanted.volume_devices.iter().flatten() {
        mounts.push(cri::Mount {
            container_path: device.device_path.clone(),
            host_path: place(&device.name)?.display().to_string(),
            ..Default::default()
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_group_may_use_its_volumes() {
        use std::os::unix::fs::MetadataExt;
        assert!(nix::unistd::geteuid().is_root(), "giving files away needs root");
        let directory = tempfile::tempdir().unwrap();
        let of = |path: &str| {
            let found = fs::metadata(directory.path().join(path)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        let files = Files::from([("key".to_owned(), (0o400, b"value".to_vec()))]);
        write(directory.path(), &files, Some(2000)).unwrap();
        assert_eq!(of("key"), (2000, 0o440));
        let scratch = directory.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        share(&scratch, 0o777, None).unwrap();
        assert_eq!(of("scratch"), (0, 0o777));
        share(&scratch, 0o777, Some(2000)).unwrap();
        assert_eq!(of("scratch"), (2000, 0o2777));
        fs::write(directory.path().join("device"), "").unwrap();
        share(&directory.path().join("device"), 0o770, Some(2000)).unwrap();
        assert_eq!(of("device").0, 0);
    }

    #[test]
    fn a_volume_changes_all_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs.iter().map(|(p, c)| ((*p).to_owned(), (0o640, c.as_bytes().to_vec()))).collect()
        };
        write(directory.path(), &files(&[("a", "1"), ("dir/b", "2")]), None).unwrap();
        let first = fs::read_link(directory.path().join("..data")).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("dir/b")).unwrap(), "2");
        assert_eq!(fs::metadata(directory.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        write(directory.path(), &files(&[("a", "1"), ("dir/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(directory.path().join("..data")).unwrap(), first, "nothing changed");
        write(directory.path(), &files(&[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), "3");
        assert!(!directory.path().join("dir").exists() && !directory.path().join(first).exists());
        for bad in ["../x", "/x", ""] {
            assert!(write(directory.path(), &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
    }
}
