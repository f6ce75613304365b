//! Of the third law, what is about keys: over random steps, made of few words so that they often differ
//! in one thing or only in where it stands, two have the same key if and only if everything that counts
//! is the same, in them and in all before them.

use proptest::prelude::*;

use super::*;
use crate::plan::{CopySource, Origin};

/// Which no key depends on.
const UNDECLARED: &str = "http_proxy";

#[derive(Debug, Clone)]
enum Step {
    Run(RunStep),
    Copy(CopyStep, Vec<(String, String)>),
    Workdir(String, String),
}

impl Step {
    fn inputs(&self) -> Inputs {
        match self {
            Self::Run(run) => Inputs::of_run(run, &[UNDECLARED.to_owned()], Vec::new()),
            Self::Copy(copy, content) => {
                let content = content.iter().map(|(name, value)| Input::text(name, value));
                Inputs::of_copy(copy, content.collect())
            }
            Self::Workdir(path, user) => {
                Inputs::of_workdir(&ImagePath::parse(path.as_bytes()).expect(path), user)
            }
        }
    }

    /// Everything that can change the files which the step makes, as text that is the same only if
    /// all of it is.
    fn what_counts(&self) -> String {
        match self {
            Self::Run(run) => {
                let mut run = run.clone();
                run.env.retain(|(name, _)| name != UNDECLARED);
                format!("{run:?}")
            }
            Self::Copy(copy, content) => {
                // What they are called, and where they are from, is in their content.
                let named = CopyStep {
                    from: Origin::Context,
                    sources: Vec::new(),
                    exclude: Vec::new(),
                    ..copy.clone()
                };
                format!("{named:?} {content:?}")
            }
            Self::Workdir(..) => format!("{self:?}"),
        }
    }

    /// The same step, but for what does not count.
    fn in_other_words(mut self, word: &str) -> Self {
        match &mut self {
            Self::Run(run) => run.env.push((UNDECLARED.to_owned(), word.to_owned())),
            Self::Copy(copy, _) => {
                copy.sources.push(CopySource::Path(word.to_owned()));
                copy.exclude.push(word.to_owned());
            }
            Self::Workdir(..) => {}
        }
        self
    }
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "ab", "a=b", "=", "http_proxy"]).prop_map(str::to_owned)
}

fn words(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(word(), 0..most)
}

fn pairs(most: usize) -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((word(), word()), 0..most)
}

fn run() -> impl Strategy<Value = Step> {
    let script = prop::option::of((word(), word()));
    (words(4), pairs(3), word(), word(), any::<bool>(), script).prop_map(
        |(argv, env, user, dir, network_none, script)| {
            Step::Run(RunStep { argv, env, user, dir, network_none, mounts: Vec::new(), script })
        },
    )
}

fn copy() -> impl Strategy<Value = Step> {
    let owner = (prop::option::of(word()), prop::option::of(word()));
    let add = prop::option::of(prop::option::of(any::<bool>()));
    (word(), owner, any::<(bool, bool)>(), add, pairs(3)).prop_map(
        |(dest, (chown, chmod), (link, parents), add, content)| {
            let add = add.map(|unpack| AddStep { unpack, checksum: None });
            let (sources, exclude) = (Vec::new(), Vec::new());
            let from = Origin::Context;
            let step = CopyStep { from, sources, dest, chown, chmod, exclude, link, parents, add };
            Step::Copy(step, content)
        },
    )
}

fn workdir() -> impl Strategy<Value = Step> {
    (prop::sample::select(vec!["/a", "/b", "/a/b"]), word())
        .prop_map(|(path, user)| Step::Workdir(path.to_owned(), user))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![run(), copy(), workdir()]
}

fn keys(base: &[u8], steps: &[Step]) -> Vec<Key> {
    let mut key = Key::of_base(&[Digest::of(base)], &Platform::new("linux", "amd64", None));
    let next = |step: &Step| {
        key = step.inputs().key(key);
        key
    };
    steps.iter().map(next).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn same_inputs_same_key_any_other_another(one in step(), other in step(), word in word()) {
        let key = |step: &Step| keys(b"base", std::slice::from_ref(step))[0];
        prop_assert_eq!(key(&one) == key(&other), one.what_counts() == other.what_counts());
        prop_assert_eq!(key(&one), key(&one.clone().in_other_words(&word)));
    }

    #[test]
    fn a_change_is_in_all_keys_after_it(
        steps in prop::collection::vec(step(), 1..6),
        changed in any::<prop::sample::Index>(),
        to in step(),
    ) {
        let place = changed.index(steps.len());
        let mut other = steps.clone();
        other[place] = to;
        let same = steps[place].what_counts() == other[place].what_counts();
        for (at, (key, changed)) in keys(b"1", &steps).iter().zip(keys(b"1", &other)).enumerate() {
            prop_assert_eq!(*key == changed, at < place || same, "step {} of a change at {}", at, place);
        }
        let rebased = keys(b"2", &steps);
        prop_assert!(keys(b"1", &steps).iter().zip(&rebased).all(|(key, other)| key != other));
    }
}
