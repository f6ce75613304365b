//! One GET that is told again where that helps: before the first byte from the start, later from the
//! byte where it broke off, if the server can say that the file is still the same.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::RANGE;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED};
use reqwest::{Client, Response, StatusCode, Url};

use super::{FetchError, FetchSettings, without_credentials};
use crate::registry::{causes, retry_after};

/// The longest that a server's `Retry-After` is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A file on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    client: Client,
    url: Url,
    shown: String,
    tries: u32,
    pause: Duration,
    response: Response,
    /// Tells this content from any other; without it nothing can be continued.
    validator: Option<HeaderValue>,
    got: u64,
    total: Option<u64>,
    /// How often it broke off without progress.
    broken: u32,
}

impl Transfer {
    /// Asks for the file until there is an answer that counts.
    pub(super) async fn begin(
        client: Client,
        url: Url,
        settings: &FetchSettings,
    ) -> Result<Self, FetchError> {
        let shown = without_credentials(url.as_str());
        let (tries, first_pause) = (settings.tries, settings.pause);
        let response = ask(&client, &url, &shown, tries, first_pause).await?;
        if !response.status().is_success() {
            return Err(FetchError::Status { url: shown, status: response.status() });
        }
        let validator = validator(response.headers());
        let total = response.content_length();
        Ok(Self {
            client,
            url,
            shown,
            tries,
            pause: first_pause,
            response,
            validator,
            got: 0,
            total,
            broken: 0,
        })
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// What the server says the length is.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            match self.response.chunk().await {
                Ok(Some(piece)) => {
                    self.got += piece.len() as u64;
                    self.broken = 0;
                    return Ok(Some(piece));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.go_on_after(&error.without_url()).await?,
            }
        }
    }

    /// Has the server continue where the last answer broke off.
    async fn go_on_after(&mut self, error: &reqwest::Error) -> Result<(), FetchError> {
        self.broken += 1;
        let why = format!("the transfer broke off after {} bytes: {}", self.got, causes(error));
        let failed = |why| FetchError::Transfer { url: self.shown.clone(), why };
        // Where nothing has come there is nothing that could be another file's.
        let validator = self.validator.clone();
        if self.broken >= self.tries || (validator.is_none() && self.got > 0) {
            return Err(failed(why));
        }
        tracing::warn!("{}: {why}; going on from there", self.shown);
        tokio::time::sleep(self.pause * (1 << self.broken.min(10))).await;
        let request = self.client.get(self.url.clone());
        let request = match validator.filter(|_| self.got > 0) {
            Some(validator) => {
                request.header(RANGE, format!("bytes={}-", self.got)).header(IF_RANGE, validator)
            }
            None => request,
        };
        let Ok(response) = request.send().await else { return Ok(()) };
        let start = format!("bytes {}-", self.got);
        let range = response.headers().get(CONTENT_RANGE).and_then(|it| it.to_str().ok());
        let fits = range.is_some_and(|range| range.starts_with(&start));
        match response.status() {
            StatusCode::PARTIAL_CONTENT if fits => self.response = response,
            StatusCode::OK if self.got == 0 => self.response = response,
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(failed(format!("{why}; the server cannot continue it")));
            }
            status if is_passing(status) => {}
            status => return Err(FetchError::Status { url: self.shown.clone(), status }),
        }
        Ok(())
    }
}

/// Sends the request, again after answers and failures that pass.
async fn ask(
    client: &Client,
    url: &Url,
    shown: &str,
    tries: u32,
    first_pause: Duration,
) -> Result<Response, FetchError> {
    let mut pause = first_pause;
    let mut left = tries.max(1);
    loop {
        left -= 1;
        let (why, wait) = match client.get(url.clone()).send().await {
            Ok(response) if left == 0 || !is_passing(response.status()) => return Ok(response),
            Ok(response) => (response.status().to_string(), retry_after(response.headers())),
            Err(error) => {
                let why = causes(&error.without_url());
                if left == 0 || why.contains("redirect") || why.contains("certificate") {
                    return Err(FetchError::Transfer { url: shown.to_owned(), why });
                }
                (why, None)
            }
        };
        let wait = wait.unwrap_or(pause).min(LONGEST_PAUSE);
        tracing::warn!("{shown}: {why}; trying again in {:.1}s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
        pause *= 2;
    }
}

/// Whether another try may be answered differently.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// A strong ETag, or else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    strong.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}
