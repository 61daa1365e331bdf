//! CRI's ImageService.

use std::collections::HashMap;

use hypernetes_image::{Credentials, Image, Puller, Reference};
use k8s_cri::v1::{self as cri, image_service_server::ImageService};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{
    Service, detached,
    list::{Pieces, pieces},
};
use crate::{
    error::{Error, Result},
    images::Images,
    prepare::is_operators,
    runtime::now_nanos,
};

fn reference(spec: Option<cri::ImageSpec>) -> Result<String> {
    let image = spec.map(|s| s.image).unwrap_or_default();
    if image.is_empty() { Err(Error::InvalidArgument("no image is named".into())) } else { Ok(image) }
}

/// For whom an image is looked for. The operator's own tools name none.
fn tenant(spec: Option<&cri::ImageSpec>) -> Option<String> {
    spec?.annotations.get(crate::TENANT_ANNOTATION).cloned()
}

/// For whom an image is pulled: the annotations are the image's or, where it names nobody, the sandbox's. A tenant of whom it
/// is not said what it may have may have `default`.
fn puller(spec: Option<&cri::ImageSpec>, sandbox: Option<&cri::PodSandboxConfig>, default: u64) -> Puller {
    let of_image = spec.map(|spec| &spec.annotations);
    let said = of_image.filter(|said| said.contains_key(crate::TENANT_ANNOTATION));
    let said = said.or_else(|| sandbox.map(|sandbox| &sandbox.annotations)).or(of_image);
    let id = said.and_then(|said| said.get(crate::TENANT_ANNOTATION)).cloned().unwrap_or_default();
    let max_bytes = match said.and_then(|said| crate::bytes_said(said, crate::IMAGE_BYTES_ANNOTATION)) {
        _ if is_operators(&id) => u64::MAX,
        Some(bytes) => bytes,
        None => default,
    };
    Puller { id, max_bytes }
}

fn to_cri(images: &dyn Images, image: Image) -> cri::Image {
    // `user` or `user:group`, by name or number.
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| cri::Int64Value { value: uid.into() });
    cri::Image {
        id: image.id.to_string(),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid,
        pinned: images.is_pinned(&image),
        repo_tags: image.tags,
        repo_digests: image.digests,
        size: image.size_bytes,
        spec: Some(cri::ImageSpec { image: image.id.to_string(), ..Default::default() }),
    }
}

/// As other runtimes give it: JSON under "info", with the image's configuration as `imageSpec`.
fn info(images: &dyn Images, image: &Image) -> HashMap<String, String> {
    let document = images.config_document(&image.id).and_then(|text| serde_json::from_str(&text).ok());
    let info = json!({
        "imageSpec": document.unwrap_or(serde_json::Value::Null),
        "rootfs": image.rootfs,
    });
    HashMap::from([("info".into(), info.to_string())])
}

/// Credentials that name another server than the image's registry are for that one only.
fn is_for(server_address: &str, reference: &str) -> bool {
    let host = |address: &str| {
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host = address.split('/').next().unwrap_or_default().to_ascii_lowercase();
        if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") { "docker.io".into() } else { host }
    };
    server_address.is_empty()
        || Reference::parse(reference).is_ok_and(|r| host(server_address) == r.registry().to_ascii_lowercase())
}

/// The kubelet sends a user and password, or a token; `auth` is the two of them in base64, as Docker stores them.
fn credentials(auth: Option<cri::AuthConfig>) -> Result<Option<Credentials>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(auth) = auth else { return Ok(None) };
    // A refresh token has a user name beside it that says nothing.
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credentials::Identity(auth.identity_token)));
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credentials::Basic { username: auth.username, password: auth.password }));
    }
    if !auth.auth.is_empty() {
        let wrong = || Error::InvalidArgument("the registry credentials are malformed".into());
        let text = STANDARD.decode(auth.auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(text).map_err(|_| wrong())?;
        let (username, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(wrong)?;
        return Ok(Some(Credentials::Basic { username: username.into(), password: password.into() }));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credentials::Token(auth.registry_token)));
    }
    Ok(None)
}

impl Service {
    fn image_list(&self, filter: Option<cri::ImageFilter>) -> Vec<cri::Image> {
        let wanted = filter.and_then(|f| f.image).map(|i| i.image).filter(|i| !i.is_empty());
        let images = self.0.config.images.as_ref();
        let found = match wanted {
            Some(reference) => images.get(&reference).into_iter().collect(),
            None => images.list(),
        };
        found.into_iter().map(|image| to_cri(images, image)).collect()
    }

