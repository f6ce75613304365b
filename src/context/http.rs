//! Files that ADD takes from the web: one GET, into a temporary file.
//!
//! As in BuildKit, the file is named after the last part of the URL's path,
//! is readable by its owner only, and has the time that the server states, or
//! else that of the epoch, so that a build can be repeated.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::header::LAST_MODIFIED;
use reqwest::{Certificate, Client, NoProxy, Proxy, Response, Url, redirect};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";
/// How many redirects are followed.
const MOST_REDIRECTS: usize = 10;

/// Why a file could not be fetched. No message shows the credentials of a URL.
#[derive(Debug, Error)]
pub enum FetchError {
    /// It is no URL, or no client can be made with these settings.
    #[error("{url}: {why}")]
    Unusable {
        /// Without credentials.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The server could not be reached, or the transfer broke off.
    #[error("{url}: {why}")]
    Transfer {
        /// Without credentials.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// The server does not give the file out.
    #[error("{url}: the server answers {status}")]
    Status {
        /// Without credentials.
        url: String,
        /// Status code and its meaning.
        status: String,
    },
    /// The disk does not take it.
    #[error("{url}: could not be stored: {source}")]
    Store {
        /// Without credentials.
        url: String,
        /// What the system says.
        source: io::Error,
    },
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// The proxy for `http://`.
    pub http_proxy: Option<String>,
    /// The proxy for `https://`.
    pub https_proxy: Option<String>,
    /// Hosts, domains and networks without a proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long a transfer may stand still.
    pub idle: Duration,
}

/// A file that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// What a copy of it is called.
    pub name: String,
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
}

/// Fetches `url` into the new file `to`, and gives that mode 0600 and its time. Ends early once
/// `interrupted` says so.
///
/// # Errors
/// The URL, the server, the network or the disk does not allow it.
pub fn fetch(
    url: &str,
    to: &Path,
    settings: &FetchSettings,
    interrupted: impl Fn() -> bool,
) -> Result<Fetched, FetchError> {
    let shown = without_credentials(url);
    let unusable = |why: String| FetchError::Unusable { url: shown.clone(), why };
    let parsed = Url::parse(url).map_err(|error| unusable(error.to_string()))?;
    let client = client(settings).map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unusable(error.to_string()))?;
    let name = name_of(&parsed);
    let (sha256, size) = runtime.block_on(async {
        tokio::select! {
            done = download(&client, parsed, to, &shown) => done,
            () = becomes_true(interrupted) => {
                Err(FetchError::Transfer { url: shown.clone(), why: "interrupted".to_owned() })
            }
        }
    })?;
    Ok(Fetched { name, sha256, size })
}

/// An interrupt is a flag that a signal sets: nothing wakes whoever waits for it.
async fn becomes_true(flag: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !flag() {
        tick.tick().await;
    }
}

async fn download(
    client: &Client,
    url: Url,
    to: &Path,
    shown: &str,
) -> Result<([u8; 32], u64), FetchError> {
    let broken = |error: reqwest::Error| FetchError::Transfer {
        url: shown.to_owned(),
        why: causes(&error.without_url()),
    };
    let store = |source| FetchError::Store { url: shown.to_owned(), source };
    let mut response = client.get(url).send().await.map_err(broken)?;
    if !response.status().is_success() {
        let status = response.status().to_string();
        return Err(FetchError::Status { url: shown.to_owned(), status });
    }
    let mut file = create(to).map_err(store)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        file.write_all(&piece).map_err(store)?;
        hasher.update(&piece);
        size += piece.len() as u64;
    }
    file.set_modified(last_modified(&response)).map_err(store)?;
    Ok((hasher.finalize().into(), size))
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn last_modified(response: &Response) -> SystemTime {
    let stated = response.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
    stated.and_then(|text| httpdate::parse_http_date(text).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn client(settings: &FetchSettings) -> Result<Client, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots = found.certs.iter().filter_map(|it| Certificate::from_der(it).ok());
    let mut builder = Client::builder()
        .user_agent(&settings.user_agent)
        .redirect(redirect::Policy::custom(follow))
        .connect_timeout(settings.connect)
        .read_timeout(settings.idle)
        .tls_certs_only(roots)
        .no_proxy();
    let except = settings.no_proxy.as_deref().and_then(NoProxy::from_string);
    // The proxy's address may hold a password, so it stays out of the message.
    let bad = |_| "the proxy is no valid URL".to_owned();
    for proxy in [
        settings.http_proxy.as_ref().map(Proxy::http),
        settings.https_proxy.as_ref().map(Proxy::https),
    ] {
        if let Some(proxy) = proxy.transpose().map_err(bad)? {
            builder = builder.proxy(proxy.no_proxy(except.clone()));
        }
    }
    builder.build().map_err(|error| causes(&error))
}

/// Up to ten redirects, and never from https to http.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error(format!("more than {MOST_REDIRECTS} redirects"));
    }
    if attempt.previous().last().is_some_and(|from| is_downgrade(from, attempt.url())) {
        return attempt.error("redirected from https to http");
    }
    attempt.follow()
}

fn is_downgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

/// The last part of the path, with percent signs resolved.
fn name_of(url: &Url) -> String {
    let path = unescaped(url.path().as_bytes());
    let path = String::from_utf8_lossy(&path).into_owned();
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => UNNAMED.to_owned(),
        Some(name) if name.contains('\0') => UNNAMED.to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// A URL as it may be shown: without user, password and query.
pub fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "the URL".to_owned() };
    // These fail for URLs that cannot have credentials.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.to_string()
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        next = cause.source();
    }
    told
}

#[cfg(test)]
mod tests;
