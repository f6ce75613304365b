//! Base images, made from Debian's packages once and kept between runs.
//!
//! Each is an OCI layout with the tag [`TAG`]. The mirror is the one that the
//! machine's own apt uses, looked up at run time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::craft::{Compression, Craft, Layer};
use crate::tools;

/// The tag of every base image in its layout.
pub(crate) const TAG: &str = "base";

/// The `PATH` of images that set none.
pub(crate) const PATH_VARIABLE: &str =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Packages for the dpkg workload; what they depend on is downloaded too.
pub(crate) const PACKAGES: &[&str] =
    &["bc", "file", "jq", "less", "nano", "patch", "procps", "psmisc", "tree", "xz-utils"];

/// A small image: BusyBox, its applets, three users.
pub(crate) fn busybox() -> PathBuf {
    made("busybox", |home| busybox_image().write(home, TAG))
}

/// Debian's minimal system in one layer.
pub(crate) fn debian() -> PathBuf {
    debian_home().join("layout")
}

/// The unpacked files of [`debian`].
pub(crate) fn debian_tree() -> PathBuf {
    debian_home().join("tree")
}

/// [`debian`] and, as a second layer, a C compiler, make and Python.
pub(crate) fn toolchain() -> PathBuf {
    debian_with("toolchain", "gcc libc6-dev make python3 python3-venv")
}

/// [`debian`] and, as a second layer, Node.
pub(crate) fn node() -> PathBuf {
    debian_with("node", "nodejs")
}

/// [`debian`] with what the workloads of a build are made of.
pub(crate) fn workshop() -> PathBuf {
    let packages = "cmake gcc git libc6-dev make postgresql-15 python3-pip python3-venv";
    debian_with("workshop", packages)
}

/// [`debian`] with compilers and package managers that take minutes to download.
pub(crate) fn large_workshop() -> PathBuf {
    debian_with("large-workshop", "cargo npm openjdk-17-jdk-headless")
}

/// [`debian`] and, as a second layer, packages of Debian's.
pub(crate) fn debian_with(name: &str, packages: &str) -> PathBuf {
    made(name, |home| {
        tools::run("cp", ["-a", &text(&debian()), &text(&home.join("layout"))]);
        let image = format!("{}:{TAG}", home.join("layout").display());
        let bundle = home.join("bundle");
        tools::run("umoci", ["unpack", "--image", &image, &text(&bundle)]);
        with_network(&bundle.join("rootfs"), |root| {
            let install = "apt-get install -qq -y --no-install-recommends";
            tools::in_root(root, &format!("apt-get update -qq; {install} {packages}"));
            tools::in_root(root, "apt-get clean; rm -rf /var/lib/apt/lists/*");
        });
        tools::run("umoci", ["repack", "--image", &image, &text(&bundle)]);
        fs::remove_dir_all(&bundle).expect("the bundle is removed");
    })
    .join("layout")
}

/// A directory with the `.deb` files of [`PACKAGES`] and of what they need on [`debian`].
pub(crate) fn packages() -> PathBuf {
    made("packages", |home| {
        let scratch = tempfile::tempdir_in(bases()).expect("a directory for a tree");
        let root = scratch.path().join("tree");
        tools::run("cp", ["-a", &text(&debian_tree()), &text(&root)]);
        with_network(&root, |root| {
            let download = "apt-get install -qq -y --no-install-recommends --download-only";
            let names = PACKAGES.join(" ");
            tools::in_root(root, &format!("apt-get update -qq; {download} {names}"));
        });
        for file in fs::read_dir(root.join("var/cache/apt/archives")).expect("apt's archives") {
            let file = file.expect("an entry").path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                let name = file.file_name().expect("a package has a name");
                fs::copy(&file, home.join(name)).expect("the package is copied");
            }
        }
    })
}

/// Where the bases lie.
pub(crate) fn bases() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bases");
    fs::create_dir_all(&directory).expect("a directory for the bases");
    directory
}

