//! A repository with the repositories inside it.

use std::path::{Path, PathBuf};

use super::Session;
use super::checkout::{Link, check_out};
use super::fetch::FetchError;
use super::source::GitSource;

/// How deep submodules may be nested.
const DEEPEST: usize = 10;

impl Session<'_> {
    /// Fetches and checks out `source` and, if they are wanted, its submodules; answers the commit's time.
    pub(super) fn take(
        &self,
        source: &GitSource,
        into: &Path,
        depth: usize,
    ) -> Result<i64, FetchError> {
        let shown = source.to_string();
        tracing::info!("Fetching {shown}");
        let source = self.with_login(source);
        let (repository, found) = self.fetch(&source, into)?;
        let (links, time) = check_out(&repository, &source, &found, &self.stop)?;
        tracing::info!("Checked out {} of {shown}", found.commit);
        drop(repository);
        if !source.keep_git_dir {
            std::fs::remove_dir_all(into.join(".git"))?;
        }
        if !source.submodules {
            return Ok(time);
        }
        let urls = if links.is_empty() { Vec::new() } else { urls(into)? };
        for link in links {
            self.take_link(&source, into, &link, &urls, depth).map_err(|why| {
                FetchError::Submodule { path: link.path.clone(), why: Box::new(why) }
            })?;
        }
        Ok(time)
    }

    /// The same with the login of the context's host, where it is that host.
    fn with_login(&self, source: &GitSource) -> GitSource {
        let mut source = source.clone();
        let origin = source.remote.origin();
        let login = self.access.login.as_ref().filter(|it| Some(&it.origin) == origin.as_ref());
        source.remote.login = source.remote.login.or_else(|| login.cloned());
        source
    }

    fn take_link(
        &self,
        source: &GitSource,
        into: &Path,
        link: &Link,
        urls: &[(String, String)],
        depth: usize,
    ) -> Result<(), FetchError> {
        // As git: a link that `.gitmodules` does not know is an empty directory.
        let Some((_, url)) = urls.iter().find(|(path, _)| *path == link.path) else {
            return Ok(());
        };
        if depth == DEEPEST {
            return Err(FetchError::Refused(format!(
                "more than {DEEPEST} submodules in each other"
            )));
        }
        let remote = source.remote.submodule(url).map_err(FetchError::Refused)?;
        let dir = place(into, &link.path)?;
        self.take(&source.submodule(remote, link.commit.to_string()), &dir, depth + 1).map(drop)
    }
}

/// Path and URL of each submodule, as `.gitmodules` has them.
fn urls(dir: &Path) -> Result<Vec<(String, String)>, FetchError> {
    let path = dir.join(".gitmodules");
    if !std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_file()) {
        return Ok(Vec::new());
    }
    let text = std::fs::read(&path)?;
    let config = gix::config::File::try_from(String::from_utf8_lossy(&text).as_ref())
        .map_err(|error| FetchError::Refused(format!(".gitmodules: {error}")))?;
    let sections = config.sections_by_name("submodule").into_iter().flatten();
    let value = |section: &gix::config::file::SectionRef<'_>, key: &str| {
        section.value(key).map(|value| value.to_string())
    };
    Ok(sections.filter_map(|it| Some((value(&it, "path")?, value(&it, "url")?))).collect())
}

/// The directory of a submodule, which the checkout of its parent has made: nothing of its path may
/// be a link.
fn place(into: &Path, path: &str) -> Result<PathBuf, FetchError> {
    let mut dir = into.to_owned();
    for part in path.split('/') {
        dir.push(part);
        let is_dir = std::fs::symlink_metadata(&dir).is_ok_and(|about| about.is_dir());
        if part.is_empty() || part == "." || part == ".." || !is_dir {
            return Err(FetchError::Refused(format!("{path:?} is no directory of its repository")));
        }
    }
    Ok(dir)
}
