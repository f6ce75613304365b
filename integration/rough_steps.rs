//! Steps that tear down what they stand on, or become somebody else.

use std::path::{Path, PathBuf};

use crate::base;
use crate::build_basic::{Facts, assert_facts, on_busybox};
use crate::craft::{Craft, Layer};
use crate::executor::{Build, PLACES, Place};
use crate::image::Image;
use crate::pod::Privileges;
use crate::tools;

#[test]
fn a_step_deletes_its_programs_and_its_settings() {
    // BusyBox goes last: it is what deletes.
    // The name service files are mounts, here as in Docker.
    let dockerfile = "FROM busybox\nRUN rm -rf /etc /sbin /usr /home 2> /errors; rm /errors\n\
                      RUN rm -rf /bin\nCOPY f /f\nWORKDIR /new\n";
    for place in PLACES {
        let image = on_busybox(place, dockerfile).file("f", "1").image();
        let names: Vec<String> = image.tree().into_keys().filter(|path| path != "/").collect();
        let want =
            ["/dev", "/etc", "/f", "/new", "/proc", "/root", "/sys", "/tmp", "/var", "/var/lib"];
        assert_eq!(names, want, "{place:?}");
    }
}

#[test]
fn a_step_deletes_everything_that_it_can_reach() {
    let ended = on_busybox(Place::Host, "FROM busybox\nRUN rm -rf /* 2>/dev/null; true\n").run();
    let tree = ended.succeeded().image().tree();
    let left: Vec<&String> = tree.keys().filter(|path| path.matches('/').count() > 1).collect();
    assert_eq!(left, Vec::<&String>::new());
}

#[test]
fn a_step_that_deletes_the_executor_s_directory_deletes_no_layer() {
    for below_shell in [false, true] {
        for step in ["rm -rf /kaniko", "rm -rf /kaniko/*; rm -rf /* 2>/dev/null"] {
            let place = Place::Pod(Privileges { below_shell, ..Privileges::DEFAULT });
            let dockerfile = format!(
                "FROM busybox\nCOPY f /f\nRUN echo 1 > /a; {step}; true\nENV A=1\nWORKDIR /w\n"
            );
            let image = on_busybox(place, &dockerfile).file("f", "1").image();
            assert_eq!(image.layers[1].names(), ["/f"], "{below_shell} {step}");
            assert_eq!(image.setting("/Env")[1], "A=1", "{below_shell} {step}");
        }
    }
}

const KILLER: &str = "FROM busybox\nRUN echo 1 > /a; sleep 1000 & kill -9 -1; echo 2 > /b\n\
                      RUN echo 3 > /c\n";

#[test]
fn a_step_kills_all_that_is_in_its_namespace() {
    let image = on_busybox(Place::Host, KILLER).flag("--verify-snapshot=fail").image();
    let facts: Facts<'_> = &[
        ("/a", "- 0644 0:0 2 \"1\\n\""),
        ("/b", "- 0644 0:0 2 \"2\\n\""),
        ("/c", "- 0644 0:0 2 \"3\\n\""),
    ];
    assert_facts("killed", &image.tree(), facts);
}

#[test]
fn a_step_kills_all_but_the_first_process_of_a_pod() {
    let ended = on_busybox(Place::Pod(Privileges::DEFAULT), KILLER).run();
    ended.refused(1, &["Dockerfile:2", "killed"]);
}

