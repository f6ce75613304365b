//! What a command reads: by a table of small scripts, and held against strace.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process;

use tempfile::TempDir;
use tracer::{Access, CapSet, Choice, Command, Error, Interrupt, Reads, Status, Touched, Tracer};

use crate::proof::{Guests, HAS_I386, Place, Scene, cstring};

/// A tree in which scripts work.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["d/sub", "e", "empty"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for (name, text) in [
        ("a", "first"),
        ("d/f", "second"),
        ("d/sub/deep", "third"),
        ("e/g", "fourth"),
        ("s.sh", "#!/bin/sh\n:\n"),
        ("by.sh", "#!./s.sh\n:\n"),
    ] {
        fs::write(at(name), text).unwrap();
    }
    for (target, name) in [("d", "l"), ("../e", "d/up"), ("none", "dangling"), ("l/f", "far")] {
        symlink(target, at(name)).unwrap();
    }
    for name in ["s.sh", "by.sh"] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn command(program: &str, argv: &[&str], cwd: &Path) -> Command {
    let argv = argv.iter().map(|word| CString::new(*word).unwrap()).collect();
    let mut command = Command::new(CString::new(program).unwrap(), argv);
    command.cwd = cstring(cwd);
    command.envp = vec![c"PATH=/usr/bin:/bin".into()];
    command.reads = true;
    command
}

fn shell(script: &str, cwd: &Path) -> Command {
    command("/bin/sh", &["sh", "-c", script], cwd)
}

fn reads_of(command: &Command, what: &str) -> BTreeMap<Vec<u8>, Access> {
    let outcome = Tracer::probe(Choice::Ptrace).unwrap().run(command, &Interrupt::new()).unwrap();
    match outcome.reads {
        Reads::Known(known) => known,
        other => panic!("{what}: {other:?}"),
    }
}

