//! C9, of images: registries that are the attacker's own, and pulls that do not end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{findings::Findings, guests, pods::Pod, stage::Stage, wire::Wire};

/// Pods with images that do not come, and how many each has.
const PODS: [&str; 3] = ["attack-pulls-0", "attack-pulls-1", "attack-pulls-2"];
const EACH: usize = 8;
/// Long enough for a kubelet to have asked more than once.
const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: &[&str] = &["ErrImagePull", "ImagePullBackOff", "InvalidImageName"];
/// Between two pieces of a layer that does not end.
const DRIP: Duration = Duration::from_millis(50);

pub async fn run(stage: &Stage, findings: &mut Findings) -> Result<()> {
    let wire = Wire::new(&stage.address, &stage.authority)?;
    // Nobody has configured this one: whoever names it would have the host ask itself.
    let registry = Registry::serve("127.0.0.1:0".parse()?).await?;
    let image = format!("{}/attack/own:1", registry.address);
    let pod = Pod::place(&stage.red.member, "attack-pull", containers(1, |_| image.clone())).await?;
    let reason = pod.until_waits(FAILED, PATIENCE).await;
    let asked = registry.asked.load(Ordering::Relaxed);
    let happened = format!("{asked} connections; the pod waits: {reason}");
    findings.judge("an image of a registry on the host's loopback", asked == 0 && !reason.is_empty(), happened);
    pod.remove().await;
    drop(registry);

    let victim = guests::victim(stage).await?;
    let outcome = attempts(stage, &wire, &victim, findings).await;
    victim.remove().await;
    outcome
}

async fn attempts(stage: &Stage, wire: &Wire, victim: &Pod<'_>, findings: &mut Findings) -> Result<()> {
    let nowhere = |number| format!("attack-{number}.invalid/none:1");
    many(stage, wire, victim, findings, "many images that cannot be had", nowhere).await?;
    let Some(address) = stage.registry else {
        // Its pulls are tried where an operator has given one: no flag of ours makes hyperd ask loopback.
        return Ok(());
    };
    let registry = Registry::serve(address).await.context("serving the registry")?;
    let slow = |number| format!("{address}/attack/slow-{number}:1");
    many(stage, wire, victim, findings, "pulls that do not end", slow).await?;
    let asked = registry.asked.load(Ordering::Relaxed);
    if asked == 0 {
        findings.could_not("pulls that do not end", format!("hyperd did not ask {address}: is it configured?"));
    }
    Ok(())
}

fn containers(count: usize, image: impl Fn(usize) -> String) -> Value {
    let one = |number| json!({"name": format!("c{number}"), "image": image(number), "command": ["true"]});
    (0..count).map(one).collect()
}

/// Pods with so many images; meanwhile the victim's programs and pods go on.
async fn many(
    stage: &Stage,
    wire: &Wire,
    victim: &Pod<'_>,
    findings: &mut Findings,
    what: &str,
    image: impl Fn(usize) -> String,
) -> Result<()> {
    let mut pods = Vec::new();
    for (place, name) in PODS.into_iter().enumerate() {
        let containers = containers(EACH, |number| image(place * EACH + number));
        pods.push(Pod::place(&stage.flood.member, name, containers).await?);
    }
    guests::judge(findings, what, guests::watch(stage, wire, victim).await);
    let began = Instant::now();
    for pod in pods {
        pod.remove().await;
    }
    let gone = began.elapsed() < super::pods::PATIENCE;
    findings.judge(
        &format!("{what}, afterwards"),
        gone,
        format!("their pods went in {} ms", began.elapsed().as_millis()),
    );
    Ok(())
}

/// A registry of images each of whose layer does not end.
struct Registry {
    address: SocketAddr,
    /// Connections that it has had.
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Registry {
    async fn serve(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening at {address}"))?;
        let (address, asked) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let (counted, mut serving) = (asked.clone(), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(async move {
                    let _ = answer(stream).await;
                });
            }
        });
        Ok(Self { address, asked, _serving: serving })
    }
}

/// The configuration of the image of this number: each is of a layer of its own.
fn configuration(number: usize) -> String {
    let layer = format!("sha256:{number:064x}");
    json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer]}})
        .to_string()
}

fn digest(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Of the OCI distribution what a pull asks for.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 16 << 10 {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let head_only = head.starts_with("HEAD");
        let number = path.split("slow-").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok()).unwrap_or(0);
        let configuration = configuration(number);
        let (kind, body) = if path.contains("/manifests/") {
            let manifest = "application/vnd.oci.image.manifest.v1+json";
            let body = json!({"schemaVersion": 2, "mediaType": manifest,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&configuration), "size": configuration.len()},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{:064x}", number + 1), "size": 1 << 30}]});
            (manifest, body.to_string())
        } else if path.ends_with(&digest(&configuration)) {
            ("application/octet-stream", configuration)
        } else if path.contains("/blobs/") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await?;
            loop {
                stream.write_all(&[0; 512]).await?;
                tokio::time::sleep(DRIP).await;
            }
        } else {
            ("application/json", "{}".into())
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\ndocker-content-digest: {}\r\n\r\n{}",
            body.len(),
            digest(&body),
            if head_only { "" } else { &body }
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}
