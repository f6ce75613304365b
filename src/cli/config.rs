//! What was meant: an [`Order`] for the build, made of flags and environment in this one place.

mod buildkit;
mod cache;
mod context;
pub(super) mod credentials;
mod language;
mod layers;
pub(super) mod outputs;
mod own_root;
mod read_set;
pub(super) mod registry;
mod run_mounts;
mod shared_caches;
mod stages;
mod tracer;
mod warmer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::flags::Flags;
use crate::build::{MountSources, NamedContext, NamedContexts, Order};
use crate::context::ContextSource;
use crate::image::Platform;
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Container, container};

pub(super) use cache::{duration, insecure_cache, size};
pub(super) use warmer::warm_order;

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

/// The environment, as far as it is text.
pub(super) fn variables() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Surroundings {
    /// Asks the system.
    ///
    /// # Errors
    /// The current directory is gone.
    pub(super) fn take() -> Result<Self, Failure> {
        Ok(Self {
            env: variables(),
            here: std::env::current_dir().could_not(|| "tell the current directory".to_owned())?,
            executable: std::env::current_exe().ok(),
            now: jiff::Timestamp::now().to_string(),
        })
    }

    /// The time that it was then.
    ///
    /// # Errors
    /// It is no time.
    pub(super) fn time(&self) -> Result<jiff::Timestamp, Failure> {
        self.now.parse().map_err(|error| Failure::new(format!("the time {}: {error}", self.now)))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
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
    let outputs = outputs::outputs(flags, around)?;
    let base_dir = &flags.run_mounts.cache_dir;
    let mut cache = cache::settings(&flags.cache, base_dir, &outputs, around)?;
    let layers = layers::rules(&flags.layers, outputs.flavor)?;
    let platform = match &flags.custom_platform {
        None => Platform::host(),
        Some(text) => text
            .parse()
            .map_err(|error| Failure::new(format!("--custom-platform={text}: {error}")))?,
    };
    let mut registry = registry::registry(&flags.registry, around)?;
    cache::reach(cache.as_ref(), &mut registry);
    let shared = shared_caches::shared(&flags.run_mounts, &flags.cache, &outputs, around)?;
    shared_caches::reach(shared.as_ref(), &mut registry);
    let build_args =
        layers::with_epoch(build_args(&flags.build_arg, around), around.variable(layers::EPOCH));
    let mut source = context::source(&flags.contexts, around)?;
    if source == ContextSource::Stdin && flags.dockerfile == "-" {
        let both = "--context=tar://stdin and --dockerfile=- both want standard input";
        return Err(
            Failure::new(both).hint("put the Dockerfile into the archive, or give its path")
        );
    }
    if let (ContextSource::Git(git), Some(keep)) =
        (&mut source, buildkit::keep_git_dir(&build_args)?)
    {
        git.keep_git_dir(keep);
    }
    let kaniko_dir = kaniko_dir(flags.kaniko_dir.as_deref(), around);
    let (watch, step_tracers) = tracer::watch(&flags.tracer)?;
    read_set::apply(&flags.read_set, watch, layers.single, &mut cache)?;
    Ok(Order {
        access: context::access(&source, &registry, around),
        context: source,
        context_sub_path: flags.contexts.context_sub_path.clone(),
        dockerfile: flags.dockerfile.clone(),
        here: around.here.clone(),
        contexts: contexts(&flags.build_context, &around.here)?,
        hostname: buildkit::hostname(&build_args)?,
        goals: language::goals(&flags.language),
        platform,
        registry,
        outputs,
        watch,
        step_tracers,
        strict: flags.tracer.run_tracer_strict.0,
        isolation: flags
            .isolation
            .parse()
            .map_err(|error| Failure::new(format!("--isolation: {error}")))?,
        parallel_stages: stages::at_once(&flags.stages, around)?,
        force: flags.force.0,
        mounts: MountSources {
            shared,
            ..run_mounts::sources(&flags.run_mounts, around, &build_args, &kaniko_dir)?
        },
        build_args,
        kaniko_dir,
        own_dirs: own_dirs(around),
        own_root: own_root::own_root(&flags.own_root, around)?,
        show_plan: switch(false, "KANIKO_PRINT_PLAN", around)?.then_some(show_plan),
        layers,
        cache,
        created: around.now.clone(),
        work_dir: std::sync::Arc::default(),
    })
}

/// The plan, for a person who wants it beside the build.
fn show_plan(plan: &crate::plan::Outline) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let told = std::io::Write::write_all(&mut out, plan.to_string().as_bytes());
    told.could_not(|| "write to standard output".to_owned())
}

/// A boolean that a variable may set against its flag.
fn switch(flag: bool, name: &str, around: &Surroundings) -> Result<bool, Failure> {
    match around.variable(name) {
        None => Ok(flag),
        Some(text) => text
            .parse::<super::gobool::GoBool>()
            .map(|value| value.0)
            .map_err(|error| Failure::new(format!("{name}={text}: {error}"))),
    }
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
        if matches!(name.to_lowercase().as_str(), "scratch" | "context") {
            return Err(wrong(
                "this name means something else in a Dockerfile: choose another one",
            ));
        }
        let context = match source.split_once("://") {
            Some(("oci-layout", place)) => layout(place, here),
            Some(("docker-image", "scratch")) => NamedContext::Scratch,
            Some(("docker-image", reference)) => NamedContext::Image(
                reference
                    .parse()
                    .map_err(|error: crate::image::ImageError| wrong(&error.to_string()))?,
            ),
            Some(_) | None => context::named(source, here).map_err(|why| wrong(&why))?,
        };
        contexts.insert(name.to_lowercase(), context);
    }
    Ok(contexts)
}

/// `DIR[:TAG]` or `DIR[@DIGEST]`.
fn layout(place: &str, here: &Path) -> NamedContext {
    let (dir, name) = match (place.split_once("@sha256:"), place.rsplit_once(':')) {
        (Some((dir, hex)), _) => (dir, Some(format!("sha256:{hex}"))),
        (None, Some((dir, tag))) if !tag.contains('/') => (dir, Some(tag.to_owned())),
        _ => (place, None),
    };
    NamedContext::Layout { dir: here.join(dir), name }
}

/// `/kaniko` in a container, as ever; elsewhere nothing outside the temporary directory is written.
pub(super) fn kaniko_dir(given: Option<&Path>, around: &Surroundings) -> PathBuf {
    let given = given.or(around.variable("KANIKO_DIR").map(Path::new));
    if let Some(dir) = given {
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
        if shared.iter().any(|shared| dir == Path::new(shared)) {
            dirs.extend(around.executable.clone());
        } else {
            dirs.push(dir.to_owned());
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn around() -> Surroundings {
        Surroundings {
            env: BTreeMap::from([("SET".to_owned(), "value".to_owned())]),
            here: PathBuf::from("/here"),
            executable: None,
            now: "2026-01-01T00:00:00Z".to_owned(),
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
        let at = layout("/x/job@2/base", Path::new("/"));
        assert_eq!(at, NamedContext::Layout { dir: "/x/job@2/base".into(), name: None });
        for text in ["x", "x=/does/not/exist", "x=ftp://y"] {
            assert!(contexts(&[text.to_owned()], Path::new("/")).is_err(), "{text}");
        }
    }
}
