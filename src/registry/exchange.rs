//! One request and its answer: who is told what, where it may be redirected to, when it is sent again.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::{OnceCell, Semaphore};

use super::auth::{Asker, Auth, Scope};
use super::retry::Budget;
use super::settings::Purpose;
use super::standing::Standing;
use super::transport::{Transport, is_certificate};
use super::upload::FileBody;
use super::{RegistryError, Settings, answer, challenge, retry};
use crate::image::{Digest, Repository};

/// How many redirects are followed for one request.
const REDIRECTS: usize = 5;

/// A blob in a repository, and whether it has arrived there.
type Arrivals = HashMap<(Repository, Digest), Arc<OnceCell<()>>>;

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) settings: Arc<Settings>,
    pub(crate) transport: Transport,
    pub(crate) auth: Auth,
    pub(crate) downloads: Semaphore,
    pub(crate) uploads: Semaphore,
    /// Each blob is sent once to a repository, however many ask for it.
    pub(crate) arrivals: Mutex<Arrivals>,
    /// By registry and digest, the repository that has a blob since it was sent there. Locked while it is sent: who
    /// wants it in another repository waits, and asks for it from there.
    pub(crate) sent: Mutex<HashMap<(String, Digest), SentTo>>,
    /// What destinations had before.
    pub(crate) standing: Standing,
    /// Registries that did not take a blob with the request that begins its upload.
    pub(crate) takes_no_whole: Mutex<HashSet<String>>,
    /// Hosts that have answered: a refused connection there is a hiccup and not a wrong name.
    answered: Mutex<HashSet<String>>,
}

/// The repository that got a blob from here; nothing until then.
pub(crate) type SentTo = Arc<tokio::sync::Mutex<Option<Repository>>>;

