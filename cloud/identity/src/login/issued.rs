//! Tokens that have been issued, and the file that keeps one until shortly before it expires.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Login, LoginError};

/// A token that expires sooner is not handed out again.
const MARGIN: SignedDuration = SignedDuration::from_mins(2);

pub(crate) struct Issued {
    pub token: String,
    pub expires_at: Timestamp,
}

impl Issued {
    pub fn to_exec_credential(&self) -> Value {
        json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            // metav1.Time has whole seconds.
            "status": {"token": self.token, "expirationTimestamp": self.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
        })
    }

    fn from_exec_credential(value: &Value) -> Option<Self> {
        let status = &value["status"];
        let expires_at = status["expirationTimestamp"].as_str()?.parse().ok()?;
        Some(Self { token: status["token"].as_str()?.to_owned(), expires_at })
    }
}

impl Login {
    /// The file for this user at this place in this project.
    fn file(&self) -> Option<PathBuf> {
        let who = format!("{}\0{:?}\0{:?}", self.auth_url, self.user, self.project);
        Some(self.cache.as_ref()?.join(format!("{}.json", hex::encode(Sha256::digest(who)))))
    }

    pub(super) fn kept(&self) -> Option<Issued> {
        let value: Value = serde_json::from_slice(&fs::read(self.file()?).ok()?).ok()?;
        let issued = Issued::from_exec_credential(&value)?;
        (Timestamp::now().checked_add(MARGIN).ok()? < issued.expires_at).then_some(issued)
    }

    pub(super) fn keep(&self, issued: &Issued) -> Result<(), LoginError> {
        let Some(file) = self.file() else { return Ok(()) };
        let write = || -> io::Result<()> {
            let directory = file.parent().unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            // Under another name first: nobody reads half a file.
            let new = file.with_extension(format!("{}.new", std::process::id()));
            let _ = fs::remove_file(&new);
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.open(&new)?.write_all(issued.to_exec_credential().to_string().as_bytes())?;
            fs::rename(&new, &file)
        };
        write().map_err(|error| LoginError::Cache(file.clone(), error))
    }
}
