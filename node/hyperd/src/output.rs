//! Reading what a process in the guest writes.

use hypernetes_guest_protocol::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    logs::Stream,
};

/// Largest chunk by the contract.
const MAX_CHUNK: usize = 64 << 10;

/// A checked piece of output.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub stream: Stream,
    pub offset: u64,
    pub data: Vec<u8>,
    pub eof: bool,
}

/// Where each stream goes on, or later: a guest may lose output, and never takes any back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected(pub [u64; 2]);

impl Expected {
    pub(crate) fn check(&mut self, message: v1::OutputChunk) -> Result<Chunk, AgentError> {
        let v1::OutputChunk { stream, offset, data, eof } = message;
        let stream = match stream {
            0 => Stream::Stdout,
            1 => Stream::Stderr,
            other => return Err(AgentError::Nonsense(format!("output of a stream {other}"))),
        };
        let expected = &mut self.0[stream as usize];
        let end = offset.checked_add(data.len() as u64).filter(|_| data.len() <= MAX_CHUNK);
        let Some(end) = end else { return Err(AgentError::Nonsense("an output chunk that is too large".into())) };
        // Either could be repeated without end.
        if offset < *expected {
            return Err(AgentError::Nonsense("output that was there before".into()));
        }
        if data.is_empty() && !eof {
            return Err(AgentError::Nonsense("output that says nothing".into()));
        }
        *expected = end;
        Ok(Chunk { stream, offset, data, eof })
    }
}

/// The output of one process from some offsets on.
pub(crate) struct Output {
    chunks: Streaming<v1::OutputChunk>,
    expected: Expected,
    acknowledgements: mpsc::Sender<v1::ReadOutputRequest>,
}

impl Output {
    /// # Errors
    /// When the agent refuses or cannot be reached.
    pub(crate) async fn open(
        agent: &Agent,
        container_id: &str,
        exec_id: &str,
        (stdout_offset, stderr_offset): (u64, u64),
    ) -> Result<Self, AgentError> {
        let (acknowledgements, requests) = mpsc::channel(8);
        let first = v1::ReadOutputRequest {
            container_id: container_id.into(),
            exec_id: exec_id.into(),
            stdout_offset,
            stderr_offset,
        };
        // The channel is empty and open: this cannot fail.
        let _ = acknowledgements.try_send(first);
        let chunks = agent
            .call("ReadOutput", CALL_TIMEOUT, |mut c| async move { c.read_output(ReceiverStream::new(requests)).await })
            .await?;
        Ok(Self { chunks, expected: Expected([stdout_offset, stderr_offset]), acknowledgements })
    }

    /// The next piece; none when the agent ends the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, AgentError> {
        let message = self.chunks.message().await.map_err(|s| AgentError::from_status("ReadOutput", &s))?;
        message.map(|message| self.expected.check(message)).transpose()
    }

    /// Lets the agent forget what lies before these offsets. A dead connection shows in [`Self::next`].
    pub(crate) async fn acknowledge(&self, (stdout_offset, stderr_offset): (u64, u64)) {
        let request = v1::ReadOutputRequest { stdout_offset, stderr_offset, ..Default::default() };
        let _ = self.acknowledgements.send(request).await;
    }
}
