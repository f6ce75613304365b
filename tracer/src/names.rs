//! From the name a process gives to a call to the path that the kernel will
//! find, as the outermost root of the command sees it.
//!
//! A path here is what the kernel prints for a file of the command's mount
//! namespace (`view` path): absolute, without links. Where the command lives
//! in a chroot only, it carries the chroot's prefix, which is taken off when
//! the path is recorded.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::AtFlags;

use crate::arriving::Arriving;
use crate::directories::Directories;
use crate::error::{Errno, Error};
use crate::sys;
use crate::tracee::{Identity, Refusal, Tracee, read_link};

mod programs;

pub(crate) use programs::Program;

/// The longest name of a directory entry.
const MAX_NAME: usize = 255;

/// As many links as the kernel follows in one name.
const MAX_LINKS: u32 = 40;

/// What ends a resolution without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Refused(Refusal),
    /// A file that lost this name, but has others.
    LostName(Vec<u8>),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Refused(refusal)
    }
}

/// Where a name starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// `AT_FDCWD` or a descriptor.
    pub(crate) at: i32,
    /// Whether the start is a root for this name (`RESOLVE_IN_ROOT`).
    pub(crate) is_root: bool,
}

impl Origin {
    pub(crate) const CWD: Origin = Origin { at: libc::AT_FDCWD, is_root: false };
}

/// The tree as the command sees it.
pub(crate) struct View {
    /// The directory that view paths start from.
    top: OwnedFd,
    /// Keeps its mounts together when every process has gone to a namespace
    /// of its own.
    _mounts: OwnedFd,
    /// The command's outermost root, as a view path; empty for `/`.
    root: Vec<u8>,
    /// Whether some process may have another root by now.
    chrooted: bool,
    /// How many PID namespaces the command's /proc is below ours.
    proc_level: usize,
    /// The device of our own /proc.
    our_proc: Option<u64>,
    /// Directories that were looked at for being in a /proc. No mount comes
    /// or goes while a view is in use.
    proc_levels: BTreeMap<Vec<u8>, Option<usize>>,
    directories: Directories,
    pub(crate) arriving: Arriving,
    pub(crate) from_cache: u64,
    /// What names led through so far, but for directories above it; where
    /// somebody wants to know.
    pub(crate) trail: Option<HashSet<Vec<u8>>>,
}

impl View {
    /// The view of the main process once its surroundings are set up.
    pub(crate) fn of(main: i32, in_pid_namespace: bool) -> Result<View, Error> {
        let root = Tracee::new(main).root().map_err(|_| Error::Call {
            call: format!("readlink(\"/proc/{main}/root\")"),
            errno: Errno(libc::EACCES),
        })?;
        // Through the process, since its mounts may be its own; then up from
        // its root, as paths are printed from the top.
        let depth = root.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
        let path = format!("/proc/{main}/root{}", "/..".repeat(depth));
        let open = |path: &str, flags| {
            let name = CString::new(path).expect("a number and a name without zeros");
            Tracee::new(main).as_owner(|| sys::open(&name, flags)).map_err(|_| Error::Call {
                call: format!("open({path:?})"),
                errno: Errno(libc::EACCES),
            })
        };
        let top = open(&path, libc::O_PATH | libc::O_DIRECTORY)?;
        let mounts = open(&format!("/proc/{main}/ns/mnt"), libc::O_RDONLY)?;
        let our_proc = Identity::of(rustix::fs::CWD, c"/proc", AtFlags::empty());
        Ok(View {
            top,
            _mounts: mounts,
            root: if root == b"/" { Vec::new() } else { root },
            chrooted: false,
            proc_level: usize::from(in_pid_namespace),
            our_proc: our_proc.ok().map(|proc| proc.device),
            proc_levels: BTreeMap::new(),
            directories: Directories::default(),
            arriving: Arriving::default(),
            from_cache: 0,
            trail: None,
        })
    }

    /// From now on a process may have a root of its own.
    pub(crate) fn expect_other_roots(&mut self) {
        self.chrooted = true;
    }

