//! COPY and ADD at their point of a stage: which files, from where, to where, with which metadata.

use super::origin::{From, Origin, resolve_origin};
use super::step::{Action, AddStep, CopySource, CopyStep, StepErrorKind};
use super::step::{Done, Evaluator, absolute, working_dir};
use crate::dockerfile::{Add, Chmod, Copy, GitRef, Source, Transfer, Word, expand_body, history};

impl Evaluator<'_> {
    pub(super) fn copy(&mut self, copy: &Copy) -> Result<Done, StepErrorKind> {
        let from = match &copy.from {
            None => Origin::Context,
            Some(word) => {
                let from = From { text: &word.text, counts: true };
                resolve_origin(from, self.stage, self.dockerfile, self.images)
                    .map_err(StepErrorKind::Origin)?
            }
        };
        let (mut step, told) = self.transfer(&copy.files, from, None)?;
        step.parents = copy.parents;
        let is_remote = |path: &str| is_web(path) || GitRef::parse(path).is_some();
        if told.paths.iter().any(|path| is_remote(path)) {
            return Err(StepErrorKind::Value("COPY takes no URL: write ADD".to_owned()));
        }
        let told = history::Transferred { parents: copy.parents, ..told };
        Ok((Action::Copy(step), Some(history::copy(&told))))
    }

    pub(super) fn add(&mut self, add: &Add) -> Result<Done, StepErrorKind> {
        let checksum = add.checksum.as_ref().map(|word| self.expand(word)).transpose()?;
        let options = AddStep { unpack: add.unpack, checksum: None };
        let (mut step, mut told) = self.transfer(&add.files, Origin::Context, Some(options))?;
        for source in &mut step.sources {
            let CopySource::Path(path) = source else { continue };
            if let Some(git) = GitRef::parse(path) {
                let git = git.and_then(|git| agreed(git, add.keep_git_dir, checksum.as_deref()));
                *source = CopySource::Git(git.map_err(StepErrorKind::Value)?);
            } else if is_web(path) {
                *source = CopySource::Url(std::mem::take(path));
            }
        }
        match (&checksum, step.sources.as_slice()) {
            (None, _) | (Some(_), [CopySource::Git(_)]) => {}
            (Some(text), [CopySource::Url(_)]) => {
                let digest = text
                    .parse()
                    .map_err(|error| StepErrorKind::Value(format!("--checksum: {error}")))?;
                step.add = Some(AddStep { unpack: add.unpack, checksum: Some(digest) });
            }
            (Some(_), _) => {
                return Err(StepErrorKind::Value(
                    "--checksum needs exactly one source, an http or https URL or a Git repository"
                        .to_owned(),
                ));
            }
        }
        for path in &mut told.paths {
            *path = without_user(path);
        }
        Ok((Action::Copy(step), Some(history::add(&told))))
    }

    fn transfer(
        &self,
        files: &Transfer,
        from: Origin,
        add: Option<AddStep>,
    ) -> Result<(CopyStep, history::Transferred), StepErrorKind> {
        let dest = self.expand(&files.dest)?;
        let expand = |word: &Option<Word>| word.as_ref().map(|word| self.expand(word)).transpose();
        // An empty one is none, also where only a variable made it empty.
        let given = |text: &String| !text.is_empty();
        let chown = expand(&files.chown)?.filter(given);
        let chmod = expand(&files.chmod)?.filter(given);
        if let Some(text) = &chmod {
            let wrong = |error| StepErrorKind::Value(format!("--chmod: {error}"));
            text.parse::<Chmod>().map_err(wrong)?;
        }
        let mut sources = Vec::new();
        for source in &files.sources {
            sources.push(match source {
                Source::Path(word) => CopySource::Path(self.expand(word)?),
                Source::Heredoc { heredoc, .. } => {
                    let body = heredoc.body();
                    let body = if heredoc.expand {
                        expand_body(&body, self.scope)?.text
                    } else {
                        body.into_owned()
                    };
                    CopySource::Inline(heredoc.name.clone(), body)
                }
            });
        }
        let told = transferred(&sources, &dest, chown.as_ref(), chmod.as_ref());
        let dest = destination(&working_dir(self.config), &dest);
        let exclude = files.exclude.iter().map(|word| word.text.clone()).collect();
        // As in the reference, where `--chmod` keeps a layer from being made for itself.
        let link = files.link && chmod.is_none();
        let step =
            CopyStep { from, sources, dest, chown, chmod, exclude, link, parents: false, add };
        Ok((step, told))
    }
}

