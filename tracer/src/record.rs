//! From a stopped call to the paths it may change.

mod reading;

use std::collections::{BTreeSet, HashSet};

use crate::arch::{ABIS, Abi, Arg, Call, Follow, Shape};
use crate::filter::OPEN_CHANGES;
use crate::names::{Origin, Trouble, View};
use crate::outcome::Blindness;
use crate::sys::trace::StoppedCall;
use crate::tracee::{Held, Refusal, Tracee};

use reading::Reading;

/// `O_TMPFILE` without `O_DIRECTORY`: a file without a name; linkat gives it
/// one.
const TMPFILE: u32 = 0o20_000_000;
/// Descriptor-relative `open_how` that treats its start as the root.
const RESOLVE_IN_ROOT: u64 = 0x10;
/// The socketcall(2) number of bind(2).
const SOCKETCALL_BIND: u64 = 2;

/// What a call came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It was recorded, or changes nothing.
    Recorded,
    /// It was recorded, but may lead elsewhere by what these threads do, or have
    /// led theirs elsewhere.
    Unsure(Vec<i32>),
    /// It asks for a child that escapes the tracer.
    Escape,
    /// It asks to trace a process, and will be refused.
    Trace,
    /// From here on, nobody can tell.
    Blind(Blindness),
    /// The process cannot be read as it is.
    Locked(String),
}

/// What was touched so far, in view of one command.
pub(crate) struct Record {
    view: View,
    /// As in [`TouchedSet`], but hashed: most events repeat a path.
    paths: HashSet<Vec<u8>>,
    trees: BTreeSet<Vec<u8>>,
    /// Away while an event is looked at.
    held: Held,
    /// There where it is wanted.
    reading: Option<Reading>,
}

impl Record {
    pub(crate) fn new(view: View) -> Record {
        let (paths, trees) = (HashSet::new(), BTreeSet::new());
        Record { view, paths, trees, held: Held::default(), reading: None }
    }

    pub(crate) fn cache_hits(&self) -> u64 {
        self.view.from_cache
    }

    /// Records what `stopped` may change, before it does.
    pub(crate) fn add(&mut self, tid: i32, stopped: &StoppedCall) -> Effect {
        let Some((_, call)) = find(stopped) else { return self.add_read(tid, stopped) };
        self.view.arriving.begin(tid, stopped.number);
        let mut held = std::mem::take(&mut self.held);
        let event = Event { tracee: held.thread(tid), args: &stopped.args };
        let noted = self.note(call, &event);
        self.held = held;
        let others = self.others();
        let others = self.settle_reads(others);
        match noted.unwrap_or_else(|trouble| settle(trouble, call.name, tid)) {
            Effect::Recorded if !others.is_empty() => Effect::Unsure(others),
            effect => effect,
        }
    }

    /// Threads that may be in the way of the call that was looked at.
    fn others(&mut self) -> Vec<i32> {
        let others = self.view.arriving.take_doubtful();
        let others =
            others.into_iter().filter(|(tid, number)| !Tracee::new(*tid).has_left(*number));
        others.map(|(tid, _)| tid).collect()
    }

    /// What a thread did has happened, because it has stopped again or is gone.
    pub(crate) fn done(&mut self, tid: i32) {
        self.view.arriving.gone(tid);
    }

    /// Records what a descriptor leads to that was just opened.
    pub(crate) fn opened(&mut self, tid: i32, fd: i32) -> Effect {
        self.done(tid);
        let noted = match self.view.descriptor(Tracee::new(tid), fd) {
            Ok(found) => Ok(self.insert_all(found.into_iter().collect())),
            Err(trouble) => Err(trouble),
        };
        noted.unwrap_or_else(|trouble| settle(trouble, "open", tid))
    }

