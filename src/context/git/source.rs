//! Which repository, which commit of it, and how much with it.

use std::fmt;
use std::num::NonZeroU32;

use reqwest::Url;

use super::super::http::without_credentials;
use crate::dockerfile::{GitRef, is_commit, percent_decoded};
use crate::registry::Secret;

/// How much history comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All of it, with every branch and tag.
    All,
    /// That of one branch.
    Branch,
    /// So many commits of one branch.
    Depth(NonZeroU32),
}

/// A repository, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    pub(super) remote: Remote,
    /// Empty for the default branch.
    pub(super) reference: String,
    /// The commit to take, from the history of the reference.
    pub(super) commit: Option<String>,
    /// What the commit, or the tag that names it, has to begin with.
    pub(super) checksum: Option<String>,
    pub(super) sub_dir: String,
    pub(super) history: History,
    pub(super) keep_git_dir: bool,
    pub(super) submodules: bool,
    pub(super) commit_times: bool,
    pub(super) insecure: bool,
}

/// `--git`, one value a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitOptions {
    /// Goes before the reference of the URL.
    pub branch: Option<String>,
    /// Only the history of one branch.
    pub single_branch: bool,
    /// Submodules too; not said, the form of the URL decides.
    pub recurse_submodules: Option<bool>,
    /// Certificates are not verified.
    pub insecure_skip_tls: bool,
    /// So many commits; all of them if not given.
    pub depth: Option<NonZeroU32>,
}

impl GitSource {
    /// A repository as Docker writes it: the one commit, without `.git`, with submodules.
    ///
    /// # Errors
    /// The URL makes no sense.
    pub fn of_docker(git: GitRef) -> Result<Self, String> {
        let GitRef { remote, reference, sub_dir, checksum, keep_git_dir, submodules, .. } = git;
        let reference = match &checksum {
            Some(commit) if git.by_commit => commit.clone(),
            _ => reference,
        };
        Ok(Self {
            remote: Remote::parse(&remote)?,
            reference,
            commit: None,
            checksum,
            sub_dir,
            history: History::Depth(NonZeroU32::MIN),
            keep_git_dir: keep_git_dir.unwrap_or(false),
            submodules: submodules.unwrap_or(true),
            commit_times: git.commit_times,
            insecure: false,
        })
    }

    /// A context as kaniko writes it, `git://HOST/PATH#REF#COMMIT`, fetched over `scheme`: the whole
    /// history, with `.git`, without submodules.
    ///
    /// # Errors
    /// The URL makes no sense.
    pub fn of_kaniko(text: &str, scheme: &str) -> Result<Self, String> {
        let Some(git) = GitRef::parse(text) else { return Err("no repository".to_owned()) };
        let mut git = git?;
        if let Some(rest) = git.remote.strip_prefix("git://") {
            git.remote = format!("{scheme}://{rest}");
        }
        let (reference, commit) = match git.reference.split_once('#') {
            Some((reference, commit)) => (reference.to_owned(), Some(commit.to_owned())),
            None => (git.reference.clone(), None),
        };
        if let Some(commit) = commit.as_ref().filter(|commit| !is_commit(commit)) {
            return Err(format!("{commit:?} is no whole commit: give all 40 digits"));
        }
        let (keep, submodules) = (git.keep_git_dir, git.submodules);
        Ok(Self {
            reference,
            commit,
            history: History::All,
            keep_git_dir: keep.unwrap_or(true),
            submodules: submodules.unwrap_or(false),
            ..Self::of_docker(git)?
        })
    }

    /// The same with what `--git` says.
    #[must_use]
    pub fn with(mut self, options: &GitOptions) -> Self {
        if let Some(branch) = &options.branch {
            self.reference.clone_from(branch);
        }
        if options.single_branch && self.history == History::All {
            self.history = History::Branch;
        }
        if let Some(depth) = options.depth {
            self.history = History::Depth(depth);
        }
        self.submodules = options.recurse_submodules.unwrap_or(self.submodules);
        self.insecure = options.insecure_skip_tls;
        self
    }

