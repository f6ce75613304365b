//! The workloads by which the executor is measured, each row beside the others of one run.
//!
//! `cargo bench --bench workloads -- [WORKLOAD…] [--runs=N] [--peer NAME=COMMAND]…`
//!
//! Every build pulls its base from a registry on loopback and pushes its image
//! there: once traced, and once for each snapshot mode; and where stages do not need each
//! other, once with these in turn. The first row is the
//! floor: the same commands in a plain chroot on the unpacked base, with no
//! pull, no layer and no push. The second adds the unpacking, by GNU tar and
//! gzip; the last column is a row's CPU time over that row's. A peer is a shell command in which `{context}`,
//! `{dockerfile}` and `{destination}` are filled in.
//!
//! Roots, contexts and the registry lie in the temporary directory: with
//! `TMPDIR=/dev/shm` the disk has no part in the figures.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

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

mod measure;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use measure::{Figures, measure};
use registry::{Access, Registry};
use serde_json::Value;
use tempfile::TempDir;
use workload::{Workload, workloads};

/// Rows of the executor: name, and the flags that make it.
const MODES: &[(&str, &str)] = &[
    ("traced", "--run-tracer=ptrace"),
    ("full", "--snapshot-mode=full"),
    ("redo", "--snapshot-mode=redo"),
    ("time", "--snapshot-mode=time"),
];

/// The row of a build whose stages could be built at the same time, and are not.
const IN_TURN: (&str, &str) = ("in turn", "--parallel-stages=1");

/// What is asked for on the command line.
struct Wanted {
    workloads: Vec<String>,
    peers: Vec<(String, String)>,
    runs: usize,
}

impl Wanted {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self { workloads: Vec::new(), peers: Vec::new(), runs: 1 };
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            if argument == "--peer" {
                let peer = arguments.next().expect("--peer NAME=COMMAND");
                let (name, command) = peer.split_once('=').expect("--peer NAME=COMMAND");
                wanted.peers.push((name.to_owned(), command.to_owned()));
            } else if let Some(runs) = argument.strip_prefix("--runs=") {
                wanted.runs = runs.parse().expect("--runs=NUMBER");
            } else {
                wanted.workloads.push(argument);
            }
        }
        wanted
    }

    fn includes(&self, workload: &Workload) -> bool {
        self.workloads.is_empty() || self.workloads.iter().any(|name| name == workload.name)
    }
}

fn main() {
    let wanted = Wanted::parse(std::env::args().skip(1));
    let registry = Registry::start(Access::Plain);
    for workload in workloads().iter().filter(|workload| wanted.includes(workload)) {
        println!("\n{}  {}", workload.name, workload.title);
        let bench = Bench::prepare(workload, &registry, wanted.runs);
        let floor = bench.floor();
        let unpacked = bench.floor_with_unpacking();
        let table = Table { floor: &floor, unpacked: &unpacked, steps: workload.steps };
        table.print_head();
        table.print_row("floor", &floor, None);
        table.print_row("floor+tar", &unpacked, None);
        for (name, flag) in MODES.iter().chain(workload.independent.then_some(&IN_TURN)) {
            let figures = bench.executor(&workload.dockerfile, flag);
            let idle = workload.idle.as_ref().map(|dockerfile| bench.executor(dockerfile, flag));
            table.print_row(name, &figures, idle.as_ref());
        }
        for (name, command) in &wanted.peers {
            let figures = bench.peer(&workload.dockerfile, command);
            let idle = workload.idle.as_ref().map(|dockerfile| bench.peer(dockerfile, command));
            table.print_row(name, &figures, idle.as_ref());
        }
    }
}

/// One workload with its context written and its bases in the registry.
struct Bench<'a> {
    workload: &'a Workload,
    registry: &'a Registry,
    home: TempDir,
    runs: usize,
}

impl<'a> Bench<'a> {
    fn prepare(workload: &'a Workload, registry: &'a Registry, runs: usize) -> Self {
        let home = tempfile::tempdir().expect("a directory for the workload");
        let context = home.path().join("context");
        fs::create_dir(&context).expect("a directory for the context");
        (workload.context)(&context);
        for (name, layout) in &workload.bases {
            registry.push(&layout(), base::TAG, &format!("{name}:1"), None);
        }
        Self { workload, registry, home, runs }
    }

    /// The commands alone, in a fresh copy of the unpacked base.
    fn floor(&self) -> Figures {
        let (name, layout) = &self.workload.bases[0];
        let tree = unpacked(name, &layout());
        self.commands("", |root| {
            tools::run("cp", ["-a".as_ref(), tree.as_os_str(), root.as_os_str()]);
        })
    }

