//! What Dockerfiles mean, as text: `testdata/builds/*.txt` hold a context, flags, a Dockerfile and what
//! became of it: the files beyond the base, the configuration, the history; or the message of a refusal.
//!
//! `BLESS=1` writes the results anew; they are to be read before they are committed. The form of a case:
//!
//! ```text
//! === what it shows
//! --- file d/name
//! content
//! --- flags
//! --build-arg=A=1
//! --- Dockerfile
//! FROM busybox
//! --- result
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::base;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::image::{Image, Tree};

const TITLE: &str = "=== ";
const SECTION: &str = "--- ";

/// Cases that take namespaces.
const OF_NAMESPACES: [&str; 2] = ["RUN without a network", "the name of the machine"];

/// One build and what is said of it.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) title: String,
    /// Name and text, in order; the last one is the result.
    sections: Vec<(String, String)>,
}

impl Case {
    pub(crate) fn section(&self, name: &str) -> &str {
        let found = self.sections.iter().find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str()).unwrap_or_default()
    }

    pub(crate) fn build(&self, place: Place) -> Build {
        let dockerfile = self.section("Dockerfile");
        let build = Build::of(dockerfile).base("busybox", base::busybox()).place(place);
        let build = self.section("flags").lines().fold(build, Build::flag);
        self.sections.iter().fold(build, |build, (name, text)| match name.strip_prefix("file ") {
            Some(path) => build.file(path, text.strip_suffix('\n').unwrap_or(text)),
            None => build,
        })
    }

    /// The build's outcome as text.
    fn outcome(&self, place: Place, below: &Tree) -> String {
        let ended = self.build(place).run();
        if ended.code() == 0 { told(&ended.image(), below) } else { refusal(&ended) }
    }

    fn written(&self, result: &str) -> String {
        let mut text = format!("{TITLE}{}\n", self.title);
        for (name, body) in self.sections.iter().filter(|(name, _)| name != "result") {
            let _ = write!(text, "{SECTION}{name}\n{body}");
        }
        let _ = writeln!(text, "{SECTION}result\n{result}");
        text
    }
}

fn read(file: &Path) -> Vec<Case> {
    let text = fs::read_to_string(file).expect("a file of cases");
    let mut cases: Vec<Case> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(title) = line.strip_prefix(TITLE) {
            cases.push(Case { title: title.trim_end().to_owned(), sections: Vec::new() });
        } else if let Some(name) = line.strip_prefix(SECTION) {
            let case = cases.last_mut().expect("a case begins with its title");
            case.sections.push((name.trim_end().to_owned(), String::new()));
        } else if let Some((_, body)) = cases.last_mut().and_then(|case| case.sections.last_mut()) {
            body.push_str(line);
        }
    }
    cases
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/builds");
    let found = fs::read_dir(dir).expect("the cases are there");
    let mut files: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// All cases of all files.
pub(crate) fn cases() -> Vec<Case> {
    files().iter().flat_map(|file| read(file)).collect()
}

/// Settings, history and files that are not those of the base.
fn told(image: &Image, below: &Tree) -> String {
    let mut text = String::new();
    for (path, entry) in image.tree() {
        if below.get(&path).is_none_or(|old| old.to_string() != entry.to_string()) {
            let _ = writeln!(text, "{path} {entry}");
        }
    }
    let based = !below.is_empty() && image.tree().contains_key("/bin/busybox");
    for path in below.keys().filter(|path| based && !image.tree().contains_key(*path)) {
        let _ = writeln!(text, "{path} is gone");
    }
    let settings = image.config["config"].as_object().cloned().unwrap_or_default();
    for (name, value) in settings.iter().filter(|(name, value)| says(name, value)) {
        let _ = writeln!(text, "{name} = {value}");
    }
    for name in ["author", "os", "architecture", "variant"] {
        let value = &image.config[name];
        let usual = *value == "linux" || *value == crate::craft::machine();
        if !value.is_null() && !usual {
            let _ = writeln!(text, "{name} = {value}");
        }
    }
    for line in image.history().iter().skip(usize::from(based)) {
        let _ = writeln!(text, "> {}", line.replace('\n', "\\n"));
    }
    text
}

/// Whether a setting is more than what every image has.
fn says(name: &str, value: &Value) -> bool {
    let usual = match name {
        "Env" => *value == serde_json::json!([base::PATH_VARIABLE]),
        "Cmd" => *value == serde_json::json!(["sh"]),
        "WorkingDir" => *value == "/",
        _ => false,
    };
    !usual && !value.is_null()
}

fn refusal(ended: &Ended) -> String {
    let start = ended.log.find("error: ").unwrap_or(0);
    let mut text = String::new();
    for line in ended.log[start..].lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn results(cases: &[Case], place: Place, below: &Tree) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((at, case)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cases.get(at)?)))
        {
            done.push((at, case.outcome(place, below)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join().expect("no case panics"));
        done.flatten().collect::<Vec<_>>()
    });
    done.sort();
    assert_eq!(done.len(), cases.len());
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn every_case_ends_as_it_is_written() {
    let below = Image::open(&base::busybox()).tree();
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = String::new();
    for file in files() {
        let cases = read(&file);
        let results = results(&cases, Place::Host, &below);
        let written: String =
            cases.iter().zip(&results).map(|(case, result)| case.written(result)).collect();
        if bless {
            fs::write(&file, &written).expect("the cases are written");
        }
        for (case, result) in cases.iter().zip(&results) {
            if result.trim_end() != case.section("result").trim_end() {
                let wanted = case.section("result");
                let _ = writeln!(wrong, "{}: {}\n{wanted}is\n{result}", file.display(), case.title);
            }
        }
    }
    assert!(bless || wrong.is_empty(), "{wrong}");
}

/// In a pod a build costs more, so an ordinary run takes the first case of each file, and `KANIKO_LONG_RUN=1` all.
#[test]
fn in_a_pod_the_cases_end_the_same() {
    let below = Image::open(&base::busybox()).tree();
    let all = std::env::var_os("KANIKO_LONG_RUN").is_some();
    let mut wrong = String::new();
    for file in files() {
        let cases = read(&file);
        let cases = if all { &cases[..] } else { &cases[..1] };
        for (case, result) in cases.iter().zip(results(cases, PLACES[1], &below)) {
            let want = case.section("result").trim_end();
            let is_elsewhere = OF_NAMESPACES.contains(&case.title.as_str());
            assert!(!is_elsewhere || result.trim_end() != want, "{}", case.title);
            if result.trim_end() != want && !is_elsewhere {
                let _ = writeln!(wrong, "{}: {}\n{want}\nis\n{result}", file.display(), case.title);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
