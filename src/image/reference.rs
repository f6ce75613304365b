//! Names of images: `[registry/]repository[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// A repository in a registry; equal names are equal values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Host and optional port of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry, such as `library/debian`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same path in another registry, under an optional prefix: what a mirror holds.
    #[must_use]
    pub fn moved_to(&self, registry: &str, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let path = match prefix {
            "" => self.path.clone(),
            prefix => format!("{prefix}/{}", self.path),
        };
        Self { registry: registry.to_owned(), path }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

/// The full name of an image. A name with a digest means these bytes, whatever the tag says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The repository it is in.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag; `latest` when neither tag nor digest was written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was written.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What stands for the manifest in a request: the digest, or else the tag.
    #[must_use]
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The image with exactly this digest in the same repository, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { repository: self.repository.clone(), tag: None, digest: Some(digest) }
    }

    /// The image of this tag in the same repository.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ImageError> {
        format!("{}:{tag}", self.repository).parse()
    }

    /// The same tag or digest in another repository.
    #[must_use]
    pub fn in_repository(&self, repository: Repository) -> Self {
        Self { repository, tag: self.tag.clone(), digest: self.digest }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = |why| ImageError::Reference { text: text.to_owned(), why };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name);
        let repository = parse_repository(name).map_err(bad)?;
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(
                "a tag is at most 128 letters, digits, '_', '.', '-', and begins with no '.' or '-'",
            ));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { repository, tag, digest })
    }
}

impl FromStr for Repository {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse_repository(text).map_err(|why| ImageError::Reference { text: text.to_owned(), why })
    }
}

/// A colon after the last slash begins a tag; before it, a port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
        _ => (name, None),
    }
}

fn parse_repository(name: &str) -> Result<Repository, &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.contains("://") {
        return Err("it is a name, not a URL: leave the scheme out");
    }
    let (registry, path) = split_registry(name);
    if !is_registry(&registry) {
        return Err("the registry is a host name with an optional port");
    }
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("a repository's name is lower-case");
    }
    if path.len() > 255 {
        return Err("a repository's name has at most 255 characters");
    }
    if !path.split('/').all(is_path_component) {
        return Err(
            "a repository's name is letters and digits, joined by '.', '_', '__', '-' or '/'",
        );
    }
    Ok(Repository { registry, path })
}

/// The first part is a registry if it could not be a repository: it has a dot or a colon, or is `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    match registry {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" if !path.contains('/') => {
            (DEFAULT_REGISTRY.to_owned(), format!("library/{path}"))
        }
        "docker.io" | "registry-1.docker.io" => (DEFAULT_REGISTRY.to_owned(), path.to_owned()),
        _ => (registry.to_owned(), path.to_owned()),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            ("v6", port.strip_prefix(':'))
        }
        Some(_) => return false,
        None => registry.split_once(':').map_or((registry, None), |(h, p)| (h, Some(p))),
    };
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
        && !registry.ends_with(':')
}

fn is_path_component(part: &str) -> bool {
    let mut run = String::new();
    let mut last_alphanumeric = false;
    for c in part.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            if !is_separator(&run) {
                return false;
            }
            run.clear();
            last_alphanumeric = true;
        } else {
            if !last_alphanumeric && run.is_empty() {
                return false; // begins with a separator
            }
            run.push(c);
            last_alphanumeric = false;
        }
    }
    last_alphanumeric
}

fn is_separator(run: &str) -> bool {
    matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-')
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl TryFrom<String> for Reference {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn full_names() {
        for (text, want) in [
            ("debian", "index.docker.io/library/debian:latest"),
            ("debian:12", "index.docker.io/library/debian:12"),
            ("docker.io/debian", "index.docker.io/library/debian:latest"),
            ("docker.io/a/b", "index.docker.io/a/b:latest"),
            ("library/debian", "index.docker.io/library/debian:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a:1", "localhost:5000/a:1"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1"),
            ("r.example/a/b/c_d__e--f.g:T_1.x-y", "r.example/a/b/c_d__e--f.g:T_1.x-y"),
            ("r.example/a:1/b", "!"),
            (&format!("a@{D}"), &format!("index.docker.io/library/a@{D}")),
            (&format!("a:b@{D}"), &format!("index.docker.io/library/a:b@{D}")),
        ] {
            let parsed = text.parse::<Reference>();
            match want {
                "!" => assert!(parsed.is_err(), "{text}"),
                want => {
                    let parsed = parsed.unwrap();
                    assert_eq!(parsed.to_string(), want, "{text}");
                    assert_eq!(want.parse::<Reference>().unwrap(), parsed, "{text}");
                }
            }
        }
    }

    #[test]
    fn refusals_name_the_rule() {
        for (text, want) in [
            ("", "empty"),
            ("Debian", "lower-case"),
            ("r.example/A", "lower-case"),
            ("https://r.example/a", "not a URL"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a:x y", "tag"),
            (&format!("a:{}", "x".repeat(129)), "tag"),
            ("a@sha256:12", "64 digits"),
            ("a@", "only sha256"),
            ("r.example/", "joined by"),
            ("r.example/a//b", "joined by"),
            ("r.example/../b", "joined by"),
            ("r.example/a___b", "joined by"),
            ("r.example:0/a", "host name"),
            ("r.example:99999/a", "host name"),
            ("-r.example/a", "host name"),
            ("user:pass@r.example/a", "only sha256"),
            (&format!("r.example/{}", "a".repeat(256)), "255"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
