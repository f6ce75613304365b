//! Git repositories as Docker writes them: `https://host/repo.git#ref:dir`, or with a query.
//!
//! Telling them from other sources, and reading them, is the reference's: a
//! URL of HTTP is a repository when its path ends in `.git`, those of `git` and
//! `ssh` and the form `user@host:path` always are.

/// A repository, and what of it is wanted. What is not said is empty or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The repository, with its login if the URL has one; no query and no fragment.
    pub remote: String,
    /// A branch, a tag, a full commit or any `refs/…`; empty for the default branch.
    pub reference: String,
    /// The directory in it.
    pub sub_dir: String,
    /// What the commit has to be, or to begin with.
    pub checksum: Option<String>,
    /// Whether `.git` is wanted, too.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are.
    pub submodules: Option<bool>,
    /// Files get the time of the commit.
    pub commit_times: bool,
    /// The checksum is what is fetched; the reference is a name for it only.
    pub by_commit: bool,
}

impl GitRef {
    /// Reads a source; nothing where it is no repository.
    ///
    /// # Errors
    /// It is one, but its query or the rest makes no sense.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !is_repository(remote) {
            return None;
        }
        let (reference, sub_dir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut found = Self {
            remote: remote.to_owned(),
            reference: unescaped(reference),
            sub_dir: cleaned(&unescaped(sub_dir)),
            ..Self::default()
        };
        Some(found.take_query(query).map(|()| found))
    }

    fn take_query(&mut self, query: &str) -> Result<(), String> {
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescaped(key), unescaped(value));
            if seen.contains(&key) {
                return Err(format!("query {key:?} has several values"));
            }
            self.take_pair(&key, &value)?;
            seen.push(key);
        }
        if seen.iter().any(|key| key == "tag") && seen.iter().any(|key| key == "branch") {
            return Err("give a branch or a tag, not both".to_owned());
        }
        if self.by_commit {
            let commit = self.checksum.as_deref().filter(|it| is_commit(it));
            commit.ok_or("fetch-by-commit takes a full commit in checksum=")?;
        }
        Ok(())
    }

    fn take_pair(&mut self, key: &str, value: &str) -> Result<(), String> {
        let prefixed = |prefix: &str| match value.strip_prefix(prefix) {
            Some(_) => value.to_owned(),
            None => format!("{prefix}{value}"),
        };
        match key {
            "submodules" => self.submodules = Some(boolean(key, value)?),
            "keep-git-dir" => self.keep_git_dir = Some(boolean(key, value)?),
            "fetch-by-commit" => self.by_commit = boolean(key, value)?,
            _ if value.is_empty() => return Err(format!("query {key:?} has no value")),
            "ref" => set(&mut self.reference, value.to_owned(), "ref")?,
            "tag" => set(&mut self.reference, prefixed("refs/tags/"), "ref")?,
            "branch" => set(&mut self.reference, prefixed("refs/heads/"), "ref")?,
            "subdir" => set(&mut self.sub_dir, cleaned(value), "subdir")?,
            "checksum" | "commit" => self.checksum = Some(value.to_owned()),
            "mtime" => self.commit_times = commit_times(value)?,
            _ => return Err(format!("unexpected query {key:?}")),
        }
        Ok(())
    }
}

/// Whether this is a whole commit: 40 or 64 hexadecimal digits.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_repository(remote: &str) -> bool {
    match remote.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => rest.contains('/') && rest.ends_with(".git"),
            "git" | "ssh" => true,
            _ => false,
        },
        None => is_scp_style(remote),
    }
}

/// `user@host:path`.
fn is_scp_style(remote: &str) -> bool {
    let Some((user, rest)) = remote.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, also: &[char]| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || also.contains(&c);
        !text.is_empty() && text.chars().all(fits)
    };
    word(user, &['_']) && word(host, &['.'])
}

