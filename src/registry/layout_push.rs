//! What an OCI layout holds into repositories, byte for byte: images, indexes, artifacts, and
//! what refers to them.
//!
//! A manifest is pushed after all that it names, and one that refers to another (its `subject`) after
//! that. Where the registry does not keep such references itself, they are kept in an index under
//! a tag made of the subject's digest, as distribution-spec asks of clients.

use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::exchange::Client;
use super::upload::{self, Source};
use super::{Pushed, RegistryError, pull, push, retry};
use crate::image::{
    Descriptor, Digest, Document, Manifest, Reference, Repository, has_blob, layout_entries,
    read_blob,
};

/// The deepest nesting of indexes that is followed.
const DEPTH: usize = 4;

/// A manifest of the layout, with the parts that matter for its place.
struct Entry {
    descriptor: Descriptor,
    bytes: Bytes,
    subject: Option<Descriptor>,
}

/// Pushes the one thing that the layout holds under each name, and what refers to it by digest.
pub(crate) async fn push_layout(
    client: &Client,
    dir: &Path,
    references: &[Reference],
) -> Result<(Digest, Vec<Pushed>), RegistryError> {
    let (root, referrers) = read(dir)?;
    let digest = root.descriptor.digest;
    let mut pushed = Vec::new();
    let settings = &client.settings;
    for reference in references {
        let attempt = || to_one(client, dir, &root, &referrers, reference);
        if retry::again(settings.attempts.push, settings.patience, attempt).await? {
            pushed.push(Pushed { reference: reference.clone(), digest });
        }
    }
    Ok((digest, pushed))
}

/// The image, and what refers to it.
fn read(dir: &Path) -> Result<(Entry, Vec<Entry>), RegistryError> {
    let what = format!("read OCI layout {}", dir.display());
    let told = RegistryError::image(&what);
    let mut roots = Vec::new();
    let mut referrers = Vec::new();
    for descriptor in layout_entries(dir).map_err(told)? {
        let entry = Entry::read(dir, &what, descriptor)?;
        if entry.subject.is_some() { referrers.push(entry) } else { roots.push(entry) }
    }
    // An artifact alone refers to what is in the registry already.
    if roots.is_empty() && referrers.len() == 1 {
        roots.append(&mut referrers);
    }
    match (roots.pop(), roots.len()) {
        (Some(root), 0) => Ok((root, referrers)),
        (root, others) => {
            let count = others + usize::from(root.is_some());
            Err(RegistryError::answer(&what, format!("it holds {count} images and not one")))
        }
    }
}

impl Entry {
    fn read(dir: &Path, what: &str, descriptor: Descriptor) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Referring {
            subject: Option<Descriptor>,
        }
        let bytes = read_blob(dir, &descriptor).map_err(RegistryError::image(what))?;
        let referring = serde_json::from_slice::<Referring>(&bytes);
        Ok(Self { descriptor, subject: referring.ok().and_then(|it| it.subject), bytes })
    }
}

/// Whether the tag is this image now.
async fn to_one(
    client: &Client,
    dir: &Path,
    root: &Entry,
    referrers: &[Entry],
    reference: &Reference,
) -> Result<bool, RegistryError> {
    let repository = reference.repository();
    let what = format!("push {reference}");
    below(client, dir, &what, root, repository, 0).await?;
    let moved = match put(client, &what, root, repository, reference.tag()).await {
        Err(error) if client.settings.ignore_immutable_tags && error.is_immutable_tag() => {
            tracing::warn!("{error}; the tag stays as it is, as asked for");
            false
        }
        other => other.map(|()| true)?,
    };
    for referrer in referrers {
        let what = format!("push {} to {repository}", referrer.descriptor.digest);
        below(client, dir, &what, referrer, repository, 0).await?;
        put(client, &what, referrer, repository, None).await?;
    }
    Ok(moved)
}

