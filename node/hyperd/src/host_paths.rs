//! Paths of the host in pods: which are allowed, and the conversations in which the guests' requests about them are answered.
//!
//! The requests are those of a hostile guest; what they can reach is decided in `hypernetes_hostfs`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hypernetes_guest_protocol::{
    SINCE_HOST_PATHS,
    v1::{HostPathMount, HostPathReply, HostPathRequest, host_path_request::Operation},
};
use hypernetes_hostfs::{Propagation, ReadOnly, Share, Tree};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT, MAX_HOST_PATH_BYTES},
    error::{Error, Result},
    sandbox::Live,
};

/// Different host paths of one pod. Each may hold up to 4 MiB of a guest's requests and of their answers.
pub(crate) const MAX_HOST_PATHS: usize = 16;
/// Answers that wait for the guest to take them.
const WAITING: usize = 2;
const RETRY: Duration = Duration::from_millis(250);
/// How long a guest may take to write what it has of a host path, and to unmount it.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which host paths pods of the operator may mount, with all that is below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHostPath {
    pub path: PathBuf,
    pub read_only: bool,
}

impl std::str::FromStr for AllowedHostPath {
    type Err = String;

    /// `PATH`, or `PATH:ro`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        if !crate::mounts::is_clean_absolute(Path::new(path)) {
            return Err(format!("{path:?} is not an absolute path without \"..\""));
        }
        Ok(Self { path: path.into(), read_only })
    }
}

/// A host path as a pod has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostPath {
    /// Without links.
    pub path: PathBuf,
    pub read_only: HostPathReadOnly,
    /// What the host mounts below it later appears in the pod.
    pub from_host: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostPathReadOnly {
    No,
    Top,
    Recursive,
}

impl HostPath {
    /// Its name in the guest.
    pub(crate) fn name(&self) -> String {
        let mut digest = Sha256::new();
        digest.update([self.read_only as u8, u8::from(self.from_host)]);
        digest.update(self.path.as_os_str().as_encoded_bytes());
        format!("host-{}", hex::encode(&digest.finalize()[..8]))
    }

    /// A path that is not there becomes a directory, as with other runtimes.
    async fn make_and_open(&self) -> std::io::Result<Share> {
        match self.open().await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let path = self.path.clone();
                let made = tokio::task::spawn_blocking(move || hypernetes_hostfs::make_directory(&path)).await;
                made.map_err(std::io::Error::other).flatten()?;
                self.open().await
            }
            result => result,
        }
    }

    async fn open(&self) -> std::io::Result<Share> {
        let host_path = self.clone();
        let open = move || {
            let read_only = match host_path.read_only {
                HostPathReadOnly::No => ReadOnly::No,
                HostPathReadOnly::Top => ReadOnly::Top,
                HostPathReadOnly::Recursive => ReadOnly::Recursive,
            };
            let propagation = if host_path.from_host { Propagation::FromHost } else { Propagation::Private };
            Share::start(Tree::open(&host_path.path, read_only, propagation)?)
        };
        tokio::task::spawn_blocking(open).await.map_err(std::io::Error::other)?
    }
}

impl Live {
    /// Has a host path mounted in the guest and served until it is released. Once per VM.
    pub(crate) async fn serve_host_path(self: &Arc<Self>, host_path: &HostPath) -> Result<()> {
        if !self.agent.speaks(SINCE_HOST_PATHS) {
            return Err(Error::FailedPrecondition(
                "the pod's agent is older than host paths; a new pod can mount them".into(),
            ));
        }
        let mut served = self.host_paths.lock().await;
        let name = host_path.name();
        if served.contains_key(&name) {
            return Ok(());
        }
        if served.len() >= MAX_HOST_PATHS {
            return Err(Error::Exhausted(format!("a pod can have {MAX_HOST_PATHS} different host paths")));
        }
        let share = host_path.make_and_open().await.map_err(Error::file("sharing", &host_path.path))?;
        let server = Server { name: name.clone(), directory: share.is_directory(), share: Some(share) };
        let first = server.converse(&self.agent).await?;
        served.insert(name, self.keep_serving(server, Some(first)));
        Ok(())
    }

    /// Goes on serving what the guest has mounted. What cannot be shared any more is answered with errors: nobody must wait for
    /// it for ever.
    pub(crate) async fn serve_host_path_again(self: &Arc<Self>, host_path: &HostPath, allowed: bool) {
        let mut served = self.host_paths.lock().await;
        let name = host_path.name();
        if served.contains_key(&name) {
            return;
        }
        let share = if allowed { host_path.open().await } else { Err(Errno::EACCES.into()) };
        let share = share
            .inspect_err(|error| {
                let path = host_path.path.display();
                tracing::warn!(%path, %error, "a host path cannot be shared any more; the pod gets errors");
            })
            .ok();
        // What is mounted stays so; the guest looks at this only when it is not.
        let directory = share.as_ref().is_none_or(Share::is_directory);
        served.insert(name.clone(), self.keep_serving(Server { name, directory, share }, None));
    }

