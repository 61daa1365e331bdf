//! Which images this host accepts: a policy in the format of containers-policy.json(5), with cosign's signatures.
//!
//! A scope (`registry/repository:tag`, `registry/repository`, any of its parents, `*.domain`; under `transports.docker`)
//! has requirements, all of which an image has to meet: `insecureAcceptAnything`, `reject`, `sigstoreSigned`, and one of
//! our own, `digestRequired`: the reference has to name a digest. The most specific scope counts, else `default`.

use std::{collections::BTreeMap, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use x509_parser::{pem::parse_x509_pem, prelude::FromDer, x509::SubjectPublicKeyInfo};

use crate::{Digest, ImageError, Limits, Reference, manifest::Document, registry::Session};

/// More signatures than these nobody looks at.
const MAX_SIGNATURES: usize = 32;
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD_TYPE: &str = "cosign container image signature";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Requirement {
    // Braces, since serde lets units have unknown fields.
    InsecureAcceptAnything {},
    Reject {},
    DigestRequired {},
    SigstoreSigned {
        key_path: Option<String>,
        key_paths: Option<Vec<String>>,
        /// Base64 of the PEM.
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        #[serde(default)]
        signed_identity: Identity,
    },
}

/// Which name a signature has to be for.
#[derive(Deserialize, Default)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Identity {
    /// cosign signs repositories without a tag.
    #[default]
    MatchRepository,
    MatchRepoDigestOrExact,
    MatchExact,
    ExactRepository {
        docker_repository: String,
    },
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: SignedIdentity,
    image: SignedImage,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedIdentity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: Digest,
}

impl Policy {
    /// Reads the file anew for each pull; without a readable one nothing is accepted.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let wrong = |reason: String| ImageError::Configuration { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
    }

    /// Refuses an image before anything but its manifest has been fetched.
    pub async fn check(
        &self,
        path: &Path,
        session: &Session,
        reference: &Reference,
        digest: Digest,
        limits: &Limits,
    ) -> Result<(), ImageError> {
        let requirements = self.requirements(reference);
        let refused = |reason: &str| ImageError::Signature { reference: reference.to_string(), reason: reason.into() };
        if requirements.is_empty() {
            return Err(refused("the image policy has no requirement for it, which refuses it"));
        }
        for requirement in requirements {
            match requirement {
                Requirement::InsecureAcceptAnything {} => {}
                Requirement::Reject {} => return Err(refused("the image policy of this host refuses it")),
                Requirement::DigestRequired {} if reference.digest().is_none() => {
                    return Err(refused("the image policy of this host wants a digest: name it as NAME@sha256:…"));
                }
                Requirement::DigestRequired {} => {}
                Requirement::SigstoreSigned { key_path, key_paths, key_data, key_datas, signed_identity } => {
                    let wrong = |reason: String| ImageError::Configuration { path: path.to_owned(), reason };
                    let mut keys = Vec::new();
                    for file in key_path.iter().chain(key_paths.iter().flatten()) {
                        let pem = fs::read(file).map_err(|error| wrong(format!("{file}: {error}")))?;
                        keys.push(public_key(&pem).ok_or_else(|| wrong(format!("{file} is no P-256 public key")))?);
                    }
                    for data in key_data.iter().chain(key_datas.iter().flatten()) {
                        let pem = STANDARD.decode(data).ok();
                        let key = pem.and_then(|pem| public_key(&pem));
                        keys.push(key.ok_or_else(|| wrong("its keyData is no P-256 public key in base64".into()))?);
                    }
                    if keys.is_empty() {
                        return Err(wrong("sigstoreSigned needs keyPath or keyData".into()));
                    }
                    signed(session, reference, digest, &keys, signed_identity, limits).await?;
                }
            }
        }
        Ok(())
    }

    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let scopes = self.transports.get("docker");
        let find = |scope: &str| scopes.and_then(|scopes| scopes.get(scope)).map(Vec::as_slice);
        let repository = reference.repository();
        let mut exact = reference.tagged().into_iter().collect::<Vec<_>>();
        exact.extend(reference.digest().map(|digest| format!("{repository}@{digest}")));
        let parents = std::iter::successors(Some(repository.as_str()), |scope| Some(scope.rsplit_once('/')?.0));
        let host = reference.registry().rsplit_once(':').map_or(reference.registry(), |(host, _)| host);
        let wildcards = std::iter::successors(host.split_once('.'), |(_, rest)| rest.split_once('.'));
        exact
            .iter()
            .find_map(|scope| find(scope))
            .or_else(|| parents.into_iter().find_map(find))
            .or_else(|| wildcards.into_iter().find_map(|(_, domain)| find(&format!("*.{domain}"))))
            .or_else(|| find(""))
            .unwrap_or(&self.default)
    }
}

