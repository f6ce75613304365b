//! What was meant: an [`Order`] for the build, made of flags and environment in this one place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::flags::Flags;
use crate::build::{NamedContext, NamedContexts, Order, Outputs, SnapshotMode, Verify, Watch};
use crate::context::ContextSource;
use crate::image::{Platform, Reference};
use crate::registry::{Credentials, Helpers, Proxies, Settings};
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Container, container};

/// What this process was started with, taken once.
pub(super) struct Surroundings {
    /// The environment.
    pub(super) env: BTreeMap<String, String>,
    /// The current directory.
    pub(super) here: PathBuf,
    /// The executable, if the system tells.
    pub(super) executable: Option<PathBuf>,
    /// The time, RFC 3339.
    pub(super) now: String,
}

impl Surroundings {
    /// Asks the system.
    ///
    /// # Errors
    /// The current directory is gone.
    pub(super) fn take() -> Result<Self, Failure> {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Ok(Self {
            env: std::env::vars_os().filter_map(text).collect(),
            here: std::env::current_dir().could_not(|| "tell the current directory".to_owned())?,
            executable: std::env::current_exe().ok(),
            now: jiff::Timestamp::now().to_string(),
        })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn either(&self, name: &str) -> Option<String> {
        let lower = name.to_ascii_lowercase();
        self.variable(name).or_else(|| self.variable(&lower)).map(str::to_owned)
    }
}

/// Makes an order of what was typed.
///
/// # Errors
/// Flags that mean nothing, or contradict each other.
pub(super) fn order(flags: &Flags, around: &Surroundings) -> Result<Order, Failure> {
    let outputs = outputs(flags, around)?;
    let platform = match &flags.custom_platform {
        None => Platform::host(),
        Some(text) => text
            .parse()
            .map_err(|error| Failure::new(format!("--custom-platform={text}: {error}")))?,
    };
    let context = ContextSource::parse(&flags.context, &around.here)
        .map_err(|error| Failure::new(format!("--context: {error}")))?;
    Ok(Order {
        context,
        dockerfile: flags.dockerfile.clone(),
        here: around.here.clone(),
        contexts: contexts(&flags.build_context, &around.here)?,
        build_args: build_args(&flags.build_arg, around),
        target: flags.target.clone(),
        platform,
        registry: registry(flags, around)?,
        outputs,
        watch: watch(flags)?,
        isolation: flags
            .isolation
            .parse()
            .map_err(|error| Failure::new(format!("--isolation: {error}")))?,
        force: flags.force.0,
        kaniko_dir: kaniko_dir(flags, around),
        own_dirs: own_dirs(around),
        cleanup: flags.cleanup.0,
        created: around.now.clone(),
    })
}

fn outputs(flags: &Flags, around: &Surroundings) -> Result<Outputs, Failure> {
    let no_push = match around.variable("KANIKO_NO_PUSH") {
        None => flags.no_push.is_some_and(|flag| flag.0),
        Some(text) => {
            text.parse::<super::gobool::GoBool>()
                .map_err(|error| Failure::new(format!("KANIKO_NO_PUSH={text}: {error}")))?
                .0
        }
    };
    let parse = |text: &String| {
        let reference: Reference =
            text.parse().map_err(|error| Failure::new(format!("--destination={text}: {error}")))?;
        if reference.digest().is_some() {
            return Err(Failure::new(format!(
                "--destination={text}: a digest cannot be pushed to"
            ))
            .hint("give a tag"));
        }
        Ok(reference)
    };
    let destinations: Vec<Reference> =
        flags.destination.iter().map(parse).collect::<Result<_, _>>()?;
    if destinations.is_empty() && !no_push {
        return Err(Failure::new("you must provide --destination, or use --no-push"));
    }
    let absolute = |path: &PathBuf| around.here.join(path);
    Ok(Outputs {
        destinations,
        push: !no_push,
        tar: flags.tar_path.as_ref().map(absolute),
        layout: flags.oci_layout_path.as_ref().map(absolute),
        digest_file: flags.digest_file.as_ref().map(absolute),
    })
}

/// `NAME=VALUE`; `NAME` alone takes the value of that variable, empty if there is none.
fn build_args(given: &[String], around: &Surroundings) -> BTreeMap<String, String> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), around.env.get(text).cloned().unwrap_or_default()),
    };
    given.iter().map(split).collect()
}

