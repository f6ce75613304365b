//! From a base in a registry to a tree, and from files to a layer, beside the tools that do no more than
//! that.
//!
//! `cargo bench --bench bases -- [unpack] [growth] [pack] [--runs=N]`
//!
//! - `unpack`: 1.2 GB in 50,000 files and four layers. The executor pulls them from a registry on
//!   loopback and unpacks, which its log tells the time of, runs `true` and removes the tree;
//!   `igzip -dc | tar x` and `gzip -dc | tar x` take the same blobs from the file system, layer by
//!   layer; skopeo and umoci pull and unpack. Ratios are to the wall time of igzip's row.
//! - `growth`: what `RUN true` costs on bases of 10,000, 100,000 and 1,000,000 files beyond unpacking,
//!   by the times at which its log tells of steps; and the peak of memory.
//! - `pack`: a layer of 10,000 new files and one of a file of a gigabyte, beside `tar | pigz -1`.
//!
//! Everything lies in the temporary directory: with `TMPDIR=/dev/shm` the disk has no part in the
//! figures.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/base.rs"]
mod base;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/craft.rs"]
mod craft;
mod files;
#[path = "../workloads/measure.rs"]
mod measure;
mod packing;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/registry.rs"]
mod registry;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/tools.rs"]
mod tools;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use measure::{Figures, measure};
use registry::{Access, Registry};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    if let [packing::ONE, dir, home] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        return packing::one(Path::new(dir), Path::new(home));
    }
    let runs = arguments.iter().find_map(|it| it.strip_prefix("--runs="));
    let runs = runs.map_or(3, |text| text.parse().expect("--runs=NUMBER"));
    let wanted = |name: &str| {
        let mut named = arguments.iter().filter(|it| !it.starts_with("--")).peekable();
        named.peek().is_none() || named.any(|it| it == name)
    };
    if wanted("unpack") {
        unpack(runs);
    }
    if wanted("growth") {
        growth(runs);
    }
    if wanted("pack") {
        packing::compare(runs);
    }
}

fn unpack(runs: usize) {
    let stored = base::made("large", |home| files::large().write(home, base::TAG));
    let home = tempfile::tempdir().expect("a directory");
    let layout = home.path().join("layout");
    tools::run("cp", ["-a", &text(&stored), &text(&layout)]);
    let registry = Registry::start(Access::Plain);
    registry.push(&layout, base::TAG, "large:1", None);
    let blobs = files::layers(&layout);
    let by = |gunzip: &str| {
        let gunzip = text(&tools::find(gunzip));
        let script =
            "for blob in \"$@\"; do $gunzip -dc \"$blob\" | tar -x -C \"$root\" || exit; done";
        best(runs, || {
            let root = tempfile::tempdir_in(home.path()).expect("a directory for the root");
            let mut command = Command::new("/bin/bash");
            command.args(["-o", "pipefail", "-c", script, "bash"]).args(&blobs);
            measure(command.env("gunzip", &gunzip).env("root", root.path()))
        })
    };
    let floor = by("igzip");
    println!(
        "\n{:24} {:>8} {:>8} {:>8} {:>6}",
        "1.2 GB, 50,000 files", "wall s", "CPU s", "peak MB", "ratio"
    );
    row("igzip -dc | tar x", &floor, &floor);
    row("gzip -dc | tar x", &by("gzip"), &floor);
    let from = registry.reference("large:1");
    let pull = executor(home.path(), runs, &format!("FROM {from}\nRUN true\n"));
    let unpacked = Figures { wall: seconds_of_unpacking(home.path()), ..pull };
    row("executor: pull, unpack", &unpacked, &floor);
    row("executor: all of it", &pull, &floor);
    let peers = best(runs, || {
        let to = tempfile::tempdir_in(home.path()).expect("a directory for the layout");
        let script = "skopeo --insecure-policy copy --quiet --src-tls-verify=false \
            \"docker://$from\" \"oci:$to:x\" && umoci unpack --image \"$to:x\" \"$to/bundle\"";
        let mut command = Command::new("/bin/sh");
        measure(command.args(["-c", script]).env("from", &from).env("to", to.path()))
    });
    row("skopeo, umoci", &peers, &floor);
}

