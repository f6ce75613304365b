//! Archives in object stores: Amazon S3 and what speaks like it, Google Cloud Storage, Azure blobs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig};
use reqwest::Url;
use tokio::runtime::Runtime;
use tracer::Interrupt;

use super::http::{FetchSettings, Redirects, becomes_true, client_with};
use crate::dockerfile::percent_decoded;
use crate::registry::{AwsLogin, AzureCloud, Secret, causes};
use crate::report::Failure;

/// The object of a bucket whose URL names none.
const DEFAULT_KEY: &str = "context.tar.gz";

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
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    piece: Bytes,
    total: u64,
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
                got = get(source, access, settings) => got,
                () = becomes_true(|| interrupt.is_triggered()) => Err(None),
            }
        });
        let (stream, total) = got.map_err(|error| match error {
            Some(error) => explained(source, &error),
            None => failed("interrupted".to_owned()),
        })?;
        Ok(Self { runtime, stream, piece: Bytes::new(), total, interrupt: interrupt.clone() })
    }

    /// Its length in bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let (stream, interrupt) = (&mut self.stream, &self.interrupt);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    next = stream.next() => Ok(next),
                    () = becomes_true(|| interrupt.is_triggered()) => {
                        Err(io::Error::other("interrupted"))
                    }
                }
            })?;
            match next {
                Some(piece) => {
                    self.piece = piece.map_err(|error| io::Error::other(causes(&error)))?;
                }
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

type Stream = (BoxStream<'static, object_store::Result<Bytes>>, u64);

async fn get(
    source: &ObjectSource,
    access: &StoreAccess,
    settings: &FetchSettings,
) -> Result<Stream, Option<object_store::Error>> {
    let store = store(source, access, settings).await?;
    let path = Path::parse(&source.key).map_err(|error| Some(error.into()))?;
    let got = store.get(&path).await?;
    let total = got.meta.size;
    Ok((got.into_stream(), total))
}

async fn store(
    source: &ObjectSource,
    access: &StoreAccess,
    settings: &FetchSettings,
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
            let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(&source.bucket);
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
            let builder = azure(source, account, endpoint, access).with_retry(retry);
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
        (Some(client), _, _, _) => builder.with_client_id(client),
        (None, _, _, _) => builder.with_skip_signature(true),
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
                    "set AZURE_STORAGE_ACCESS_KEY, or give a URL with a shared access signature"
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
