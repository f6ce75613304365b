//! RUN: one command in the root file system, watched.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use snapshot::{ImagePath, Suspects};
use thiserror::Error;
use tracer::{
    Command, Credentials, Hidden, Interrupt, Marks, Outcome, Touched, TouchedSet, Tracer,
};

use super::mounts::{MountError, Mounts, Placed, Shows};
use super::network::is_unreachable;
use super::output::{Stream, pass_on};
use crate::dockerfile::SCRIPT_DIR;
use crate::image::DEFAULT_PATH;
use crate::plan::RunStep;
use crate::report::label;
use crate::rootfs::{BindMount, Identity, Isolation, MountPlan, MountPoints, Point, Rootfs, enter};

/// Why a command could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// It was run, or watched, in vain.
    #[error(transparent)]
    Tracer(#[from] tracer::Error),
    /// A text of the step cannot be given to a program.
    #[error("the command, its environment or its directory holds a NUL byte")]
    Nul,
    /// The exec form without a word.
    #[error("there is nothing to run: the command is empty")]
    Empty,
    /// A secret that is wanted in a variable.
    #[error(
        "the secret for the variable {0} holds a NUL byte: give it a `target` instead of `env`"
    )]
    NulInSecret(String),
    /// There is a network and no way to keep the step from it.
    #[error(
        "RUN --network=none cannot be kept in place: without namespaces the step has the network \
         of this container"
    )]
    Network,
    /// What the step is to see cannot be shown.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The surroundings of the step cannot be set up.
    #[error("could not prepare {what}: {source}")]
    Prepare {
        /// What was being set up.
        what: String,
        /// What the call answered.
        source: io::Error,
    },
}

/// What every RUN of a build shares.
#[derive(Debug)]
pub struct Runner<'a> {
    /// Who watches.
    pub tracer: &'a Tracer,
    /// Where steps run.
    pub isolation: Isolation,
    /// Ends the step from another thread.
    pub interrupt: &'a Interrupt,
    /// A directory with `resolv.conf` and `hosts` for steps, and room for scripts.
    pub scratch: &'a Path,
    /// Events after which a walk is cheaper.
    pub event_budget: u64,
    /// Whether ptrace looks at opened files twice.
    pub strict: bool,
    /// Whether what the step reads is recorded.
    pub reads: bool,
    /// What a step sees as the name of its machine, in a namespace.
    pub hostname: &'a str,
}

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    /// How it ended, and what watching it took.
    pub outcome: Outcome,
    /// Where it may have changed something.
    pub suspects: Suspects,
    /// Paths that its mounts were put over, and that are what they were.
    pub restored: Vec<ImagePath>,
    /// Whether files of the tree may have names in places that are no part of the image and that later steps
    /// see too: what they change by such a name, nobody is told.
    pub has_names_outside: bool,
}

/// Runs a step to its end: when this returns, none of its processes is left, and nothing of its
/// mounts is in the tree.
///
/// # Errors
/// The command could not be started or watched. A command that fails is no error.
pub fn run(
    runner: &Runner<'_>,
    rootfs: &Rootfs,
    marks: &mut Marks,
    step: &RunStep,
    who: &Identity,
    mounts: Mounts<'_>,
) -> Result<Ran, RunError> {
    let Mounts { mounted, env } = mounts;
    let mut points = MountPoints::default();
    let script = step.script.as_ref().map(|script| Script::write(runner, script)).transpose()?;
    let (scratch, interrupt) = (runner.scratch, runner.interrupt);
    let (ran, restored, found) = match runner.isolation {
        Isolation::Namespace { .. } => {
            let shows = Shows::prepare(mounted, rootfs, &mut points, scratch, interrupt);
            let ran = shows.map_err(RunError::from).and_then(|mut shows| {
                let script = script.as_ref();
                let command = prepare(runner, rootfs, step, who, &env, |plan, runner, rootfs| {
                    shows.add_to(plan);
                    own_mounts(runner, rootfs, script, &mut points, plan)
                });
                command.and_then(|mut command| execute(runner, marks, &mut command, who.uid))
            });
            let found = ran.as_ref().map(|outcome| suspects(&outcome.touched, rootfs, None)).ok();
            (ran, Ok(Vec::new()), found)
        }
        Isolation::InPlace => {
            let placed = Placed::place(mounted, rootfs, scratch, interrupt)?;
            let command = prepare(runner, rootfs, step, who, &env, |_, _, _| Ok(()));
            let ran = command.and_then(|mut command| execute(runner, marks, &mut command, who.uid));
            // Before the names that the mounts hold are gone.
            let found = ran.as_ref().map(|it| suspects(&it.touched, rootfs, Some(&placed))).ok();
            (ran, placed.take_out(), found)
        }
    };
    drop(script);
    let removed = points.remove(rootfs.tree());
    let restored = restored?;
    let outcome = ran?;
    removed.map_err(|source| RunError::Prepare { what: "mount points again".into(), source })?;
    let (suspects, has_names_outside) = found.unwrap_or((Suspects::Everything, false));
    Ok(Ran { outcome, suspects, restored, has_names_outside })
}