fn contexts(given: &[String], here: &Path) -> Result<NamedContexts, Failure> {
    let mut contexts = NamedContexts::new();
    for text in given {
        let wrong = |why: &str| Failure::new(format!("--build-context={text}: {why}"));
        let (name, source) = text.split_once('=').ok_or_else(|| wrong("write NAME=SOURCE"))?;
        let context = match source.split_once("://") {
            Some(("oci-layout", place)) => layout(place, here),
            Some(("docker-image", reference)) => NamedContext::Image(
                reference
                    .parse()
                    .map_err(|error: crate::image::ImageError| wrong(&error.to_string()))?,
            ),
            Some((scheme, _)) => {
                return Err(wrong(&format!("{scheme}:// is not supported by this version")));
            }
            None => {
                let dir = here.join(source);
                if !dir.is_dir() {
                    return Err(wrong("there is no such directory"));
                }
                NamedContext::Dir(dir)
            }
        };
        contexts.insert(name.to_lowercase(), context);
    }
    Ok(contexts)
}

/// `DIR[:TAG]` or `DIR[@DIGEST]`.
fn layout(place: &str, here: &Path) -> NamedContext {
    let (dir, name) = match (place.split_once('@'), place.rsplit_once(':')) {
        (Some((dir, digest)), _) => (dir, Some(digest.to_owned())),
        (None, Some((dir, tag))) if !tag.contains('/') => (dir, Some(tag.to_owned())),
        _ => (place, None),
    };
    NamedContext::Layout { dir: here.join(dir), name }
}

fn watch(flags: &Flags) -> Result<Watch, Failure> {
    let mode = flags.snapshot_mode.as_deref().map(|mode| match mode {
        "full" => Ok(SnapshotMode::Full),
        "redo" => Ok(SnapshotMode::Redo),
        "time" => Ok(SnapshotMode::Time),
        other => Err(Failure::new(format!("--snapshot-mode={other}: use full, redo or time"))),
    });
    let mode = mode.transpose()?;
    let verify = match flags.verify_snapshot.as_str() {
        "off" | "false" => Verify::Off,
        "warn" => Verify::Warn,
        "fail" | "true" => Verify::Fail,
        other => {
            return Err(Failure::new(format!("--verify-snapshot={other}: use off, warn or fail")));
        }
    };
    let tracer = match &flags.run_tracer {
        None => tracer::Choice::Auto,
        Some(text) => {
            text.parse().map_err(|error| Failure::new(format!("--run-tracer: {error}")))?
        }
    };
    let asked_for = flags.run_tracer.is_some() && tracer != tracer::Choice::Off;
    let new_run = flags.use_new_run.map(|flag| flag.0);
    match (mode, new_run) {
        (Some(_), _) if asked_for => Err(Failure::new(
            "--snapshot-mode walks the file system and --run-tracer traces: give one of them",
        )),
        (_, Some(false)) if asked_for => Err(Failure::new(
            "--use-new-run=false walks the file system and --run-tracer traces: give one of them",
        )),
        // As in kaniko, where --use-new-run decides over the mode for RUN.
        (Some(mode), None | Some(false)) => Ok(Watch::Walk(mode)),
        (None, Some(false)) => Ok(Watch::Walk(SnapshotMode::Full)),
        (_, None | Some(true)) if tracer == tracer::Choice::Off => {
            Ok(Watch::Walk(SnapshotMode::Redo))
        }
        (_, None | Some(true)) => Ok(Watch::Trace { tracer, verify }),
    }
}

/// `/kaniko` in a container, as ever; elsewhere nothing outside the temporary directory is written.
fn kaniko_dir(flags: &Flags, around: &Surroundings) -> PathBuf {
    if let Some(dir) = &flags.kaniko_dir {
        return around.here.join(dir);
    }
    match container() {
        Container::Yes(_) => PathBuf::from("/kaniko"),
        Container::No => {
            let temporary = around.variable("TMPDIR").unwrap_or("/var/tmp");
            Path::new(temporary).join("kaniko")
        }
    }
}

/// Directories in place that are the executor's, whatever the base image has there.
fn own_dirs(around: &Surroundings) -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::from("/kaniko")];
    if let Some(dir) = around.executable.as_ref().and_then(|path| path.parent()) {
        // Not one that an image has for its own programs.
        let shared = ["/", "/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin"];
        if !shared.iter().any(|shared| dir == Path::new(shared)) {
            dirs.push(dir.to_owned());
        }
    }
    dirs
}

fn registry(flags: &Flags, around: &Surroundings) -> Result<Settings, Failure> {
    let mut certificates = BTreeMap::new();
    for text in &flags.registry_certificate {
        let (host, file) = text.split_once('=').ok_or_else(|| {
            Failure::new(format!("--registry-certificate={text}: write HOST=FILE"))
        })?;
        certificates.insert(host.to_owned(), around.here.join(file));
    }
    Ok(Settings {
        insecure: flags.insecure.0,
        insecure_pull: flags.insecure_pull.0,
        insecure_registries: flags.insecure_registry.clone(),
        skip_tls_verify: flags.skip_tls_verify.0,
        certificates,
        credentials: credentials(around)?,
        proxies: Proxies {
            http: around.either("HTTP_PROXY"),
            https: around.either("HTTPS_PROXY"),
            exceptions: around.either("NO_PROXY"),
        },
        user_agent: user_agent(around),
        ..Settings::default()
    })
}

