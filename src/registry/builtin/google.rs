//! Google's registries: an access token for application default credentials.
//!
//! They are a file (a service account's key, a user's login, a workload identity, each of them
//! perhaps on behalf of another account), or else the metadata server's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use reqwest::header::AUTHORIZATION;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Found, Reason, Token, form, url};
use crate::registry::exchange::Client;
use crate::registry::{Login, Secret};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The user that an access token is the password of.
const USER: &str = "oauth2accesstoken";

/// How long a token is asked for.
const LIFE: Duration = Duration::from_secs(3600);

/// A file of application default credentials.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Adc {
    ServiceAccount {
        client_email: String,
        private_key: String,
        #[serde(default)]
        private_key_id: String,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        token_uri: Option<String>,
    },
    ExternalAccount(External),
    ImpersonatedServiceAccount {
        service_account_impersonation_url: String,
        source_credentials: Box<Adc>,
    },
}

/// Workload identity federation.
#[derive(Deserialize)]
struct External {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: Source,
}

/// Where the token of the other identity provider is.
#[derive(Deserialize)]
struct Source {
    file: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    subject_token_field_name: String,
}

pub(super) async fn login(client: &Client, registry: &str) -> Result<Option<Found>, Reason> {
    if !is_google(registry) {
        return Ok(None);
    }
    let token = match &client.settings.builtin.google {
        Some((path, file)) => {
            let told = |why: String| format!("{}: {why}", path.display());
            let adc = serde_json::from_str(file.expose()).map_err(|_| {
                told("no application default credentials that are known".to_owned())
            })?;
            Box::pin(of_file(client, &adc)).await.map_err(told)?
        }
        None => of_metadata_server(client).await?,
    };
    let login =
        Login::Basic { user: USER.to_owned(), password: Secret::new(token.access_token.clone()) };
    Ok(Some(Found::lasting(login, token.life())))
}

fn is_google(registry: &str) -> bool {
    registry == "gcr.io"
        || [".gcr.io", ".pkg.dev", ".google.com"].iter().any(|end| registry.ends_with(end))
}

async fn of_metadata_server(client: &Client) -> Result<Token, Reason> {
    let host = client.settings.builtin.variable("GCE_METADATA_HOST").unwrap_or("169.254.169.254");
    let path = "computeMetadata/v1/instance/service-accounts/default/token";
    let url = url(&format!("http://{host}/{path}"))?;
    let request = client.service(&url)?.get(url.clone()).header("Metadata-Flavor", "Google");
    client.ask(&url, request).await
}

async fn of_file(client: &Client, adc: &Adc) -> Result<Token, Reason> {
    match adc {
        Adc::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
            let to = token_uri.as_deref().unwrap_or("https://oauth2.googleapis.com/token");
            let assertion = assertion(client_email, private_key_id, private_key, to)?;
            let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
            post(client, to, &[("grant_type", grant), ("assertion", &assertion)]).await
        }
        Adc::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
            let to = token_uri.as_deref().unwrap_or("https://oauth2.googleapis.com/token");
            let pairs = [
                ("grant_type", "refresh_token"),
                ("client_id", client_id),
                ("client_secret", client_secret),
                ("refresh_token", refresh_token),
            ];
            post(client, to, &pairs).await
        }
        Adc::ExternalAccount(external) => of_workload(client, external).await,
        Adc::ImpersonatedServiceAccount {
            service_account_impersonation_url,
            source_credentials,
        } => {
            let own = Box::pin(of_file(client, source_credentials)).await?;
            impersonate(client, service_account_impersonation_url, &own).await
        }
    }
}

async fn post(client: &Client, to: &str, pairs: &[(&str, &str)]) -> Result<Token, Reason> {
    let url = url(to)?;
    let request = form(client.service(&url)?.post(url.clone()), pairs);
    client.ask(&url, request).await
}

/// A statement of the service account about itself (RFC 7523), signed with its key.
fn assertion(email: &str, key_id: &str, key: &str, audience: &str) -> Result<String, Reason> {
    let unusable = || "its private key cannot be used".to_owned();
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|_| unusable())?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(|_| unusable())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let part = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!(
        "{}.{}",
        part(json!({"alg": "RS256", "typ": "JWT", "kid": key_id})),
        part(json!({
            "iss": email, "sub": email, "scope": SCOPE, "aud": audience,
            "iat": now, "exp": now + LIFE.as_secs(),
        }))
    );
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| unusable())?;
    Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

async fn of_workload(client: &Client, external: &External) -> Result<Token, Reason> {
    let subject = subject_token(client, &external.credential_source).await?;
    let pairs = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", &external.audience),
        ("scope", SCOPE),
        ("subject_token_type", &external.subject_token_type),
        ("subject_token", subject.expose()),
    ];
    let federated = post(client, &external.token_url, &pairs).await?;
    match &external.service_account_impersonation_url {
        None => Ok(federated),
        Some(url) => impersonate(client, url, &federated).await,
    }
}

/// The other provider's token. It is read anew each time: whoever put it there renews it.
async fn subject_token(client: &Client, source: &Source) -> Result<Secret, Reason> {
    let text = match (&source.file, &source.url) {
        (Some(file), _) => {
            tokio::fs::read_to_string(file).await.map_err(|error| format!("{file}: {error}"))?
        }
        (None, Some(from)) => {
            let url = url(from)?;
            let mut request = client.service(&url)?.get(url.clone());
            for (name, value) in &source.headers {
                request = request.header(name, value);
            }
            let body = client.ask_once(&url, request).await.map_err(|it| it.to_string())?;
            String::from_utf8(body).map_err(|_| format!("{from} did not answer with a text"))?
        }
        (None, None) => {
            return Err("its credential source is neither a file nor a URL".to_owned());
        }
    };
    if source.format.kind != "json" {
        return Ok(Secret::new(text.trim()));
    }
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let token = json[&source.format.subject_token_field_name].as_str();
    token.map(Secret::new).ok_or_else(|| "its credential source holds no token".to_owned())
}

/// On behalf of another service account.
async fn impersonate(client: &Client, target: &str, own: &Token) -> Result<Token, Reason> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        access_token: String,
    }
    let url = url(target)?;
    let request = client
        .service(&url)?
        .post(url.clone())
        .header(AUTHORIZATION, format!("Bearer {}", own.access_token))
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(json!({"scope": [SCOPE], "lifetime": "3600s"}).to_string());
    let answer: Answer = client.ask(&url, request).await?;
    Ok(Token { access_token: answer.access_token, expires_in: Some(LIFE.as_secs()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_google() {
        for (registry, want) in [
            ("gcr.io", true),
            ("eu.gcr.io", true),
            ("europe-west1-docker.pkg.dev", true),
            ("marketplace.google.com", true),
            ("gcr.io.evil.example", false),
            ("evilgcr.io", false),
            ("pkg.dev", false),
            ("ghcr.io", false),
        ] {
            assert_eq!(is_google(registry), want, "{registry}");
        }
    }
}
