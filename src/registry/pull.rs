//! Manifests and configs from a registry.

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode};

use super::RegistryError;
use super::answer::{Unread, read_limited};
use super::exchange::{Client, Failure, Request};
use super::retry;
use super::settings::Purpose;
use crate::image::{
    Blob, Descriptor, Digest, Document, Flavor, Image, MANIFEST_LIMIT, Manifest, Platform,
    Reference, Repository,
};

/// The largest image config that is read, in bytes.
const CONFIG_LIMIT: u64 = 64 << 20;

/// The deepest nesting of indexes that is followed.
const DEPTH: usize = 4;

/// Everything a manifest may be.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Pulls from the places that stand for the registry, in order, and from the registry itself last.
pub(crate) async fn pull(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Image, RegistryError> {
    let settings = &client.settings;
    let attempt = || pull_anywhere(client, reference, platform);
    retry::again(settings.attempts.pull, settings.patience, attempt).await
}

async fn pull_anywhere(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Image, RegistryError> {
    let repository = reference.repository();
    let settings = &client.settings;
    let maps = settings.maps.get(repository.registry()).map_or(&[][..], Vec::as_slice);
    let mut failure = None;
    for map in maps {
        let (registry, prefix) = map.split_once('/').unwrap_or((map, ""));
        let moved = reference.in_repository(repository.moved_to(registry, prefix));
        match pull_one(client, &moved, platform).await {
            Ok(image) => return Ok(image),
            Err(error) => {
                tracing::warn!("{error}; trying the next place");
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if settings.skip_default_registry_fallback => Err(error),
        _ => pull_one(client, reference, platform).await,
    }
}

/// The manifest of exactly this name, which has to be one.
pub(crate) async fn manifest(
    client: &Client,
    reference: &Reference,
) -> Result<Manifest, RegistryError> {
    let what = format!("look up {reference}");
    match document(client, &what, reference, None).await? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(RegistryError::answer(&what, "it is an index and no manifest")),
    }
}

async fn pull_one(
    client: &Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Image, RegistryError> {
    let what = format!("pull {reference}");
    let mut document = document(client, &what, reference, None).await?;
    for _ in 0..DEPTH {
        match document {
            Document::Manifest(manifest) => {
                return image(client, &what, reference, &manifest).await;
            }
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(RegistryError::image(&what))?;
                tracing::debug!(%reference, %platform, digest = %entry.digest, "chose a manifest");
                document = self::document(client, &what, reference, Some(entry)).await?;
            }
        }
    }
    Err(RegistryError::answer(&what, "its indexes are nested too deeply"))
}

/// A manifest or an index: the one an index names, or else the one the reference means.
async fn document(
    client: &Client,
    what: &str,
    reference: &Reference,
    entry: Option<&Descriptor>,
) -> Result<Document, RegistryError> {
    let wanted = entry.map(|it| it.digest).or(reference.digest());
    let key = wanted.map_or_else(|| reference.manifest_key(), |digest| digest.to_string());
    let repository = reference.repository();
    let url = client.url(repository, Purpose::Pull, &format!("manifests/{key}")).await?;
    let mut request = Request::new(what, Purpose::Pull, repository, Method::GET, url);
    for accepted in ACCEPTED {
        request = request.with_header(ACCEPT, accepted)?;
    }
    let (raw, content_type) = small(client, &request, MANIFEST_LIMIT).await?;
    if let Some(wanted) = wanted {
        check(what, "manifest", wanted, &raw)?;
    }
    if let Some(entry) = entry.filter(|entry| entry.size != raw.len() as u64) {
        let why = format!("the index says {} bytes, there are {}", entry.size, raw.len());
        return Err(RegistryError::answer(what, why));
    }
    Document::parse(raw, content_type.as_deref()).map_err(RegistryError::image(what))
}

/// What a name means in the registry that it is about to be pushed to. There is one try: this only
/// spares requests.
pub(crate) async fn named_now(client: &Client, reference: &Reference) -> Option<Manifest> {
    let what = format!("look at {reference}");
    let (repository, key) = (reference.repository(), reference.manifest_key());
    let url = client.url(repository, Purpose::Push, &format!("manifests/{key}")).await.ok()?;
    let mut request = Request::new(&what, Purpose::Push, repository, Method::GET, url);
    for accepted in ACCEPTED {
        request = request.with_header(ACCEPT, accepted).ok()?;
    }
    match small_once(client, &request, MANIFEST_LIMIT).await {
        Ok((raw, content_type)) => match Document::parse(raw, content_type.as_deref()) {
            Ok(Document::Manifest(manifest)) => Some(*manifest),
            Ok(Document::Index(_)) | Err(_) => None,
        },
        Err(failure) => {
            tracing::debug!("{failure}");
            None
        }
    }
}

/// The entries of an index as they are written; `None` if there is nothing of this tag.
pub(crate) async fn index(
    client: &Client,
    what: &str,
    repository: &Repository,
    tag: &str,
) -> Result<Option<Vec<serde_json::Value>>, RegistryError> {
    let url = client.url(repository, Purpose::Push, &format!("manifests/{tag}")).await?;
    let mut request = Request::new(what, Purpose::Push, repository, Method::GET, url);
    for accepted in ACCEPTED {
        request = request.with_header(ACCEPT, accepted)?;
    }
    let raw = match small(client, &request, MANIFEST_LIMIT).await {
        Ok((raw, _)) => raw,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut json: serde_json::Value = serde_json::from_slice(&raw).unwrap_or_default();
    match json["manifests"].take() {
        serde_json::Value::Array(entries) => Ok(Some(entries)),
        _ => Err(RegistryError::answer(what, format!("the tag {tag} is no index"))),
    }
}

async fn image(
    client: &Client,
    what: &str,
    reference: &Reference,
    manifest: &Manifest,
) -> Result<Image, RegistryError> {
    let (wanted, repository) = (&manifest.config, reference.repository());
    if wanted.size > CONFIG_LIMIT {
        return Err(RegistryError::answer(what, format!("a config of {} bytes", wanted.size)));
    }
    if ![Flavor::Docker.config(), Flavor::Oci.config()].contains(&wanted.media_type.as_str()) {
        let why = format!("its config is of type {:?}: it is no image", wanted.media_type);
        return Err(RegistryError::answer(what, why));
    }
    let url = client.url(repository, Purpose::Pull, &format!("blobs/{}", wanted.digest)).await?;
    let request = Request::new(what, Purpose::Pull, repository, Method::GET, url);
    let limit = usize::try_from(wanted.size).unwrap_or(usize::MAX);
    let (raw, _) = small(client, &request, limit).await?;
    check(what, "config", wanted.digest, &raw)?;
    Image::from_parts(manifest, raw, &Blob::Registry(repository.clone()))
        .map_err(RegistryError::image(what))
}

/// A small answer, whole, and its type; a connection that breaks within it is tried again.
async fn small(
    client: &Client,
    request: &Request<'_>,
    limit: usize,
) -> Result<(Bytes, Option<String>), RegistryError> {
    let mut budget = client.budget();
    loop {
        match small_once(client, request, limit).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure.pause(&mut budget).await?,
        }
    }
}

async fn small_once(
    client: &Client,
    request: &Request<'_>,
    limit: usize,
) -> Result<(Bytes, Option<String>), Failure> {
    let response = client.try_once(request).await?;
    if response.status() != StatusCode::OK {
        return Err(client.refusal(request, response).await.into());
    }
    if response.content_length().is_some_and(|length| length > limit as u64) {
        let error = Unread::TooLong(limit);
        return Err(RegistryError::answer(request.what, error.to_string()).into());
    }
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok()).map(str::to_owned);
    match read_limited(response, limit, client.settings.patience.idle).await {
        Ok(body) => Ok((body.into(), content_type)),
        Err(error @ Unread::TooLong(_)) => {
            Err(RegistryError::answer(request.what, error.to_string()).into())
        }
        Err(Unread::Broken(why)) => {
            let what = request.what.to_owned();
            Err(Failure::Transient(RegistryError::Network { what, why, hint: None }, None))
        }
    }
}

fn check(what: &str, part: &str, wanted: Digest, raw: &[u8]) -> Result<(), RegistryError> {
    let found = Digest::of(raw);
    if found == wanted {
        return Ok(());
    }
    Err(RegistryError::answer(what, format!("the {part} is {found} and not {wanted}")))
}
