//! What each instruction adds: layers, history, whiteouts, links, attributes.

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES};
use crate::image::{Image, Kind};

/// Layers and history entries beyond those of the base.
fn added(base: &Image, image: &Image) -> (usize, Vec<bool>) {
    let history = image.history()[base.history().len()..].to_vec();
    let with_layer = history.iter().map(|by| !by.starts_with("# ")).collect();
    (image.layers.len() - base.layers.len(), with_layer)
}

#[test]
fn each_instruction_makes_the_layers_that_docker_makes() {
    let base = Image::open(&base::busybox());
    for (instructions, layers, with_layer) in [
        ("ENV A=1", 0, vec![false]),
        ("LABEL a=b\nEXPOSE 80\nUSER 1\nCMD x", 0, vec![false; 4]),
        ("RUN echo 1 > /a", 1, vec![true]),
        ("RUN echo 1 > /a\nRUN true", 2, vec![true, true]),
        ("COPY f /f\nCOPY f /f", 2, vec![true, true]),
        ("WORKDIR /new", 1, vec![true]),
        ("COPY f /f\nENV A=1\nRUN rm /f", 2, vec![true, false, true]),
    ] {
        for place in PLACES {
            let dockerfile = format!("FROM busybox\n{instructions}\n");
            let image = on_busybox(place, &dockerfile).file("f", "1").image();
            assert_eq!(
                added(&base, &image),
                (layers, with_layer.clone()),
                "{place:?} {instructions}"
            );
        }
    }
}

#[test]
fn the_base_s_layers_are_passed_on_as_they_are() {
    let base = Image::open(&base::debian());
    let image = Build::of("FROM debian\nRUN echo 1 > /a\n").base("debian", base::debian()).image();
    assert_eq!(image.layers[0].digest, base.layers[0].digest);
    assert_eq!(image.top().names(), ["/a"]);
}

#[test]
fn a_layer_holds_what_the_step_changed_and_nothing_else() {
    for (step, names) in [
        ("true", vec![]),
        ("echo 1 > /a", vec!["/a"]),
        ("rm /etc/group", vec!["-/etc/group"]),
        ("rm -r /home/builder", vec!["-/home/builder"]),
        ("rm -r /home && mkdir /home && echo 1 > /home/new", vec!["-/home/builder", "/home/new"]),
        ("rm /etc/group && mkdir /etc/group && echo 1 > /etc/group/x", vec!["/etc/group/x"]),
        ("rm -r /home && echo 1 > /home", vec!["/home"]),
        ("mv /etc/group /etc/moved", vec!["-/etc/group", "/etc/moved"]),
        ("mv /home /moved", vec!["-/home"]),
        ("echo 1 > /x && rm /x", vec![]),
        ("cat /etc/passwd > /tmp/p && cat /tmp/p > /etc/passwd && rm /tmp/p", vec![]),
        ("chmod 600 /etc/passwd", vec!["/etc/passwd"]),
        ("chown 1 /bin/sh -h", vec!["/bin/sh"]),
        ("ln /etc/passwd /etc/second", vec!["/etc/passwd", "/etc/second"]),
        ("mkfifo /f && mknod /n c 1 3", vec!["/f", "/n"]),
        ("ln -s loop /loop", vec!["/loop"]),
        ("touch -d @5 /etc/passwd", vec!["/etc/passwd"]),
        ("printf x > \"/new\nline\"", vec!["/new\\nline"]),
    ] {
        for place in PLACES {
            let dockerfile = format!("FROM busybox\nRUN <<'EOF'\nset -e\n{step}\nEOF\n");
            let image = on_busybox(place, &dockerfile).flag("--verify-snapshot=fail").image();
            let mut found = image.top().names();
            found.sort();
            // A file whose bytes came back has another time, and that is a change as well.
            found.retain(|name| !(step.starts_with("cat ") && name == "/etc/passwd"));
            assert_eq!(found, names, "{place:?} {step}");
        }
    }
}

/// Changes that a walk over sizes and times does not see; each leaves `/t` or `/e` different.
const TRAPS: &str = r#"import ctypes, mmap, os, struct

def put_back(path, change):
    before = os.stat(path)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

def write(path):
    with open(path, "r+b") as file:
        file.write(b"WRITTEN")

def write_map(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:7] = b"MAPPED!"

