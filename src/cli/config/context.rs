//! What the flags and variables of build contexts mean.

use std::path::Path;

use crate::build::NamedContext;
use crate::cli::flags::ContextFlags;
use crate::context::http::FetchSettings;
use crate::context::{Access, ContextSource};
use crate::registry::Settings;
use crate::report::Failure;

/// Where the context is.
pub(super) fn source(flags: &ContextFlags, here: &Path) -> Result<ContextSource, Failure> {
    ContextSource::parse(&flags.context, here)
        .map_err(|error| Failure::new(format!("--context: {error}")))
}

/// How to reach contexts: as registries are reached.
pub(super) fn access(registry: &Settings) -> Access {
    let fetch = FetchSettings {
        http_proxy: registry.proxies.http.clone(),
        https_proxy: registry.proxies.https.clone(),
        no_proxy: registry.proxies.exceptions.clone(),
        user_agent: registry.user_agent.clone(),
        connect: registry.patience.connect,
        idle: registry.patience.idle,
        tries: registry.patience.tries,
        pause: registry.patience.first_pause,
    };
    Access { fetch }
}

/// A further context that is no image.
pub(super) fn named(source: &str, here: &Path) -> Result<NamedContext, String> {
    match ContextSource::parse(source, here).map_err(|error| error.to_string())? {
        ContextSource::Dir(dir) if !dir.is_dir() => Err("there is no such directory".to_owned()),
        ContextSource::Dir(dir) => Ok(NamedContext::Dir(dir)),
        ContextSource::Stdin => Err("only --context reads standard input".to_owned()),
        source @ (ContextSource::Tar(_) | ContextSource::Web(_)) => {
            Ok(NamedContext::Remote(source))
        }
    }
}
