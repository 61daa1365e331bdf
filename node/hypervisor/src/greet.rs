//! Whether the agent of a VM is there, and may be copied.

use std::time::Duration;

use hypernetes_guest_protocol::{
    VERSIONS,
    v1::{HelloRequest, agent_client::AgentClient},
};

use crate::AgentAddress;

/// First version of the contract in which an agent decides nothing of its identity before it is given entropy.
const SINCE_SILENT: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    #[error("its agent did not answer within {0:?}")]
    Silent(Duration),
    #[error("reaching its agent: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("its agent: {0}")]
    Refused(#[from] tonic::Status),
    #[error("its agent is too old to be copied")]
    TooOld,
    #[error("its agent has an identity already")]
    HasIdentity,
}

/// Waits for the agent's greeting.
pub async fn greet(agent: AgentAddress, patience: Duration) -> Result<(), GreetError> {
    let connector = tower::service_fn(move |_| {
        let agent = agent.clone();
        async move { agent.connect().await.map(hyper_util::rt::TokioIo::new) }
    });
    let hello = async {
        let channel = tonic::transport::Endpoint::from_static("http://agent").connect_with_connector(connector).await?;
        let request = HelloRequest { min_version: SINCE_SILENT, max_version: *VERSIONS.end() };
        Ok(AgentClient::new(channel).hello(request).await?.into_inner())
    };
    let greeting = tokio::time::timeout(patience, hello).await.map_err(|_| GreetError::Silent(patience));
    match greeting.flatten()? {
        hello if hello.version < SINCE_SILENT => Err(GreetError::TooOld),
        hello if !hello.boot_id.is_empty() => Err(GreetError::HasIdentity),
        _ => Ok(()),
    }
}
