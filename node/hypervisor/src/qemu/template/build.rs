//! Making a template: a VM boots, is stopped when its agent waits, and a copy of it is tried.

use std::{io, path::Path, sync::Arc, time::Duration};

use super::{Form, Key, Template};
use crate::{
    HypervisorError, Vm,
    qemu::{
        Shared,
        greet::{GreetError, greet},
        memory,
        migrate::MigrateError,
        original::{Original, Requests},
        temporary::Temporary,
        vm::Origin,
    },
};

const BOOT_PATIENCE: Duration = Duration::from_secs(60);
const TRIAL_PATIENCE: Duration = Duration::from_secs(10);
/// After the greeting, until the agent has seen that nobody is there any more and has nothing to do.
const SETTLE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("its memory: {0}")]
    Memory(#[from] io::Error),
    #[error(transparent)]
    Vm(#[from] HypervisorError),
    #[error("it did not boot: {0}")]
    Boot(GreetError),
    #[error("its rehearsal: {0}")]
    Rehearsal(String),
    #[error("saving it: {0}")]
    Save(#[from] MigrateError),
    #[error("a copy of it did not work: {0}")]
    Trial(GreetError),
}

pub async fn build(shared: &Shared, key: &Key) -> Result<Arc<Template>, BuildError> {
    let (form, bytes) = match shared.forks_with() {
        Some(library) => stand(shared, key, library).await?,
        None => save(shared, key).await?,
    };
    let template = Arc::new(Template { key: key.clone(), form, bytes, copies: Default::default() });
    // A template that does not work would take every pod after this one with it.
    let copy = Temporary::start(shared, key.spec(Temporary::id()), Origin::Trial(&template)).await?;
    greet(copy.0.agent_socket(), TRIAL_PATIENCE).await.map_err(BuildError::Trial)?;
    copy.0.kill().await?;
    Ok(template)
}

/// A VM becomes two files.
async fn save(shared: &Shared, key: &Key) -> Result<(Form, u64), BuildError> {
    let guest_memory = memory::create("hypernetes-template-memory", u64::from(key.memory_mib) << 20)?;
    let state = memory::create("hypernetes-template-state", 0)?;
    let original = Temporary::start(shared, key.spec(Temporary::id()), Origin::Original(&guest_memory)).await?;
    original.0.set_background(true);
    greet(original.0.agent_socket(), BOOT_PATIENCE).await.map_err(BuildError::Boot)?;
    tokio::time::sleep(SETTLE).await;
    original.0.save(state.try_clone()?).await?;
    original.0.kill().await?;
    memory::seal(&guest_memory).await?;
    memory::seal(&state).await?;
    let bytes = memory::used_bytes(&guest_memory)? + memory::used_bytes(&state)?;
    Ok((Form::Saved { memory: guest_memory, state }, bytes))
}

/// A VM stands still.
async fn stand(shared: &Shared, key: &Key, library: &Path) -> Result<(Form, u64), BuildError> {
    let (requests, theirs) = Requests::new()?;
    let origin = Origin::Forkable(library, &theirs);
    let original = Temporary::start(shared, key.spec(Temporary::id()), origin).await?;
    drop(theirs);
    original.0.set_background(true);
    greet(original.0.agent_socket(), BOOT_PATIENCE).await.map_err(BuildError::Boot)?;
    if let Some(rehearsal) = &shared.rehearsal {
        rehearsal.rehearse(&original.0).await.map_err(BuildError::Rehearsal)?;
    }
    tokio::time::sleep(SETTLE).await;
    original.0.stop().await?;
    // Copies are as urgent as it was when they were made.
    original.0.set_background(false);
    let original = Original::new(original, requests)?;
    let bytes = original.bytes();
    Ok((Form::Standing(Arc::new(original)), bytes))
}
