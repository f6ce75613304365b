//! The map is a test: which module may name which.
//!
//! The text of `src` is read, not its compiled form: a path `crate::NAME` (or
//! `kaniko::NAME` in a binary) is an arrow from the module it stands in to NAME.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module of `src`, and the modules that it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("dockerfile", &[]),
    ("image", &[]),
    ("report", &[]),
    ("plan", &["dockerfile", "image", "report"]),
    ("context", &["dockerfile", "image", "registry", "report", "rootfs"]),
    ("registry", &["image"]),
    ("sink", &["image", "registry"]),
    ("rootfs", &["image", "report"]),
    ("ship", &["image", "registry", "rootfs"]),
    ("step", &["context", "dockerfile", "image", "plan", "report", "rootfs"]),
    ("cache", &["image", "plan", "registry", "sink"]),
    ("check", &["context", "dockerfile", "image", "plan", "report"]),
    (
        "build",
        &[
            "cache",
            "check",
            "context",
            "dockerfile",
            "image",
            "plan",
            "registry",
            "report",
            "rootfs",
            "sink",
            "step",
        ],
    ),
    ("warm", &["cache", "dockerfile", "image", "plan", "registry", "report"]),
    (
        "cli",
        &[
            "build",
            "cache",
            "context",
            "dockerfile",
            "image",
            "plan",
            "registry",
            "report",
            "rootfs",
            "ship",
            "sink",
            "step",
            "warm",
        ],
    ),
];

/// Modules that compute values: no file, no process, no network, no environment.
const PURE: &[&str] = &["dockerfile", "image", "plan"];

/// Where values of a pure module are read from disk, and nothing else happens.
const OPENED: &[&str] = &["src/image/blob.rs", "src/image/layout.rs"];

/// What a pure module may not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::process",
    "env::args",
    "env::current",
    "env::var",
    "net::Tcp",
    "net::ToSocketAddrs",
    "net::Udp",
    "libc::",
    "nix::",
    "rustix::",
    "tokio::",
];

/// The only module that sees the environment and the current directory.
const TOLD: &[&str] = &["cli"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory that is no test, with its text less comments and tests.
fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(directory)];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory:?}: {e}")) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                waiting.extend((name != "tests").then_some(path));
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = code_of(&fs::read_to_string(&path).unwrap());
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found
}

/// The lines that are code, up to the tests at the end of the file.
fn code_of(text: &str) -> String {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The first part of a path below `src`: `rootfs` of `src/rootfs/unpack.rs`.
fn module_of(path: &Path) -> String {
    let part = path.iter().nth(1).expect("it is below src").to_string_lossy();
    part.trim_end_matches(".rs").to_owned()
}

/// The modules that a file names; at the top of a module, `super` is the crate's root.
fn arrows(path: &Path, text: &str) -> BTreeSet<String> {
    let mut names = named("crate::", text);
    if path.iter().count() == 2 || path.ends_with("mod.rs") && path.iter().count() == 3 {
        names.extend(named("super::", text));
    }
    names
}

/// The modules that a text names after this root, one by one or in braces.
fn named(root: &str, text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for part in text.split(root).skip(1) {
        let list = part.strip_prefix('{').unwrap_or(part);
        let first: String =
            list.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        names.insert(first);
        if part.starts_with('{') {
            names.extend(firsts_in_braces(list));
        }
    }
    names.remove("");
    names
}

/// The first names of a use list's members, nested lists left out.
fn firsts_in_braces(list: &str) -> Vec<String> {
    let mut depth = 1;
    let mut word = String::new();
    let mut words = Vec::new();
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => words.push(std::mem::take(&mut word)),
            _ if depth == 1 => word.push(letter),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    words.push(word);
    let first = |word: &String| word.trim().split("::").next().unwrap_or_default().to_owned();
    words
        .iter()
        .map(first)
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

#[test]
fn modules_name_only_what_the_map_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        if matches!(module.as_str(), "lib" | "bin" | "main") {
            continue;
        }
        let Some(allowed) = allowed.get(module.as_str()) else {
            wrong.push(format!("{}: {module} is not on the map", path.display()));
            continue;
        };
        for name in arrows(&path, &text) {
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {module} -> {name}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_map_has_no_circle() {
    let mut settled = BTreeSet::new();
    while settled.len() < ARROWS.len() {
        let before = settled.len();
        for (module, allowed) in ARROWS {
            if allowed.iter().all(|name| settled.contains(name)) {
                settled.insert(*module);
            }
        }
        assert!(settled.len() > before, "a circle among all but {settled:?}");
    }
}

#[test]
fn pure_modules_touch_nothing() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let opened = OPENED.iter().any(|file| path == Path::new(file));
        if PURE.contains(&module_of(&path).as_str()) && !opened {
            let names = IMPURE.iter().filter(|name| text.contains(*name));
            wrong.extend(names.map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn only_the_command_line_sees_the_environment() {
    let mut wrong = Vec::new();
    for directory in ["src", "tracer/src", "snapshot/src"] {
        for (path, text) in sources(directory) {
            let told = directory == "src" && TOLD.contains(&module_of(&path).as_str());
            let binary = path.starts_with("src/bin");
            for name in ["env::var", "env::vars", "env::current_dir", "env::set_var"] {
                if text.contains(name) && !told && !binary {
                    wrong.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_library_crates_know_neither_each_other_nor_the_program() {
    for (krate, strangers) in
        [("tracer", ["snapshot", "kaniko"]), ("snapshot", ["tracer", "kaniko"])]
    {
        let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        // What only tests need may be anything: traces are held against the walk.
        let (shipped, _) = manifest.split_once("[dev-dependencies]").unwrap_or((&manifest, ""));
        assert!(shipped.contains("[dependencies]"), "{krate}/Cargo.toml");
        for stranger in strangers {
            let names = shipped.lines().any(|line| {
                line.starts_with(&format!("{stranger} "))
                    || line.starts_with(&format!("{stranger}."))
            });
            assert!(!names, "{krate}/Cargo.toml depends on {stranger}");
            for (path, text) in sources(&format!("{krate}/src")) {
                assert!(
                    !text.contains(&format!("{stranger}::")),
                    "{} names {stranger}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_code_is_fenced() {
    let mut wrong = Vec::new();
    for directory in ["src", "tracer/src", "snapshot/src"] {
        for (path, text) in sources(directory) {
            let fenced =
                path.starts_with("tracer/src/sys") || path == Path::new("tracer/src/sys.rs");
            let lines = text.lines().filter(|line| {
                line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
            });
            if !fenced && lines.count() > 0 {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn libraries_do_not_print() {
    let mut wrong = Vec::new();
    for directory in ["src", "tracer/src", "snapshot/src"] {
        for (path, text) in sources(directory) {
            let may = ["bin", "cli", "report"]
                .contains(&path.iter().nth(1).map_or("", |p| p.to_str().unwrap_or("")));
            for name in ["println!(", "print!(", "dbg!("] {
                if text.contains(name) && !(directory == "src" && may) {
                    wrong.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_reader_of_paths_reads_them() {
    for (text, want) in [
        ("use crate::image::Digest;", vec!["image"]),
        ("use crate::{image::{A, plan::b}, plan, Error};", vec!["image", "plan"]),
        ("fn f(x: crate::plan::Key) -> crate::Error", vec!["plan"]),
        ("nothing", vec![]),
    ] {
        assert_eq!(named("crate::", text).into_iter().collect::<Vec<_>>(), want, "{text}");
    }
}
