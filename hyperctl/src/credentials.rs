//! Who we are at a registry.

use std::io::BufRead;

use anyhow::{Context, Result, bail};
use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};

use crate::cri;

/// Docker's own name for its registry, in its configuration.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// `USER:PASSWORD`; of `USER` alone the password is the input's first line.
pub fn given(text: &str) -> Result<cri::AuthConfig> {
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).context("reading the password")?;
            (text.to_owned(), line.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    if username.is_empty() || password.is_empty() {
        bail!("the credentials need a user and a password");
    }
    Ok(cri::AuthConfig { username, password, ..Default::default() })
}

/// What `docker login` has stored for the image's registry, if anything.
pub fn stored(image: &str) -> Result<Option<cri::AuthConfig>> {
    let registry = registry(image);
    match get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(cri::AuthConfig { username, password, ..Default::default() }))
        }
        Ok(DockerCredential::IdentityToken(identity_token)) => {
            Ok(Some(cri::AuthConfig { identity_token, ..Default::default() }))
        }
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigReadError,
        ) => Ok(None),
        // A helper that has none says so in its own way.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(None)
        }
        Err(error) => bail!("the stored credentials for {registry}: {error}"),
    }
}

/// The registry that an image's reference means, as Docker stores its credentials.
fn registry(image: &str) -> &str {
    let first = image.split_once('/').map(|(first, _)| first);
    match first {
        Some("docker.io" | "index.docker.io") | None => DOCKER_HUB,
        Some(host) if host.contains(['.', ':']) || host == "localhost" => host,
        Some(_) => DOCKER_HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_are_given() {
        let auth = given("user:pa:ss").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("user", "pa:ss"));
        assert!(given(":x").is_err() && given("x:").is_err());
    }

    #[test]
    fn registries() {
        for (image, expected) in [
            ("busybox", DOCKER_HUB),
            ("demo/web:1", DOCKER_HUB),
            ("docker.io/library/busybox", DOCKER_HUB),
            ("localhost/web", "localhost"),
            ("127.0.0.1:5000/web:1", "127.0.0.1:5000"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io"),
        ] {
            assert_eq!(registry(image), expected, "{image}");
        }
    }
}
