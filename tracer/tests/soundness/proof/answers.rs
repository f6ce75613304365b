//! What each backend says of each guest, as a table for people: a file of
//! `tests/answers` for each setting, rewritten by `BLESS=1`.
//!
//! A path that changed and is in no answer fails whatever the table says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use snapshot::{Change, Exclusions, Index, Suspects};
use tracer::{CapSet, Choice, Status, Touched, TouchedSet, Tracer};

use super::guests::{Guest, Guests, HAS_I386};
use super::scene::{Place, Scene};

/// What the guests may do, and where they are put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The name of its table.
    pub(crate) name: &'static str,
    pub(crate) places: &'static [Place],
    /// The user of the step; none is root.
    pub(crate) user: Option<u32>,
    /// What the step may hold; nothing said is all that the tracer has.
    pub(crate) keep: Option<CapSet>,
}

impl Setting {
    /// A step that keeps all capabilities of a host.
    pub(crate) const FULL: Setting =
        Setting { name: "full", places: &Place::ALL, user: None, keep: None };
    /// What a build on a host is: a step with a container's capabilities.
    pub(crate) const HOST: Setting =
        Setting { name: "host", places: &[Place::Namespaced], user: None, keep: CONTAINER };
    /// The same for another user.
    pub(crate) const USER: Setting =
        Setting { name: "host-user", user: Some(1000), ..Setting::HOST };
    /// A container's capabilities, and nothing else of a container.
    pub(crate) const CAPABILITIES: Setting = Setting::plain("capabilities", None);
    /// A container with a runtime's default profile.
    pub(crate) const POD: [Setting; 2] =
        [Setting::plain("pod", None), Setting::plain("pod-user", Some(1000))];
    /// The same under `allowPrivilegeEscalation: false`.
    pub(crate) const POD_NO_NEW_PRIVS: [Setting; 2] = [
        Setting::plain("pod-no-new-privileges", None),
        Setting::plain("pod-no-new-privileges-user", Some(1000)),
    ];

    const fn plain(name: &'static str, user: Option<u32>) -> Setting {
        Setting { name, places: &[Place::Plain], user, keep: None }
    }

    fn named(name: &str) -> Option<Setting> {
        let on_host = [Setting::FULL, Setting::HOST, Setting::USER, Setting::CAPABILITIES];
        let all = on_host.into_iter().chain(Setting::POD).chain(Setting::POD_NO_NEW_PRIVS);
        all.into_iter().find(|setting| setting.name == name)
    }
}

const CONTAINER: Option<CapSet> = Some(CapSet::CONTAINER_DEFAULT);

/// What the kernel does not let a guest do here.
const PREVENTED: i32 = 3;
const PREVENTED_TEXT: &str = ", prevented";

/// Characters of a row's name, and of each cell.
const NAME: usize = 46;
const CELL: usize = 21;

const BACKENDS: [(&str, Choice); 4] = [
    ("ptrace", Choice::Ptrace),
    ("inotify", Choice::Inotify),
    ("fanotify", Choice::Fanotify),
    ("walk", Choice::Off),
];

/// Every guest under every backend, and what is wrong whatever was expected.
pub(crate) fn table(setting: &Setting) -> (String, String) {
    let guests = Guests::built().all();
    let mut wrong = String::new();
    let mut columns = Vec::new();
    for (_, choice) in BACKENDS {
        columns.push(match Tracer::probe(choice) {
            Ok(tracer) => {
                let cell = |guest| answer(&tracer, choice, setting, guest, &mut wrong);
                guests.iter().map(cell).collect()
            }
            Err(_) => vec!["-".to_owned(); guests.len()],
        });
    }
    (written(&guests, &columns), wrong)
}

