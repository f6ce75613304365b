//! Where a step runs: in a root of its own, or in the container's.
//!
//! **namespace**: the root is a directory; a step gets new mount and PID
//! namespaces (inside a user namespace where only that makes them possible)
//! and pivots into it. **in-place**: the container's `/` is the root, kaniko's
//! way, for pods in which no namespace can be made.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use thiserror::Error;
use tracer::{Command, IdMap, IdMaps, Namespaces, Setup};

use super::container::{Container, container};
use super::mounts::{MountPlan, c_path, text, under};
use super::shown::show;

/// `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first that works.
    Auto,
    /// A root directory of its own.
    Namespace,
    /// The container's root.
    InPlace,
}

/// A value of `--isolation` that does not exist.
#[derive(Debug, Error)]
#[error("{0:?} is not an isolation: use auto, namespace or in-place")]
pub struct UnknownIsolation(String);

impl FromStr for Choice {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "namespace" => Ok(Self::Namespace),
            "in-place" => Ok(Self::InPlace),
            other => Err(UnknownIsolation(other.to_owned())),
        }
    }
}

/// How steps are kept apart from the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// New mount and PID namespaces; `user` if they needed a user namespace.
    Namespace {
        /// Whether each step gets a user namespace too.
        user: bool,
    },
    /// None: the step runs in the executor's container.
    InPlace,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace { user: false } => "namespace",
            Self::Namespace { user: true } => "namespace (in a user namespace)",
            Self::InPlace => "in-place",
        })
    }
}

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The isolation.
    pub isolation: Isolation,
    /// The reason, for the log.
    pub why: String,
}

/// Why no isolation can be had.
#[derive(Debug, Error)]
pub enum IsolationError {
    /// `--isolation=namespace`, and the kernel or the container refuses.
    #[error("no namespace can be made here: {0}")]
    NoNamespace(String),
    /// In place, on something that is no container.
    #[error("building in place would unpack the base image over this machine's own /: {0}")]
    NoContainer(String),
    /// In place without root.
    #[error("building in place needs root, and this is uid {0}")]
    NotRoot(u32),
}

impl IsolationError {
    /// What can be done about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoNamespace(_) => {
                "in a container use --isolation=in-place (or auto); on a host run as root"
            }
            Self::NoContainer(_) => {
                "use --isolation=namespace; if this is a container that was not recognised, \
                 give both --isolation=in-place and --force"
            }
            Self::NotRoot(_) => "run the container as root, as kaniko has to",
        }
    }
}

/// Finds out, by trying, which isolation works. `scratch` is a directory to try in.
///
/// # Errors
/// What was asked for cannot be had.
pub fn choose(choice: Choice, force: bool, scratch: &Path) -> Result<Chosen, IsolationError> {
    let namespace = || probe(scratch);
    match choice {
        Choice::Namespace => namespace().map_err(IsolationError::NoNamespace),
        Choice::InPlace => in_place(force, "asked for"),
        Choice::Auto => match namespace() {
            Ok(chosen) => Ok(chosen),
            // --force alone is not enough to unpack over a host.
            Err(why) => in_place(false, &format!("no namespace can be made: {why}")),
        },
    }
}

fn in_place(force: bool, why: &str) -> Result<Chosen, IsolationError> {
    let uid = rustix::process::geteuid().as_raw();
    let why = match container() {
        Container::Yes(sign) => format!("{why}; container recognised by {sign}"),
        Container::No if force => format!("{why}; no container recognised, but --force"),
        Container::No => return Err(IsolationError::NoContainer(why.to_owned())),
    };
    if uid != 0 {
        return Err(IsolationError::NotRoot(uid));
    }
    Ok(Chosen { isolation: Isolation::InPlace, why })
}

/// Tries namespaces, then namespaces inside a user namespace, with all mounts of a real step.
fn probe(scratch: &Path) -> Result<Chosen, String> {
    let plain = try_namespace(scratch, false);
    let Err(refused) = plain else {
        return Ok(Chosen {
            isolation: Isolation::Namespace { user: false },
            why: "mount and PID namespaces can be made".to_owned(),
        });
    };
    if rustix::process::geteuid().as_raw() != 0 {
        return Err(format!("{refused}, and without root no user namespace holds all ids"));
    }
    match try_namespace(scratch, true) {
        Ok(()) => Ok(Chosen {
            isolation: Isolation::Namespace { user: true },
            why: format!("{refused}, but a user namespace allows it"),
        }),
        Err(error) => Err(format!("{refused}; in a user namespace: {error}")),
    }
}