fn execute(
    runner: &Runner<'_>,
    marks: &mut Marks,
    command: &mut Command,
    uid: u32,
) -> Result<Outcome, RunError> {
    let pick = runner.tracer.pick(command);
    if pick.name() != runner.tracer.name() {
        tracing::info!("This step: {pick}");
    }
    let pipes = |source| RunError::Prepare { what: "pipes".to_owned(), source };
    let (stdout, out) = pass_on(Stream::Out, label()).map_err(pipes)?;
    let (stderr, err) = pass_on(Stream::Err, label()).map_err(pipes)?;
    // So that /dev/stdout can be opened by the user of the step, as in Docker.
    for pipe in [&stdout, &stderr] {
        rustix::fs::fchown(pipe, Some(rustix::fs::Uid::from_raw(uid)), None)
            .map_err(|errno| pipes(errno.into()))?;
    }
    (command.stdout, command.stderr) = (Some(stdout), Some(stderr));
    let outcome = runner.tracer.run_in(marks, command, runner.interrupt);
    // The readers see the end only when the last writer is gone.
    (command.stdout, command.stderr) = (None, None);
    for thread in [out, err] {
        if thread.join().is_err() {
            tracing::debug!("a thread that passes output on has panicked");
        }
    }
    Ok(outcome?)
}

