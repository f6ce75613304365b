//! What the flags and variables of build contexts mean.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::Surroundings;
use crate::build::NamedContext;
use crate::cli::flags::ContextFlags;
use crate::cli::gobool::GoBool;
use crate::context::git::{GitAccess, GitOptions, Pass};
use crate::context::http::{FetchSettings, Roots};
use crate::context::objects::StoreAccess;
use crate::context::{Access, ContextSource, GitContexts};
use crate::registry::{Secret, Settings};
use crate::report::Failure;

/// What `--git` takes, and what each value says.
const GIT_OPTIONS: [&str; 5] =
    ["branch", "single-branch", "recurse-submodules", "insecure-skip-tls", "depth"];

/// Where pipelines put the context if they do not say.
const DEFAULT_CONTEXT: &str = "/workspace/";

/// What object stores read of the environment.
const STORE_VARIABLES: [&str; 15] = [
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AZURE_AUTHORITY_HOST",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_TENANT_ID",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "IDENTITY_ENDPOINT",
    "S3_ENDPOINT",
    "S3_FORCE_PATH_STYLE",
    "STORAGE_EMULATOR_HOST",
];

/// Where the context is.
pub(super) fn source(
    flags: &ContextFlags,
    around: &Surroundings,
) -> Result<ContextSource, Failure> {
    let git = GitContexts { pull_method: pull_method(around)?, options: git_options(&flags.git)? };
    let (flag, text) = named_source(flags)?;
    ContextSource::parse(&text, &around.here, &git)
        .map_err(|error| Failure::new(format!("{flag}: {error}")))
}

/// `--context`, or else `--bucket`, which is kaniko's older way to name one of Google's.
fn named_source(flags: &ContextFlags) -> Result<(&'static str, String), Failure> {
    match (flags.context.as_deref(), flags.bucket.as_str()) {
        (Some(""), "") => Err(Failure::new("--context is empty: name a directory")),
        (Some(context), "") => Ok(("--context", context.to_owned())),
        (None, "") => Ok(("--context", DEFAULT_CONTEXT.to_owned())),
        (None | Some(""), bucket) if bucket.contains("://") => Ok(("--bucket", bucket.to_owned())),
        (None | Some(""), bucket) => Ok(("--bucket", format!("gs://{bucket}"))),
        (Some(_), _) => Err(Failure::new("--context and --bucket both name a context")
            .hint("write the bucket into --context: gs://BUCKET/OBJECT")),
    }
}

fn variables(around: &Surroundings) -> BTreeMap<String, Secret> {
    let value = |name: &&str| around.variable(name).map(|it| ((*name).to_owned(), Secret::new(it)));
    STORE_VARIABLES.iter().filter_map(value).collect()
}

/// How to fetch by HTTP: as registries are reached.
pub(super) fn fetch(registry: &Settings) -> FetchSettings {
    FetchSettings {
        authorization: None,
        proxies: registry.proxies.clone(),
        user_agent: registry.user_agent.clone(),
        roots: Roots::of_system(),
        connect: registry.patience.connect,
        idle: registry.patience.idle,
        tries: registry.patience.tries,
        pause: registry.patience.first_pause,
    }
}

/// How to reach contexts: as registries are reached, and with the login of the environment for the
/// repository that the context is.
pub(super) fn access(source: &ContextSource, registry: &Settings, around: &Surroundings) -> Access {
    let fetch = fetch(registry);
    let ssh = match around.variable("GIT_SSH_COMMAND") {
        Some(command) => Some(command.into()),
        None => program("ssh", around).map(PathBuf::into_os_string),
    };
    let mut git = GitAccess { login: None, ssh };
    if let ContextSource::Git(source) = source {
        let (user, password) = match around.variable("GIT_TOKEN") {
            Some(token) => (Some(token), None),
            None => (around.variable("GIT_USERNAME"), around.variable("GIT_PASSWORD")),
        };
        if user.is_some() || password.is_some() {
            let password = Secret::new(password.unwrap_or_default());
            git = git.with_login(
                source,
                &Pass::User { user: user.unwrap_or_default().to_owned(), password },
            );
        }
    }
    Access { fetch, git, stores: StoreAccess { variables: variables(around), aws: None } }
}

