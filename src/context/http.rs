//! Files that ADD takes from the web: one GET, into a temporary file.
//!
//! As in BuildKit, the file is named after the last part of the URL's path,
//! is readable by its owner only, and has the time that the server states, or
//! else that of the epoch, so that a build can be repeated.

mod client;
mod transfer;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use reqwest::header::{HeaderMap, LAST_MODIFIED};
use reqwest::{StatusCode, Url};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::runtime::Runtime;
use tracer::Interrupt;

use client::client;
pub(in crate::context) use client::{Redirects, client_with};
pub use client::{Roots, host, without_credentials};
use transfer::Transfer;

use crate::dockerfile::percent_decoded;
use crate::registry::{Proxies, Secret};
use crate::report::Failure;

/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";

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
        status: StatusCode,
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

impl FetchError {
    /// What ends the build: "could not add https://…", with a way out where one is known.
    pub fn while_doing(&self, doing: &str) -> Failure {
        let failure = Failure::new(format!("could not {doing} {self}"));
        match self {
            Self::Status { status, .. } => {
                match status.as_u16() {
                    401 | 403 => failure
                        .hint("user and password go into the URL: https://USER:PASSWORD@HOST/…"),
                    404 | 410 => failure
                        .hint("is the URL right? some servers say this where a login is missing"),
                    _ => failure,
                }
            }
            Self::Unusable { .. } | Self::Transfer { .. } | Self::Store { .. } => failure,
        }
    }
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Whom to ask in place of the server.
    pub proxies: Proxies,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The roots that certificates are checked against.
    pub roots: Roots,
    /// The `Authorization` header, for the host that is asked and not for those it redirects to.
    pub authorization: Option<Secret>,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long a transfer may stand still.
    pub idle: Duration,
    /// How often a request is sent at most, the first time included.
    pub tries: u32,
    /// The pause before the second try; it doubles from there.
    pub pause: Duration,
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
    /// When the server says that it was changed, in seconds since 1970.
    pub modified: Option<i64>,
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
    runtime.block_on(async {
        tokio::select! {
            done = download(client, parsed, to, name, settings) => done,
            () = becomes_true(interrupted) => {
                Err(FetchError::Transfer { url: shown.clone(), why: "interrupted".to_owned() })
            }
        }
    })
}

/// A file of the web as it arrives.
#[derive(Debug)]
pub(super) struct Arriving {
    runtime: Runtime,
    transfer: Transfer,
    piece: Bytes,
    interrupt: Interrupt,
}

impl Arriving {
    /// Asks for `url`; the answer is there when this returns, its content is not.
    pub(super) fn begin(
        url: &str,
        settings: &FetchSettings,
        interrupt: &Interrupt,
    ) -> Result<Self, FetchError> {
        let shown = without_credentials(url);
        let unusable = |why: String| FetchError::Unusable { url: shown.clone(), why };
        let parsed = Url::parse(url).map_err(|error| unusable(error.to_string()))?;
        let client = client(settings).map_err(unusable)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unusable(error.to_string()))?;
        let transfer = runtime.block_on(async {
            tokio::select! {
                begun = Transfer::begin(client, parsed, settings) => begun,
                () = becomes_true(|| interrupt.is_triggered()) => {
                    Err(FetchError::Transfer { url: shown.clone(), why: "interrupted".to_owned() })
                }
            }
        })?;
        Ok(Self { runtime, transfer, piece: Bytes::new(), interrupt: interrupt.clone() })
    }

    /// What the server says the length is.
    pub(super) fn total(&self) -> Option<u64> {
        self.transfer.total()
    }

    /// When the server says that it was changed, in seconds since 1970.
    pub(super) fn modified(&self) -> Option<i64> {
        last_modified(self.transfer.headers())
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let (transfer, interrupt) = (&mut self.transfer, &self.interrupt);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    next = transfer.next() => next.map_err(io::Error::other),
                    () = becomes_true(|| interrupt.is_triggered()) => {
                        Err(io::Error::other("interrupted"))
                    }
                }
            })?;
            match next {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// An interrupt is a flag that a signal sets: nothing wakes whoever waits for it.
pub(in crate::context) async fn becomes_true(flag: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    while !flag() {
        tick.tick().await;
    }
}

async fn download(
    client: reqwest::Client,
    url: Url,
    to: &Path,
    name: String,
    settings: &FetchSettings,
) -> Result<Fetched, FetchError> {
    let shown = without_credentials(url.as_str());
    let store = |source| FetchError::Store { url: shown.clone(), source };
    let mut transfer = Transfer::begin(client, url, settings).await?;
    let modified = last_modified(transfer.headers());
    let mut file = create(to).map_err(store)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while let Some(piece) = transfer.next().await? {
        file.write_all(&piece).map_err(store)?;
        hasher.update(&piece);
        size += piece.len() as u64;
    }
    let time = modified.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(time)).map_err(store)?;
    Ok(Fetched { name, sha256: hasher.finalize().into(), size, modified })
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// In seconds since 1970, before which no server's file was changed.
fn last_modified(headers: &HeaderMap) -> Option<i64> {
    let stated = headers.get(LAST_MODIFIED)?.to_str().ok()?;
    let time = httpdate::parse_http_date(stated).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// The last part of the path, with percent signs resolved.
fn name_of(url: &Url) -> String {
    let path = percent_decoded(url.path().as_bytes());
    let path = String::from_utf8_lossy(&path).into_owned();
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => UNNAMED.to_owned(),
        Some(name) if name.contains('\0') => UNNAMED.to_owned(),
        Some(name) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
