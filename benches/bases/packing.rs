//! From files to a layer, beside tar and a compressor on all cores.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use snapshot::{Compression, Exclusions, Index, Options, Suspects};

use crate::files::Words;
use crate::measure::{Figures, measure};
use crate::{best, row, text, tools};

/// The argument that makes this program pack one directory and end.
pub(crate) const ONE: &str = "pack-one";

pub(crate) fn compare(runs: usize) {
    let home = tempfile::tempdir().expect("a directory");
    let (small, large) = (home.path().join("small"), home.path().join("large"));
    write_small(&small);
    write_large(&large);
    for (what, dir) in [("10,000 small files", &small), ("a file of 1 GB", &large)] {
        let by = |gzip: &str| by_tar(runs, gzip, dir, home.path());
        let floor = by("pigz");
        println!("\n{what:24} {:>8} {:>8} {:>8} {:>6}", "wall s", "CPU s", "peak MB", "ratio");
        row("tar | pigz -1", &floor, &floor);
        row("tar | gzip -1", &by("gzip"), &floor);
        let ours = best(runs, || {
            let this = std::env::current_exe().expect("this program has a file");
            measure(Command::new(this).arg(ONE).arg(dir).arg(home.path()))
        });
        row("layer", &ours, &floor);
    }
}

fn by_tar(runs: usize, gzip: &str, dir: &Path, home: &Path) -> Figures {
    let gzip = text(&tools::find(gzip));
    best(runs, || {
        let mut command = Command::new("/bin/bash");
        command.args(["-o", "pipefail", "-c", "tar -c -C \"$dir\" . | $gzip -1 > \"$home/layer\""]);
        measure(command.env("gzip", &gzip).env("dir", dir).env("home", home))
    })
}

/// Compares a directory with nothing and packs the difference, as a step would be.
pub(crate) fn one(dir: &Path, home: &Path) {
    let root = fs::File::open(dir).expect("the directory");
    let nothing = (Index::new(), Exclusions::none());
    let found = snapshot::diff(root.as_fd(), &nothing.0, &Suspects::Everything, &nothing.1);
    let options = Options {
        compression: Compression::Gzip { level: 1 },
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        latest: None,
    };
    let layer = snapshot::pack(root.as_fd(), &mut found.expect("a difference"), home, options);
    assert!(layer.expect("a layer").size > 0);
}

fn write_small(dir: &Path) {
    let (words, mut random) = (Words::new(), fastrand::Rng::with_seed(1));
    for number in 0..10_000 {
        let home = dir.join(format!("{}", number / 100));
        fs::create_dir_all(&home).expect("a directory");
        let length = random.usize(0..8000);
        let content = words.text(&mut random, length);
        fs::write(home.join(format!("{number}")), content).expect("a file");
    }
}

fn write_large(dir: &Path) {
    fs::create_dir(dir).expect("a directory");
    let (words, mut random) = (Words::new(), fastrand::Rng::with_seed(2));
    let piece = words.text(&mut random, 16 << 20);
    let mut file = fs::File::create(dir.join("file")).expect("a file");
    for _ in 0..64 {
        file.write_all(&piece).expect("a gigabyte");
    }
}
