//! What people really run in steps, traced, each step held against a walk: nothing may be missing.
//!
//! One image is built of all of it, since the base takes longer to unpack than most of the work
//! does. `KANIKO_LONG_RUN=1` makes the trees larger and adds the tools whose packages take minutes
//! to download.

use std::path::PathBuf;

use crate::base;
use crate::executor::{Build, Place};
use crate::pod::Privileges;

const POD: Place = Place::Pod(Privileges::DEFAULT);
/// Where a backend is the one that is taken, or the only other one.
const WATCHED: [(Place, &str); 4] =
    [(Place::Host, "auto"), (Place::Host, "ptrace"), (POD, "ptrace"), (POD, "inotify")];

fn is_long() -> bool {
    std::env::var_os("KANIKO_LONG_RUN").is_some()
}

/// A build whose trace is held against a walk.
fn watched(dockerfile: &str, layout: PathBuf, place: Place, backend: &str) -> Build {
    Build::of(dockerfile)
        .base("base", layout)
        .place(place)
        .flag("--verify-snapshot=fail")
        .flag(format!("--run-tracer={backend}"))
}

/// A project is configured, built and installed.
const CMAKE: &str = "WORKDIR /src\nCOPY cmake .\n\
    RUN cmake -S . -B /build -DCMAKE_BUILD_TYPE=Release\n\
    RUN cmake --build /build --parallel 2\n\
    RUN cmake --install /build && ldconfig && rm -r /build && program > /said\n";
const CMAKE_LISTS: &str = "cmake_minimum_required(VERSION 3.20)\nproject(parts C)\n\
    file(GLOB units unit*.c)\nadd_library(parts SHARED ${units})\n\
    add_executable(program main.c)\ntarget_link_libraries(program parts)\n\
    configure_file(version.h.in version.h)\ninstall(TARGETS parts program)\n\
    install(FILES ${CMAKE_BINARY_DIR}/version.h DESTINATION include)\n";
const CMAKE_MAIN: &str = "#include <stdio.h>\nint main(void) { return puts(\"built\") < 0; }\n";

/// The server makes its files as its own user, forks, and is stopped again.
const DATABASE: &str = "RUN mkdir /db && chown postgres /db && \
        setpriv --reuid=postgres --regid=postgres --clear-groups \
            /usr/lib/postgresql/15/bin/initdb --no-sync --no-locale -D /db\n\
    USER postgres\n\
    RUN export PATH=/usr/lib/postgresql/15/bin:$PATH && \
        pg_ctl -w -D /db -o '-k /tmp -h \"\" -F' -l /tmp/log start && \
        psql -h /tmp -c 'create table t as select generate_series(1, 5000) as n' postgres && \
        psql -h /tmp -Atc 'select sum(n) from t' postgres > /db/said && \
        pg_ctl -w -m fast -D /db stop\n\
    USER root\nRUN su postgres -c 'date > /db/date' && rm -r /db/base /db/date\n";

/// Repositories are made, cloned with a submodule, and merged.
const GIT: &str = "ENV GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
        GIT_COMMITTER_EMAIL=a@b\n\
    ENV GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=protocol.file.allow GIT_CONFIG_VALUE_0=always\n\
    RUN for name in part whole; do git init -q -b main /git/$name && cd /git/$name && \
            for n in $(seq 200); do echo $n > file$n; done && \
            git add . && git commit -qm first || exit 1; \
        done && git submodule --quiet add /git/part part && git commit -qm second && git gc -q\n\
    RUN git clone -q --recurse-submodules /git/whole /clone\n\
    RUN cd /clone && git checkout -q -b other HEAD~1 && git rm -q file7 && \
        git commit -qm third && git checkout -q main && \
        git submodule --quiet update --init && git merge -q other -m merged\n\
    RUN rm -rf /git && git -C /clone gc -q --prune=now\n";

/// A package is built, installed, removed, and installed in an environment of its own.
const PIP: &str = "COPY pip /pip\n\
    RUN pip install --no-index --no-build-isolation --break-system-packages /pip\n\
    RUN small > /small && pip uninstall -y --break-system-packages small\n\
    RUN python3 -m venv --system-site-packages /venv && \
        /venv/bin/pip install --no-index --no-build-isolation /pip\n";
const PIP_PROJECT: &str = "[project]\nname = \"small\"\nversion = \"1.0\"\n\
    [project.scripts]\nsmall = \"small:main\"\n[tool.setuptools]\npackages = [\"small\"]\n";

