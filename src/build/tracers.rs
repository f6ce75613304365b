//! Who watches which RUN step.
//!
//! What is not asked for by a flag is a matter of cost alone: every backend
//! that is chosen here tells all that changed, or that it cannot.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use snapshot::{ImagePath, Suspects};
use tracer::{Blindness, Choice, Touched, Tracer};

use super::brief::is_brief;
use super::{Verify, Watch};
use crate::dockerfile::{Instruction, Located};
use crate::plan::{Plan, PlannedStage, RunStep};
use crate::report::{Explain as _, Failure};
use crate::rootfs::Rootfs;
use crate::step::Ran;

/// `--run-tracer=STAGE:STEP=TRACER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTracer {
    /// As given, for messages.
    text: String,
    /// A name or number; none is any.
    stage: Option<String>,
    step: Which,
    tracer: Choice,
}

/// A step of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Any,
    Number(usize),
    /// An instruction that holds these words.
    Words(String),
}

impl StepTracer {
    /// Reads `STAGE:STEP`.
    ///
    /// # Errors
    /// What is missing.
    pub fn parse(text: &str, tracer: Choice) -> Result<Self, String> {
        let (stage, step) = text.split_once(':').ok_or("a step is named as STAGE:STEP=TRACER")?;
        if stage.is_empty() || step.is_empty() {
            return Err("STAGE and STEP may be *, but not empty".to_owned());
        }
        let stage = (stage != "*").then(|| stage.to_owned());
        let step = match step {
            "*" => Which::Any,
            words => words.parse().map_or_else(|_| Which::Words(words.to_owned()), Which::Number),
        };
        Ok(Self { text: format!("{text}={tracer}"), stage, step, tracer })
    }

    fn names(&self, stage: &PlannedStage<'_>, number: usize, text: &str) -> bool {
        let is_stage = self
            .stage
            .as_ref()
            .is_none_or(|name| *name == stage.label || *name == stage.number.to_string());
        is_stage
            && match &self.step {
                Which::Any => true,
                Which::Number(wanted) => *wanted == number,
                Which::Words(words) => text.contains(words.as_str()),
            }
    }
}

/// The backends of a build.
#[derive(Debug)]
pub(super) struct Tracers<'a> {
    verifies: bool,
    general: Tracer,
    /// Whether another may be taken where that costs less: none was asked for, and what has to be
    /// seen is not the calls themselves.
    is_free: bool,
    /// Marks on directories, where only those work beside ptrace.
    marks: Option<Tracer>,
    /// Whether directories could not be marked.
    are_marks_refused: AtomicBool,
    /// Whether the times of a file tell that it was changed, even through a mapping.
    are_times_telling: bool,
    /// Whether files may have names that are no part of an image, which a step can change them by.
    has_names_outside: AtomicBool,
    steps: &'a [StepTracer],
    /// Those that only some steps have.
    special: BTreeMap<&'static str, Tracer>,
    nobody: Tracer,
    /// What looking at a path costs: measured once, when there is a tree.
    per_path: OnceLock<Duration>,
}

/// Who watches one step.
pub(super) struct Watcher<'a> {
    pub(super) tracer: &'a Tracer,
    /// Why it is another than for most steps.
    pub(super) why: Option<String>,
    /// Events after which a walk is cheaper.
    pub(super) event_budget: u64,
}

impl<'a> Tracers<'a> {
    /// Tries all backends that are asked for, on the file system of `root`.
    ///
    /// # Errors
    /// One of them does not work here.
    pub(super) fn probe(
        watch: Watch,
        steps: &'a [StepTracer],
        reads: bool,
        strict: bool,
        root: &Path,
    ) -> Result<Self, Failure> {
        let (choice, verify) = match watch {
            Watch::Trace { tracer, verify } => (tracer, verify),
            Watch::Walk(_) => (Choice::Off, Verify::Off),
        };
        let general = probe(choice, root)?;
        let general = if reads || strict { general.by_calls() } else { general };
        let is_free = choice == Choice::Auto && !reads && !strict;
        let marks =
            if is_free && general.stops() { probe(Choice::Inotify, root).ok() } else { None };
        let mut special = BTreeMap::new();
        for step in steps {
            special.insert(name(step.tracer), probe(step.tracer, root)?);
        }
        let others = marks.as_ref().map_or("", |_| ", inotify where many programs may be started");
        tracing::info!("RUN steps: {}{others}", general.describe());
        Ok(Self {
            verifies: verify != Verify::Off,
            general,
            is_free,
            marks,
            are_marks_refused: AtomicBool::new(false),
            has_names_outside: AtomicBool::new(false),
            are_times_telling: are_times_telling(root),
            steps,
            special,
            nobody: probe(Choice::Off, root)?,
            per_path: OnceLock::new(),
        })
    }

