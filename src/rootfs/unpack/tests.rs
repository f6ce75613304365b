use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::rootfs::Rootfs;
use crate::rootfs::crafted::{Crafted, record};

/// A root, and beside it a tree that nothing may touch.
struct Scene {
    dir: tempfile::TempDir,
    before: String,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("made");
        fs::create_dir(dir.path().join("root")).expect("made");
        fs::write(outside.join("file"), "sentinel").expect("written");
        fs::write(outside.join("dir/file"), "sentinel").expect("written");
        symlink("file", outside.join("link")).expect("made");
        let before = told(&outside);
        Self { dir, before }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    /// Applies the layers in order; then the index has to be what a walk finds.
    fn apply(&self, layers: &[Vec<u8>]) -> Result<Rootfs, String> {
        let mut rootfs = Rootfs::empty(&self.root()).expect("it is there");
        let mut unpacker = rootfs.unpack();
        let result = layers
            .iter()
            .try_for_each(|layer| unpacker.apply(&layer[..]).map(drop))
            .map_err(|error| error.to_string());
        unpacker.finish().expect("directories can be settled");
        assert_eq!(told(&self.dir.path().join("outside")), self.before, "the tree outside");
        result?;
        rootfs.settle();
        let found = rootfs.difference(&snapshot::Suspects::Everything).expect("it can be walked");
        let changes = snapshot::listing::changes(&found.changes);
        assert_eq!(changes, "", "the index differs from the disk");
        Ok(rootfs)
    }

    /// The outside directory by a path that climbs out of the root.
    fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }
}

/// Everything that can be told about a tree, one line for each path.
fn told(dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let content = if meta.is_file() { fs::read(&path).expect("readable") } else { Vec::new() };
        lines.push(format!(
            "{} {:o} {}:{} {} {}.{} {}.{} {}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            String::from_utf8_lossy(&content),
        ));
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("readable").map(|it| it.expect("it").path()));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// `PATH KIND MODE OWNER[ CONTENT]` of everything below a root; times only where they were set.
fn tree(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let kind = meta.file_type();
        let name = path.strip_prefix(root).expect("below").display().to_string();
        let rest = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("a link").display())
        } else if kind.is_file() {
            format!("{:04o} {}", meta.mode() & 0o7777, fs::read_to_string(&path).expect("text"))
        } else if kind.is_dir() {
            format!("{:04o}/", meta.mode() & 0o7777)
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {:x}", meta.rdev())
        };
        if path != root {
            lines.push(format!("{name} {rest}"));
        }
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("readable").map(|it| it.expect("it").path()));
        }
    }
    lines.sort();
    lines.join("; ")
}

fn new() -> Crafted {
    Crafted::new()
}

