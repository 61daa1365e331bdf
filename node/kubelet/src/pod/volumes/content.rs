//! What is in the volumes that are made of files: config maps, secrets, the pod's own fields and tokens.

use std::collections::BTreeMap;

use hypernetes_api::ConfigKey;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume as VolumeSpec};
use tokio::time::Instant;

use super::{
    atomic_writer::{File, Files},
    token::Tokens,
};
use crate::{
    identity::PodId,
    pod::{objects::Objects, spec::downward_api},
    pod_dir::ItemPath,
};

const DEFAULT_MODE: i32 = 0o644;

/// Finds what a volume holds now.
pub(super) struct Content<'a> {
    pub objects: &'a Objects<'a>,
    pub id: &'a PodId,
    pub pod: &'a Pod,
    pub tokens: &'a mut Tokens,
    /// When a token of the volume is to be another.
    pub renew: Option<Instant>,
    pub files: Files,
}

/// What is taken of an object, and how.
struct Selection<'a> {
    items: Option<&'a [KeyToPath]>,
    optional: bool,
    mode: i32,
}

impl<'a> Selection<'a> {
    fn new(items: Option<&'a Vec<KeyToPath>>, optional: Option<bool>, mode: i32) -> Self {
        Self { items: items.map(Vec::as_slice), optional: optional == Some(true), mode }
    }
}

impl Content<'_> {
    pub(super) async fn find(&mut self, volume: &VolumeSpec) -> Result<(), String> {
        if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let selection = Selection::new(source.items.as_ref(), source.optional, mode);
            self.config_map(&source.name, &selection).await?;
        } else if let Some(source) = &volume.secret {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let selection = Selection::new(source.items.as_ref(), source.optional, mode);
            self.secret(source.secret_name.as_deref().unwrap_or_default(), &selection).await?;
        } else if let Some(source) = &volume.downward_api {
            self.fields(source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE))?;
        }
        let Some(projected) = &volume.projected else { return Ok(()) };
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.as_deref().unwrap_or_default() {
            if let Some(map) = &source.config_map {
                self.config_map(&map.name, &Selection::new(map.items.as_ref(), map.optional, mode)).await?;
            }
            if let Some(from) = &source.secret {
                self.secret(&from.name, &Selection::new(from.items.as_ref(), from.optional, mode)).await?;
            }
            if let Some(fields) = &source.downward_api {
                self.fields(fields.items.as_deref(), mode)?;
            }
            if let Some(wanted) = &source.service_account_token {
                let path = ItemPath::parse(&wanted.path).map_err(|e| e.to_string())?;
                let token =
                    self.tokens.get(self.objects, self.id, self.pod, wanted).await.map_err(|e| e.to_string())?;
                self.renew = [self.renew, Some(token.renew)].into_iter().flatten().min();
                self.files.insert(path, File { mode, content: token.text.clone().into_bytes() });
            }
        }
        Ok(())
    }

    async fn config_map(&mut self, name: &str, selection: &Selection<'_>) -> Result<(), String> {
        let Some(map) = self.objects.config_map(name).await.map_err(|e| e.to_string())? else {
            return if selection.optional { Ok(()) } else { Err(format!("configmap {name:?} not found")) };
        };
        let texts = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        self.select(texts.chain(bytes).collect(), selection)
    }

    async fn secret(&mut self, name: &str, selection: &Selection<'_>) -> Result<(), String> {
        let Some(secret) = self.objects.secret(name).await.map_err(|e| e.to_string())? else {
            return if selection.optional { Ok(()) } else { Err(format!("secret {name:?} not found")) };
        };
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        self.select(data, selection)
    }

    fn select(&mut self, data: BTreeMap<String, Vec<u8>>, selection: &Selection<'_>) -> Result<(), String> {
        let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
            for (key, content) in data {
                let key = ConfigKey::new(&key).map_err(|e| e.to_string())?;
                self.files.insert(ItemPath::from(&key), File { mode: selection.mode, content });
            }
            return Ok(());
        };
        for item in items {
            let path = ItemPath::parse(&item.path).map_err(|e| e.to_string())?;
            match data.get(&item.key) {
                Some(content) => {
                    let mode = item.mode.unwrap_or(selection.mode);
                    self.files.insert(path, File { mode, content: content.clone() });
                }
                None if selection.optional => {}
                None => return Err(format!("references non-existent key: {}", item.key)),
            }
        }
        Ok(())
    }

    fn fields(&mut self, items: Option<&[DownwardAPIVolumeFile]>, mode: i32) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let value = if let Some(field) = &item.field_ref {
                downward_api::field_of(self.pod, &field.field_path)
                    .ok_or_else(|| format!("fieldPath {:?} is not known", field.field_path))?
            } else if let Some(resource) = &item.resource_field_ref {
                let spec = self.pod.spec.as_ref();
                let name = resource.container_name.as_deref().unwrap_or_default();
                let container = spec.and_then(|spec| {
                    spec.init_containers.iter().flatten().chain(&spec.containers).find(|c| c.name == name)
                });
                let container = container.ok_or_else(|| format!("container {name:?} not found"))?;
                downward_api::resource_of(container, resource)?
            } else {
                continue;
            };
            let path = ItemPath::parse(&item.path).map_err(|e| e.to_string())?;
            self.files.insert(path, File { mode: item.mode.unwrap_or(mode), content: value.into_bytes() });
        }
        Ok(())
    }
}
