//! Transfers that go on beside the build.

use std::future::Future;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::RegistryError;
use super::arrival::Arrival;
use crate::image::BlobFile;

/// A download that goes on until it is waited for; dropping it cancels it.
#[must_use = "dropping a download cancels it"]
#[derive(Debug)]
pub struct PendingBlob(Pending<BlobFile>, Arrival);

/// Ends a download for whoever waits for it, or reads along.
#[derive(Debug, Clone)]
pub struct CallOff(AbortHandle);

impl CallOff {
    /// The download ends now: it is cancelled for those who wait for it.
    pub fn call_off(&self) {
        self.0.abort();
    }
}

/// An upload that goes on until it is waited for; dropping it cancels it.
#[must_use = "dropping an upload cancels it"]
#[derive(Debug)]
pub struct PendingUpload(Pending<()>);

impl PendingBlob {
    pub(super) fn spawn(
        runtime: &Runtime,
        what: String,
        stop: &CancellationToken,
        arrival: Arrival,
        task: impl Future<Output = Result<BlobFile, RegistryError>> + Send + 'static,
    ) -> Self {
        Self(Pending::spawn(runtime, what, stop, task), arrival)
    }

    /// Its bytes while they come, unverified: see [`Arrival`].
    #[must_use]
    pub fn arrival(&self) -> &Arrival {
        &self.1
    }

    /// What ends it from elsewhere.
    #[must_use]
    pub fn call_off(&self) -> CallOff {
        CallOff(self.0.task.clone())
    }

    /// Blocks until the bytes are all there and verified. The file is deleted with its last clone.
    pub fn wait(self) -> Result<BlobFile, RegistryError> {
        self.0.wait()
    }
}

impl PendingUpload {
    pub(super) fn spawn(
        runtime: &Runtime,
        what: String,
        stop: &CancellationToken,
        task: impl Future<Output = Result<(), RegistryError>> + Send + 'static,
    ) -> Self {
        Self(Pending::spawn(runtime, what, stop, task))
    }

    /// Blocks until every repository has the layer.
    pub fn wait(self) -> Result<(), RegistryError> {
        self.0.wait()
    }
}

#[derive(Debug)]
struct Pending<T> {
    what: String,
    outcome: Option<oneshot::Receiver<Result<T, RegistryError>>>,
    task: AbortHandle,
}

impl<T: Send + 'static> Pending<T> {
    fn spawn(
        runtime: &Runtime,
        what: String,
        stop: &CancellationToken,
        task: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Self {
        let (sender, outcome) = oneshot::channel();
        let stop = stop.clone();
        let task = runtime.spawn(async move {
            if let Some(result) = stop.run_until_cancelled(task).await {
                // Nobody may be waiting any more.
                let _ = sender.send(result);
            }
        });
        Self { what, outcome: Some(outcome), task: task.abort_handle() }
    }

    fn wait(mut self) -> Result<T, RegistryError> {
        let cancelled = || RegistryError::Cancelled(self.what.clone());
        let outcome = self.outcome.take().ok_or_else(cancelled)?;
        outcome.blocking_recv().map_err(|_| cancelled())?
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
