//! A VM's state without its memory, to a file and back: QEMU's migration, in which the memory stays where it is.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::qmp::{Qmp, QmpError};

/// Saving and restoring take some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);
const FD_NAME: &str = "state";

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Monitor(#[from] QmpError),
    #[error("the state: {0}")]
    File(#[from] io::Error),
    #[error("QEMU gave up: {0}")]
    Failed(String),
    #[error("QEMU was not done within {} s", PATIENCE.as_secs())]
    Timeout,
}

/// Stops the VM and writes its state. Its memory has to be a shared file, which is complete then.
pub async fn save(qmp: &mut Qmp, state: OwnedFd) -> Result<(), MigrateError> {
    // A stopped VM is restored stopped: it does not run before it is told to.
    qmp.execute("stop", json!({})).await?;
    prepare(qmp, state).await?;
    // By default it keeps to what networks had in 2009.
    qmp.execute("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40})).await?;
    qmp.execute("migrate", json!({"uri": format!("fd:{FD_NAME}")})).await?;
    done(qmp).await
}

/// Reads a state into a VM that waits for one, and lets it run.
pub async fn restore(qmp: &mut Qmp, state: OwnedFd) -> Result<(), MigrateError> {
    prepare(qmp, state).await?;
    // Else QEMU tells the pod's network the address of the VM that this one is a copy of.
    qmp.execute("migrate-set-parameters", json!({"announce-rounds": 0})).await?;
    qmp.execute("migrate-incoming", json!({"uri": format!("fd:{FD_NAME}")})).await?;
    done(qmp).await?;
    qmp.execute("cont", json!({})).await?;
    Ok(())
}

async fn prepare(qmp: &mut Qmp, state: OwnedFd) -> Result<(), MigrateError> {
    let capabilities = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
    qmp.execute("migrate-set-capabilities", capabilities).await?;
    qmp.execute_with_fd("getfd", json!({"fdname": FD_NAME}), state).await?;
    Ok(())
}

async fn done(qmp: &mut Qmp) -> Result<(), MigrateError> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let answer = qmp.execute("query-migrate", json!({})).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some(status @ ("failed" | "cancelled")) => {
                let why = answer.get("error-desc").and_then(Value::as_str).unwrap_or(status);
                return Err(MigrateError::Failed(why.to_owned()));
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
    Err(MigrateError::Timeout)
}
