//! Logins that no file holds: from variables, and from the cloud that this program runs in.
//!
//! # The promise
//!
//! A helper is asked only for registries that are its own, and what it gets goes to that registry
//! alone. It asks the services that its cloud's documentation names: a metadata server on this
//! machine or its link, without a proxy; everything else over the settings of all other requests.
//!
//! Having no login is no failure, as in kaniko: much can be pulled without one. Why there is none
//! is kept for the hint of a refusal.

pub(super) mod aws;
pub(super) mod azure;
mod ecr;
mod google;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Url};
use serde::de::DeserializeOwned;

use super::exchange::{Client, Failure, authority};
use super::settings::Purpose;
use super::{Login, RegistryError, Secret, answer, retry};

/// The largest answer of a cloud's service, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;

/// Who is asked, in kaniko's words (`--credential-helpers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `KANIKO_<HOST>_USER` and `KANIKO_<HOST>_PASSWORD`.
    Env,
    /// Google Container and Artifact Registry.
    Google,
    /// Amazon ECR, private and public.
    Ecr,
    /// Azure Container Registry.
    Acr,
    /// The registry of a GitLab whose job this is.
    Gitlab,
}

impl Helper {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 5] = [Self::Env, Self::Google, Self::Ecr, Self::Acr, Self::Gitlab];
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Env => "env",
            Self::Google => "google",
            Self::Ecr => "ecr",
            Self::Acr => "acr",
            Self::Gitlab => "gitlab",
        })
    }
}

impl FromStr for Helper {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|helper| helper.to_string() == text).ok_or(())
    }
}

/// What helpers go by.
#[derive(Clone, Default)]
pub struct Builtin {
    /// Who is asked, in order.
    pub helpers: Vec<Helper>,
    /// The variables that they know; some hold passwords.
    pub variables: BTreeMap<String, String>,
    /// Google's application default credentials and the file they are from.
    pub google: Option<(PathBuf, Secret)>,
}

impl Builtin {
    /// A variable that is set to something.
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.helpers).finish()
    }
}

/// A login, and until when it is good.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) login: Login,
    pub(crate) until: Option<Instant>,
    /// The built-in helper that it is from.
    pub(crate) helper: Option<Helper>,
}

impl Found {
    pub(crate) fn forever(login: Login) -> Self {
        Self { login, until: None, helper: None }
    }

    /// Good for so long; the last tenth is left for its use.
    pub(crate) fn lasting(login: Login, life: Duration) -> Self {
        Self { login, until: Instant::now().checked_add(life.mul_f64(0.9)), helper: None }
    }
}

/// Why a helper that was asked has no login.
type Reason = String;

impl Client {
    /// What the first helper has that knows this registry.
    pub(crate) async fn builtin_login(
        &self,
        registry: &str,
        purpose: Purpose,
    ) -> Result<Option<Found>, Reason> {
        let builtin = &self.settings.builtin;
        let mut reasons = Vec::new();
        for helper in &builtin.helpers {
            let asked = match helper {
                Helper::Env => Ok(variables::of_registry(builtin, registry)),
                Helper::Gitlab => Ok(variables::of_gitlab(builtin, registry)),
                Helper::Google => google::login(self, registry).await,
                Helper::Ecr => ecr::login(self, registry, purpose).await,
                Helper::Acr => azure::login(self, registry, purpose).await,
            };
            match asked {
                Ok(Some(found)) => {
                    tracing::debug!(%helper, registry, "found a login");
                    return Ok(Some(Found { helper: Some(*helper), ..found }));
                }
                Ok(None) => {}
                Err(why) => {
                    tracing::debug!(%helper, registry, "no login: {why}");
                    reasons.push(format!("{helper}: {why}"));
                }
            }
        }
        if reasons.is_empty() { Ok(None) } else { Err(reasons.join("; ")) }
    }

    /// Sends a request to a service of a cloud until it is answered, and reads the answer as JSON.
    async fn ask<T: DeserializeOwned>(
        &self,
        url: &Url,
        request: RequestBuilder,
    ) -> Result<T, Reason> {
        let mut budget = self.budget();
        loop {
            let again = request.try_clone().ok_or("the request cannot be sent twice")?;
            match self.ask_once(url, again).await {
                Ok(body) => {
                    return serde_json::from_slice(&body)
                        .map_err(|_| format!("{} gave an unexpected answer", authority(url)));
                }
                Err(failure) => failure.pause(&mut budget).await.map_err(|it| it.to_string())?,
            }
        }
    }

    async fn ask_once(&self, url: &Url, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let what = "ask for a login";
        let response = self.send_once(what, url, request).await?;
        let (status, idle) = (response.status(), self.settings.patience.idle);
        if !status.is_success() {
            let asked = retry::retry_after(response.headers());
            let said = answer::read_limited(response, ANSWER_LIMIT, idle).await;
            let why = words(&said.unwrap_or_default());
            let why = format!("{} answered {status}{why}", authority(url));
            let error = RegistryError::answer(what, why);
            return Err(Failure::of_status(status, error, asked));
        }
        answer::read_limited(response, ANSWER_LIMIT, idle)
            .await
            .map_err(|error| RegistryError::answer(what, error.to_string()).into())
    }

    /// The HTTP client for a service: a metadata server is never behind a proxy.
    fn service(&self, url: &Url) -> Result<reqwest::Client, Reason> {
        let client = if is_metadata(url) {
            self.transport.metadata()
        } else {
            self.transport.client(&authority(url), Purpose::Service)
        };
        client.map_err(|error| error.to_string())
    }
}

/// What OAuth2 servers (RFC 6749, 5.2) and Google's say is wrong. Nothing else of an answer is shown.
fn words(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let texts = [&json["error_description"], &json["error"]["message"], &json["error"]];
    let said = texts.into_iter().find_map(serde_json::Value::as_str).unwrap_or_default();
    let line: String = said.chars().take_while(|c| *c != '\r' && *c != '\n').take(300).collect();
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

/// Whether a service is on this machine or its link, where clouds keep their metadata servers.
fn is_metadata(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => v4.is_link_local() || v4.is_loopback(),
        Ok(std::net::IpAddr::V6(v6)) => {
            v6.is_unicast_link_local() || v6.is_loopback() || v6.is_unique_local()
        }
        Err(_) => host == "localhost" || host.ends_with(".internal"),
    }
}

fn url(text: &str) -> Result<Url, Reason> {
    Url::parse(text).map_err(|_| format!("{text:?} is no URL"))
}

/// A form as the body of a POST, so that no secret is in a URL.
fn form(request: RequestBuilder, pairs: &[(&str, &str)]) -> RequestBuilder {
    let mut encoded = Url::parse("http://form").expect("a URL");
    encoded.query_pairs_mut().extend_pairs(pairs);
    let body = encoded.query().unwrap_or_default().to_owned();
    request.header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
}

/// A token answer of OAuth2.
#[derive(serde::Deserialize)]
struct Token {
    access_token: String,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
}

impl Token {
    fn life(&self) -> Duration {
        Duration::from_secs(self.expires_in.unwrap_or(600).min(86_400))
    }
}

/// Azure's metadata server writes numbers as texts.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    use serde::Deserialize as _;
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| value.as_str()?.parse().ok()))
}
