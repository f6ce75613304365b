//! Who the user is: Docker's and podman's files, found where those tools have them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Surroundings;
use crate::registry::{Builtin, Credentials, Helper, Helpers, Secret};
use crate::report::{Explain as _, Failure};

/// `$DOCKER_AUTH_CONFIG` itself, and the first file there is: `$DOCKER_CONFIG/config.json`, else
/// `~/.docker/config.json`, else podman's.
///
/// # Errors
/// A file that is there and cannot be read, or that is no such file.
pub(super) fn credentials(around: &Surroundings) -> Result<Credentials, Failure> {
    let mut found = Credentials::anonymous().with_helpers(helpers(around));
    let told = |error: crate::registry::RegistryError| Failure::new(error.to_string());
    if let Some(text) = around.variable("DOCKER_AUTH_CONFIG") {
        found = found.with_docker_config(text.as_bytes(), "$DOCKER_AUTH_CONFIG").map_err(told)?;
    }
    let Some(path) = files(around).into_iter().find(|path| path.is_file()) else {
        return Ok(found);
    };
    let bytes = std::fs::read(&path).could_not(|| format!("read {}", path.display()))?;
    found.with_docker_config(&bytes, &path).map_err(told)
}

/// Where a file may be, in order.
fn files(around: &Surroundings) -> Vec<PathBuf> {
    let below = |variable: &str, rest: &str| {
        around.variable(variable).map(|dir| around.here.join(Path::new(dir).join(rest)))
    };
    let candidates = [
        below("DOCKER_CONFIG", "config.json"),
        below("HOME", ".docker/config.json"),
        around.variable("REGISTRY_AUTH_FILE").map(|file| around.here.join(file)),
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("XDG_CONFIG_HOME", "containers/auth.json"),
        below("HOME", ".config/containers/auth.json"),
    ];
    candidates.into_iter().flatten().collect()
}

/// The external helpers of this machine, as they are now.
pub(in crate::cli) fn helpers(around: &Surroundings) -> Helpers {
    let path = around.variable("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(path).collect();
    let pairs = around.env.iter();
    let environment = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Helpers::find(&directories, environment.collect())
}

/// The beginnings of variables that built-in helpers know.
const KNOWN: [&str; 6] = ["AWS_", "AZURE_", "CI_REGISTRY", "GCE_METADATA_", "IDENTITY_", "KANIKO_"];

/// Built-in helpers: those that are named, all if none is; a name that is empty is none.
///
/// # Errors
/// A helper that there is not.
pub(super) fn builtin(given: &[String], around: &Surroundings) -> Result<Builtin, Failure> {
    let named = given.iter().filter(|name| !name.is_empty()).map(|name| {
        name.parse::<Helper>().map_err(|()| {
            let all = Helper::ALL.map(|helper| helper.to_string()).join(", ");
            Failure::new(format!("--credential-helpers={name}: use {all}"))
        })
    });
    let named: Vec<Helper> = named.collect::<Result<_, _>>()?;
    let known = |name: &&String| KNOWN.iter().any(|start| name.starts_with(start));
    let variables = around.env.iter().filter(|(name, _)| known(name));
    Ok(Builtin {
        helpers: if given.is_empty() { Helper::ALL.to_vec() } else { named },
        variables: variables.map(|(name, value)| (name.clone(), value.clone())).collect(),
        google: google(around),
    })
}

/// Application default credentials: the file that is named, else the one that `gcloud` writes.
fn google(around: &Surroundings) -> Option<(PathBuf, Secret)> {
    let named =
        around.variable("GOOGLE_APPLICATION_CREDENTIALS").map(|file| around.here.join(file));
    let written = around
        .variable("CLOUDSDK_CONFIG")
        .map(|dir| around.here.join(dir))
        .or_else(|| Some(Path::new(around.variable("HOME")?).join(".config/gcloud")));
    let written = written.map(|dir| dir.join("application_default_credentials.json"));
    let is_named = named.is_some();
    let path = named.or(written)?;
    match std::fs::read_to_string(&path) {
        Ok(text) => Some((path, Secret::new(text))),
        Err(error) => {
            if is_named {
                tracing::warn!("GOOGLE_APPLICATION_CREDENTIALS: {}: {error}", path.display());
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked() {
        let around = Surroundings {
            env: [("CI_REGISTRY", "r"), ("AWS_REGION", "x"), ("OTHER", "canary")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            here: "/".into(),
            executable: None,
            now: String::new(),
        };
        for (given, want) in [
            (&[][..], Some("env google ecr acr gitlab")),
            (&["ecr", "env"], Some("ecr env")),
            (&[""], Some("")),
            (&["", "acr"], Some("acr")),
            (&["ecr,acr"], None),
            (&["ECR"], None),
        ] {
            let given: Vec<String> = given.iter().map(|name| (*name).to_owned()).collect();
            let found = builtin(&given, &around).ok();
            let shown = found
                .as_ref()
                .map(|it| it.helpers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(shown.as_deref(), want, "{given:?}");
            assert!(found.is_none_or(|it| !it.variables.contains_key("OTHER")));
        }
    }
}