/// One cell; the places agree, or each says its own.
fn answer(
    tracer: &Tracer,
    choice: Choice,
    setting: &Setting,
    guest: &Guest,
    wrong: &mut String,
) -> String {
    let mut answers: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    // Only names that are read out of processes depend on where that is.
    let places = if choice == Choice::Ptrace { setting.places } else { &setting.places[..1] };
    for place in places {
        let scene = Scene::new(*place).of(setting.user, setting.keep);
        let text = judge(tracer, choice, &scene, guest).unwrap_or_else(|text| {
            let Guest { source, behaviour, .. } = guest;
            *wrong += &format!("{source} {behaviour}, {tracer:?}, {place:?}: {text}\n");
            "WRONG".to_owned()
        });
        answers.entry(text).or_default().push(*place);
    }
    let agreed = answers.len() == 1;
    let said = |(text, places): (String, Vec<Place>)| {
        if agreed { text } else { format!("{places:?} {text}") }
    };
    answers.into_iter().map(said).collect::<Vec<_>>().join(", ")
}

fn judge(tracer: &Tracer, choice: Choice, scene: &Scene, guest: &Guest) -> Result<String, String> {
    let walk = (choice == Choice::Off).then(|| Walk::of(scene));
    let seen = match scene.run(tracer, guest.program, &guest.behaviour) {
        Ok(seen) => seen,
        Err(error) => return Ok(format!("refused: {}", in_general(&error.to_string(), scene))),
    };
    let prevented = match seen.outcome.status {
        Status::Exited(0) => "",
        Status::Exited(PREVENTED) => PREVENTED_TEXT,
        Status::Exited(_) | Status::Signaled(..) => {
            return Err(format!("{} {}", seen.outcome.status, seen.stderr.trim_end()));
        }
    };
    let touched = match walk {
        Some(walk) => match walk.changes(scene) {
            Ok(set) => set,
            Err(error) => {
                return Ok(format!(
                    "refused: {}{prevented}",
                    in_general(&error.to_string(), scene)
                ));
            }
        },
        None => match &seen.outcome.touched {
            Touched::Only(set) => set.clone(),
            Touched::Anything(why) => {
                return Ok(format!("anything: {}{prevented}", in_general(&why.to_string(), scene)));
            }
        },
    };
    let missing = seen.after.missing(&seen.before, &touched);
    if missing.is_empty() {
        return Ok(format!("complete{prevented}"));
    }
    Err(format!("MISSING {missing:?}, has {}", names(&touched)))
}

/// A reason without what differs from run to run.
fn in_general(why: &str, scene: &Scene) -> String {
    let why = why.replace(scene.root().to_str().unwrap(), "");
    let verb = [" came ", " was ", " is "].into_iter().filter_map(|verb| why.find(verb)).min();
    let (mut text, why) = match verb.filter(|_| why.starts_with('/')) {
        Some(end) => ("a path".to_owned(), &why[end..]),
        None => (String::new(), why.get(..200).unwrap_or(&why)),
    };
    for part in why.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let is_number = part.len() > 1 && part.starts_with(|c: char| c.is_ascii_digit());
        text += if is_number { "N" } else { part };
        if is_number {
            text.extend(part.chars().last());
        }
    }
    text
}

