//! Pull and push of an image of ten layers and a gigabyte, beside skopeo in the same run.
//!
//! `cargo bench --bench transfers -- [--megabytes=N] [--runs=N]`
//!
//! The registry is on loopback, everything lies in the temporary directory: with `TMPDIR=/dev/shm`
//! the disk has no part in the figures. A pull is a build of `FROM image` alone into an OCI layout,
//! beside `skopeo copy docker://… oci:…`; a push is `executor push` of a layout, beside `skopeo copy
//! oci:… docker://…`. Layers are noise, which nobody compresses.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/base.rs"]
mod base;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/craft.rs"]
mod craft;
#[path = "../workloads/measure.rs"]
mod measure;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/registry.rs"]
mod registry;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../../integration/tools.rs"]
mod tools;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use craft::{Compression, Craft, Layer};
use measure::{Figures, measure};
use registry::{Access, Registry};

const LAYERS: usize = 10;

/// A number given as `--NAME=`.
fn number(name: &str, default: usize) -> usize {
    let flag = format!("--{name}=");
    let given = std::env::args().find_map(|it| it.strip_prefix(&flag).map(str::to_owned));
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// An image of layers of noise, as an OCI layout.
fn image(layout: &Path, bytes: usize) {
    let mut random = fastrand::Rng::with_seed(1);
    let layers = (0..LAYERS).map(|number| {
        let noise: Vec<u8> =
            std::iter::repeat_with(|| random.u8(..)).take(bytes / LAYERS).collect();
        Layer::new().file(&format!("layer-{number}"), noise)
    });
    let image = layers.fold(Craft::new(), |image, layer| image.tar(layer.tar(), Compression::Gzip));
    image.write(layout, "x");
}

fn row(name: &str, figures: &Figures) {
    assert!(figures.succeeded, "{name} failed");
    println!("| {name} | {:.2} | {:.2} | {:.0} |", figures.wall, figures.cpu, figures.peak);
}

fn executor(work: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_executor"));
    command.env_clear().env("HOME", work).env("TMPDIR", work).stderr(Stdio::null());
    command
}

fn skopeo() -> Command {
    let mut command = tools::command("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    command.arg("--dest-tls-verify=false");
    command
}

fn main() {
    let (bytes, runs) = (number("megabytes", 1000) << 20, number("runs", 1));
    let home = tempfile::tempdir().expect("a directory");
    let layout = home.path().join("image");
    fs::create_dir(&layout).expect("a directory");
    image(&layout, bytes);
    let context = home.path().join("context");
    fs::create_dir(&context).expect("a directory");
    println!("| | wall s | CPU s | peak MB |\n|---|---|---|---|");
    for run in 0..runs {
        let (ours, theirs) = (Registry::start(Access::Plain), Registry::start(Access::Plain));
        let push = |registry: &Registry| format!("docker://{}", registry.reference("a:1"));
        let from = format!("oci:{}:x", layout.display());
        let mut command = executor(home.path());
        command.arg("push").arg(&layout).args(["-d", &ours.reference("a:1")]);
        row("executor push", &measure(&mut command));
        row("skopeo push", &measure(skopeo().args([&from, &push(&theirs)])));
        row("executor push, unchanged", &measure(&mut command));
        row("skopeo push, unchanged", &measure(skopeo().args([&from, &push(&theirs)])));
        fs::write(context.join("Dockerfile"), format!("FROM {}\n", ours.reference("a:1")))
            .expect("a Dockerfile");
        let (to, other) = (home.path().join(format!("ours-{run}")), format!("theirs-{run}"));
        let mut command = executor(home.path());
        command.args(["--no-push", "--isolation=namespace", "--context"]).arg(&context);
        row("executor pull", &measure(command.arg("--oci-layout-path").arg(&to)));
        let other = home.path().join(other);
        let into = format!("oci:{}:x", other.display());
        row("skopeo pull", &measure(skopeo().args([&push(&theirs), &into])));
        for dir in [to, other] {
            fs::remove_dir_all(dir).expect("what was pulled is there");
        }
    }
}
