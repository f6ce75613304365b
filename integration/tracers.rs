//! The backends of the tracer, each on steps that only it can watch, and on those it cannot.

use crate::base;
use crate::build_basic::{Facts, assert_facts};
use crate::executor::{Build, PLACES, Place};
use crate::limits::SmallDisk;
use crate::tools;

/// Names that come, go and move; directories that are new, moved and marked again.
const STEPS: &str = "FROM busybox\n\
    RUN mkdir -p /srv/a/b && echo 1 > /srv/a/b/file && ln /srv/a/b/file /srv/link && chown -R 1000 /srv\n\
    RUN echo 2 > /srv/a/b/file\n\
    USER 1000\n\
    RUN echo 3 >> /srv/a/b/file && mv /srv/a /srv/moved\n\
    RUN echo 4 >> /srv/moved/b/file && mkdir /srv/new && ln /srv/moved/b/file /srv/new/x\n\
    RUN echo 5 >> /srv/new/x && rm -r /srv/new\n\
    USER root\n\
    RUN ln /srv/moved/b/file /srv/x && echo 6 >> /srv/x && rm /srv/x\n\
    COPY made /srv/made\n\
    RUN rm -r /srv/made && mkdir -p /srv/made/again && echo 7 > /srv/made/again/f\n\
    RUN echo 8 > /srv/made/again/f\n";

#[test]
fn inotify_misses_nothing_that_the_walk_finds() {
    for place in PLACES {
        let ended = Build::of(STEPS)
            .base("busybox", base::busybox())
            .place(place)
            .file("made/f", "1")
            .flags(["--run-tracer=inotify", "--verify-snapshot=fail"])
            .run()
            .succeeded();
        let facts: Facts<'_> = &[
            ("/srv/moved/b/file", "- 0644 1000:0 10 \"2\\n3\\n4\\n5\\n6\\n\""),
            ("/srv/link", "- 0644 1000:0 10 \"2\\n3\\n4\\n5\\n6\\n\""),
            ("/srv/made/again/f", "- 0644 0:0 2 \"8\\n\""),
        ];
        assert_facts(&format!("{place:?}"), &ended.image().tree(), facts);
        // Steps whose names all stayed; in the others one came and went, or a directory came.
        let walks = ended.log.matches("came unseen").count();
        assert_eq!(walks, 4, "{place:?}\n{}", ended.log);
    }
}

#[test]
fn fanotify_misses_nothing_or_is_refused() {
    for place in PLACES {
        let ended = Build::of(STEPS)
            .base("busybox", base::busybox())
            .place(place)
            .file("made/f", "1")
            .flags(["--run-tracer=fanotify", "--verify-snapshot=fail"])
            .run();
        // Without CAP_SYS_ADMIN it is refused; with it, overlayfs refuses the mark.
        if matches!(place, Place::Pod(_)) || ended.log.contains("fanotify_mark(") {
            ended
                .refused(1, &["fanotify tracing is not available: fanotify_", "--run-tracer=auto"]);
            continue;
        }
        let ended = ended.succeeded();
        let file: Facts<'_> = &[("/srv/moved/b/file", "- 0644 1000:0 10 \"2\\n3\\n4\\n5\\n6\\n\"")];
        assert_facts(&format!("{place:?}"), &ended.image().tree(), file);
        // Only the last of the links to an older file came and went.
        assert_eq!(ended.log.matches("Taking snapshot of full").count(), 1, "{}", ended.log);
    }
}

/// What a debugger, strace and a leak checker do.
const TRACES: &str = "#include <signal.h>\n#include <stdio.h>\n#include <sys/ptrace.h>\n\
    #include <sys/wait.h>\n#include <unistd.h>\n\
    int main(void) {\n\
      int status; pid_t child = fork();\n\
      if (!child) { if (ptrace(PTRACE_TRACEME, 0, 0, 0)) _exit(9); raise(SIGSTOP); _exit(0); }\n\
      waitpid(child, &status, 0);\n\
      if (!WIFSTOPPED(status)) { perror(\"ptrace\"); return 3; }\n\
      ptrace(PTRACE_CONT, child, 0, 0); waitpid(child, &status, 0); return 0;\n\
    }\n";

