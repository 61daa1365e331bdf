//! What earlier versions gave out, and who has to do what to have it anew.
//!
//! What this machine holds the key of is made anew by itself: the operator's kubeconfig, the node's, what the server and the
//! kubelets know each other by (`pki`, `lasting`). Left are copies that somebody has made, and the static kubeconfigs that version
//! e5e31f4 gave out for a year. Those are named, with the command, at each start until it has been given.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_api::types::identity::Project;
use jiff::Timestamp;
use kube::Api;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The credentials in a server's directory, as they were when it started.
pub struct Before {
    /// The operator's certificate, PEM.
    operator: Option<Vec<u8>>,
    tenants: Vec<Static>,
}

/// A certificate that `tenant kubeconfig --static` has given out, and kept.
struct Static {
    /// The tenant's id.
    tenant: String,
    /// In lower-case hexadecimal digits.
    serial: String,
    until: Timestamp,
}

impl Before {
    /// Looks into a server's directory before anything in it is made anew. What cannot be read is not there.
    pub fn look(root: &Path) -> Self {
        let files = fs::read_dir(root.join("pki")).into_iter().flatten().flatten();
        let mut tenants: Vec<_> = files.filter_map(|file| given_out(&file.path())).collect();
        tenants.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Self { operator: operators_certificate(root), tenants }
    }

    /// What whoever has credentials of before has to do. `shown` is what `root` is called outside of this process; a tenant
    /// that is gone needs nothing.
    pub async fn notes(&self, root: &Path, shown: &Path, projects: &Api<Project>) -> Vec<String> {
        let mut notes = Vec::new();
        if self.operator.is_some() && self.operator != operators_certificate(root) {
            notes.push(copy_again(shown));
        }
        for given in self.tenants.iter().filter(|given| given.until > Timestamp::now()) {
            let Ok(Some(project)) = projects.get_opt(&given.tenant).await else { continue };
            let name = &project.spec.display_name;
            notes.push(format!(
                "a static kubeconfig of the tenant {name} is of an earlier version, whose certificates were good for a year \
                 (this one until {}): `hypernetes tenant kubeconfig --static {name}` gives its user another, and \
                 `hypernetes tenant revoke {name} {}` ends it",
                given.until, given.serial
            ));
        }
        notes
    }
}

/// What whoever has a copy of the operator's kubeconfig has to do.
pub fn copy_again(shown_root: &Path) -> String {
    let path = shown_root.join("operator.kubeconfig");
    format!(
        "{0} has a new certificate: who has a copy of it copies it again (install -m 0600 {0} COPY), as the one of before \
         ends",
        path.display()
    )
}

/// PEM, as it is in the kubeconfig of a server's directory.
pub fn operators_certificate(root: &Path) -> Option<Vec<u8>> {
    let kubeconfig: Value = serde_json::from_slice(&fs::read(root.join("operator.kubeconfig")).ok()?).ok()?;
    STANDARD.decode(kubeconfig["users"][0]["user"]["client-certificate-data"].as_str()?).ok()
}

fn given_out(path: &Path) -> Option<Static> {
    let name = path.file_name()?.to_str()?;
    let tenant = name.strip_prefix("tenant-")?.strip_suffix(".crt")?.to_owned();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&fs::read(path).ok()?).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let serial = certificate.raw_serial().iter().skip_while(|byte| **byte == 0);
    let serial = serial.map(|byte| format!("{byte:02x}")).collect();
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(Static { tenant, serial, until })
}
