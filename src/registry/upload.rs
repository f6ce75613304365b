//! Blobs into a repository: not at all if they are there, by mounting where
//! that works, and else in one stream that is resumed where it broke.

use std::io::SeekFrom;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use super::auth::Scope;
use super::download::fetch;
use super::exchange::{Body, Client, Failure, Request, location};
use super::settings::Purpose;
use super::{RegistryError, retry};
use crate::image::{Blob, Descriptor, ImageLayer, Repository};

/// How much of a file is read at a time, in bytes.
const READ: usize = 256 << 10;

/// Blobs of up to this many bytes are sent in one request after the first.
const SMALL: u64 = 1 << 20;

const OCTETS: &str = "application/octet-stream";

/// Where the bytes of an upload come from.
pub(crate) enum Source<'a> {
    Bytes(Bytes),
    Layer(&'a ImageLayer, &'a Path),
}

/// Makes sure that the repository has this layer; `dir` takes what has to be downloaded first.
pub(crate) async fn layer(
    client: &Client,
    repository: &Repository,
    layer: &ImageLayer,
    dir: &Path,
) -> Result<(), RegistryError> {
    blob(client, repository, &layer.descriptor, Source::Layer(layer, dir)).await
}

/// Makes sure that the repository has this blob. Whoever asks second waits for the first.
pub(crate) async fn blob(
    client: &Client,
    repository: &Repository,
    wanted: &Descriptor,
    source: Source<'_>,
) -> Result<(), RegistryError> {
    let arrival = {
        let mut arrivals = client.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(arrivals.entry((repository.clone(), wanted.digest)).or_default())
    };
    let upload = Upload {
        client,
        what: format!("upload {} to {repository}", wanted.digest),
        repository,
        wanted,
    };
    arrival.get_or_try_init(|| upload.ensure(source)).await.copied()
}

struct Upload<'a> {
    client: &'a Client,
    what: String,
    repository: &'a Repository,
    wanted: &'a Descriptor,
}

impl Upload<'_> {
    async fn ensure(&self, source: Source<'_>) -> Result<(), RegistryError> {
        let from = match &source {
            Source::Layer(ImageLayer { blob: Blob::Registry(from), .. }, _) => Some(from),
            Source::Layer(..) | Source::Bytes(_) => None,
        };
        if from == Some(self.repository) || self.exists().await? {
            tracing::debug!(digest = %self.wanted.digest, repository = %self.repository, "exists");
            return Ok(());
        }
        if let Some(from) = from.filter(|it| it.registry() == self.repository.registry())
            && self.mount(from).await?
        {
            tracing::debug!(digest = %self.wanted.digest, %from, "mounted");
            return Ok(());
        }
        let permit = self.client.uploads.acquire().await;
        let _permit = permit.map_err(|_| RegistryError::Cancelled(self.what.clone()))?;
        match source {
            Source::Bytes(bytes) => self.send(Body::Bytes(bytes)).await,
            Source::Layer(layer, dir) => {
                let file = fetch(self.client, layer, dir).await?;
                let body = Body::File {
                    path: file.path().to_owned(),
                    offset: 0,
                    length: self.wanted.size,
                };
                self.send(body).await
            }
        }
    }

    fn request(&self, method: Method, url: Url) -> Request<'_> {
        Request::new(&self.what, Purpose::Push, self.repository, method, url)
    }

    async fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.client.url(self.repository, Purpose::Push, path).await
    }

    /// A registry that cannot answer HEAD gets the blob once more rather than never.
    async fn exists(&self) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{}", self.wanted.digest)).await?;
        let request = self.request(Method::HEAD, url);
        let response = self.client.exchange(&request).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.client.refusal(&request, response).await)
            }
            _ => Ok(false),
        }
    }

    /// Distribution-spec's cross-repository mount; whatever is not 201 means that it did not work.
    async fn mount(&self, from: &Repository) -> Result<bool, RegistryError> {
        let mut url = self.url("blobs/uploads/").await?;
        url.query_pairs_mut()
            .append_pair("mount", &self.wanted.digest.to_string())
            .append_pair("from", from.path());
        let mut request = self.request(Method::POST, url);
        request.scope = request.scope.and(Scope::pull(from));
        let outcome = self.client.try_once(&request).await;
        match outcome {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            Ok(response) => {
                tracing::debug!(status = response.status().as_u16(), %from, "not mounted");
                if response.status() == StatusCode::ACCEPTED {
                    // The session it opened is given back; the upload opens its own.
                    cancel(self.client, &request, &response).await;
                }
                Ok(false)
            }
            Err(Failure::Final(error) | Failure::Transient(error, _)) => {
                tracing::debug!(%from, "not mounted: {error}");
                Ok(false)
            }
        }
    }

    /// Uploads until it is there or the budget is spent; a session survives what it can.
    async fn send(&self, body: Body) -> Result<(), RegistryError> {
        let mut budget = self.client.budget();
        let mut session = None;
        loop {
            let before = session.as_ref().map_or(0, |it: &Session| it.offset);
            let failure = match self.send_once(&body, &mut session).await {
                Ok(()) => {
                    tracing::debug!(digest = %self.wanted.digest, "uploaded");
                    return Ok(());
                }
                Err(failure) => failure,
            };
            failure.pause(&mut budget).await?;
            if self.exists().await? {
                return Ok(()); // only the answer was lost
            }
            session = self.resume(session).await;
            if session.as_ref().is_some_and(|it| it.offset > before) {
                budget.progress();
            }
        }
    }

    async fn send_once(&self, body: &Body, session: &mut Option<Session>) -> Result<(), Failure> {
        let mut current = match session.take() {
            Some(session) => session,
            None => Session { url: self.begin().await?, offset: 0 },
        };
        if current.offset < self.wanted.size && self.wanted.size > SMALL {
            *session = Some(current.clone());
            let response = self.patch(&current, body).await?;
            current = Session { url: response, offset: self.wanted.size };
        }
        *session = Some(current.clone());
        self.complete(&current, body).await
    }

    async fn begin(&self) -> Result<Url, Failure> {
        let url = self.url("blobs/uploads/").await?;
        let request = self.request(Method::POST, url.clone());
        let response = self.client.try_once(&request).await?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(location(&self.what, response.url(), &response)?),
            _ => Err(self.client.refusal(&request, response).await.into()),
        }
    }

    /// Streams the rest of the body; answers where the session goes on.
    async fn patch(&self, session: &Session, body: &Body) -> Result<Url, Failure> {
        let mut request = self
            .request(Method::PATCH, session.url.clone())
            .with_body(rest(body, session.offset))
            .with_header(CONTENT_TYPE, OCTETS)?;
        if session.offset > 0 {
            let range = format!("{}-{}", session.offset, self.wanted.size - 1);
            request = request.with_header(CONTENT_RANGE, &range)?;
        }
        let response = self.client.try_once(&request).await?;
        match response.status() {
            status if status.is_success() => Ok(location(&self.what, response.url(), &response)?),
            _ => Err(self.session_lost(&request, response).await),
        }
    }

    /// Ends the session with the digest, and with the bytes if they have not been sent.
    async fn complete(&self, session: &Session, body: &Body) -> Result<(), Failure> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.wanted.digest.to_string());
        let mut request = self.request(Method::PUT, url);
        if session.offset < self.wanted.size {
            request = request.with_body(rest(body, session.offset));
        }
        let request = request.with_header(CONTENT_TYPE, OCTETS)?;
        let response = self.client.try_once(&request).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.session_lost(&request, response).await),
        }
    }

    /// An unknown session or a wrong offset is what a broken connection leaves behind: begin anew.
    async fn session_lost(&self, request: &Request<'_>, response: Response) -> Failure {
        let status = response.status();
        let after = retry::retry_after(response.headers());
        let error = self.client.refusal(request, response).await;
        match status {
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Failure::Transient(error, after)
            }
            _ => Failure::of_status(status, error, after),
        }
    }

    /// Asks how far a session came. `None` means to begin anew, which always works.
    async fn resume(&self, session: Option<Session>) -> Option<Session> {
        let session = session?;
        let request = self.request(Method::GET, session.url.clone());
        let response = self.client.try_once(&request).await.ok()?;
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 =
            range.trim_start_matches("bytes=").split_once('-')?.1.trim().parse().ok()?;
        let url = location(&self.what, response.url(), &response).ok()?;
        // `0-0` is one byte to some registries and none to others.
        let usable = response.status() == StatusCode::NO_CONTENT && last > 0;
        let offset = last + 1;
        (usable && offset <= self.wanted.size).then(|| {
            tracing::info!("{}: {offset} bytes have arrived, going on from there", self.what);
            Session { url, offset }
        })
    }
}

