//! Containers by what people call them: name, pod, or the beginning of the id.

use anyhow::{Result, bail};

use crate::{connection::Clients, cri, units::short_id};

/// On pods that `run` made.
pub const RUN_LABEL: &str = "hyperctl.hypernetes.io/run";

/// A container with the pod it is in.
#[derive(Debug, Clone)]
pub struct Found {
    pub container: cri::Container,
    pub pod: cri::PodSandbox,
}

impl Found {
    pub fn name(&self) -> &str {
        self.container.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default()
    }

    pub fn pod_name(&self) -> &str {
        self.pod.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default()
    }

    /// `run` made it: the pod has no other container, and no other purpose.
    pub fn is_ours(&self) -> bool {
        self.pod.labels.contains_key(RUN_LABEL)
    }
}

/// All containers, newest first.
pub async fn all(clients: &Clients) -> Result<Vec<Found>> {
    let mut runtime = clients.runtime.clone();
    let pods = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
    let containers = runtime.list_containers(cri::ListContainersRequest::default()).await?.into_inner().containers;
    let found = containers.into_iter().filter_map(|container| {
        let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id)?.clone();
        Some(Found { container, pod })
    });
    Ok(found.collect())
}

/// The one container of that name or id; of several attempts of one name, the newest.
pub async fn one(clients: &Clients, wanted: &str) -> Result<Found> {
    choose(all(clients).await?, wanted)
}

fn choose(all: Vec<Found>, wanted: &str) -> Result<Found> {
    if let Some(found) = all.iter().find(|found| found.container.id == wanted) {
        return Ok(found.clone());
    }
    let qualified = |found: &Found| format!("{}/{}", found.pod_name(), found.name());
    let named: Vec<&Found> = all.iter().filter(|f| f.name() == wanted || qualified(f) == wanted).collect();
    let matching = if named.is_empty() && wanted.len() >= 2 {
        all.iter().filter(|found| found.container.id.starts_with(wanted)).collect()
    } else {
        named
    };
    let Some(first) = matching.first() else { bail!("no container is called {wanted:?}: see hyperctl ps -a") };
    let same_name = |other: &&Found| other.name() == first.name() && other.pod.id == first.pod.id;
    if !matching.iter().all(same_name) {
        let ids: Vec<_> =
            matching.iter().map(|f| format!("{} ({})", short_id(&f.container.id), qualified(f))).collect();
        bail!("{wanted:?} may be each of {}: name one by its id", ids.join(", "));
    }
    Ok((*first).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: &str, name: &str, pod: &str, attempt: u32) -> Found {
        Found {
            container: cri::Container {
                id: id.into(),
                metadata: Some(cri::ContainerMetadata { name: name.into(), attempt }),
                ..Default::default()
            },
            pod: cri::PodSandbox {
                id: pod.into(),
                metadata: Some(cri::PodSandboxMetadata { name: pod.into(), ..Default::default() }),
                ..Default::default()
            },
        }
    }

    #[test]
    fn names_ids_and_their_beginnings() {
        let all = || {
            vec![
                found("aa22", "web", "p", 1),
                found("aa11", "web", "p", 0),
                found("bb11", "db", "p", 0),
                found("bb12", "db", "q", 0),
            ]
        };
        let id = |wanted: &str| choose(all(), wanted).map(|found| found.container.id).map_err(|e| e.to_string());
        // The newest attempt, or whichever is named by its id.
        assert_eq!(id("web").unwrap(), "aa22");
        assert_eq!(id("aa11").unwrap(), "aa11");
        assert_eq!(id("q/db").unwrap(), "bb12");
        assert_eq!(id("bb12").unwrap(), "bb12");
        assert!(id("db").unwrap_err().contains("bb11"));
        assert!(id("bb1").unwrap_err().contains("may be each of"));
        assert!(id("c").unwrap_err().contains("no container"));
        assert!(id("").is_err());
    }
}
