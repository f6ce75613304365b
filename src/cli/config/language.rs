//! Which stages are meant.

use crate::cli::flags::LanguageFlags;
use crate::plan::Goals;

/// An empty name is none: templates of pipelines leave values empty.
pub(super) fn goals(flags: &LanguageFlags) -> Goals {
    let targets = flags.target.iter().filter(|target| !target.is_empty()).cloned().collect();
    Goals { targets, unused: !flags.skip_unused_stages.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::Flags;
    use clap::Parser as _;

    #[test]
    fn targets() {
        for (line, targets, unused) in [
            ("", &[][..], false),
            ("--target=", &[], false),
            ("--target a --target b", &["a", "b"], false),
            ("--target=a,b --skip-unused-stages", &["a", "b"], false),
            ("--skip-unused-stages=false", &[], true),
        ] {
            let flags = Flags::try_parse_from(
                ["executor"].into_iter().chain(line.split(' ').filter(|it| !it.is_empty())),
            );
            let goals = goals(&flags.expect(line).language);
            assert_eq!(goals.targets, targets, "{line}");
            assert_eq!(goals.unused, unused, "{line}");
        }
    }
}
