//! The plugin's process: environment and standard input in, standard output and exit code out.

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    TAP, VERSIONS,
    protocol::{Failure, MAX_MESSAGE, Reply, Request, code},
};

/// Longer than the agent waits for a port.
const PATIENCE: Duration = Duration::from_secs(25);

/// The network configuration on standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    cni_version: String,
    #[serde(default)]
    socket: String,
    #[serde(default)]
    runtime_config: serde_json::Map<String, Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

/// The executable's whole work: one operation, as a runtime asks for it.
pub fn main() -> ExitCode {
    let environment: HashMap<String, String> = std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_MESSAGE).read_to_end(&mut input);
    let result = match read {
        Ok(_) => run(&environment, &input),
        Err(error) => Err(Failure::new(code::IO, format!("reading the configuration: {error}"))),
    };
    let (output, status) = match result {
        Ok(Value::Null) => return ExitCode::SUCCESS,
        Ok(result) => (result, ExitCode::SUCCESS),
        Err(failure) => {
            let mut output = json!(failure);
            output["cniVersion"] = VERSIONS[0].into();
            (output, ExitCode::FAILURE)
        }
    };
    match writeln!(std::io::stdout(), "{output}") {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(environment: &HashMap<String, String>, input: &[u8]) -> Reply {
    let variable = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let needed = |name: &str| {
        variable(name).ok_or_else(|| Failure::new(code::INVALID_ENVIRONMENT, format!("{name} is not set")))
    };
    let command = needed("CNI_COMMAND")?;
    if command == "VERSION" {
        let config: Value = serde_json::from_slice(input).unwrap_or_default();
        let version = config["cniVersion"].as_str().unwrap_or(VERSIONS[0]);
        return Ok(json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
    let config: Config = serde_json::from_slice(input)
        .map_err(|error| Failure::new(code::DECODE, format!("the network configuration: {error}")))?;
    let version = config.cni_version;
    if !VERSIONS.contains(&version.as_str()) {
        let msg = format!("version {version:?} of CNI is not supported; want one of {VERSIONS:?}");
        return Err(Failure::new(code::INCOMPATIBLE_VERSION, msg));
    }
    let container_id = || needed("CNI_CONTAINERID").map(str::to_owned);
    let request = match command {
        "ADD" => {
            let arguments = arguments(variable("CNI_ARGS").unwrap_or_default());
            let argument = |name: &str| {
                arguments
                    .get(name)
                    .filter(|value| !value.is_empty())
                    .map(|value| (*value).to_owned())
                    .ok_or_else(|| Failure::new(code::INVALID_ENVIRONMENT, format!("CNI_ARGS does not say {name}")))
            };
            Request::Add {
                container_id: container_id()?,
                tenant: argument("HYPERNETES_TENANT")?,
                pod_uid: argument("K8S_POD_UID")?,
                // A runtime without one to offer says `true`, or nothing.
                tap: config.runtime_config.get(TAP).cloned().and_then(|tap| serde_json::from_value(tap).ok()),
            }
        }
        "DEL" => Request::Del { container_id: container_id()? },
        "CHECK" => Request::Check { container_id: container_id()? },
        "GC" => {
            let valid = config.valid_attachments.ok_or_else(|| {
                Failure::new(code::INVALID_CONFIG, "cni.dev/valid-attachments is missing: it says what to keep")
            })?;
            Request::Gc { valid: valid.into_iter().map(|attachment| attachment.container_id).collect() }
        }
        "STATUS" => Request::Status,
        other => return Err(Failure::new(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {other:?} is not known"))),
    };
    if config.socket.is_empty() {
        return Err(Failure::new(code::INVALID_CONFIG, "the network configuration does not say the agent's socket"));
    }
    let mut result = ask(Path::new(&config.socket), &request)?;
    if result.is_object() {
        result["cniVersion"] = version.into();
    }
    Ok(result)
}

/// `A=1;B=2`
fn arguments(text: &str) -> HashMap<&str, &str> {
    text.split(';').filter_map(|pair| pair.split_once('=')).collect()
}

fn ask(socket: &Path, request: &Request) -> Reply {
    let code = if *request == Request::Status { code::UNAVAILABLE } else { code::TRY_AGAIN_LATER };
    let failed = |error: std::io::Error| {
        Failure::new(code, format!("the network agent at {} does not answer: {error}", socket.display()))
    };
    let exchange = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&serde_json::to_vec(request)?)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.take(MAX_MESSAGE).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(failed)?;
    serde_json::from_slice::<Reply>(&answer).map_err(|error| failed(error.into()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn versions() {
        let answer = run(&environment(&[("CNI_COMMAND", "VERSION")]), br#"{"cniVersion":"1.1.0"}"#).unwrap();
        assert_eq!(answer, json!({"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]}));
    }

    #[test]
    fn bad_input_has_the_codes_of_the_specification() {
        let add = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c")];
        let args = ("CNI_ARGS", "K8S_POD_UID=u;HYPERNETES_TENANT=t");
        let good = br#"{"cniVersion":"1.0.0","socket":"/nowhere/netagent.sock"}"#;
        let code_of = |pairs: &[(&str, &str)], input: &[u8]| run(&environment(pairs), input).unwrap_err().code;
        assert_eq!(code_of(&[], good), code::INVALID_ENVIRONMENT);
        assert_eq!(code_of(&[("CNI_COMMAND", "DANCE")], good), code::INVALID_ENVIRONMENT);
        assert_eq!(code_of(&[("CNI_COMMAND", "DEL")], good), code::INVALID_ENVIRONMENT);
        assert_eq!(code_of(&add, good), code::INVALID_ENVIRONMENT);
        assert_eq!(code_of(&[("CNI_COMMAND", "ADD"), args], b"{"), code::DECODE);
        assert_eq!(code_of(&[add[0], add[1], args], br#"{"cniVersion":"0.1.0"}"#), code::INCOMPATIBLE_VERSION);
        assert_eq!(code_of(&[add[0], add[1], args], br#"{"cniVersion":"1.0.0"}"#), code::INVALID_CONFIG);
        assert_eq!(code_of(&[add[0], add[1], args], good), code::TRY_AGAIN_LATER);
        assert_eq!(code_of(&[("CNI_COMMAND", "GC")], good), code::INVALID_CONFIG);
        assert_eq!(code_of(&[("CNI_COMMAND", "STATUS")], good), code::UNAVAILABLE);
    }
}