    fn note(&mut self, call: &Call, event: &Event<'_>) -> Result<Effect, Trouble> {
        match call.shape {
            Shape::BlindIfBits(arg, bits) if word(event.args[arg]) & bits == 0 => {
                return Ok(self.only_shows(call.name));
            }
            Shape::Blind | Shape::BlindIfBits(..) | Shape::BlindIfOneOf(..) => {
                return Ok(Effect::Blind(Blindness::Call(call.name)));
            }
            Shape::Clone => return Ok(Effect::Escape),
            Shape::Trace(_) => return Ok(Effect::Trace),
            Shape::Processors { .. } => {}
            Shape::Chroot => {
                self.becomes_root(event, 0)?;
                self.view.expect_other_roots();
            }
            Shape::Open { at, path, flags } => {
                let flags = event.args[flags];
                let name = Name { origin: event.origin(at), path, follow: opens_through(flags) };
                return self.open(event, &name, flags);
            }
            Shape::OpenHow { at, path, how } => return self.open_how(event, at, path, how),
            Shape::Path { at, path, follow } => return self.path(event, at, path, follow),
            Shape::Entry { at, path } => {
                let makes_link = call.name.starts_with("symlink");
                return self.entry(event, event.origin(at), path, makes_link);
            }
            Shape::Fd(fd) => return self.descriptor(event, event.fd(fd)),
            Shape::Rename { old_at, old, new_at, new } => {
                return self.rename(event, (old_at, old), (new_at, new));
            }
            Shape::Link { old_at, old, new_at, new, flags } => {
                let flags = flags.map_or(0, |flags| event.flags(flags));
                return self.link(event, (old_at, old), (new_at, new), flags);
            }
            Shape::Bind { addr, len } => {
                return self.bind(event, event.args[addr], event.args[len]);
            }
            Shape::SocketCall => return self.socket_call(event),
        }
        Ok(Effect::Recorded)
    }

    fn open(&mut self, event: &Event<'_>, name: &Name, flags: u64) -> Result<Effect, Trouble> {
        let flags = word(flags);
        if flags & OPEN_CHANGES == 0 || flags & TMPFILE != 0 {
            return self.opened_to_read(event, name);
        }
        let text = event.tracee.string(event.args[name.path])?;
        self.resolve(event, name.origin, &text, name.follow)
    }

