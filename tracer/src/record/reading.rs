//! From a stopped call to the paths of which it shows something, where somebody
//! wants to know that.
//!
//! What is recorded is where names lead now. Whoever compares takes what was
//! there before the command: so a path that the command made itself is one
//! where nothing was, and what it moved counts where it came from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;

use super::{Event, Name, Record, rooted, settle};
use crate::arch::{Arg, Follow, SIGHTS, Sight};
use crate::names::{Origin, Program, Trouble};
use crate::outcome::{Blindness, TouchedSet, is_within};
use crate::reads::{Access, Reads};
use crate::record::{Effect, is_native};
use crate::sys::trace::StoppedCall;
use crate::tracee::{Refusal, Tracee};

/// As many scripts as the kernel lets interpret each other.
const MAX_INTERPRETERS: u32 = 5;

/// What was shown so far.
#[derive(Default)]
pub(super) struct Reading {
    paths: HashMap<Vec<u8>, Access>,
    /// Where the command's root has mounts.
    mounts: Vec<Vec<u8>>,
    unknown: Option<String>,
}

impl Reading {
    fn add(&mut self, path: &[u8], access: Access) {
        if let Some(known) = self.paths.get_mut(path) {
            *known = access.max(*known);
        } else {
            self.paths.insert(path.to_vec(), access);
        }
    }

    /// Without what is on mounts, and without directories that are named by
    /// what is below them.
    fn concise(self) -> BTreeMap<Vec<u8>, Access> {
        let is_in_tree = |path: &[u8]| !self.mounts.iter().any(|mount| is_within(path, mount));
        let mut known: BTreeMap<Vec<u8>, Access> =
            self.paths.into_iter().filter(|(path, _)| is_in_tree(path)).collect();
        let above: HashSet<Vec<u8>> =
            known.keys().flat_map(|path| parents(path)).map(<[u8]>::to_vec).collect();
        known.retain(|path, access| *access != Access::Look || !above.contains(path));
        known
    }
}

/// All directories above a path but the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(end, byte)| **byte == b'/' && *end > 0);
    ends.map(|(end, _)| &path[..end])
}

impl Record {
    /// From now on what is read is recorded too. The command has just been
    /// started: as the first of `programs` that there was, in `cwd`.
    pub(crate) fn record_reads(&mut self, tid: i32, programs: &[CString], cwd: &CString) {
        self.view.trail = Some(Default::default());
        let mut reading = Reading::default();
        match Tracee::new(tid).mount_points() {
            Ok(mounts) => reading.mounts = mounts,
            Err(refusal) => reading.unknown = Some(format!("its mounts: {refusal:?}")),
        }
        self.reading = Some(reading);
        let tracee = Tracee::new(tid);
        let mut noted = self
            .view
            .resolve(tracee, Origin::CWD, cwd.as_bytes(), true)
            .and_then(|found| self.shows(&found, Access::Look));
        for program in programs {
            noted = noted.and_then(|()| self.runs(tracee, Origin::CWD, program.as_bytes()));
        }
        if let Err(trouble) = noted {
            self.lose_reads(format!("how it started: {trouble:?}"));
        }
    }

    /// Whether what is read is recorded.
    pub(crate) fn records_reads(&self) -> bool {
        self.reading.is_some()
    }

    /// From here on nobody can tell what is read. The first reason stands.
    fn lose_reads(&mut self, why: String) {
        if let Some(reading) = &mut self.reading
            && reading.unknown.is_none()
        {
            tracing::debug!(why, "lost sight of what the command reads");
            reading.unknown = Some(why);
            reading.paths = HashMap::new();
        }
    }

