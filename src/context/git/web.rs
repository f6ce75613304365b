//! Git's protocol over HTTP: what gix wants of a client, done by the one that everything else uses.
//!
//! So certificates, proxies, time limits and redirects are the same as for all
//! contexts, and this is the only place that knows the login: it goes to the
//! origin that it was given for.

use std::any::Any;
use std::io::{self, BufRead, Cursor, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};
use gix::protocol::transport::client::blocking_io::http::{
    GetResponse, Http, PostBodyDataKind, PostResponse,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::runtime::Runtime;
use tracer::Interrupt;

use super::super::http::{FetchSettings, Redirects, becomes_true, client_with};
use super::super::progress::Progress;
use super::source::{Login, Pass, Remote};
use crate::registry::causes;

/// What a server answered instead of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// 401 or 403.
    Login(StatusCode),
    /// Another status that will stay.
    Status(StatusCode),
    /// It may be different the next time.
    Passing(String),
}

/// Remembers the last problem, which gix wraps in words of its own.
pub(super) type Problems = Arc<Mutex<Option<Problem>>>;

/// The client of one repository.
pub(super) struct Web {
    wire: Arc<Wire>,
    /// Where the repository is after redirects.
    base: Option<String>,
}

struct Wire {
    runtime: Runtime,
    /// Follows redirects of the first request.
    asking: Client,
    /// Follows none: what is posted is meant for one place.
    posting: Client,
    login: Option<Login>,
    interrupt: Interrupt,
    problems: Problems,
    progress: Mutex<Progress>,
}

impl Web {
    pub(super) fn new(
        remote: &Remote,
        insecure: bool,
        settings: &FetchSettings,
        interrupt: &Interrupt,
        problems: &Problems,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let wire = Wire {
            runtime: runtime.map_err(|error| error.to_string())?,
            asking: client_with(settings, Redirects::Followed, insecure)?,
            posting: client_with(settings, Redirects::Refused, insecure)?,
            login: remote.login.clone(),
            interrupt: interrupt.clone(),
            problems: problems.clone(),
            progress: Mutex::new(Progress::new(remote.to_string(), None)),
        };
        Ok(Self { wire: Arc::new(wire), base: None })
    }
}

impl Wire {
    fn request(
        &self,
        request: RequestBuilder,
        url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> RequestBuilder {
        let mut request = request;
        for header in headers {
            if let Some((name, value)) = header.as_ref().split_once(':') {
                request = request.header(name.trim(), value.trim());
            }
        }
        let origin = Url::parse(url).ok().map(|url| url.origin().ascii_serialization());
        match self.login.as_ref().filter(|login| Some(&login.origin) == origin.as_ref()) {
            Some(Login { pass: Pass::User { user, password }, .. }) => {
                request.basic_auth(user, Some(password.expose()))
            }
            Some(Login { pass: Pass::Header(value), .. }) => {
                request.header(reqwest::header::AUTHORIZATION, value.expose())
            }
            None => request,
        }
    }

    /// Runs one wait on the network, unless the build is being ended.
    fn wait<T>(&self, what: impl Future<Output = reqwest::Result<T>>) -> io::Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                done = what => done.map_err(|error| {
                    let why = causes(&error.without_url());
                    self.note(Problem::Passing(why.clone()));
                    io::Error::other(why)
                }),
                () = becomes_true(|| self.interrupt.is_triggered()) => {
                    Err(io::Error::other("interrupted"))
                }
            }
        })
    }

    fn send(&self, request: RequestBuilder) -> io::Result<Response> {
        // Sending sets timers, which need the runtime: not before it runs.
        let response = self.wait(async { request.send().await })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        self.note(match status.as_u16() {
            401 | 403 => Problem::Login(status),
            408 | 429 | 500 | 502 | 503 | 504 => Problem::Passing(format!("status {status}")),
            _ => Problem::Status(status),
        });
        Err(io::Error::other(format!("status {status}")))
    }

    fn note(&self, problem: Problem) {
        *locked(&self.problems) = Some(problem);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The headers of an answer as lines.
fn lines(response: &Response) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in response.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text
}

impl Http for Web {
    type Headers = Headers;
    type ResponseBody = Body;
    type PostBody = Upload;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Headers, Body>> {
        let request = self.wire.request(self.wire.asking.get(url), url, headers);
        let response = self.wire.send(request).map_err(told)?;
        let tail = url.strip_prefix(base_url).unwrap_or_default();
        self.base = response.url().as_str().strip_suffix(tail).map(str::to_owned);
        let exchange = Exchange::answered(self.wire.clone(), response);
        Ok(GetResponse { headers: Headers::of(&exchange), body: Body::of(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Headers, Body, Upload>> {
        let request = self.wire.request(self.wire.posting.post(url), url, headers);
        let exchange = Exchange::asked(self.wire.clone(), request);
        Ok(PostResponse {
            post_body: Upload(exchange.clone()),
            headers: Headers::of(&exchange),
            body: Body::of(&exchange),
        })
    }

    fn configure(&mut self, _config: &dyn Any) -> gix::Result {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.base.clone()
    }
}

fn told(error: io::Error) -> gix::Error {
    gix::Error::from_error(error)
}

/// One request, which is sent when somebody wants the answer, and its answer.
struct Exchange {
    wire: Arc<Wire>,
    request: Option<(RequestBuilder, Vec<u8>)>,
    response: Option<Response>,
}

type Shared = Arc<Mutex<Exchange>>;

impl Exchange {
    fn asked(wire: Arc<Wire>, request: RequestBuilder) -> Shared {
        let request = Some((request, Vec::new()));
        Arc::new(Mutex::new(Self { wire, request, response: None }))
    }

    fn answered(wire: Arc<Wire>, response: Response) -> Shared {
        Arc::new(Mutex::new(Self { wire, request: None, response: Some(response) }))
    }

    fn answer(&mut self) -> io::Result<&mut Response> {
        if let Some((request, body)) = self.request.take() {
            self.response = Some(self.wire.send(request.body(body))?);
        }
        self.response.as_mut().ok_or_else(|| io::Error::other("the request was not answered"))
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let wire = self.wire.clone();
        let piece = wire.wait(self.answer()?.chunk())?.unwrap_or_default();
        locked(&wire.progress).add(piece.len());
        Ok(piece)
    }
}

/// What is posted: wants and haves, which are short.
pub(super) struct Upload(Shared);

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut locked(&self.0).request {
            Some((_, body)) => body.extend_from_slice(bytes),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The headers of the answer, once it is there.
pub(super) struct Headers {
    exchange: Shared,
    text: Option<Cursor<Vec<u8>>>,
}

impl Headers {
    fn of(exchange: &Shared) -> Self {
        Self { exchange: exchange.clone(), text: None }
    }

    fn text(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        let text = match self.text.take() {
            Some(text) => text,
            None => Cursor::new(lines(locked(&self.exchange).answer()?)),
        };
        Ok(self.text.insert(text))
    }
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.text()?.read(buffer)
    }
}

impl BufRead for Headers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.text()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(text) = &mut self.text {
            text.consume(amount);
        }
    }
}

/// The content of the answer, as it arrives.
pub(super) struct Body {
    exchange: Shared,
    piece: Bytes,
    ended: bool,
}

impl Body {
    fn of(exchange: &Shared) -> Self {
        Self { exchange: exchange.clone(), piece: Bytes::new(), ended: false }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buffer)?;
        self.consume(got);
        Ok(got)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && !self.ended {
            self.piece = locked(&self.exchange).next()?;
            self.ended = self.piece.is_empty();
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount);
    }
}