fn transferred(
    sources: &[CopySource],
    dest: &str,
    chown: Option<&String>,
    chmod: Option<&String>,
) -> history::Transferred {
    let mut told = history::Transferred {
        dest: dest.to_owned(),
        chown: chown.cloned(),
        chmod: chmod.cloned(),
        ..history::Transferred::default()
    };
    for source in sources {
        match source {
            CopySource::Path(path) | CopySource::Url(path) => told.paths.push(path.clone()),
            CopySource::Git(git) => told.paths.push(git.remote.clone()),
            CopySource::Inline(name, _) => told.heredocs.push(name.clone()),
        }
    }
    told
}

/// As [`absolute`], with the slash at the end kept that says "directory".
fn destination(dir: &str, written: &str) -> String {
    let path = absolute(dir, written);
    let is_dir = written.ends_with('/')
        || matches!(written, "" | "." | "..")
        || written.ends_with("/.")
        || written.ends_with("/..");
    if is_dir && path != "/" { format!("{path}/") } else { path }
}

fn is_web(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A repository with what the flags say of it; flags and URL may not disagree.
fn agreed(
    mut git: GitRef,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
) -> Result<GitRef, String> {
    if let (Some(flag), Some(query)) = (keep_git_dir, git.keep_git_dir)
        && flag != query
    {
        return Err(format!("--keep-git-dir={flag}, but the URL says {query}"));
    }
    if let (Some(flag), Some(query)) = (checksum, &git.checksum)
        && flag != query
    {
        return Err(format!("--checksum={flag}, but the URL says {query}"));
    }
    git.keep_git_dir = keep_git_dir.or(git.keep_git_dir);
    git.checksum = checksum.map(str::to_owned).or(git.checksum);
    match git.checksum.as_deref().filter(|it| !it.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(wrong) => Err(format!("the checksum of a repository is a commit, not {wrong:?}")),
        None => Ok(git),
    }
}

/// A URL without user and password, for history and log.
pub(super) fn without_user(source: &str) -> String {
    let Some((scheme, rest)) = source.split_once("://").filter(|_| is_web(source)) else {
        return source.to_owned();
    };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_their_slash() {
        for (dir, written, want) in [
            ("/", "x", "/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "../y", "/y"),
            ("/w", "/a//b/.", "/a/b/"),
            ("/", ".", "/"),
            ("/w", "../../..", "/"),
        ] {
            assert_eq!(destination(dir, written), want, "{dir} {written}");
        }
    }

    #[test]
    fn sources_of_the_web() {
        for (source, web, told) in [
            ("https://h/x.tar", true, "https://h/x.tar"),
            ("https://u:p@h:1/x@y?a=b@c", true, "https://h:1/x@y?a=b@c"),
            ("https://u:p%40@h", true, "https://h"),
            ("https://h/x.git", true, "https://h/x.git"),
            ("https://h/x.git#v1:sub", true, "https://h/x.git#v1:sub"),
            ("git@h:x/y", false, "git@h:x/y"),
            ("ssh://git@h/x", false, "ssh://git@h/x"),
            ("httpsdir/x.git", false, "httpsdir/x.git"),
        ] {
            assert_eq!(is_web(source), web, "{source}");
            assert_eq!(without_user(source), told, "{source}");
        }
    }

    #[test]
    fn flags_and_urls_of_repositories_agree() {
        let told = |url: &str, keep, checksum| {
            let git = GitRef::parse(url).expect("a repository").expect("well formed");
            match agreed(git, keep, checksum) {
                Ok(git) => format!("{:?} {:?}", git.keep_git_dir, git.checksum.unwrap_or_default()),
                Err(error) => error,
            }
        };
        let (plain, full) = ("https://h/r.git", "https://h/r.git?keep-git-dir=1&checksum=ab");
        for (url, keep, checksum, want) in [
            (plain, None, None, "None \"\""),
            (plain, Some(true), Some("ab"), "Some(true) \"ab\""),
            (full, None, None, "Some(true) \"ab\""),
            (full, Some(true), Some("ab"), "Some(true) \"ab\""),
            (full, Some(false), None, "--keep-git-dir=false, but the URL says true"),
            (full, None, Some("cd"), "--checksum=cd, but the URL says ab"),
            (
                plain,
                None,
                Some("sha256:0"),
                "the checksum of a repository is a commit, not \"sha256:0\"",
            ),
        ] {
            assert_eq!(told(url, keep, checksum), want, "{url}");
        }
    }
}