#[test]
fn layers_make_the_tree_that_docker_makes() {
    let lower = || new().dir("d/").file("d/a", b"1").file("d/b", b"2").file("f", b"3");
    for (what, layers, want) in [
        ("forgotten parents", vec![new().file("x/y/z", b"1")], "x 0755/; x/y 0755/; x/y/z 0644 1"),
        ("the root itself", vec![new().dir("./").file("./f", b"1")], "f 0644 1"),
        ("absolute names", vec![new().file("/f", b"1")], "f 0644 1"),
        ("a whiteout", vec![lower(), new().file("d/.wh.a", b"")], "d 0755/; d/b 0644 2; f 0644 3"),
        (
            "a whiteout of nothing",
            vec![lower(), new().file("d/.wh.x", b"").file("q/.wh.x", b"")],
            "d 0755/; d/a 0644 1; d/b 0644 2; f 0644 3",
        ),
        ("a whiteout of a tree", vec![lower(), new().file(".wh.d", b"")], "f 0644 3"),
        (
            "an opaque directory",
            vec![lower(), new().dir("d").file("d/.wh..wh..opq", b"").file("d/c", b"4")],
            "d 0755/; d/c 0644 4; f 0644 3",
        ),
        (
            "opaque comes last",
            vec![lower(), new().dir("d").file("d/c", b"4").file("d/.wh..wh..opq", b"")],
            "d 0755/; d/c 0644 4; f 0644 3",
        ),
        (
            "an opaque root",
            vec![lower(), new().file(".wh..wh..opq", b"").file("n", b"")],
            "n 0644 ",
        ),
        (
            "a whiteout behind its own file",
            vec![lower(), new().file("f", b"new").file(".wh.f", b"")],
            "d 0755/; d/a 0644 1; d/b 0644 2; f 0644 new",
        ),
        (
            "a whiteout and a tree of its own",
            vec![lower(), new().file("d/n", b"5").file(".wh.d", b"")],
            "d 0755/; d/n 0644 5; f 0644 3",
        ),
        (
            "aufs's own",
            vec![
                new()
                    .dir(".wh..wh.plnk")
                    .file(".wh..wh.plnk/1.2", b"x")
                    .file(".wh..wh.aufs", b"")
                    .file("f", b""),
            ],
            "f 0644 ",
        ),
        ("a file over a directory", vec![lower(), new().file("d", b"x")], "d 0644 x; f 0644 3"),
        (
            "a directory over a file",
            vec![lower(), new().dir("f/").file("f/g", b"")],
            "d 0755/; d/a 0644 1; d/b 0644 2; f 0755/; f/g 0644 ",
        ),
        (
            "a directory over a directory",
            vec![lower(), new().header(b'5', "d", 0, |h| h[100..107].copy_from_slice(b"0001700"))],
            "d 1700/; d/a 0644 1; d/b 0644 2; f 0644 3",
        ),
        (
            "a directory over a link to one",
            vec![
                new().dir("t").file("t/x", b"1").link(b'2', "l", "t"),
                new().dir("l/").file("l/y", b"2"),
            ],
            "l 0755/; l/y 0644 2; t 0755/; t/x 0644 1",
        ),
        (
            "through a link to a directory",
            vec![
                new().dir("usr/").dir("usr/bin/").link(b'2', "bin", "usr/bin"),
                new().file("bin/sh", b"1"),
            ],
            "bin -> usr/bin; usr 0755/; usr/bin 0755/; usr/bin/sh 0644 1",
        ),
        (
            "through an absolute link",
            vec![
                new().dir("run/").dir("var/").link(b'2', "var/run", "/run"),
                new().file("var/run/x", b"1"),
            ],
            "run 0755/; run/x 0644 1; var 0755/; var/run -> /run",
        ),
        (
            "through a link to nothing",
            vec![new().link(b'2', "l", "gone"), new().file("l/x", b"1")],
            "gone 0755/; gone/x 0644 1; l -> gone",
        ),
        (
            "a file over a link",
            vec![new().file("t", b"1").link(b'2', "l", "t"), new().file("l", b"2")],
            "l 0644 2; t 0644 1",
        ),
        (
            "a whiteout of a link",
            vec![new().dir("t").file("t/x", b"").link(b'2', "l", "t"), new().file(".wh.l", b"")],
            "t 0755/; t/x 0644 ",
        ),
        (
            "a hard link over a file",
            vec![lower(), new().link(b'1', "f", "d/a")],
            "d 0755/; d/a 0644 1; d/b 0644 2; f 0644 1",
        ),
        (
            "a hard link to a symbolic one",
            vec![new().link(b'2', "l", "nowhere").link(b'1', "m", "l")],
            "l -> nowhere; m -> nowhere",
        ),
        (
            "a hard link with a slash",
            vec![new().file("a", b"1").link(b'1', "b", "/./a")],
            "a 0644 1; b 0644 1",
        ),
        (
            "one of several names replaced",
            vec![
                new().file("a", b"1").link(b'1', "b", "a").link(b'1', "c", "a"),
                new().file("b", b"2"),
            ],
            "a 0644 1; b 0644 2; c 0644 1",
        ),
        (
            "one of several names removed",
            vec![new().dir("d").file("d/a", b"1").link(b'1', "b", "d/a"), new().file(".wh.d", b"")],
            "b 0644 1",
        ),
        ("the same file twice", vec![new().file("a", b"1").file("a", b"22")], "a 0644 22"),
        (
            "kinds",
            vec![
                new()
                    .bare(b'6', "p")
                    .header(b'3', "n", 0, |h| h[329..344].copy_from_slice(b"0000001\x000000003")),
            ],
            "n device 103; p fifo",
        ),
        (
            "kinds replaced",
            vec![new().bare(b'6', "p").link(b'2', "l", "p"), new().file("p", b"1").bare(b'6', "l")],
            "l fifo; p 0644 1",
        ),
        (
            "set-id bits",
            vec![
                new()
                    .header(b'0', "s", 1, |h| {
                        h[100..107].copy_from_slice(b"0006755");
                        h[108..115].copy_from_slice(b"0001750");
                    })
                    .content(b"x"),
            ],
            "s 6755 x",
        ),
    ] {
        let scene = Scene::new();
        let layers: Vec<Vec<u8>> = layers.into_iter().map(Crafted::end).collect();
        scene.apply(&layers).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(tree(&scene.root()), want, "{what}");
    }
}