    /// The path as the command's outermost root sees it; `None` outside of it.
    pub(crate) fn inside<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        if self.root.is_empty() {
            return Some(path);
        }
        match path.strip_prefix(self.root.as_slice())? {
            b"" => Some(b"/"),
            rest => rest.starts_with(b"/").then_some(rest),
        }
    }

    /// What is at `path` now.
    pub(crate) fn look(&self, path: &[u8]) -> Option<Identity> {
        self.identity(path, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// What was known about `path` and below does not hold any more.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        self.directories.forget(path);
    }

    /// All paths that `name` stands for: itself, and where `follow` the file
    /// that a link at its end leads to.
    pub(crate) fn resolve(
        &mut self,
        tracee: Tracee<'_>,
        origin: Origin,
        name: &[u8],
        follow: bool,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let mut root = self.root_of(tracee)?;
        let start = if name.starts_with(b"/") && !origin.is_root {
            root.clone()
        } else {
            match self.origin(tracee, origin.at)? {
                Some(path) => path,
                None => return Ok(Vec::new()),
            }
        };
        // Either end means the directory that a link leads to.
        let follow = follow || name.ends_with(b"/") || name.ends_with(b"/.");
        if let Some(path) = self.shortcut(tracee, &start, name, follow) {
            self.arriving.uses(&path, follow, tracee.tid());
            return Ok(vec![path]);
        }
        if origin.is_root {
            root.clone_from(&start);
        }
        let mut walk =
            Walk { tracee, root, at: start, follow, rest: Vec::new(), links: 0, found: Vec::new() };
        walk.push(name);
        self.walk(&mut walk)?;
        for path in &walk.found {
            self.arriving.uses(path, follow, tracee.tid());
        }
        Ok(walk.found)
    }

    /// The path of a descriptor's file; `None` if it has none, or none any
    /// more.
    pub(crate) fn descriptor(
        &self,
        tracee: Tracee<'_>,
        fd: i32,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let path = tracee.descriptor(fd)?;
        self.named(path, || tracee.identity(fd))
    }

    /// Sorts out what the kernel prints for a file: a path, something that is
    /// in no tree, or the name that a file once had.
    fn named(
        &self,
        text: Vec<u8>,
        identity: impl Fn() -> Result<Identity, Refusal>,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        if !text.starts_with(b"/") {
            return Ok(None); // pipe:[1], socket:[2], anon_inode:[eventfd]
        }
        if !text.ends_with(b" (deleted)") {
            return Ok(Some(trimmed(text)));
        }
        let file = identity()?;
        let same_name = self.identity(&text, AtFlags::SYMLINK_NOFOLLOW);
        if same_name.is_ok_and(|other| other.is(&file)) {
            return Ok(Some(text)); // a file that is really called so
        }
        if file.names == 0 || file.is_directory {
            return Ok(None);
        }
        Err(Trouble::LostName(text))
    }

    /// The root of a process, as a view path.
    fn root_of(&self, tracee: Tracee<'_>) -> Result<Vec<u8>, Trouble> {
        if self.chrooted { Ok(trimmed(tracee.root()?)) } else { Ok(self.root.clone()) }
    }

    /// Where a name that is not absolute starts. A removed directory keeps the
    /// mark the kernel prints: nothing can be made in it, but `..` leads out.
    fn origin(&self, tracee: Tracee<'_>, at: i32) -> Result<Option<Vec<u8>>, Trouble> {
        let path = if at == libc::AT_FDCWD { tracee.cwd()? } else { tracee.descriptor(at)? };
        Ok(path.starts_with(b"/").then(|| trimmed(path)))
    }

    /// The path of a name whose directories are all known and that is no link
    /// itself, or is not followed: what nearly every name is.
    fn shortcut(
        &mut self,
        tracee: Tracee<'_>,
        start: &[u8],
        name: &[u8],
        follow: bool,
    ) -> Option<Vec<u8>> {
        let slash = name.iter().rposition(|byte| *byte == b'/');
        let (dir, last) = slash.map_or((&[][..], name), |at| (&name[..at], &name[at + 1..]));
        if matches!(last, b"" | b"." | b".." | b"self" | b"thread-self") {
            return None;
        }
        let mut path = Vec::with_capacity(start.len() + name.len() + 2);
        path.extend_from_slice(start);
        for component in dir.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return None,
                _ => append(&mut path, component),
            }
        }
        if path.len() > start.len() {
            if !self.directories.contains(&path) {
                return None;
            }
            self.from_cache += 1;
        }
        append(&mut path, last);
        if follow {
            self.arriving.look(&path, tracee.tid());
        }
        (!follow || is_no_link(&self.read_link(tracee, &path))).then_some(path)
    }

    fn walk(&mut self, walk: &mut Walk<'_>) -> Result<(), Trouble> {
        if walk.rest.is_empty() {
            walk.found.push(walk.at.clone());
        }
        while let Some(component) = walk.rest.pop() {
            let is_last = walk.rest.is_empty();
            if component == b".." {
                self.arriving.uses(&walk.at, true, walk.tracee.tid());
                self.pass(&walk.at);
                walk.up();
                if is_last {
                    walk.found.push(walk.at.clone());
                }
                continue;
            }
            let candidate = join(&walk.at, &component);
            if is_last && !walk.follow {
                walk.found.push(candidate);
            } else if !is_last && self.directories.contains(&candidate) {
                self.from_cache += 1;
                walk.at = candidate;
            } else if self.enter(walk, candidate, &component, is_last)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// A name led here.
    fn pass(&mut self, path: &[u8]) {
        if let Some(trail) = &mut self.trail
            && !trail.contains(path)
        {
            trail.insert(path.to_vec());
        }
    }

    /// Looks at one component, and follows it if it is a link.
    fn enter(
        &mut self,
        walk: &mut Walk<'_>,
        candidate: Vec<u8>,
        component: &[u8],
        is_last: bool,
    ) -> Result<std::ops::ControlFlow<()>, Trouble> {
        use std::ops::ControlFlow::{Break, Continue};
        self.arriving.look(&candidate, walk.tracee.tid());
        self.pass(&candidate);
        if is_last {
            walk.found.push(candidate.clone());
        }
        if component.len() > MAX_NAME {
            return Ok(Break(())); // ENAMETOOLONG
        }
        if component == b"self" || component == b"thread-self" {
            // Asked by us, the kernel would speak of us.
            if let Some(level) = self.proc_level_of(&walk.at) {
                walk.go(&own_directory(walk.tracee, level, component)?);
                return Ok(Continue(()));
            }
        }
        match self.read_link(walk.tracee, &candidate) {
            Ok(text) => return self.follow(walk, &candidate, text, is_last),
            // No link; whether a directory or not, it is what it is called.
            Err(Refusal::Other(Errno(libc::EINVAL))) if !is_last => {
                self.directories.add(&candidate);
                walk.at = candidate;
            }
            Err(Refusal::Other(Errno(libc::EINVAL))) => {}
            // The kernel will not find it either; should it come to be in the
            // meantime, it will be this.
            Err(Refusal::Bad | Refusal::Other(Errno(libc::ENOTDIR))) => {
                if !is_last {
                    let path = walk.lexically(candidate);
                    walk.found.push(path);
                }
                return Ok(Break(()));
            }
            Err(refusal) => return Err(refusal.into()),
        }
        Ok(Continue(()))
    }

    /// Goes where a link leads. In /proc that need not be what it says: the
    /// link is to the file itself, and its text what the kernel prints for it.
    fn follow(
        &mut self,
        walk: &mut Walk<'_>,
        link: &[u8],
        text: Vec<u8>,
        is_last: bool,
    ) -> Result<std::ops::ControlFlow<()>, Trouble> {
        use std::ops::ControlFlow::{Break, Continue};
        self.arriving.uses(link, true, walk.tracee.tid());
        walk.links += 1;
        if walk.links > MAX_LINKS {
            return Ok(Break(()));
        }
        let is_magic = text.starts_with(b"/") || text.contains(&b'[');
        if is_magic && self.proc_level_of(&walk.at).is_some() {
            return Ok(match self.named(text, || self.behind(walk.tracee, link))? {
                Some(target) => {
                    if is_last {
                        walk.found.push(target.clone());
                    }
                    walk.at = target;
                    Continue(())
                }
                None => Break(()),
            });
        }
        walk.go(&text);
        Ok(Continue(()))
    }

    /// The level of the PID namespace that a /proc belongs to, if `dir` is in
    /// one.
    fn proc_level_of(&mut self, dir: &[u8]) -> Option<usize> {
        if let Some(level) = self.proc_levels.get(dir) {
            return *level;
        }
        let level = self.probe_proc_level(dir);
        self.proc_levels.insert(dir.to_vec(), level);
        level
    }

    fn probe_proc_level(&self, dir: &[u8]) -> Option<usize> {
        let fd = self.open(dir).ok()?;
        let is_proc = rustix::fs::fstatfs(&fd).ok()?.f_type == rustix::fs::PROC_SUPER_MAGIC;
        let device = rustix::fs::fstat(&fd).ok().map(|stat| stat.st_dev);
        is_proc.then_some(if device == self.our_proc { 0 } else { self.proc_level })
    }

    /// The file behind a link of /proc.
    fn behind(&self, tracee: Tracee<'_>, link: &[u8]) -> Result<Identity, Refusal> {
        tracee.as_owner(|| self.identity(link, AtFlags::empty()))
    }

    fn read_link(&self, tracee: Tracee<'_>, path: &[u8]) -> Result<Vec<u8>, Refusal> {
        let relative = below_top(path);
        match read_link(self.top.as_fd(), relative) {
            Ok(text) => Ok(text),
            Err(errno @ Errno(libc::EACCES | libc::EPERM)) => {
                tracee.as_owner(|| match read_link(self.top.as_fd(), relative) {
                    Err(Errno(libc::EACCES | libc::EPERM)) => Err(errno),
                    answer => answer,
                })
            }
            Err(Errno(libc::ENOENT | libc::ESRCH)) => Err(Refusal::Bad),
            Err(errno) => Err(Refusal::Other(errno)),
        }
    }

    fn identity(&self, path: &[u8], flags: AtFlags) -> Result<Identity, Errno> {
        Identity::of(self.top.as_fd(), below_top(path), flags)
    }

    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        use rustix::fs::{Mode, OFlags, openat};
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&self.top, below_top(path), flags, Mode::empty())
    }
}