    /// The same, with files that have the time of the commit.
    #[must_use]
    pub fn with_commit_times(mut self) -> Self {
        self.commit_times = true;
        self
    }

    /// Host and port of a repository that is fetched by HTTP, the port where it is not the usual one.
    pub fn authority(&self) -> Option<String> {
        let origin = self.remote.origin()?;
        origin.split_once("://").map(|(_, authority)| authority.to_owned())
    }

    /// Keeps the repository's `.git`, or does not.
    pub fn keep_git_dir(&mut self, keep: bool) {
        self.keep_git_dir = keep;
    }

    /// The directory of the repository that is wanted; empty for all of it.
    pub fn sub_dir(&self) -> &str {
        &self.sub_dir
    }

    /// Whether it takes a program of this machine.
    pub fn is_ssh(&self) -> bool {
        self.remote.scheme == Scheme::Ssh
    }

    /// Where it is.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// One commit of another repository, for the place of a submodule in this one.
    pub(super) fn submodule(&self, remote: Remote, commit: String) -> Self {
        Self {
            remote,
            reference: commit,
            commit: None,
            checksum: None,
            sub_dir: String::new(),
            history: History::Depth(NonZeroU32::MIN),
            ..self.clone()
        }
    }
}

impl fmt::Display for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        if !self.reference.is_empty() {
            write!(f, "#{}", self.reference)?;
        }
        Ok(())
    }
}

/// How a repository is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Git,
    Ssh,
}

/// Who logs in where. It is told to nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Scheme, host and port.
    pub(super) origin: String,
    pub(super) pass: Pass,
}

/// What the host wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// Basic authentication.
    User {
        /// Not secret, but not told either.
        user: String,
        /// Its password or token.
        password: Secret,
    },
    /// The value of the `Authorization` header.
    Header(Secret),
}

/// A repository's URL, its login apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// Without password, and without user where that is part of the login.
    pub(super) url: String,
    pub(super) scheme: Scheme,
    pub(super) login: Option<Login>,
}

impl Remote {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, _)) = text.split_once("://") else {
            return Ok(Self { url: text.to_owned(), scheme: Scheme::Ssh, login: None });
        };
        let mut url = Url::parse(text).map_err(|error| error.to_string())?;
        if url.host_str().is_none_or(|host| host.is_empty() || host.starts_with('-')) {
            return Err("it has no host".to_owned());
        }
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Scheme::Http,
            "git" => Scheme::Git,
            "ssh" => Scheme::Ssh,
            other => return Err(format!("repositories are not fetched by {other}://")),
        };
        if scheme == Scheme::Ssh {
            return Ok(Self { url: url.to_string(), scheme, login: None });
        }
        let login = Login::of(&url);
        // These fail for URLs that cannot have credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self { url: url.to_string(), scheme, login })
    }

    /// The same with a login, if it has none of its own.
    pub(super) fn or_login(mut self, pass: &Pass) -> Self {
        let origin = self.origin();
        self.login =
            self.login.or_else(|| origin.map(|origin| Login { origin, pass: pass.clone() }));
        self
    }

    /// Scheme, host and port, of HTTP only: nothing else is logged in to by us.
    pub(super) fn origin(&self) -> Option<String> {
        let url = Url::parse(&self.url).ok()?;
        (self.scheme == Scheme::Http).then(|| url.origin().ascii_serialization())
    }

    /// What a submodule's URL means, which may be relative to this repository. The login comes along
    /// only to where it belongs.
    pub(super) fn submodule(&self, text: &str) -> Result<Self, String> {
        let mut found = if text.starts_with("./") || text.starts_with("../") {
            Self::parse(&self.relative(text)?)?
        } else if text.contains("://") || text.split_once('@').is_some_and(|it| it.1.contains(':'))
        {
            Self::parse(text)?
        } else {
            return Err(format!("{text:?} is no URL of a repository elsewhere"));
        };
        let origin = found.origin();
        let own = self.login.as_ref().filter(|login| Some(&login.origin) == origin.as_ref());
        found.login = found.login.or_else(|| own.cloned());
        Ok(found)
    }

    /// As git resolves it: by names of directories, beginning with the repository itself.
    fn relative(&self, text: &str) -> Result<String, String> {
        let (start, between) = match self.url.find("://") {
            Some(at) => (at + 3, &['/'][..]),
            None => (0, &['/', ':'][..]),
        };
        let mut base = self.url.trim_end_matches('/');
        let mut rest = text;
        loop {
            if let Some(below) = rest.strip_prefix("./") {
                rest = below;
            } else if let Some(above) = rest.strip_prefix("../") {
                let cut = base.rfind(between).filter(|at| *at > start);
                base = &base[..cut.ok_or_else(|| format!("{text:?} leads above the host"))?];
                rest = above;
            } else {
                return Ok(format!("{base}/{rest}"));
            }
        }
    }
}