/// What a request carries. A body is made anew for each try.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Empty,
    Bytes(Bytes),
    /// `length` bytes of a file from `offset` on.
    File {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

/// A request to a registry.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// What it is for, as errors and logs say it.
    pub(crate) what: &'a str,
    pub(crate) purpose: Purpose,
    pub(crate) repository: &'a Repository,
    pub(crate) scope: Scope,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// Why a try came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The same request would fail again.
    Final(RegistryError),
    /// It may work later; the server may have said when.
    Transient(RegistryError, Option<Duration>),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// A failure by status.
    pub(crate) fn of_status(
        status: StatusCode,
        error: RegistryError,
        asked: Option<Duration>,
    ) -> Self {
        if retry::is_transient(status) { Self::Transient(error, asked) } else { Self::Final(error) }
    }

    /// Pauses if it is transient and the budget allows; the error otherwise.
    pub(crate) async fn pause(self, budget: &mut Budget) -> Result<(), RegistryError> {
        match self {
            Self::Final(error) => Err(error),
            Self::Transient(error, asked) => {
                let text = error.to_string();
                if budget.pause(&text, asked).await { Ok(()) } else { Err(error) }
            }
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Final(error) | Self::Transient(error, _)) = self;
        error.fmt(f)
    }
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        what: &'a str,
        purpose: Purpose,
        repository: &'a Repository,
        method: Method,
        url: Url,
    ) -> Self {
        let scope = match purpose {
            Purpose::Pull => Scope::pull(repository),
            Purpose::Push => Scope::push(repository),
            Purpose::Service => Scope::default(),
        };
        let (headers, body) = (HeaderMap::new(), Body::Empty);
        Self { what, purpose, repository, scope, method, url, headers, body }
    }

    pub(crate) fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn with_header(
        mut self,
        name: reqwest::header::HeaderName,
        value: &str,
    ) -> Result<Self, RegistryError> {
        let value = value
            .parse()
            .map_err(|_| RegistryError::answer(self.what, format!("{name} cannot be {value:?}")))?;
        self.headers.append(name, value);
        Ok(self)
    }
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Result<Self, RegistryError> {
        let settings = Arc::new(settings);
        Ok(Self {
            transport: Transport::new(Arc::clone(&settings))?,
            auth: Auth::default(),
            downloads: Semaphore::new(settings.parallel.max(1)),
            uploads: Semaphore::new(settings.parallel.max(1)),
            arrivals: Mutex::default(),
            sent: Mutex::default(),
            standing: Standing::default(),
            takes_no_whole: Mutex::default(),
            answered: Mutex::default(),
            settings,
        })
    }

    /// The URL of something in a repository.
    pub(crate) async fn url(
        &self,
        repository: &Repository,
        purpose: Purpose,
        path: &str,
    ) -> Result<Url, RegistryError> {
        let origin = self.transport.origin(repository.registry(), purpose).await?;
        origin
            .join(&format!("{}/{path}", repository.path()))
            .map_err(|error| RegistryError::Settings(format!("{repository}: {error}")))
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget::new(self.settings.patience)
    }

    /// Sends a request until it is answered with something that is not "try later".
    pub(crate) async fn exchange(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let mut budget = self.budget();
        loop {
            match self.try_once(request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure.pause(&mut budget).await?,
            }
        }
    }

    /// Sends a request once, with a new token where the registry asks for one.
    pub(crate) async fn try_once(&self, request: &Request<'_>) -> Result<Response, Failure> {
        let registry = request.repository.registry();
        let origin = self.transport.origin(registry, request.purpose).await?;
        let Request { what, repository, scope, purpose, .. } = request;
        let asker = Asker { what, repository, scope, purpose: *purpose, origin: &origin };
        let mut asked = false;
        loop {
            let authorization = self.authorization(asker).await?;
            let response = self.follow(request, &origin, authorization.as_ref()).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !asked && is_same(response.url(), &origin) {
                asked = true;
                let challenges = challenges(&response);
                if self.answer_challenge(asker, &challenges, authorization.as_ref()).await? {
                    continue;
                }
            }
            if retry::is_transient(status) {
                let after = retry::retry_after(response.headers());
                return Err(Failure::Transient(self.refusal(request, response).await, after));
            }
            return Ok(response);
        }
    }

    /// The error for an answer that is none of those wanted.
    pub(crate) async fn refusal(&self, request: &Request<'_>, response: Response) -> RegistryError {
        let status = response.status();
        let message = answer::message(response, self.settings.patience.idle).await;
        let hint = self.hint(request.repository, request.purpose).await;
        answer::refusal(request.what, status, message, || hint)
    }

    /// Follows redirects. Only the registry itself is told who asks.
    async fn follow(
        &self,
        request: &Request<'_>,
        origin: &Url,
        authorization: Option<&reqwest::header::HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut url = request.url.clone();
        let registry = request.repository.registry();
        for _ in 0..=REDIRECTS {
            let client = self.transport.client(&named(&url, origin, registry), request.purpose)?;
            let mut builder = client
                .request(request.method.clone(), url.clone())
                .headers(request.headers.clone());
            if let Some(value) = authorization.filter(|_| is_same(&url, origin)) {
                builder = builder.header(AUTHORIZATION, value);
            }
            let response = self.send(request, &url, builder).await?;
            let Some(target) = redirected(request, &url, &response)? else { return Ok(response) };
            tracing::debug!(from = authority(&url), to = authority(&target), "redirected");
            url = target;
        }
        Err(RegistryError::answer(request.what, "it redirects in circles").into())
    }

    async fn send(
        &self,
        request: &Request<'_>,
        url: &Url,
        builder: reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        match &request.body {
            Body::Empty if request.method == Method::GET || request.method == Method::HEAD => {
                self.send_once(request.what, url, builder).await
            }
            Body::Empty => {
                let builder = builder.header(CONTENT_LENGTH, 0);
                self.send_within(self.takes(&request.method), request.what, url, builder).await
            }
            Body::Bytes(bytes) => {
                let builder = builder.body(bytes.clone());
                self.send_within(self.takes(&request.method), request.what, url, builder).await
            }
            Body::File { path, offset, length } => {
                let (body, moved) = FileBody::open(path, *offset, *length).await?;
                let builder = builder.header(CONTENT_LENGTH, *length).body(body);
                let patience = self.settings.patience;
                tokio::select! {
                    answer = builder.send() => self.judge(request.what, url, answer),
                    limit = moved.stalled(patience.idle, patience.commit) => {
                        Err(stalled(request.what, limit))
                    }
                }
            }
        }
    }

    /// How long the answer to a method may take: a PUT ends an upload.
    fn takes(&self, method: &Method) -> Duration {
        let patience = self.settings.patience;
        if method == Method::PUT { patience.commit } else { patience.idle }
    }

    /// Sends what has no long body: no answer within the idle time is a stall.
    pub(crate) async fn send_once(
        &self,
        what: &str,
        url: &Url,
        builder: reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        self.send_within(self.settings.patience.idle, what, url, builder).await
    }

    async fn send_within(
        &self,
        limit: Duration,
        what: &str,
        url: &Url,
        builder: reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        match tokio::time::timeout(limit, builder.send()).await {
            Ok(answer) => self.judge(what, url, answer),
            Err(_) => Err(stalled(what, limit)),
        }
    }

    fn judge(
        &self,
        what: &str,
        url: &Url,
        answer: Result<Response, reqwest::Error>,
    ) -> Result<Response, Failure> {
        let host = authority(url);
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(response) => {
                answered.insert(host);
                Ok(response)
            }
            Err(error) => {
                let known = answered.contains(&host);
                Err(network(what, url, error, known))
            }
        }
    }
}