/// Starts a program that cannot be there in an empty root, with everything mounted as for a step:
/// its ENOENT is success, since it comes after all of it.
fn try_namespace(scratch: &Path, user: bool) -> Result<(), String> {
    let root = tempfile::Builder::new()
        .prefix("probe-")
        .tempdir_in(scratch)
        .map_err(|error| format!("{}: {error}", scratch.display()))?;
    for dir in ["proc", "dev", "sys"] {
        std::fs::create_dir(root.path().join(dir)).map_err(|error| error.to_string())?;
    }
    let mut command = Command::new(c"/nothing-there".to_owned(), vec![c"probe".to_owned()]);
    enter(&mut command, Isolation::Namespace { user }, root.path(), &MountPlan::default());
    let tracer = tracer::Tracer::probe(tracer::Choice::Off).map_err(|error| error.to_string())?;
    match tracer.run(&command, &tracer::Interrupt::new()) {
        Err(tracer::Error::Exec { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes `command` start inside `root`.
pub(crate) fn enter(command: &mut Command, isolation: Isolation, root: &Path, mounts: &MountPlan) {
    let Isolation::Namespace { user } = isolation else { return };
    command.namespaces = Namespaces {
        mount: true,
        pid: true,
        ipc: true,
        uts: true,
        cgroup: true,
        net: mounts.no_network,
        user: user.then(|| IdMaps { uids: same_ids("uid"), gids: same_ids("gid") }),
    };
    command.capabilities = Some(tracer::CapSet::CONTAINER_DEFAULT);
    let below = |path: &str| c_path(&root.join(path));
    command.prepare(Setup::Hostname(mounts.hostname.clone()));
    mount_root(command, root);
    mount_dev(command, &below);
    for (source, path) in &mounts.scripts {
        mount_script(command, &below, source, path);
    }
    mount_kernel(command, &below, user, mounts.no_network);
    for bind in &mounts.binds {
        command.prepare(Setup::Bind {
            source: c_path(&bind.source),
            target: c_path(&under(root, &bind.target)),
            recursive: false,
            read_only: bind.read_only,
            no_devices: true,
        });
    }
    show(command, root, &mounts.shown, &mounts.hidden);
    if mounts.no_network {
        command.prepare(Setup::LoopbackUp);
    }
    command.prepare(Setup::PivotRoot { new_root: c_path(root) });
}

/// Every id that this process has a number for, as itself (user_namespaces(7)).
fn same_ids(kind: &str) -> Vec<IdMap> {
    let text = std::fs::read_to_string(format!("/proc/self/{kind}_map")).unwrap_or_default();
    let range = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        let inside = fields.next()?.ok()?;
        let count = fields.nth(1)?.ok()?;
        Some(IdMap { inside, outside: inside, count })
    };
    text.lines().filter_map(range).collect()
}

/// Nothing mounted here may show outside, and the root must be a mount point to be pivoted to.
fn mount_root(command: &mut Command, root: &Path) {
    command.prepare(Setup::Mount {
        source: text(""),
        target: text("/"),
        fstype: text(""),
        flags: libc::MS_REC | libc::MS_PRIVATE,
        data: text(""),
    });
    command.prepare(Setup::Bind {
        source: c_path(root),
        target: c_path(root),
        recursive: false,
        read_only: false,
        no_devices: false,
    });
    // Device nodes of an image can be made and packed, but not opened.
    command.prepare(Setup::Mount {
        source: text(""),
        target: c_path(root),
        fstype: text(""),
        flags: libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NODEV,
        data: text(""),
    });
}

/// A `/dev` of its own: the devices every container has, and nothing else.
fn mount_dev(command: &mut Command, below: &impl Fn(&str) -> std::ffi::CString) {
    let tmpfs = |target: &str, data: &str| Setup::Mount {
        source: text("tmpfs"),
        target: below(target),
        fstype: text("tmpfs"),
        flags: libc::MS_NOSUID | libc::MS_STRICTATIME,
        data: text(data),
    };
    command.prepare(tmpfs("dev", "mode=755,size=65536k"));
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        command.prepare(Setup::File { path: below(&format!("dev/{device}")), mode: 0o666 });
        command.prepare(Setup::Bind {
            source: text(&format!("/dev/{device}")),
            target: below(&format!("dev/{device}")),
            recursive: false,
            // It can be written to all the same; its mode and owner, which are the machine's, cannot.
            read_only: true,
            no_devices: false,
        });
    }
    for dir in ["pts", "shm", "mqueue"] {
        command.prepare(Setup::Mkdir { path: below(&format!("dev/{dir}")), mode: 0o755 });
    }
    command.prepare_if_possible(Setup::Mount {
        source: text("devpts"),
        target: below("dev/pts"),
        fstype: text("devpts"),
        flags: libc::MS_NOSUID | libc::MS_NOEXEC,
        data: text("newinstance,ptmxmode=0666,mode=0620"),
    });
    command.prepare(tmpfs("dev/shm", "mode=1777,size=65536k"));
    for (path, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        command
            .prepare(Setup::Symlink { target: text(target), path: below(&format!("dev/{path}")) });
    }
}

/// A file below `/dev`, with the directory it is in.
fn mount_script(
    command: &mut Command,
    below: &impl Fn(&str) -> std::ffi::CString,
    source: &Path,
    path: &str,
) {
    if let Some((dir, _)) = path.rsplit_once('/') {
        command.prepare(Setup::Mkdir { path: below(&format!("dev/{dir}")), mode: 0o755 });
    }
    let target = below(&format!("dev/{path}"));
    command.prepare(Setup::File { path: target.clone(), mode: 0o755 });
    command.prepare(Setup::Bind {
        source: c_path(source),
        target,
        recursive: false,
        read_only: true,
        no_devices: false,
    });
}

/// `/proc` with what a container may not touch hidden or read-only, as container runtimes do, and
/// a read-only `/sys`.
fn mount_kernel(
    command: &mut Command,
    below: &impl Fn(&str) -> std::ffi::CString,
    user: bool,
    no_network: bool,
) {
    let quiet = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    command.prepare(Setup::Mount {
        source: text("proc"),
        target: below("proc"),
        fstype: text("proc"),
        flags: quiet,
        data: text(""),
    });
    for path in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
        command.prepare_if_possible(Setup::Bind {
            source: below(&format!("proc/{path}")),
            target: below(&format!("proc/{path}")),
            recursive: true,
            read_only: true,
            no_devices: false,
        });
    }
    for file in ["kcore", "keys", "latency_stats", "timer_list", "sched_debug", "interrupts"] {
        command.prepare_if_possible(Setup::Bind {
            source: text("/dev/null"),
            target: below(&format!("proc/{file}")),
            recursive: false,
            read_only: true,
            no_devices: false,
        });
    }
    for dir in ["acpi", "asound", "scsi"] {
        command.prepare_if_possible(Setup::Mount {
            source: text("tmpfs"),
            target: below(&format!("proc/{dir}")),
            fstype: text("tmpfs"),
            flags: libc::MS_RDONLY,
            data: text("size=0"),
        });
    }
    // Inside a user namespace sysfs can be mounted only with a network namespace of its own.
    command.prepare_if_possible(if user && !no_network {
        Setup::Bind {
            source: text("/sys"),
            target: below("sys"),
            recursive: true,
            read_only: true,
            no_devices: false,
        }
    } else {
        Setup::Mount {
            source: text("sysfs"),
            target: below("sys"),
            fstype: text("sysfs"),
            flags: quiet | libc::MS_RDONLY,
            data: text(""),
        }
    });
    if !user {
        command.prepare_if_possible(Setup::Mount {
            source: text("tmpfs"),
            target: below("sys/firmware"),
            fstype: text("tmpfs"),
            flags: libc::MS_RDONLY,
            data: text("size=0"),
        });
    }
}
