//! Archives in object stores: Amazon S3 and what speaks like it, Google Cloud Storage, Azure blobs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, RetryConfig,
};
use reqwest::Url;
use tokio::runtime::Runtime;
use tracer::Interrupt;

use super::http::{FetchSettings, Redirects, becomes_true, client_with};
use crate::dockerfile::percent_decoded;
use crate::registry::{AwsLogin, AzureCloud, Secret, causes};
use crate::report::Failure;

/// The object of a bucket whose URL names none.
const DEFAULT_KEY: &str = "context.tar.gz";

/// How long a connection may take where nobody said that there is somebody who gives out identities.
const HASTE: Duration = Duration::from_secs(3);

/// The hosts of Azure's clouds, behind the account.
const AZURE_HOSTS: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.chinacloudapi.cn",
    ".blob.core.cloudapi.de",
    ".blob.core.usgovcloudapi.net",
];

/// An object, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSource {
    store: Store,
    bucket: String,
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Store {
    S3,
    Google,
    /// The account, and the URL without what is behind the host.
    Azure {
        account: String,
        endpoint: String,
    },
}

impl ObjectSource {
    /// Reads `s3://`, `gs://` and the URLs of Azure blobs; nothing where it is none of these. A URL
    /// with a signature of its own (SAS) is one like any other of the web.
    pub(super) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = text.split_once("://")?;
        let store = match scheme {
            "s3" => Store::S3,
            "gs" => Store::Google,
            "https" => return Self::azure(text).map(Ok),
            _ => return None,
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Some(Err(format!("{text} names no bucket")));
        }
        let key = if key.is_empty() { DEFAULT_KEY } else { key };
        Some(Ok(Self { store, bucket: bucket.to_owned(), key: key.to_owned() }))
    }

    fn azure(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str()?;
        let account = AZURE_HOSTS.iter().find_map(|suffix| host.strip_suffix(suffix))?;
        if url.query().is_some() {
            return None;
        }
        let path = percent_decoded(url.path().as_bytes());
        let path = String::from_utf8(path).ok()?;
        let (bucket, key) = path.trim_start_matches('/').split_once('/')?;
        let (account, endpoint) = (account.to_owned(), format!("https://{host}"));
        let store = Store::Azure { account, endpoint };
        Some(Self { store, bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Whether logins of Amazon are asked for.
    #[must_use]
    pub fn is_s3(&self) -> bool {
        self.store == Store::S3
    }
}

impl fmt::Display for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            Store::S3 => write!(f, "s3://{}/{}", self.bucket, self.key),
            Store::Google => write!(f, "gs://{}/{}", self.bucket, self.key),
            Store::Azure { endpoint, .. } => write!(f, "{endpoint}/{}/{}", self.bucket, self.key),
        }
    }
}

/// Who asks, and where a store is that is not in its usual place.
#[derive(Debug, Clone, Default)]
pub struct StoreAccess {
    /// Variables of the environment that stores know.
    pub variables: BTreeMap<String, Secret>,
    /// From Amazon's chain of credentials; without it a bucket has to be public.
    pub aws: Option<AwsLogin>,
}

impl StoreAccess {
    /// A variable that is set to something.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// The region that is set.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.variable("AWS_REGION").or_else(|| self.variable("AWS_DEFAULT_REGION"))
    }
}

/// An object as it arrives.
pub(super) struct Object {
    runtime: Runtime,
    opened: Opened,
    what: String,
    piece: Bytes,
    /// How much of it has arrived, and how much of that before the last request.
    arrived: u64,
    before: u64,
    interrupt: Interrupt,
}

