//! What probes and hooks do inside of a pod: a command, a request over HTTP, or a connection.

use std::time::Duration;

use hypernetes_hyperd_api::DialChunk;
use k8s_openapi::{
    api::core::v1::{ContainerPort, ExecAction, HTTPGetAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::sync::mpsc;

use crate::node::cri::Runtime;

/// The container that it is about.
pub struct Handler {
    pub runtime: Runtime,
    pub container_id: String,
    pub sandbox: String,
    /// What may be named.
    pub ports: Vec<ContainerPort>,
}

impl Handler {
    /// Runs a command, for so long at most.
    ///
    /// # Errors
    /// Why it has not succeeded, in the words of an event.
    pub async fn run(&self, exec: &ExecAction, limit: Duration) -> Result<(), String> {
        let command = exec.command.clone().unwrap_or_default();
        let done = self.runtime.exec(&self.container_id, command, limit).await.map_err(|s| s.message().to_owned())?;
        if done.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&done.stdout).chars().take(500).collect::<String>();
        Err(format!("exit code {}: {output}", done.exit_code))
    }

    /// Asks over HTTP; the code of the answer.
    ///
    /// # Errors
    /// Why there is no answer, in the words of an event.
    pub async fn get(&self, http: &HTTPGetAction, agent: &str) -> Result<u16, String> {
        let port = self.port(&http.port)?;
        let path = http.path.clone().unwrap_or_else(|| "/".into());
        let host = http.host.clone().unwrap_or_else(|| "localhost".into());
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n"
        );
        for header in http.http_headers.iter().flatten() {
            let clean = |text: &str| text.replace(['\r', '\n'], "");
            request.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
        }
        request.push_str("\r\n");
        let answer = self.exchange(port, request.into_bytes()).await?;
        let code = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|c| c.parse::<u16>().ok());
        code.ok_or_else(|| "the answer is not HTTP".into())
    }

    /// # Errors
    /// Why there is no connection, in the words of an event.
    pub async fn connect(&self, tcp: &TCPSocketAction) -> Result<(), String> {
        self.exchange(self.port(&tcp.port)?, Vec::new()).await.map(drop)
    }

    fn port(&self, port: &IntOrString) -> Result<u32, String> {
        match port {
            IntOrString::Int(number) => u32::try_from(*number).map_err(|_| "no such port".to_owned()),
            IntOrString::String(name) => {
                let found = self.ports.iter().find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port);
                found
                    .or_else(|| name.parse().ok())
                    .and_then(|p| u32::try_from(p).ok())
                    .ok_or_else(|| format!("no port is named {name}"))
            }
        }
    }

    /// Connects inside the pod, sends, and returns the first of what comes back; an empty request only connects.
    async fn exchange(&self, port: u32, request: Vec<u8>) -> Result<Vec<u8>, String> {
        let only_connect = request.is_empty();
        let first = DialChunk { pod_sandbox_id: self.sandbox.clone(), port, data: request, ..Default::default() };
        let (keep, rest) = mpsc::channel::<DialChunk>(1);
        let stream = futures::StreamExt::chain(
            futures::stream::iter([first]),
            tokio_stream::wrappers::ReceiverStream::new(rest),
        );
        let answer = self.runtime.dial(stream).await;
        let mut answer = answer.map_err(|s| s.message().to_owned())?;
        if only_connect {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        while bytes.len() < 1024 && !bytes.contains(&b'\n') {
            match answer.message().await.map_err(|s| s.message().to_owned())? {
                Some(chunk) if chunk.close_write && chunk.data.is_empty() => break,
                Some(chunk) => bytes.extend(chunk.data),
                None => break,
            }
        }
        drop(keep);
        Ok(bytes)
    }
}
