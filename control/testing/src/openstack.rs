//! The stock openstack client.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::process::Command;

/// Calls it as one user, of the domain `Default`.
pub struct Client {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Client {
    /// As `admin` of the project `admin`. `url`: where `/identity/v3` is.
    ///
    /// # Panics
    /// When the client is not installed.
    pub fn new(url: &str, password: &str) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/venv/bin/openstack");
        assert!(program.exists(), "{} is missing: scripts/client-tools.sh installs it", program.display());
        let environment = vec![
            ("OS_AUTH_URL", format!("{url}/identity/v3")),
            ("OS_IDENTITY_API_VERSION", "3".into()),
            ("OS_USERNAME", "admin".into()),
            ("OS_PASSWORD", password.into()),
            ("OS_PROJECT_NAME", "admin".into()),
            ("OS_USER_DOMAIN_NAME", "Default".into()),
            ("OS_PROJECT_DOMAIN_NAME", "Default".into()),
        ];
        Self { program, environment }
    }

    /// The same for another user of the domain.
    pub fn as_user(&self, user: &str, password: &str, project: &str) -> Self {
        let mut environment = self.environment.clone();
        for (name, value) in [("OS_USERNAME", user), ("OS_PASSWORD", password), ("OS_PROJECT_NAME", project)] {
            environment.retain(|(other, _)| *other != name);
            environment.push((name, value.to_owned()));
        }
        Self { program: self.program.clone(), environment }
    }

    /// What it says: where it succeeds on standard output, else on standard error. Arguments are separated by spaces.
    pub async fn run(&self, arguments: &str) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(self.environment.iter().cloned());
        command.args(arguments.split_whitespace()).stdin(Stdio::null());
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// What it says.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ok(&self, arguments: &str) -> String {
        self.run(arguments).await.unwrap_or_else(|error| panic!("openstack {arguments}: {error}"))
    }

    /// [`Client::ok`] with `-f json`.
    pub async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{arguments} -f json")).await).unwrap()
    }

    /// Its complaint.
    ///
    /// # Panics
    /// When it succeeds.
    pub async fn refused(&self, arguments: &str) -> String {
        self.run(arguments).await.expect_err("should have been refused")
    }
}