/// What is known of the tree below `dir`, a word for each path.
fn below(known: &BTreeMap<Vec<u8>, Access>, dir: &Path) -> String {
    let prefix = [dir.as_os_str().as_bytes(), b"/"].concat();
    let told = known.iter().filter_map(|(path, access)| {
        let name = String::from_utf8_lossy(path.strip_prefix(prefix.as_slice())?).into_owned();
        let sign = match access {
            Access::Look => "?",
            Access::Change => "!",
            Access::Read => "",
            Access::Tree => "/*",
        };
        Some(name + sign)
    });
    told.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_a_script_reads_is_told() {
    for (script, want) in [
        (": < a", "a"),
        (": < d/f", "d/f"),
        (": < l/f", "d/f l?"),
        (": < far", "d/f far l?"),
        (": < d/up/g", "d/up? e/g"),
        (": < d/sub/../f", "d/f d/sub?"),
        (": < l/sub/../../a", "a d/sub? l?"),
        (": < none || true", "none"),
        (": < none/x || true", "none/x"),
        (": < a/x || true", "a/x"),
        (": < dangling || true", "dangling none"),
        ("test -e a", "a"),
        ("test -x s.sh", "s.sh?"),
        ("test -h far", "far"),
        ("cd d && : < f", "d/f"),
        ("cd l && : < sub/deep", "d/sub/deep l?"),
        ("cd d && : < ../a", "a d?"),
        ("echo d/*", "d"),
        ("readlink far", "far?"),
        ("./s.sh", "s.sh"),
        ("./by.sh", "by.sh s.sh"),
        ("PATH=none:e:/bin; ls >/dev/null", "e/ls none/ls"),
        (": > new", "new!"),
        (": > new; cat new", "new"),
        ("echo >> a", "a!"),
        ("chmod 600 a", "a!"),
        ("mkdir -p d/new", "d! d/new!"),
        ("rm a", "a!"),
        ("ln a b", "a! b!"),
        ("ln -s a b", "b!"),
        ("mv a b", "a! b!"),
        ("mv d new", "d/* new/*"),
        ("mv d new; : < new/f", "d/* new/*"),
        ("cat /proc/self/cwd/a", "a"),
        ("exec 3< d; cat /proc/self/fd/3/f", "d d/f"),
    ] {
        let dir = tree();
        let root = fs::canonicalize(dir.path()).unwrap();
        let known = reads_of(&shell(script, &root), script);
        let (told, want) = (below(&known, &root), want.to_owned());
        // What programs other than the shell look at besides depends on their version.
        let missing: Vec<&str> = want
            .split(' ')
            .filter(|word| !told.split(' ').any(|it| it == *word || covers(it, word)))
            .collect();
        assert!(missing.is_empty(), "{script}: {told}, without {missing:?}");
        if script.starts_with(':') {
            assert_eq!(told, want, "{script}");
        }
    }
}

/// Whether a word says more of the same path.
fn covers(told: &str, want: &str) -> bool {
    let bare = |word: &str| word.trim_end_matches(['?', '!']).to_owned();
    bare(told) == bare(want)
        && !told.ends_with('?')
        && (!told.ends_with('!') || want.ends_with('?'))
}

#[test]
fn programs_and_their_interpreters_are_told() {
    let dir = tree();
    let root = fs::canonicalize(dir.path()).unwrap();
    let known = reads_of(&command("./by.sh", &["./by.sh"], &root), "by.sh");
    assert_eq!(below(&known, &root), "by.sh s.sh");
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let maps = process::Command::new(&shell).args(["-c", "cat /proc/$$/maps"]).output().unwrap();
    let text = String::from_utf8(maps.stdout).unwrap();
    let mapped: BTreeSet<&str> =
        text.lines().filter_map(|line| Some(&line[line.find('/')?..])).collect();
    assert!(mapped.len() > 1, "{text}");
    for path in mapped {
        assert_eq!(known.get(path.as_bytes()), Some(&Access::Read), "{path}");
    }
}

#[test]
fn what_nobody_follows_is_said() {
    let dir = tree();
    let mut plain = shell(": < a", dir.path());
    for choice in [Choice::Off, Choice::Inotify] {
        let outcome = Tracer::probe(choice).unwrap().run(&plain, &Interrupt::new()).unwrap();
        assert_eq!(outcome.reads, Reads::Unknown("it was not traced".to_owned()), "{choice}");
    }
    plain.reads = false;
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    let outcome = tracer.run(&plain, &Interrupt::new()).unwrap();
    assert_eq!(outcome.reads, Reads::NotAsked);
    if HAS_I386 {
        let scene = Scene::new(Place::Plain);
        let mut command = scene.command("i386", "open");
        command.reads = true;
        let outcome = tracer.run(&command, &Interrupt::new()).unwrap();
        assert!(matches!(outcome.reads, Reads::Unknown(_)), "{:?}", outcome.reads);
    }
}

/// Nothing that programs change is lost where more of their calls stop. Of a user that the tracer
/// may not read without asking, only what is about users.
#[test]
fn what_is_changed_is_told_as_ever() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    for user in [None, Some(1000)] {
        let guests = Guests::built().all();
        for guest in guests.iter().filter(|it| user.is_none() || it.source.contains("ids")) {
            let name = format!("{} {} of {user:?}", guest.program, guest.behaviour);
            let keep = user.map(|_| CapSet::CONTAINER_DEFAULT);
            let scene = Scene::new(Place::Namespaced).of(user, keep).reading(true);
            let seen = match scene.run(&tracer, guest.program, &guest.behaviour) {
                Ok(seen) => seen,
                Err(Error::SetId { .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let status = seen.outcome.status;
            assert!(matches!(status, Status::Exited(0 | 3)), "{name}: {status} {}", seen.stderr);
            match (&seen.outcome.touched, &seen.outcome.reads) {
                (Touched::Only(set), Reads::Known(known)) => {
                    assert_eq!(seen.after.missing(&seen.before, set), [""; 0], "{name}");
                    let unnamed =
                        set.trees.iter().find(|path| known.get(*path) != Some(&Access::Tree));
                    assert_eq!(unnamed, None, "{name}");
                }
                (Touched::Only(set), Reads::Unknown(_)) => {
                    assert_eq!(seen.after.missing(&seen.before, set), [""; 0], "{name}");
                }
                (Touched::Anything(_), Reads::Unknown(_)) => {}
                (touched, reads) => panic!("{name}: {touched:?} {reads:?}"),
            }
        }
    }
}

/// A second opinion: whatever strace sees a name of is among what was recorded, or on a mount.
#[test]
fn strace_sees_nothing_else() {
    let dir = tree();
    let root = fs::canonicalize(dir.path()).unwrap();
    fs::write(root.join("x.h"), "#define X 1\n").unwrap();
    fs::write(
        root.join("x.c"),
        "#include <stdio.h>\n#include \"x.h\"\nint main(void) { puts(\"x\"); return X - 1; }\n",
    )
    .unwrap();
    fs::write(root.join("Makefile"), "x: x.o\n\tcc -o x x.o\nx.o: x.c x.h\n\tcc -c x.c\n").unwrap();
    fs::write(root.join("m.py"), "import json, os\nprint(json.dumps(os.listdir('d')))\n").unwrap();
    let script = "make -s && ./x && find d -name '*p' && python3 m.py && grep -r third . && \
                  cp -r d copy && tar cf t.tar d && tar tf t.tar && rm -r copy t.tar x x.o";
    let log = tempfile::NamedTempFile::new().unwrap();
    let status = process::Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "4096", "-e", "trace=%file", "-e", "signal=none", "-o"])
        .arg(log.path())
        .args(["/bin/sh", "-c", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir(&root)
        .stdout(process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let known = reads_of(&shell(script, &root), "the workload");
    let text = fs::read_to_string(log.path()).unwrap();
    let (mut looked_at, mut missing) = (0, BTreeSet::new());
    for line in text.lines() {
        let Some(path) = named_in(line, &root) else { continue };
        looked_at += 1;
        let path = real(&path);
        let is_special = ["/proc", "/dev", "/sys"].iter().any(|top| path.starts_with(top));
        if !is_special
            && !known.contains_key(path.as_os_str().as_bytes())
            && !is_above(&known, &path)
        {
            missing.insert(path);
        }
    }
    assert!(looked_at > 500, "{looked_at} names");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Whether something below it was recorded, which stands for it.
fn is_above(known: &BTreeMap<Vec<u8>, Access>, path: &Path) -> bool {
    let below = [path.as_os_str().as_bytes(), b"/"].concat();
    known.keys().any(|it| it.starts_with(&below))
}

/// The name in a line of strace, made absolute. Temporary names are new in each run.
fn named_in(line: &str, cwd: &Path) -> Option<PathBuf> {
    let call = line.split_once(' ')?.1.trim_start();
    let from = call.find('"')? + 1;
    let name = &call[from..from + call[from..].find('"')?];
    let before = &call[..from - 1];
    let at = before.rsplit_once('<').and_then(|(_, at)| at.split_once('>'));
    let start = at.map_or(cwd, |(at, _)| Path::new(at));
    // The text of a link is no name that is looked up.
    let is_text = call.starts_with("symlink");
    let is_temporary = name.starts_with("/tmp/cc") || name.contains("pip-") || name.is_empty();
    (!is_temporary && !is_text).then(|| start.join(name))
}

/// With links in its directories followed, up to the first that is not there.
fn real(path: &Path) -> PathBuf {
    let mut at = PathBuf::from("/");
    let count = path.components().count();
    for (number, part) in path.components().enumerate() {
        let next = at.join(part);
        if number + 1 == count && part != Component::ParentDir {
            return next;
        }
        match fs::canonicalize(&next) {
            Ok(real) => at = real,
            Err(_) => return next,
        }
    }
    at
}
