//! Why a sync does not get on with the pod as a whole, until the next one.

/// An event's reason and words.
#[derive(Debug)]
pub struct SyncError {
    pub reason: &'static str,
    pub message: String,
}

impl SyncError {
    pub fn of<E: std::fmt::Display>(reason: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { reason, message: error.to_string() }
    }

    pub fn runtime(reason: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self { reason, message: status.message().to_owned() }
    }

    /// In the words of upstream's event.
    pub fn failed_mount(volume: &str, why: &str) -> Self {
        Self { reason: "FailedMount", message: format!("MountVolume.SetUp failed for volume {volume:?} : {why}") }
    }
}