fn set(place: &mut String, value: String, what: &str) -> Result<(), String> {
    if !place.is_empty() && *place != value {
        return Err(format!("{what} is given twice: {place:?} and {value:?}"));
    }
    *place = value;
    Ok(())
}

/// As Go reads it; nothing at all is true.
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{key}={value} is neither true nor false")),
    }
}

fn commit_times(value: &str) -> Result<bool, String> {
    match value {
        "commit" => Ok(true),
        "checkout" => Ok(false),
        _ => Err(format!("mtime={value}: write checkout or commit")),
    }
}

/// A path without `.` and `..`, which ends at the root.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Percent signs resolved; what is no text then stays as it is.
fn unescaped(text: &str) -> String {
    String::from_utf8(percent_decoded(text.as_bytes())).unwrap_or_else(|_| text.to_owned())
}

/// Each `%` and the two hexadecimal digits after it become the byte that they mean (RFC 3986, section 2.1); a `%`
/// without them stays.
pub(crate) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match GitRef::parse(text) {
            None => "no repository".to_owned(),
            Some(Err(error)) => format!("error: {error}"),
            Some(Ok(found)) => {
                let mut parts = vec![found.remote, found.reference, found.sub_dir];
                parts.extend(found.checksum.map(|it| format!("checksum {it}")));
                parts.extend(found.keep_git_dir.map(|it| format!("keep {it}")));
                parts.extend(found.submodules.map(|it| format!("submodules {it}")));
                parts.extend(found.commit_times.then(|| "commit times".to_owned()));
                parts.extend(found.by_commit.then(|| "by commit".to_owned()));
                parts.join("|")
            }
        }
    }

    #[test]
    fn forms() {
        for (text, want) in [
            ("https://h/r.git", "https://h/r.git||"),
            ("https://h/r.git#v1", "https://h/r.git|v1|"),
            ("https://u:p@h:1/r.git#v1:a/../b/", "https://u:p@h:1/r.git|v1|b"),
            ("http://h/r.git#:sub", "http://h/r.git||sub"),
            ("https://h/r.git#v1:../../etc", "https://h/r.git|v1|etc"),
            ("https://h/r", "no repository"),
            ("https://h/r.git/x", "no repository"),
            ("https://r.git", "no repository"),
            ("git://h/r", "git://h/r||"),
            ("ssh://git@h:22/r#main", "ssh://git@h:22/r|main|"),
            ("git@h:o/r.git#main:d", "git@h:o/r.git|main|d"),
            ("me@h.example:o/r", "me@h.example:o/r||"),
            ("dir/a@b:c", "no repository"),
            ("file:///r.git", "no repository"),
            ("/r.git", "no repository"),
            ("https://h/r.git?ref=v1&subdir=a/b", "https://h/r.git|v1|a/b"),
            ("https://h/r.git?tag=v1&keep-git-dir", "https://h/r.git|refs/tags/v1||keep true"),
            ("https://h/r.git?branch=x%2fy", "https://h/r.git|refs/heads/x/y|"),
            (
                "https://h/r.git?submodules=0&mtime=commit",
                "https://h/r.git|||submodules false|commit times",
            ),
            ("https://h/r.git?checksum=abc#v1", "https://h/r.git|v1||checksum abc"),
            ("https://h/r.git?ref=a#b", "error: ref is given twice: \"b\" and \"a\""),
            ("https://h/r.git?tag=a&tag=b", "error: query \"tag\" has several values"),
            ("https://h/r.git?ref=", "error: query \"ref\" has no value"),
            ("https://h/r.git?colour=red", "error: unexpected query \"colour\""),
            ("https://h/r.git?keep-git-dir=x", "error: keep-git-dir=x is neither true nor false"),
            (
                "https://h/r.git?fetch-by-commit=1&checksum=ab",
                "error: fetch-by-commit takes a full commit in checksum=",
            ),
        ] {
            assert_eq!(told(text), want, "{text}");
        }
    }
}