    /// Refuses a flag for a step that does not exist: it would be ignored.
    ///
    /// # Errors
    /// No RUN of the plan is meant by a `--run-tracer`.
    pub(super) fn check(&self, plan: &Plan<'_>) -> Result<(), Failure> {
        let is_meant = |step: &StepTracer| {
            plan.stages.iter().any(|stage| {
                let mut runs = (1..).zip(&stage.instructions).filter(|(_, it)| is_run(it));
                runs.any(|(number, it)| step.names(stage, number, &it.text))
            })
        };
        match self.steps.iter().find(|step| !is_meant(step)) {
            None => Ok(()),
            Some(step) => Err(Failure::new(format!(
                "--run-tracer={}: no RUN of the stages that are built is this step",
                step.text
            ))
            .hint("steps are numbered as the log shows them: [3/7] is step 3 of its stage")),
        }
    }

    /// Who watches a step: the last flag that names it decides.
    pub(super) fn of(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        (step, text): (&RunStep, &str),
        rootfs: &Rootfs,
    ) -> Watcher<'_> {
        let asked = self.steps.iter().rev().find(|step| step.names(stage, number, text));
        let special = asked.and_then(|step| Some((step, self.special.get(name(step.tracer))?)));
        if let Some((step, tracer)) = special {
            let why = Some(format!("--run-tracer={}", step.text));
            return Watcher { tracer, why, event_budget: u64::MAX };
        }
        let costs = self.costs(rootfs);
        let event_budget = costs.worthwhile_events(self.general.stops());
        let general = Watcher { tracer: &self.general, why: None, event_budget };
        // A walk that reads everything is dear.
        if !self.is_free || !self.are_times_telling {
            return general;
        }
        let entries = rootfs.index().len();
        let (tracer, why) = match costs.advice(self.general.stops(), is_brief(step), text) {
            Advice::Watch => return general,
            Advice::Walk(_) if self.verifies => return general,
            Advice::Walk(reason) => (&self.nobody, reason),
            Advice::DoNotStop => match &self.marks {
                Some(marks) if !self.are_marks_refused.load(Ordering::Relaxed) => {
                    let why = "it may start many programs: they are not stopped".to_owned();
                    return Watcher { tracer: marks, why: Some(why), event_budget };
                }
                _ if self.verifies => return general,
                _ => (&self.nobody, "it may start many programs".to_owned()),
            },
        };
        let why = format!("{why}: looking at {entries} paths afterwards is cheaper");
        Watcher { tracer, why: Some(why), event_budget }
    }

    /// Whether files have to be read to know that a step did not change them.
    pub(super) fn has_to_read(&self) -> bool {
        !self.are_times_telling
    }

    /// Takes in what a step answered; answers why it does not say where to look, though it was watched.
    ///
    /// Where directories cannot be marked now, they cannot later. And once a file has a name where nobody looks, an
    /// answer by names is none, in other stages too: a tree that one was built in may be that of the next.
    pub(super) fn saw(&self, ran: &Ran) -> Option<&'static str> {
        let touched = &ran.outcome.touched;
        if let Touched::Anything(Blindness::Marks(_) | Blindness::Unwatchable(_)) = touched {
            self.are_marks_refused.store(true, Ordering::Relaxed);
        }
        let had = self.has_names_outside.fetch_or(ran.has_names_outside, Ordering::Relaxed);
        let is_told = matches!(touched, Touched::Only(_));
        (is_told && (had || matches!(ran.suspects, Suspects::Everything)))
            .then_some("a file may have been changed by a name of it that is no part of the image")
    }

    fn costs(&self, rootfs: &Rootfs) -> Costs {
        let per_path = *self.per_path.get_or_init(|| cost_of_a_path(rootfs));
        let entries = u32::try_from(rootfs.index().len()).unwrap_or(u32::MAX);
        let (resolving, event) = (self.general.resolving_cost(), self.general.event_cost());
        // A name that marks tell is looked at afterwards, as a walk would.
        let resolving = resolving.max(per_path);
        let costs = Costs { resolving, event, walk: per_path * entries };
        tracing::debug!(?per_path, event = ?costs.event, "what looking and following cost here");
        costs
    }
}

