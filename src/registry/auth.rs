//! Proves who the user is, to the registry and to the token server it names.
//!
//! Tokens are kept for each registry and scope until they expire or are
//! refused. A token server gets the user's password only over HTTPS, or if it is
//! the registry's own host; a link-local address, where clouds keep their
//! machine credentials, is never asked.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::builtin::Found;
use super::challenge::Challenge;
use super::exchange::{Client, Failure, authority, named};
use super::settings::Purpose;
use super::{By, Login, RegistryError, Secret, answer, retry};
use crate::image::Repository;

/// The largest token answer, in bytes.
const TOKEN_LIMIT: usize = 1 << 20;

/// How long what an external helper said is taken for true; it may be a token that ends.
const HELPERS_LIFE: Duration = Duration::from_secs(900);

/// What a token has to allow, in the token specification's words.
#[derive(Default, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope(BTreeSet<String>);

impl Scope {
    pub(crate) fn pull(repository: &Repository) -> Self {
        Self(BTreeSet::from([format!("repository:{}:pull", repository.path())]))
    }

    pub(crate) fn push(repository: &Repository) -> Self {
        Self(BTreeSet::from([format!("repository:{}:pull,push", repository.path())]))
    }

    pub(crate) fn delete(repository: &Repository) -> Self {
        Self(BTreeSet::from([format!("repository:{}:pull,delete", repository.path())]))
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// Who is asked, for what.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) what: &'a str,
    pub(crate) repository: &'a Repository,
    pub(crate) scope: &'a Scope,
    pub(crate) purpose: Purpose,
    /// The registry's own scheme, host and port.
    pub(crate) origin: &'a Url,
}

/// Challenges, logins and tokens, as far as they are known.
#[derive(Default)]
pub(crate) struct Auth {
    challenges: Mutex<HashMap<String, Challenge>>,
    logins: Mutex<HashMap<(Repository, Purpose), Option<Found>>>,
    /// Logins of built-in helpers, by registry.
    builtin: Mutex<HashMap<(String, Purpose), Option<Found>>>,
    /// Why built-in helpers have none, by registry.
    reasons: Mutex<HashMap<String, String>>,
    tokens: Mutex<HashMap<(String, Scope), Token>>,
}

#[derive(Clone)]
struct Token {
    secret: Secret,
    expires: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Client {
    /// The `Authorization` for a request, as far as the registry has said what it wants.
    pub(crate) async fn authorization(
        &self,
        asker: Asker<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let login = self.login(asker.repository, asker.purpose).await?;
        if let Some(Login::Registry(token)) = &login {
            return bearer(token).map(Some);
        }
        let registry = asker.repository.registry();
        let challenge = self.auth.challenges.lock().await.get(registry).cloned();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => login.as_ref().map_or(Ok(None), basic),
            Some(challenge @ Challenge::Bearer { .. }) => {
                let token = self.token(asker, &challenge, None).await?;
                bearer(&token).map(Some)
            }
        }
    }

    /// Takes in a 401. Whether there is now something better to send than `sent`.
    pub(crate) async fn answer_challenge(
        &self,
        asker: Asker<'_>,
        challenges: &[Challenge],
        sent: Option<&HeaderValue>,
    ) -> Result<bool, Failure> {
        let registry = asker.repository.registry();
        let Some(challenge) = preferred(challenges) else { return Ok(false) };
        self.auth.challenges.lock().await.insert(registry.to_owned(), challenge.clone());
        match challenge {
            // The same password a second time is refused a second time.
            Challenge::Basic => {
                Ok(sent.is_none() && self.login(asker.repository, asker.purpose).await?.is_some())
            }
            Challenge::Bearer { .. } => {
                let login = self.login(asker.repository, asker.purpose).await?;
                if let Some(Login::Registry(_)) = login {
                    return Ok(false);
                }
                let token = self.token(asker, &challenge, sent).await?;
                Ok(sent != Some(&bearer(&token)?))
            }
        }
    }

    /// What to look at when a request was refused.
    pub(crate) async fn hint(&self, repository: &Repository, purpose: Purpose) -> String {
        let registry = repository.registry();
        let anonymous = matches!(self.login(repository, purpose).await, Ok(None));
        if let Some(reason) = self.auth.reasons.lock().await.get(registry) {
            return format!("there is no login for {registry}: {reason}");
        }
        let known = self.auth.logins.lock().await;
        match known.get(&(repository.clone(), purpose)).and_then(|it| it.as_ref()?.helper) {
            Some(helper) => {
                format!("the login is that of the helper {helper}: check what its account may do")
            }
            None => self.settings.credentials.hint(repository, anonymous),
        }
    }

