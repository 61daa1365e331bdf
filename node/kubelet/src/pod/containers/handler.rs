//! One attempt of a probe: a command, a request over HTTP, or a connection, inside the pod.

use std::time::Duration;

use hypernetes_hyperd_api::DialChunk;
use k8s_openapi::{
    api::core::v1::{ContainerPort, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::sync::mpsc;

use crate::node::cri::Runtime;

/// The container that is probed.
pub struct Handler {
    pub runtime: Runtime,
    pub container_id: String,
    pub sandbox: String,
    /// What a probe may name.
    pub ports: Vec<ContainerPort>,
}

impl Handler {
    /// One attempt, within the probe's own time.
    ///
    /// # Errors
    /// Why the container is not well, in the words of the event.
    pub async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        let attempt = async {
            if let Some(exec) = &probe.exec {
                let command = exec.command.clone().unwrap_or_default();
                let done =
                    self.runtime.exec(&self.container_id, command, limit).await.map_err(|s| s.message().to_owned())?;
                let output = String::from_utf8_lossy(&done.stdout).chars().take(500).collect::<String>();
                return if done.exit_code == 0 {
                    Ok(())
                } else {
                    Err(format!("exit code {}: {output}", done.exit_code))
                };
            }
            if let Some(http) = &probe.http_get {
                let port = self.port(&http.port)?;
                let path = http.path.clone().unwrap_or_else(|| "/".into());
                let host = http.host.clone().unwrap_or_else(|| "localhost".into());
                let mut request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n"
                );
                for header in http.http_headers.iter().flatten() {
                    let clean = |text: &str| text.replace(['\r', '\n'], "");
                    request.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
                }
                request.push_str("\r\n");
                let answer = self.exchange(port, request.into_bytes()).await?;
                let code = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|c| c.parse::<u16>().ok());
                return match code {
                    Some(200..400) => Ok(()),
                    Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
                    None => Err("the answer is not HTTP".into()),
                };
            }
            if let Some(tcp) = &probe.tcp_socket {
                return self.exchange(self.port(&tcp.port)?, Vec::new()).await.map(drop);
            }
            Err("this kind of probe is not supported".into())
        };
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(format!("timeout after {} s", limit.as_secs())))
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