fn names(set: &TouchedSet) -> String {
    let paths = set.paths.iter().chain(&set.trees);
    paths.map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

/// What is asked when a tracer cannot tell.
struct Walk(Index);

impl Walk {
    fn of(scene: &Scene) -> Walk {
        let mut index = Index::new();
        let root = File::open(scene.root()).unwrap();
        let everything = (&Suspects::Everything, &Exclusions::none());
        let all = snapshot::diff(root.as_fd(), &index, everything.0, everything.1).unwrap();
        index.apply(&all);
        Walk(index)
    }

    fn changes(&self, scene: &Scene) -> Result<TouchedSet, snapshot::Error> {
        let root = File::open(scene.root()).unwrap();
        let none = Exclusions::none();
        let difference = snapshot::diff(root.as_fd(), &self.0, &Suspects::Everything, &none)?;
        let called = scene.called();
        let base = called.trim_end_matches('/').as_bytes();
        let mut set = TouchedSet::default();
        for change in &difference.changes {
            match change {
                Change::Put(put) => {
                    let path = [base, put.path.as_bytes()].concat();
                    // What took the place of a directory says that it is gone.
                    let replaces = !put.entry.is_dir() && set.trees.insert(path.clone());
                    replaces || set.paths.insert(path)
                }
                Change::Whiteout(path) => set.trees.insert([base, path.as_bytes()].concat()),
            };
        }
        // No layer holds the root itself.
        set.paths.insert(called.as_bytes().to_vec());
        let sockets = difference.sockets.iter().map(|path| [base, path.as_bytes()].concat());
        set.paths.extend(sockets);
        Ok(set)
    }
}

/// The table as text, with what is longer than a word in notes below it.
fn written(guests: &[Guest], columns: &[Vec<String>]) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let mut text = String::new();
    let mut row = |name: &str, cells: [&str; BACKENDS.len()]| {
        let [first, second, third, last] = cells;
        let line = format!("{name:NAME$}{first:CELL$}{second:CELL$}{third:CELL$}{last}");
        text += line.trim_end();
        text.push('\n');
    };
    row("", BACKENDS.map(|(name, _)| name));
    let mut source = "";
    for (n, guest) in guests.iter().enumerate() {
        if guest.source != source {
            source = &guest.source;
            row("", [""; BACKENDS.len()]);
            row(source, [""; BACKENDS.len()]);
        }
        let cells: Vec<String> = columns.iter().map(|cells| short(&cells[n], &mut notes)).collect();
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        row(&format!("  {}", guest.behaviour), cells.try_into().unwrap());
    }
    for (n, note) in notes.iter().enumerate() {
        text += &format!("\n[{}] {note}", n + 1);
    }
    text + "\n"
}

/// A cell as it is, or its first word and the number of a note.
fn short<'a>(cell: &'a str, notes: &mut Vec<&'a str>) -> String {
    if cell.len() < CELL {
        return cell.to_owned();
    }
    let number = notes.iter().position(|note| *note == cell).unwrap_or_else(|| {
        notes.push(cell);
        notes.len() - 1
    });
    let word = cell.split(':').next().filter(|word| !word.starts_with('['));
    format!("{} [{}]", word.unwrap_or("by place"), number + 1)
}

/// Writes the tables of these settings into a directory, for [`compare`].
pub(crate) fn write(settings: &[Setting], to: &Path) {
    for setting in settings {
        let (table, wrong) = table(setting);
        fs::write(to.join(setting.name).with_extension("txt"), table).unwrap();
        fs::write(to.join(setting.name).with_extension("wrong"), wrong).unwrap();
    }
}

/// Holds tables that were written against those of the sources.
pub(crate) fn compare(settings: &[Setting], written: &Path) {
    let home = super::tests().join("answers");
    let mut failed = String::new();
    for setting in settings {
        let file = Path::new(setting.name).with_extension("txt");
        let got = fs::read_to_string(written.join(&file)).unwrap();
        failed += &fs::read_to_string(written.join(setting.name).with_extension("wrong")).unwrap();
        if HAS_I386 && std::env::var_os("BLESS").is_some() {
            fs::write(home.join(&file), &got).unwrap();
        }
        let want = fs::read_to_string(home.join(&file)).unwrap_or_default();
        failed += &difference(&rows(&of_this_machine(&want)), &rows(&of_this_machine(&got)))
            .map(|line| format!("{}: {line}\n", setting.name))
            .collect::<String>();
    }
    assert!(failed.is_empty(), "\n{failed}");
}

/// A table without the rows of guests that are about x86, where nobody has them, and without the calls that
/// only x86 has beside their newer forms.
fn of_this_machine(table: &str) -> String {
    let mut is_of_i386 = false;
    let mut rows = String::new();
    for line in table.split_inclusive('\n') {
        if !line.starts_with("  ") {
            is_of_i386 = line.starts_with("i386.c");
        }
        if HAS_I386 || !(is_of_i386 || line.starts_with("  old_convention ")) {
            rows += line;
        }
    }
    if HAS_I386 { rows } else { rows.replace("mkdirat", "mkdir") }
}

