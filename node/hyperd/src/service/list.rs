//! What the listing calls select, and the same in pieces for those that stream.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use k8s_cri::v1 as cri;
use tonic::{Response, Status};

use super::Service;
use crate::{container::Container, error::Result};

/// Items in one message of a stream: small enough for any client's limit, whatever labels they carry.
const ITEMS: usize = 64;

pub(super) type Pieces<T> = stream::BoxStream<'static, Result<T, Status>>;

/// A list as a stream of messages; an empty list is a stream of none.
pub(super) fn pieces<I, T>(items: Vec<I>, message: impl Fn(Vec<I>) -> T + Send + 'static) -> Response<Pieces<T>>
where
    I: Send + 'static,
    T: Send + 'static,
{
    Response::new(stream::iter(items).chunks(ITEMS).map(move |items| Ok(message(items))).boxed())
}

fn has_labels(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn id_matches(id: &str, wanted: &str) -> bool {
    wanted.is_empty() || id.starts_with(wanted)
}

impl Service {
    /// Newest first.
    pub(super) fn sandbox_list(&self, filter: Option<cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let mut items: Vec<_> = self
            .0
            .sandboxes()
            .iter()
            .map(|s| s.summary())
            .filter(|s| id_matches(&s.id, &filter.id))
            .filter(|s| filter.state.is_none_or(|wanted| wanted.state == s.state))
            .filter(|s| has_labels(&s.labels, &filter.label_selector))
            .collect();
        items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        items
    }

    /// Newest first.
    pub(super) fn container_list(&self, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
        let filter = filter.unwrap_or_default();
        let mut containers: Vec<_> = self
            .0
            .containers()
            .iter()
            .filter(|c| c.is_made())
            .map(|c| c.summary())
            .filter(|c| id_matches(&c.id, &filter.id) && id_matches(&c.pod_sandbox_id, &filter.pod_sandbox_id))
            .filter(|c| filter.state.is_none_or(|wanted| wanted.state == c.state))
            .filter(|c| has_labels(&c.labels, &filter.label_selector))
            .collect();
        containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        containers
    }

    /// Usage of running containers.
    pub(super) async fn container_stats_list(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let mut containers = self.0.containers();
        containers.retain(|c| {
            c.is_made()
                && id_matches(&c.id, &filter.id)
                && id_matches(&c.sandbox_id, &filter.pod_sandbox_id)
                && has_labels(&c.record().config.labels, &filter.label_selector)
        });
        self.stats_of(containers).await
    }

    pub(super) async fn sandbox_stats_list(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let mut sandboxes = self.0.sandboxes();
        sandboxes.retain(|s| {
            s.is_ready()
                && id_matches(&s.id, &filter.id)
                && has_labels(&s.record().config.labels, &filter.label_selector)
        });
        let asked = sandboxes.iter().map(|s| self.0.sandbox_stats(s));
        futures::future::join_all(asked).await.into_iter().filter_map(Result::ok).collect()
    }

    pub(super) async fn metrics_list(&self) -> Vec<cri::PodSandboxMetrics> {
        let sandboxes = self.0.sandboxes();
        let asked = sandboxes.iter().filter(|s| s.is_ready()).map(|s| self.0.metrics(s));
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Usage of containers, sandbox by sandbox; a sandbox that does not answer has none.
    async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Vec<cri::ContainerStats> {
        let mut by_sandbox: HashMap<String, Vec<Arc<Container>>> = HashMap::new();
        for container in containers.into_iter().filter(|c| c.is_running()) {
            by_sandbox.entry(container.sandbox_id.clone()).or_default().push(container);
        }
        let asked = by_sandbox.into_iter().map(|(id, containers)| async move {
            let sandbox = self.0.sandbox(&id)?;
            self.0.container_stats(&sandbox, &containers).await
        });
        futures::future::join_all(asked).await.into_iter().flat_map(Result::unwrap_or_default).collect()
    }
}
