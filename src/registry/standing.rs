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
    tags: Vec<Reference>,
    blobs: OnceCell<HashSet<Digest>>,
}

impl Standing {
    /// From now on what these names mean is believed to be there.
    pub(crate) fn expect(&self, references: &[Reference]) {
        let mut all = self.all();
        for reference in references {
            let of_one = references.iter().filter(|it| it.repository() == reference.repository());
            let named = || Arc::new(Named { tags: of_one.cloned().collect(), ..Named::default() });
            all.entry(reference.repository().clone()).or_insert_with(named);
        }
    }

    /// Whether the repository has this blob as far as that was found out. The first who asks finds out.
    pub(crate) async fn has(&self, client: &Client, repository: &Repository, blob: Digest) -> bool {
        let Some(named) = self.all().get(repository).cloned() else { return false };
        named.blobs.get_or_init(|| look(client, &named.tags)).await.contains(&blob)
    }

    /// Believes nothing of this repository any more; whether something was believed until now.
    pub(crate) fn doubt(&self, repository: &Repository) -> bool {
        let named = self.all().remove(repository);
        named.is_some_and(|it| it.blobs.get().is_some_and(|blobs| !blobs.is_empty()))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Repository, Arc<Named>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the first of these names that means an image says.
async fn look(client: &Client, tags: &[Reference]) -> HashSet<Digest> {
    for tag in tags {
        if let Some(manifest) = pull::named_now(client, tag).await {
            tracing::debug!(%tag, layers = manifest.layers.len(), "is there before the push");
            let named = manifest.layers.iter().chain([&manifest.config]);
            return named.map(|it| it.digest).collect();
        }
    }
    HashSet::new()
}