/// No answer: whether it is worth another try, and what may help.
fn network(what: &str, url: &Url, error: reqwest::Error, known: bool) -> Failure {
    let first = error.is_connect() && !known;
    // In TLS 1.3 a server refuses a client after the handshake, and the connection's end may overtake the
    // alert that says so (RFC 8446, section 4.4.2.4).
    let dropped = url.scheme() == "https" && !known && !error.is_connect() && !error.is_timeout();
    let why = answer::causes(&error.without_url());
    let unreachable = first && is_absent(&why);
    let certificate = is_certificate(&why);
    let hint = if certificate && why.contains("fatal alert") {
        Some("the registry wants a client certificate: give it with --registry-client-cert")
    } else if certificate {
        Some("give its root with --registry-certificate, or use --skip-tls-verify")
    } else if why.contains("InvalidContentType") {
        Some("the server speaks plain HTTP: use --insecure, --insecure-pull or --insecure-registry")
    } else if unreachable {
        Some("check the registry's name and port, and the proxy settings")
    } else if dropped {
        Some("if the registry wants a client certificate, give it with --registry-client-cert")
    } else {
        None
    };
    let why = format!("{}: {why}", authority(url));
    let error = RegistryError::Network { what: what.to_owned(), why, hint };
    if certificate || unreachable { Failure::Final(error) } else { Failure::Transient(error, None) }
}

/// Whether an error's text is about a host that is not there, and not about one that did not answer this time.
pub(crate) fn is_absent(text: &str) -> bool {
    let text = text.to_lowercase();
    let unknown = text.contains("failed to lookup") || text.contains("dns error");
    text.contains("refused") || (unknown && !text.contains("temporary failure"))
}

pub(crate) fn stalled(what: &str, idle: Duration) -> Failure {
    let why = format!("nothing moved for {} s", idle.as_secs_f32());
    Failure::Transient(RegistryError::Network { what: what.to_owned(), why, hint: None }, None)
}

fn challenges(response: &Response) -> Vec<challenge::Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()))
}

/// Where an answer redirects to. From HTTPS to HTTP is refused, whatever is asked for.
fn redirected(
    request: &Request<'_>,
    from: &Url,
    response: &Response,
) -> Result<Option<Url>, RegistryError> {
    let status = response.status().as_u16();
    let safe = matches!(request.method, Method::GET | Method::HEAD);
    match status {
        307 | 308 => {}
        301..=303 if safe => {}
        301..=303 => {
            let why = format!("it redirects a {} with status {status}", request.method);
            return Err(RegistryError::answer(request.what, why));
        }
        _ => return Ok(None),
    }
    location(request.what, from, response).map(Some)
}

/// The `Location` of an answer, from which no credential can be stolen.
pub(crate) fn location(what: &str, from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let bad = |why: &str| RegistryError::answer(what, why);
    let header =
        response.headers().get(LOCATION).ok_or_else(|| bad("the answer lacks Location"))?;
    let text = header.to_str().map_err(|_| bad("Location is not ASCII"))?;
    let target = from.join(text).map_err(|_| bad("Location is no URL"))?;
    match (from.scheme(), target.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(target),
        ("https", "http") => Err(bad("it redirects from HTTPS to plain HTTP")),
        _ => Err(bad("Location is not on HTTP or HTTPS")),
    }
}

/// Same scheme, host and port.
fn is_same(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// The name that settings know the server of a URL by: the registry's own as it was written, which may have a port
/// that goes without saying.
pub(crate) fn named(url: &Url, origin: &Url, registry: &str) -> String {
    if is_same(url, origin) { registry.to_owned() } else { authority(url) }
}

/// Host and port as a reference names a registry; the scheme's own port is left out.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_known_by_the_name_it_was_given() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (asked, want) in [
            ("https://r.example/v2/a", "r.example:443"),
            ("https://store.example/a", "store.example"),
            ("http://r.example/v2/a", "r.example"),
            ("https://r.example:5000/a", "r.example:5000"),
        ] {
            let origin = url("https://r.example:443/v2/");
            assert_eq!(named(&url(asked), &origin, "r.example:443"), want, "{asked}");
        }
    }

    #[test]
    fn a_host_that_is_not_there_is_no_hiccup() {
        for (text, want) in [
            ("tcp connect error: Connection refused (os error 111)", true),
            ("dns error: failed to lookup address information: Name or service not known", true),
            (
                "dns error: failed to lookup address information: Temporary failure in name resolution",
                false,
            ),
            ("tls handshake eof", false),
            ("Connection reset by peer (os error 104)", false),
        ] {
            assert_eq!(is_absent(text), want, "{text}");
        }
    }
}
