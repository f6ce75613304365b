//! A login into Docker's `config.json`, or to the helper that it names for the registry.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{HUB_KEY, bare};
use super::helper::{self, Helpers};
use super::{RegistryError, Secret};

/// Where a login is now.
pub enum Stored {
    /// In a file with these bytes.
    In(Vec<u8>),
    /// With this helper.
    By(String),
}

/// Takes a login into the text of a `config.json`; everything else in it stays as it is.
///
/// # Errors
/// A text that is no such file, or a helper that does not take the login.
pub fn store_login(
    config: Option<&[u8]>,
    registry: &str,
    user: &str,
    password: &Secret,
    helpers: &Helpers,
) -> Result<Stored, RegistryError> {
    let no_config = || RegistryError::Credentials("it is no Docker config".to_owned());
    let mut json: Value = match config {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| no_config())?,
        None => json!({}),
    };
    let file = json.as_object_mut().ok_or_else(no_config)?;
    let key = match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY,
        other => other,
    };
    let named = file.get("credHelpers").and_then(|it| it.get(registry).or(it.get(key)));
    let named = named.or(file.get("credsStore")).and_then(Value::as_str);
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        helper::store(helpers, name, key, user, password)?;
        return Ok(Stored::By(format!("docker-credential-{name}")));
    }
    let auths = file.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    let auths = auths.as_object_mut().ok_or_else(no_config)?;
    let auth = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
    // The same registry written otherwise would still be found.
    auths.retain(|name, _| bare(name) != bare(key));
    auths.insert(key.to_owned(), json!({ "auth": auth }));
    let text = serde_json::to_vec_pretty(&json).map_err(|_| no_config())?;
    Ok(Stored::In(text))
}
