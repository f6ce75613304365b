//! What is to be run, and in what surroundings.
//!
//! Plain data: everything is prepared before the fork, because the child may
//! only make system calls that are safe after one. Nothing here is checked;
//! the kernel's answer comes back as an [`Error`](crate::Error).

use std::ffi::CString;
use std::os::fd::OwnedFd;

/// One command and the surroundings it starts in.
///
/// Standard input is always `/dev/null`. The command starts in a session of
/// its own (no controlling terminal), with umask 022, default signal handlers
/// and no core dumps.
#[derive(Debug)]
pub struct Command {
    /// Files to try in order; one that does not exist or may not be executed
    /// gives way to the next. Looked up after root, user and `cwd` are set.
    pub programs: Vec<CString>,
    /// The arguments, the zeroth included.
    pub argv: Vec<CString>,
    /// The whole environment, as `NAME=value`.
    pub envp: Vec<CString>,
    /// The working directory, inside the new root. Entered before the user
    /// changes, or after it where that is refused.
    pub cwd: CString,
    /// The user to become; `None` stays as the caller is.
    pub credentials: Option<Credentials>,
    /// The most that the command, and whatever it starts, may ever hold;
    /// `None` changes nothing.
    pub capabilities: Option<CapSet>,
    /// The namespaces to create.
    pub namespaces: Namespaces,
    /// System calls made by the child, in order, before it takes its
    /// credentials.
    pub setup: Vec<Preparation>,
    /// Where the command writes; `None` is `/dev/null`. A reader at the other
    /// end sees the end only after this `Command` is dropped too.
    pub stdout: Option<OwnedFd>,
    /// As `stdout`.
    pub stderr: Option<OwnedFd>,
    /// Events, or names where marks on directories tell them, after which none are kept and the answer is
    /// [`Anything`](crate::Touched::Anything): the point from which looking at
    /// the whole tree is cheaper. `None` never gives up.
    pub event_budget: Option<u64>,
    /// Whether files that were opened are looked up again by their descriptor:
    /// another thread may exchange a name between the stop and the kernel's look
    /// at it. Costs a second stop for each such open. ptrace only.
    pub strict: bool,
    /// Whether what the command reads is recorded too: see
    /// [`Reads`](crate::Reads). Costs a stop for each look at a name. ptrace
    /// only.
    pub reads: bool,
}

impl Command {
    /// A command that runs `program` with `argv` in `/`, as the caller, with
    /// an empty environment.
    #[must_use]
    pub fn new(program: CString, argv: Vec<CString>) -> Command {
        Command {
            programs: vec![program],
            argv,
            envp: Vec::new(),
            cwd: CString::from(c"/"),
            credentials: None,
            capabilities: None,
            namespaces: Namespaces::default(),
            setup: Vec::new(),
            stdout: None,
            stderr: None,
            event_budget: None,
            strict: false,
            reads: false,
        }
    }

    /// Appends a setup step that has to succeed.
    pub fn prepare(&mut self, setup: Setup) -> &mut Command {
        self.setup.push(Preparation { setup, optional: false });
        self
    }

    /// Appends a setup step whose failure changes nothing.
    pub fn prepare_if_possible(&mut self, setup: Setup) -> &mut Command {
        self.setup.push(Preparation { setup, optional: true });
        self
    }
}

