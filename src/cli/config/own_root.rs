//! What the flags and variables about the executor's own root mean.

use super::{Surroundings, switch};
use crate::build::OwnRoot;
use crate::cli::flags::OwnRootFlags;
use crate::report::Failure;

/// A variable goes before its flag.
pub(super) fn own_root(flags: &OwnRootFlags, around: &Surroundings) -> Result<OwnRoot, Failure> {
    let wanted = OwnRoot {
        clean_before: switch(flags.pre_cleanup.0, "KANIKO_PRE_CLEANUP", around)?,
        clean_after: switch(flags.cleanup.0, "KANIKO_CLEANUP", around)?,
        put_back: switch(flags.preserve_context.0, "KANIKO_PRESERVE_CONTEXT", around)?,
        materialize: flags.materialize.0,
    };
    if wanted.put_back && !wanted.clean_after {
        tracing::warn!("--preserve-context puts nothing back without --cleanup");
    }
    if wanted.materialize && wanted.clean_after {
        return Err(Failure::new("--cleanup would remove the files that --materialize leaves")
            .hint("leave one of them out; KANIKO_CLEANUP may be set"));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::gobool::GoBool;

    #[test]
    fn variables_go_before_flags() {
        let told = |flags: [bool; 4], variables: &[(&str, &str)]| {
            let [pre_cleanup, cleanup, preserve_context, materialize] = flags.map(GoBool);
            let flags = OwnRootFlags { pre_cleanup, cleanup, preserve_context, materialize };
            let mut around = super::super::tests::around();
            let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            around.env.extend(variables.iter().map(text));
            own_root(&flags, &around).map_err(|failure| failure.to_string())
        };
        let found = |[clean_before, clean_after, put_back, materialize]: [bool; 4]| {
            Ok(OwnRoot { clean_before, clean_after, put_back, materialize })
        };
        let all = [
            ("KANIKO_PRE_CLEANUP", "1"),
            ("KANIKO_CLEANUP", "t"),
            ("KANIKO_PRESERVE_CONTEXT", "true"),
        ];
        for (flags, variables, want) in [
            ([false; 4], &[][..], found([false; 4])),
            ([true, true, true, false], &[], found([true, true, true, false])),
            ([false; 4], &all, found([true, true, true, false])),
            (
                [false, true, false, true],
                &[("KANIKO_CLEANUP", "0")],
                found([false, false, false, true]),
            ),
        ] {
            assert_eq!(told(flags, variables), want, "{flags:?} {variables:?}");
        }
        for (flags, variables, word) in [
            ([false, true, false, true], &[][..], "--materialize leaves"),
            ([false; 4], &[("KANIKO_PRE_CLEANUP", "maybe")], "KANIKO_PRE_CLEANUP=maybe"),
        ] {
            let told = told(flags, variables).expect_err(word);
            assert!(told.contains(word), "{told}");
        }
    }
}
