//! Who this program is to Amazon, by the chain of the AWS SDK: variables, shared profiles, web
//! identity (IRSA), container credentials (ECS, Pod Identity), the instance's role.
//!
//! The SDK reads variables and `~/.aws` by itself; that is done once, before a step runs.

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;

use super::{ANSWER_LIMIT, Reason, is_metadata};
use crate::registry::Secret;
use crate::registry::answer::{causes, read_limited};
use crate::registry::exchange::Client;
use crate::registry::settings::Purpose;

/// Credentials that sign requests to Amazon's services.
#[derive(Debug, Clone)]
pub struct AwsLogin {
    /// The access key's name.
    pub id: String,
    /// The key.
    pub key: Secret,
    /// Of temporary credentials.
    pub session: Option<Secret>,
}

/// Credentials that may sign a request; `region` is for services of which none is set.
pub(super) async fn credentials(client: &Client, region: &str) -> Result<Credentials, Reason> {
    let connector = SharedHttpConnector::new(Connector::of(client)?);
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client_fn(move |_, _| connector.clone()));
    let builtin = &client.settings.builtin;
    let is_set =
        ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|it| builtin.variable(it).is_some());
    // Asking everybody for the region would ask the metadata server, too, and wait for it.
    let loader = if is_set { loader } else { loader.region(Region::new(region.to_owned())) };
    let config = Box::pin(loader.load()).await;
    let provider = config.credentials_provider().ok_or("the AWS SDK knows no credentials")?;
    provider.provide_credentials().await.map_err(|error| match error {
        CredentialsError::CredentialsNotLoaded(_) => "there are no AWS credentials".to_owned(),
        other => causes(&other),
    })
}

/// The same as plain values, for services that are no registries.
pub(in crate::registry) async fn login(client: &Client, region: &str) -> Result<AwsLogin, Reason> {
    let found = credentials(client, region).await?;
    Ok(AwsLogin {
        id: found.access_key_id().to_owned(),
        key: Secret::new(found.secret_access_key()),
        session: found.session_token().map(Secret::new),
    })
}

/// The SDK's requests over the connections of all others: proxies and roots are the same.
#[derive(Clone, Debug)]
struct Connector {
    proxied: reqwest::Client,
    direct: reqwest::Client,
}

impl Connector {
    fn of(client: &Client) -> Result<Self, Reason> {
        let told = |error: crate::registry::RegistryError| error.to_string();
        Ok(Self {
            proxied: client.transport.client("", Purpose::Service).map_err(told)?,
            direct: client.transport.metadata().map_err(told)?,
        })
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: String| ConnectorError::user(error.into());
        let request = request.try_into_http1x().map_err(|error| user(error.to_string()))?;
        let request = request.map(|body| body.bytes().unwrap_or_default().to_vec());
        let request = reqwest::Request::try_from(request)
            .map_err(|error| user(error.without_url().to_string()))?;
        let client = if is_metadata(request.url()) { self.direct } else { self.proxied };
        let idle = std::time::Duration::from_secs(60);
        let response = client.execute(request).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_limited(response, ANSWER_LIMIT, idle)
            .await
            .map_err(|error| ConnectorError::io(error.into()))?;
        let mut answer = HttpResponse::new(
            status.as_u16().try_into().map_err(|_| user("no status".to_owned()))?,
            SdkBody::from(body),
        );
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                let _ = answer.headers_mut().try_append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(answer)
    }
}

fn failed(error: reqwest::Error) -> ConnectorError {
    let (is_timeout, why) = (error.is_timeout(), causes(&error.without_url()));
    match is_timeout {
        true => ConnectorError::timeout(why.into()),
        false => ConnectorError::io(why.into()),
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}
