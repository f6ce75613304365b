//! Layers from a registry into files, verified while they stream.

use std::path::Path;

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};

use super::RegistryError;
use super::answer::causes;
use super::arrival::{Arrival, Arrived};
use super::exchange::{Client, Failure, Request, stalled};
use super::retry;
use super::settings::Purpose;
use crate::image::{
    Blob, BlobFile, Descriptor, Digest, Hasher, ImageError, ImageLayer, Repository,
};

/// How much is gathered before it is written, in bytes.
const WRITE: usize = 1 << 20;

/// A layer as a file whose bytes are what the descriptor says. Of a download, `arrival` tells what has
/// come so far.
pub(crate) async fn fetch(
    client: &Client,
    layer: &ImageLayer,
    dir: &Path,
    arrival: &Arrival,
) -> Result<BlobFile, RegistryError> {
    let settings = &client.settings;
    match &layer.blob {
        Blob::File(file) => Ok(file.clone()),
        Blob::Layout(layout) => verify_layout(layout, &layer.descriptor).await,
        Blob::Registry(repository) => {
            let attempt = || download(client, repository, &layer.descriptor, dir, arrival);
            retry::again(settings.attempts.layer, settings.patience, attempt).await
        }
    }
}

/// Hashes a layout's blob where it is; it is not copied.
pub(crate) async fn verify_layout(
    dir: &Path,
    wanted: &Descriptor,
) -> Result<BlobFile, RegistryError> {
    let (dir, wanted) = (dir.to_owned(), wanted.clone());
    let verify = move || {
        let path = crate::image::layout_path(&dir, wanted.digest);
        let found = std::fs::File::open(&path)
            .and_then(|mut file| Digest::of_reader(&mut file))
            .map_err(RegistryError::io(&path))?;
        if found == (wanted.digest, wanted.size) {
            return Ok(BlobFile::kept(path));
        }
        let why = format!("is {} of {} bytes", found.0, found.1);
        let (digest, place) = (wanted.digest, dir.display().to_string());
        let source = ImageError::Corrupt { digest, place, why };
        Err(RegistryError::Image { what: "read OCI layout".to_owned(), source })
    };
    tokio::task::spawn_blocking(verify)
        .await
        .unwrap_or_else(|error| Err(RegistryError::Cancelled(error.to_string())))
}

/// Downloads a blob, resuming where the connection broke.
pub(crate) async fn download(
    client: &Client,
    repository: &Repository,
    wanted: &Descriptor,
    dir: &Path,
    arrival: &Arrival,
) -> Result<BlobFile, RegistryError> {
    let what = format!("download {} from {repository}", wanted.digest);
    let _permit =
        client.downloads.acquire().await.map_err(|_| RegistryError::Cancelled(what.clone()))?;
    let mut partial = Partial::create(dir, arrival)?;
    let mut budget = client.budget();
    loop {
        let before = partial.hasher.length();
        match continue_once(client, &what, repository, wanted, &mut partial).await {
            Ok(()) => break,
            Err(failure) => {
                if partial.hasher.length() > before {
                    budget.progress();
                }
                failure.pause(&mut budget).await?;
            }
        }
    }
    let file = partial.finish(&what, wanted).await?;
    tracing::debug!(digest = %wanted.digest, size = wanted.size, %repository, "downloaded");
    Ok(file)
}

/// What has come so far.
struct Partial<'a> {
    path: TempPath,
    file: BufWriter<File>,
    hasher: Hasher,
    arrived: Arrived<'a>,
    /// How much of it readers know of.
    told: u64,
}

impl<'a> Partial<'a> {
    fn create(dir: &Path, arrival: &'a Arrival) -> Result<Self, RegistryError> {
        let file = tempfile::Builder::new().prefix("blob-").tempfile_in(dir);
        let (file, path) = file.map_err(RegistryError::io(dir))?.into_parts();
        let readable = std::fs::File::open(&path).map_err(RegistryError::io(dir))?;
        let file = BufWriter::with_capacity(WRITE, File::from_std(file));
        let arrived = arrival.begin(readable);
        Ok(Self { path, file, hasher: Hasher::default(), arrived, told: 0 })
    }

