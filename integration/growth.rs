//! What the size of a base costs: memory that is bounded, and for a step nothing at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::base;
use crate::build_basic::on_busybox;
use crate::craft::{Compression, Craft, Layer};
use crate::executor::{Place, static_executor};
use crate::pod::Privileges;
use crate::tools;

const LAYERS: u32 = 100;
const FILES: u32 = 1_500;

/// Room for the executor itself and three hundred bytes for each file.
const MEMORY: u64 = 96 << 20;

/// A hundred layers with names as long as those of real trees.
fn many_layers() -> PathBuf {
    base::made("hundred-layers", |home| {
        let layers = (0..LAYERS).map(|number| {
            let home = format!("usr/lib/python3/dist-packages/package-of-layer-{number:03}");
            let layer = Layer::new().directory(&home);
            (0..FILES)
                .fold(layer, |layer, file| layer.file(&format!("{home}/module-{file:04}.py"), ""))
        });
        layers.fold(Craft::new(), Craft::layer).write(home, base::TAG);
    })
}

#[test]
fn many_layers_of_many_files_fit_into_little_memory() {
    let limited = Privileges { memory: Some(MEMORY), ..Privileges::DEFAULT };
    let image = on_busybox(Place::Pod(limited), "FROM many\nCOPY f /f\n")
        .base("many", many_layers())
        .file("f", "1")
        .image();
    assert_eq!(image.top().names(), ["/f"]);
    assert_eq!(image.layers.len(), LAYERS as usize + 1);
}

/// BusyBox and a directory of files that no step touches.
fn with_bystanders() -> PathBuf {
    base::made("bystanders", |home| {
        let names = (0..2_000).map(|number| format!("bystanders/{number}"));
        let layer = Layer::new().directory("bystanders");
        let layer = names.fold(layer, |layer, name| layer.file(&name, name.as_bytes()));
        let busybox = crate::image::unpack(&base::busybox(), home);
        let tar = home.join("layer.tar");
        base::pack(&busybox, &tar);
        let craft = Craft::new().tar(fs::read(&tar).unwrap(), Compression::Gzip).layer(layer);
        craft.write(&home.join("layout"), base::TAG);
    })
    .join("layout")
}

/// The names below `/bystanders` in calls of the thread that builds, while it runs a step for the second to
/// the fifth time.
fn named_by(step: &str) -> BTreeSet<String> {
    let home = tempfile::tempdir().unwrap();
    let (trace, context) = (home.path().join("trace"), home.path().join("context"));
    fs::create_dir_all(&context).unwrap();
    let text = format!("FROM bystanders\n{}RUN exit 0\n", format!("{step}\n").repeat(5));
    fs::write(context.join("Dockerfile"), text).unwrap();
    let layout = with_bystanders();
    let mut strace = tools::command("strace");
    strace.args(["--trace=%file,%desc", "--string-limit=300", "--output"]).arg(&trace);
    strace.arg(static_executor()).args(["--isolation=namespace", "--no-push"]);
    strace.arg("--run-tracer=ptrace");
    strace.arg(format!("--build-context=bystanders=oci-layout://{}", layout.display()));
    strace.arg(format!("--context={}", context.display()));
    tools::output(strace.arg(format!("--kaniko-dir={}", home.path().join("work").display())));
    let trace = fs::read_to_string(&trace).unwrap();
    // Before the first step some paths are looked at, to know what a walk would cost.
    let lines = trace.lines().skip_while(|line| !line.contains("[2/6]"));
    let steps: Vec<&str> = lines.take_while(|line| !line.contains("RUN exit 0")).collect();
    assert!(steps.iter().any(|line| line.contains(step)), "{trace}");
    let calls = steps.iter().filter(|line| !line.starts_with("write("));
    let names = calls.filter_map(|line| line.split_once("bystanders/")?.1.split('"').next());
    names.map(str::to_owned).collect()
}

#[test]
fn a_step_looks_at_nothing_that_it_did_not_touch() {
    assert_eq!(named_by("RUN true"), BTreeSet::new());
    let touched = BTreeSet::from(["7".to_owned()]);
    assert_eq!(named_by("RUN touch /bystanders/7"), touched);
}
