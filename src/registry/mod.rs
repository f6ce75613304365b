//! Pulls images from registries and pushes them there.
//!
//! # The promise
//!
//! Whatever comes from a registry has been checked against the digest and the
//! size that named it. Credentials go to the registry they belong to, and to
//! the token server that this registry names over a safe channel; to nobody
//! else, whatever is redirected where. A manifest is pushed after everything it
//! names, so that a tag always points to a whole image.
//!
//! The build is synchronous and the network is not: [`Registry`] owns a small
//! runtime, and what takes long is a [`PendingBlob`] or a [`PendingUpload`]
//! that goes on beside the build until it is waited for.

mod answer;
mod arrival;
mod auth;
mod builtin;
mod challenge;
mod credentials;
mod download;
mod error;
mod exchange;
mod helper;
mod layout_push;
mod pending;
mod proxies;
mod pull;
mod push;
mod put;
mod retry;
mod secret;
mod settings;
mod standing;
mod store;
mod tags;
mod tell;
mod transport;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use futures_util::StreamExt as _;

use crate::image::{Digest, Image, ImageLayer, Manifest, Platform, Reference, Repository};

pub(crate) use answer::causes;
pub use arrival::{Arrival, Arriving};
pub use builtin::aws::AwsLogin;
pub(crate) use builtin::azure::Cloud as AzureCloud;
pub use builtin::{Builtin, Helper};
pub use credentials::{By, Credentials, Login};
pub use error::RegistryError;
pub use helper::Helpers;
pub use pending::{CallOff, PendingBlob, PendingUpload};
pub(crate) use retry::retry_after;
pub use secret::Secret;
pub use settings::{Attempts, Patience, Proxies, Settings};
pub use store::{Stored, store_login};

use exchange::Client;
use settings::Purpose;

/// How many small requests are under way at a time.
const REQUESTS: usize = 32;

/// A tag that now points to a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name it was pushed under.
    pub reference: Reference,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// A client for any number of registries. Dropping it cancels what is pending.
#[derive(Debug)]
pub struct Registry {
    runtime: Option<Runtime>,
    client: Arc<Client>,
    stop: CancellationToken,
}

/// Ends everything that a [`Registry`] does, from another thread.
#[derive(Debug, Clone)]
pub struct Canceller(CancellationToken);