#[test]
fn a_step_that_a_signal_ends_is_told_by_its_signal() {
    for place in PLACES {
        // The first process of a PID namespace cannot be killed from inside of it.
        for (signal, code) in [("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
            let step = format!("sh -c 'kill -{signal} $$; true'; exit $?");
            on_busybox(place, &format!("FROM busybox\nRUN {step}\n")).run().refused(code, &["2"]);
        }
    }
}

/// Says who it is, by real and effective user, into the file that its argument names.
const WHO: &str = "#include <stdio.h>\n#include <unistd.h>\n\
    int main(int argc, char **argv) {\n\
        FILE *to = fopen(argv[1], \"w\");\n\
        if (argc != 2 || !to) return 1;\n\
        fprintf(to, \"%d %d %d %d\\n\", getuid(), geteuid(), getgid(), getegid());\n\
        return fclose(to);\n\
    }\n";

/// An image with the program four times: plain, set-user-id root, the same for nobody to read, and
/// set-group-id 2000.
pub(crate) fn with_set_id_programs(home: &Path) -> PathBuf {
    let (source, program) = (home.join("who.c"), home.join("who"));
    std::fs::write(&source, WHO).unwrap();
    tools::run("gcc", ["-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()]);
    let program = std::fs::read(program).unwrap();
    let busybox = std::fs::read(tools::find("busybox")).unwrap();
    let layer = Layer::new()
        .directory("bin")
        .mode(0o755)
        .file("bin/sh", busybox)
        .mode(0o755)
        .file("bin/who-plain", &program)
        .mode(0o4755)
        .file("bin/who-user", &program)
        .mode(0o4711)
        .file("bin/who-unread", &program)
        .mode(0o2755)
        .owner(0, 2000)
        .file("bin/who-group", &program)
        .mode(0o1777)
        .directory("tmp");
    let layout = home.join("layout");
    std::fs::create_dir(&layout).unwrap();
    Craft::new().layer(layer).write(&layout, base::TAG);
    layout
}

#[test]
fn a_set_id_program_becomes_whom_it_should() {
    let home = tempfile::tempdir().unwrap();
    let layout = with_set_id_programs(home.path());
    let dockerfile = "FROM set-id\nUSER 1000:1000\n\
        RUN who-plain /tmp/plain && who-user /tmp/user && who-group /tmp/group\n";
    let extra = Privileges { added: &["CAP_SYS_PTRACE"], ..Privileges::DEFAULT };
    for place in PLACES.into_iter().chain([Place::Pod(extra)]) {
        for tracer in ["auto", "inotify", "off"] {
            let image = Build::of(dockerfile)
                .base("set-id", &layout)
                .place(place)
                .flag(format!("--run-tracer={tracer}"))
                .image();
            let facts: Facts<'_> = &[
                ("/tmp/plain", "- 0644 1000:1000 20 \"1000 1000 1000 1000\\n\""),
                ("/tmp/user", "- 0644 0:1000 17 \"1000 0 1000 1000\\n\""),
                ("/tmp/group", "- 0644 1000:2000 20 \"1000 1000 1000 2000\\n\""),
            ];
            assert_facts(&format!("{place:?} {tracer}"), &image.tree(), facts);
        }
    }
}

#[test]
fn a_directory_behind_a_link_is_written_to_and_the_link_stays() {
    let home = tempfile::tempdir().unwrap();
    let busybox = std::fs::read(tools::find("busybox")).unwrap();
    let layer = Layer::new()
        .directory("bin")
        .mode(0o755)
        .file("bin/sh", busybox)
        .directory("run")
        .directory("var")
        .symlink("var/run", "/run");
    Craft::new().layer(layer).write(home.path(), base::TAG);
    let dockerfile = "FROM linked\nRUN echo 1 > /var/run/pid\nCOPY f /var/run/copied\n\
                      WORKDIR /var/run/made\nRUN echo 2 > here\n";
    for place in PLACES {
        let image: Image = Build::of(dockerfile)
            .base("linked", home.path())
            .file("f", "1")
            .place(place)
            .flag("--verify-snapshot=fail")
            .image();
        let facts: Facts<'_> = &[
            ("/var/run", "l 0777 0:0 0 -> /run"),
            ("/run/pid", "- 0644 0:0 2 \"1\\n\""),
            ("/run/copied", "- 0644 0:0 1 \"1\""),
            ("/run/made", "d 0755 0:0 0"),
            ("/run/made/here", "- 0644 0:0 2 \"2\\n\""),
        ];
        assert_facts(&format!("{place:?}"), &image.tree(), facts);
    }
}
