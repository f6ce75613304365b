//! Real work on a real Debian base, traced, and checked by a walk after every step.

use std::fs;
use std::path::Path;

use crate::base;
use crate::build_basic::assert_facts;
use crate::executor::{Build, PLACES, Place};
use crate::image::Image;

/// A build on Debian whose trace is held against a walk.
fn on_debian(place: Place, dockerfile: &str) -> Build {
    Build::of(dockerfile)
        .base("debian", base::debian())
        .base("toolchain", base::toolchain())
        .base("node", base::node())
        .place(place)
        .flags(["--verify-snapshot=fail", "--run-tracer=ptrace"])
}

#[test]
fn dpkg_installs_packages() {
    let dockerfile = "FROM debian\nCOPY *.deb /debs/\n\
        RUN dpkg -i /debs/*.deb\nRUN rm -r /debs && jq --version > /said && tree /etc | tail -n 1\n\
        RUN dpkg --purge tree\n";
    for place in PLACES {
        let image = on_debian(place, dockerfile)
            .context_by(|context| copy_all(&base::packages(), context))
            .image();
        let tree = image.tree();
        for (path, there) in [("/usr/bin/jq", true), ("/usr/bin/less", true), ("/debs", false)] {
            assert_eq!(tree.contains_key(path), there, "{place:?} {path}");
        }
        assert!(!tree.contains_key("/usr/bin/tree"), "{place:?}");
        assert!(tree["/said"].to_string().contains("jq-"), "{place:?}");
    }
}

#[test]
fn apt_get_installs_a_package_from_the_network() {
    let dockerfile = "FROM debian\nENV DEBIAN_FRONTEND=noninteractive\n\
        RUN apt-get update && apt-get install -y --no-install-recommends bc && \
            rm -rf /var/lib/apt/lists/*\nRUN echo 6*7 | bc > /said\n";
    for place in PLACES {
        let tree = on_debian(place, dockerfile).image().tree();
        assert_facts(&format!("{place:?}"), &tree, &[("/said", "- 0644 0:0 3 \"42\\n\"")]);
        let lists = tree.keys().filter(|path| path.starts_with("/var/lib/apt/lists/"));
        assert_eq!(lists.count(), 0, "{place:?}");
    }
}

const SERVICE: &str = "import json, pathlib, sqlite3\n\
    db = sqlite3.connect('/srv/app.db')\n\
    db.execute('create table t (a)')\n\
    db.executemany('insert into t values (?)', [(n,) for n in range(100)])\n\
    db.commit()\n\
    (total,) = db.execute('select sum(a) from t').fetchone()\n\
    pathlib.Path('/srv/total.json').write_text(json.dumps(total))\n";

#[test]
fn a_python_application_is_built() {
    let dockerfile = "FROM toolchain\nWORKDIR /srv\nCOPY app app\n\
        RUN python3 -m venv --without-pip venv && venv/bin/python -m compileall -q app\n\
        RUN useradd --uid 4000 service && chown service /srv\n\
        USER service\nRUN venv/bin/python -m app\n\
        CMD [\"venv/bin/python\", \"-m\", \"app\"]\n";
    for place in PLACES {
        let image = on_debian(place, dockerfile)
            .file("app/__init__.py", "")
            .file("app/__main__.py", SERVICE)
            .image();
        let tree = image.tree();
        let facts = [("/srv/total.json", "- 0644 4000:4000 4 \"4950\"")];
        assert_facts(&format!("{place:?}"), &tree, &facts);
        let compiled = tree.keys().filter(|path| path.starts_with("/srv/app/__pycache__/"));
        assert_eq!(compiled.count(), 2, "{place:?}");
        let changed = image.top().names();
        assert_eq!(changed, ["/srv/app.db", "/srv/total.json"], "{place:?}");
    }
}