impl Canceller {
    /// What is under way, and what is begun later, fails with [`RegistryError::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Registry {
    /// A client; certificates and proxies are checked here, and nothing is sent yet.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(|error| RegistryError::Settings(error.to_string()))?;
        let client = Arc::new(Client::new(settings)?);
        Ok(Self { runtime: Some(runtime), client, stop: CancellationToken::new() })
    }

    /// The image of this name for this platform: manifest and config, verified. Its layers stay where they are.
    pub fn pull(&self, reference: &Reference, platform: &Platform) -> Result<Image, RegistryError> {
        self.wait(pull::pull(&self.client, reference, platform), || format!("pull {reference}"))
    }

    /// As [`Registry::pull`], unless it takes longer than this.
    pub fn pull_within(
        &self,
        limit: Duration,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Image, RegistryError> {
        let what = || format!("pull {reference}");
        let pull = async {
            let pulled = timeout(limit, pull::pull(&self.client, reference, platform)).await;
            pulled.unwrap_or_else(|_| Err(RegistryError::Late(what())))
        };
        self.wait(pull, what)
    }

    /// The manifests of these names, asked for beside each other; nothing where there is none. No other
    /// place stands for the registry here. What is not answered within the limit is late.
    pub fn manifests(
        &self,
        references: &[Reference],
        limit: Duration,
    ) -> Vec<Result<Option<Manifest>, RegistryError>> {
        let started = Instant::now();
        let ask = async |reference: &Reference| {
            let left = limit.saturating_sub(started.elapsed());
            match timeout(left, pull::manifest(&self.client, reference)).await {
                Err(_) => Err(RegistryError::Late(format!("look up {reference}"))),
                Ok(Err(error)) if error.is_not_found() => Ok(None),
                Ok(answer) => answer.map(Some),
            }
        };
        let all = futures_util::stream::iter(references).map(ask).buffered(REQUESTS).collect();
        let answers: Result<Vec<_>, _> = self.wait(async { Ok(all.await) }, String::new);
        answers.unwrap_or_else(|_| {
            let cancelled = |it: &Reference| Err(RegistryError::Cancelled(format!("look up {it}")));
            references.iter().map(cancelled).collect()
        })
    }

    /// All tags of a repository; none where there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        self.wait(tags::list(&self.client, repository), || format!("list {repository}"))
    }

    /// Removes manifests, and with each all its tags; how each request ended, in order: whether it was
    /// there.
    pub fn delete(
        &self,
        repository: &Repository,
        manifests: &[Digest],
    ) -> Vec<Result<bool, RegistryError>> {
        let one = async |digest: &Digest| tags::delete(&self.client, repository, *digest).await;
        let all = futures_util::stream::iter(manifests).map(one).buffered(REQUESTS).collect();
        let answers: Result<Vec<_>, _> = self.wait(async { Ok(all.await) }, String::new);
        answers.unwrap_or_else(|_| {
            let cancelled = |it: &Digest| Err(RegistryError::Cancelled(format!("delete {it}")));
            manifests.iter().map(cancelled).collect()
        })
    }

    /// Begins to push an image under these names; returns at once.
    pub fn start_push(&self, image: &Image, references: &[Reference], dir: &Path) -> PendingUpload {
        let client = Arc::clone(&self.client);
        let (image, references, dir) = (image.clone(), references.to_vec(), dir.to_owned());
        let what = references.first().map_or_else(String::new, |first| format!("push {first}"));
        PendingUpload::spawn(self.runtime(), what, &self.stop, async move {
            push::push(&client, &image, &references, &dir).await.map(|_| ())
        })
    }

    /// Brings the bytes of a layer into a file below `dir`, which has to exist; returns at once.
    ///
    /// A layer that has a verified file already is answered with that file.
    pub fn fetch(&self, layer: &ImageLayer, dir: &Path) -> PendingBlob {
        let (client, layer, dir) = (Arc::clone(&self.client), layer.clone(), dir.to_owned());
        let what = format!("download layer {}", layer.descriptor.digest);
        let arrival = Arrival::default();
        let ending = arrival.ending();
        let task = async move { download::fetch(&client, &layer, &dir, &ending).await };
        PendingBlob::spawn(self.runtime(), what, &self.stop, arrival, task)
    }

    /// Whether this user may push there: begins an upload and takes it back.
    pub fn check_push(&self, reference: &Reference) -> Result<(), RegistryError> {
        let task = push::check(&self.client, reference.repository());
        self.wait(task, || format!("check {reference}"))
    }

    /// Who the user is to Amazon, by the chain of its SDK; nothing without any credentials.
    pub fn aws_login(&self, region: &str) -> Result<Option<AwsLogin>, RegistryError> {
        let task = async {
            Ok(match builtin::aws::login(&self.client, region).await {
                Ok(login) => Some(login),
                Err(reason) => {
                    tracing::info!("No login for Amazon: {reason}");
                    None
                }
            })
        };
        self.wait(task, || "ask for AWS credentials".to_owned())
    }

    /// What these names mean, those that will be pushed to or others, need not be looked for in their
    /// repositories blob by blob. Names that are told later are looked at before the others.
    pub fn expect_push(&self, references: &[Reference]) {
        self.client.standing.expect(references);
    }

    /// Whether this manifest was what told that the repository had these blobs before the push.
    #[must_use]
    pub fn was_told(&self, repository: &Repository, manifest: Digest, blobs: &[Digest]) -> bool {
        self.client.standing.was_told(repository, manifest, blobs)
    }

    /// Finds out who the user is there, without a request to the registry where that is possible.
    pub fn log_in(&self, repositories: &[Repository]) -> Result<(), RegistryError> {
        let task = async {
            for repository in repositories {
                self.client.log_in(repository, Purpose::Push).await?;
            }
            Ok(())
        };
        self.wait(task, || "log in".to_owned())
    }

    /// Begins to upload a layer to these repositories, those that lack it; returns at once.
    ///
    /// `dir` takes the bytes of a layer that is in another registry.
    pub fn start_upload(
        &self,
        layer: &ImageLayer,
        repositories: &[Repository],
        dir: &Path,
    ) -> PendingUpload {
        let client = Arc::clone(&self.client);
        let (layer, repositories, dir) = (layer.clone(), repositories.to_vec(), dir.to_owned());
        let what = format!("upload layer {}", layer.descriptor.digest);
        PendingUpload::spawn(self.runtime(), what, &self.stop, async move {
            for repository in &repositories {
                upload::layer(&client, repository, &layer, &dir).await?;
            }
            Ok(())
        })
    }

    /// Pushes an image under these names, in order: what is missing of its layers, its config, its manifest.
    ///
    /// Uploads begun before are waited for; one that failed is tried again here.
    pub fn push(
        &self,
        image: &Image,
        references: &[Reference],
        pending: Vec<PendingUpload>,
        dir: &Path,
    ) -> Result<Vec<Pushed>, RegistryError> {
        for upload in pending {
            if let (Err(error), false) = (upload.wait(), self.stop.is_cancelled()) {
                tracing::warn!("{error}; trying again");
            }
        }
        let task = push::push(&self.client, image, references, dir);
        self.wait(task, || "push".to_owned())
    }

    /// Pushes the one image, index or artifact of an OCI layout under these names, byte for byte, and what
    /// refers to it: signatures, attestations.
    pub fn push_layout(
        &self,
        layout: &Path,
        references: &[Reference],
    ) -> Result<(Digest, Vec<Pushed>), RegistryError> {
        let task = layout_push::push_layout(&self.client, layout, references);
        self.wait(task, || "push".to_owned())
    }

    /// PUTs a short text to an https URL, of which only the host is ever shown.
    pub fn put(&self, url: &Secret, text: &str) -> Result<(), RegistryError> {
        self.wait(put::put(&self.client, url, text), || "PUT".to_owned())
    }

    /// POSTs JSON once to a URL, of which only the host is ever shown, and waits no longer than `limit`.
    pub fn post_json(
        &self,
        url: &str,
        headers: &[(String, Secret)],
        body: String,
        limit: Duration,
    ) -> Result<(), RegistryError> {
        self.wait(tell::post_json(&self.client, url, headers, body, limit), || "POST".to_owned())
    }

    /// What ends it from another thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(self.stop.clone())
    }

    fn wait<T>(
        &self,
        task: impl Future<Output = Result<T, RegistryError>>,
        what: impl FnOnce() -> String,
    ) -> Result<T, RegistryError> {
        let result = self.runtime().block_on(self.stop.run_until_cancelled(task));
        result.unwrap_or_else(|| Err(RegistryError::Cancelled(what())))
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken in drop only")
    }
}

impl Drop for Registry {
    /// Does not wait for a transfer that nobody waits for.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