fn probe(choice: Choice, root: &Path) -> Result<Tracer, Failure> {
    Tracer::probe_on(choice, root).could_not(|| "watch RUN steps".to_owned()).map_err(|failure| {
        failure.hint("use --run-tracer=auto, or =off to walk the file system after each step")
    })
}

fn name(choice: Choice) -> &'static str {
    match choice {
        Choice::Auto => "auto",
        Choice::Ptrace => "ptrace",
        Choice::Inotify => "inotify",
        Choice::Fanotify => "fanotify",
        Choice::Off => "off",
    }
}

fn is_run(instruction: &Located<Instruction>) -> bool {
    matches!(instruction.node, Instruction::Run(_))
}

fn are_times_telling(root: &Path) -> bool {
    use rustix::fs::statfs;
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let are_telling = tracer::are_stores_stamped(root).unwrap_or_else(|error| {
        tracing::debug!(%error, "whether stores to mapped files leave a stamp could not be tried");
        let kind = statfs(root).ok().and_then(|fs| u64::try_from(fs.f_type).ok());
        !matches!(kind, Some(TMPFS | RAMFS))
    });
    if !are_telling {
        tracing::info!(
            "Files are compared by content: this file system, which is in memory, does not stamp \
             what is stored to mapped files"
        );
    }
    are_telling
}

/// What is best done about a step.
#[derive(Debug, PartialEq, Eq)]
enum Advice {
    /// As most are.
    Watch,
    /// Not by ptrace.
    DoNotStop,
    /// Not at all, for this reason.
    Walk(String),
}

/// What watching and walking cost here, measured.
#[derive(Debug, Clone, Copy)]
struct Costs {
    /// What resolving names adds to a stop, or a name to what is looked at.
    resolving: Duration,
    /// All that an event costs.
    event: Duration,
    walk: Duration,
}

impl Costs {
    /// Fewer events than this are resolved in any case: names are worth something by themselves.
    const LEAST_EVENTS: u64 = 2_000;
    /// A walk that nobody notices. Under ptrace as much is lost after some hundred short processes, and there
    /// is no end to it.
    const SHORT_WALK: Duration = Duration::from_millis(10);

    /// `stops` is whether ptrace is who would watch; `is_brief` is of the step, and this its text. Marks tell less
    /// than ptrace, so that a walk may follow: they are advised where that is worth the uncertainty.
    fn advice(self, stops: bool, is_brief: bool, text: &str) -> Advice {
        let writer = || writer_of_many(text).filter(|_| self.is_walk_cheaper(EVENTS_OF_MANY));
        if let Some(program) = writer() {
            Advice::Walk(format!("{program} writes many files"))
        } else if stops && self.walk <= Self::SHORT_WALK {
            Advice::Walk("a small tree".to_owned())
        } else if stops && !is_brief && self.is_walk_cheaper(EVENTS_OF_UNKNOWN) {
            Advice::DoNotStop
        } else {
            Advice::Watch
        }
    }

    fn is_walk_cheaper(self, events: u32) -> bool {
        self.walk < self.event * events
    }

    /// Once events have cost as much as a walk, nobody knows whether more come than have
    /// come; so this is at most twice what is best. To give up saves only the resolving where a step `stops`,
    /// since a filter cannot be taken off, but all that an event costs where a mark can.
    fn worthwhile_events(self, stops: bool) -> u64 {
        let each = if stops { self.resolving } else { self.event.max(self.resolving) };
        let events = self.walk.as_nanos() / each.as_nanos().max(1);
        u64::try_from(events).unwrap_or(u64::MAX).max(Self::LEAST_EVENTS)
    }
}

