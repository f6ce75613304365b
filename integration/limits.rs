//! Little memory, little room: a build fits into it, or says what it lacks.
//!
//! `KANIKO_LONG_RUN=1 cargo test --test integration limits` takes a file of ten gigabytes, and a million files
//! in a hundred layers, instead of one gigabyte and some thousand files.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::base;
use crate::build_basic::on_busybox;
use crate::craft::{Compression, Craft, Layer};
use crate::executor::{Build, PLACES, Place};
use crate::hostile;
use crate::pod::Privileges;
use crate::registry::{Access, Registry};

/// Less than the file below, by far. Files of a tmpfs count as memory: `TMPDIR` has to be on a disk.
const MEMORY: u64 = 256 << 20;

#[test]
fn a_file_of_a_gigabyte_fits_into_little_memory() {
    let limited = Privileges { memory: Some(MEMORY), ..Privileges::DEFAULT };
    let dockerfile = "FROM busybox\nCOPY block zeros /\n\
        RUN i=0; while [ $i -lt 512 ]; do cat /block /zeros; i=$((i+1)); done > /large\n";
    let noise: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    // The rest is a hole, which takes no room but is read, packed and hashed like all else.
    let size = if is_long() { 10 << 30 } else { 1 << 30 };
    let image =
        on_busybox(Place::Pod(limited), &format!("{dockerfile}RUN truncate -s {size} /large\n"))
            .file("block", noise)
            .file("zeros", vec![0; 1 << 20])
            .image();
    assert_eq!(image.tree()["/large"].size, size);
}

fn is_long() -> bool {
    std::env::var_os("KANIKO_LONG_RUN").is_some()
}

#[test]
fn a_hundred_layers_that_are_unpacked_fit_into_little_memory() {
    let files = if is_long() { 10_000 } else { 50 };
    let home = tempfile::tempdir().unwrap();
    let name = |layer: u32, file: u32| {
        format!("usr/lib/python3/dist-packages/package-of-layer-{layer:03}/{file:04}.py")
    };
    let layers = (0..100).map(|layer| {
        let names = (0..files).map(|file| name(layer, file));
        names.fold(Layer::new(), |layer, name| layer.file(&name, name.as_bytes()))
    });
    let craft = Craft::new().tar(hostile::busybox_tar(), Compression::Gzip);
    layers.fold(craft, Craft::layer).write(home.path(), base::TAG);
    let limited = Privileges { memory: Some(MEMORY), ..Privileges::DEFAULT };
    let (gone, kept) = (name(50, files - 1), name(99, 0));
    let dockerfile = format!("FROM many\nRUN busybox rm /{gone} && cat /{kept} > /new\n");
    let image = Build::of(&dockerfile).place(Place::Pod(limited)).base("many", home.path()).image();
    assert_eq!(image.top().names(), [format!("-/{gone}"), "/new".to_owned()]);
    assert_eq!(image.tree()["/new"].size, kept.len() as u64);
}

/// A file system of a few megabytes, in memory, gone with the value.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(kilobytes: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let kind = Some("tmpfs");
        mount(kind, home.path(), kind, MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(home)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The directory cannot be removed as long as this is mounted.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// Incompressible, and as large as the disks below are small.
const FILL: &str = "head -c 6000000 /dev/urandom > /big";

#[test]
fn a_full_disk_is_named_with_what_to_do() {
    for place in PLACES {
        let disk = SmallDisk::new(4000);
        let ended = on_busybox(place, &format!("FROM busybox\nRUN {FILL}\n"))
            .share("disk", disk.path())
            .flag("--kaniko-dir={disk}")
            .run();
        // On the host the step itself meets the full disk and says it in its own words.
        let words =
            ["Dockerfile:2", "No space left on device", "--kaniko-dir", "MB that were free"];
        ended.refused_with_any_status(if place == Place::Host { &words[2..] } else { &words });
        assert_eq!(crate::executor::files_below(disk.path()), Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn a_base_that_does_not_fit_is_named_with_what_to_do() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::debian(), base::TAG, "debian:1", None);
    // The blob does not fit, or what is in it does not.
    for kilobytes in [4_000, 60_000] {
        let disk = SmallDisk::new(kilobytes);
        let from = registry.reference("debian:1");
        let ended = Build::of(&format!("FROM {from}\nRUN true\n"))
            .flag("--insecure-pull")
            .share("disk", disk.path())
            .flag("--kaniko-dir={disk}")
            .run();
        let words = ["No space left on device", "/build-", "--kaniko-dir", "MB that were free"];
        ended.refused(1, &words);
        assert_eq!(crate::executor::files_below(disk.path()), Vec::<String>::new(), "{kilobytes}");
    }
}

#[test]
fn an_output_that_does_not_fit_is_named_and_removed() {
    for place in PLACES {
        for (flag, name) in
            [("--tar-path={disk}/x.tar", "x.tar"), ("--oci-layout-path={disk}/x", "x")]
        {
            let disk = SmallDisk::new(4000);
            let ended = Build::bare()
                .file("Dockerfile", format!("FROM busybox\nRUN {FILL}\n"))
                .base("busybox", base::busybox())
                .place(place)
                .share("disk", disk.path())
                .flags(["--no-push", "--destination=example.test/a:1", flag])
                .run();
            ended.refused(1, &["No space left on device", name]);
            let left = crate::executor::files_below(disk.path());
            assert_eq!(left, Vec::<String>::new(), "{place:?} {flag}");
        }
    }
}
