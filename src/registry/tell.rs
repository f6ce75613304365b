//! A document to a server that wants to be told, and that nobody waits for long.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

use super::exchange::{Client, Failure, authority};
use super::settings::Purpose;
use super::{RegistryError, Secret, answer};

/// POSTs JSON once, by HTTP or HTTPS; only the host of the URL is ever shown.
pub(crate) async fn post_json(
    client: &Client,
    url: &str,
    headers: &[(String, Secret)],
    body: String,
    limit: Duration,
) -> Result<(), RegistryError> {
    let invalid = || RegistryError::Settings("a URL to send JSON to is none".to_owned());
    let url = Url::parse(url).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid());
    }
    let what = format!("POST to {}", authority(&url));
    let late = RegistryError::Network {
        what: what.clone(),
        why: format!("no answer in {} s", limit.as_secs()),
        hint: None,
    };
    tokio::time::timeout(limit, post(client, &what, url, headers, body)).await.unwrap_or(Err(late))
}

async fn post(
    client: &Client,
    what: &str,
    url: Url,
    headers: &[(String, Secret)],
    body: String,
) -> Result<(), RegistryError> {
    let http = client.transport.client(&authority(&url), Purpose::Service)?;
    let mut request = http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body);
    for (name, value) in headers {
        request = request.header(name, value.expose());
    }
    let response =
        client.send_once(what, &url, request).await.map_err(|failure| match failure {
            Failure::Final(error) | Failure::Transient(error, _) => error,
        })?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let message = answer::message(response, client.settings.patience.idle).await;
    Err(answer::refusal(what, status, message, || "check the login in the headers".to_owned()))
}