    /// Ends what no container uses any more.
    pub(crate) async fn release_host_path(&self, host_path: &HostPath) {
        // Held until it is unmounted: it may be wanted again at once.
        let mut served = self.host_paths.lock().await;
        let Some(Served { unused, task }) = served.remove(&host_path.name()) else { return };
        unused.cancel();
        let abort = task.abort_handle();
        if tokio::time::timeout(UNMOUNT_TIMEOUT, task).await.is_err() {
            abort.abort();
            tracing::warn!(path = %host_path.path.display(), "the guest did not unmount a host path");
        }
    }

    fn keep_serving(self: &Arc<Self>, server: Server, first: Option<Conversation>) -> Served {
        let (unused, agent, gone) = (CancellationToken::new(), self.agent.clone(), self.gone.clone());
        let end = unused.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = server.serve(&agent, first, &end) => {}
            }
        });
        Served { unused, task }
    }
}

/// A host path that is being served.
pub(crate) struct Served {
    unused: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

struct Server {
    name: String,
    directory: bool,
    /// None: it cannot be shared any more.
    share: Option<Share>,
}

struct Conversation {
    answers: mpsc::Sender<HostPathReply>,
    requests: Streaming<HostPathRequest>,
}

impl Server {
    async fn converse(&self, agent: &Agent) -> Result<Conversation, AgentError> {
        let (answers, outgoing) = mpsc::channel(WAITING);
        let mount = HostPathMount { name: self.name.clone(), directory: self.directory };
        let first = HostPathReply { mount: Some(mount), ..Default::default() };
        // There is room for it, and the receiver is here.
        let _ = answers.try_send(first);
        let outgoing = ReceiverStream::new(outgoing);
        let requests = agent
            .call("ServeHostPath", CALL_TIMEOUT, |c| async move {
                c.max_decoding_message_size(MAX_HOST_PATH_BYTES).serve_host_path(outgoing).await
            })
            .await?;
        Ok(Conversation { answers, requests })
    }

    /// Answers until it is unused and unmounted, in one conversation after another.
    async fn serve(&self, agent: &Agent, mut next: Option<Conversation>, unused: &CancellationToken) {
        loop {
            let conversation = match next.take() {
                Some(conversation) => Ok(conversation),
                None => self.converse(agent).await,
            };
            match conversation {
                Ok(conversation) => {
                    if self.answer(conversation, unused).await {
                        return;
                    }
                }
                Err(error) => tracing::debug!(name = self.name, %error, "a host path is not served"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Returns whether the guest has ended the conversation after it was told to.
    async fn answer(&self, mut conversation: Conversation, unused: &CancellationToken) -> bool {
        let mut told = false;
        loop {
            let request = tokio::select! {
                request = conversation.requests.message() => request,
                () = unused.cancelled(), if !told => {
                    told = true;
                    let end = HostPathReply { end: true, ..Default::default() };
                    if conversation.answers.send(end).await.is_err() {
                        return false;
                    }
                    continue;
                }
            };
            match (request, &self.share) {
                (Ok(Some(request)), Some(share)) => share.submit(request, &conversation.answers).await,
                (Ok(Some(request)), None) => {
                    if matches!(request.operation, Some(Operation::Close(_))) {
                        continue;
                    }
                    let errno = Errno::ESTALE as u32;
                    let refused = HostPathReply { id: request.id, errno, ..Default::default() };
                    if conversation.answers.send(refused).await.is_err() {
                        return false;
                    }
                }
                (Ok(None), _) => return told,
                (Err(status), _) => {
                    tracing::debug!(name = self.name, %status, "serving a host path was interrupted");
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let allowed = |path: &str, read_only| AllowedHostPath { path: path.into(), read_only };
        assert_eq!("/srv".parse(), Ok(allowed("/srv", false)));
        assert_eq!("/srv:rw".parse(), Ok(allowed("/srv", false)));
        assert_eq!("/srv:ro".parse(), Ok(allowed("/srv", true)));
        for bad in ["srv", "", ":ro", "/a/../b"] {
            assert!(bad.parse::<AllowedHostPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ways_to_have_a_path_have_names_of_their_own() {
        let host_path = |read_only, from_host| HostPath { path: "/srv".into(), read_only, from_host }.name();
        let names: std::collections::BTreeSet<String> =
            [HostPathReadOnly::No, HostPathReadOnly::Top, HostPathReadOnly::Recursive]
                .into_iter()
                .flat_map(|read_only| [host_path(read_only, false), host_path(read_only, true)])
                .collect();
        assert_eq!(names.len(), 6);
    }
}