/// One row: a guest, or a source of guests, and its cells with their notes.
type Row = (String, Vec<String>);

fn rows(table: &str) -> Vec<Row> {
    let note = |line: &str| {
        let (number, text) = line.strip_prefix('[')?.split_once("] ")?;
        Some((format!("[{number}]"), text.to_owned()))
    };
    let notes: BTreeMap<String, String> = table.lines().filter_map(note).collect();
    let cell = |cell: &str| {
        let number = cell.trim_end().rsplit(' ').next().unwrap_or_default();
        notes.get(number).cloned().unwrap_or_else(|| cell.trim().to_owned())
    };
    let row = |line: &str| {
        let (name, cells) = line.split_at_checked(NAME).unwrap_or((line, ""));
        let cells = cells.as_bytes().chunks(CELL).take(BACKENDS.len());
        let cells = cells.map(|bytes| cell(&String::from_utf8_lossy(bytes))).collect();
        (name.trim_end().to_owned(), cells)
    };
    table.lines().filter(|line| note(line).is_none()).map(row).collect()
}

/// What one table says and the other does not. What is prevented here though nobody watches, by the column of the
/// walk, is not the doing of a backend: the guest may need a call that came with a later kernel.
fn difference(want: &[Row], got: &[Row]) -> impl Iterator<Item = String> {
    let told = |(name, cells): &Row| format!("{name}: {}", cells.join(" | "));
    let is_prevented = |row: &&Row| row.1.last().is_some_and(|walk| walk.ends_with(PREVENTED_TEXT));
    let prevented: BTreeSet<&str> =
        got.iter().filter(is_prevented).map(|(name, _)| name.as_str()).collect();
    let told = |row: &Row| match prevented.contains(row.0.as_str()) {
        true => told(row).replace(PREVENTED_TEXT, ""),
        false => told(row),
    };
    let wanted: BTreeSet<String> = want.iter().map(told).collect();
    let found: BTreeSet<String> = got.iter().map(told).collect();
    let mut lines: Vec<String> = wanted.difference(&found).map(|row| format!("- {row}")).collect();
    lines.extend(found.difference(&wanted).map(|row| format!("+ {row}")));
    lines.into_iter()
}

#[test]
fn what_the_kernel_does_not_have_is_no_difference_and_anything_else_is() {
    let guest = |cells: [&str; 4]| {
        let guest = Guest { program: "p", source: "s.c".to_owned(), behaviour: "g".to_owned() };
        rows(&written(&[guest], &cells.map(|cell| vec![cell.to_owned()])))
    };
    let long = "anything: a reason that is longer than a word";
    let want = guest(["complete", "complete", long, "complete"]);
    for (cells, lines) in [
        (["complete", "complete", long, "complete"], 0),
        (["complete, prevented", "complete, prevented", long, "complete, prevented"], 0),
        (["complete, prevented", "complete", long, "complete"], 2),
        (["complete, prevented", "complete, prevented", "complete", "complete, prevented"], 2),
        (["complete", "complete", "anything: another reason that is long", "complete"], 2),
    ] {
        assert_eq!(difference(&want, &guest(cells)).count(), lines, "{cells:?}");
    }
}

/// Where [`inside`] writes its tables, and those of which settings.
pub(crate) const TABLES: &str = "TRACER_TABLES";
pub(crate) const SETTINGS: &str = "TRACER_SETTINGS";

/// What the tests run with fewer privileges, and in containers.
#[test]
#[ignore = "started with other privileges by the tests that hold its tables against the sources"]
fn inside() {
    // As a builder that holds credentials is: its children start as copies of it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    let wanted = std::env::var(SETTINGS).unwrap();
    let settings: Vec<Setting> =
        wanted.split(',').map(|name| Setting::named(name).unwrap()).collect();
    write(&settings, Path::new(&std::env::var_os(TABLES).unwrap()));
}
