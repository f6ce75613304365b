//! Programs that no person would write.
//!
//! `TRACER_PROGRAMS` says how many, `TRACER_SEED` which is the first. One that
//! fails is made smaller and printed as a row for [`FIXTURES`].

use std::fmt::Write;

use tracer::{CapSet, Choice, Status, Touched, Tracer};

use crate::program::Program;
use crate::proof::{Place, Scene};

/// What has failed once.
const FIXTURES: &[(Choice, Place, &str)] = &[
    (Choice::Ptrace, Place::Plain, "mccwdd(Rcewda)Xdc"),
    (Choice::Inotify, Place::Namespaced, "mccwdd(Rcewda)Xdc"),
];

const PROGRAMS: u64 = 300;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn ptrace_has_what_random_programs_change() {
    let known = run_random(Choice::Ptrace, &Place::ALL);
    assert!(known.told * 5 > known.runs * 4, "{known:?}");
    assert!(known.events > 10 * known.runs, "{known:?}");
}

#[test]
fn inotify_has_what_random_programs_change() {
    let known = run_random(Choice::Inotify, &[Place::Namespaced]);
    // Of the others a directory came, or a name that went again.
    assert!(known.told * 3 > known.runs, "{known:?}");
}

#[test]
fn fanotify_has_what_random_programs_change() {
    let known = run_random(Choice::Fanotify, &[Place::Namespaced]);
    assert!(known.told * 5 > known.runs * 4, "{known:?}");
}

#[test]
fn what_has_failed_once_does_not_fail_again() {
    for (choice, place, text) in FIXTURES {
        let tracer = Tracer::probe(*choice).unwrap();
        let missing = run(&tracer, *place, &Program::parse(text), &mut Known::default());
        assert_eq!(missing, None, "{choice}, {place:?}: {text}");
    }
}

/// How much there was to be held against the walk.
#[derive(Debug, Default)]
struct Known {
    runs: u64,
    /// Runs of which the tracer could tell.
    told: u64,
    events: u64,
}

fn run_random(choice: Choice, places: &[Place]) -> Known {
    let tracer = Tracer::probe(choice).unwrap();
    let (mut known, mut wrong) = (Known::default(), String::new());
    let first = number("TRACER_SEED", 0);
    for seed in first..first + number("TRACER_PROGRAMS", PROGRAMS) {
        let place = places[usize::try_from(seed).unwrap() % places.len()];
        let program = Program::random(seed);
        if let Some(missing) = run(&tracer, place, &program, &mut known) {
            let mut again =
                |program: &Program| run(&tracer, place, program, &mut Known::default()).is_some();
            let small = program.shrunk(&mut again);
            writeln!(wrong, "seed {seed}: {missing}; as a fixture:").unwrap();
            writeln!(wrong, "    (Choice::{choice:?}, Place::{place:?}, \"{small}\"),").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    known
}

/// Runs the halves of a program one after the other on one tree; what the
/// trace lacks, if anything.
fn run(tracer: &Tracer, place: Place, program: &Program, known: &mut Known) -> Option<String> {
    let keep = (place == Place::Namespaced).then_some(CapSet::CONTAINER_DEFAULT);
    // Every other program of a kind is watched strictly, which must lose nothing.
    let is_strict = program.to_string().len().is_multiple_of(2);
    let scene = Scene::new(place).of(None, keep).strict(is_strict);
    let mut marks = scene.marks();
    for half in program.halves() {
        let seen = scene.run_in(&mut marks, tracer, "interpreter", &half.to_string()).unwrap();
        assert_eq!(seen.outcome.status, Status::Exited(0), "{program}: {}", seen.stderr);
        known.runs += 1;
        known.events += seen.outcome.stats.events;
        if let Touched::Only(set) = &seen.outcome.touched {
            known.told += 1;
            let missing = seen.after.missing(&seen.before, set);
            if !missing.is_empty() {
                return Some(format!("missing {missing:?}"));
            }
        }
    }
    None
}
