//! Who the user is: Docker's and podman's files, found where those tools have them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Surroundings;
use crate::registry::{Credentials, Helpers};
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

fn helpers(around: &Surroundings) -> Helpers {
    Helpers {
        directories: around
            .variable("PATH")
            .map(|path| std::env::split_paths(path).collect())
            .unwrap_or_default(),
        environment: around
            .env
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
    }
}