/// Lays out packages as npm does, and bundles them by way of a worker thread and a child process.
const BUNDLER: &str = r"const fs = require('fs'), path = require('path');
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) {
  fs.writeFileSync('dist/part.js', fs.readFileSync('node_modules/left/index.js'));
  parentPort.postMessage('done');
} else {
  for (const name of ['left', 'right']) {
    const home = path.join('node_modules', name);
    fs.mkdirSync(home, { recursive: true });
    fs.writeFileSync(path.join(home, 'index.js'), `exports.name = '${name}';\n`);
    fs.mkdirSync('node_modules/.bin', { recursive: true });
    fs.symlinkSync(`../${name}/index.js`, `node_modules/.bin/${name}`);
  }
  fs.mkdirSync('dist');
  new Worker(__filename).on('message', () => {
    fs.cpSync('node_modules/right', 'dist/right', { recursive: true });
    fs.renameSync('dist/part.js', 'dist/bundle.js');
    fs.promises.appendFile('dist/bundle.js', 'console.log(exports.name, process.getuid());\n')
      .then(() => require('child_process').execFileSync('/bin/chmod', ['755', 'dist/bundle.js']));
  });
}
";

#[test]
fn a_node_application_is_built() {
    let dockerfile = "FROM node AS build\nWORKDIR /app\nCOPY build.js .\nRUN node build.js\n\
        FROM node\nCOPY --from=build /app/node_modules /app/node_modules\n\
        COPY --from=build --chown=1000 /app/dist /app/dist\nUSER 1000\nWORKDIR /app/dist\n\
        RUN node bundle.js > said\nCMD [\"node\", \"bundle.js\"]\n";
    for place in PLACES {
        let image = on_debian(place, dockerfile).file("build.js", BUNDLER).image();
        let facts = [
            ("/app/dist/said", "- 0644 1000:0 10 \"left 1000\\n\""),
            ("/app/dist/right/index.js", "- 0644 1000:1000 24 \"exports.name = \\'right\\';\\n\""),
            ("/app/node_modules/.bin/left", "l 0777 0:0 0 -> ../left/index.js"),
            ("/app/dist/part.js", ""),
        ];
        assert_facts(&format!("{place:?}"), &image.tree(), &facts);
        assert_eq!(image.top().names(), ["/app/dist/said"], "{place:?}");
    }
}

#[test]
fn compiling_touches_what_the_walk_finds() {
    let dockerfile = "FROM toolchain\nWORKDIR /src\nCOPY . .\n\
        RUN make -j2 && make install\nRUN make clean && program\n";
    let rule = "objects = $(patsubst %.c,%.o,$(wildcard *.c))\n\
        program: $(objects)\n\t$(CC) -o $@ $^\ninstall: program\n\t\
        install -m 4755 program /usr/local/bin/\nclean:\n\trm -f *.o program\n";
    for place in PLACES {
        let build = on_debian(place, dockerfile).file("Makefile", rule);
        let build = (0..40).fold(build, |build, n| {
            build.file(&format!("unit{n}.c"), format!("int unit{n}(void) {{ return {n}; }}\n"))
        });
        let image = build.file("main.c", "int main(void) { return 0; }\n").image();
        assert_eq!(image.tree()["/usr/local/bin/program"].mode, 0o4755, "{place:?}");
        assert!(!image.tree().contains_key("/src/program"), "{place:?}");
    }
}

/// Two builds cannot give the same times, so each step sets them all to one. A mount is found too,
/// and may refuse.
const SETTLED: &str = "FROM debian\nCOPY *.deb /debs/\n\
    RUN dpkg -i /debs/*.deb && rm -rf /debs /var/log/* /var/cache/ldconfig/* && \
        { find / -xdev -newermt 2020-01-01 -exec touch -h -d @1000000000 {} + || true; }\n";

#[test]
fn the_layer_from_the_trace_is_the_layer_from_the_walk() {
    for place in PLACES {
        let build = |tracer: &str| -> Image {
            Build::of(SETTLED)
                .base("debian", base::debian())
                .place(place)
                .context_by(|context| copy_all(&base::packages(), context))
                .flag(format!("--run-tracer={tracer}"))
                .image()
        };
        let (traced, walked) = (build("ptrace"), build("off"));
        assert_eq!(traced.top().digest, walked.top().digest, "{place:?}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
