//! Readiness, by systemd's protocol (sd_notify(3)): a role says `READY=1` and `STATUS=…` to whoever started it, be
//! that systemd or our own supervisor.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// A way to whoever started this process that stays open whoever the process becomes.
static CONNECTED: OnceLock<UnixDatagram> = OnceLock::new();

/// Opens the way to whoever started this process now, because later it could not be opened any more.
pub fn connect() {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(&path).map(|()| socket));
    match connected {
        Ok(socket) => drop(CONNECTED.set(socket)),
        Err(error) => tracing::debug!(%error, "cannot reach the supervisor"),
    }
}

/// Tells whoever started this process, if they want to know.
pub fn tell(state: &str) {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let send = || match CONNECTED.get() {
        Some(socket) => socket.send(state.as_bytes()),
        None => UnixDatagram::unbound()?.send_to(state.as_bytes(), Path::new(&path)),
    };
    if let Err(error) = send() {
        tracing::debug!(%error, "cannot tell the supervisor");
    }
}

/// How long what is begun with readiness takes at the most, usually.
const SETTLED: Duration = Duration::from_secs(2);

/// Tells it, and that what was only needed until now is not any more. Called from where tokio is.
pub fn ready() {
    tell("READY=1");
    tokio::spawn(async {
        tokio::time::sleep(SETTLED).await;
        crate::text::forget();
    });
}

pub fn status(text: &str) {
    tell(&format!("STATUS={text}"));
}

/// What a started process says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Ready,
    Status(String),
}

/// Hears what one started process says.
pub struct Listener {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
}

impl Listener {
    /// # Errors
    /// When the socket cannot be made at the path.
    pub fn bind(path: PathBuf) -> std::io::Result<Self> {
        let _ = std::fs::remove_file(&path);
        Ok(Self { socket: tokio::net::UnixDatagram::bind(&path)?, path })
    }

    /// What the started process has to find in its environment.
    pub fn environment(&self) -> (&'static str, &Path) {
        (VARIABLE, &self.path)
    }

    pub async fn next(&self) -> std::io::Result<Message> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            for line in text.lines() {
                if line == "READY=1" {
                    return Ok(Message::Ready);
                }
                if let Some(status) = line.strip_prefix("STATUS=") {
                    return Ok(Message::Status(status.to_owned()));
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
