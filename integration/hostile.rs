//! Base layers that no polite tool writes (rows 7 to 15 of the fault list).
//!
//! What is hostile has to be contained or refused; either is right, as long as a
//! sentinel outside of the root keeps every byte and every bit of metadata.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base;
use crate::craft::{Compression, Craft, Layer};
use crate::executor::{Build, PLACES, Place};
use crate::image::Image;

/// Writes the layer, given enough of `../` to leave any root.
type Attack = fn(&str, &Sentinel) -> Layer;

/// Breaks a blob.
type Damage = fn(&Path);

/// A file outside of every root, and what it was like.
struct Sentinel {
    directory: tempfile::TempDir,
    before: Vec<String>,
}

impl Sentinel {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "sentinel").unwrap();
        fs::set_permissions(directory.path().join("file"), PermissionsExt::from_mode(0o640))
            .unwrap();
        let mut sentinel = Self { directory, before: Vec::new() };
        sentinel.before = sentinel.state();
        sentinel
    }

    /// The file's name without the leading slash.
    fn name(&self) -> String {
        format!("{}/file", self.parent())
    }

    fn parent(&self) -> String {
        self.directory.path().display().to_string().trim_start_matches('/').to_owned()
    }

    fn state(&self) -> Vec<String> {
        let mut state: Vec<String> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| describe(&entry.unwrap().path()))
            .collect();
        state.push(describe(self.directory.path()));
        state.sort();
        state
    }
}

fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = fs::read_to_string(path).unwrap_or_default();
    format!(
        "{} {:o} {}:{} {} {} {}.{} {content}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec()
    )
}

/// A layer on top of BusyBox, as an image in a layout of its own.
fn on_busybox(layers: Vec<(Vec<u8>, Compression)>) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let layout = home.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let craft = Craft::new().tar(busybox_tar(), Compression::Gzip);
    let craft = layers.into_iter().fold(craft, |craft, (tar, how)| craft.tar(tar, how));
    craft.write(&layout, base::TAG);
    (home, layout)
}

/// A layer with a shell.
pub(crate) fn busybox_tar() -> Vec<u8> {
    let busybox = fs::read(crate::tools::find("busybox")).unwrap();
    let mut layer = Layer::new().directory("bin").mode(0o755).file("bin/busybox", busybox);
    for applet in ["sh", "test", "cat", "stat", "true", "ls", "readlink"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer.tar()
}

#[test]
fn nothing_leaves_the_root() {
    let up = "../".repeat(18);
    let attacks: &[(&str, Attack)] = &[
        ("a name with ..", |up, s| Layer::new().file(&format!("{up}{}", s.name()), "hit")),
        ("an absolute name", |_, s| Layer::new().file(&format!("/{}", s.name()), "hit")),
        ("a file through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).file("e/file", "hit")
        }),
        ("a new file through a relative link", |up, s| {
            Layer::new().symlink("e", &format!("{up}{}", s.parent())).file("e/new", "hit")
        }),
        ("a directory through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).mode(0o777).directory("e/d")
        }),
        ("the mode of a link's target", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).mode(0o777).directory("e")
        }),
        ("the owner of a link's target", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.name())).owner(7, 7).file("e", "hit")
        }),
        ("a device through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).character_device("e/n", 1, 3)
        }),
        ("a hard link to an absolute name", |_, s| {
            Layer::new().hard_link("h", &format!("/{}", s.name())).mode(0o777).file("h", "hit")
        }),
        ("a hard link with ..", |up, s| {
            Layer::new().hard_link("h", &format!("{up}{}", s.name())).file("h", "hit")
        }),
        ("a hard link through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).hard_link("h", "e/file")
        }),
        ("a whiteout through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).whiteout("e/file")
        }),
        ("an opaque mark through a link", |_, s| {
            Layer::new().symlink("e", &format!("/{}", s.parent())).opaque("e")
        }),
        ("a root that is a link", |_, s| {
            Layer::new().symlink(".", &format!("/{}", s.parent())).file("file", "hit")
        }),
    ];
    for (attack, layer) in attacks {
        let sentinel = Sentinel::new();
        let (_home, layout) = on_busybox(vec![(layer(&up, &sentinel).tar(), Compression::Gzip)]);
        let ended = Build::of("FROM hostile\nRUN true\n").base("hostile", layout).run();
        assert!([0, 1].contains(&ended.code()), "{attack}: {}", ended.log);
        assert_eq!(sentinel.state(), sentinel.before, "{attack}: {}", ended.log);
    }
}

