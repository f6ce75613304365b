//! Blobs into a repository: not at all if they are there, by mounting where
//! that works, and else in one stream, which is resumed where it broke, or sent
//! anew in chunks to registries that forget what a broken stream brought.

use std::collections::HashSet;
use std::io::SeekFrom;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONNECTION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use super::arrival::Arrival;
use super::auth::Scope;
use super::download::{fetch, verify_layout};
use super::exchange::{Body, Client, Failure, Request, SentTo, location};
use super::settings::Purpose;
use super::{RegistryError, retry};
use crate::image::{Blob, BlobFile, Descriptor, ImageLayer, Repository};

/// How much of a file is read at a time, in bytes.
const READ: usize = 256 << 10;

/// Blobs of up to this many bytes are sent in one request after the first.
const SMALL: u64 = 1 << 20;

/// Blobs of up to this many bytes come with the request that begins their upload, where a registry takes
/// them so; more would not be read before the answer by those that do not.
const WHOLE: u64 = 64 << 10;

/// The first size of chunks once a stream has broken, in bytes; they shrink from there.
const CHUNK: u64 = 16 << 20;

const OCTETS: &str = "application/octet-stream";

/// Where the bytes of an upload come from.
pub(crate) enum Source<'a> {
    Bytes(Bytes),
    Layer(&'a ImageLayer, &'a Path),
    /// The OCI layout that the blob is in.
    Layout(&'a Path),
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

/// Forgets what arrived in a repository: whoever asks next looks again.
pub(crate) fn look_again(client: &Client, repository: &Repository) {
    let mut arrivals = client.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    arrivals.retain(|(of, _), _| of != repository);
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
            Source::Layer(..) | Source::Layout(_) | Source::Bytes(_) => None,
        };
        if from == Some(self.repository) || self.stands().await || self.exists().await? {
            tracing::debug!(digest = %self.wanted.digest, repository = %self.repository, "exists");
            return Ok(());
        }
        if let Some(from) = from.filter(|it| it.registry() == self.repository.registry())
            && self.mount(from).await?
        {
            tracing::debug!(digest = %self.wanted.digest, %from, "mounted");
            return Ok(());
        }
        let sent = self.sent();
        let mut sent = sent.lock().await;
        if let Some(other) = sent.as_ref().filter(|other| *other != self.repository)
            && self.mount(other).await?
        {
            tracing::debug!(digest = %self.wanted.digest, from = %other, "mounted");
            return Ok(());
        }
        self.send_from(source).await?;
        *sent = Some(self.repository.clone());
        Ok(())
    }

    /// Where the registry has got this blob from here, if it has.
    fn sent(&self) -> SentTo {
        let mut sent = self.client.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.repository.registry().to_owned(), self.wanted.digest);
        Arc::clone(sent.entry(key).or_default())
    }

    async fn send_from(&self, source: Source<'_>) -> Result<(), RegistryError> {
        let permit = self.client.uploads.acquire().await;
        let _permit = permit.map_err(|_| RegistryError::Cancelled(self.what.clone()))?;
        match source {
            Source::Bytes(bytes) => self.send(Body::Bytes(bytes)).await,
            Source::Layout(dir) => {
                let file = verify_layout(dir, self.wanted).await?;
                self.send_file(&file).await
            }
            Source::Layer(layer, dir) => {
                let file = fetch(self.client, layer, dir, &Arrival::default()).await?;
                self.send_file(&file).await
            }
        }
    }

    async fn send_file(&self, file: &BlobFile) -> Result<(), RegistryError> {
        let body = Body::File { path: file.readable(), offset: 0, length: self.wanted.size };
        self.send(body).await
    }

    fn request(&self, method: Method, url: Url) -> Request<'_> {
        Request::new(&self.what, Purpose::Push, self.repository, method, url)
    }

    async fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.client.url(self.repository, Purpose::Push, path).await
    }

    async fn stands(&self) -> bool {
        let Self { client, repository, wanted, .. } = self;
        client.standing.has(client, repository, wanted.digest).await
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
        let (mut session, mut chunk) = (None, None);
        loop {
            let before = session.as_ref().map_or(0, |it: &Session| it.offset);
            let failure = match self.send_once(&body, &mut session, chunk).await {
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
            match &session {
                Some(session) if session.offset > before => budget.progress(),
                // What broke is lost: smaller pieces are more likely to arrive.
                Some(_) | None => chunk = Some(chunk.map_or(CHUNK, |it| it / 4).max(SMALL)),
            }
        }
    }

    /// One stream, or one request for each chunk where streams have broken.
    async fn send_once(
        &self,
        body: &Body,
        session: &mut Option<Session>,
        chunk: Option<u64>,
    ) -> Result<(), Failure> {
        let mut current = match session.take() {
            Some(session) => session,
            None => match self.begin(body).await? {
                Some((url, least)) => Session { url, offset: 0, least },
                None => return Ok(()),
            },
        };
        *session = Some(current.clone());
        while current.offset < self.wanted.size && self.wanted.size > SMALL {
            current = self.patch(&current, body, chunk).await?;
            *session = Some(current.clone());
        }
        self.complete(&current, body).await
    }

    /// Begins a session; `None` where the blob has arrived with that.
    async fn begin(&self, body: &Body) -> Result<Option<(Url, u64)>, Failure> {
        let whole = self.wanted.size <= WHOLE
            && !self.takes_no_whole().contains(self.repository.registry());
        if whole {
            match self.post_whole(body).await? {
                Posted::Arrived => return Ok(None),
                Posted::Begun(url, least) => return Ok(Some((url, least))),
                Posted::Refused => {}
            }
        }
        let url = self.url("blobs/uploads/").await?;
        let request = self.request(Method::POST, url);
        let response = self.client.try_once(&request).await?;
        match response.status() {
            StatusCode::ACCEPTED => {
                let url = location(&self.what, response.url(), &response)?;
                Ok(Some((url, least_chunk(&response))))
            }
            _ => Err(self.client.refusal(&request, response).await.into()),
        }
    }

    /// Sends the blob with the request that begins its upload (distribution-spec, "single POST"). A
    /// registry need not take it; one that does not is not asked again.
    async fn post_whole(&self, body: &Body) -> Result<Posted, Failure> {
        let mut url = self.url("blobs/uploads/").await?;
        url.query_pairs_mut().append_pair("digest", &self.wanted.digest.to_string());
        let request = self
            .request(Method::POST, url)
            .with_body(part(body, 0, self.wanted.size))
            .with_header(CONTENT_TYPE, OCTETS)?;
        let answer = self.client.try_once(&request).await;
        if answer.as_ref().is_ok_and(|it| it.status() == StatusCode::CREATED) {
            return Ok(Posted::Arrived);
        }
        self.takes_no_whole().insert(self.repository.registry().to_owned());
        let response = answer?;
        match response.status() {
            StatusCode::ACCEPTED => {
                let url = location(&self.what, response.url(), &response)?;
                Ok(Posted::Begun(url, least_chunk(&response)))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.client.refusal(&request, response).await.into())
            }
            _ => Ok(Posted::Refused),
        }
    }

    fn takes_no_whole(&self) -> MutexGuard<'_, HashSet<String>> {
        self.client.takes_no_whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the next chunk, or all that is left; answers where the session goes on.
    async fn patch(
        &self,
        session: &Session,
        body: &Body,
        chunk: Option<u64>,
    ) -> Result<Session, Failure> {
        let left = self.wanted.size - session.offset;
        let length = chunk_length(chunk, session.least, left);
        let mut request = self
            .request(Method::PATCH, session.url.clone())
            .with_body(part(body, session.offset, length))
            .with_header(CONTENT_TYPE, OCTETS)?;
        let end = session.offset + length;
        if length < self.wanted.size {
            request =
                request.with_header(CONTENT_RANGE, &format!("{}-{}", session.offset, end - 1))?;
        }
        if chunk.is_some() {
            // A proxy that allows a connection so many bytes counts from the first again.
            request = request.with_header(CONNECTION, "close")?;
        }
        let response = self.client.try_once(&request).await?;
        match response.status() {
            status if status.is_success() => {
                let url = location(&self.what, response.url(), &response)?;
                Ok(Session { url, offset: end, least: session.least })
            }
            _ => Err(self.session_lost(&request, response).await),
        }
    }

    /// Ends the session with the digest, and with the bytes if they have not been sent.
    async fn complete(&self, session: &Session, body: &Body) -> Result<(), Failure> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.wanted.digest.to_string());
        let mut request = self.request(Method::PUT, url);
        if session.offset < self.wanted.size {
            request =
                request.with_body(part(body, session.offset, self.wanted.size - session.offset));
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
        let Session { url, least, .. } = session?;
        let request = self.request(Method::GET, url);
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
            Session { url, offset, least }
        })
    }
}