/// The directory `name` below [`bases`], filled by `make` unless an earlier run did.
pub(crate) fn made(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let done = bases().join(name);
    let lock = File::create(bases().join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock");
    if !done.exists() {
        let making = bases().join(format!("{name}.making"));
        if making.exists() {
            fs::remove_dir_all(&making).expect("what an interrupted run left is removed");
        }
        fs::create_dir(&making).expect("a directory for the base");
        make(&making);
        fs::rename(&making, &done).expect("the base gets its name");
    }
    done
}

fn debian_home() -> PathBuf {
    made("debian", |home| {
        let tree = home.join("tree");
        bootstrap(&tree);
        let tar = home.join("layer.tar");
        pack(&tree, &tar);
        let bytes = fs::read(&tar).expect("the layer is read");
        fs::remove_file(&tar).expect("the tar is removed");
        fs::create_dir(home.join("layout")).expect("a directory for the layout");
        Craft::new()
            .tar(bytes, Compression::Gzip)
            .config("Cmd", json!(["bash"]))
            .write(&home.join("layout"), TAG);
    })
}

/// GNU tar with everything that a layer has to carry.
pub(crate) fn pack(tree: &Path, tar: &Path) {
    tools::run(
        "tar",
        [
            "--create",
            "--numeric-owner",
            "--sort=name",
            "--xattrs",
            "--xattrs-include=*",
            &format!("--file={}", tar.display()),
            &format!("--directory={}", tree.display()),
            ".",
        ],
    );
}

fn bootstrap(tree: &Path) {
    let sources = apt_sources();
    let (mirror, release) = sources
        .iter()
        .find(|(_, release, _)| !release.contains('-'))
        .map(|(mirror, release, _)| (mirror, release))
        .expect("apt knows no Debian release: run apt-get update");
    // debootstrap mounts /proc; in a mount namespace of its own nothing stays behind.
    tools::find("debootstrap");
    tools::run(
        "unshare",
        [
            "--mount",
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            release,
            &text(tree),
            mirror,
        ],
    );
    configure_apt(tree, &sources);
    for directory in ["dev", "var/cache/apt/archives", "var/lib/apt/lists", "var/log"] {
        empty(&tree.join(directory));
    }
    for file in ["etc/resolv.conf", "etc/hostname"] {
        fs::remove_file(tree.join(file)).expect("debootstrap copies the host's file");
    }
}

/// What apt on this machine fetches from: mirror, release, component.
fn apt_sources() -> Vec<(String, String, String)> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let filter = ["Created-By: Packages", "Origin: Debian"];
    tools::run("apt-get", ["indextargets", "--format", format, filter[0], filter[1]])
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?))
        })
        .collect()
}

/// Gives the tree the machine's apt sources and what its apt needs to reach them.
fn configure_apt(tree: &Path, sources: &[(String, String, String)]) {
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let lines: String = sources
        .iter()
        .map(|(mirror, release, part)| {
            format!("deb [signed-by={keys}] {mirror} {release} {part}\n")
        })
        .collect();
    fs::write(tree.join("etc/apt/sources.list"), lines).expect("sources.list is written");
    for file in fs::read_dir("/etc/apt/apt.conf.d").expect("apt's settings") {
        let file = file.expect("an entry");
        let settings = fs::read_to_string(file.path()).unwrap_or_default();
        if settings.contains("Acquire::") {
            fs::copy(file.path(), tree.join("etc/apt/apt.conf.d").join(file.file_name()))
                .expect("the setting is copied");
        }
    }
}

fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).expect("a directory of the tree") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            fs::remove_dir_all(entry.path()).expect("a directory is removed");
        } else {
            fs::remove_file(entry.path()).expect("a file is removed");
        }
    }
}

/// Lends the host's `resolv.conf` to a tree for as long as `work` takes.
fn with_network(root: &Path, work: impl FnOnce(&Path)) {
    let file = root.join("etc/resolv.conf");
    fs::copy("/etc/resolv.conf", &file).expect("resolv.conf is copied");
    let services = root.join("usr/sbin/policy-rc.d");
    fs::write(&services, "#!/bin/sh\nexit 101\n").expect("policy-rc.d is written");
    work(root);
    fs::remove_file(&services).expect("policy-rc.d is removed");
    fs::remove_file(&file).expect("resolv.conf is removed");
}

fn busybox_image() -> Craft {
    let program = fs::read(tools::find("busybox")).expect("busybox is read");
    let mut layer = Layer::new();
    for directory in ["bin", "dev", "etc", "home", "proc", "sbin", "sys", "usr", "usr/bin"] {
        layer = layer.directory(directory);
    }
    for directory in ["usr/sbin", "var", "var/lib"] {
        layer = layer.directory(directory);
    }
    layer = layer.mode(0o700).directory("root").mode(0o1777).directory("tmp");
    layer = layer.owner(1000, 1000).directory("home/builder");
    layer = layer.mode(0o755).file("bin/busybox", program);
    for applet in tools::run("busybox", ["--list-full"]).lines() {
        if applet != "bin/busybox" && applet.contains("bin/") {
            layer = layer.symlink(applet, "/bin/busybox");
        }
    }
    let layer = layer.file("etc/passwd", PASSWD).file("etc/group", GROUP);
    Craft::new().layer(layer).config("Cmd", json!(["sh"]))
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
builder:x:1000:1000:builder:/home/builder:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

const GROUP: &str = "root:x:0:
daemon:x:1:
builder:x:1000:
extra:x:2000:builder
nogroup:x:65534:
";

fn text(path: &Path) -> String {
    path.to_str().expect("the target directory's name is text").to_owned()
}

#[test]
fn the_bases_are_valid_images() {
    for layout in [busybox(), debian(), toolchain()] {
        crate::image::Image::open(&layout).validate();
    }
}
