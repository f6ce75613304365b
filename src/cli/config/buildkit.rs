//! Build arguments that set something of the builder rather than of a stage. Docker gives them their names.

use std::collections::BTreeMap;

use crate::cli::gobool::GoBool;
use crate::report::Failure;

/// What steps see as the name of their machine if nobody says: the real one has no business in an image.
const HOSTNAME: &str = "kaniko";

/// How long the name of a machine may be (`HOST_NAME_MAX`, see gethostname(2)).
const LONGEST: usize = 64;

/// The name of the machine that steps see.
pub(super) fn hostname(args: &BTreeMap<String, String>) -> Result<String, Failure> {
    let Some(name) = given(args, "BUILDKIT_SANDBOX_HOSTNAME") else {
        return Ok(HOSTNAME.to_owned());
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match name.len() <= LONGEST && name.chars().all(fits) {
        true => Ok(name.to_owned()),
        false => Err(Failure::new(format!("BUILDKIT_SANDBOX_HOSTNAME={name} names no machine"))
            .hint(format!("write up to {LONGEST} letters, digits, dots and hyphens"))),
    }
}

/// Whether a context from a Git repository has its `.git`.
pub(super) fn keep_git_dir(args: &BTreeMap<String, String>) -> Result<Option<bool>, Failure> {
    let name = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
    let keep = given(args, name).map(str::parse::<GoBool>).transpose();
    let keep = keep.map_err(|error| Failure::new(format!("{name}: {error}")))?;
    Ok(keep.map(|keep| keep.0))
}

/// What the names of cache mounts begin with.
pub(super) fn cache_namespace(args: &BTreeMap<String, String>) -> String {
    given(args, "BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default().to_owned()
}

fn given<'a>(args: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    args.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, value: &str) -> BTreeMap<String, String> {
        [(name.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn names_of_machines() {
        let long = "a".repeat(65);
        for (value, want) in [
            ("", Some(HOSTNAME)),
            ("build-1.example", Some("build-1.example")),
            (&long[..64], Some(&long[..64])),
            (&long, None),
            ("a b", None),
            ("a\nb", None),
        ] {
            let found = hostname(&args("BUILDKIT_SANDBOX_HOSTNAME", value)).ok();
            assert_eq!(found.as_deref(), want, "{value}");
        }
    }

    #[test]
    fn a_git_directory_is_kept_if_somebody_says_so() {
        for (value, want) in [("", Ok(None)), ("1", Ok(Some(true))), ("false", Ok(Some(false)))] {
            let keep = keep_git_dir(&args("BUILDKIT_CONTEXT_KEEP_GIT_DIR", value));
            assert_eq!(keep.map_err(|failure| failure.to_string()), want, "{value}");
        }
        let wrong = keep_git_dir(&args("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "yes"));
        assert!(wrong.is_err_and(|why| why.to_string().contains("KEEP_GIT_DIR")));
    }
}
