//! Pods that are put onto the disk with their memory, and go on later where they were (docs/decisions/0019).
//!
//! The record says which of the two is the pod: the VM, or what was saved of it. It is changed while the VM is stopped, so
//! that a hyperd that is killed at any moment is followed by one that keeps the one and removes the other.

use std::sync::{Arc, atomic::Ordering};

use hypernetes_guest_protocol::v1;
use hypernetes_hypervisor::{Nic, Vm, VmRecord};
use k8s_cri::v1 as cri;

use crate::{
    agent::{Agent, AgentError, CALL_TIMEOUT},
    error::{Error, Result},
    records::{SandboxRecord, SandboxState},
    runtime::{Runtime, now_nanos},
    sandbox::{Live, Sandbox},
};

/// The first version of the contract in which a sandbox that runs can be told something again.
pub(crate) const SINCE_RECONFIGURED: u32 = 3;

impl Runtime {
    /// Saves a pod's VM and ends it. Of one that is hibernated already nothing is wanted.
    ///
    /// # Errors
    /// `Exhausted` when the disk is full, `FailedPrecondition` when the pod is not ready or something is being done with one
    /// of its containers. After any the pod goes on.
    pub(crate) async fn hibernate_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        let _operation = sandbox.operation.lock().await;
        if sandbox.is_hibernated() {
            return Ok(());
        }
        let live = sandbox.live()?;
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("the sandbox {} is not ready", sandbox.id)));
        }
        sandbox.requires(SINCE_RECONFIGURED, "hibernation")?;
        let began = tokio::time::Instant::now();
        // From here on nothing new is begun with it.
        sandbox.set_live(None);
        live.stopped.store(true, Ordering::Relaxed);
        let put_away = self.put_away(&sandbox, &live).await;
        if let Err(error) = &put_away {
            tracing::warn!(sandbox = %sandbox.id, %error, "a sandbox was not hibernated, and goes on");
            self.carry_on(&sandbox, live).await;
        } else {
            tracing::info!(sandbox = %sandbox.id, elapsed_ms = began.elapsed().as_millis(), "sandbox is hibernated");
            self.publish(&sandbox, None, cri::ContainerEventType::ContainerStoppedEvent);
        }
        put_away
    }

    async fn put_away(&self, sandbox: &Arc<Sandbox>, live: &Arc<Live>) -> Result<()> {
        let containers = self.containers_of(&sandbox.id);
        let mut untouched = Vec::new();
        for container in &containers {
            // What is under way with one would lose the agent's answer.
            untouched.push(container.operation.try_lock().map_err(|_| {
                Error::FailedPrecondition(format!(
                    "something is being done with the container {}: try again when that is over",
                    container.id
                ))
            })?);
        }
        let _disks = live.disks.lock().await;
        self.config.hypervisor.hibernate(&live.vm.record()).await?;
        let vm = live.vm.record();
        self.change_state(sandbox, SandboxState::Ready, SandboxState::Hibernated, vm).await?;
        live.cancel.cancel();
        live.gone.cancel();
        if let Err(error) = live.vm.kill().await {
            tracing::error!(sandbox = %sandbox.id, %error, "the VM of a hibernated sandbox was not ended");
        }
        // Who follows the output of the VM that is resumed begins where these end.
        live.pumps.close();
        live.pumps.wait().await;
        Ok(())
    }

    /// Puts down durably what the sandbox is, and leaves it as it was if that fails.
    async fn change_state(
        &self,
        sandbox: &Arc<Sandbox>,
        from: SandboxState,
        to: SandboxState,
        vm: VmRecord,
    ) -> Result<()> {
        let mut earlier = None;
        let saved = sandbox
            .update(&self.records, |r| {
                if r.state == from {
                    earlier = Some((std::mem::replace(&mut r.state, to), r.vm.replace(vm)));
                }
            })
            .await;
        match (saved, earlier) {
            (Ok(()), Some(_)) => Ok(()),
            (Ok(()), None) => Err(Error::FailedPrecondition(format!("the sandbox {} has ended meanwhile", sandbox.id))),
            (Err(error), earlier) => {
                if let Some((state, vm)) = earlier {
                    // On the disk it is that still.
                    sandbox.set_record(|r| (r.state, r.vm) = (state, vm));
                }
                Err(error)
            }
        }
    }

    /// A VM that was to be hibernated goes on.
    async fn carry_on(&self, sandbox: &Arc<Sandbox>, live: Arc<Live>) {
        let went_on = live.vm.go_on().await;
        live.stopped.store(false, Ordering::Relaxed);
        self.config.hypervisor.forget(&sandbox.id).await;
        if let Err(error) = went_on {
            // Its agent will not answer, which has its consequences.
            tracing::error!(sandbox = %sandbox.id, %error, "a VM that was stopped does not go on");
        } else if let Err(error) = set_clock(&live.agent).await {
            tracing::warn!(sandbox = %sandbox.id, %error, "the clock of a VM that was stopped was not set");
        }
        // It may have ended while it was saved.
        if !live.cancel.is_cancelled() {
            sandbox.set_live(Some(live));
        }
    }

    /// Has a hibernated pod go on. Of one that runs nothing is wanted.
    ///
    /// # Errors
    /// Until its VM runs the pod stays hibernated, and it can be tried again.
    pub(crate) async fn resume_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        let operation = sandbox.operation.lock().await;
        let record = sandbox.record();
        match &record.state {
            SandboxState::Hibernated => {}
            SandboxState::Ready => return Ok(()),
            _ => {
                return Err(Error::FailedPrecondition(format!(
                    "the sandbox {} has ended: recreate the pod",
                    sandbox.id
                )));
            }
        }
        let began = tokio::time::Instant::now();
        let saved = saved_vm(record).ok_or_else(|| {
            Error::FailedPrecondition(format!(
                "nothing is known of the VM of the sandbox {}: recreate the pod",
                sandbox.id
            ))
        })?;
        let _memory = self.take_memory_again(&sandbox)?;
        let vm: Arc<dyn Vm> = self.config.hypervisor.resume(saved).await?.into();
        let elapsed_ms = began.elapsed().as_millis();
        tracing::debug!(sandbox = %sandbox.id, elapsed_ms, "a hibernated VM is there again");
        let resumed = self.change_state(&sandbox, SandboxState::Hibernated, SandboxState::Ready, vm.record()).await;
        if let Err(error) = resumed {
            vm.kill().await?;
            return Err(error);
        }
        drop(operation);
        self.reconnect(sandbox.clone(), vm).await;
        // If it did not work it says why.
        sandbox.live()?;
        tracing::info!(sandbox = %sandbox.id, elapsed_ms = began.elapsed().as_millis(), "sandbox is resumed");
        self.publish(&sandbox, None, cri::ContainerEventType::ContainerStartedEvent);
        Ok(())
    }
}

/// The VM to be made again: on the tap that the pod's network goes through now, whatever it was on when it was made.
fn saved_vm(record: SandboxRecord) -> Option<VmRecord> {
    let mut vm = record.vm?;
    if let (Some(nic), Some(network)) = (&mut vm.spec.nic, record.network) {
        *nic = Nic { tap: network.tap, netns: network.netns, mac: std::mem::take(&mut nic.mac) };
    }
    Some(vm)
}

/// Tells a guest that has stood still what time it is, and gives it entropy.
pub(crate) async fn set_clock(agent: &Agent) -> Result<(), AgentError> {
    let request = v1::ConfigureSandboxRequest {
        unix_time_nanos: now_nanos().unsigned_abs(),
        entropy: rand::random::<[u8; 32]>().to_vec(),
        ..Default::default()
    };
    agent.configure(request, CALL_TIMEOUT).await?;
    Ok(())
}
