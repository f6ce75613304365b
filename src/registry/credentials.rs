//! Who the user is, as Docker's `config.json` and podman's `auth.json` say it.
//!
//! A credential is found for a repository, by its path first and its registry
//! last, and leaves this program only towards that registry or its token server.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::helper::{self, Helpers};
use super::{RegistryError, Secret};
use crate::image::Repository;

/// The key under which Docker keeps the login of its Hub.
pub(super) const HUB_KEY: &str = "https://index.docker.io/v1/";

/// How to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// User and password.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// A refresh token, which a token server turns into access tokens.
    Identity(Secret),
    /// An access token for the registry itself.
    Registry(Secret),
}

/// Who knows a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A file, for good.
    File,
    /// An external helper, for a while.
    Helper,
}

/// All that is known about the user, in the order of the files given.
#[derive(Clone, Default)]
pub struct Credentials {
    files: Vec<(PathBuf, AuthFile)>,
    helpers: Helpers,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    #[serde(deserialize_with = "or_nothing")]
    auths: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "or_nothing")]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// `null` is written for what is empty.
fn or_nothing<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Credentials {
    /// Nobody.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Where and how `docker-credential-NAME` programs are run.
    #[must_use]
    pub fn with_helpers(mut self, helpers: Helpers) -> Self {
        self.helpers = helpers;
        self
    }

    /// Adds a file in the format of Docker's `config.json`; files added first win.
    ///
    /// `origin` is told to the user when the credentials are refused.
    pub fn with_docker_config(
        mut self,
        bytes: &[u8],
        origin: impl Into<PathBuf>,
    ) -> Result<Self, RegistryError> {
        let origin = origin.into();
        // serde_json's message for a wrong type may quote the value, which may be a password.
        let file = serde_json::from_slice(bytes).map_err(|error| {
            RegistryError::Credentials(format!(
                "{} is no Docker config: line {}, column {}",
                origin.display(),
                error.line(),
                error.column()
            ))
        })?;
        self.files.push((origin, file));
        Ok(self)
    }

    /// The files that logins come from.
    pub fn origins(&self) -> impl Iterator<Item = &Path> {
        let is_file = |origin: &Path| origin.is_absolute();
        let logins = self
            .files
            .iter()
            .filter(move |(origin, file)| !file.auths.is_empty() && is_file(origin));
        logins.map(|(origin, _)| origin.as_path())
    }

    /// What is known for this repository, and by whom. Runs a credential helper, so it may take a while.
    pub fn look_up(&self, repository: &Repository) -> Result<Option<(Login, By)>, RegistryError> {
        let keys = keys(repository);
        for (origin, file) in &self.files {
            if let Some(known) = file.look_up(&keys, origin, &self.helpers)? {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// A hint for a refused request.
    pub(crate) fn hint(&self, repository: &Repository, anonymous: bool) -> String {
        let files: Vec<String> =
            self.files.iter().map(|(origin, _)| origin.display().to_string()).collect();
        match (files.is_empty(), anonymous) {
            (true, _) => "no Docker config was given; log in to the registry first".to_owned(),
            (false, true) => {
                format!("{} has no entry for {}", files.join(", "), repository.registry())
            }
            (false, false) => format!(
                "check the entry for {} in {}, and that its user may do this",
                repository.registry(),
                files.join(", ")
            ),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.files.iter().map(|(origin, _)| origin)).finish()
    }
}

impl AuthFile {
    fn look_up(
        &self,
        keys: &[String],
        origin: &Path,
        helpers: &Helpers,
    ) -> Result<Option<(Login, By)>, RegistryError> {
        let server = server_of(keys);
        if let Some(name) = find(&self.cred_helpers, keys).or(self.creds_store.as_ref())
            && !name.is_empty()
            && let Some(login) = helper::ask(helpers, name, server)?
        {
            return Ok(Some((login, By::Helper)));
        }
        let login = find(&self.auths, keys).map_or(Ok(None), |entry| {
            entry.login().map_err(|why| {
                RegistryError::Credentials(format!("{}: {server}: {why}", origin.display()))
            })
        })?;
        Ok(login.map(|login| (login, By::File)))
    }
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, &'static str> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Login::Registry(Secret::new(token))));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Login::Identity(Secret::new(token))));
        }
        if let (Some(user), Some(password)) = (given(&self.username), given(&self.password)) {
            return Ok(Some(Login::Basic { user, password: Secret::new(password) }));
        }
        let login = given(&self.auth).map(|auth| decode(&auth)).transpose()?;
        // Written by pipelines whose variables were empty: nobody.
        Ok(login.filter(|login| {
            !matches!(login, Login::Basic { user, password } if user.is_empty() && password.expose().is_empty())
        }))
    }
}

/// `user:password` in base64; Docker pads the password with NULs.
fn decode(auth: &str) -> Result<Login, &'static str> {
    let bytes = BASE64_STANDARD.decode(auth.trim()).map_err(|_| "`auth` is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "`auth` is not UTF-8")?;
    let (user, password) = text.split_once(':').ok_or("`auth` lacks a colon")?;
    let password = password.trim_matches('\0').trim_end_matches('\n');
    Ok(Login::Basic { user: user.to_owned(), password: Secret::new(password) })
}

/// From the most to the least specific: `host/a/b`, `host/a`, `host`, and the Hub's other names.
fn keys(repository: &Repository) -> Vec<String> {
    let full = repository.to_string();
    let mut keys = vec![full.clone()];
    keys.extend(full.rmatch_indices('/').map(|(at, _)| full[..at].to_owned()));
    let hub = "index.docker.io";
    if repository.registry() == hub {
        // Podman writes paths below the short name.
        let short = |key: String| [key.replacen(hub, "docker.io", 1), key].into_iter().rev();
        keys = keys.into_iter().flat_map(short).collect();
        keys.push("registry-1.docker.io".to_owned());
    }
    keys
}

/// The name that helpers know the registry by.
fn server_of(keys: &[String]) -> &str {
    match keys.iter().find(|key| !key.contains('/')).map(String::as_str) {
        Some("index.docker.io") | None => HUB_KEY,
        Some(registry) => registry,
    }
}

/// Keys are compared without a scheme and without `/v1/`, `/v2/` or a slash at their end; one that is written without
/// them goes before.
fn find<'a, T>(map: &'a BTreeMap<String, T>, keys: &[String]) -> Option<&'a T> {
    keys.iter().find_map(|key| {
        let otherwise = || map.iter().find(|(name, _)| bare(name) == key).map(|(_, it)| it);
        map.get(key).or_else(otherwise)
    })
}

