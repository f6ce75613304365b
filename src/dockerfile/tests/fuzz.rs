//! Files that nobody would write, made from those that somebody did: cut, spliced, repeated, with pieces
//! put in. Nothing may panic or hang, every refusal can be shown, places lie in the text, what is printed
//! is read back, and expansion is the same each time.
//!
//! The same seed gives the same files. `FUZZ_SECONDS=3600 cargo test --release -p kaniko --lib fuzz` goes on for
//! an hour, from a seed that `FUZZ_SEED` sets.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::printing::check;
use crate::dockerfile::{Dockerfile, Variables, Word, expand_body, parse};

/// How many files without `FUZZ_SECONDS`.
const FILES: u64 = 3000;

/// What is put in.
const PIECES: &[&str] = &[
    "\n",
    "\\\n",
    "\\",
    "`",
    "\"",
    "'",
    "$",
    "${",
    "}",
    "${V:-",
    "${V##*/}",
    "${V//a/b}",
    "${V%?}",
    "<<E\n",
    "<<-'E'\n",
    "\nE\n",
    "--from=",
    "--mount=type=bind,from=",
    "# check=skip=all\n",
    "# escape=`\n",
    "#",
    "[\"a\",",
    "]",
    "=",
    "\u{feff}",
    "\u{0}",
    "é",
    "\r\n",
    "ONBUILD ",
    "FROM x AS y\n",
    "${V:?",
    "${V/[a-z]/",
    "\t",
    ",",
    ":",
    "AS",
];

/// A small generator whose numbers are the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (below.max(1) as u64)).unwrap()
    }

    fn place(&mut self, text: &str) -> usize {
        let mut place = self.roll(text.len() + 1);
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        place
    }
}

/// The Dockerfiles of the tests.
pub(super) fn seeds() -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let files = std::fs::read_dir(format!("{root}/dockerfiles")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let mut seeds: Vec<String> = paths
        .iter()
        .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
        .collect();
    seeds.extend(super::corpus());
    seeds
}

fn mutated(dice: &mut Dice, seeds: &[String]) -> String {
    let mut text = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(6) {
        let at = dice.place(&text);
        match dice.roll(5) {
            0 => text.insert_str(at, PIECES[dice.roll(PIECES.len())]),
            1 => {
                let other = dice.place(&text);
                text.replace_range(at.min(other)..at.max(other), "");
            }
            2 => {
                let other = &seeds[dice.roll(seeds.len())];
                let (from, to) = (dice.place(other), dice.place(other));
                let part = other[from.min(to)..from.max(to)].to_owned();
                text.insert_str(at, &part);
            }
            3 => {
                let (from, to) = (dice.place(&text), dice.place(&text));
                let part = text[from.min(to)..from.max(to)].to_owned();
                text.insert_str(at, &part);
            }
            _ => text.truncate(at),
        }
        if text.len() > 20_000 {
            let end = text.floor_char_boundary(20_000);
            text.truncate(end);
        }
    }
    text
}

struct Some7;

/// Every third name is set, to something with letters of its own.
impl Variables for Some7 {
    fn value(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        (!name.len().is_multiple_of(3)).then(|| format!("$a {name}\"b'/c").into())
    }
}

fn expands(text: &str) {
    for escape in ['\\', '`'] {
        let word = Word { text: text.to_owned(), ..Word::default() };
        let first = word.expand_reporting(&Some7, escape);
        assert_eq!(first, word.expand_reporting(&Some7, escape), "{text:?}");
        let _ = word.expand_list(&Some7, escape);
        let _ = word.expand(&(), escape);
    }
    let _ = expand_body(text, &Some7);
}

fn holds(text: &str) {
    check(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text:?}"));
    match parse("fuzz", text.as_bytes()) {
        Ok(file) => in_place(&file),
        Err(error) => {
            assert!(error.span().end <= text.len().max(1), "{text:?}");
            assert!(error.line() <= text.matches('\n').count() + 1, "{text:?}");
            let _ = (error.column(), error.render(true));
        }
    }
    text.lines().for_each(expands);
}

fn in_place(file: &Dockerfile) {
    let length = file.source.text.len();
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        assert!(instruction.span.end <= length && instruction.line <= instruction.end_line);
        let _ = file.source.annotate(instruction.span, "", None, false);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_breaks_it() {
    let seeds = seeds();
    let seed = number("FUZZ_SEED").unwrap_or(0x9e37_79b9_7f4a_7c15);
    let (mut dice, began) = (Dice(seed), Instant::now());
    let limit = number("FUZZ_SECONDS").map(Duration::from_secs);
    let mut files = 0;
    while limit.map_or(files < FILES, |limit| began.elapsed() < limit) {
        holds(&mutated(&mut dice, &seeds));
        files += 1;
    }
    let mut out = std::io::stderr();
    let _ = writeln!(out, "{files} files from seed {seed} in {:?}", began.elapsed());
}