fn user_agent(around: &Surroundings) -> String {
    let own = concat!("kaniko-rs/", env!("CARGO_PKG_VERSION"));
    match around.variable("UPSTREAM_CLIENT_TYPE") {
        Some(client) => format!("{own},{client}"),
        None => own.to_owned(),
    }
}

/// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, else podman's files.
fn credentials(around: &Surroundings) -> Result<Credentials, Failure> {
    let docker = around.variable("DOCKER_CONFIG").map(|dir| Path::new(dir).join("config.json"));
    let home = around.variable("HOME").map(|dir| Path::new(dir).join(".docker/config.json"));
    let podman = around.variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let runtime =
        around.variable("XDG_RUNTIME_DIR").map(|dir| Path::new(dir).join("containers/auth.json"));
    let candidates = [docker, home, podman, runtime];
    let helpers = Helpers {
        directories: around
            .variable("PATH")
            .map(|path| std::env::split_paths(path).collect())
            .unwrap_or_default(),
        environment: around
            .env
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
    };
    let none = Credentials::anonymous().with_helpers(helpers);
    let Some(path) = candidates.into_iter().flatten().find(|path| path.is_file()) else {
        return Ok(none);
    };
    let bytes = std::fs::read(&path).could_not(|| format!("read {}", path.display()))?;
    none.with_docker_config(&bytes, &path).map_err(|error| Failure::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn around() -> Surroundings {
        Surroundings {
            env: BTreeMap::from([("SET".to_owned(), "value".to_owned())]),
            here: PathBuf::from("/here"),
            executable: None,
            now: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn flags(line: &str) -> Flags {
        Flags::try_parse_from(std::iter::once("executor").chain(line.split_whitespace()))
            .expect(line)
    }

    #[test]
    fn who_watches() {
        let traced = |tracer, verify| Some(Watch::Trace { tracer, verify });
        for (line, want) in [
            ("", traced(tracer::Choice::Auto, Verify::Off)),
            ("--verify-snapshot", traced(tracer::Choice::Auto, Verify::Fail)),
            ("--verify-snapshot=warn", traced(tracer::Choice::Auto, Verify::Warn)),
            ("--run-tracer=ptrace", traced(tracer::Choice::Ptrace, Verify::Off)),
            ("--run-tracer=off", Some(Watch::Walk(SnapshotMode::Redo))),
            ("--use-new-run=false", Some(Watch::Walk(SnapshotMode::Full))),
            ("--snapshot-mode=redo", Some(Watch::Walk(SnapshotMode::Redo))),
            ("--snapshotMode=time", Some(Watch::Walk(SnapshotMode::Time))),
            ("--snapshot-mode=redo --use-new-run", traced(tracer::Choice::Auto, Verify::Off)),
            ("--snapshot-mode=x", None),
            ("--snapshot-mode=redo --run-tracer=ptrace", None),
            ("--verify-snapshot=x", None),
            ("--run-tracer=x", None),
        ] {
            assert_eq!(watch(&flags(line)).ok(), want, "{line}");
        }
    }

    #[test]
    fn arguments_come_from_the_environment_when_they_have_no_value() {
        let given = ["A=b=c", "SET", "UNSET"].map(str::to_owned);
        let args = build_args(&given, &around());
        assert_eq!(args["A"], "b=c");
        assert_eq!(args["SET"], "value");
        assert_eq!(args["UNSET"], "");
    }

    #[test]
    fn named_contexts() {
        let text = "Base=oci-layout://l:t".to_owned();
        let found = contexts(&[text], Path::new("/here")).expect("well formed");
        let want = NamedContext::Layout { dir: "/here/l".into(), name: Some("t".to_owned()) };
        assert_eq!(found["base"], want);
        let digest = layout("/l@sha256:ab", Path::new("/"));
        let want = NamedContext::Layout { dir: "/l".into(), name: Some("sha256:ab".to_owned()) };
        assert_eq!(digest, want);
        for text in ["x", "x=/does/not/exist", "x=ftp://y"] {
            assert!(contexts(&[text.to_owned()], Path::new("/")).is_err(), "{text}");
        }
    }

    #[test]
    fn a_destination_is_needed_unless_nothing_is_pushed() {
        for (line, good) in [
            ("", false),
            ("--no-push", true),
            ("--no-push=false", false),
            ("-d r.example/x", true),
            (
                "-d r.example/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                false,
            ),
            ("-d UPPER/x:", false),
        ] {
            assert_eq!(outputs(&flags(line), &around()).is_ok(), good, "{line}");
        }
    }
}
