//! `hypernetes login`: kubectl's credential plugin.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result};
use hypernetes_identity::login::Login as KeystoneLogin;

use crate::openrc;

/// Log in with Keystone and print the credential for kubectl
///
/// kubectl runs this by itself when a kubeconfig says so (client-go's exec plugins). The settings are those of the
/// openstack client: OS_AUTH_URL, OS_USERNAME, OS_PASSWORD or OS_PASSWORD_FILE, OS_PROJECT_NAME, OS_CACERT and so on, from
/// --openrc or from the environment. Tokens are kept in ~/.cache/hypernetes, for their owner alone, until they expire.
#[derive(clap::Args)]
pub struct Login {
    /// Print a client.authentication.k8s.io/v1 ExecCredential (what kubectl wants; there is no other form yet).
    #[arg(long, required = true)]
    exec_credential: bool,
    /// File with the settings, as `. FILE` would set them; the environment's are used where it has none.
    #[arg(long, value_name = "FILE")]
    openrc: Option<PathBuf>,
}

impl Login {
    pub async fn run(self) -> Result<()> {
        let settings = match &self.openrc {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                openrc::parse(&text)
            }
            None => HashMap::new(),
        };
        let get = |name: &str| settings.get(name).cloned().or_else(|| std::env::var(name).ok());
        let login = KeystoneLogin::from_environment(get)?;
        debug_assert!(self.exec_credential);
        println!("{}", login.exec_credential().await?);
        Ok(())
    }
}