#[test]
fn a_step_may_trace_its_own_processes_where_inotify_watches() {
    let home = tempfile::tempdir().unwrap();
    let (source, program) = (home.path().join("traces.c"), home.path().join("traces"));
    std::fs::write(&source, TRACES).unwrap();
    tools::run("gcc", ["-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()]);
    let program = std::fs::read(program).unwrap();
    let build = |place: Place, tracer: &str| {
        Build::of("FROM busybox\nCOPY --chmod=755 traces /\nRUN /traces && echo done > /srv\n")
            .base("busybox", base::busybox())
            .place(place)
            .file("traces", &program)
            .flag(format!("--run-tracer={tracer}"))
            .run()
    };
    for place in PLACES {
        let facts: Facts<'_> = &[("/srv", "- 0644 0:0 5 \"done\\n\"")];
        assert_facts("inotify", &build(place, "inotify").succeeded().image().tree(), facts);
        let hint = ["exit status 3", "called ptrace", "--run-tracer=0:2=inotify"];
        build(place, "ptrace").refused(3, &hint);
        // Nothing stops a step under fanotify, and nobody watches one in a small tree else.
        let log = build(place, "auto").succeeded().log;
        let step = "This step: off (a small tree: looking at ";
        let is_in_memory = log.contains("Files are compared by content");
        let is_watched = log.contains("RUN steps: fanotify") || is_in_memory;
        assert_eq!(is_watched, !log.contains(step), "{log}");
        build(place, "0:2=inotify").succeeded();
    }
}

/// Gives up root for user 1000 and runs a program.
const DROPS: &str = "#include <grp.h>\n#include <unistd.h>\n\
    int main(int c, char **v) {\n\
      if (setgroups(0, 0) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) return 2;\n\
      execv(v[1], v + 1); return 3;\n\
    }\n";

#[test]
fn a_root_step_that_comes_back_to_root_works_or_says_why_not() {
    let home = tempfile::tempdir().unwrap();
    let (source, program) = (home.path().join("drops.c"), home.path().join("drops"));
    std::fs::write(&source, DROPS).unwrap();
    tools::run("gcc", ["-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()]);
    let program = std::fs::read(program).unwrap();
    let layout = crate::rough_steps::with_set_id_programs(home.path());
    let build = |place: Place, who: &str, tracer: &str| {
        Build::of(&format!(
            "FROM set-id\nCOPY --chmod=755 drops /bin/\nRUN drops /bin/{who} /tmp/ids\n"
        ))
        .base("set-id", &layout)
        .place(place)
        .file("drops", &program)
        .flag(format!("--run-tracer={tracer}"))
        .run()
    };
    let root: Facts<'_> = &[("/tmp/ids", "- 0644 0:1000 17 \"1000 0 1000 1000\\n\"")];
    for (place, tracer) in [
        (PLACES[0], "auto"),
        (PLACES[0], "inotify"),
        (PLACES[1], "auto"),
        (PLACES[1], "*:drops=inotify"),
    ] {
        for who in ["who-user", "who-unread"] {
            let image = build(place, who, tracer).succeeded().image();
            assert_facts(&format!("{place:?} {tracer} {who}"), &image.tree(), root);
        }
    }
    let words = ["/bin/who-user is set-user-id root", "--run-tracer=0:2=inotify"];
    build(PLACES[1], "who-user", "ptrace").refused(1, &words);
    // Without its group a program may still do what it is for. So may one that nobody can read, of
    // which nothing is known but its name: in Debian's way sudo is such a one.
    for (who, named) in [("who-group", "/bin/who-group"), ("who-unread", " who-unread")] {
        let ended = build(PLACES[1], who, "ptrace").succeeded();
        let warning = format!("{named} ran without the rights that its file gives");
        assert!(ended.log.contains(&warning), "{}", ended.log);
        assert!(ended.log.contains("--run-tracer=0:2=inotify"), "{}", ended.log);
    }
    let words = ["exit status 1", "who-unread ran without the rights", "--run-tracer=0:2=inotify"];
    build(PLACES[1], "who-unread /none/ids", "ptrace").refused(1, &words);
}

#[test]
fn a_tracer_for_a_step_that_does_not_exist_is_refused() {
    for (flag, words) in [
        ("0:9=ptrace", "no RUN of the stages that are built is this step"),
        ("0:1=ptrace", "--run-tracer=0:1=ptrace: no RUN"),
        ("build:*=off", "no RUN"),
        ("*:make=off", "no RUN"),
        ("2=off", "a step is named as STAGE:STEP=TRACER"),
        ("0:2=strace", "is none of auto"),
    ] {
        let build = Build::of("FROM busybox\nWORKDIR /x\nRUN true\n");
        let build = build.base("busybox", base::busybox()).flag(format!("--run-tracer={flag}"));
        build.run().refused(1, &[words]);
    }
}

/// A tree that is neither small nor large, and steps that only differ in what they may start.
const MIDDLE: &str = "FROM busybox\n\
    RUN mkdir /t && cd /t && i=0 && while [ $i -lt 20000 ]; do : > $i; i=$((i+1)); done\n\
    RUN echo 1 > /t/brief\n\
    RUN for i in 1 2 3; do echo $i >> /t/7; done\n\
    RUN for i in 1 2 3; do mkdir /t/d$i; done\n\
    RUN for i in 1 2 3; do rmdir /t/d$i; done\n";

#[test]
fn what_may_start_many_programs_is_not_stopped_where_a_walk_would_cost_little() {
    let build = |flag: &str| {
        let build = Build::of(MIDDLE).base("busybox", base::busybox());
        build.place(PLACES[1]).flag(flag).run().succeeded()
    };
    for flag in ["--verify-snapshot=off", "--verify-snapshot=fail"] {
        let ended = build(flag);
        let facts: Facts<'_> =
            &[("/t/brief", "- 0644 0:0 2 \"1\\n\""), ("/t/7", "- 0644 0:0 6 \"1\\n2\\n3\\n\"")];
        let image = ended.image();
        assert_facts(flag, &image.tree(), facts);
        for (layer, count) in [(2, 2), (3, 1), (4, 4), (5, 4)] {
            assert_eq!(image.layers[layer].entries.len(), count, "{layer}\n{}", ended.log);
        }
        if ended.log.contains("Files are compared by content") {
            continue; // a walk of a tree in memory is too dear to be risked
        }
        let steps = ended.log.matches("This step: inotify (it may start many programs").count();
        assert_eq!(steps, 3, "{}", ended.log);
        // Only of a directory that came is nothing known.
        assert_eq!(ended.log.matches("came unseen").count(), 1, "{}", ended.log);
    }
    let log = build("--run-tracer=ptrace").log;
    assert!(!log.contains("This step: "), "who asks for a tracer has it: {log}");
}

/// An old file, and directories to give it further names in.
const NAMES: &str = "FROM busybox\nCOPY t /t\n\
    RUN mkdir -p /w /mnt /cache /opt /kaniko/f && echo old > /w/old && echo old > /opt/f\n";

/// In place, what is shown for a mount and what waits meanwhile is on the file system of the tree, and so is the executor's
/// own directory: a file may be changed by a name there, which is gone when the tree is looked at.
#[test]
fn names_that_are_no_part_of_the_image_are_minded() {
    let (changed, closed) = ("- 0644 0:0 8 \"old\\nnew\\n\"", "- 0600 0:0 4 \"old\\n\"");
    for (steps, path, want) in [
        ("RUN ln /w/old /kaniko/x\nRUN echo new >> /kaniko/x; rm /kaniko/x\n", "/w/old", changed),
        (
            "RUN ln /w/old /kaniko/f/x; mv /kaniko/f /kaniko/g; echo new >> /kaniko/g/x\n",
            "/w/old",
            changed,
        ),
        (
            "RUN --mount=type=tmpfs,target=/mnt ln /w/old /mnt/y && echo new >> /mnt/y\n",
            "/w/old",
            changed,
        ),
        (
            "RUN --mount=type=bind,target=/mnt,rw ln -f /w/old /mnt/t && chmod 600 /mnt/t\n",
            "/w/old",
            closed,
        ),
        (
            "RUN --mount=type=cache,target=/cache ln -f /w/old /cache/y\n\
             RUN --mount=type=cache,target=/cache echo new >> /cache/y && rm /cache/y\n",
            "/w/old",
            changed,
        ),
        (
            "RUN --mount=type=cache,target=/cache echo old > /cache/z && ln /cache/z /w/z\n\
             RUN --mount=type=cache,target=/cache echo new >> /cache/z && rm /cache/z\n",
            "/w/z",
            changed,
        ),
        (
            "RUN --mount=type=tmpfs,target=/opt \
             find / -xdev -path '*/aside-*' -type f -exec chmod 600 {} +\n",
            "/opt/f",
            closed,
        ),
    ] {
        for tracer in ["inotify", "ptrace"] {
            let build = Build::of(&format!("{NAMES}{steps}")).base("busybox", base::busybox());
            let ended = build
                .file("t", "t")
                .place(PLACES[1])
                .flags(["--verify-snapshot=fail", &format!("--run-tracer={tracer}")])
                .run()
                .succeeded();
            let facts: Facts<'_> = &[(path, want)];
            assert_facts(&format!("{tracer} {steps}"), &ended.image().tree(), facts);
            let words = "by a name of it that is no part of the image";
            assert!(ended.log.contains(words), "{tracer} {steps}{}", ended.log);
        }
    }
}

/// Changes a byte by a mapping, after a look at it.
const STORES: &str = "#include <fcntl.h>\n#include <sys/mman.h>\n\
    int main(int c, char **v) {\n\
      int fd = open(v[1], O_RDWR);\n\
      volatile char *p = mmap(0, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);\n\
      if (p == MAP_FAILED || *p != 'o') return 1;\n\
      *p = 'n'; return munmap((void *)p, 1);\n\
    }\n";

/// The times of such a file stay what they were, to the nanosecond.
#[test]
fn a_store_to_a_mapped_file_in_memory_is_found() {
    let home = tempfile::tempdir().unwrap();
    let (source, program) = (home.path().join("stores.c"), home.path().join("stores"));
    std::fs::write(&source, STORES).unwrap();
    tools::run("gcc", ["-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()]);
    let program = std::fs::read(program).unwrap();
    for tracer in ["auto", "ptrace", "inotify", "off"] {
        let disk = SmallDisk::new(40_000);
        let build = Build::of(
            "FROM busybox\nCOPY --chmod=755 stores /\nRUN echo old > /f\nRUN true\nRUN /stores /f\n",
        );
        let ended = build
            .base("busybox", base::busybox())
            .file("stores", &program)
            .share("disk", disk.path())
            .flags(["--kaniko-dir={disk}", &format!("--run-tracer={tracer}")])
            .run()
            .succeeded();
        let facts: Facts<'_> = &[("/f", "- 0644 0:0 4 \"nld\\n\"")];
        assert_facts(tracer, &ended.image().tree(), facts);
        assert!(ended.log.contains("Files are compared by content"), "{}", ended.log);
    }
}
