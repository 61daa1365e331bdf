//! The connection to a guest's agent. Nothing that comes through it is trusted: messages are bounded in size,
//! every call ends within a time limit, and texts are cleaned before they reach logs or clients.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hypernetes_guest_protocol::{MAX_HOST_PATH_DATA, VERSIONS, v1, v1::agent_client::AgentClient};
use hypernetes_hypervisor::AgentAddress;
use parking_lot::Mutex;
use tonic::{Code, Status, transport::Channel};

/// Largest message that is accepted from a guest. Output chunks, the largest by the contract, are at most 64 KiB; and a
/// message of many empty parts takes a hundred times as much memory when it is decoded.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 10;
/// The same of what the guest writes to paths of the host.
pub(crate) const MAX_HOST_PATH_BYTES: usize = MAX_HOST_PATH_DATA + (16 << 10);
/// Largest message to a guest.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// What a guest may send ahead on one stream, and on all. The streams of clients that do not read (`kubectl exec` into a
/// stopped pager) must not take the room of the others' answers.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest file content in one message to the guest.
const FILE_CHUNK_BYTES: usize = 256 << 10;
/// Time limit of calls that should take no time in the guest.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pings, and for the answer to one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a guest that may still be booting has to answer until it is called anew, at first and at last. A connection
/// that it has lost costs so much; one that is slow must have the time.
const FIRST_CALL: Duration = Duration::from_secs(1);
const LAST_CALL: Duration = Duration::from_secs(16);
pub(crate) const MAX_TEXT: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the pod's agent did not answer {call} within {seconds} s")]
    Timeout { call: &'static str, seconds: u64 },
    /// The agent answered, and refused.
    #[error("{call} in the pod: {message}")]
    Refused { call: &'static str, code: Code, message: String },
    #[error("the pod's agent cannot be reached: {reason}")]
    Unreachable { reason: String },
    /// The agent broke the contract.
    #[error("the pod's agent answered nonsense: {0}")]
    Nonsense(String),
}

impl AgentError {
    pub(crate) fn from_status(call: &'static str, status: &Status) -> Self {
        let message = clean(status.message());
        match status.code() {
            Code::Unavailable | Code::Cancelled => Self::Unreachable { reason: message },
            // What the transport says when the connection broke in the middle of a call.
            Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => {
                Self::Unreachable { reason: message }
            }
            code => Self::Refused { call, code, message },
        }
    }

    /// Whether a repetition may succeed.
    pub(crate) fn is_connection(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unreachable { .. })
    }

    pub(crate) fn is_code(&self, wanted: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// A guest's text, bounded and without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// What the guest says of itself; bounded, otherwise believed by nobody.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    /// Of the contract.
    pub version: u32,
    pub agent_version: String,
    pub kernel_release: String,
    pub boot_id: String,
}

impl Greeting {
    pub(crate) fn checked(response: &v1::HelloResponse) -> Result<Self, AgentError> {
        if !VERSIONS.contains(&response.version) {
            return Err(AgentError::Nonsense(format!(
                "it speaks version {} of the contract, this hyperd {VERSIONS:?}",
                response.version
            )));
        }
        Ok(Self {
            version: response.version,
            agent_version: clean(&response.agent_version),
            kernel_release: clean(&response.kernel_release),
            boot_id: clean(&response.boot_id),
        })
    }
}

/// A client of one guest's agent. Cheap to clone; reconnects by itself when the connection broke.
#[derive(Clone)]
pub(crate) struct Agent {
    /// Replaced when the connection is given up.
    client: Arc<Mutex<AgentClient<Channel>>>,
    address: AgentAddress,
    /// Version of the contract that the last greeting agreed on; 0 before.
    version: Arc<AtomicU32>,
}

impl Agent {
    pub(crate) fn new(address: AgentAddress) -> Self {
        let client = Arc::new(Mutex::new(client(&address)));
        Self { client, address, version: Arc::default() }
    }

    /// Gives the connection up, whatever was under way on it; the next call makes another.
    fn hang_up(&self) {
        *self.client.lock() = client(&self.address);
    }

    /// Whether the agent, having been greeted, knows what came with a version of the contract.
    pub(crate) fn speaks(&self, version: u32) -> bool {
        self.version.load(Ordering::Relaxed) >= version
    }

    pub(crate) fn client(&self) -> AgentClient<Channel> {
        self.client.lock().clone()
    }

    /// Runs one call with a time limit.
    pub(crate) async fn call<T, F>(
        &self,
        call: &'static str,
        limit: Duration,
        make: impl FnOnce(AgentClient<Channel>) -> F,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        match tokio::time::timeout(limit, make(self.client())).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(AgentError::from_status(call, &status)),
            Err(_) => Err(AgentError::Timeout { call, seconds: limit.as_secs() }),
        }
    }

    pub(crate) async fn hello(&self, limit: Duration) -> Result<Greeting, AgentError> {
        let request = v1::HelloRequest { min_version: *VERSIONS.start(), max_version: *VERSIONS.end() };
        let response = self.call("Hello", limit, |mut c| async move { c.hello(request).await }).await?;
        let greeting = Greeting::checked(&response)?;
        self.version.store(greeting.version, Ordering::Relaxed);
        Ok(greeting)
    }

    /// Greets a guest that may still be booting: tries until `limit` is over, over one connection after another.
    pub(crate) async fn hello_within(&self, limit: Duration) -> Result<Greeting, AgentError> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut patience = FIRST_CALL;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.hello(left.min(patience)).await {
                Err(error) if error.is_connection() && tokio::time::Instant::now() < deadline => {
                    tracing::debug!(address = %self.address, %error, "agent not there yet");
                    if matches!(error, AgentError::Timeout { .. }) {
                        self.hang_up();
                        patience = (patience * 2).min(LAST_CALL);
                    } else {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                Err(AgentError::Timeout { call, .. }) => {
                    return Err(AgentError::Timeout { call, seconds: limit.as_secs() });
                }
                other => return other,
            }
        }
    }

    pub(crate) async fn configure(
        &self,
        request: v1::ConfigureSandboxRequest,
        limit: Duration,
    ) -> Result<v1::ConfigureSandboxResponse, AgentError> {
        self.call("ConfigureSandbox", limit, |mut c| async move { c.configure_sandbox(request).await }).await
    }

    /// Replaces the named file set.
    pub(crate) async fn put_files(&self, set: &str, files: Vec<v1::File>) -> Result<(), AgentError> {
        let requests = put_files_requests(set, files);
        self.call("PutFiles", CALL_TIMEOUT, |mut c| async move { c.put_files(futures::stream::iter(requests)).await })
            .await?;
        Ok(())
    }
}

