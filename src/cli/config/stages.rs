//! What was meant with the number of stages at the same time.

use std::num::NonZero;

use super::Surroundings;
use crate::cli::flags::StageFlags;
use crate::report::Failure;

/// What says it where the flag does not.
const VARIABLE: &str = "KANIKO_PARALLEL_STAGES";

/// How many stages are built at the same time; nothing where nobody says it.
///
/// # Errors
/// It is no number, or 0.
pub(super) fn at_once(
    flags: &StageFlags,
    around: &Surroundings,
) -> Result<Option<NonZero<usize>>, Failure> {
    let (name, text) = match (flags.parallel_stages.as_str(), around.variable(VARIABLE)) {
        ("", None) => return Ok(None),
        ("", Some(text)) => (VARIABLE, text),
        (text, _) => ("--parallel-stages", text),
    };
    let number = text.trim().parse().map_err(|_| {
        Failure::new(format!("{name}={text}: not a number of stages, which is 1 or more"))
    })?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::Flags;
    use clap::Parser as _;

    #[test]
    fn numbers_of_stages() {
        for (line, variable, want) in [
            ("", "", Ok(None)),
            ("--parallel-stages=", "", Ok(None)),
            ("--parallel-stages=3", "", Ok(Some(3))),
            ("--parallel-stages=1", "4", Ok(Some(1))),
            ("", "4", Ok(Some(4))),
            ("--parallel-stages=0", "", Err("--parallel-stages=0")),
            ("--parallel-stages=all", "", Err("--parallel-stages=all")),
            ("", "-1", Err("KANIKO_PARALLEL_STAGES=-1")),
        ] {
            let arguments = ["executor"].into_iter().chain(line.split_whitespace());
            let flags = Flags::try_parse_from(arguments).expect(line);
            let around = Surroundings {
                env: [(VARIABLE.to_owned(), variable.to_owned())].into(),
                here: "/".into(),
                executable: None,
                now: String::new(),
            };
            let told = at_once(&flags.stages, &around);
            match want {
                Ok(want) => assert_eq!(told.expect(line).map(NonZero::get), want, "{line}"),
                Err(want) => {
                    let told = told.expect_err(line).to_string();
                    assert!(told.contains(want), "{line}: {told}");
                }
            }
        }
    }
}