    /// What was touched, and what was read.
    pub(crate) fn finish(self) -> (TouchedSet, Reads) {
        let trail: Vec<Vec<u8>> = self.view.trail.iter().flatten().cloned().collect();
        let inside: Vec<Option<Vec<u8>>> =
            trail.iter().map(|path| self.view.inside(path).map(rooted)).collect();
        let reading = self.reading;
        let touched = TouchedSet { paths: self.paths.into_iter().collect(), trees: self.trees };
        let Some(mut reading) = reading else { return (touched, Reads::NotAsked) };
        if let Some(why) = reading.unknown {
            return (touched, Reads::Unknown(why));
        }
        for path in inside {
            match path {
                Some(path) => reading.add(&path, Access::Look),
                None => return (touched, Reads::Unknown("a path outside its root".to_owned())),
            }
        }
        let changes = touched.paths.iter().map(|path| (path, Access::Change));
        for (path, access) in changes.chain(touched.trees.iter().map(|path| (path, Access::Tree))) {
            reading.add(path, access);
        }
        (touched, Reads::Known(reading.concise()))
    }

    /// Records what a call shows that is in none of the tables of changes.
    pub(super) fn add_read(&mut self, tid: i32, stopped: &StoppedCall) -> Effect {
        let unknown = Effect::Blind(Blindness::Call("a system call of another tracer's filter"));
        if self.reading.is_none() {
            return unknown;
        }
        if !is_native(stopped) {
            self.lose_reads("a call as 32-bit programs make them".to_owned());
            return Effect::Recorded;
        }
        let Some(glimpse) = SIGHTS.iter().find(|it| u64::from(it.number) == stopped.number) else {
            return unknown;
        };
        self.view.arriving.begin_reading(tid, stopped.number);
        let mut held = std::mem::take(&mut self.held);
        let event = Event { tracee: held.thread(tid), args: &stopped.args };
        let noted = self.sight(glimpse.sight, glimpse.name, &event);
        self.held = held;
        let others = self.others();
        self.settle_reads(others);
        match noted.map_or_else(|trouble| settle(trouble, glimpse.name, tid), |()| Effect::Recorded)
        {
            Effect::Blind(why) => {
                self.lose_reads(why.to_string());
                Effect::Recorded
            }
            effect => effect,
        }
    }

