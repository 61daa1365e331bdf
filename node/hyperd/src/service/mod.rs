//! The gRPC services.

mod hyperd;
mod image;
mod info;
mod list;
mod runtime;

use std::{future::Future, sync::Arc};

use tonic::Status;

use crate::{
    error::{Error, Result},
    runtime::Runtime,
};

/// Implements CRI's and hyperd's services.
#[derive(Clone)]
pub(crate) struct Service(pub Arc<Runtime>);

/// Runs work to its end even when the client goes away: half a sandbox is of no use.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(Status::from),
        Err(error) => Err(Error::FailedPrecondition(format!("the work was given up: {error}")).into()),
    }
}
