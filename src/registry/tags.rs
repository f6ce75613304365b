//! What a repository holds, and taking things out of it (distribution-spec, "content discovery" and
//! "content management").

use bytes::Bytes;
use reqwest::header::LINK;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::RegistryError;
use super::answer::read_limited;
use super::auth::Scope;
use super::exchange::{Client, Request};
use super::settings::Purpose;
use crate::image::{Digest, Repository};

/// The largest page of a list of tags that is read, in bytes.
const PAGE_LIMIT: usize = 16 << 20;

/// How many tags are asked for at a time. Registries may give fewer.
const PAGE: usize = 1000;

/// The most pages that are read: a registry that always names a next one has an end, too.
const PAGES: usize = 10_000;

#[derive(Deserialize)]
struct Tags {
    /// Some registries write `null` where there is none.
    tags: Option<Vec<String>>,
}

/// All tags of a repository; none where there is no such repository.
pub(crate) async fn list(
    client: &Client,
    repository: &Repository,
) -> Result<Vec<String>, RegistryError> {
    let what = format!("list the tags of {repository}");
    let path = format!("tags/list?n={PAGE}");
    let mut url = client.url(repository, Purpose::Pull, &path).await?;
    let mut all = Vec::new();
    for _ in 0..PAGES {
        let request = Request::new(&what, Purpose::Pull, repository, Method::GET, url.clone());
        let response = client.exchange(&request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(all),
            _ => return Err(client.refusal(&request, response).await),
        }
        let next = next_page(&what, &url, &response)?;
        let page: Tags = serde_json::from_slice(&body(client, &what, response).await?)
            .map_err(|error| RegistryError::answer(&what, error.to_string()))?;
        all.extend(page.tags.unwrap_or_default());
        match next {
            None => return Ok(all),
            Some(next) => url = next,
        }
    }
    Err(RegistryError::answer(&what, format!("its list has more than {PAGES} pages")))
}

async fn body(client: &Client, what: &str, response: Response) -> Result<Bytes, RegistryError> {
    read_limited(response, PAGE_LIMIT, client.settings.patience.idle)
        .await
        .map(Into::into)
        .map_err(|error| RegistryError::answer(what, error.to_string()))
}

/// Where `Link` (RFC 8288) says that the list goes on. It has to be at the same registry: the next
/// request carries the login.
fn next_page(what: &str, from: &Url, response: &Response) -> Result<Option<Url>, RegistryError> {
    let links = response.headers().get_all(LINK).iter().filter_map(|it| it.to_str().ok());
    let next = links.filter(|link| link.contains("rel=\"next\"") || link.contains("rel=next"));
    let Some(target) = next.filter_map(|link| link.split(['<', '>']).nth(1)).next() else {
        return Ok(None);
    };
    let next = from.join(target).map_err(|_| RegistryError::answer(what, "Link is no URL"))?;
    if next.origin() != from.origin() || next == *from {
        return Err(RegistryError::answer(what, "its Link leads elsewhere"));
    }
    Ok(Some(next))
}

/// Removes a manifest, and with it all its tags; tells whether it was there.
pub(crate) async fn delete(
    client: &Client,
    repository: &Repository,
    manifest: Digest,
) -> Result<bool, RegistryError> {
    let what = format!("delete {repository}@{manifest}");
    let url = client.url(repository, Purpose::Push, &format!("manifests/{manifest}")).await?;
    let mut request = Request::new(&what, Purpose::Push, repository, Method::DELETE, url);
    request.scope = Scope::delete(repository);
    let response = client.exchange(&request).await?;
    match response.status() {
        StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(client.refusal(&request, response).await),
    }
}