/// Everything but the mounts, which `mount` adds.
fn prepare(
    runner: &Runner<'_>,
    rootfs: &Rootfs,
    step: &RunStep,
    who: &Identity,
    secrets: &[(String, Hidden)],
    mount: impl FnOnce(&mut MountPlan, &Runner<'_>, &Rootfs) -> Result<(), RunError>,
) -> Result<Command, RunError> {
    let environment = environment(step, who);
    let argv: Vec<CString> =
        step.argv.iter().map(|word| nul_free(word)).collect::<Result<_, _>>()?;
    let name = step.argv.first().filter(|name| !name.is_empty()).ok_or(RunError::Empty)?;
    let mut command = Command::new(nul_free(name)?, argv);
    command.programs = programs(name, &environment)?;
    command.envp = variables(&environment, secrets)?;
    command.cwd = nul_free(&step.dir)?;
    command.credentials =
        Some(Credentials { uid: who.uid, gid: who.gid, groups: who.groups.clone() });
    command.event_budget = Some(runner.event_budget);
    command.strict = runner.strict;
    command.reads = runner.reads;
    let mut mounts = MountPlan {
        no_network: step.network_none,
        hostname: nul_free(runner.hostname)?,
        ..MountPlan::default()
    };
    mount(&mut mounts, runner, rootfs)?;
    if runner.isolation == Isolation::InPlace && step.network_none && !is_unreachable() {
        return Err(RunError::Network);
    }
    enter(&mut command, runner.isolation, rootfs.tree().path(), &mounts);
    Ok(command)
}

/// The environment; a secret wins over a variable of its name.
fn variables(
    environment: &[(String, String)],
    secrets: &[(String, Hidden)],
) -> Result<Vec<CString>, RunError> {
    let is_secret = |name: &String| secrets.iter().any(|(secret, _)| secret == name);
    let plain = environment.iter().filter(|(name, _)| !is_secret(name));
    let plain = plain.map(|(name, value)| nul_free(&format!("{name}={value}")));
    let secret = secrets.iter().map(|(name, value)| {
        CString::new([name.as_bytes(), b"=", &value.0].concat())
            .map_err(|_| RunError::NulInSecret(name.clone()))
    });
    plain.chain(secret).collect()
}

/// `HOME` is that of the user unless the image says otherwise.
fn environment(step: &RunStep, who: &Identity) -> Vec<(String, String)> {
    let mut environment = step.env.clone();
    let mut default = |name: &str, value: &str| {
        if !environment.iter().any(|(known, _)| known == name) {
            environment.push((name.to_owned(), value.to_owned()));
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOME", &who.home);
    environment
}

/// Where a program may be: as given if it has a slash, else in each directory of `PATH`.
fn programs(name: &str, environment: &[(String, String)]) -> Result<Vec<CString>, RunError> {
    if name.contains('/') {
        return Ok(vec![nul_free(name)?]);
    }
    let path = environment.iter().find(|(known, _)| known == "PATH").map(|(_, path)| path.as_str());
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|dir| if dir.is_empty() { "." } else { dir })
        .map(|dir| nul_free(&format!("{}/{name}", dir.trim_end_matches('/'))))
        .collect()
}

/// In a namespace: name service files, kernel file systems, the script of a here-document.
fn own_mounts(
    runner: &Runner<'_>,
    rootfs: &Rootfs,
    script: Option<&Script>,
    points: &mut MountPoints,
    plan: &mut MountPlan,
) -> Result<(), RunError> {
    let mut ensure = |path: &str, point| {
        let failed = |source| RunError::Prepare { what: format!("the mount point {path}"), source };
        let wanted = ImagePath::parse(path.as_bytes()).map_err(|error| {
            failed(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
        })?;
        points.ensure(rootfs.tree(), rootfs.index(), &wanted, point).map_err(failed)
    };
    for dir in ["/proc", "/dev", "/sys"] {
        ensure(dir, Point::Dir)?;
    }
    for (path, file) in [("/etc/resolv.conf", "resolv.conf"), ("/etc/hosts", "hosts")] {
        plan.binds.push(BindMount {
            source: runner.scratch.join(file),
            target: ensure(path, Point::File)?,
            read_only: false,
        });
    }
    plan.scripts.extend(script.map(|script| (script.path.clone(), script.below_dev.clone())));
    Ok(())
}

/// The script of a here-document that begins with `#!`: a file while the step runs, no part of the
/// image.
struct Script {
    path: PathBuf,
    below_dev: String,
}

impl Script {
    /// In a namespace it lies in the working directory and is mounted; in place it has to lie in the
    /// container's own `/dev`, which is a mount and so no part of the image either.
    fn write(runner: &Runner<'_>, (name, body): &(String, String)) -> Result<Self, RunError> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let failed = |source| RunError::Prepare { what: format!("the script {name}"), source };
        if name.contains('/') {
            return Err(failed(io::Error::other("its name holds a slash")));
        }
        let dir = match runner.isolation {
            Isolation::Namespace { .. } => runner.scratch.join("scripts"),
            Isolation::InPlace => PathBuf::from(SCRIPT_DIR),
        };
        match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed)?,
        }
        let path = dir.join(name);
        // Created anew: what an earlier step may have left there is not written through.
        let mut new = std::fs::OpenOptions::new();
        let mut file = new.write(true).create_new(true).mode(0o755).open(&path).map_err(failed)?;
        let below_dev = format!("{}/{name}", SCRIPT_DIR.trim_start_matches("/dev/"));
        let script = Self { path, below_dev };
        io::Write::write_all(&mut file, body.as_bytes()).map_err(failed)?;
        Ok(script)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let removed = std::fs::remove_file(&self.path);
        if let (Err(error), true) = (removed, self.path.exists()) {
            tracing::warn!("{} could not be removed: {error}", self.path.display());
        }
        if let Some(dir) = self.path.parent() {
            // Stays where the step left something of its own in it.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

fn nul_free(text: &str) -> Result<CString, RunError> {
    CString::new(text).map_err(|_| RunError::Nul)
}

/// What the tracer names, as paths of the image; and whether there are names outside of it, as in [`Ran`].
///
/// A file of the image may have a further name where nobody looks: in an excluded directory, or, in place, in what
/// is put there for a mount. Who is told of that name only has to look everywhere.
fn suspects(touched: &Touched, rootfs: &Rootfs, placed: Option<&Placed<'_>>) -> (Suspects, bool) {
    let top = rootfs.tree().path();
    let full = |path: &ImagePath| top.join(std::ffi::OsStr::from_bytes(path.relative()));
    let Touched::Only(TouchedSet { paths, trees }) = touched else {
        let mut caches = placed.iter().flat_map(|placed| placed.kept());
        return (Suspects::Everything, caches.any(|cache| is_any_linked_below(&full(cache))));
    };
    let parse = |names: &BTreeSet<Vec<u8>>| -> Option<Vec<ImagePath>> {
        names.iter().map(|name| ImagePath::parse(name).ok()).collect()
    };
    // A name that no image can hold: the walk will say which.
    let (Some(paths), Some(trees)) = (parse(paths), parse(trees)) else {
        return (Suspects::Everything, false);
    };
    let has_cache = placed.is_some_and(|placed| placed.kept().next().is_some());
    let (mut is_everything, mut has_names_outside) = (false, false);
    let told = paths.iter().map(|path| (path, false)).chain(trees.iter().map(|tree| (tree, true)));
    for (path, is_tree) in told {
        // What waits aside comes back to where the tracer does not say.
        is_everything |= placed.is_some_and(|placed| placed.holds_aside(path));
        let is_excluded = rootfs.exclusions().excludes(path);
        let is_mounted = placed.is_some_and(|placed| placed.covers(path));
        let is_linked = || match is_tree {
            true => is_any_linked_below(&full(path)),
            false => is_linked(&full(path)),
        };
        if (is_excluded || is_mounted || has_cache) && is_linked() {
            is_everything |= is_excluded || is_mounted;
            has_names_outside |= is_excluded || has_cache;
        }
    }
    let suspects = match is_everything {
        true => Suspects::Everything,
        false => Suspects::Only { paths, trees },
    };
    (suspects, has_names_outside)
}

/// Whether this is one of several names of its file.
fn is_linked(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    path.symlink_metadata().is_ok_and(|found| !found.is_dir() && found.nlink() > 1)
}

/// Whether this, or anything below it, is. What cannot be looked at, may be.
fn is_any_linked_below(top: &Path) -> bool {
    if !top.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return is_linked(top);
    }
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else { return true };
        for entry in entries {
            let kind = entry.as_ref().map(std::fs::DirEntry::file_type);
            match (entry.as_ref(), kind) {
                (Ok(entry), Ok(Ok(kind))) if kind.is_dir() => pending.push(entry.path()),
                (Ok(entry), Ok(Ok(_))) if !is_linked(&entry.path()) => {}
                _ => return true,
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(env: &[(&str, &str)]) -> RunStep {
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        RunStep {
            argv: vec!["ls".to_owned()],
            env,
            user: String::new(),
            dir: "/".to_owned(),
            network_none: false,
            mounts: Vec::new(),
            script: None,
        }
    }

    #[test]
    fn home_and_path_are_defaults_only() {
        let who = Identity { home: "/home/app".to_owned(), ..Identity::root() };
        let value = |env: &[(&str, &str)], name: &str| {
            let environment = environment(&step(env), &who);
            environment.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
        };
        assert_eq!(value(&[], "HOME").as_deref(), Some("/home/app"));
        assert_eq!(value(&[("HOME", "/x")], "HOME").as_deref(), Some("/x"));
        assert_eq!(value(&[], "PATH").as_deref(), Some(DEFAULT_PATH));
    }

    #[test]
    fn programs_are_searched_in_the_images_path() {
        let environment = [("PATH".to_owned(), "/a::/b/".to_owned())];
        let found = |name: &str| {
            let found = programs(name, &environment).expect("no NUL");
            found.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found("x"), ["/a/x", "./x", "/b/x"]);
        assert_eq!(found("./x"), ["./x"]);
        assert_eq!(found("/x/y"), ["/x/y"]);
    }
}
