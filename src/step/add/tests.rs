use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use snapshot::Suspects;

use super::*;
use crate::rootfs::Rootfs;
use crate::rootfs::crafted::Crafted;
use crate::step::CopyRules;

/// A root with a few files, and a directory beside it that nothing may touch.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("root")).expect("made");
        fs::create_dir(dir.path().join("outside")).expect("made");
        fs::write(dir.path().join("outside/file"), "sentinel").expect("written");
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }

    /// Adds `archive` to a root made by `lower`: the changes, told by the named paths, which have to
    /// be those that a walk finds.
    fn add(
        &self,
        lower: Crafted,
        archive: &[u8],
        dest: &str,
        owner: Option<(u32, u32)>,
    ) -> Result<String, String> {
        let before = fs::symlink_metadata(self.dir.path().join("outside/file")).expect("there");
        let mut rootfs = Rootfs::empty(&self.root()).expect("it is there");
        let mut unpacker = rootfs.unpack();
        unpacker.apply(&lower.end()[..]).expect("the lower layer is fine");
        unpacker.finish().expect("settled");
        rootfs.settle();
        let interrupt = tracer::Interrupt::new();
        let rules = CopyRules { owner, ..CopyRules::default() };
        let mut copier = Copier::new(&rootfs, rules, &interrupt);
        let done = unpack(&mut copier, archive, dest).map_err(|error| error.to_string());
        let after = fs::symlink_metadata(self.dir.path().join("outside/file")).expect("there");
        let told =
            |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec(), meta.nlink(), meta.mode());
        assert_eq!(told(&before), told(&after), "the file outside");
        assert_eq!(fs::read_dir(self.outside()).expect("readable").count(), 1);
        done?;
        let listing = |suspects: &Suspects| {
            let found = rootfs.difference(suspects).expect("comparable");
            snapshot::listing::changes(&found.changes)
        };
        let named = Suspects::Only { paths: copier.into_written(), trees: Vec::new() };
        let (named, walked) = (listing(&named), listing(&Suspects::Everything));
        assert_eq!(named, walked, "the named paths and the walk");
        Ok(paths(&named))
    }
}

/// Only marks and paths of a listing of changes.
fn paths(listing: &str) -> String {
    let line = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    listing.lines().map(line).collect::<Vec<_>>().join(", ")
}

fn new() -> Crafted {
    Crafted::new()
}

#[test]
fn archives_are_unpacked_as_docker_does() {
    let base = || new().dir("d").file("d/old", b"0").file("f", b"1").link(b'2', "l", "d");
    for (what, archive, dest, want) in [
        ("into the root", new().dir("./").file("./n", b""), "/", "+ /n"),
        (
            "into a new directory",
            new().file("n", b""),
            "/new/deep/",
            "+ /new, + /new/deep, + /new/deep/n",
        ),
        ("into one that is there", new().file("n", b""), "/d", "+ /d, + /d/n"),
        ("through a link", new().file("n", b""), "/l/", "+ /d, + /d/n"),
        ("forgotten parents", new().file("a/b/c", b""), "/d", "+ /d, + /d/a, + /d/a/b, + /d/a/b/c"),
        ("absolute names", new().file("/etc/n", b""), "/d", "+ /d, + /d/etc, + /d/etc/n"),
        ("over a file", new().file("old", b"new"), "/d", "+ /d, + /d/old"),
        ("a directory over a file", new().dir("f").file("f/x", b""), "/", "+ /f, + /f/x"),
        ("a file over a directory", new().file("d", b""), "/", "+ /d"),
        ("a directory over a link", new().dir("l").file("l/x", b""), "/", "+ /l, + /l/x"),
        ("a directory over a directory", new().dir("d").file("d/x", b""), "/", "+ /d/x"),
        (
            "a link of its own",
            new().dir("t").link(b'2', "m", "/d").file("m/x", b""),
            "/",
            "+ /d, + /d/x, + /m, + /t",
        ),
        (
            "a link to nothing",
            new().link(b'2', "m", "gone").file("m/x", b""),
            "/",
            "+ /gone, + /gone/x, + /m",
        ),
        (
            "a directory becomes a link",
            new().file("t/x", b"").link(b'2', "t", "d").file("t/y", b""),
            "/",
            "+ /d, + /d/y, + /t",
        ),
        ("hard links", new().file("a", b"1").link(b'1', "b", "a"), "/d", "+ /d, + /d/a, + /d/b"),
        ("a hard link to the image", new().link(b'1', "b", "old"), "/d", "+ /d, + /d/b, + /d/old"),
        (
            "a hard link to a link",
            new().link(b'2', "a", "nowhere").link(b'1', "b", "a"),
            "/d",
            "+ /d, + /d/a, + /d/b",
        ),
        (
            "kinds",
            new()
                .bare(b'6', "p")
                .header(b'3', "n", 0, |h| h[329..344].copy_from_slice(b"0000001\x000000003")),
            "/d",
            "+ /d, + /d/n, + /d/p",
        ),
        ("nothing", new(), "/d", ""),
    ] {
        let got = Scene::new().add(base(), &archive.end(), dest, None);
        assert_eq!(got.as_deref(), Ok(want), "{what}");
    }
}

