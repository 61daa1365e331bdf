//! Pods that take part: made, waited for, and told what to run, by a member of their tenant.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{stage::Caller, wire::Wire};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// How long a pod may take to start or to go, and a program to end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const AGAIN: Duration = Duration::from_millis(20);

/// A program that runs in a pod, and what it has written.
pub type Session = WebSocketStream<TlsStream<TcpStream>>;

/// A pod that was made.
pub struct Pod<'a> {
    caller: &'a Caller,
    name: &'static str,
}

impl<'a> Pod<'a> {
    /// Makes it and waits until it is ready.
    pub async fn start(caller: &'a Caller, name: &'static str, image: &str, script: &str) -> Result<Self> {
        let containers = json!([{
            "name": "c", "image": image, "command": ["sh", "-c", script],
            // All that it can have in its own VM.
            "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        }]);
        let pods = Self::place(caller, name, containers).await?;
        let begun = Instant::now();
        loop {
            let status = pods.get().await;
            let mut conditions = status["conditions"].as_array().into_iter().flatten();
            if conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
                return Ok(pods);
            }
            ensure!(begun.elapsed() < PATIENCE, "the pod {name} of {image} was not ready: {status}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Makes it, of these containers.
    pub async fn place(caller: &'a Caller, name: &'static str, containers: Value) -> Result<Self> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": containers}});
        caller.post(PODS, &pod).await.needed(&format!("making the pod {name}"))?;
        Ok(Self { caller, name })
    }

    /// For which of these reasons its first container waits; none: it does not, after all this time.
    pub async fn until_waits(&self, reasons: &[&str], patience: Duration) -> String {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            let status = self.get().await;
            let reason = status["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default();
            if reasons.contains(&reason) {
                return reason.to_owned();
            }
            tokio::time::sleep(AGAIN).await;
        }
        String::new()
    }

    async fn get(&self) -> Value {
        let mut answer = self.caller.get(&format!("{PODS}/{}", self.name)).await;
        answer.body["status"].take()
    }

    pub async fn address(&self) -> Result<String> {
        let status = self.get().await;
        let address = status["podIP"].as_str().filter(|address| !address.is_empty());
        address.map(str::to_owned).with_context(|| format!("the pod {} has no address", self.name))
    }

    /// Removes it and waits until it is gone.
    pub async fn remove(self) {
        let path = format!("{PODS}/{}", self.name);
        let begun = Instant::now();
        while self.caller.delete(&path).await.code != 404 && begun.elapsed() < PATIENCE {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Runs a script in it, over a connection of its own from 127.0.0.`source`: whether it succeeded, and what it wrote.
    pub async fn run(&self, wire: &Wire, source: u8, script: &str) -> Result<(bool, String)> {
        let ended = tokio::time::timeout(PATIENCE, self.exec(wire, source, script)).await;
        ended.with_context(|| format!("what the pod {} was told has not ended", self.name))?
    }

    /// Runs a script in it until it writes that.
    pub async fn until_says(&self, wire: &Wire, source: u8, script: &str, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (_, said) = self.run(wire, source, script).await?;
            if said == wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "the pod {} says {said:?} and not {wanted:?}", self.name);
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn exec(&self, wire: &Wire, source: u8, script: &str) -> Result<(bool, String)> {
        let mut session = self.session(wire, source, script).await?;
        let mut output = String::new();
        while let Some(message) = session.next().await {
            let Message::Binary(bytes) = message? else { continue };
            match bytes.split_first() {
                Some((1 | 2, text)) => output.push_str(&String::from_utf8_lossy(text)),
                // How it ended.
                Some((3, status)) => {
                    let status: Value = serde_json::from_slice(status)?;
                    return Ok((status["status"] == "Success", output));
                }
                _ => {}
            }
        }
        bail!("it was cut off")
    }

    /// Begins to run a script in it. What it writes waits to be read.
    pub async fn session(&self, wire: &Wire, source: u8, script: &str) -> Result<Session> {
        let stream = wire.tls(source).await?;
        let mut query = form_urlencoded::Serializer::new(String::from("stdout=true&stderr=true"));
        for word in ["sh", "-c", script] {
            query.append_pair("command", word);
        }
        let url = format!("wss://{}{PODS}/{}/exec?{}", wire.address(), self.name, query.finish());
        let mut request = url.into_client_request()?;
        let authorization = self.caller.authorization.as_deref().unwrap_or_default();
        request.headers_mut().insert("authorization", authorization.parse()?);
        request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse()?);
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }
}