    /// An image stays while a container has it. One of several tags may go.
    fn check_unused(&self, image: &Image, reference: &str) -> Result<()> {
        let is_tag = Reference::parse(reference).is_ok_and(|r| r.digest().is_none())
            && image.id.to_string().trim_start_matches("sha256:") != reference.trim_start_matches("sha256:");
        if is_tag && image.tags.len() > 1 {
            return Ok(());
        }
        let id = image.id.to_string();
        match self.0.containers().into_iter().find(|container| container.record().image_id == id) {
            Some(container) => Err(Error::FailedPrecondition(format!(
                "the image {reference} is in use by the container {}: remove that first",
                container.id
            ))),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = self.image_list(request.into_inner().filter);
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Pieces<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.image_list(request.into_inner().filter);
        Ok(pieces(images, |images| cri::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let cri::ImageStatusRequest { image, verbose } = request.into_inner();
        let images = self.0.config.images.as_ref();
        let tenant = tenant(image.as_ref());
        let found = images.get(&reference(image)?);
        // To a tenant who has not shown that they may have it, it is not here: they will have it pulled.
        let found = found.filter(|image| tenant.is_none_or(|tenant| images.may_use(&image.id, &tenant)));
        let info = found.as_ref().filter(|_| verbose).map(|image| info(images, image)).unwrap_or_default();
        Ok(Response::new(cri::ImageStatusResponse { image: found.map(|image| to_cri(images, image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let cri::PullImageRequest { image, auth, sandbox_config } = request.into_inner();
        let puller = puller(image.as_ref(), sandbox_config.as_ref(), self.0.config.tenant_image_bytes);
        let reference = reference(image)?;
        let credentials = credentials(auth.filter(|auth| is_for(&auth.server_address, &reference)))?;
        let images = self.0.config.images.clone();
        let image = detached(async move { Ok(images.pull(&reference, credentials, &puller).await?) }).await?;
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let reference = reference(request.into_inner().image)?;
        let images = self.0.config.images.clone();
        if let Some(image) = images.get(&reference) {
            self.check_unused(&image, &reference)?;
        }
        detached(async move { Ok(images.remove(&reference).await?) }).await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let (bytes, inodes) = self.0.config.images.usage();
        let usage = cri::FilesystemUsage {
            timestamp: now_nanos(),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: self.0.config.root.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: bytes }),
            inodes_used: Some(cri::UInt64Value { value: inodes }),
        };
        let response =
            cri::ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] };
        Ok(Response::new(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_pulls_may_have_so_much() {
        let said = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (tenant, bytes) = (crate::TENANT_ANNOTATION, crate::IMAGE_BYTES_ANNOTATION);
        let image = |pairs: &[(&str, &str)]| cri::ImageSpec { annotations: said(pairs), ..Default::default() };
        let sandbox = |pairs: &[(&str, &str)]| cri::PodSandboxConfig { annotations: said(pairs), ..Default::default() };
        for (of_image, of_sandbox, id, max) in [
            (image(&[(tenant, "acme"), (bytes, "7")]), sandbox(&[(tenant, "globex"), (bytes, "9")]), "acme", 7),
            (image(&[]), sandbox(&[(tenant, "globex"), (bytes, "9")]), "globex", 9),
            (image(&[(bytes, "7")]), sandbox(&[(tenant, "globex")]), "globex", 5),
            (image(&[(tenant, "acme")]), sandbox(&[(bytes, "9")]), "acme", 5),
            (image(&[(tenant, "acme"), (bytes, "-1")]), sandbox(&[]), "acme", 5),
            (image(&[(tenant, "system"), (bytes, "7")]), sandbox(&[]), "system", u64::MAX),
            (image(&[]), sandbox(&[]), "", u64::MAX),
        ] {
            let puller = puller(Some(&of_image), Some(&of_sandbox), 5);
            assert_eq!((puller.id.as_str(), puller.max_bytes), (id, max));
        }
        assert_eq!(puller(None, None, 5).id, "");
    }

    #[test]
    fn credentials_are_for_their_server() {
        for (server, image, fits) in [
            ("", "busybox", true),
            ("https://index.docker.io/v1/", "busybox", true),
            ("https://index.docker.io/v1/", "ghcr.io/a/b", false),
            ("registry.example.com:5000", "registry.example.com:5000/a", true),
            ("registry.example.com", "registry.example.com:5000/a", false),
            ("https://registry.example.com/v2/", "registry.example.com/a", true),
        ] {
            assert_eq!(is_for(server, image), fits, "{server} {image}");
        }
    }

    #[test]
    fn credentials_come_in_several_forms() {
        let auth = |auth: &str| Some(cri::AuthConfig { auth: auth.into(), ..Default::default() });
        let found = credentials(auth("dXNlcjpwYTpzcw==")).unwrap();
        assert!(
            matches!(&found, Some(Credentials::Basic { username, password }) if username == "user" && password == "pa:ss")
        );
        let token =
            cri::AuthConfig { username: "<token>".into(), identity_token: "refresh".into(), ..Default::default() };
        assert_eq!(credentials(Some(token)).unwrap(), Some(Credentials::Identity("refresh".into())));
        assert!(credentials(auth("!")).is_err());
        assert!(credentials(auth("")).unwrap().is_none());
        assert!(credentials(None).unwrap().is_none());
    }
}
