//! External credential helpers: `docker-credential-NAME get`.
//!
//! A helper is run by its absolute path with a fixed environment. The
//! directories that are searched are given by the caller, so that a base image
//! unpacked over `/` cannot slip its own helper in.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Login, RegistryError, Secret};

/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Where helpers are and what they see.
#[derive(Clone, Debug, Default)]
pub struct Helpers {
    /// Directories to look in, in order; relative ones are skipped.
    pub directories: Vec<PathBuf>,
    /// All of a helper's environment.
    pub environment: Vec<(OsString, OsString)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the login of a server; `None` if it has none.
pub(super) fn ask(
    helpers: &Helpers,
    name: &str,
    server: &str,
) -> Result<Option<Login>, RegistryError> {
    let program = find(helpers, name)?;
    let failed = |why: String| {
        RegistryError::Credentials(format!("{} for {server}: {why}", program.display()))
    };
    let mut child = Command::new(&program)
        .arg("get")
        .env_clear()
        .envs(helpers.environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(server.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // Helpers tell errors on stdout, in words that Docker fixed.
        let said = String::from_utf8_lossy(&output.stdout);
        return match said.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("{}: {}", output.status, first_line(&said)))),
        };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not the JSON of a credential helper".to_owned()))?;
    Ok(login(answer))
}

fn login(answer: Answer) -> Option<Login> {
    let secret = Secret::new(answer.secret);
    match answer.username.as_str() {
        _ if secret.expose().is_empty() => None,
        TOKEN_USER => Some(Login::Identity(secret)),
        _ => Some(Login::Basic { user: answer.username, password: secret }),
    }
}

fn find(helpers: &Helpers, name: &str) -> Result<PathBuf, RegistryError> {
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let file = format!("docker-credential-{name}");
    let directories = helpers.directories.iter().filter(|dir| dir.is_absolute());
    let found = directories.map(|dir| dir.join(&file)).find(|path| {
        path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    });
    match found {
        Some(path) if name.chars().all(named) => Ok(path),
        _ => Err(RegistryError::Credentials(format!("the helper {file} was not found"))),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Credentials;
    use std::fs;

    #[test]
    fn a_helper_is_asked_with_a_fixed_environment() {
        let dir = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\nread server\ncase $server in\n\
            r.example) echo '{\"Username\":\"u'$CANARY'\",\"Secret\":\"'$GIVEN'\"}';;\n\
            t.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
            broken.example) echo 'no such luck'; exit 1;;\n\
            *) echo 'credentials not found in native keychain'; exit 1;; esac\n";
        let path = dir.path().join("docker-credential-x");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let helpers = Helpers {
            directories: vec!["relative".into(), dir.path().to_owned()],
            environment: vec![("GIVEN".into(), "g".into())],
        };
        let config = br#"{"credsStore":"x","auths":{"f.example":{"username":"f","password":"p"}},
            "credHelpers":{"missing.example":"../x"}}"#;
        let credentials = Credentials::anonymous()
            .with_helpers(helpers)
            .with_docker_config(config, "/c.json")
            .unwrap();
        for (repository, want) in [
            ("r.example/a", "Ok(Some(Basic { user: \"u\", password: *** }))"),
            ("t.example/a", "Ok(Some(Identity(***)))"),
            ("f.example/a", "Ok(Some(Basic { user: \"f\", password: *** }))"),
            ("none.example/a", "Ok(None)"),
            ("missing.example/a", "was not found"),
            ("broken.example/a", "no such luck"),
        ] {
            let answer = format!("{:?}", credentials.look_up(&repository.parse().unwrap()));
            assert!(answer.contains(want), "{repository}: {answer}");
        }
    }
}