fn put_files_requests(set: &str, files: Vec<v1::File>) -> Vec<v1::PutFilesRequest> {
    let mut requests = vec![v1::PutFilesRequest { set: set.into(), file: None, commit: false }];
    for mut file in files {
        let mut rest = std::mem::take(&mut file.data);
        loop {
            let tail = if rest.len() > FILE_CHUNK_BYTES { rest.split_off(FILE_CHUNK_BYTES) } else { Vec::new() };
            let part = v1::File { data: rest, ..file.clone() };
            requests.push(v1::PutFilesRequest { set: String::new(), file: Some(part), commit: false });
            if tail.is_empty() {
                break;
            }
            rest = tail;
        }
    }
    requests.push(v1::PutFilesRequest { set: String::new(), file: None, commit: true });
    requests
}

fn client(address: &AgentAddress) -> AgentClient<Channel> {
    AgentClient::new(connect(address.clone()))
        .max_decoding_message_size(MAX_ANSWER_BYTES)
        .max_encoding_message_size(MAX_REQUEST_BYTES)
}

/// A channel that connects when it is first used, and again after its connection broke.
fn connect(address: AgentAddress) -> Channel {
    // The authority only fills the HTTP/2 header; the connector ignores it.
    let endpoint = tonic::transport::Endpoint::from_static("http://agent")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // The stream does not end when the guest gives a conversation up: only silence tells.
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let address = address.clone();
        async move { address.connect().await.map(hyper_util::rt::TokioIo::new) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_sent_in_parts_and_committed_last() {
        let file = v1::File { path: "a".into(), data: vec![7; FILE_CHUNK_BYTES * 2 + 1], ..Default::default() };
        let requests = put_files_requests("s", vec![file]);
        assert_eq!(requests.len(), 5);
        assert_eq!(requests[0].set, "s");
        assert!(requests[4].commit && !requests[3].commit);
        let total: usize = requests.iter().filter_map(|r| r.file.as_ref()).map(|f| f.data.len()).sum();
        assert_eq!(total, FILE_CHUNK_BYTES * 2 + 1);
    }

    #[test]
    fn a_guests_words_are_bounded_and_harmless() {
        let text = clean(&format!("\x1b[2Jbad\n{}", "x".repeat(10_000)));
        assert!(text.starts_with("[2Jbadx") && text.len() == MAX_TEXT);
    }
}
