//! Pulling from registries (OCI distribution-spec).

use std::path::Path;

use oci_client::{
    Client,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};
use tokio::io::AsyncWriteExt;

use crate::{
    Digest, ImageError, Limits, Reference,
    archive::{Blob, Contents},
    tree::invalid,
};

/// What a registry is told of who pulls. Its `Debug` shows no secret.
#[derive(Clone)]
pub enum Credentials {
    Basic { username: String, password: String },
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Fetches the manifest, configuration and layers of an image; the layers go to files in `directory`.
pub(crate) async fn pull(
    reference: &Reference,
    credentials: Option<Credentials>,
    directory: &Path,
    limits: &Limits,
) -> Result<Contents, ImageError> {
    let auth = match credentials {
        None => RegistryAuth::Anonymous,
        Some(Credentials::Basic { username, password }) => RegistryAuth::Basic(username, password),
        Some(Credentials::Token(token)) => RegistryAuth::Bearer(token),
    };
    let protocol = if reference.is_loopback() { ClientProtocol::Http } else { ClientProtocol::Https };
    // oci-client leaves the choice of cryptography to the process; what another part has chosen already stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(ClientConfig { protocol, ..ClientConfig::default() });
    let failed = |error: OciDistributionError| explain(reference, error);
    let (manifest, digest, config) = client.pull_manifest_and_config(reference.inner(), &auth).await.map_err(failed)?;
    if config.len() as u64 > limits.metadata_bytes || manifest.layers.len() > limits.layers {
        return Err(invalid("the image has too many layers or too large a configuration"));
    }
    let mut layers = Vec::new();
    for (index, layer) in manifest.layers.iter().enumerate() {
        let declared: u64 = layer.size.try_into().map_err(|_| invalid("a layer of negative size"))?;
        if declared > limits.unpacked_bytes {
            return Err(invalid(format!("a layer of {declared} bytes")));
        }
        let path = directory.join(format!("layer-{index}"));
        let stored = |source| ImageError::Store { path: path.clone(), source };
        let file = tokio::fs::File::create(&path).await.map_err(stored)?;
        let mut out = Bounded { file, left: declared };
        client.pull_blob(reference.inner(), layer, &mut out).await.map_err(failed)?;
        out.file.flush().await.map_err(stored)?;
        layers.push(Blob::file(path, declared));
    }
    Ok(Contents { config: config.into_bytes(), layers, names: Vec::new(), manifest: digest.parse::<Digest>().ok() })
}

/// A file that takes no more than the manifest has declared.
struct Bounded {
    file: tokio::fs::File,
    left: u64,
}

impl tokio::io::AsyncWrite for Bounded {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if buffer.len() as u64 > self.left {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into()));
        }
        let poll = std::pin::Pin::new(&mut self.file).poll_write(context, buffer);
        if let std::task::Poll::Ready(Ok(written)) = poll {
            self.left -= written as u64;
        }
        poll
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.file).poll_shutdown(context)
    }
}

fn explain(reference: &Reference, error: OciDistributionError) -> ImageError {
    let reference = reference.to_string();
    match &error {
        OciDistributionError::ImageManifestNotFoundError(_) => ImageError::NotFound { reference },
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|e| {
                matches!(e.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
            }) =>
        {
            ImageError::NotFound { reference }
        }
        OciDistributionError::AuthenticationFailure(reason) => {
            ImageError::Unauthorized { reference, reason: reason.clone() }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            ImageError::Unauthorized { reference, reason: "it asks for other credentials".into() }
        }
        _ => {
            // reqwest's own message names only the URL; the cause is what helps.
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                reason = format!("{reason}: {inner}");
                cause = inner.source();
            }
            ImageError::Pull { reference, reason }
        }
    }
}
