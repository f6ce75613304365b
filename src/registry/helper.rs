//! External credential helpers: `docker-credential-NAME get`.
//!
//! Helpers are looked for once, when the program starts, and run by their absolute
//! path with a fixed environment. One that is no longer the file it was then is not
//! run: a base image unpacked over `/` cannot slip its own helper in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::{Login, RegistryError, Secret};

/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What the names of all helpers begin with.
const PREFIX: &str = "docker-credential-";

/// Programs that kaniko's image has, and whose work is done here without one.
const BUILT_IN: [&str; 4] = ["acr-env", "ecr-login", "gcr", "gitlab"];

/// The helpers there were at the start, and what they see.
#[derive(Clone, Debug, Default)]
pub struct Helpers {
    programs: BTreeMap<String, Program>,
    environment: Vec<(OsString, OsString)>,
}

/// A helper, and how to know it again.
#[derive(Clone, Debug)]
struct Program {
    /// As it was found, perhaps a link.
    named: PathBuf,
    path: PathBuf,
    seen: Seen,
}

/// Device, inode, size, and the time of the last change, which nobody can set.
type Seen = (u64, u64, u64, i64, i64);

impl Helpers {
    /// Looks for helpers in these directories, of which relative ones are skipped; the first of a name counts.
    /// `environment` is all that they will see.
    #[must_use]
    pub fn find(directories: &[PathBuf], environment: Vec<(OsString, OsString)>) -> Self {
        let mut programs = BTreeMap::new();
        for dir in directories.iter().filter(|dir| dir.is_absolute()) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str().and_then(|it| it.strip_prefix(PREFIX)) else {
                    continue;
                };
                if let Some(program) = Program::at(entry.path()) {
                    programs.entry(name.to_owned()).or_insert(program);
                }
            }
        }
        Self { programs, environment }
    }
}

impl Program {
    fn at(named: PathBuf) -> Option<Self> {
        let path = named.canonicalize().ok()?;
        let metadata = path.metadata().ok()?;
        let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        runs.then(|| Self { named, path, seen: seen(&metadata) })
    }

    fn is_still_itself(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|metadata| seen(&metadata) == self.seen)
    }
}

fn seen(metadata: &fs::Metadata) -> Seen {
    (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec())
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
    if BUILT_IN.contains(&name) && !helpers.programs.contains_key(name) {
        tracing::debug!("{PREFIX}{name} is no program here: what is built in is asked instead");
        return Ok(None);
    }
    let (program, output) = run(helpers, name, "get", server, server.as_bytes())?;
    let failed = |why: String| {
        RegistryError::Credentials(format!("{} for {server}: {why}", program.named.display()))
    };
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

/// Runs a helper with this input to its end.
fn run<'a>(
    helpers: &'a Helpers,
    name: &str,
    action: &str,
    server: &str,
    input: &[u8],
) -> Result<(&'a Program, Output), RegistryError> {
    let program = helpers.programs.get(name).ok_or_else(|| {
        RegistryError::Credentials(format!("the helper {PREFIX}{name} was not found"))
    })?;
    let failed = |why: String| {
        RegistryError::Credentials(format!("{} for {server}: {why}", program.named.display()))
    };
    if !program.is_still_itself() {
        return Err(failed("it is another file than at the start, and is not run".to_owned()));
    }
    let mut child = Command::new(&program.path)
        .arg0(&program.named)
        .arg(action)
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
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    Ok((program, output))
}

/// Gives a login to a helper.
pub(super) fn store(
    helpers: &Helpers,
    name: &str,
    server: &str,
    user: &str,
    password: &Secret,
) -> Result<(), RegistryError> {
    let login = json!({"ServerURL": server, "Username": user, "Secret": password.expose()});
    let (program, output) = run(helpers, name, "store", server, login.to_string().as_bytes())?;
    if output.status.success() {
        return Ok(());
    }
    let said = first_line(&String::from_utf8_lossy(&output.stdout));
    let program = program.named.display();
    Err(RegistryError::Credentials(format!("{program} for {server}: {}: {said}", output.status)))
}

fn login(answer: Answer) -> Option<Login> {
    let secret = Secret::new(answer.secret);
    match answer.username.as_str() {
        _ if secret.expose().is_empty() => None,
        TOKEN_USER => Some(Login::Identity(secret)),
        _ => Some(Login::Basic { user: answer.username, password: secret }),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Credentials;

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
        let directories = ["relative".into(), dir.path().to_owned()];
        let helpers = Helpers::find(&directories, vec![("GIVEN".into(), "g".into())]);
        let config = br#"{"credsStore":"x","auths":{"f.example":{"username":"f","password":"p"}},
            "credHelpers":{"missing.example":"../x"}}"#;
        let credentials = Credentials::anonymous()
            .with_helpers(helpers)
            .with_docker_config(config, "/c.json")
            .unwrap();
        for (repository, want) in [
            ("r.example/a", "Ok(Some((Basic { user: \"u\", password: *** }, Helper)))"),
            ("t.example/a", "Ok(Some((Identity(***), Helper)))"),
            ("f.example/a", "Ok(Some((Basic { user: \"f\", password: *** }, File)))"),
            ("none.example/a", "Ok(None)"),
            ("missing.example/a", "was not found"),
            ("broken.example/a", "no such luck"),
        ] {
            let answer = format!("{:?}", credentials.look_up(&repository.parse().unwrap()));
            assert!(answer.contains(want), "{repository}: {answer}");
        }
    }

    #[test]
    fn a_helper_that_was_replaced_is_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-x");
        let put = |user: &str| {
            // As an archive is unpacked: the old file goes, a new one comes.
            let _ = fs::remove_file(&path);
            let script = format!("#!/bin/sh\necho '{{\"Username\":\"{user}\",\"Secret\":\"s\"}}'");
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        put("own");
        let helpers = Helpers::find(&[dir.path().to_owned()], Vec::new());
        assert!(ask(&helpers, "x", "r.example").unwrap().is_some());
        put("bad");
        let error = ask(&helpers, "x", "r.example").unwrap_err().to_string();
        assert!(error.contains("another file than at the start"), "{error}");
        fs::write(dir.path().join("docker-credential-new"), "").unwrap();
        let error = ask(&helpers, "new", "r.example").unwrap_err().to_string();
        assert!(error.contains("was not found"), "{error}");
    }
}