/// The ids a command runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A set of capabilities; bit *n* is capability number *n* of
/// `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// The fourteen that container runtimes grant by default.
    pub const CONTAINER_DEFAULT: CapSet = CapSet::of(&[
        0,  // CAP_CHOWN
        1,  // CAP_DAC_OVERRIDE
        3,  // CAP_FOWNER
        4,  // CAP_FSETID
        5,  // CAP_KILL
        6,  // CAP_SETGID
        7,  // CAP_SETUID
        8,  // CAP_SETPCAP
        10, // CAP_NET_BIND_SERVICE
        13, // CAP_NET_RAW
        18, // CAP_SYS_CHROOT
        27, // CAP_MKNOD
        29, // CAP_AUDIT_WRITE
        31, // CAP_SETFCAP
    ]);

    /// The set of these capability numbers.
    #[must_use]
    pub const fn of(numbers: &[u32]) -> CapSet {
        let (mut bits, mut i) = (0, 0);
        while i < numbers.len() {
            bits |= 1 << numbers[i];
            i += 1;
        }
        CapSet(bits)
    }

    /// Whether capability `number` is in the set.
    #[must_use]
    pub const fn contains(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

/// The namespaces a command gets for itself.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// Its own mounts.
    pub mount: bool,
    /// Its own process ids: the command is PID 1, and the kernel ends
    /// everything else when it ends.
    pub pid: bool,
    /// Its own users, mapped so.
    pub user: Option<IdMaps>,
    /// Its own System V IPC and message queues.
    pub ipc: bool,
    /// Its own host name.
    pub uts: bool,
    /// Its own network, with nothing in it but a loopback that is down
    /// (see [`Setup::LoopbackUp`]).
    pub net: bool,
    /// Its own view of the control groups.
    pub cgroup: bool,
}

/// How ids inside a user namespace map to ids outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids. Where the caller is not root, `setgroups` is denied inside,
    /// as user_namespaces(7) demands.
    pub gids: Vec<IdMap>,
}

/// One line of a `uid_map` or `gid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A [`Setup`] and whether the command may start without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// What to do.
    pub setup: Setup,
    /// Whether a failure is passed over.
    pub optional: bool,
}

/// One system call that prepares the surroundings of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setup {
    /// mount(2), with `MS_*` flags. Propagation changes are mounts with an
    /// empty source and file system type.
    Mount {
        /// What is mounted.
        source: CString,
        /// Where.
        target: CString,
        /// The file system type, or empty.
        fstype: CString,
        /// `MS_*`.
        flags: u64,
        /// Options of the file system, or empty.
        data: CString,
    },
    /// A bind mount of `source`, with everything below it where `recursive`.
    Bind {
        /// What is shown again.
        source: CString,
        /// Where.
        target: CString,
        /// Whether mounts below `source` come along.
        recursive: bool,
        /// Whether it cannot be written through. The flags that the source's
        /// mount has stay, as a user namespace demands.
        read_only: bool,
        /// Whether device nodes in it cannot be opened.
        no_devices: bool,
    },
    /// Makes `new_root`, which must be a mount point, the root of the mount
    /// namespace and detaches the old one.
    PivotRoot {
        /// The directory that becomes `/`.
        new_root: CString,
    },
    /// chroot(2), then `/` becomes the working directory.
    Chroot {
        /// The directory that becomes `/`.
        root: CString,
    },
    /// umount2(2), with `MNT_*` flags.
    Unmount {
        /// The mount point.
        target: CString,
        /// `MNT_*`.
        flags: i32,
    },
    /// A symbolic link at `path`; one that exists may stay.
    Symlink {
        /// What it says.
        target: CString,
        /// Where it is.
        path: CString,
    },
    /// A directory; one that exists may stay.
    Mkdir {
        /// Where it is.
        path: CString,
        /// Its permission bits, not subject to a umask.
        mode: u32,
    },
    /// An empty regular file, to mount over; one that exists stays as it is.
    File {
        /// Where it is.
        path: CString,
        /// Its permission bits, not subject to a umask.
        mode: u32,
    },
    /// A regular file with this content, which must not exist yet.
    Content {
        /// Where it is.
        path: CString,
        /// Its permission bits, not subject to a umask.
        mode: u32,
        /// Its user and group.
        owner: (u32, u32),
        /// What is in it.
        content: Hidden,
    },
    /// sethostname(2).
    Hostname(CString),
    /// Sets the loopback interface up, which a new network namespace has down.
    LoopbackUp,
}

/// Bytes that are not to be seen: they print as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub std::sync::Arc<[u8]>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
