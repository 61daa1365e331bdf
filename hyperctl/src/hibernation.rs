//! `hibernate` and `resume`: pods on the disk, with their memory.

use anyhow::{Context, Result, bail};
use hypernetes_hyperd_api::{HibernateSandboxRequest, ResumeSandboxRequest};

use crate::{connection::Clients, cri, units::short_id};

/// Put pods onto the disk with their memory, and end their virtual machines
///
/// A hibernated pod takes no processor and no memory. `hyperctl resume` has it go on where it was, `hyperctl rm` removes it.
/// Its connections and shells do not survive. A kubelet takes a hibernated pod for one that has failed and replaces it: this
/// is for pods without one.
#[derive(clap::Args)]
pub struct Hibernate {
    /// Names of pods or of containers that `hyperctl run` made, NAMESPACE/NAME, or the beginnings of ids.
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

/// Have hibernated pods go on where they were
#[derive(clap::Args)]
pub struct Resume {
    /// As `hyperctl hibernate` has them.
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

impl Hibernate {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for wanted in self.pods {
            let pod_sandbox_id = pod(clients, &wanted).await?;
            let request = HibernateSandboxRequest { pod_sandbox_id };
            clients.hyperd.clone().hibernate_sandbox(request).await.with_context(|| format!("hibernating {wanted}"))?;
            println!("{wanted}");
        }
        Ok(())
    }
}

impl Resume {
    pub async fn run(self, clients: &Clients) -> Result<()> {
        for wanted in self.pods {
            let pod_sandbox_id = pod(clients, &wanted).await?;
            let request = ResumeSandboxRequest { pod_sandbox_id };
            clients.hyperd.clone().resume_sandbox(request).await.with_context(|| format!("resuming {wanted}"))?;
            println!("{wanted}");
        }
        Ok(())
    }
}

/// Id of the pod that is called so.
async fn pod(clients: &Clients, wanted: &str) -> Result<String> {
    let request = cri::ListPodSandboxRequest::default();
    let pods = clients.runtime.clone().list_pod_sandbox(request).await?.into_inner().items;
    choose(&pods, wanted)
}

/// Of several attempts of one pod the newest; `pods` has it first.
fn choose(pods: &[cri::PodSandbox], wanted: &str) -> Result<String> {
    if let Some(pod) = pods.iter().find(|pod| pod.id == wanted) {
        return Ok(pod.id.clone());
    }
    let metadata = |pod: &cri::PodSandbox| pod.metadata.clone().unwrap_or_default();
    let named = |pod: &&cri::PodSandbox| {
        let cri::PodSandboxMetadata { name, namespace, .. } = metadata(pod);
        name == wanted || format!("{namespace}/{name}") == wanted
    };
    let mut matching: Vec<_> = pods.iter().filter(named).collect();
    if matching.is_empty() && wanted.len() >= 2 {
        matching = pods.iter().filter(|pod| pod.id.starts_with(wanted)).collect();
    }
    let Some(first) = matching.first() else { bail!("no pod is called {wanted:?}: see hyperctl vm ls") };
    if !matching.iter().all(|other| metadata(other).uid == metadata(first).uid) {
        let ids: Vec<_> = matching.iter().map(|pod| short_id(&pod.id)).collect();
        bail!("{wanted:?} may be each of {}: name one by its id", ids.join(", "));
    }
    Ok(first.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_names_and_ids() {
        let pod = |id: &str, namespace: &str, name: &str, uid: &str| cri::PodSandbox {
            id: id.into(),
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                namespace: namespace.into(),
                uid: uid.into(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let pods = [
            pod("aa22", "a", "web", "1"),
            pod("aa11", "a", "web", "1"),
            pod("bb11", "b", "db", "2"),
            pod("cc11", "c", "db", "3"),
        ];
        let id = |wanted: &str| choose(&pods, wanted).map_err(|error| error.to_string());
        assert_eq!(id("web").unwrap(), "aa22");
        assert_eq!(id("aa11").unwrap(), "aa11");
        assert_eq!(id("c/db").unwrap(), "cc11");
        assert_eq!(id("bb").unwrap(), "bb11");
        assert!(id("db").unwrap_err().contains("bb11, cc11"));
        assert!(id("x").unwrap_err().contains("no pod"));
    }
}