    fn open_how(
        &mut self,
        event: &Event<'_>,
        at: Arg,
        path: Arg,
        how: Arg,
    ) -> Result<Effect, Trouble> {
        let mut bytes = [0; 24];
        event.tracee.bytes(event.args[how], &mut bytes)?;
        let field = |index: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[8 * index..8 * index + 8]);
            u64::from_ne_bytes(field)
        };
        let (flags, resolve) = (field(0), field(2));
        let is_root = resolve & RESOLVE_IN_ROOT != 0;
        let origin = Origin { at: event.fd(at), is_root };
        self.open(event, &Name { origin, path, follow: opens_through(flags) }, flags)
    }

    fn path(
        &mut self,
        event: &Event<'_>,
        at: Option<Arg>,
        path: Arg,
        follow: Follow,
    ) -> Result<Effect, Trouble> {
        let origin = event.origin(at);
        let (follow, may_be_null, flags) = match follow {
            Follow::Always => (true, false, 0),
            Follow::AlwaysOrNull => (true, true, 0),
            Follow::Never => (false, false, 0),
            Follow::UnlessFlag(flags) => (event.follows(flags), false, event.flags(flags)),
            Follow::UnlessFlagOrNull(flags) => (event.follows(flags), true, event.flags(flags)),
        };
        let address = event.args[path];
        // setxattrat and removexattrat take a null name with AT_EMPTY_PATH.
        let is_empty_allowed = flags & libc::AT_EMPTY_PATH != 0;
        if address == 0 && (may_be_null || is_empty_allowed) {
            return self.descriptor(event, origin.at);
        }
        let text = event.tracee.string(address)?;
        if text.is_empty() && is_empty_allowed {
            return self.descriptor(event, origin.at);
        }
        self.resolve(event, origin, &text, follow)
    }

    fn entry(
        &mut self,
        event: &Event<'_>,
        origin: Origin,
        path: Arg,
        makes_link: bool,
    ) -> Result<Effect, Trouble> {
        let text = event.tracee.string(event.args[path])?;
        let found = self.view.resolve(event.tracee, origin, &text, false)?;
        for path in &found {
            self.view.forget(path);
            if makes_link {
                self.view.arriving.expect(path, event.tracee.tid());
            }
        }
        Ok(self.insert_all(found))
    }

    /// Another name of a file, which may be a link itself.
    fn link(
        &mut self,
        event: &Event<'_>,
        (old_at, old): (Option<Arg>, Arg),
        (new_at, new): (Option<Arg>, Arg),
        flags: i32,
    ) -> Result<Effect, Trouble> {
        let text = event.tracee.string(event.args[old])?;
        let origin = event.origin(old_at);
        if text.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            let linked = self.descriptor(event, origin.at)?;
            return Ok(linked.and(self.entry(event, event.origin(new_at), new, true)?));
        }
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        let found = self.view.resolve(event.tracee, origin, &text, follow)?;
        let is_link = !follow && found.iter().any(|path| self.is_link(event, path));
        let linked = self.insert_all(found);
        Ok(linked.and(self.entry(event, event.origin(new_at), new, is_link)?))
    }

    /// Whether a link is there, or may be by the time of the call.
    fn is_link(&self, event: &Event<'_>, path: &[u8]) -> bool {
        self.view.look(path).is_some_and(|file| file.is_link)
            || self.view.arriving.is_expected(path, event.tracee.tid())
    }

    fn rename(
        &mut self,
        event: &Event<'_>,
        old: (Option<Arg>, Arg),
        new: (Option<Arg>, Arg),
    ) -> Result<Effect, Trouble> {
        let old_name = event.tracee.string(event.args[old.1])?;
        let new_name = event.tracee.string(event.args[new.1])?;
        let mut found = self.view.resolve(event.tracee, event.origin(old.0), &old_name, false)?;
        found.extend(self.view.resolve(event.tracee, event.origin(new.0), &new_name, false)?);
        // An exchange moves what has the new name, too.
        let files: Vec<_> = found.iter().filter_map(|path| self.view.look(path)).collect();
        let moves_tree = files.iter().any(|file| file.is_directory);
        let moves_link = files.iter().any(|file| file.is_link)
            || found.iter().any(|path| self.view.arriving.is_expected(path, event.tracee.tid()));
        for path in &found {
            self.view.forget(path);
            if moves_link {
                self.view.arriving.expect(path, event.tracee.tid());
            }
            if moves_tree && let Some(inside) = self.view.inside(path) {
                self.trees.insert(rooted(inside));
            }
        }
        Ok(self.insert_all(found))
    }

    fn bind(&mut self, event: &Event<'_>, address: u64, length: u64) -> Result<Effect, Trouble> {
        match event.socket_name(address, length)? {
            Some(name) => self.resolve(event, Origin::CWD, &name, false),
            None => Ok(Effect::Recorded),
        }
    }

    /// i386 only: the arguments are words of 32 bits.
    fn socket_call(&mut self, event: &Event<'_>) -> Result<Effect, Trouble> {
        if event.args[0] != SOCKETCALL_BIND {
            return Ok(Effect::Recorded);
        }
        let mut bytes = [0; 12];
        event.tracee.bytes(event.args[1], &mut bytes)?;
        let argument = |index: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&bytes[4 * index..4 * index + 4]);
            u64::from(u32::from_ne_bytes(field))
        };
        self.bind(event, argument(1), argument(2))
    }

    fn descriptor(&mut self, event: &Event<'_>, fd: i32) -> Result<Effect, Trouble> {
        // AT_FDCWD with an empty name is the working directory.
        if fd == libc::AT_FDCWD {
            return self.resolve(event, Origin::CWD, b".", true);
        }
        let found = self.view.descriptor(event.tracee, fd)?;
        Ok(self.insert_all(found.into_iter().collect()))
    }

    fn resolve(
        &mut self,
        event: &Event<'_>,
        origin: Origin,
        text: &[u8],
        follow: bool,
    ) -> Result<Effect, Trouble> {
        let found = self.view.resolve(event.tracee, origin, text, follow)?;
        Ok(self.insert_all(found))
    }

    fn insert_all(&mut self, found: Vec<Vec<u8>>) -> Effect {
        for path in found {
            let Some(inside) = self.view.inside(&path) else {
                return Effect::Blind(Blindness::OutsideRoot(path));
            };
            if !self.paths.contains(inside) {
                self.paths.insert(rooted(inside));
            }
        }
        Effect::Recorded
    }
}