/// What looking at a path takes: that of some, in groups of which the quickest counts, because
/// other programs can only make them slower.
fn cost_of_a_path(rootfs: &Rootfs) -> Duration {
    const GROUP: usize = 32;
    const GROUPS: usize = 4;
    let every = (rootfs.index().len() / (GROUP * GROUPS)).max(1);
    let paths: Vec<&ImagePath> =
        rootfs.index().iter().step_by(every).map(|(path, _)| path).collect();
    let root = rootfs.tree().path();
    let look_at = |paths: &[&ImagePath]| {
        let started = Instant::now();
        for path in paths {
            let _ = rustix::fs::lstat(root.join(OsStr::from_bytes(path.relative())));
        }
        started.elapsed() / u32::try_from(paths.len()).unwrap_or(u32::MAX)
    };
    paths.chunks(GROUP).map(look_at).min().unwrap_or_default()
}

/// As many events as unpacking or installing has at least; most have more.
const EVENTS_OF_MANY: u32 = 10_000;

/// What a step of which nothing is known is taken to cost under ptrace: as much as so many events, or some
/// two thousand short programs.
const EVENTS_OF_UNKNOWN: u32 = 25_000;

/// Programs whose purpose is to write thousands of files.
const WRITERS_OF_MANY: [&str; 30] = [
    "7z",
    "apk",
    "apt",
    "apt-get",
    "bsdtar",
    "bundle",
    "composer",
    "conda",
    "cpio",
    "debootstrap",
    "dnf",
    "dpkg",
    "gem",
    "mamba",
    "microdnf",
    "npm",
    "pip",
    "pip3",
    "pnpm",
    "poetry",
    "rpm",
    "rsync",
    "tar",
    "tdnf",
    "unsquashfs",
    "unzip",
    "uv",
    "yarn",
    "yum",
    "zypper",
];

/// The first such program that a step names.
fn writer_of_many(text: &str) -> Option<&'static str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut words = text.split(|c: char| !is_part(c));
    words.find_map(|word| WRITERS_OF_MANY.iter().find(|program| **program == word)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_write_many_files_are_found_by_name() {
        for (text, want) in [
            ("RUN apt-get update && apt-get install -y git", Some("apt-get")),
            ("RUN curl https://x/y.tar.gz | tar -xz", Some("tar")),
            ("RUN [\"/usr/bin/npm\", \"ci\"]", Some("npm")),
            ("RUN make start", None),
            ("RUN cat /x.tar", None),
        ] {
            assert_eq!(writer_of_many(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_advised() {
        let walked = |why: &str| Advice::Walk(why.to_owned());
        let (tiny, middle, large, huge) = (4, 40, 100, 200);
        for (walk, stops, is_brief, text, want) in [
            (tiny, true, true, "RUN true", walked("a small tree")),
            (tiny, false, true, "RUN true", Advice::Watch),
            (middle, true, true, "RUN true", Advice::Watch),
            (middle, true, false, "RUN make", Advice::DoNotStop),
            (middle, false, false, "RUN make", Advice::Watch),
            (middle, true, false, "RUN tar", walked("tar writes many files")),
            (middle, false, false, "RUN tar", walked("tar writes many files")),
            (large, true, false, "RUN tar", Advice::DoNotStop),
            (huge, true, false, "RUN make", Advice::Watch),
            (huge, true, false, "RUN tar", Advice::Watch),
        ] {
            let walk = Duration::from_millis(walk);
            let event = Duration::from_micros(5);
            let costs = Costs { resolving: event / 3, event, walk };
            assert_eq!(costs.advice(stops, is_brief, text), want, "{walk:?}, {stops}: {text}");
        }
    }

    #[test]
    fn costs_decide() {
        let micros = Duration::from_micros;
        for (walk, is_cheaper, events, of_a_mark) in [
            (micros(400), true, 2_000, 2_000),
            (micros(49_999), true, 24_999, 9_999),
            (micros(90_000), false, 45_000, 18_000),
        ] {
            let costs = Costs { resolving: micros(2), event: micros(5), walk };
            assert_eq!(costs.is_walk_cheaper(EVENTS_OF_MANY), is_cheaper, "{walk:?}");
            assert_eq!(costs.worthwhile_events(true), events, "{walk:?}");
            assert_eq!(costs.worthwhile_events(false), of_a_mark, "{walk:?}");
        }
    }
}