#[test]
fn archives_cannot_leave_the_root() {
    let scene = Scene::new();
    let out = scene.outside();
    for (what, archive, why) in [
        ("a name with ..", new().file("../x", b""), ".."),
        ("a hard link with ..", new().link(b'1', "h", "../../outside/file"), ".."),
        ("a hard link outside", new().link(b'1', "h", &format!("{out}/file")), "not there"),
        (
            "a hard link through a link",
            new().link(b'2', "l", &out).link(b'1', "h", "l/file"),
            "not there",
        ),
        ("a hard link to a directory", new().dir("d").link(b'1', "h", "d"), "is a directory"),
        ("a hard link to itself", new().file("a", b"").link(b'1', "a", "a"), "itself"),
        ("a file without a name", new().file("./", b"x").file(".", b"x"), "refused"),
        (
            "a circle",
            new().link(b'2', "a", "b").link(b'2', "b", "a").file("a/x", b""),
            "symbolic links",
        ),
        ("below a file", new().file("f", b"").file("f/x", b""), "Not a directory"),
        ("damage", new().file("f", &[1; 900]), "damaged archive"),
    ] {
        let mut bytes = archive.end();
        if what == "damage" {
            bytes.truncate(1000);
        }
        let told = Scene::new().add(new(), &bytes, "/dest/", None).expect_err(what);
        assert!(told.contains(why), "{what}: {told}");
    }
    for (what, archive) in [
        ("a write", new().link(b'2', "l", &out).file("l/file", b"x")),
        ("a relative link", new().link(b'2', "l", "../../../../outside").file("l/file", b"x")),
        ("over a link", new().link(b'2', "l", &format!("{out}/file")).file("l", b"x")),
        ("a directory over a link", new().link(b'2', "l", &out).dir("l")),
    ] {
        let done = scene.add(new(), &archive.end(), "/dest/", None);
        assert!(done.is_ok(), "{what}: {done:?}");
        fs::remove_dir_all(scene.root()).expect("removed");
        fs::create_dir(scene.root()).expect("made");
    }
}

#[test]
fn owner_mode_and_time_come_from_the_archive() {
    let archive = || {
        new()
            .header(b'5', "d", 0, |h| h[100..107].copy_from_slice(b"0001770"))
            .pax(&[("uid", b"1234"), ("mtime", b"5.5")])
            .header(b'0', "d/f", 1, |h| h[100..107].copy_from_slice(b"0004755"))
            .content(b"x")
            .end()
    };
    for (owner, want) in [(None, (1234, 0)), (Some((7, 8)), (7, 8))] {
        let scene = Scene::new();
        scene.add(new(), &archive(), "/dest/", owner).expect("it is fine");
        let file = fs::metadata(scene.root().join("dest/d/f")).expect("there");
        assert_eq!((file.uid(), file.gid()), want);
        assert_eq!(file.mode() & 0o7777, 0o4755);
        assert_eq!((file.mtime(), file.mtime_nsec()), (5, 500_000_000));
        let dir = fs::metadata(scene.root().join("dest/d")).expect("there");
        assert_eq!((dir.mode() & 0o7777, dir.mtime()), (0o1770, 1000));
        assert_eq!((dir.uid(), dir.gid()), owner.unwrap_or((0, 0)));
        let dest = fs::metadata(scene.root().join("dest")).expect("there");
        assert_eq!((dest.uid(), dest.gid()), owner.unwrap_or((0, 0)));
    }
}

#[test]
fn whiteouts_are_files_here() {
    let scene = Scene::new();
    let archive = new().file(".wh.f", b"").end();
    let mut rootfs = Rootfs::empty(&scene.root()).expect("it is there");
    let mut unpacker = rootfs.unpack();
    unpacker.apply(&new().file("f", b"1").end()[..]).expect("fine");
    unpacker.finish().expect("settled");
    let interrupt = tracer::Interrupt::new();
    let mut copier = Copier::new(&rootfs, CopyRules::default(), &interrupt);
    unpack(&mut copier, &archive[..], "/").expect("it is unpacked");
    assert!(scene.root().join("f").exists());
    assert!(scene.root().join(".wh.f").exists());
}

#[test]
fn only_archives_are_unpacked() {
    let context = tempfile::tempdir().expect("a directory");
    let own = tempfile::tempdir().expect("a directory");
    let tar = new().file("a", b"1").end();
    fs::write(context.path().join("tar"), &tar).expect("written");
    fs::write(context.path().join("text.tar"), "text").expect("written");
    fs::create_dir(context.path().join("dir")).expect("made");
    std::os::unix::fs::symlink("tar", context.path().join("link")).expect("made");
    let sources =
        SourceTree::context(context.path(), None, own.path(), "the context").expect("it opens");
    for (name, want) in [("tar", true), ("text.tar", false), ("dir", false), ("link", true)] {
        let found = sources.find(name).expect(name);
        assert_eq!(archive(&sources, &found[0]).expect(name).is_some(), want, "{name}");
    }
}
