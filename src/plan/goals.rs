//! What is to be built: the target, further ones, and what nobody needs.

use super::stages::{PlanError, file};
use crate::dockerfile::{Dockerfile, nearest};

/// The stages that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Goals {
    /// By name or number. The first one's image is the result, the others are built as well; without
    /// one it is the last stage.
    pub targets: Vec<String>,
    /// Stages before the first target that it does not need are built too.
    pub unused: bool,
}

/// Goals as numbers of stages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) result: usize,
    /// In the order they are built in, before the result.
    pub(super) others: Vec<usize>,
}

impl Goals {
    pub(super) fn find(&self, dockerfile: &Dockerfile) -> Result<Found, PlanError> {
        let numbers = self.targets.iter().map(|target| find(dockerfile, target));
        let mut numbers = numbers.collect::<Result<Vec<_>, _>>()?.into_iter();
        let result = numbers.next().unwrap_or(dockerfile.stages.len().saturating_sub(1));
        let before = if self.unused { 0..result } else { 0..0 };
        Ok(Found { result, others: before.chain(numbers).collect() })
    }

    /// The name that `TARGETSTAGE` has: of the stage that was asked for, else of the last one.
    #[must_use]
    pub fn target_name<'a>(&'a self, dockerfile: &'a Dockerfile) -> Option<&'a str> {
        let last = || dockerfile.stages.last().and_then(|stage| stage.name.as_deref());
        self.targets.first().map(String::as_str).or_else(last)
    }
}

/// A name goes before a number, and the last stage of a name before the others.
fn find(dockerfile: &Dockerfile, wanted: &str) -> Result<usize, PlanError> {
    let stages = &dockerfile.stages;
    let name = wanted.to_lowercase();
    if let Some(found) = stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name)) {
        return Ok(found);
    }
    if let Some(number) = wanted.parse().ok().filter(|number| *number < stages.len()) {
        return Ok(number);
    }
    let known: Vec<String> = stages
        .iter()
        .enumerate()
        .map(|(number, stage)| stage.name.clone().unwrap_or_else(|| number.to_string()))
        .collect();
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(PlanError::NoSuchTarget {
        wanted: wanted.to_owned(),
        file: file(dockerfile),
        known: known.join(", "),
        hint: nearest(wanted, &names),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    #[test]
    fn targets() {
        let text = b"FROM x AS a\nFROM x\nFROM x AS 1a\nFROM x AS a\n";
        let text = String::from_utf8_lossy(text).replace("1a", "b");
        let file = parse("Dockerfile", text.as_bytes()).expect("well formed");
        for (targets, unused, want) in [
            (&[][..], false, Some((3, vec![]))),
            (&["A"], false, Some((3, vec![]))),
            (&["1"], false, Some((1, vec![]))),
            (&["b", "0"], false, Some((2, vec![0]))),
            (&["b"], true, Some((2, vec![0, 1]))),
            (&["4"], false, None),
            (&["bb"], false, None),
        ] {
            let goals =
                Goals { targets: targets.iter().map(|it| (*it).to_owned()).collect(), unused };
            let found = goals.find(&file).ok().map(|found| (found.result, found.others));
            assert_eq!(found, want, "{targets:?} {unused}");
        }
        let goals = Goals { targets: vec!["bb".to_owned()], unused: false };
        let Err(PlanError::NoSuchTarget { hint, .. }) = goals.find(&file) else {
            panic!("{file:?}")
        };
        assert_eq!(hint.as_deref(), Some("did you mean b?"));
    }
}