impl Effect {
    /// The worse of two.
    fn and(self, other: Effect) -> Effect {
        if self == Effect::Recorded { other } else { self }
    }
}

/// What trouble with one call means for the whole answer.
fn settle(trouble: Trouble, call: &'static str, pid: i32) -> Effect {
    match trouble {
        Trouble::Refused(Refusal::Gone | Refusal::Bad) => Effect::Recorded,
        Trouble::Refused(Refusal::Locked(errno)) => Effect::Locked(errno.to_string()),
        Trouble::Refused(Refusal::Other(errno)) => {
            Effect::Blind(Blindness::Unresolved { call, pid, why: errno.to_string() })
        }
        Trouble::LostName(path) => Effect::Blind(Blindness::LostName(path)),
    }
}

/// The table's entry for a stopped call.
pub(crate) fn find(stopped: &StoppedCall) -> Option<(&'static Abi, &'static Call)> {
    let abi = ABIS.iter().find(|abi| abi.audit_arch == stopped.arch)?;
    let number = u32::try_from(stopped.number).ok()?;
    abi.calls.iter().find(|call| call.number == number).map(|call| (*abi, call))
}

/// Whether a call follows the machine's own convention.
pub(crate) fn is_native(stopped: &StoppedCall) -> bool {
    ABIS.first().is_some_and(|own| own.audit_arch == stopped.arch)
}

/// A name to open.
struct Name {
    origin: Origin,
    path: Arg,
    follow: bool,
}

/// A stopped call's arguments.
struct Event<'a> {
    tracee: Tracee<'a>,
    args: &'a [u64; 6],
}

impl Event<'_> {
    fn origin(&self, at: Option<Arg>) -> Origin {
        at.map_or(Origin::CWD, |at| Origin { at: self.fd(at), is_root: false })
    }

    fn fd(&self, arg: Arg) -> i32 {
        word(self.args[arg]).cast_signed()
    }

    fn flags(&self, arg: Arg) -> i32 {
        word(self.args[arg]).cast_signed()
    }

    /// The name of a socket in the tree.
    fn socket_name(&self, address: u64, length: u64) -> Result<Option<Vec<u8>>, Trouble> {
        let mut bytes = [0; 110];
        let length = usize::try_from(length & 0xffff_ffff).unwrap_or(0).min(bytes.len());
        if length <= 2 {
            return Ok(None);
        }
        self.tracee.bytes(address, &mut bytes[..length])?;
        let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let name = bytes[2..length].split(|byte| *byte == 0).next().unwrap_or_default();
        let is_named = i32::from(family) == libc::AF_UNIX && !name.is_empty();
        Ok(is_named.then(|| name.to_vec()))
    }

    fn follows(&self, flags: Arg) -> bool {
        self.flags(flags) & libc::AT_SYMLINK_NOFOLLOW == 0
    }
}

/// Whether open(2) with these flags follows a link at the end of its name.
fn opens_through(flags: u64) -> bool {
    let flags = word(flags).cast_signed();
    let exclusive = libc::O_CREAT | libc::O_EXCL;
    flags & libc::O_NOFOLLOW == 0 && flags & exclusive != exclusive
}

/// Flags and descriptors are `int`; what the register holds above is noise.
#[expect(clippy::cast_possible_truncation, reason = "the kernel looks at the low word only")]
const fn word(argument: u64) -> u32 {
    argument as u32
}

/// `/` is the empty path while names are put together.
fn rooted(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"/".to_vec() } else { path.to_vec() }
}