/// Makes a tree, and packs it.
const ARCHIVE: &str = "import os, sys, tarfile\n\
    for n in range(int(sys.argv[1])):\n\
    \x20   d = f'/many/{n // 100}'\n\
    \x20   os.makedirs(d, exist_ok=True)\n\
    \x20   with open(f'{d}/{n}', 'w') as f: f.write(str(n))\n\
    tarfile.open('/many.tar', 'w').add('/many', 'many')\n";

/// What is there in the end, and what is not.
const FACTS: &str = "RUN set -e; test $(cat /said) = built; test ! -e /build; \
        test $(cat /db/said) = 12502500; test ! -e /db/base; test -f /db/global/pg_control; \
        test -f /clone/part/file200; test ! -e /clone/file7; \
        test $(cat /small) = small; test ! -e /usr/local/bin/small; test -x /venv/bin/small; \
        test ! -e /there/many/0/7; test $(stat -c %A /there/many/0/1 | cut -c6) = w\n";

#[test]
fn of_real_work_nothing_is_missing() {
    let files = if is_long() { 100_000 } else { 5_000 };
    let archive = format!(
        "COPY many.py /\nRUN python3 /many.py {files}\n\
         RUN mkdir /there && tar -xf /many.tar -C /there\n\
         RUN rm -r /many.tar /many && find /there -type f -name '*7' -delete && chmod -R g+w /there\n"
    );
    let dockerfile = ["FROM base\n", CMAKE, DATABASE, GIT, PIP, &archive, FACTS].concat();
    for (place, backend) in WATCHED {
        let build = watched(&dockerfile, base::workshop(), place, backend)
            .file("cmake/CMakeLists.txt", CMAKE_LISTS)
            .file("cmake/version.h.in", "#define NAME \"@PROJECT_NAME@\"\n")
            .file("cmake/main.c", CMAKE_MAIN)
            .file("pip/pyproject.toml", PIP_PROJECT)
            .file("pip/small/__init__.py", "def main():\n    print('small')\n")
            .file("many.py", ARCHIVE);
        let build = (0..20).fold(build, |build, n| {
            let text = format!("int unit{n}(void) {{ return {n}; }}\n");
            build.file(&format!("cmake/unit{n}.c"), text)
        });
        // The steps say themselves what is there: reading so large an image takes longer.
        build.run().succeeded();
    }
}

/// What takes minutes to download, only in a long run.
#[test]
fn of_the_work_of_a_long_run_nothing_is_missing() {
    if !is_long() {
        return;
    }
    for (place, backend) in WATCHED {
        let dockerfile = ["FROM base\n", HUNDRED, CARGO, JAVA, NPM].concat();
        watched(&dockerfile, base::large_workshop(), place, backend)
            .file("A.java", JAVA_MAIN)
            .file("B.java", JAVA_PART)
            .run()
            .succeeded();
    }
}

/// Packages with what they need: more than a hundred.
const HUNDRED: &str = "ENV DEBIAN_FRONTEND=noninteractive\n\
    RUN apt-get update && apt-get install -y --no-install-recommends bc file jq less nano patch \
        procps psmisc tree xz-utils vim-tiny curl wget rsync openssh-client gnupg sqlite3 \
        redis-server nginx-light apache2 php-cli ruby imagemagick graphviz ffmpeg emacs-nox gdb \
        strace man-db cron && [ $(grep -c ' install ' /var/log/dpkg.log) -ge 100 ]\n\
    RUN apt-get purge -y nginx-light apache2 ruby && apt-get autoremove -y && apt-get clean\n";
const CARGO: &str = "RUN mkdir /ws && cd /ws && for n in 1 2 3 4; do \
            cargo new -q --vcs none --lib part$n; done && cargo new -q --vcs none all && cd all && \
        for n in 1 2 3 4; do echo \"part$n = { path = '../part$n' }\" >> Cargo.toml; done\n\
    RUN cd /ws/all && cargo build -q --offline && cargo test -q --offline && cargo clean -q\n";
const JAVA: &str = "COPY *.java /src/\n\
    RUN cd /src && javac -d out *.java && jar cfe app.jar A -C out . && \
        java -jar app.jar > /said && \
        java -XX:ArchiveClassesAtExit=/src/app.jsa -jar app.jar\n";
const JAVA_MAIN: &str = "public class A { public static void main(String[] a) { new B().b(); } }\n";
const JAVA_PART: &str =
    "class B { record R(int x) {} void b() { System.out.println(new R(7)); } }\n";
const NPM: &str = "RUN mkdir -p /js/lib /js/app && cd /js/lib && npm init -y && npm pack && \
        cd ../app && npm init -y && npm install --offline ../lib/lib-1.0.0.tgz\n\
    RUN cd /js/app && npm uninstall --offline lib && npm cache clean --force\n";
