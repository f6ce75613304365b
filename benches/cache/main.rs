//! What a cache costs where everything hits: time and requests of a build, and time of computing keys.
//!
//! `cargo bench --bench cache -- [--files=N] [--megabytes=N] [--runs=N]`
//!
//! The first table is a build of 20 RUN steps on a base of 50,000 files, cold and then fully cached, pushed to the
//! same name and once to a new one, with the registry on loopback. The second is the time that keys take for `COPY . .` of a context, as the
//! executor says it: when no file is known, and when all are; beside it what `sha256sum` takes for the same
//! files on all processors.

#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/base.rs"]
mod base;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/craft.rs"]
mod craft;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/registry.rs"]
mod registry;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/tools.rs"]
mod tools;
#[expect(dead_code, reason = "the other benches need more of it")]
#[path = "../workloads/workload.rs"]
mod workload;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use registry::{Access, Registry};

/// Steps of the build.
const STEPS: usize = 20;

/// A number given as `--NAME=`.
fn number(name: &str, default: usize) -> usize {
    let flag = format!("--{name}=");
    let given = std::env::args().find_map(|it| it.strip_prefix(&flag).map(str::to_owned));
    given.map_or(default, |text| text.parse().expect("a number"))
}

fn executor(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
    command.env_clear().env("HOME", home).env("TMPDIR", home).env("PATH", "/usr/bin:/bin");
    command.args(["--isolation=namespace", "--cache"]);
    command
}

fn run(command: &mut Command) -> (f64, Output) {
    let started = Instant::now();
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    (started.elapsed().as_secs_f64(), output)
}

fn main() {
    let home = tempfile::tempdir().expect("a directory");
    cached_build(home.path(), number("runs", 5));
    keys(home.path(), number("files", 20_000), number("megabytes", 1000), number("runs", 5));
}

fn cached_build(home: &Path, runs: usize) {
    let many = workload::workloads()
        .into_iter()
        .flat_map(|it| it.bases)
        .find(|(name, _)| *name == "many")
        .expect("a base of many files")
        .1();
    let registry = Registry::start(Access::Plain);
    registry.push(&many, base::TAG, "many:1", None);
    let context = home.join("steps");
    fs::create_dir(&context).expect("a directory");
    let mut dockerfile = format!("FROM {}\n", registry.reference("many:1"));
    for step in 0..STEPS {
        let _ = writeln!(dockerfile, "RUN echo {step} > /step-{step}");
    }
    fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    println!(
        "{STEPS} steps on 50,000 files\n\n| | wall s | requests | for each step |\n|---|---|---|---|"
    );
    for turn in 0..=runs + 1 {
        let before = requests(&registry);
        let tag = if turn > runs { "app:2" } else { "app:1" };
        let mut command = executor(home);
        command.arg("--context").arg(&context).args(["--insecure", "--insecure-pull"]);
        command.args(["--destination", &registry.reference(tag)]);
        let (wall, output) = run(&mut command);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let hits = log.matches("Cached: ").count();
        assert_eq!(hits, if turn == 0 { 0 } else { STEPS }, "{log}");
        let asked = requests(&registry) - before;
        let name = match turn {
            0 => "cold",
            turn if turn <= runs => "fully cached",
            _ => "fully cached, pushed under a new name",
        };
        println!("| {name} | {wall:.2} | {asked} | {:.1} |", asked as f64 / STEPS as f64);
    }
}

fn requests(registry: &Registry) -> usize {
    ["GET", "HEAD", "POST", "PUT", "PATCH"].iter().map(|it| registry.paths(it).len()).sum()
}

fn keys(home: &Path, files: usize, megabytes: usize, runs: usize) {
    let context = home.join("context");
    let size = megabytes * 1_000_000 / files;
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
    for file in 0..files {
        let dir = context.join(format!("d{}", file / 100));
        fs::create_dir_all(&dir).expect("a directory");
        // Different content for each.
        bytes[..8].copy_from_slice(&(file as u64).to_le_bytes());
        fs::write(dir.join(format!("f{file}")), &bytes).expect("a file");
    }
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY . /files/\n").expect("a Dockerfile");
    println!(
        "\nkeys for {files} files of {megabytes} MB\n\n| | keys ms | process s |\n|---|---|---|"
    );
    // Files that were changed just now are not remembered.
    std::thread::sleep(std::time::Duration::from_secs(75));
    let place = format!("dir:{}", home.join("cache").display());
    for turn in 0..=runs {
        let mut command = executor(home);
        command.arg("--context").arg(&context).args(["--dryrun", "--verbosity=debug"]);
        command.args(["--cache-copy-layers", "--cache-repo", &place]);
        let (wall, output) = run(&mut command);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = log.lines().find_map(|line| {
            line.split_once(" keys in ")?.1.split_whitespace().next().map(str::to_owned)
        });
        let name = if turn == 0 { "no file is known" } else { "all files are known" };
        println!("| {name} | {} | {wall:.2} |", told.expect("the log says it"));
    }
    let mut floor = Command::new("sh");
    let hash = "find . -type f -print0 | xargs -0 -n 100 -P $(nproc) sha256sum > /dev/null";
    let (wall, _) = run(floor.args(["-c", hash]).current_dir(&context));
    println!("| sha256sum on all processors | {:.0} | |", wall * 1000.0);
}