/// A further context that is no image.
pub(super) fn named(text: &str, here: &Path) -> Result<NamedContext, String> {
    let git = GitContexts::default();
    match ContextSource::parse(text, here, &git).map_err(|error| error.to_string())? {
        ContextSource::Dir(dir) if !dir.is_dir() => Err("there is no such directory".to_owned()),
        ContextSource::Dir(dir) => Ok(NamedContext::Dir(dir)),
        ContextSource::Stdin => Err("only --context reads standard input".to_owned()),
        source @ (ContextSource::Tar(_)
        | ContextSource::Web(_)
        | ContextSource::Git(_)
        | ContextSource::Object(_)) => Ok(NamedContext::Remote(source)),
    }
}

/// Where a program is, before any image is unpacked.
fn program(name: &str, around: &Surroundings) -> Option<PathBuf> {
    let dirs = std::env::split_paths(around.variable("PATH")?).collect::<Vec<_>>();
    let mut found = dirs.into_iter().filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    found.find(|path| path.is_file())
}

/// What `git://` is fetched over.
fn pull_method(around: &Surroundings) -> Result<Option<String>, Failure> {
    match around.variable("GIT_PULL_METHOD") {
        None => Ok(None),
        Some(method @ ("http" | "https" | "git")) => Ok(Some(method.to_owned())),
        Some(other) => {
            Err(Failure::new(format!("GIT_PULL_METHOD={other}: use https, http or git")))
        }
    }
}

fn git_options(given: &[String]) -> Result<GitOptions, Failure> {
    let mut options = GitOptions::default();
    for text in given {
        for pair in pairs(text) {
            take_option(&mut options, pair)
                .map_err(|why| Failure::new(format!("--git={text}: {why}")))?;
        }
    }
    Ok(options)
}

/// One option, or several with commas between; a comma before anything else belongs to a branch.
fn pairs(text: &str) -> Vec<&str> {
    let begins = |rest: &str| {
        GIT_OPTIONS.iter().any(|key| rest.strip_prefix(key).is_some_and(|it| it.starts_with('=')))
    };
    let mut pairs = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(',') {
        if begins(&text[at + 1..]) {
            pairs.push(&text[start..at]);
            start = at + 1;
        }
    }
    pairs.push(&text[start..]);
    pairs
}

fn take_option(options: &mut GitOptions, pair: &str) -> Result<(), String> {
    let (key, value) = pair.split_once('=').ok_or("write KEY=VALUE")?;
    let boolean = || value.parse::<GoBool>().map(|it| it.0).map_err(|it| format!("{key}: {it}"));
    match key {
        "branch" => options.branch = Some(value.to_owned()).filter(|it| !it.is_empty()),
        "single-branch" => options.single_branch = boolean()?,
        "recurse-submodules" => options.recurse_submodules = Some(boolean()?),
        "insecure-skip-tls" => options.insecure_skip_tls = boolean()?,
        "depth" => {
            let depth: u32 = value.parse().map_err(|_| format!("depth: {value:?} is no number"))?;
            options.depth = NonZeroU32::new(depth);
        }
        _ => return Err(format!("{key:?} is none of {}", GIT_OPTIONS.join(", "))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_git() {
        let told =
            |line: &str| match git_options(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
            {
                Ok(it) => format!(
                    "{} {} {:?} {} {}",
                    it.branch.unwrap_or_default(),
                    it.single_branch,
                    it.recurse_submodules,
                    it.insecure_skip_tls,
                    it.depth.map_or(0, NonZeroU32::get)
                ),
                Err(failure) => failure.to_string(),
            };
        for (line, want) in [
            ("branch=a", "a false None false 0"),
            ("branch=a,single-branch=true", "a true None false 0"),
            ("branch=a,b", "a,b false None false 0"),
            ("single-branch=1 depth=3 recurse-submodules=false", " true Some(false) false 3"),
            ("depth=0 insecure-skip-tls=true", " false None true 0"),
            ("branch", "error: --git=branch: write KEY=VALUE\n"),
            ("depth=x", "error: --git=depth=x: depth: \"x\" is no number\n"),
        ] {
            assert_eq!(told(line).trim_end(), want.trim_end(), "{line}");
        }
        assert!(told("colour=red").contains("is none of branch"));
        assert!(told("single-branch=maybe").contains("single-branch"));
    }
}