    fn sight(&mut self, sight: Sight, name: &str, event: &Event<'_>) -> Result<(), Trouble> {
        match sight {
            Sight::Stat { at, path, follow } => {
                let found = self.sighted(event, at, path, follow)?;
                self.shows(&found, Access::Read)
            }
            Sight::Look { at, path, follow } => {
                let found = self.sighted(event, at, path, follow)?;
                self.shows(&found, Access::Look)
            }
            Sight::Program { at, path, flags } => {
                let text = event.tracee.string(event.args[path])?;
                let flags = flags.map_or(0, |flags| event.flags(flags));
                let origin = event.origin(at);
                if text.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                    let file = self.view.descriptor(event.tracee, origin.at)?;
                    let found: Vec<_> = file.into_iter().collect();
                    return self.is_run(event.tracee, &found, 0);
                }
                self.runs(event.tracee, origin, &text)
            }
            Sight::Socket { addr, len } => {
                let Some(name) = event.socket_name(event.args[addr], event.args[len])? else {
                    return Ok(());
                };
                let found = self.view.resolve(event.tracee, Origin::CWD, &name, true)?;
                self.shows(&found, Access::Look)
            }
            Sight::Unknown => {
                self.lose_reads(format!("the command called {name}"));
                Ok(())
            }
        }
    }

    /// The paths that a call is given. What a descriptor leads to was recorded
    /// when it was opened, but for the working directory.
    fn sighted(
        &mut self,
        event: &Event<'_>,
        at: Option<Arg>,
        path: Arg,
        follow: Follow,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let (origin, address) = (event.origin(at), event.args[path]);
        let text = if address == 0 { Vec::new() } else { event.tracee.string(address)? };
        if text.is_empty() && origin.at == libc::AT_FDCWD {
            return self.view.resolve(event.tracee, Origin::CWD, b".", true);
        }
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let follow = match follow {
            Follow::Always | Follow::AlwaysOrNull => true,
            Follow::Never => false,
            Follow::UnlessFlag(flags) | Follow::UnlessFlagOrNull(flags) => event.follows(flags),
        };
        self.view.resolve(event.tracee, origin, &text, follow)
    }

    /// A file that is opened, with nothing changed by that.
    pub(super) fn opened_to_read(
        &mut self,
        event: &Event<'_>,
        name: &Name,
    ) -> Result<Effect, Trouble> {
        if self.reading.is_some() {
            let text = event.tracee.string(event.args[name.path])?;
            let found = self.view.resolve(event.tracee, name.origin, &text, name.follow)?;
            self.shows(&found, Access::Read)?;
        }
        Ok(Effect::Recorded)
    }

    /// A directory that becomes somebody's root.
    pub(super) fn becomes_root(&mut self, event: &Event<'_>, path: Arg) -> Result<(), Trouble> {
        if self.reading.is_none() {
            return Ok(());
        }
        let text = event.tracee.string(event.args[path])?;
        let found = self.view.resolve(event.tracee, Origin::CWD, &text, true)?;
        self.shows(&found, Access::Look)
    }

    /// Of threads that may be in each other's way, nobody knows what those read
    /// that only read. Answers the others.
    pub(super) fn settle_reads(&mut self, others: Vec<i32>) -> Vec<i32> {
        if self.reading.is_none() || others.is_empty() {
            return others;
        }
        self.lose_reads("a link may have come in the way of a name".to_owned());
        others.into_iter().filter(|tid| !self.view.arriving.is_reading(*tid)).collect()
    }

    /// A call that a wider filter stopped, and that is none to be blind after.
    pub(super) fn only_shows(&mut self, name: &str) -> Effect {
        self.lose_reads(format!("the command called {name}"));
        Effect::Recorded
    }

    /// A program that is run by a name, and what the kernel reads for that.
    fn runs(&mut self, tracee: Tracee<'_>, origin: Origin, name: &[u8]) -> Result<(), Trouble> {
        let found = self.view.resolve(tracee, origin, name, true)?;
        self.is_run(tracee, &found, 0)
    }

    fn is_run(&mut self, tracee: Tracee<'_>, found: &[Vec<u8>], depth: u32) -> Result<(), Trouble> {
        self.shows(found, Access::Read)?;
        let Some(file) = found.last() else { return Ok(()) };
        match self.view.program(tracee, file)? {
            Some(Program::By(name)) if depth <= MAX_INTERPRETERS => {
                let found = self.view.resolve(tracee, Origin::CWD, &name, true)?;
                self.is_run(tracee, &found, depth + 1)
            }
            Some(Program::Strange) => {
                self.lose_reads(format!("{} is a program of another kind", file.escape_ascii()));
                Ok(())
            }
            Some(Program::By(_) | Program::Alone) | None => Ok(()),
        }
    }

    /// After an exec: whatever the kernel mapped for it has been seen, unless it
    /// was run in a way that is not understood.
    pub(crate) fn check_mapped(&mut self, tid: i32) {
        let mapped = match Tracee::new(tid).mapped() {
            Ok(mapped) => mapped,
            Err(Refusal::Gone | Refusal::Bad) => return,
            Err(refusal) => return self.lose_reads(format!("its mappings: {refusal:?}")),
        };
        let Some(reading) = self.reading.as_ref().filter(|it| it.unknown.is_none()) else { return };
        let unseen = mapped.into_iter().find(|path| {
            let inside = self.view.inside(path);
            let access = inside.and_then(|path| reading.paths.get(path));
            access.is_none_or(|access| *access < Access::Read)
        });
        if let Some(path) = unseen.filter(|path| !is_in_no_tree(path)) {
            self.lose_reads(format!("{} was mapped unseen", path.escape_ascii()));
        }
    }

    fn shows(&mut self, found: &[Vec<u8>], access: Access) -> Result<(), Trouble> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        if reading.unknown.is_some() {
            return Ok(());
        }
        for path in found {
            match self.view.inside(path) {
                Some(b"") => reading.add(b"/", access),
                Some(inside) => reading.add(inside, access),
                None => {
                    self.lose_reads(format!("{} is outside its root", path.escape_ascii()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Memory, and files that lost their name: they were opened, or made.
fn is_in_no_tree(path: &[u8]) -> bool {
    path.starts_with(b"/memfd:") || path.ends_with(b" (deleted)")
}
