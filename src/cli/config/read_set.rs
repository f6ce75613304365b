//! What was meant with the flag about what steps read.

use tracer::Choice;

use super::super::flags::ReadSetFlags;
use crate::build::Watch;
use crate::cache::Settings;
use crate::report::Failure;

/// Whether steps are found by what they read, too: noted in the cache's settings.
///
/// # Errors
/// Nobody is there who could record it, or nothing to keep it in.
pub(super) fn apply(
    flags: &ReadSetFlags,
    watch: Watch,
    single: bool,
    cache: &mut Option<Settings>,
) -> Result<(), Failure> {
    if !flags.cache_read_set.0 {
        return Ok(());
    }
    let refused = |why: &str| Failure::new(format!("--cache-read-set {why}"));
    let Some(settings) = cache else {
        return Err(refused("is about the cache of layers: give --cache, too"));
    };
    if !settings.run_layers {
        return Err(refused(
            "is about the layers of RUN, and --cache-run-layers=false leaves them out",
        ));
    }
    if single {
        return Err(refused("finds layers of single steps, and --single-snapshot makes none"));
    }
    match watch {
        Watch::Trace { tracer: Choice::Auto | Choice::Ptrace, .. } => {}
        Watch::Trace { tracer: Choice::Inotify | Choice::Fanotify | Choice::Off, .. }
        | Watch::Walk(_) => {
            return Err(refused("needs ptrace, and nothing is traced by it here")
                .hint("leave out --run-tracer, --snapshot-mode and --use-new-run"));
        }
    }
    settings.by_reads = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::config::tests::around;
    use crate::cli::flags::Flags;

    #[test]
    fn it_is_done_or_refused() {
        for (line, want) in [
            ("", "false"),
            ("--cache-read-set=false", "false"),
            ("--cache --cache-read-set", "true"),
            ("--cache --cache-read-set --run-tracer=ptrace", "true"),
            ("--cache --cache-read-set --run-tracer=0:2=inotify", "true"),
            ("--cache-read-set", "give --cache"),
            ("--cache --cache-read-set --cache-run-layers=false", "--cache-run-layers=false"),
            ("--cache --cache-read-set --single-snapshot", "--single-snapshot"),
            ("--cache --cache-read-set --run-tracer=inotify", "needs ptrace"),
            ("--cache --cache-read-set --run-tracer=off", "needs ptrace"),
            ("--cache --cache-read-set --snapshot-mode=redo", "needs ptrace"),
            ("--cache --cache-read-set --use-new-run=false", "needs ptrace"),
        ] {
            let words = ["executor", "--context=.", "--destination=r.example/a"];
            let line: Vec<&str> = words.into_iter().chain(line.split_whitespace()).collect();
            let flags = Flags::try_parse_from(&line).expect("known flags");
            let told = match crate::cli::config::order(&flags, &around()) {
                Ok(order) => order.cache.is_some_and(|it| it.by_reads).to_string(),
                Err(failure) => failure.to_string(),
            };
            assert!(told.contains(want), "{line:?}: {told}");
        }
    }
}