#[test]
fn nothing_leaves_the_root() {
    let scene = Scene::new();
    let out = scene.outside();
    let up = |name: &str| format!("../outside/{name}");
    let refused: Vec<(&str, Crafted, &str)> = vec![
        ("a name with ..", new().file(&up("file"), b"x"), ".."),
        ("a name with .. inside", new().dir("d").file("d/../../outside/file", b"x"), ".."),
        ("a hard link with ..", new().link(b'1', "h", &up("file")), ".."),
        ("a hard link to the outside", new().link(b'1', "h", &format!("{out}/file")), "not there"),
        (
            "a hard link through a link",
            new().link(b'2', "l", &out).link(b'1', "h", "l/file"),
            "not there",
        ),
        (
            "a hard link from the working directory",
            new().link(b'1', "h", "Cargo.toml"),
            "not there",
        ),
        ("a hard link to a directory", new().dir("d").link(b'1', "h", "d"), "is a directory"),
        ("a hard link to itself", new().file("a", b"").link(b'1', "a", "a"), "itself"),
        ("a link in the root's place", new().link(b'2', "./", &out), "root"),
        ("a file in the root's place", new().file(".", b"x"), "root"),
        ("a hard link in the root's place", new().file("a", b"").link(b'1', "/", "a"), "root"),
        ("a whiteout of ..", new().dir("d").file("d/.wh...", b""), "hides nothing"),
        ("a whiteout of .", new().dir("d").file("d/.wh..", b""), "hides nothing"),
        ("a whiteout of nothing", new().dir("d").file("d/.wh.", b""), "hides nothing"),
        ("below a whiteout", new().file(".wh.d/x", b""), "named like a whiteout"),
        ("below a file", new().file("f", b"").file("f/x", b""), "not a directory"),
        (
            "a circle of links",
            new().link(b'2', "a", "b").link(b'2', "b", "a").file("a/x", b""),
            "symbolic links",
        ),
        ("a long name", new().extension(b'L', &[b'n'; 256]).file("f", b""), "255"),
        ("a deep name", new().extension(b'L', &b"d/".repeat(2100)).file("f", b""), "4096"),
    ];
    for (what, layer, why) in refused {
        let scene = Scene::new();
        let told = scene.apply(&[layer.end()]).expect_err(what);
        assert!(told.contains(why), "{what}: {told}");
    }
    for (what, layer) in [
        ("a write", new().link(b'2', "l", &out).file("l/file", b"x")),
        (
            "a write by a relative link",
            new().link(b'2', "l", "../../../../outside").file("l/file", b"x"),
        ),
        ("a directory", new().link(b'2', "l", &out).dir("l/dir/")),
        (
            "a device",
            new()
                .link(b'2', "l", &out)
                .header(b'3', "l/file", 0, |h| h[329..344].copy_from_slice(b"0000001\x000000003")),
        ),
        ("a fifo", new().link(b'2', "l", &out).bare(b'6', "l/file")),
        ("a whiteout", new().link(b'2', "l", &out).file("l/.wh.file", b"")),
        ("an opaque directory", new().link(b'2', "l", &out).file("l/.wh..wh..opq", b"")),
        ("a link over the target", new().link(b'2', "l", &format!("{out}/file")).file("l", b"x")),
        (
            "a second link",
            new().link(b'2', "l", &out).link(b'2', "m", "l").file("m/dir/file", b"x"),
        ),
        (
            "a hard link to a link",
            new().link(b'2', "l", &format!("{out}/file")).link(b'1', "h", "l").file("h", b"x"),
        ),
        (
            "a directory that becomes a link",
            new().dir("l").file("l/file", b"").link(b'2', "l", &out).file("l/file", b"x"),
        ),
        (
            "the directory of a link",
            new()
                .link(b'2', "l", &out)
                .header(b'5', "l", 0, |h| h[100..107].copy_from_slice(b"0000777")),
        ),
    ] {
        let scene = Scene::new();
        // Contained: the scene itself looks at the outside.
        scene.apply(&[layer.end()]).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn metadata_is_exact() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = new()
        .pax(&[("mtime", b"-5.25")])
        .header(b'5', "./", 0, |h| h[100..107].copy_from_slice(b"0000711"))
        .pax(&[("mtime", b"4000000000.123456789"), ("uid", b"100000")])
        .header(b'5', "d", 0, |h| h[100..107].copy_from_slice(b"0002750"))
        .pax(&[("mtime", b"-1.5"), ("SCHILY.xattr.security.capability", capability)])
        .file("d/f", b"abc")
        .pax(&[("mtime", b"7.5"), ("gid", b"9")])
        .link(b'2', "d/l", "f")
        .header(b'0', "d/none", 0, |h| h[100..107].copy_from_slice(b"0000000"))
        .end();
    let scene = Scene::new();
    scene.apply(&[layer]).expect("it is fine");
    let root = scene.root();
    for (path, mode, owner, time) in [
        ("", 0o711, (0, 0), (-6, 750_000_000)),
        ("d", 0o2750, (100_000, 0), (4_000_000_000, 123_456_789)),
        ("d/f", 0o644, (0, 0), (-2, 500_000_000)),
        ("d/l", 0o777, (0, 9), (7, 500_000_000)),
        ("d/none", 0, (0, 0), (1000, 0)),
    ] {
        let meta = fs::symlink_metadata(root.join(path)).expect(path);
        assert_eq!(meta.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((meta.uid(), meta.gid()), owner, "{path}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), time, "{path}");
    }
    let found = xattr::get(root.join("d/f"), "security.capability").expect("readable");
    assert_eq!(found.as_deref(), Some(&capability[..]));
}

#[test]
fn attributes_of_a_lower_directory_do_not_shine_through() {
    let scene = Scene::new();
    let lower = new().pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.b", b"1")]).dir("d");
    let upper = new().pax(&[("SCHILY.xattr.user.b", b"2")]).dir("d");
    if scene.apply(&[lower.end(), upper.end()]).is_ok() {
        let path = scene.root().join("d");
        let names: Vec<_> = xattr::list(&path).expect("readable").collect();
        assert!(names.iter().all(|name| name != "user.a"), "{names:?}");
    }
}

#[test]
fn devices_are_made_and_never_opened() {
    let scene = Scene::new();
    let layer = new()
        .header(b'3', "full", 0, |h| h[329..344].copy_from_slice(b"0000001\x000000007"))
        .link(b'1', "second", "full")
        .end();
    scene.apply(&[layer]).expect("it is fine");
    let meta = fs::symlink_metadata(scene.root().join("second")).expect("it is there");
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.nlink(), 2);
}

#[test]
fn a_damaged_layer_is_refused() {
    for (what, layer, why) in [
        ("cut in a file", new().file("f", &[1; 600]).cut()[..900].to_vec(), "cut short"),
        ("no archive", b"<html>".repeat(200), "checksum"),
    ] {
        let told = Scene::new().apply(&[layer]).expect_err(what);
        assert!(told.contains("damaged archive") && told.contains(why), "{what}: {told}");
    }
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt as _;
    let longest = vec![b'n'; 255];
    let deep = b"d/".repeat(1000);
    for name in [&b"new\nline"[..], b"not \xff utf-8 \x80", b" ", b"-rf *", &longest] {
        let scene = Scene::new();
        let text = record("path", name);
        let layer = new().extension(b'x', &text).file("short", b"1").end();
        scene.apply(&[layer]).expect("it is fine");
        let path = scene.root().join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(fs::read(path).expect("it is there"), b"1");
    }
    let scene = Scene::new();
    let layer = new().extension(b'x', &record("path", &deep)).dir("short").end();
    let rootfs = scene.apply(&[layer, new().file(".wh.d", b"").end()]).expect("it is fine");
    assert!(rootfs.index().iter().all(|(path, _)| path.is_root()));
}

#[test]
fn what_estargz_has_for_itself_is_no_file_of_the_image() {
    let layer = || {
        let layer = new().file(".no.prefetch.landmark", b"\x0f").file("d/stargz.index.json", b"1");
        layer.file("stargz.index.json", b"{}").end()
    };
    let scene = Scene::new();
    let mut rootfs = Rootfs::empty(&scene.root()).expect("it is there");
    let mut unpacker = rootfs.unpack();
    let done = unpacker.apply_estargz(&layer()[..]).expect("it is fine");
    assert_eq!((done.entries, done.skipped), (1, 2));
    let done = unpacker.apply(&new().file(".prefetch.landmark", b"").end()[..]).expect("fine");
    assert_eq!((done.entries, done.skipped), (1, 0), "a layer without a table");
    unpacker.finish().expect("settled");
    let names: Vec<_> = rootfs.index().iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(names, ["/.prefetch.landmark", "/d", "/d/stargz.index.json"]);
}
