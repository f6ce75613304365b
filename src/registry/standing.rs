//! What a repository has before a push, told by one manifest instead of one request for each blob.
//!
//! A registry takes a manifest only when it has everything that the manifest names, so what a tag
//! names now need not be asked for. Should a registry have lost some of it since, it refuses the new
//! manifest; then [`Standing::doubt`] says that everything has to be looked at.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::exchange::Client;
use super::pull;
use crate::image::{Digest, Reference, Repository};

/// By repository, what its tags name.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<HashMap<Repository, Arc<Named>>>);

#[derive(Debug, Default)]
struct Named {
    names: Vec<Reference>,
    found: OnceCell<Found>,
}

/// What the first of the names that meant an image said.
#[derive(Debug, Default)]
struct Found {
    manifest: Option<Digest>,
    blobs: HashSet<Digest>,
}

impl Standing {
    /// From now on what these names mean is believed to be there. Names that are told later are looked at
    /// before the others.
    pub(crate) fn expect(&self, references: &[Reference]) {
        let mut all = self.all();
        for reference in references.iter().rev() {
            let before = all.remove(reference.repository());
            let others = before.iter().flat_map(|it| &it.names).cloned();
            let names = [reference.clone()].into_iter().chain(others).collect();
            let named = Named { names, ..Named::default() };
            all.insert(reference.repository().clone(), Arc::new(named));
        }
    }

    /// Whether the repository has this blob as far as that was found out. The first who asks finds out.
    pub(crate) async fn has(&self, client: &Client, repository: &Repository, blob: Digest) -> bool {
        let Some(named) = self.all().get(repository).cloned() else { return false };
        named.found.get_or_init(|| look(client, &named.names)).await.blobs.contains(&blob)
    }

    /// Whether it was this manifest that told that the repository has these blobs.
    pub(crate) fn was_told(
        &self,
        repository: &Repository,
        manifest: Digest,
        blobs: &[Digest],
    ) -> bool {
        let named = self.all().get(repository).cloned();
        named.as_ref().and_then(|it| it.found.get()).is_some_and(|found| {
            found.manifest == Some(manifest) && blobs.iter().all(|it| found.blobs.contains(it))
        })
    }

    /// Believes nothing of this repository any more; whether something was believed until now.
    pub(crate) fn doubt(&self, repository: &Repository) -> bool {
        let named = self.all().remove(repository);
        named.is_some_and(|it| it.found.get().is_some_and(|found| !found.blobs.is_empty()))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Repository, Arc<Named>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the first of these names that means an image says.
async fn look(client: &Client, names: &[Reference]) -> Found {
    for name in names {
        if let Some(manifest) = pull::named_now(client, name).await {
            tracing::debug!(%name, layers = manifest.layers.len(), "is there before the push");
            let named = manifest.layers.iter().chain([&manifest.config]);
            let blobs = named.map(|it| it.digest).collect();
            return Found { manifest: Some(manifest.digest()), blobs };
        }
    }
    Found::default()
}