fn growth(runs: usize) {
    println!("\n{:>24} {:>8} {:>8} {:>12}", "files", "wall s", "peak MB", "ms/RUN true");
    for count in [10_000, 100_000, 1_000_000] {
        let home = tempfile::tempdir().expect("a directory");
        let layout = home.path().join("layout");
        fs::create_dir(&layout).expect("a directory for the layout");
        files::many(count).write(&layout, base::TAG);
        let registry = Registry::start(Access::Plain);
        registry.push(&layout, base::TAG, "many:1", None);
        let from = format!("FROM {}\n", registry.reference("many:1"));
        let steps = format!("{from}{}", "RUN true\n".repeat(12));
        let all = executor(home.path(), runs, &steps);
        let step = milliseconds_of_a_step(home.path(), &steps);
        println!("{count:24} {:8.2} {:8.0} {step:12.1}", all.wall, all.peak);
    }
}

/// The mean from the beginning of one `RUN true` to that of the next, from the second on: before the first
/// the build finds out what a walk would cost.
fn milliseconds_of_a_step(home: &Path, dockerfile: &str) -> f64 {
    let work = tempfile::tempdir_in(home).expect("a directory for the work");
    let mut build = build(home, dockerfile, work.path());
    let mut child = build.stderr(Stdio::piped()).spawn().expect("the executor starts");
    let log = BufReader::new(child.stderr.take().expect("it is piped"));
    let lines = log.lines().map_while(Result::ok).filter(|line| line.contains("] RUN true"));
    let begun: Vec<Instant> = lines.map(|_| Instant::now()).collect();
    assert!(child.wait().expect("it ends").success());
    let all = begun[begun.len() - 1].duration_since(begun[1]);
    all.as_secs_f64() * 1000.0 / (begun.len() - 2) as f64
}

/// The least that builds with this log said that unpacking their base took.
fn seconds_of_unpacking(home: &Path) -> f64 {
    let log = fs::read_to_string(home.join("log")).expect("the log");
    let lines = log.lines().filter(|line| line.contains("Unpacked"));
    let times = lines.filter_map(|line| line.rsplit(' ').next()?.strip_suffix('s')?.parse().ok());
    times.min_by(f64::total_cmp).expect("a base was unpacked")
}

/// Builds that push nothing, on an empty context. Their log is in `home`.
fn executor(home: &Path, runs: usize, dockerfile: &str) -> Figures {
    best(runs, || {
        let work = tempfile::tempdir_in(home).expect("a directory for the work");
        let log = fs::File::options().append(true).create(true).open(home.join("log"));
        measure(build(home, dockerfile, work.path()).stderr(log.expect("the log")))
    })
}

fn build(home: &Path, dockerfile: &str, work: &Path) -> Command {
    let context = home.join("context");
    fs::create_dir_all(&context).expect("a directory for the context");
    fs::write(context.join("Dockerfile"), dockerfile).expect("the Dockerfile");
    let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
    command.args(["--isolation=namespace", "--insecure-pull", "--no-push"]);
    command.arg(format!("--context={}", context.display()));
    command.arg(format!("--kaniko-dir={}", work.join("kaniko").display()));
    command
}

pub(crate) fn row(name: &str, figures: &Figures, floor: &Figures) {
    assert!(figures.succeeded, "{name} failed");
    let Figures { wall, cpu, peak, .. } = figures;
    println!("{name:24} {wall:8.2} {cpu:8.2} {peak:8.0} {:6.2}", wall / floor.wall);
}

pub(crate) fn best(runs: usize, run: impl Fn() -> Figures) -> Figures {
    let all = (0..runs.max(1)).map(|_| run());
    all.min_by(|a, b| a.wall.total_cmp(&b.wall)).expect("it ran at least once")
}

pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
