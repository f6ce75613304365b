//! Programs that no person would write.

use tracer::{Choice, Status, Touched, Tracer};

use crate::proof::{Place, Scene};

const PROGRAMS: u64 = 300;
/// Letters of the interpreter; the more frequent, the more likely.
const OPERATIONS: &[u8] = b"wwwwptmmmnurkkhRRRXcoTxCOOWWMUA";
const NAMES: u64 = 26;

/// A reproducible stream of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn one_of(&mut self, bytes: &[u8]) -> char {
        let index = self.below(bytes.len() as u64);
        char::from(bytes[usize::try_from(index).unwrap()])
    }

    fn name(&mut self) -> char {
        char::from(b'a' + u8::try_from(self.below(NAMES)).unwrap())
    }
}

fn program(seed: u64) -> String {
    let mut numbers = Numbers(seed);
    let mut text = String::new();
    for _ in 0..6 + numbers.below(40) {
        let (open, close) = match numbers.below(12) {
            0 => ("(", ")"),
            1 => ("[", "]"),
            _ => ("", ""),
        };
        text += open;
        let in_group = if open.is_empty() { 1 } else { 1 + numbers.below(5) };
        for _ in 0..in_group {
            text.push(numbers.one_of(OPERATIONS));
            text.push(numbers.name());
            text.push(numbers.name());
        }
        text += close;
    }
    text
}

#[test]
fn the_trace_has_what_random_programs_change() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    let (mut wrong, mut unknown, mut events) = (String::new(), 0, 0);
    for seed in 0..PROGRAMS {
        let place = Place::ALL[usize::try_from(seed % 3).unwrap()];
        let program = program(seed);
        let seen = Scene::new(place).run(&tracer, "interpreter", &program).unwrap();
        assert_eq!(seen.outcome.status, Status::Exited(0), "seed {seed}: {program}");
        events += seen.outcome.stats.events;
        match &seen.outcome.touched {
            Touched::Only(set) => {
                let missing = seen.after.missing(&seen.before, set);
                if !missing.is_empty() {
                    wrong += &format!("seed {seed}, {place:?}, {program}: {missing:?}\n");
                }
            }
            Touched::Anything(_) => unknown += 1,
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(unknown * 5 < PROGRAMS, "{unknown} of {PROGRAMS} could not be told");
    assert!(events > 10 * PROGRAMS, "only {events} events");
}
