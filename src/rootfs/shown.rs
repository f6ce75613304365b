//! What a `RUN --mount` shows inside the root of a step in namespaces.
//!
//! The mounts are made in the step's own mount namespace, so they end with it, whatever ends it.
//! Secrets lie in a file system in memory that nothing but their mounts can be reached by once the
//! old root is gone: they are never on a disk, and no crash leaves one behind.

use std::path::{Path, PathBuf};

use snapshot::ImagePath;
use tracer::{Command, Hidden, Setup};

use super::mounts::{Point, c_path, text, under};

/// One mount of a step, its target without symbolic links.
#[derive(Debug)]
pub enum Shown {
    /// A file or directory of this machine. Device nodes in it cannot be opened.
    Bind {
        /// Where it is on this machine.
        source: PathBuf,
        /// Where it is shown.
        target: ImagePath,
        /// Whether it cannot be written through.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where it is.
        target: ImagePath,
        /// Its limit in bytes; none is half of the machine's memory.
        size: Option<u64>,
        /// Whether it stays empty.
        read_only: bool,
    },
    /// A read-only file with this content.
    Secret {
        /// Where it is.
        target: ImagePath,
        /// What is in it.
        content: Hidden,
        /// Its permission bits.
        mode: u32,
        /// Its user and group.
        owner: (u32, u32),
    },
    /// A mount point inside a mount that was made before it.
    Point {
        /// Where it is.
        target: ImagePath,
        /// What it has to be.
        point: Point,
    },
}

/// Appends the calls that make these mounts, in their order. `hidden` is an empty directory of this
/// machine, over which the file system of the secrets is mounted.
pub(super) fn show(command: &mut Command, root: &Path, mounts: &[Shown], hidden: &Path) {
    let modes: Vec<u32> = mounts.iter().filter_map(mode_of_secret).collect();
    if !modes.is_empty() {
        let no_exec = if modes.iter().any(|mode| mode & 0o111 != 0) { 0 } else { libc::MS_NOEXEC };
        command.prepare(Setup::Mount {
            source: text("tmpfs"),
            target: c_path(hidden),
            fstype: text("tmpfs"),
            flags: libc::MS_NOSUID | libc::MS_NODEV | no_exec,
            data: text("mode=700"),
        });
    }
    for (number, mount) in mounts.iter().enumerate() {
        show_one(command, root, mount, &hidden.join(number.to_string()));
    }
}

fn mode_of_secret(mount: &Shown) -> Option<u32> {
    match mount {
        Shown::Secret { mode, .. } => Some(*mode),
        Shown::Bind { .. } | Shown::Tmpfs { .. } | Shown::Point { .. } => None,
    }
}

fn show_one(command: &mut Command, root: &Path, mount: &Shown, file: &Path) {
    let bind = |command: &mut Command, source: &Path, target: &ImagePath, read_only| {
        command.prepare(Setup::Bind {
            source: c_path(source),
            target: c_path(&under(root, target)),
            recursive: false,
            read_only,
            no_devices: true,
        });
    };
    match mount {
        Shown::Bind { source, target, read_only } => bind(command, source, target, *read_only),
        Shown::Tmpfs { target, size, read_only } => {
            let read_only = if *read_only { libc::MS_RDONLY } else { 0 };
            command.prepare(Setup::Mount {
                source: text("tmpfs"),
                target: c_path(&under(root, target)),
                fstype: text("tmpfs"),
                flags: libc::MS_NOSUID | libc::MS_NODEV | read_only,
                data: text(&size.map(|size| format!("size={size}")).unwrap_or_default()),
            });
        }
        Shown::Secret { target, content, mode, owner } => {
            command.prepare(Setup::Content {
                path: c_path(file),
                mode: mode & 0o777,
                owner: *owner,
                content: content.clone(),
            });
            bind(command, file, target, true);
        }
        Shown::Point { target, point } => {
            let path = c_path(&under(root, target));
            command.prepare(match point {
                Point::Dir => Setup::Mkdir { path, mode: 0o755 },
                Point::File => Setup::File { path, mode: 0o644 },
            });
        }
    }
}
