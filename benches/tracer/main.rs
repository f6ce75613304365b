//! What watching a RUN step costs: each backend, and what `auto` takes, beside the same command
//! that nobody watches.
//!
//! `cargo bench --bench tracer -- [WORKLOAD…] [--runs=N] [--pod]`
//!
//! One image is built with each backend in turn, N times, and the executor's own account of each
//! step is read; the least of all runs counts, since other programs can only add. `command` is
//! what the command took with its tracer, over what it took alone; `all` counts the look at the
//! tree afterwards as well: at what the tracer named, or at everything. `auto` is held against
//! the best of the others, since that is what it could have taken. `--pod` builds in place in a container
//! with a pod's capabilities and profile, on overlayfs, instead of in namespaces of this machine.
//!
//! A file system (ext4 with a journal) on a loop device whose file is in `/dev/shm` takes the disk out of the figures. `/dev/shm` itself is
//! none to measure on: on tmpfs the executor has to read files to know that they did not change.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/base.rs"]
mod base;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/craft.rs"]
mod craft;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/executor.rs"]
mod executor;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/image.rs"]
mod image;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/pod.rs"]
mod pod;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/registry.rs"]
mod registry;
#[path = "../../integration/tools.rs"]
mod tools;

mod account;
mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use account::{Step, read};
use pod::{Pod, Privileges};
use registry::{Access, Registry};
use tempfile::TempDir;
use workload::{WORKLOADS, Workload, fill};

/// Rows of the table, and the flag that makes them. Asked for by `*:*`, a backend never gives up.
const BACKENDS: [(&str, &str); 5] = [
    ("walk", "*:*=off"),
    ("ptrace", "*:*=ptrace"),
    ("inotify", "*:*=inotify"),
    (FANOTIFY, "*:*=fanotify"),
    (AUTO, AUTO),
];
const AUTO: &str = "auto";
/// Not to be had in a pod.
const FANOTIFY: &str = "fanotify";

/// The best of all runs, by backend, of each workload.
type Results = BTreeMap<&'static str, Vec<Step>>;

fn main() {
    let (mut names, mut runs, mut in_pod) = (Vec::new(), 3, false);
    for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        match argument.strip_prefix("--runs=") {
            Some(number) => runs = number.parse().expect("--runs=NUMBER"),
            None if argument == "--pod" => in_pod = true,
            None => names.push(argument),
        }
    }
    let wanted: Vec<&Workload> = WORKLOADS
        .iter()
        .filter(|workload| names.is_empty() || names.iter().any(|name| name == workload.name))
        .collect();
    let bench = Bench::prepare(&wanted, in_pod);
    let mut results = Results::new();
    for _ in 0..runs {
        for (backend, flag) in BACKENDS {
            if in_pod && backend == FANOTIFY {
                continue;
            }
            let steps = bench.build(flag, wanted.len());
            let best = results.entry(backend).or_insert_with(|| steps.clone());
            for (best, step) in best.iter_mut().zip(&steps) {
                best.improve(step);
            }
        }
    }
    print_stop();
    for (number, workload) in wanted.iter().enumerate() {
        print(workload, number, &results);
    }
}

/// The image of all workloads, its context, and a registry with the base.
struct Bench {
    in_pod: bool,
    home: TempDir,
    registry: Registry,
}

impl Bench {
    fn prepare(workloads: &[&Workload], in_pod: bool) -> Self {
        let home = tempfile::tempdir().expect("a directory for the builds");
        let registry = Registry::start(Access::Plain);
        registry.push(&workload::base(workloads), base::TAG, "toolchain:1", None);
        fill(&context(&home));
        let from = registry.reference("toolchain:1");
        let steps: String = workloads.iter().map(|it| format!("RUN {}\n", it.command)).collect();
        let text = format!("FROM {from}\nCOPY . /context/\nRUN sh /context/prepare\n{steps}");
        std::fs::write(home.path().join("Dockerfile"), text).expect("the Dockerfile");
        Self { in_pod, home, registry }
    }

