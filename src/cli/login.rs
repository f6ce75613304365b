//! `executor login`: a password for later builds, where they look for it.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::config::Surroundings;
use super::config::credentials::helpers;
use super::flags::LoginFlags;
use crate::registry::{Secret, Stored, store_login};
use crate::report::{Explain as _, Failure};

/// The most that is read of a password, in bytes.
const LIMIT: u64 = 64 << 10;

/// Keeps the login; answers what to tell.
///
/// # Errors
/// No password or two of them, a file that is no config.json or cannot be written.
pub(super) fn login(
    flags: &LoginFlags,
    around: &Surroundings,
    input: impl Read,
) -> Result<String, Failure> {
    let password = password(flags, input)?;
    let path = config_file(around)?;
    let old = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).could_not(|| format!("read {}", path.display())),
    };
    let (host, user) = (host(&flags.registry)?, &flags.username);
    let stored = store_login(old.as_deref(), &host, user, &password, &helpers(around))
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    match stored {
        Stored::In(bytes) => {
            write(&path, &bytes).could_not(|| format!("write {}", path.display()))?;
            Ok(format!("logged in to {host} via {}", path.display()))
        }
        Stored::By(helper) => Ok(format!("logged in to {host} via {helper}")),
    }
}

fn password(flags: &LoginFlags, input: impl Read) -> Result<Secret, Failure> {
    match (&flags.password, flags.password_stdin.0) {
        (Some(_), true) => Err(Failure::new("give --password or --password-stdin, not both")),
        (None, false) => Err(Failure::new("there is no password").hint("use --password-stdin")),
        (Some(password), false) if password.is_empty() => Err(Failure::new("--password is empty")),
        (Some(password), false) => Ok(Secret::new(password.as_str())),
        (None, true) => {
            let mut text = String::new();
            input
                .take(LIMIT)
                .read_to_string(&mut text)
                .could_not(|| "read the password from standard input".to_owned())?;
            let password = text.trim_end_matches(['\r', '\n']);
            if password.trim().is_empty() {
                return Err(Failure::new("standard input holds no password"));
            }
            Ok(Secret::new(password))
        }
    }
}

/// The registry without what people add to it.
fn host(text: &str) -> Result<String, Failure> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    if bare.is_empty() || bare.contains([' ', '@', '?', '#']) {
        return Err(Failure::new(format!("{text:?} is no registry")).hint("write HOST[:PORT]"));
    }
    Ok(bare.to_owned())
}

/// Where builds look first.
fn config_file(around: &Surroundings) -> Result<PathBuf, Failure> {
    let docker = around.variable("DOCKER_CONFIG").map(|dir| around.here.join(dir));
    let home = around.variable("HOME").map(|dir| around.here.join(dir).join(".docker"));
    docker.or(home).map(|dir| dir.join("config.json")).ok_or_else(|| {
        Failure::new("there is no place for config.json").hint("set DOCKER_CONFIG or HOME")
    })
}

/// Whole or not at all, and for nobody else to read. A link stays one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(".config-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.persist(&path).map(|_| ()).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::{Command, Flags};
    use clap::Parser as _;

    /// Logs in below `dir`; what is told.
    fn run(dir: &Path, line: &str, input: &str) -> Result<String, String> {
        let around = Surroundings {
            env: [("DOCKER_CONFIG".to_owned(), dir.join("new").display().to_string())].into(),
            here: "/".into(),
            executable: None,
            now: String::new(),
        };
        let words = ["executor", "login"].into_iter().chain(line.split_whitespace());
        let Some(Command::Login(flags)) = Flags::try_parse_from(words).expect(line).command else {
            panic!("{line} is no login")
        };
        login(&flags, &around, input.as_bytes()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_login_is_kept_beside_what_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/config.json");
        run(dir.path(), "r.example:5000 -u a --password-stdin", "canary\n").unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replacen('{', r#"{"psFormat":"x","credHelpers":{"h.example":"none"},"#, 1);
        std::fs::write(&file, text).unwrap();
        run(dir.path(), "https://docker.io/ -u b -p p:q", "").unwrap();
        run(dir.path(), "r.example:5000 --username=c --password=d", "").unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let want = serde_json::json!({
            "psFormat": "x",
            "credHelpers": {"h.example": "none"},
            "auths": {
                "r.example:5000": {"auth": "Yzpk"},
                "https://index.docker.io/v1/": {"auth": "YjpwOnE="},
            },
        });
        assert_eq!(json, want);
        let error = run(dir.path(), "h.example -u a -p p", "").unwrap_err();
        assert!(error.contains("docker-credential-none"), "{error}");
    }

    #[test]
    fn what_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (line, input, want) in [
            ("r.example -u a", "", "there is no password"),
            ("r.example -u a -p canary --password-stdin", "canary", "not both"),
            ("r.example -u a --password-stdin", " \n", "holds no password"),
            ("r.example -u a --password=", "", "empty"),
            ("a@b -u a -p canary", "", "no registry"),
        ] {
            let error = run(dir.path(), line, input).unwrap_err();
            assert!(error.contains(want) && !error.contains("canary"), "{line}: {error}");
        }
        std::fs::create_dir(dir.path().join("new")).unwrap();
        std::fs::write(dir.path().join("new/config.json"), "[\"canary\"]").unwrap();
        let error = run(dir.path(), "r.example -u a -p p", "").unwrap_err();
        assert!(error.contains("config.json") && !error.contains("canary"), "{error}");
    }
}