    async fn append(&mut self, piece: &[u8]) -> Result<(), RegistryError> {
        self.hasher.update(piece);
        self.file.write_all(piece).await.map_err(RegistryError::io(&*self.path))?;
        if self.hasher.length() - self.told >= WRITE as u64 { self.tell().await } else { Ok(()) }
    }

    /// Lets readers see what has come.
    async fn tell(&mut self) -> Result<(), RegistryError> {
        self.file.flush().await.map_err(RegistryError::io(&*self.path))?;
        self.told = self.hasher.length();
        self.arrived.grow(self.told);
        Ok(())
    }

    /// Forgets everything: the server does not resume.
    async fn restart(&mut self) -> Result<(), RegistryError> {
        let io = || RegistryError::io(&*self.path);
        if self.told > 0 {
            self.arrived.forsake();
        }
        self.told = 0;
        self.hasher = Hasher::default();
        self.file.flush().await.map_err(io())?;
        self.file.get_mut().set_len(0).await.map_err(io())?;
        self.file.rewind().await.map(|_| ()).map_err(io())
    }

    async fn finish(mut self, what: &str, wanted: &Descriptor) -> Result<BlobFile, RegistryError> {
        self.tell().await?;
        let (digest, length) = self.hasher.finish();
        if digest == wanted.digest && length == wanted.size {
            self.arrived.finish();
            return Ok(BlobFile::temporary(self.path));
        }
        Err(RegistryError::answer(what, format!("the bytes that came are {digest}")))
    }
}

/// Asks for what is missing and takes what comes.
async fn continue_once(
    client: &Client,
    what: &str,
    repository: &Repository,
    wanted: &Descriptor,
    partial: &mut Partial<'_>,
) -> Result<(), Failure> {
    let offset = partial.hasher.length();
    if offset == wanted.size && offset > 0 {
        return Ok(());
    }
    let url = client.url(repository, Purpose::Pull, &format!("blobs/{}", wanted.digest)).await?;
    let mut request = Request::new(what, Purpose::Pull, repository, Method::GET, url);
    if offset > 0 {
        request = request.with_header(RANGE, &format!("bytes={offset}-"))?;
    }
    let response = client.try_once(&request).await?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if resumes_at(&response) == Some(offset) && offset > 0 => {}
        StatusCode::OK => partial.restart().await?,
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
            partial.restart().await?;
            let why = "the server does not resume where the connection broke".to_owned();
            let error = RegistryError::Network { what: what.to_owned(), why, hint: None };
            return Err(Failure::Transient(error, None));
        }
        _ => return Err(client.refusal(&request, response).await.into()),
    }
    let missing = wanted.size - partial.hasher.length();
    if let Some(length) = response.content_length().filter(|length| *length != missing) {
        let why = format!("{missing} bytes are missing and {length} are offered");
        return Err(RegistryError::answer(what, why).into());
    }
    take(client, what, wanted, response, partial).await
}

/// Where a partial answer begins: `bytes FIRST-LAST/LENGTH`.
fn resumes_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

async fn take(
    client: &Client,
    what: &str,
    wanted: &Descriptor,
    mut response: Response,
    partial: &mut Partial<'_>,
) -> Result<(), Failure> {
    let idle = client.settings.patience.idle;
    loop {
        let piece = tokio::time::timeout(idle, response.chunk())
            .await
            .map_err(|_| stalled(what, idle))?
            .map_err(|error| broken(what, error))?;
        let Some(piece) = piece else { break };
        if partial.hasher.length() + piece.len() as u64 > wanted.size {
            let why = format!("more than the promised {} bytes came", wanted.size);
            return Err(RegistryError::answer(what, why).into());
        }
        partial.append(&piece).await?;
    }
    match partial.hasher.length() {
        length if length == wanted.size => Ok(()),
        length => {
            let why = format!("{length} bytes came and not the promised {}", wanted.size);
            Err(RegistryError::answer(what, why).into())
        }
    }
}

fn broken(what: &str, error: reqwest::Error) -> Failure {
    let why = causes(&error.without_url());
    Failure::Transient(RegistryError::Network { what: what.to_owned(), why, hint: None }, None)
}