    /// Builds with one backend; the account of each workload's step.
    fn build(&self, flag: &str, count: usize) -> Vec<Step> {
        let output = match self.in_pod {
            true => self.in_pod(flag),
            false => self.in_namespaces(flag),
        };
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "--run-tracer={flag}: {log}");
        let mut steps = read(&log);
        // The first two instructions are no workload.
        let first = steps.len().checked_sub(count).expect("an account of each step");
        steps.split_off(first)
    }

    fn in_namespaces(&self, flag: &str) -> Output {
        let work = tempfile::tempdir_in(self.home.path()).expect("a directory for the work");
        Command::new(env!("CARGO_BIN_EXE_executor"))
            .args(["--isolation=namespace", "--dockerfile"])
            .arg(self.home.path().join("Dockerfile"))
            .arg(format!("--kaniko-dir={}", work.path().join("kaniko").display()))
            .arg(format!("--context={}", context(&self.home).display()))
            .args(self.flags(flag))
            .output()
            .expect("the executor runs")
    }

    fn in_pod(&self, flag: &str) -> Output {
        let mut arguments = self.flags(flag);
        arguments
            .extend(["--context=/workspace", "--dockerfile=/given/Dockerfile"].map(Into::into));
        Pod::new(executor::static_executor(), Privileges::DEFAULT)
            .mount(&context(&self.home), "/workspace", "ro")
            .mount(self.home.path(), "/given", "ro")
            .arguments(arguments)
            .command()
            .output()
            .expect("runc runs")
    }

    fn flags(&self, tracer: &str) -> Vec<String> {
        let mut flags = vec![
            format!("--run-tracer={tracer}"),
            format!("--destination={}", self.registry.reference("built:1")),
        ];
        let others =
            ["--insecure", "--insecure-pull", "--verbosity=debug", "--compression-level=1"];
        flags.extend(others.into_iter().chain(["--log-timestamp=false"]).map(Into::into));
        flags
    }
}

fn context(home: &TempDir) -> PathBuf {
    Path::join(home.path(), "context")
}

/// What a stop alone costs: the measure of what is done in it.
fn print_stop() {
    let probed: Vec<f64> = (0..20)
        .filter_map(|_| tracer::Tracer::probe(tracer::Choice::Ptrace).ok())
        .map(|tracer| tracer.stop_cost().as_secs_f64() * 1e6)
        .collect();
    let least = probed.iter().copied().fold(f64::INFINITY, f64::min);
    println!("a stop at which nothing is done: {least:.1} us");
}

fn print(workload: &Workload, number: usize, results: &Results) {
    let of = |backend: &str| &results[backend][number];
    let alone = of("walk").command;
    let had = BACKENDS.iter().filter(|(backend, _)| results.contains_key(backend));
    println!("\n{}: {}", workload.name, workload.title);
    println!("  alone: {:.3} s of CPU, {:.3} s on the clock", alone.cpu, alone.wall);
    println!("  {:9} {:>17} {:>19}", "", "CPU ratio", "wall ratio");
    println!(
        "  {:9} {:>8} {:>8} {:>9} {:>9} {:>8} {:>9}",
        "", "command", "all", "command", "all", "events", "us/event"
    );
    for (backend, _) in had.clone() {
        let step = of(backend);
        let more = (step.command.cpu - alone.cpu) * 1e6 / step.events;
        let per_event = if more.is_finite() { format!("{more:.1}") } else { String::new() };
        println!(
            "  {backend:9} {:8.2} {:8.2} {:9.2} {:9.2} {:8} {per_event:>9} {}",
            step.command.cpu / alone.cpu,
            step.all().cpu / alone.cpu,
            step.command.wall / alone.wall,
            step.all().wall / alone.wall,
            step.events,
            step.remark
        );
    }
    let others = had.filter(|(backend, _)| *backend != AUTO);
    let best = others.min_by(|a, b| of(a.0).all().cpu.total_cmp(&of(b.0).all().cpu));
    let (best, _) = best.expect("there are others");
    println!(
        "  auto: {:.2} of the best, {best}; {}",
        of(AUTO).all().cpu / of(best).all().cpu,
        workload.aim(of(AUTO).command.cpu / alone.cpu, of(AUTO).all().cpu / alone.cpu)
    );
}