    /// Finds out who the user is there.
    pub(crate) async fn log_in(
        &self,
        repository: &Repository,
        purpose: Purpose,
    ) -> Result<(), RegistryError> {
        match self.login(repository, purpose).await {
            Ok(_) => Ok(()),
            Err(Failure::Final(error) | Failure::Transient(error, _)) => Err(error),
        }
    }

    async fn login(
        &self,
        repository: &Repository,
        purpose: Purpose,
    ) -> Result<Option<Login>, Failure> {
        let mut logins = self.auth.logins.lock().await;
        let key = (repository.clone(), purpose);
        if let Some(known) = logins.get(&key).filter(|it| is_good(it)) {
            return Ok(known.as_ref().map(|found| found.login.clone()));
        }
        let (settings, wanted) = (Arc::clone(&self.settings), repository.clone());
        // A credential helper is a program that takes its time.
        let login = tokio::task::spawn_blocking(move || settings.credentials.look_up(&wanted))
            .await
            .map_err(|error| RegistryError::Credentials(error.to_string()))??;
        let found = match login {
            Some((login, By::File)) => Some(Found::forever(login)),
            Some((login, By::Helper)) => Some(Found::lasting(login, HELPERS_LIFE)),
            None => self.login_of_helpers(repository.registry(), purpose).await,
        };
        let login = found.as_ref().map(|found| found.login.clone());
        logins.insert(key, found);
        Ok(login)
    }

    /// Each helper is asked once for a registry, and again when what it gave is used up.
    async fn login_of_helpers(&self, registry: &str, purpose: Purpose) -> Option<Found> {
        let mut known = self.auth.builtin.lock().await;
        let key = (registry.to_owned(), purpose);
        if let Some(found) = known.get(&key).filter(|it| is_good(it)) {
            return found.clone();
        }
        let found = match self.builtin_login(registry, purpose).await {
            Ok(found) => found,
            Err(reason) => {
                self.auth.reasons.lock().await.insert(registry.to_owned(), reason);
                None
            }
        };
        known.insert(key, found.clone());
        found
    }

