//! `--cache-read-set`: a step runs again when something that it read changed, and only then.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::image::compare;
use crate::registry::{Access, Registry};

/// What each step of [`dockerfile`] is called, and what it does.
const STEPS: &[(&str, &str)] = &[
    ("cat", "cat one > /cat"),
    ("via", "cat link > /via"),
    ("ls", "ls dir > /ls"),
    ("maybe", "if test -e maybe; then cat maybe; fi > /maybe"),
    ("glob", "cat dir/*.txt > /glob"),
    ("script", "./script.sh > /script"),
    ("cd", "cd dir && cat two.txt > /cd"),
    ("find", "find tree > /find"),
    ("grep", "grep -r word tree > /grep"),
    ("mode", "stat -c %a one > /mode"),
    ("where", "readlink link > /where"),
    ("copy", "cp -r tree /copy"),
    ("up", "cat dir/up/one > /up"),
    ("own", "echo 1 > own; cat own > /own; rm own"),
    ("nothing", "true > /nothing"),
    ("here", "cat > /here"),
    ("mount", "cat /mnt/one > /mount"),
    ("path", "PATH=tools:$PATH; tool > /path || echo none > /path"),
];

fn dockerfile() -> String {
    let mut text = "FROM busybox\nWORKDIR /app\nCOPY . .\n".to_owned();
    for (name, command) in STEPS {
        text += &match *name {
            "here" => format!("RUN : {name}; {command} <<END\nsaid\nEND\n"),
            "mount" => format!("RUN --mount=target=/mnt,source=dir : {name}; {command}\n")
                .replace("/mnt/one", "/mnt/two.txt"),
            _ => format!("RUN : {name}; {command}\n"),
        };
    }
    text
}

