//! CRI's ImageService.

use hypernetes_image::{Credentials, Image};
use k8s_cri::v1::{self as cri, image_service_server::ImageService};
use tonic::{Request, Response, Status};

use super::{
    Service, detached,
    list::{Pieces, pieces},
};
use crate::{
    error::{Error, Result},
    runtime::now_nanos,
};

fn reference(spec: Option<cri::ImageSpec>) -> Result<String> {
    let image = spec.map(|s| s.image).unwrap_or_default();
    if image.is_empty() { Err(Error::InvalidArgument("no image is named".into())) } else { Ok(image) }
}

fn to_cri(image: Image) -> cri::Image {
    // `user` or `user:group`, by name or number.
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| cri::Int64Value { value: uid.into() });
    cri::Image {
        id: image.id.to_string(),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid,
        repo_tags: image.tags,
        repo_digests: image.digests,
        size: image.size_bytes,
        spec: Some(cri::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: false,
    }
}

/// The kubelet sends a user and password, or a token; `auth` is the two of them in base64, as Docker stores them.
fn credentials(auth: Option<cri::AuthConfig>) -> Result<Option<Credentials>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(auth) = auth else { return Ok(None) };
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
    if !auth.identity_token.is_empty() {
        return Err(Error::Unimplemented("pulling with an identity token"));
    }
    Ok(None)
}

impl Service {
    fn image_list(&self, filter: Option<cri::ImageFilter>) -> Vec<cri::Image> {
        let wanted = filter.and_then(|f| f.image).map(|i| i.image).filter(|i| !i.is_empty());
        let images = match wanted {
            Some(reference) => self.0.config.images.get(&reference).into_iter().collect(),
            None => self.0.config.images.list(),
        };
        images.into_iter().map(to_cri).collect()
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
        let reference = reference(request.into_inner().image)?;
        let image = self.0.config.images.get(&reference).map(to_cri);
        Ok(Response::new(cri::ImageStatusResponse { image, info: Default::default() }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let cri::PullImageRequest { image, auth, sandbox_config: _ } = request.into_inner();
        let (reference, credentials) = (reference(image)?, credentials(auth)?);
        let images = self.0.config.images.clone();
        let image = detached(async move { Ok(images.pull(&reference, credentials).await?) }).await?;
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let reference = reference(request.into_inner().image)?;
        let images = self.0.config.images.clone();
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
    fn credentials_come_in_two_forms() {
        let auth = |auth: &str| Some(cri::AuthConfig { auth: auth.into(), ..Default::default() });
        let found = credentials(auth("dXNlcjpwYTpzcw==")).unwrap();
        assert!(
            matches!(&found, Some(Credentials::Basic { username, password }) if username == "user" && password == "pa:ss")
        );
        assert!(credentials(auth("!")).is_err());
        assert!(credentials(auth("")).unwrap().is_none());
        assert!(credentials(None).unwrap().is_none());
    }
}