    /// The commands, and before them the unpacking of the base's layers.
    fn floor_with_unpacking(&self) -> Figures {
        let (_, layout) = &self.workload.bases[0];
        let unpack: String = layers(&layout())
            .iter()
            .map(|layer| format!("tar -xzf {} -C $root\n", layer.display()))
            .collect();
        self.commands(&unpack, |root| fs::create_dir(root).expect("a directory for the root"))
    }

    fn commands(&self, before: &str, prepare: impl Fn(&Path)) -> Figures {
        self.best(|| {
            let home = tempfile::tempdir().expect("a directory for the root");
            let root = home.path().join("root");
            prepare(&root);
            let script = format!("{before}{}", self.workload.floor);
            let mut command = tools::command("unshare");
            command
                .args(["--mount", "/bin/sh", "-ec", &script, "sh"])
                .env("root", &root)
                .env("context", self.home.path().join("context"));
            measure(&mut command)
        })
    }

    fn executor(&self, dockerfile: &str, flag: &str) -> Figures {
        let file = self.dockerfile(dockerfile);
        self.best(|| {
            let work = tempfile::tempdir_in(self.home.path()).expect("a directory for the work");
            let mut command = Command::new(executor());
            command
                .args([
                    "--isolation=namespace",
                    "--insecure",
                    "--insecure-pull",
                    "--verbosity=warn",
                ])
                .arg(flag)
                .arg(format!("--kaniko-dir={}", work.path().join("kaniko").display()))
                .arg(format!("--context={}", self.home.path().join("context").display()))
                .arg(format!("--dockerfile={}", file.display()))
                .arg(format!("--destination={}", self.registry.reference("built:1")));
            measure(&mut command)
        })
    }

    fn peer(&self, dockerfile: &str, template: &str) -> Figures {
        let file = self.dockerfile(dockerfile);
        let context = self.home.path().join("context");
        let line = template
            .replace("{context}", &context.display().to_string())
            .replace("{dockerfile}", &file.display().to_string())
            .replace("{destination}", &self.registry.reference("peer:1"));
        self.best(|| measure(Command::new("/bin/sh").args(["-c", &format!("exec {line}")])))
    }

    /// Writes a Dockerfile in which `{NAME}` is a base of the workload.
    fn dockerfile(&self, text: &str) -> PathBuf {
        let text = self.workload.bases.iter().fold(text.to_owned(), |text, (name, _)| {
            text.replace(&format!("{{{name}}}"), &self.registry.reference(&format!("{name}:1")))
        });
        let path = self.home.path().join("Dockerfile");
        fs::write(&path, text).expect("the Dockerfile is written");
        path
    }

    fn best(&self, run: impl Fn() -> Figures) -> Figures {
        (0..self.runs.max(1))
            .map(|_| run())
            .min_by(|a, b| a.wall.total_cmp(&b.wall))
            .expect("it ran at least once")
    }
}

/// Rows of one workload, and what they are compared with.
struct Table<'a> {
    floor: &'a Figures,
    unpacked: &'a Figures,
    steps: u32,
}

impl Table<'_> {
    fn print_head(&self) {
        println!(
            "{:10} {:>8} {:>8} {:>8} {:>9} {:>9}",
            "", "wall s", "CPU s", "peak MB", "ms/step", "CPU ratio"
        );
    }

    fn print_row(&self, name: &str, figures: &Figures, idle: Option<&Figures>) {
        let per_step =
            idle.map_or(String::new(), |idle| format!("{:.1}", self.per_step(figures, idle)));
        println!(
            "{name:10} {:8.2} {:8.2} {:8.1} {per_step:>9} {:9.2}{}",
            figures.wall,
            figures.cpu,
            figures.peak,
            figures.cpu / self.unpacked.cpu,
            if figures.succeeded { "" } else { "  FAILED" }
        );
    }

    /// Milliseconds that a step costs beyond its command, pull and unpacking taken off.
    fn per_step(&self, figures: &Figures, idle: &Figures) -> f64 {
        (figures.wall - idle.wall - self.floor.wall) * 1000.0 / f64::from(self.steps)
    }
}

/// The layer blobs of the only image in a layout, the lowest first.
fn layers(layout: &Path) -> Vec<PathBuf> {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let json = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("the layout is whole")).expect("it is JSON")
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]));
    manifest["layers"].as_array().expect("a manifest has layers").iter().map(blob).collect()
}

/// The files of a base, unpacked once by umoci.
fn unpacked(name: &str, layout: &Path) -> PathBuf {
    let home = base::made(&format!("{name}-unpacked"), |home| {
        let image = format!("{}:{}", layout.display(), base::TAG);
        let bundle = home.join("bundle");
        tools::run(
            "umoci",
            ["unpack".as_ref(), "--image".as_ref(), image.as_ref(), bundle.as_os_str()],
        );
    });
    home.join("bundle/rootfs")
}

/// The executor that was built with this program.
fn executor() -> &'static str {
    env!("CARGO_BIN_EXE_executor")
}