fn context(dir: &Path) {
    let at = |name: &str| dir.join(name);
    for name in ["dir", "tree/a", "tools", "far"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for (name, text) in [
        ("one", "1\n"),
        ("other", "never read\n"),
        ("dir/two.txt", "2\n"),
        ("dir/no", "3\n"),
        ("tree/a/x", "a word\n"),
        ("tree/b", "none\n"),
        ("far/x", "far\n"),
        ("script.sh", "#!/bin/sh\n. ./conf\n"),
        ("conf", "echo conf\n"),
    ] {
        fs::write(at(name), text).unwrap();
    }
    symlink("dir/two.txt", at("link")).unwrap();
    symlink("..", at("dir/up")).unwrap();
    fs::set_permissions(at("script.sh"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn build(place: Place, store: &TempDir, change: impl FnOnce(&Path)) -> Build {
    on_busybox(place, &dockerfile())
        .context_by(context)
        .context_by(change)
        .share("cache", store.path())
        .flags(["--cache", "--cache-read-set", "--cache-repo=dir:{cache}", "--reproducible"])
}

/// The steps that were executed, by what they are called.
fn executed(ended: &Ended) -> String {
    let mut executed = Vec::new();
    let mut step = None;
    for line in ended.log.lines() {
        if let Some((_, named)) = line.split_once(" : ") {
            step = line.contains("RUN").then(|| named.split(';').next().unwrap().to_owned());
        } else if line.contains("Cached: ") {
            step = None;
        } else if line.contains("Layer of ") {
            executed.extend(step.take());
        }
    }
    executed.join(" ")
}

type Change = fn(&Path);

/// What is changed, and the steps that see it.
const CHANGES: &[(&str, Change, &str)] = &[
    ("nothing", |_| (), ""),
    ("a file that nobody reads", |dir| write(dir, "other", "changed\n"), ""),
    ("times", |dir| touch(&dir.join("one")), ""),
    ("a file", |dir| write(dir, "one", "9\n"), "cat mode up"),
    ("its mode", |dir| mode(&dir.join("one"), 0o600), "cat mode up"),
    ("where a link leads", |dir| link(dir, "dir/no", "link"), "via where"),
    ("a file behind a link", |dir| write(dir, "dir/two.txt", "9\n"), "via ls glob cd mount"),
    ("a name in a directory", |dir| write(dir, "dir/new.txt", "n\n"), "ls glob mount"),
    ("a name that is gone", |dir| remove(dir, "dir/no"), "ls glob mount"),
    ("a file that was missing", |dir| write(dir, "maybe", "n\n"), "maybe script"),
    ("a script", |dir| append(dir, "script.sh", "echo more\n"), "script"),
    ("what it sources", |dir| write(dir, "conf", "echo other\n"), "script"),
    ("a deep file", |dir| write(dir, "tree/a/x", "another word\n"), "find grep copy"),
    ("a deep name", |dir| rename(dir, "tree/a/x", "tree/a/y"), "find grep copy"),
    ("a name beside it", |dir| write(dir, "another", "n\n"), "script"),
    ("a program in the path", |dir| tool(dir), "path"),
    ("a link in the way", |dir| link(dir, "../far/..", "dir/up"), "ls up mount"),
];

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

fn append(dir: &Path, name: &str, text: &str) {
    let old = fs::read_to_string(dir.join(name)).unwrap();
    fs::write(dir.join(name), old + text).unwrap();
}

fn remove(dir: &Path, name: &str) {
    fs::remove_file(dir.join(name)).unwrap();
}

fn rename(dir: &Path, old: &str, new: &str) {
    fs::rename(dir.join(old), dir.join(new)).unwrap();
}

fn link(dir: &Path, target: &str, name: &str) {
    remove(dir, name);
    symlink(target, dir.join(name)).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn touch(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
}

fn tool(dir: &Path) {
    write(dir, "tools/tool", "#!/bin/sh\necho tool\n");
    mode(&dir.join("tools/tool"), 0o755);
}

#[test]
fn what_a_step_reads_decides_and_nothing_else() {
    for place in PLACES {
        let store = tempfile::tempdir().unwrap();
        let cold = build(place, &store, |_| ()).run().succeeded();
        assert_eq!(executed(&cold).split(' ').count(), STEPS.len(), "{}", cold.log);
        let mut wrong = Vec::new();
        for (number, (what, change, want)) in CHANGES.iter().enumerate() {
            // Where steps run makes no difference to what they read.
            if place != Place::Host && number % 4 != 3 {
                continue;
            }
            let found = build(place, &store, change).flag("--no-push-cache").run().succeeded();
            let ran = executed(&found);
            if ran != *want {
                wrong.push(format!("{what}: ran {ran:?} instead of {want:?}\n{}", found.log));
            }
            if number % 4 == 3 {
                let fresh = on_busybox(place, &dockerfile()).context_by(context).context_by(change);
                let fresh = fresh.flag("--reproducible").image();
                assert_eq!(found.image().digest, fresh.digest, "{place:?} {what}: {}", found.log);
            }
        }
        assert!(wrong.is_empty(), "{place:?}\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_registry_keeps_several_read_sets_of_a_command() {
    let registry = Registry::start(Access::Plain);
    let repository = registry.reference("cache");
    let dockerfile =
        "FROM busybox\nCOPY . /src\nRUN cat /src/a /src/b > /both\nRUN cat /both > /again\n";
    let build = |a: &str, b: &str, other: &str| {
        let build = on_busybox(Place::Host, dockerfile).file("a", a).file("b", b).file("c", other);
        let build = build.flags(["--cache", "--cache-read-set", "--reproducible", "--insecure"]);
        build.flag(format!("--cache-repo={repository}")).run().succeeded()
    };
    // By the steps that are executed: both, both because what the first made is other, none.
    for (a, b, other, want) in [
        ("1", "1", "1", 2),
        ("1", "2", "2", 2),
        ("1", "1", "3", 0),
        ("1", "2", "4", 0),
        // Put together otherwise, the first command makes what it made before.
        ("12", "", "5", 1),
        ("12", "", "6", 0),
        ("1", "2", "6", 0),
    ] {
        let ended = build(a, b, other);
        let ran = ended.log.lines().filter(|line| line.contains("Layer of")).count() - 1;
        assert_eq!(ran, want, "{a} {b} {other}\n{}", ended.log);
        let fresh = on_busybox(Place::Host, dockerfile).file("a", a).file("b", b).file("c", other);
        let fresh = fresh.flag("--reproducible").image();
        assert_eq!(compare(&ended.image().tree(), &fresh.tree()), [] as [String; 0]);
        assert_eq!(ended.image().digest, fresh.digest, "{}", ended.log);
    }
}

#[test]
fn what_cannot_be_told_is_said_and_runs_again() {
    for (command, words) in [
        ("echo more >> /src/a", "it changed /src/a, which was there before"),
        ("mv /src /moved", "it changed /src/Dockerfile, which was there before"),
    ] {
        let store = tempfile::tempdir().unwrap();
        let dockerfile = format!("FROM busybox\nCOPY . /src\nRUN {command}\n");
        let build = |other: &str| {
            on_busybox(Place::Host, &dockerfile)
                .file("a", "1")
                .file("other", other)
                .share("cache", store.path())
                .flags(["--cache", "--cache-read-set", "--cache-repo=dir:{cache}"])
                .run()
                .succeeded()
        };
        let log = build("1").log;
        assert!(log.contains(words), "{command}\n{log}");
        let log = build("2").log;
        assert!(log.contains(words) && !log.contains("Cached: "), "{command}\n{log}");
    }
}

/// Compilers, interpreters and what they load.
#[test]
fn real_programs_are_found_by_what_they_read() {
    let store = tempfile::tempdir().unwrap();
    let dockerfile = "FROM base\nENV PYTHONDONTWRITEBYTECODE=1\nWORKDIR /app\nCOPY . .\n\
        RUN : make; make -s\nRUN : run; ./prog > /said\nRUN : python; python3 say.py > /python\n";
    let build = |change: Change| {
        Build::of(dockerfile)
            .base("base", base::toolchain())
            .file("Makefile", "prog: src/main.o src/f.o\n\tcc -o $@ $^\n")
            .file("src/main.c", "#include \"f.h\"\nint main(void) { return f(); }\n")
            .file("src/f.c", "#include \"f.h\"\nint f(void) { return F; }\n")
            .file("src/f.h", "#define F 0\nint f(void);\n")
            .file("say.py", "import part.one\nprint(part.one.WORD)\n")
            .file("part/__init__.py", "")
            .file("part/one.py", "WORD = 'one'\n")
            .file("README", "read me\n")
            .context_by(change)
            .share("cache", store.path())
            .flags(["--cache", "--cache-read-set", "--cache-repo=dir:{cache}", "--reproducible"])
            .run()
            .succeeded()
    };
    let cases: [(Change, &str); 4] = [
        (|_| (), "make run python"),
        (|dir| write(dir, "README", "read me again\n"), ""),
        // The program comes out the same.
        (|dir| append(dir, "src/f.h", "/* nothing */\n"), "make"),
        (|dir| append(dir, "part/one.py", "WORD += 's'\n"), "python"),
    ];
    for (change, want) in cases {
        let ended = build(change);
        assert_eq!(executed(&ended), want, "{}", ended.log);
    }
}
