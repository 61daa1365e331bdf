//! Running one plugin: environment and standard input in, standard output and exit code out.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CniError, version::Version};

/// Most that a plugin may print.
const MAX_OUTPUT: u64 = 1 << 20;

/// What a plugin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// How long it may take. Address servers and busy hosts are slow; the kubelet asks for the status every few seconds.
    fn patience(self) -> Duration {
        match self {
            Self::Add | Self::Del => Duration::from_secs(60),
            Self::Check | Self::Gc => Duration::from_secs(15),
            Self::Status | Self::Version => Duration::from_secs(5),
        }
    }
}

/// Which attachment an operation is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    pub container_id: String,
    /// None: there is none, or not any more.
    pub netns: Option<PathBuf>,
    pub interface: &'static str,
    /// CNI_ARGS
    pub arguments: String,
}

/// Runs the plugin `name`. Gives what it printed.
pub(crate) async fn run(
    directories: &[PathBuf],
    name: &str,
    command: Command,
    config: Map<String, Value>,
    subject: &Subject,
) -> Result<Vec<u8>, CniError> {
    let run_error = |reason: String| CniError::Run { plugin: name.into(), reason };
    let program = find(directories, name)?;
    let mut process = tokio::process::Command::new(program);
    process.env_clear().env("CNI_COMMAND", command.name()).env("CNI_PATH", search_path(directories));
    process.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if !subject.container_id.is_empty() {
        let netns = subject.netns.as_deref().unwrap_or(Path::new(""));
        process.env("CNI_CONTAINERID", &subject.container_id).env("CNI_NETNS", netns);
        process.env("CNI_IFNAME", subject.interface).env("CNI_ARGS", &subject.arguments);
    }
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = process.spawn().map_err(|e| run_error(e.to_string()))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(run_error("no pipes".into()));
    };
    let input = Value::Object(config).to_string();
    let work = async {
        let write = async move {
            // A plugin need not read its input.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(MAX_OUTPUT), stderr.take(MAX_OUTPUT));
        let (_, read, _) = tokio::join!(write, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        read?;
        drop((stdout, stderr));
        Ok::<_, io::Error>((child.wait().await?, out, err))
    };
    let seconds = command.patience().as_secs();
    let (status, out, err) = tokio::time::timeout(command.patience(), work)
        .await
        .map_err(|_| CniError::Timeout { plugin: name.into(), command: command.name(), seconds })?
        .map_err(|e| run_error(e.to_string()))?;
    if !err.is_empty() {
        tracing::debug!(plugin = name, command = command.name(), stderr = %clean(&err), "a plugin said something");
    }
    if status.success() {
        return Ok(out);
    }
    Err(failure(name, &out).unwrap_or_else(|| run_error(format!("it ended with {status}: {}", last_words(&err, &out)))))
}

/// The versions that a plugin speaks, as far as we do.
pub(crate) async fn versions(directories: &[PathBuf], name: &str, ours: Version) -> Result<Vec<Version>, CniError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        #[serde(default)]
        supported_versions: Vec<String>,
    }
    let config = Map::from_iter([("cniVersion".to_owned(), ours.to_string().into())]);
    let output = run(directories, name, Command::Version, config, &Subject::default()).await?;
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|e| CniError::Result { plugin: name.into(), reason: e.to_string() })?;
    Ok(answer.supported_versions.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The plugin's executable: in the first directory that has it.
pub(crate) fn find(directories: &[PathBuf], name: &str) -> Result<PathBuf, CniError> {
    directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        CniError::Missing { plugin: name.into(), directories: search_path(directories).to_string_lossy().into_owned() }
    })
}

fn search_path(directories: &[PathBuf]) -> std::ffi::OsString {
    std::env::join_paths(directories).unwrap_or_default()
}

/// An error as the specification has it.
fn failure(name: &str, out: &[u8]) -> Option<CniError> {
    #[derive(Deserialize)]
    struct Failure {
        code: u64,
        msg: String,
        #[serde(default)]
        details: String,
    }
    let Failure { code, msg, details } = serde_json::from_slice(out).ok()?;
    let message = if details.is_empty() { msg } else { format!("{msg}: {details}") };
    Some(CniError::Plugin { plugin: name.into(), code, message: clean(message.as_bytes()) })
}

/// What a plugin that failed without saying why in the proper way said at all.
fn last_words(err: &[u8], out: &[u8]) -> String {
    match clean(err) {
        text if text.is_empty() => clean(out),
        text => text,
    }
}

fn clean(text: &[u8]) -> String {
    crate::agent::clean(String::from_utf8_lossy(text).trim())
}