/// An upload that has begun.
#[derive(Clone)]
struct Session {
    url: Url,
    /// How many bytes the registry has.
    offset: u64,
}

/// Gives a session back. Registries forget sessions by themselves, so a failure is of no interest.
pub(crate) async fn cancel(client: &Client, begun: &Request<'_>, response: &Response) {
    let Ok(url) = location(begun.what, response.url(), response) else { return };
    let request = Request::new(begun.what, begun.purpose, begun.repository, Method::DELETE, url);
    if let Err(Failure::Final(error) | Failure::Transient(error, _)) =
        client.try_once(&request).await
    {
        tracing::debug!("the upload was not cancelled: {error}");
    }
}

fn rest(body: &Body, from: u64) -> Body {
    match body {
        Body::Empty => Body::Empty,
        Body::Bytes(bytes) => {
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            Body::Bytes(bytes.slice(from..))
        }
        Body::File { path, offset, length } => Body::File {
            path: path.clone(),
            offset: offset + from,
            length: length.saturating_sub(from),
        },
    }
}

/// When a body last moved.
#[derive(Clone)]
pub(crate) struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ends when nothing has moved for this long.
    pub(crate) async fn stalled(&self, idle: Duration) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + idle;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Part of a file as the body of one request.
pub(crate) struct FileBody;

impl FileBody {
    /// Opens the file anew, so that no try begins where another ended.
    pub(crate) async fn open(
        path: &Path,
        offset: u64,
        length: u64,
    ) -> Result<(reqwest::Body, Moved), RegistryError> {
        let mut file = File::open(path).await.map_err(RegistryError::io(path))?;
        file.seek(SeekFrom::Start(offset)).await.map_err(RegistryError::io(path))?;
        let moved = Moved(Arc::new(Mutex::new(Instant::now())));
        let watched = moved.clone();
        let reader = tokio_util::io::InspectReader::new(file.take(length), move |_| watched.now());
        Ok((reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, READ)), moved))
    }
}