impl Login {
    fn of(url: &Url) -> Option<Self> {
        let part = |text: &str| {
            let bytes = percent_decoded(text.as_bytes());
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let user = part(url.username());
        let password = url.password().map(part).unwrap_or_default();
        if user.is_empty() && password.is_empty() {
            return None;
        }
        let origin = url.origin().ascii_serialization();
        Some(Self { origin, pass: Pass::User { user, password: Secret::new(password) } })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url.contains("://") {
            true => f.write_str(&without_credentials(&self.url)),
            false => f.write_str(&self.url),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kaniko_writes() {
        let commit = "0123456789012345678901234567890123456789";
        for (text, want) in [
            ("git://h/r".to_owned(), ["https://h/r", "", "", ""]),
            ("git://h/r.git#refs/heads/x".to_owned(), ["https://h/r.git", "refs/heads/x", "", ""]),
            (
                format!("git://h/r#refs/heads/x#{commit}"),
                ["https://h/r", "refs/heads/x", commit, ""],
            ),
            ("git://h/r#main:sub".to_owned(), ["https://h/r", "main", "", "sub"]),
            ("git://TOKEN@h/r".to_owned(), ["https://h/r", "", "", ""]),
        ] {
            let source = GitSource::of_kaniko(&text, "https").expect(&text);
            let found = [
                source.remote.url.as_str(),
                source.reference.as_str(),
                source.commit.as_deref().unwrap_or_default(),
                source.sub_dir.as_str(),
            ];
            assert_eq!(found, want, "{text}");
            assert!(source.keep_git_dir && source.history == History::All && !source.submodules);
            assert_eq!(source.remote.login.is_some(), text.contains('@'), "{text}");
        }
        assert!(GitSource::of_kaniko("git://h/r#main#abc", "https").is_err());
    }

    #[test]
    fn a_login_goes_to_its_origin_only() {
        let pass = Pass::User { user: "me".to_owned(), password: Secret::new("secret") };
        let parent = Remote::parse("https://h:8443/group/r.git").expect("a URL").or_login(&pass);
        assert!(!format!("{parent:?} {parent}").contains("secret"));
        for (text, url, logs_in) in [
            ("../s.git", "https://h:8443/group/s.git", true),
            ("./s.git", "https://h:8443/group/r.git/s.git", true),
            ("../../other/s.git", "https://h:8443/other/s.git", true),
            ("https://h:8443/s.git", "https://h:8443/s.git", true),
            ("https://h/s.git", "https://h/s.git", false),
            ("http://h:8443/s.git", "http://h:8443/s.git", false),
            ("https://h.evil:8443/s.git", "https://h.evil:8443/s.git", false),
            ("https://h:8443@evil/s.git", "https://evil/s.git", true),
            ("git://h:8443/s.git", "git://h:8443/s.git", false),
        ] {
            let found = parent.submodule(text).expect(text);
            assert_eq!(found.url, url, "{text}");
            let login = found.login.filter(|login| login.pass == pass);
            let own = text.contains("@evil");
            assert_eq!(login.is_some(), logs_in && !own, "{text}");
        }
        for text in ["file:///etc", "/srv/r.git", "../../../x", "ext::sh -c x", "-u:x", "s.git"] {
            assert!(parent.submodule(text).is_err(), "{text}");
        }
    }
}
