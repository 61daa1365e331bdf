//! Container events: what `GetContainerEvents` streams.

use k8s_cri::v1 as cri;
use tokio::sync::broadcast;

/// Events that a slow reader may be behind before its stream is ended (it lists again then).
const BACKLOG: usize = 1024;

#[derive(Debug)]
pub(crate) struct Events(broadcast::Sender<cri::ContainerEventResponse>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    pub(crate) fn send(&self, event: cri::ContainerEventResponse) {
        // Nobody listening is not an error.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<cri::ContainerEventResponse> {
        self.0.subscribe()
    }
}
