//! A short text to an https URL, as pipelines hand them out to be told a result.
//!
//! Such a URL is often signed: whoever knows it may write there. Only its host is ever shown.

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

use super::exchange::{Client, Failure, authority};
use super::settings::Purpose;
use super::{RegistryError, Secret, answer, retry};

/// PUTs the text as `text/plain`, with the same patience as everything else.
pub(crate) async fn put(client: &Client, url: &Secret, text: &str) -> Result<(), RegistryError> {
    let invalid = |why: &str| RegistryError::Settings(format!("a URL to write to {why}"));
    let url = Url::parse(url.expose()).map_err(|_| invalid("is none"))?;
    if url.scheme() != "https" {
        return Err(invalid("is not on HTTPS"));
    }
    let what = format!("PUT to {}", authority(&url));
    let mut budget = client.budget();
    loop {
        match put_once(client, &what, &url, text).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure.pause(&mut budget).await?,
        }
    }
}

async fn put_once(client: &Client, what: &str, url: &Url, text: &str) -> Result<(), Failure> {
    let http = client.transport.client(&authority(url), Purpose::Service)?;
    let request = http.put(url.clone()).header(CONTENT_TYPE, "text/plain").body(text.to_owned());
    let response = client.send_once(what, url, request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let asked = retry::retry_after(response.headers());
    let message = answer::message(response, client.settings.patience.idle).await;
    let hint = || "the URL may have expired, or be signed for another method".to_owned();
    Err(Failure::of_status(status, answer::refusal(what, status, message, hint), asked))
}
