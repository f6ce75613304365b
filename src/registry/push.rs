//! Whole images into repositories, the manifest last.

use std::path::Path;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response, StatusCode};

use super::exchange::{Body, Client, Request};
use super::retry;
use super::settings::Purpose;
use super::upload::{self, Source};
use super::{Pushed, RegistryError};
use crate::image::{Digest, Image, Reference, Repository};

/// Whether an upload may be begun in this repository; it is taken back at once.
pub(crate) async fn check(client: &Client, repository: &Repository) -> Result<(), RegistryError> {
    let what = format!("check push permission for {repository}");
    let url = client.url(repository, Purpose::Push, "blobs/uploads/").await?;
    let request = Request::new(&what, Purpose::Push, repository, Method::POST, url);
    let response = client.exchange(&request).await?;
    if !response.status().is_success() {
        return Err(client.refusal(&request, response).await);
    }
    upload::cancel(client, &request, &response).await;
    Ok(())
}

/// Pushes an image under each name, in order; the first failure ends it.
pub(crate) async fn push(
    client: &Client,
    image: &Image,
    references: &[Reference],
    dir: &Path,
) -> Result<Vec<Pushed>, RegistryError> {
    let digest = image.digest();
    let mut pushed = Vec::with_capacity(references.len());
    let settings = &client.settings;
    for reference in references {
        let attempt = || to_one(client, image, reference, dir);
        match retry::again(settings.attempts.push, settings.patience, attempt).await {
            Ok(true) => {
                tracing::debug!("pushed {}@{digest}", reference.repository());
                pushed.push(Pushed { reference: reference.clone(), digest });
            }
            Ok(false) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pushed)
}

/// What a manifest names first, then the manifest. Whether the tag is this image now.
async fn to_one(
    client: &Client,
    image: &Image,
    reference: &Reference,
    dir: &Path,
) -> Result<bool, RegistryError> {
    let repository = reference.repository();
    blobs(client, image, repository, dir).await?;
    let put = match manifest(client, image, reference).await {
        Err(error) if error.is_refusal() && client.standing.doubt(repository) => {
            tracing::warn!("{error}; looking at every layer there");
            upload::look_again(client, repository);
            blobs(client, image, repository, dir).await?;
            manifest(client, image, reference).await
        }
        put => put,
    };
    match put {
        Err(error) if client.settings.ignore_immutable_tags && error.is_immutable_tag() => {
            tracing::warn!("{error}; the tag stays as it is, as asked for");
            Ok(false)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}

/// Layers beside each other, the config with them.
async fn blobs(
    client: &Client,
    image: &Image,
    repository: &Repository,
    dir: &Path,
) -> Result<(), RegistryError> {
    let layers = image.layers().iter().map(|layer| upload::layer(client, repository, layer, dir));
    let (config, bytes) = (image.config_descriptor(), image.config_bytes());
    let config = upload::blob(client, repository, &config, Source::Bytes(bytes));
    let (layers, config) = tokio::join!(futures_util::future::try_join_all(layers), config);
    layers?;
    config
}

async fn manifest(
    client: &Client,
    image: &Image,
    reference: &Reference,
) -> Result<(), RegistryError> {
    let what = format!("push {reference}");
    let (repository, media_type) = (reference.repository(), image.flavor().manifest());
    let bytes = image.manifest_bytes();
    put_manifest(client, &what, repository, reference.tag(), media_type, bytes).await.map(|_| ())
}

/// Puts a manifest or index under a tag, or under its digest; the registry's answer.
pub(crate) async fn put_manifest(
    client: &Client,
    what: &str,
    repository: &Repository,
    tag: Option<&str>,
    media_type: &str,
    bytes: Bytes,
) -> Result<Response, RegistryError> {
    let digest = Digest::of(&bytes);
    let key = tag.map_or_else(|| digest.to_string(), str::to_owned);
    let url = client.url(repository, Purpose::Push, &format!("manifests/{key}")).await?;
    let request = Request::new(what, Purpose::Push, repository, Method::PUT, url)
        .with_body(Body::Bytes(bytes))
        .with_header(CONTENT_TYPE, media_type)?;
    let response = client.exchange(&request).await?;
    if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
        return Err(client.refusal(&request, response).await);
    }
    let stored = response.headers().get("docker-content-digest").and_then(|it| it.to_str().ok());
    match stored {
        Some(stored) if stored != digest.to_string() => {
            Err(RegistryError::answer(what, format!("the registry stored {stored}, not {digest}")))
        }
        _ => Ok(response),
    }
}