/// What became of a blob that came with the first request.
enum Posted {
    Arrived,
    Begun(Url, u64),
    Refused,
}

/// An upload that has begun.
#[derive(Clone)]
struct Session {
    url: Url,
    /// How many bytes the registry has.
    offset: u64,
    /// The least that a chunk may have but for the last one (`OCI-Chunk-Min-Length`).
    least: u64,
}

/// How much goes with one request: all that is left, or a chunk that is not smaller than the registry takes.
fn chunk_length(chunk: Option<u64>, least: u64, left: u64) -> u64 {
    chunk.map_or(left, |chunk| chunk.max(least).min(left))
}

/// What a registry says of the size of chunks; it may say nothing.
fn least_chunk(response: &Response) -> u64 {
    let text = response.headers().get("oci-chunk-min-length").and_then(|it| it.to_str().ok());
    text.and_then(|it| it.trim().parse().ok()).unwrap_or(0)
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

/// `length` bytes of a body from `from` on.
fn part(body: &Body, from: u64, length: u64) -> Body {
    match body {
        Body::Empty => Body::Empty,
        Body::Bytes(bytes) => {
            let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Body::Bytes(bytes.slice(at(from)..at(from + length)))
        }
        Body::File { path, offset, .. } => {
            Body::File { path: path.clone(), offset: offset + from, length }
        }
    }
}

/// How many bytes of a body are left, and when it last moved.
#[derive(Clone)]
pub(crate) struct Moved(Arc<Mutex<(u64, Instant)>>);

impl Moved {
    fn by(&self, count: u64) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *moved = (moved.0.saturating_sub(count), Instant::now());
    }

    /// Ends when nothing has moved for `idle`, or for `commit` once all is on its way; tells which.
    pub(crate) async fn stalled(&self, idle: Duration, commit: Duration) -> Duration {
        loop {
            let (left, last) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = if left == 0 { commit } else { idle };
            let end = last + limit;
            if end <= Instant::now() {
                return limit;
            }
            // What is last to be read may move soon, and then the other limit holds.
            tokio::time::sleep_until(end.min(Instant::now() + idle)).await;
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
        let moved = Moved(Arc::new(Mutex::new((length, Instant::now()))));
        let watched = moved.clone();
        let reader = tokio_util::io::InspectReader::new(file.take(length), move |bytes| {
            watched.by(bytes.len() as u64);
        });
        Ok((reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, READ)), moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_large_as_the_registry_wants_them() {
        for (chunk, least, left, want) in
            [(None, 9, 5, 5), (Some(4), 0, 100, 4), (Some(4), 9, 100, 9), (Some(4), 9, 5, 5)]
        {
            assert_eq!(chunk_length(chunk, least, left), want, "{chunk:?} {least} {left}");
        }
    }

    #[tokio::test]
    async fn what_is_wholly_on_its_way_may_take_longer() {
        let (idle, commit) = (Duration::from_millis(1), Duration::from_millis(3));
        let moved = Moved(Arc::new(Mutex::new((5, Instant::now()))));
        assert_eq!(moved.stalled(idle, commit).await, idle);
        moved.by(5);
        assert_eq!(moved.stalled(idle, commit).await, commit);
    }
}
