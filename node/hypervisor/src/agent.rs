//! Where the agent of a VM is reached.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hypernetes_guest_protocol::session;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Between two attempts to reach an agent that does not listen yet.
const PAUSE: Duration = Duration::from_millis(5);
/// `OK ` and a number of 32 bits.
const MAX_ANSWER: usize = 16;

/// One conversation at a time; a new one may follow a broken one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAddress {
    /// A Unix socket that leads to the agent.
    Unix(PathBuf),
    /// A Unix socket that leads to every port of the guest's vsock: one says first which (Firecracker's `docs/vsock.md`).
    Vsock { socket: PathBuf, port: u32 },
}

impl AgentAddress {
    /// Begins a conversation. Returns when the agent has answered; the caller limits the time.
    ///
    /// # Errors
    /// When there is no VMM.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = match self {
            Self::Unix(socket) => UnixStream::connect(socket).await?,
            Self::Vsock { socket, port } => loop {
                if let Some(stream) = connect_port(socket, *port).await? {
                    break stream;
                }
                tokio::time::sleep(PAUSE).await;
            },
        };
        session::open(&mut stream).await?;
        Ok(stream)
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(socket) => write!(f, "{}", socket.display()),
            Self::Vsock { socket, port } => write!(f, "port {port} behind {}", socket.display()),
        }
    }
}

/// None when nobody listens in the guest.
async fn connect_port(socket: &Path, port: u32) -> io::Result<Option<UnixStream>> {
    let mut stream = UnixStream::connect(socket).await?;
    let ask = async {
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what comes behind the line is the agent's.
        while !answer.ends_with(b"\n") && answer.len() < MAX_ANSWER {
            answer.push(stream.read_u8().await?);
        }
        Ok::<_, io::Error>(answer)
    };
    match ask.await {
        Ok(answer) if answer.starts_with(b"OK ") && answer.ends_with(b"\n") => Ok(Some(stream)),
        Ok(answer) => {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("the VMM answered {answer:?} to CONNECT")))
        }
        // The VMM hangs up.
        Err(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_agent_that_listens_late_is_met() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vsock");
        let listener = UnixListener::bind(&socket).unwrap();
        let vmm = tokio::spawn(async move {
            for answer in ["", "", "OK 1073741824\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut line = [0; 11];
                stream.read_exact(&mut line).await.unwrap();
                assert_eq!(&line, b"CONNECT 52\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if !answer.is_empty() {
                    let first = session::accept(&mut stream).await.unwrap();
                    assert_eq!(first, b"PRI * HT");
                }
            }
        });
        let address = AgentAddress::Vsock { socket: socket.clone(), port: 52 };
        let mut stream = address.connect().await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        vmm.await.unwrap();
        // Nobody is there any more: that is no reason to wait.
        assert_eq!(address.connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn what_is_no_vmm_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vsock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[b'x'; 4096]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        let error = AgentAddress::Vsock { socket, port: 52 }.connect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