impl Object {
    /// Asks for the object; the answer is there when this returns, its content is not.
    pub(super) fn begin(
        source: &ObjectSource,
        access: &StoreAccess,
        settings: &FetchSettings,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let failed = |why: String| {
            Failure::new(format!("could not fetch the build context {source}: {why}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let got = runtime.block_on(async {
            tokio::select! {
                got = begin(source, access, settings) => got,
                () = becomes_true(|| interrupt.is_triggered()) => Err(None),
            }
        });
        let opened = got.map_err(|error| match error {
            Some(error) => explained(source, &error),
            None => failed("interrupted".to_owned()),
        })?;
        let (what, piece, interrupt) = (source.to_string(), Bytes::new(), interrupt.clone());
        Ok(Self { runtime, opened, what, piece, arrived: 0, before: 0, interrupt })
    }

    /// Its length in bytes.
    pub(super) fn total(&self) -> u64 {
        self.opened.total
    }

    /// Waits for a part of the transfer, or for an interrupt.
    fn wait<T>(&mut self, part: impl AsyncFnOnce(&mut Opened) -> T) -> io::Result<T> {
        let (opened, interrupt) = (&mut self.opened, &self.interrupt);
        self.runtime.block_on(async {
            tokio::select! {
                done = part(opened) => Ok(done),
                () = becomes_true(|| interrupt.is_triggered()) => {
                    Err(io::Error::other("interrupted"))
                }
            }
        })
    }

    /// Asks for the rest. The store's client has tried again by itself, but has one budget for the whole
    /// object; here any progress earns another.
    fn go_on(&mut self, error: &object_store::Error) -> io::Result<()> {
        let told = io::Error::other(causes(error));
        if self.arrived == self.before || self.opened.etag.is_none() {
            return Err(told);
        }
        tracing::warn!("{}: broke off after {} bytes ({told}); going on", self.what, self.arrived);
        let from = self.arrived;
        self.wait(async |opened| opened.go_on(from).await)?
            .map_err(|error| io::Error::other(causes(&error)))?;
        self.before = self.arrived;
        Ok(())
    }
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.wait(async |opened| opened.stream.next().await)? {
                Some(Ok(piece)) => {
                    self.arrived += piece.len() as u64;
                    self.piece = piece;
                }
                Some(Err(error)) => self.go_on(&error)?,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A store that has answered.
struct Opened {
    store: Arc<dyn ObjectStore>,
    path: Path,
    etag: Option<String>,
    total: u64,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Opened {
    /// Goes on from this byte of the same content.
    async fn go_on(&mut self, from: u64) -> object_store::Result<()> {
        let options = GetOptions::new()
            .with_range(Some(GetRange::Offset(from)))
            .with_if_match(self.etag.clone());
        self.stream = self.store.get_opts(&self.path, options).await?.into_stream();
        Ok(())
    }
}

/// Who asks for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Who the variables say, or what the store's own chain finds.
    Usual,
    /// The identity that Azure gives the machine.
    Machine,
    /// Nobody: the object has to be public.
    Nobody,
}

impl Who {
    /// Who else may ask where nothing was said about it.
    fn otherwise(source: &ObjectSource, access: &StoreAccess) -> Option<Self> {
        let said = |names: &[&str]| names.iter().any(|name| access.variable(name).is_some());
        match source.store {
            Store::S3 => None,
            Store::Google => {
                let names = ["STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"];
                (!said(&names)).then_some(Self::Nobody)
            }
            Store::Azure { .. } => {
                let names = ["AZURE_STORAGE_ACCESS_KEY", "AZURE_CLIENT_ID"];
                (!said(&names)).then_some(Self::Machine)
            }
        }
    }

    /// Whether it is worth asking so after the usual way ended like this: an answer of Google is one about
    /// the user, and one of Azure's is about nobody.
    fn helps_after(self, error: &object_store::Error) -> bool {
        match self {
            Self::Usual => false,
            Self::Machine => true,
            Self::Nobody => !is_answer(error),
        }
    }
}

/// Whether a store has said no, and knew who asked.
fn is_answer(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(error, E::NotFound { .. } | E::Unauthenticated { .. } | E::PermissionDenied { .. })
}

async fn begin(
    source: &ObjectSource,
    access: &StoreAccess,
    settings: &FetchSettings,
) -> Result<Opened, Option<object_store::Error>> {
    let error = match get(source, access, settings, Who::Usual).await {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    let other = Who::otherwise(source, access).filter(|who| who.helps_after(&error));
    let Some(who) = other else { return Err(Some(error)) };
    let hasty =
        FetchSettings { connect: settings.connect.min(HASTE), tries: 1, ..settings.clone() };
    match get(source, access, &hasty, who).await {
        Ok(opened) if who == Who::Nobody => {
            tracing::info!("No login for {source}, which is public: {}", causes(&error));
            Ok(opened)
        }
        Ok(opened) => {
            tracing::info!("{source} is read as the identity of this machine");
            Ok(opened)
        }
        Err(second) if who == Who::Machine && is_answer(&second) => Err(Some(second)),
        Err(second) => {
            tracing::debug!("{source}, asked as {who:?}: {}", causes(&second));
            Err(Some(error))
        }
    }
}

async fn get(
    source: &ObjectSource,
    access: &StoreAccess,
    settings: &FetchSettings,
    who: Who,
) -> object_store::Result<Opened> {
    let store = store(source, access, settings, who).await?;
    let path = Path::parse(&source.key)?;
    let got = store.get(&path).await?;
    let (etag, total) = (got.meta.e_tag.clone(), got.meta.size);
    Ok(Opened { stream: got.into_stream(), store, path, etag, total })
}

async fn store(
    source: &ObjectSource,
    access: &StoreAccess,
    settings: &FetchSettings,
    who: Who,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let connector = Connector(settings.clone());
    let options = ClientOptions::new().with_allow_http(true);
    let retry = RetryConfig {
        max_retries: usize::try_from(settings.tries).unwrap_or(usize::MAX).saturating_sub(1),
        ..RetryConfig::default()
    };
    Ok(match &source.store {
        Store::S3 => {
            let builder = s3(source, access, &options).await?;
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        Store::Google => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_bucket_name(&source.bucket)
                .with_skip_signature(who == Who::Nobody);
            if let Some(emulator) = access.variable("STORAGE_EMULATOR_HOST") {
                builder = builder.with_base_url(&with_scheme(emulator)).with_skip_signature(true);
            }
            if let Some(path) = access.variable("GOOGLE_APPLICATION_CREDENTIALS") {
                builder = builder.with_application_credentials(path);
            }
            let builder = builder.with_client_options(options).with_retry(retry);
            Arc::new(builder.with_http_connector(connector).build()?)
        }
        Store::Azure { account, endpoint } => {
            let builder = azure(source, account, endpoint, access, who).with_retry(retry);
            let builder = builder.with_client_options(options);
            Arc::new(builder.with_http_connector(connector).build()?)
        }
    })
}

async fn s3(
    source: &ObjectSource,
    access: &StoreAccess,
    options: &ClientOptions,
) -> object_store::Result<AmazonS3Builder> {
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options.clone())
        .with_bucket_name(&source.bucket);
    match access.variable("S3_ENDPOINT") {
        Some(endpoint) => {
            let endpoint = with_scheme(endpoint);
            let by_path = access.variable("S3_FORCE_PATH_STYLE").is_some_and(is_true);
            let hosted = Some(&endpoint).filter(|_| !by_path);
            builder = match hosted.and_then(|endpoint| with_bucket(endpoint, &source.bucket)) {
                Some(hosted) => {
                    builder.with_endpoint(hosted).with_virtual_hosted_style_request(true)
                }
                None => builder.with_endpoint(endpoint),
            };
            builder = builder.with_region(access.region().unwrap_or("us-east-1"));
        }
        None => {
            let region = match access.region() {
                Some(region) => region.to_owned(),
                None => object_store::aws::resolve_bucket_region(&source.bucket, options).await?,
            };
            builder = builder.with_region(region);
        }
    }
    Ok(match &access.aws {
        None => builder.with_skip_signature(true),
        Some(login) => {
            let builder =
                builder.with_access_key_id(&login.id).with_secret_access_key(login.key.expose());
            match &login.session {
                Some(session) => builder.with_token(session.expose()),
                None => builder,
            }
        }
    })
}

fn azure(
    source: &ObjectSource,
    account: &str,
    endpoint: &str,
    access: &StoreAccess,
    who: Who,
) -> MicrosoftAzureBuilder {
    let endpoint = access.variable("AZURE_STORAGE_ENDPOINT").unwrap_or(endpoint);
    let builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(&source.bucket)
        .with_endpoint(endpoint.to_owned());
    let variable = |name: &str| access.variable(name);
    let host = endpoint.trim_end_matches('/');
    let authority = AzureCloud::of_host(host).map(|cloud| cloud.authority);
    let builder = match variable("AZURE_AUTHORITY_HOST").or(authority) {
        Some(authority) => {
            builder.with_config(AzureConfigKey::AuthorityHost, authority.trim_end_matches('/'))
        }
        None => builder,
    };
    if let Some(key) = variable("AZURE_STORAGE_ACCESS_KEY") {
        return builder.with_access_key(key);
    }
    let (client, tenant) = (variable("AZURE_CLIENT_ID"), variable("AZURE_TENANT_ID"));
    match (client, tenant, variable("AZURE_CLIENT_SECRET"), variable("AZURE_FEDERATED_TOKEN_FILE"))
    {
        (Some(client), Some(tenant), Some(secret), _) => {
            builder.with_client_secret_authorization(client, secret, tenant)
        }
        (Some(client), Some(tenant), None, Some(file)) => {
            builder.with_client_id(client).with_tenant_id(tenant).with_federated_token_file(file)
        }
        // The managed identity of that name.
        (Some(client), _, _, _) => managed(builder.with_client_id(client), access),
        (None, _, _, _) if who == Who::Machine => managed(builder, access),
        (None, _, _, _) => builder.with_skip_signature(true),
    }
}

/// Where App Service and Container Apps say that identities are given out, else the metadata server. The
/// store's client adds `IDENTITY_HEADER` by itself.
fn managed(builder: MicrosoftAzureBuilder, access: &StoreAccess) -> MicrosoftAzureBuilder {
    if let Some(endpoint) = access.variable("IDENTITY_ENDPOINT") {
        return builder.with_msi_endpoint(endpoint);
    }
    match access.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST") {
        Some(host) => {
            let host = host.trim_end_matches('/');
            builder.with_msi_endpoint(format!("{host}/metadata/identity/oauth2/token"))
        }
        None => builder,
    }
}

fn with_scheme(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    }
}

/// The endpoint with the bucket as a part of the host's name; nothing for a host without a name.
fn with_bucket(endpoint: &str, bucket: &str) -> Option<String> {
    let mut url = Url::parse(endpoint).ok()?;
    let host = url.domain().filter(|host| host.contains('.'))?;
    let host = format!("{bucket}.{host}");
    url.set_host(Some(&host)).ok()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The clients of stores are the ones of everything else: proxies, roots, limits in time.
#[derive(Debug)]
struct Connector(FetchSettings);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = client_with(&self.0, Redirects::Refused, false);
        let client = client
            .map_err(|why| object_store::Error::Generic { store: "HTTP", source: why.into() })?;
        Ok(HttpClient::new(client))
    }
}