def replace(path):
    with open(path + ".new", "wb") as file:
        file.write(b"RENAMED")
    os.utime(path + ".new", ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    os.rename(path + ".new", path)

put_back("/t/same-size", write)
put_back("/t/mapped", write_map)
put_back("/t/renamed", replace)
os.setxattr("/t/attribute", "user.note", b"kept")
os.setxattr("/t/capable", "security.capability", struct.pack("<5I", 0x2000001, 1 << 13, 0, 0, 0))
descriptor = os.open("/t/by-descriptor", os.O_RDONLY)
os.fchmod(descriptor, 0o4755)
anonymous = os.open("/t", os.O_TMPFILE | os.O_RDWR)
os.write(anonymous, b"linked")
libc = ctypes.CDLL(None, use_errno=True)
if libc.linkat(-100, f"/proc/self/fd/{anonymous}".encode(), -100, b"/t/anonymous", 0x400) != 0:
    raise OSError(ctypes.get_errno(), "linkat")
libc.renameat2(-100, b"/t/left", -100, b"/t/right", 2)
"#;

#[test]
fn changes_that_hide_from_sizes_and_times_are_in_the_layer() {
    let prepare = "mkdir /t && for f in same-size mapped renamed attribute capable by-descriptor; \
                   do printf content > /t/$f; done; printf l > /t/left; printf r > /t/right";
    for place in PLACES {
        let image =
            Build::of(&format!("FROM toolchain\nRUN {prepare}\nRUN python3 <<'EOF'\n{TRAPS}EOF\n"))
                .base("toolchain", base::toolchain())
                .place(place)
                .flag("--verify-snapshot=fail")
                .image();
        let tree = image.tree();
        for (path, part) in [
            ("/t/same-size", "\"WRITTEN\""),
            ("/t/mapped", "\"MAPPED!\""),
            ("/t/renamed", "\"RENAMED\""),
            ("/t/attribute", "user.note=kept"),
            ("/t/capable", "security.capability="),
            ("/t/by-descriptor", "- 4755"),
            ("/t/anonymous", "\"linked\""),
            ("/t/left", "\"r\""),
            ("/t/right", "\"l\""),
        ] {
            let found = tree.get(path).map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(part), "{place:?} {path}: {found}");
            assert!(image.top().names().contains(&path.to_owned()), "{place:?} {path}");
        }
    }
}

#[test]
fn names_of_one_file_stay_one_file() {
    for place in PLACES {
        let image = on_busybox(
            place,
            "FROM busybox\nRUN echo 1 > /a && ln /a /b && mkdir /d && ln /a /d/c\n\
             RUN echo 2 > /d/c\n",
        )
        .image();
        for layer in &image.layers[1..] {
            let links =
                layer.entries.iter().filter(|(_, entry)| entry.kind == Kind::HardLink).count();
            assert_eq!(links, 2, "{place:?}: {:?}", layer.names());
        }
        let tree = image.tree();
        for path in ["/a", "/b", "/d/c"] {
            assert_eq!(tree[path].to_string(), "- 0644 0:0 2 \"2\\n\"", "{place:?} {path}");
        }
    }
}

#[test]
fn a_file_that_a_step_names_like_a_whiteout_is_refused() {
    for (step, name) in [("touch /etc/.wh.foo", ".wh.foo"), ("touch /.wh..wh..opq", ".wh..wh..opq")]
    {
        for place in PLACES {
            on_busybox(place, &format!("FROM busybox\nRUN {step}\n")).run().refused(1, &[name]);
        }
    }
}

#[test]
fn later_layers_are_compressed_the_same_way_each_time() {
    let dockerfile = "FROM busybox\nCOPY big /big\n";
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7 % 251).to_le_bytes()).collect();
    let digest = |place| {
        on_busybox(place, dockerfile)
            .file("big", &bytes)
            .context_by(|context| {
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
                let file = std::fs::File::options().write(true).open(context.join("big")).unwrap();
                file.set_modified(time).unwrap();
            })
            .image()
            .top()
            .entries
            .iter()
            .find(|(path, _)| path == "/big")
            .map(|(_, entry)| entry.to_string())
    };
    let [host, pod] = PLACES.map(digest);
    assert!(host.is_some());
    assert_eq!(host, pod);
}