/// The point of a P-256 key in PEM, as `cosign generate-key-pair` writes it.
fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    /// `id-ecPublicKey` and the curve's own identifier.
    const P256: [&str; 2] = ["1.2.840.10045.2.1", "1.2.840.10045.3.1.7"];
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let (_, key) = SubjectPublicKeyInfo::from_der(&pem.contents).ok()?;
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
    ([key.algorithm.algorithm.to_id_string(), curve] == P256).then(|| key.subject_public_key.data.to_vec())
}

/// Looks for one good signature, where cosign puts them: at the tag `sha256-<digest>.sig` beside the image.
async fn signed(
    session: &Session,
    reference: &Reference,
    digest: Digest,
    keys: &[Vec<u8>],
    identity: &Identity,
    limits: &Limits,
) -> Result<(), ImageError> {
    let refused = |reason: String| ImageError::Signature { reference: reference.to_string(), reason };
    let tag = format!("sha256-{}.sig", digest.hex());
    let manifest = match session.manifest(&tag, limits.metadata_bytes).await {
        Ok(manifest) => manifest,
        Err(ImageError::NotFound { .. }) => {
            return Err(refused(format!("no signature of {digest} is in its repository; sign it (cosign sign)")));
        }
        Err(other) => return Err(other),
    };
    let signatures = Document::parse(&manifest.bytes, "the signatures' manifest")?.into_manifest(limits.layers)?;
    let mut why = "no signature is in the signatures' manifest".to_owned();
    for layer in signatures.layers.iter().take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.as_ref().and_then(|all| all.get(SIGNATURE)) else { continue };
        let payload = session.document(layer, MAX_PAYLOAD_BYTES).await?;
        match verify(&payload, signature, keys, reference, digest, identity) {
            Ok(()) => return Ok(()),
            Err(reason) => why = reason,
        }
    }
    Err(refused(why))
}

fn verify(
    payload: &[u8],
    signature: &str,
    keys: &[Vec<u8>],
    reference: &Reference,
    digest: Digest,
    identity: &Identity,
) -> Result<(), String> {
    let signature = STANDARD.decode(signature.trim()).map_err(|_| "the signature is not base64")?;
    let good = |key: &Vec<u8>| UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(payload, &signature).is_ok();
    if !keys.iter().any(good) {
        return Err("no signature is by a key that the image policy trusts".into());
    }
    let Payload { critical } = serde_json::from_slice(payload).map_err(|error| format!("what is signed: {error}"))?;
    if critical.r#type != PAYLOAD_TYPE || critical.image.docker_manifest_digest != digest {
        return Err("the signature is for another image".into());
    }
    let name = &critical.identity.docker_reference;
    let signed = Reference::parse(name).map_err(|error| error.to_string())?;
    // "busybox" is "busybox:latest" elsewhere, and here a name without a tag.
    let signed_tag = signed
        .tagged()
        .filter(|tagged| tagged.ends_with(name.as_str()) && name.rsplit('/').next().is_some_and(|n| n.contains(':')));
    let exact = signed_tag.is_some() && signed_tag == reference.tagged();
    let matches = match identity {
        Identity::MatchRepository => signed.repository() == reference.repository(),
        Identity::MatchExact => exact,
        Identity::MatchRepoDigestOrExact => {
            exact || reference.digest().is_some() && signed.repository() == reference.repository()
        }
        Identity::ExactRepository { docker_repository } => {
            Reference::parse(docker_repository).is_ok_and(|wanted| wanted.repository() == signed.repository())
        }
    };
    if matches { Ok(()) } else { Err(format!("the signature is for {:?}", signed.repository())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(policy: &Policy, reference: &str) -> &'static str {
        match policy.requirements(&Reference::parse(reference).unwrap()) {
            [Requirement::Reject {}] => "reject",
            [Requirement::DigestRequired {}] => "digest",
            [Requirement::InsecureAcceptAnything {}] => "accept",
            _ => "other",
        }
    }

    #[test]
    fn the_most_specific_scope_counts() {
        let policy: Policy = serde_json::from_str(
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {
                "docker.io/library": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/busybox": [{"type": "digestRequired"}],
                "docker.io/library/busybox:1": [{"type": "insecureAcceptAnything"}],
                "*.example.com": [{"type": "digestRequired"}]}}}"#,
        )
        .unwrap();
        for (reference, expected) in [
            ("alpine", "accept"),
            ("busybox", "digest"),
            ("busybox:1", "accept"),
            ("demo/web", "reject"),
            ("a.example.com:5000/x", "digest"),
            ("b.a.example.com/x/y", "digest"),
            ("example.com/x", "reject"),
        ] {
            assert_eq!(which(&policy, reference), expected, "{reference}");
        }
    }

    #[test]
    fn an_unknown_requirement_is_an_error() {
        for wrong in [
            r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}"#,
            r#"{"default": [{"type": "reject", "keypath": "x"}]}"#,
            r#"{"transports": {}}"#,
        ] {
            assert!(serde_json::from_str::<Policy>(wrong).is_err(), "{wrong}");
        }
    }
}