pub(super) fn bare(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest).trim_end_matches('/');
    name.strip_suffix("/v1").or(name.strip_suffix("/v2")).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(config: &str, repository: &str) -> String {
        let credentials =
            Credentials::anonymous().with_docker_config(config.as_bytes(), "/c.json").unwrap();
        match credentials.look_up(&repository.parse().unwrap()).map(|it| it.map(|it| it.0)) {
            Ok(Some(Login::Basic { user, password })) => format!("{user}:{}", password.expose()),
            Ok(Some(Login::Identity(token))) => format!("identity {}", token.expose()),
            Ok(Some(Login::Registry(token))) => format!("registry {}", token.expose()),
            Ok(None) => "-".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn entries_and_who_they_are_for() {
        let both = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA6cQ=="},
            "r.example":{"username":"r","password":"p"},
            "r.example/team":{"username":"team","password":"p"},
            "https://s.example:5000/v2/":{"identitytoken":"t","auth":"PHRva2VuPjo="},
            "t.example":{"registrytoken":"t"}, "empty.example":{},
            "https://both.example/v2/":{"username":"old","password":"p"},
            "both.example":{"username":"new","password":"p"},
            "docker.io/team":{"username":"team","password":"h"},
            "nobody.example":{"auth":"Og=="},
            "bad.example":{"auth":"%"}}}"#;
        for (repository, want) in [
            ("debian", "hub:p:q"),
            ("docker.io/a/b", "hub:p:q"),
            ("docker.io/team/b", "team:h"),
            ("both.example/a", "new:p"),
            ("nobody.example/a", "-"),
            ("r.example/a", "r:p"),
            ("r.example/team/a", "team:p"),
            ("r.example/teams/a", "r:p"),
            ("r.example:5000/a", "-"),
            ("s.example:5000/a", "identity t"),
            ("t.example/a", "registry t"),
            ("empty.example/a", "-"),
            ("other.example/a", "-"),
            ("bad.example/a", "credentials: /c.json: bad.example: `auth` is not base64"),
        ] {
            assert_eq!(user(both, repository), want, "{repository}");
        }
        assert_eq!(user(r#"{"auths":null,"credHelpers":null}"#, "r.example/a"), "-");
        let shipped =
            r#"{"credsStore":"ecr-login","auths":{"r.example":{"username":"r","password":"p"}}}"#;
        assert_eq!(user(shipped, "r.example/a"), "r:p");
        assert_eq!(
            user(&shipped.replace("ecr-login", "other"), "r.example/a"),
            "credentials: the helper docker-credential-other was not found"
        );
    }

    #[test]
    fn nothing_prints_a_secret() {
        let config = br#"{"auths":{"r.example":{"username":"r","password":"canary"}}}"#;
        let credentials = Credentials::anonymous().with_docker_config(config, "/c.json").unwrap();
        let login = credentials.look_up(&"r.example/a".parse().unwrap()).unwrap();
        assert!(!format!("{credentials:?} {login:?}").contains("canary"));
        let wrong = br#"{"auths":{"r.example":"canary"}}"#;
        let error = Credentials::anonymous().with_docker_config(wrong, "/c.json").unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