/// A resolution under way.
struct Walk<'a> {
    tracee: Tracee<'a>,
    /// What `/` and the `..` that stays mean; empty for the view's own.
    root: Vec<u8>,
    /// The directory reached; empty for the view's own root.
    at: Vec<u8>,
    /// Whether a link at the end is followed.
    follow: bool,
    /// Components still to go, the next one last.
    rest: Vec<Vec<u8>>,
    links: u32,
    found: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn push(&mut self, text: &[u8]) {
        let components = text.split(|byte| *byte == b'/').rev();
        self.rest.extend(components.filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec));
    }

    /// Goes on along the text of a link.
    fn go(&mut self, text: &[u8]) {
        if text.starts_with(b"/") {
            self.at.clone_from(&self.root);
        }
        self.push(text);
        if self.rest.is_empty() {
            self.found.push(self.at.clone());
        }
    }

    fn up(&mut self) {
        if self.at != self.root {
            let end = self.at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            self.at.truncate(end);
        }
    }

    /// The rest of the name below something that does not exist.
    fn lexically(&mut self, from: Vec<u8>) -> Vec<u8> {
        self.at = from;
        while let Some(component) = self.rest.pop() {
            if component == b".." {
                self.up();
            } else {
                self.at = join(&self.at, &component);
            }
        }
        self.at.clone()
    }
}

/// What `self` or `thread-self` says to a process.
fn own_directory(tracee: Tracee<'_>, level: usize, component: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (process, thread) = tracee.ids_in_namespace(level).ok_or(Refusal::Gone)?;
    let is_self = component == b"self";
    let own = if is_self { process.to_string() } else { format!("{process}/task/{thread}") };
    Ok(own.into_bytes())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    append(&mut path, name);
    path
}

fn append(path: &mut Vec<u8>, name: &[u8]) {
    path.push(b'/');
    path.extend_from_slice(name);
}

/// Whether a look at a name says that no link is there.
fn is_no_link(answer: &Result<Vec<u8>, Refusal>) -> bool {
    use Refusal::{Bad, Other};
    matches!(answer, Err(Bad | Other(Errno(libc::EINVAL | libc::ENOTDIR))))
}

/// `/` is the empty path while names are put together.
fn trimmed(mut path: Vec<u8>) -> Vec<u8> {
    if path == b"/" {
        path.clear();
    }
    path
}

/// A view path as seen from the view's top directory.
fn below_top(path: &[u8]) -> &[u8] {
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    if relative.is_empty() { b"." } else { relative }
}
