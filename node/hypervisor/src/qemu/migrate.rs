//! A VM's state to a file, to another VMM, and back: QEMU's migration.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::qmp::{Qmp, QmpError};

/// Saving and restoring without the memory take some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is added to that for memory that is moved, in the worst case.
const SLOWEST_MIB_PER_SECOND: u32 = 20;
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
    #[error("QEMU was not done within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// What becomes of the VM's memory.
#[derive(Clone, Copy)]
enum Memory {
    /// It is, or will be, there already: a file that both machines map.
    Stays,
    Moves,
}

/// How long the memory of a VM may take to be moved.
pub fn patience(memory_mib: u32) -> Duration {
    PATIENCE + Duration::from_secs((memory_mib / SLOWEST_MIB_PER_SECOND).into())
}

/// Stops the VM and writes its state. Its memory has to be a shared file, which is complete then.
pub async fn save(qmp: &mut Qmp, state: OwnedFd) -> Result<(), MigrateError> {
    // A stopped VM is restored stopped: it does not run before it is told to.
    qmp.execute("stop", json!({})).await?;
    outgoing(qmp, state, Memory::Stays).await?;
    done(qmp, PATIENCE).await
}

/// Reads a state into a VM that waits for one. It does not run yet.
pub async fn restore(qmp: &mut Qmp, state: OwnedFd) -> Result<(), MigrateError> {
    incoming(qmp, state, Memory::Stays).await?;
    done(qmp, PATIENCE).await
}

/// Stops a VM and brings all of it, its memory as well, into one that waits, which does not run either. What was sent is
/// still there afterwards, too, and may go on.
pub async fn transfer(from: &mut Qmp, to: &mut Qmp, patience: Duration) -> Result<(), MigrateError> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    from.execute("stop", json!({})).await?;
    incoming(to, far.into(), Memory::Moves).await?;
    outgoing(from, near.into(), Memory::Moves).await?;
    // One that fails tells more than the other, which waits for it.
    tokio::try_join!(done(from, patience), done(to, patience)).map(drop)
}

/// Lets a VM run, whatever was being done with it.
pub async fn go_on(qmp: &mut Qmp) -> Result<(), MigrateError> {
    let status = qmp.execute("query-status", json!({})).await?;
    if status.get("running").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    // One that is under way would stop it again. Without any it does nothing.
    qmp.execute("migrate_cancel", json!({})).await?;
    let began = Instant::now();
    while under_way(&qmp.execute("query-migrate", json!({})).await?) {
        if began.elapsed() > PATIENCE {
            return Err(MigrateError::Timeout(PATIENCE));
        }
        tokio::time::sleep(POLL).await;
    }
    qmp.execute("cont", json!({})).await?;
    Ok(())
}

async fn outgoing(qmp: &mut Qmp, state: OwnedFd, memory: Memory) -> Result<(), MigrateError> {
    prepare(qmp, state, memory).await?;
    // By default it keeps to what networks had in 2009.
    qmp.execute("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40})).await?;
    qmp.execute("migrate", json!({"uri": format!("fd:{FD_NAME}")})).await?;
    Ok(())
}

async fn incoming(qmp: &mut Qmp, state: OwnedFd, memory: Memory) -> Result<(), MigrateError> {
    prepare(qmp, state, memory).await?;
    // Else QEMU tells the pod's network the address of the VM that this one is a copy of.
    qmp.execute("migrate-set-parameters", json!({"announce-rounds": 0})).await?;
    qmp.execute("migrate-incoming", json!({"uri": format!("fd:{FD_NAME}")})).await?;
    Ok(())
}

async fn prepare(qmp: &mut Qmp, state: OwnedFd, memory: Memory) -> Result<(), MigrateError> {
    // Both sides have to agree on it, and a VM that was restored once has it set.
    let stays = matches!(memory, Memory::Stays);
    let capabilities = json!({"capabilities": [{"capability": "x-ignore-shared", "state": stays}]});
    qmp.execute("migrate-set-capabilities", capabilities).await?;
    qmp.execute_with_fd("getfd", json!({"fdname": FD_NAME}), state).await?;
    Ok(())
}

fn under_way(answer: &Value) -> bool {
    !matches!(answer.get("status").and_then(Value::as_str), None | Some("none" | "completed" | "failed" | "cancelled"))
}

async fn done(qmp: &mut Qmp, patience: Duration) -> Result<(), MigrateError> {
    let began = Instant::now();
    while began.elapsed() < patience {
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
    Err(MigrateError::Timeout(patience))
}
