//! Making a template: a VM boots in memory that is kept, is stopped when its agent waits, and is tried.

use std::{io, sync::Arc, time::Duration};

use super::{Key, Template};
use crate::{
    HypervisorError, Vm,
    greet::{GreetError, greet},
    qemu::{Shared, memory, migrate::MigrateError, temporary::Temporary, vm::Origin},
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
    #[error("saving it: {0}")]
    Save(#[from] MigrateError),
    #[error("a copy of it did not work: {0}")]
    Trial(GreetError),
}

pub async fn build(shared: &Shared, key: &Key) -> Result<Arc<Template>, BuildError> {
    let guest_memory = memory::create("hypernetes-template-memory", u64::from(key.memory_mib) << 20)?;
    let state = memory::create("hypernetes-template-state", 0)?;
    let original = Temporary::start(shared, key.spec(Temporary::id()), Origin::Original(&guest_memory)).await?;
    original.0.set_background(true);
    greet(original.0.agent(), BOOT_PATIENCE).await.map_err(BuildError::Boot)?;
    tokio::time::sleep(SETTLE).await;
    original.0.save(state.try_clone()?).await?;
    original.0.kill().await?;
    memory::seal(&guest_memory).await?;
    memory::seal(&state).await?;
    let bytes = memory::used_bytes(&guest_memory)? + memory::used_bytes(&state)?;
    let template =
        Arc::new(Template { key: key.clone(), memory: guest_memory, state, bytes, copies: Default::default() });
    // A template that does not work would take every pod after this one with it.
    let copy = Temporary::start(shared, key.spec(Temporary::id()), Origin::Trial(&template)).await?;
    greet(copy.0.agent(), TRIAL_PATIENCE).await.map_err(BuildError::Trial)?;
    copy.0.kill().await?;
    Ok(template)
}