#[test]
fn a_context_gives_nothing_from_outside() {
    for (case, source) in
        [("a link", "link"), ("a parent", "../secret"), ("a linked directory", "dir/secret")]
    {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "canary-77").unwrap();
        let ended = Build::of(&format!("FROM busybox\nCOPY {source} /x\n"))
            .base("busybox", base::busybox())
            .context_by(|context| {
                let link =
                    |to: &Path, name| std::os::unix::fs::symlink(to, context.join(name)).unwrap();
                link(&outside.path().join("secret"), "link");
                link(outside.path(), "dir");
            })
            .run();
        assert!([0, 1].contains(&ended.code()), "{case}: {}", ended.log);
        assert!(!ended.log.contains("canary-77"), "{case}");
        if ended.code() == 0 {
            let tree = ended.image().tree();
            let copied = tree.get("/x").map(ToString::to_string).unwrap_or_default();
            assert!(!copied.contains("canary-77"), "{case}: {copied}");
        }
    }
}

#[test]
fn odd_but_right_layers_unpack_as_docker_unpacks_them() {
    let below = Layer::new()
        .directory("usr")
        .directory("usr/lib")
        .file("usr/lib/a", "1")
        .symlink("lib", "usr/lib")
        .directory("run")
        .directory("var")
        .symlink("var/run", "/run")
        .file("gone", "x")
        .directory("opaque")
        .file("opaque/hidden", "x")
        .file("was-file", "x")
        .directory("was-directory")
        .file("was-directory/x", "x")
        .mode(0o640)
        .owner(3, 4)
        .mtime(5)
        .xattr("user.note", b"kept")
        .file("exact", "e")
        .hard_link("second", "exact")
        .fifo("fifo")
        .character_device("null", 1, 3)
        .file("bytes-\u{e9}", "u");
    let above = Layer::new()
        .file("lib/b", "2")
        .file("var/run/pid", "3")
        .whiteout("gone")
        .file("opaque/shown", "y")
        .opaque("opaque")
        .mode(0o700)
        .directory("was-file")
        .file("was-directory", "now a file");
    let (_home, layout) =
        on_busybox(vec![(below.tar(), Compression::Gzip), (above.tar(), Compression::Zstd)]);
    let checks = "test -L /lib -a \"$(cat /usr/lib/b)\" = 2 -a \"$(cat /run/pid)\" = 3
test -L /var/run -a ! -e /gone -a ! -e /opaque/hidden -a -e /opaque/shown
test -d /was-file -a -f /was-directory -a -p /fifo -a -c /null
test \"$(stat -c '%a %u:%g %Y %h' /exact)\" = '640 3:4 5 2' -a /exact -ef /second
";
    for place in PLACES {
        // In a pod `/run` may belong to the runtime; the rest is the same.
        let image = Build::of(&format!("FROM odd\nRUN <<'EOF'\nset -e\n{checks}EOF\nRUN true\n"))
            .base("odd", &layout)
            .place(place)
            .flag("--verify-snapshot=fail")
            .image();
        assert_eq!(image.layers[3].names(), Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn a_broken_blob_is_refused() {
    let tar = Layer::new().file("a", vec![7; 100_000]).tar();
    let flipped: Damage = |blob| {
        let mut bytes = fs::read(blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(blob, bytes).unwrap();
    };
    let short: Damage = |blob| {
        let bytes = fs::read(blob).unwrap();
        fs::write(blob, &bytes[..bytes.len() - 5]).unwrap();
    };
    let long: Damage = |blob| {
        let mut bytes = fs::read(blob).unwrap();
        bytes.extend([0; 9]);
        fs::write(blob, bytes).unwrap();
    };
    let missing: Damage = |blob| fs::remove_file(blob).unwrap();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        for apply in [flipped, short, long, missing] {
            let (_home, layout) = on_busybox(vec![(tar.clone(), compression)]);
            let digest = Image::open(&layout).top().digest.clone();
            apply(&layout.join("blobs").join(digest.replace(':', "/")));
            let name = &digest["sha256:".len()..][..12];
            for place in PLACES {
                Build::of("FROM broken\nRUN true\n")
                    .base("broken", &layout)
                    .place(place)
                    .run()
                    .refused(1, &[name]);
            }
        }
    }
}

#[test]
fn special_files_of_the_context_are_never_opened() {
    let image = Build::of("FROM busybox\nCOPY . /x/\n")
        .base("busybox", base::busybox())
        .file("plain", "1")
        .context_by(|context| {
            let fifo = context.join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        })
        .place(Place::Host)
        .image();
    let tree = image.tree();
    assert_eq!(tree["/x/plain"].to_string(), "- 0644 0:0 1 \"1\"");
    assert!(tree.get("/x/fifo").is_none_or(|entry| entry.to_string().starts_with('p')));
}
