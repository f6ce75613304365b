//! Little memory, little room: a build fits into it, or says what it lacks.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place};
use crate::pod::Privileges;
use crate::registry::{Access, Registry};

/// Less than the files of the builds below, by far.
const MEMORY: u64 = 256 << 20;

#[test]
fn a_file_of_a_gigabyte_fits_into_little_memory() {
    let limited = Privileges { memory: Some(MEMORY), ..Privileges::DEFAULT };
    let dockerfile = "FROM busybox\nCOPY block zeros /\n\
        RUN i=0; while [ $i -lt 512 ]; do cat /block /zeros; i=$((i+1)); done > /large\n";
    let noise: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = on_busybox(Place::Pod(limited), dockerfile)
        .file("block", noise)
        .file("zeros", vec![0; 1 << 20])
        .image();
    assert_eq!(image.tree()["/large"].size, 1 << 30);
}

#[test]
fn many_small_files_fit_into_little_memory() {
    let limited = Privileges { memory: Some(MEMORY), ..Privileges::DEFAULT };
    let image =
        on_busybox(Place::Pod(limited), "FROM busybox\nCOPY . /files/\nRUN rm -r /files/d1*\n")
            .context_by(|context| {
                for directory in 0..100 {
                    let home = context.join(format!("d{directory}"));
                    fs::create_dir(&home).unwrap();
                    for file in 0..200 {
                        fs::write(home.join(format!("f{file}")), file.to_string()).unwrap();
                    }
                }
            })
            .image();
    // The Dockerfile is one of them.
    assert_eq!(image.layers[1].names().len(), 20_001);
}

/// A file system of a few megabytes, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(kilobytes: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let kind = Some("tmpfs");
        mount(kind, home.path(), kind, MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(home)
    }

    fn path(&self) -> &Path {
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
        let words = ["Dockerfile:2", "No space left on device", "--kaniko-dir"];
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
        ended.refused(1, &["No space left on device", "/build-", "--kaniko-dir"]);
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
