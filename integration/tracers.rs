//! The backends of the tracer, each on steps that only it can watch, and on those it cannot.

use crate::base;
use crate::build_basic::{Facts, assert_facts};
use crate::executor::{Build, PLACES, Place};
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
        let walks = ended.log.matches("came unseen by inotify").count();
        assert_eq!(walks, 4, "{place:?}\n{}", ended.log);
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
        build(place, "ptrace").refused(3, &["exit status 3"]);
    }
}