    /// A token that is not the one in `refused`. Held locked, so that parallel blobs fetch one token and not four.
    async fn token(
        &self,
        asker: Asker<'_>,
        challenge: &Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<Secret, Failure> {
        let key = (asker.repository.registry().to_owned(), asker.scope.clone());
        let mut tokens = self.auth.tokens.lock().await;
        if let Some(token) = tokens.get(&key).filter(|token| token.expires > Instant::now())
            && refused != Some(&bearer(&token.secret)?)
        {
            return Ok(token.secret.clone());
        }
        let mut scope = asker.scope.clone();
        if let (Challenge::Bearer { scope: Some(asked), .. }, true) =
            (challenge, refused.is_some() || !tokens.contains_key(&key))
        {
            // Only the challenge of this very request speaks of this scope.
            let same = |part: &&str| part.split(':').nth(1) == Some(asker.repository.path());
            scope.0.extend(asked.split(' ').filter(same).map(str::to_owned));
        }
        let token = self.fetch_token(asker, challenge, &scope).await?;
        let secret = token.secret.clone();
        tokens.insert(key, token);
        Ok(secret)
    }

    async fn fetch_token(
        &self,
        asker: Asker<'_>,
        challenge: &Challenge,
        scope: &Scope,
    ) -> Result<Token, Failure> {
        let Challenge::Bearer { realm, service, .. } = challenge else {
            return Err(RegistryError::answer(asker.what, "no token server is named").into());
        };
        let login = self.login(asker.repository, asker.purpose).await?;
        let realm = check_realm(asker, realm, login.is_some())?;
        let scopes = scope.0.iter().map(|scope| ("scope", scope.as_str()));
        let service = service.iter().map(|service| ("service", service.as_str()));
        let pairs: Vec<(&str, &str)> = service.chain(scopes).collect();
        let registry = asker.repository.registry();
        let server = named(&realm, asker.origin, registry);
        let client = self.transport.client(&server, asker.purpose)?;
        let request = match &login {
            Some(Login::Identity(token)) => refresh(&client, &realm, &pairs, token),
            Some(login) => match basic(login)? {
                Some(header) => with_query(&client, &realm, &pairs).header(AUTHORIZATION, header),
                None => with_query(&client, &realm, &pairs),
            },
            None => with_query(&client, &realm, &pairs),
        };
        let response = self.send_once(asker.what, &realm, request).await?;
        self.read_token(asker, &realm, response).await
    }

    async fn read_token(
        &self,
        asker: Asker<'_>,
        realm: &Url,
        response: Response,
    ) -> Result<Token, Failure> {
        let idle = self.settings.patience.idle;
        let status = response.status();
        let what = format!("{} (token from {})", asker.what, authority(realm));
        if !status.is_success() {
            let asked = retry::retry_after(response.headers());
            let message = answer::message(response, idle).await;
            let hint = self.hint(asker.repository, asker.purpose).await;
            let error = answer::refusal(&what, status, message, || hint);
            return Err(Failure::of_status(status, error, asked));
        }
        let bad = |why: String| Failure::from(RegistryError::answer(&what, why));
        let body =
            answer::read_limited(response, TOKEN_LIMIT, idle).await.map_err(
                |error| match error {
                    answer::Unread::TooLong(_) => bad(error.to_string()),
                    answer::Unread::Broken(why) => {
                        Failure::Transient(RegistryError::answer(&what, why), None)
                    }
                },
            )?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| bad("the answer is no token".to_owned()))?;
        let given = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let secret = given.ok_or_else(|| bad("the answer holds no token".to_owned()))?;
        // The token specification's default is 60 s; the last tenth is left for the way there.
        let life = Duration::from_secs(answer.expires_in.unwrap_or(60).min(86_400)).mul_f64(0.9);
        Ok(Token { secret: Secret::new(secret), expires: Instant::now() + life })
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(***)")
    }
}

/// Whether what is known is still so.
fn is_good(known: &Option<Found>) -> bool {
    let until = known.as_ref().and_then(|found| found.until);
    until.is_none_or(|until| until > Instant::now())
}

/// A token is preferred to a password with each request.
fn preferred(challenges: &[Challenge]) -> Option<Challenge> {
    let is_bearer = |it: &Challenge| matches!(it, Challenge::Bearer { .. });
    challenges.iter().find(|it| is_bearer(it)).or(challenges.first()).cloned()
}

/// Where a token may be asked for; see the module's promise.
fn check_realm(asker: Asker<'_>, realm: &str, with_login: bool) -> Result<Url, Failure> {
    let refused = |why: &str| {
        Failure::from(RegistryError::answer(asker.what, format!("the token server {why}")))
    };
    let url = Url::parse(realm).map_err(|_| refused("has no valid URL"))?;
    let own = url.host_str() == asker.origin.host_str();
    match url.scheme() {
        "https" => {}
        "http" if asker.origin.scheme() == "https" => {
            return Err(refused("is on plain HTTP although the registry is on HTTPS"));
        }
        "http" if own || !with_login => {}
        "http" => return Err(refused("is another host, on plain HTTP: no password goes there")),
        _ => return Err(refused("is not on HTTP or HTTPS")),
    }
    if is_link_local(&url) && !own {
        return Err(refused("has a link-local address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("has credentials in its URL"));
    }
    Ok(url)
}

fn is_link_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_unspecified(),
        Ok(IpAddr::V6(v6)) => {
            v6.is_unicast_link_local() || v6.to_ipv4().is_some_and(|v4| v4.is_link_local())
        }
        Err(_) => false,
    }
}

fn with_query(
    client: &reqwest::Client,
    realm: &Url,
    pairs: &[(&str, &str)],
) -> reqwest::RequestBuilder {
    let mut url = realm.clone();
    url.query_pairs_mut().extend_pairs(pairs);
    client.get(url).header(ACCEPT, "application/json")
}

/// OAuth2 as registries do it: a form with the refresh token, so that it is in no log of URLs.
fn refresh(
    client: &reqwest::Client,
    realm: &Url,
    pairs: &[(&str, &str)],
    token: &Secret,
) -> reqwest::RequestBuilder {
    let mut form = realm.clone();
    form.set_query(None);
    let scopes: Vec<&str> = pairs.iter().filter(|it| it.0 == "scope").map(|it| it.1).collect();
    form.query_pairs_mut()
        .extend_pairs(pairs.iter().filter(|it| it.0 != "scope"))
        .append_pair("scope", &scopes.join(" "))
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "kaniko-rs")
        .append_pair("refresh_token", token.expose());
    client
        .post(realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .body(form.query().unwrap_or_default().to_owned())
}

fn basic(login: &Login) -> Result<Option<HeaderValue>, Failure> {
    match login {
        Login::Basic { user, password } => {
            let text = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
            header(&format!("Basic {text}")).map(Some)
        }
        Login::Registry(_) | Login::Identity(_) => Ok(None),
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, Failure> {
    header(&format!("Bearer {}", token.expose()))
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        RegistryError::Credentials("a token has characters that no header can hold".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}