/// Everything that a manifest or an index names.
async fn below(
    client: &Client,
    dir: &Path,
    what: &str,
    entry: &Entry,
    repository: &Repository,
    depth: usize,
) -> Result<(), RegistryError> {
    let media_type = Some(entry.descriptor.media_type.as_str());
    let document = Document::parse(entry.bytes.clone(), media_type);
    match document.map_err(RegistryError::image(what))? {
        Document::Manifest(manifest) => blobs(client, dir, &manifest, repository).await,
        Document::Index(_) if depth == DEPTH => {
            Err(RegistryError::answer(what, "its indexes are nested too deeply"))
        }
        Document::Index(index) => {
            for descriptor in index.manifests {
                let entry = Entry::read(dir, what, descriptor)?;
                Box::pin(below(client, dir, what, &entry, repository, depth + 1)).await?;
                put(client, what, &entry, repository, None).await?;
            }
            Ok(())
        }
    }
}

async fn blobs(
    client: &Client,
    dir: &Path,
    manifest: &Manifest,
    repository: &Repository,
) -> Result<(), RegistryError> {
    let named = std::iter::once(&manifest.config).chain(&manifest.layers);
    // Layers that are not to be distributed are had elsewhere, and often are not here.
    let here = named.filter(|it| {
        let foreign =
            ["nondistributable", "foreign"].iter().any(|kind| it.media_type.contains(kind));
        !foreign || has_blob(dir, it.digest)
    });
    let uploads = here.map(|it| upload::blob(client, repository, it, Source::Layout(dir)));
    futures_util::future::try_join_all(uploads).await.map(|_| ())
}

/// The manifest itself, by its tag or digest; and the reference to its subject.
async fn put(
    client: &Client,
    what: &str,
    entry: &Entry,
    repository: &Repository,
    tag: Option<&str>,
) -> Result<(), RegistryError> {
    let media_type = &entry.descriptor.media_type;
    let digest = entry.descriptor.digest;
    let answer =
        push::put_manifest(client, what, repository, tag, media_type, entry.bytes.clone()).await?;
    match &entry.subject {
        // The registry says so when it keeps references itself.
        Some(subject) if !answer.headers().contains_key("oci-subject") => {
            tracing::debug!(%digest, subject = %subject.digest, "the registry keeps no references");
            refer(client, what, entry, subject, repository).await
        }
        Some(_) | None => Ok(()),
    }
}

/// How often the index of referrers is written before somebody else's writing is given way to.
const WRITES: usize = 8;

/// Adds a manifest to the index of those that refer to its subject.
async fn refer(
    client: &Client,
    what: &str,
    entry: &Entry,
    subject: &Descriptor,
    repository: &Repository,
) -> Result<(), RegistryError> {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let tag = subject.digest.to_string().replace(':', "-");
    let digest = entry.descriptor.digest.to_string();
    // There is no request that adds to an index: two who write at once take turns in losing what the other wrote,
    // so each looks again until its own is there.
    for _ in 0..WRITES {
        let known = pull::index(client, what, repository, &tag).await?;
        let mut manifests: Vec<Value> = known.unwrap_or_default();
        if manifests.iter().any(|it| it["digest"] == digest.as_str()) {
            return Ok(());
        }
        manifests.push(described(entry));
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let bytes = Bytes::from(index.to_string());
        push::put_manifest(client, what, repository, Some(&tag), INDEX, bytes).await?;
    }
    let why = format!("others write {tag} all the time, and what refers to the image is lost");
    Err(RegistryError::answer(what, why))
}

/// The descriptor by which referrers are listed: with the type of the artifact, and its annotations.
fn described(entry: &Entry) -> Value {
    let manifest: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
    let kind = match manifest["artifactType"].as_str() {
        Some(kind) => Some(kind),
        None => manifest["config"]["mediaType"].as_str(),
    };
    let mut described = json!({
        "mediaType": entry.descriptor.media_type,
        "digest": entry.descriptor.digest,
        "size": entry.bytes.len(),
    });
    if let Some(kind) = kind {
        described["artifactType"] = kind.into();
    }
    if manifest["annotations"].is_object() {
        described["annotations"] = manifest["annotations"].clone();
    }
    described
}
