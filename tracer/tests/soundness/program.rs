//! Programs for the interpreter among the guests: made from a number, and made
//! smaller as long as they fail.

use std::fmt;

/// Letters of the interpreter; the more frequent, the more likely.
const OPERATIONS: &[u8] = b"wwwwptmmmnurkkhRRRXcoTxCOOOWWMUAVLKNZPfdSFD";
const NAMES: u64 = 26;

/// A list of operations, some of them in processes or threads of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program(Vec<Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    /// A letter and two names.
    Operation(String),
    /// What is in brackets, and the brackets.
    Group([char; 2], Vec<Node>),
}

const BRACKETS: [[char; 2]; 3] = [['(', ')'], ['[', ']'], ['{', '}']];

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

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn operation(&mut self) -> Node {
        let letter = char::from(OPERATIONS[self.index(OPERATIONS.len())]);
        let mut name = || char::from(b'a' + u8::try_from(self.below(NAMES)).unwrap());
        Node::Operation([letter, name(), name()].iter().collect())
    }
}

impl Program {
    /// The same for the same seed; one in fifty is long.
    pub(crate) fn random(seed: u64) -> Program {
        let mut numbers = Numbers(seed);
        let length = if seed % 50 == 7 { 200 + numbers.below(800) } else { 6 + numbers.below(40) };
        let node = |numbers: &mut Numbers| match BRACKETS.get(numbers.index(14)) {
            Some(brackets) => {
                let inside = 1 + numbers.below(5);
                Node::Group(*brackets, (0..inside).map(|_| numbers.operation()).collect())
            }
            None => numbers.operation(),
        };
        Program((0..length).map(|_| node(&mut numbers)).collect())
    }

    /// The reverse of its text.
    pub(crate) fn parse(text: &str) -> Program {
        let mut rest = text.chars();
        let program = Program(nodes(&mut rest));
        assert_eq!(program.to_string(), text);
        program
    }

    /// Two programs, to be run one after the other.
    pub(crate) fn halves(&self) -> [Program; 2] {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        [Program(first.to_vec()), Program(second.to_vec())]
    }

    /// A program that still fails, and of which nothing can be left out.
    pub(crate) fn shrunk(&self, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
        let mut best = self.clone();
        while let Some(smaller) = best.smaller().find(|program| fails(program)) {
            best = smaller;
        }
        best
    }

    /// Programs with something left out, the smallest first.
    fn smaller(&self) -> impl Iterator<Item = Program> + use<> {
        let nodes = self.0.clone();
        let length = nodes.len();
        let sizes = std::iter::successors(Some(length / 2), |size| Some(size / 2));
        let parts = sizes
            .take_while(|size| *size > 0)
            .chain((length == 1).then_some(1))
            .flat_map(move |size| (0..length).step_by(size).map(move |at| (at, size)));
        let without = nodes.clone();
        let parts = parts.map(move |(at, size)| {
            let end = (at + size).min(without.len());
            Program([&without[..at], &without[end..]].concat())
        });
        let groups = (0..length).flat_map(move |at| opened(&nodes, at));
        parts.chain(groups)
    }
}

/// The list with the group at `at` made smaller, or without its brackets.
fn opened(nodes: &[Node], at: usize) -> Vec<Program> {
    let Node::Group(brackets, inside) = &nodes[at] else { return Vec::new() };
    let with = |part: &[Node]| Program([&nodes[..at], part, &nodes[at + 1..]].concat());
    let fewer = (0..inside.len()).filter(|_| inside.len() > 1).map(|n| {
        let inside = [&inside[..n], &inside[n + 1..]].concat();
        with(&[Node::Group(*brackets, inside)])
    });
    std::iter::once(with(inside)).chain(fewer).collect()
}

fn nodes(rest: &mut std::str::Chars<'_>) -> Vec<Node> {
    let mut nodes = Vec::new();
    while let Some(letter) = rest.next() {
        if BRACKETS.iter().any(|[_, close]| *close == letter) {
            break;
        }
        nodes.push(match BRACKETS.iter().find(|[open, _]| *open == letter) {
            Some(brackets) => Node::Group(*brackets, self::nodes(rest)),
            None => Node::Operation(std::iter::once(letter).chain(rest.by_ref().take(2)).collect()),
        });
    }
    nodes
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| match node {
            Node::Operation(text) => f.write_str(text),
            Node::Group([open, close], inside) => {
                write!(f, "{open}{}{close}", Program(inside.clone()))
            }
        })
    }
}

#[test]
fn a_failing_program_shrinks_to_what_fails() {
    for (program, part) in [
        ("wabmcd(Rabwcd)tef", "Rab"),
        ("wabmcd(Rabwcd)tef", "(Rab)"),
        ("wabmcd[wab{Rab}]tef", "{Rab}"),
        ("wabwcdwefwghwijwklRab", "Rab"),
        ("Rab", "Rab"),
    ] {
        let small = Program::parse(program).shrunk(&mut |p| p.to_string().contains(part));
        assert_eq!(small.to_string(), part, "{program}");
    }
    assert_eq!(Program::random(3), Program::parse(&Program::random(3).to_string()));
}