fn explained(source: &ObjectSource, error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    let doing = format!("could not fetch the build context {source}");
    match error {
        E::NotFound { .. } => Failure::new(format!("{doing}: there is no such object"))
            .hint("are bucket, object and region right?"),
        E::Unauthenticated { .. } | E::PermissionDenied { .. } => {
            Failure::new(format!("{doing}: {}", causes(error))).hint(match &source.store {
                Store::S3 => {
                    "give credentials that may read it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a \
                     profile in ~/.aws, or a role"
                }
                Store::Google => {
                    "give credentials that may read it: GOOGLE_APPLICATION_CREDENTIALS or workload identity"
                }
                Store::Azure { .. } => {
                    "set AZURE_STORAGE_ACCESS_KEY, let the identity of this machine read it, or give a URL \
                     with a shared access signature"
                }
            })
        }
        _ => Failure::new(format!("{doing}: {}", causes(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let told = |text: &str| match ObjectSource::parse(text) {
            None => "another".to_owned(),
            Some(Err(error)) => error,
            Some(Ok(it)) => format!("{} {} {it}", it.bucket, it.key),
        };
        for (text, want) in [
            ("s3://b/k/l.tar", "b k/l.tar s3://b/k/l.tar"),
            ("s3://b", "b context.tar.gz s3://b/context.tar.gz"),
            ("gs://b/", "b context.tar.gz gs://b/context.tar.gz"),
            ("s3://", "s3:// names no bucket"),
            (
                "https://acc.blob.core.windows.net/c/d/e.tar.gz",
                "c d/e.tar.gz https://acc.blob.core.windows.net/c/d/e.tar.gz",
            ),
            ("https://acc.blob.core.windows.net/c/x?sig=y", "another"),
            ("https://acc.blob.core.windows.net/c", "another"),
            ("https://example.org/c/x", "another"),
            ("tar://x", "another"),
        ] {
            assert_eq!(told(text), want, "{text}");
        }
    }

    #[test]
    fn endpoints_with_the_bucket() {
        for (endpoint, want) in [
            ("https://s3.example.org", Some("https://b.s3.example.org")),
            ("http://s3.example.org:9000", Some("http://b.s3.example.org:9000")),
            ("http://127.0.0.1:9000", None),
            ("http://minio:9000", None),
        ] {
            assert_eq!(with_bucket(endpoint, "b").as_deref(), want, "{endpoint}");
        }
    }
}
