//! What a step depends on, and the name that its result has in a cache.
//!
//! # The promise
//!
//! [`Inputs`] hold everything that can change the files which a step makes, and
//! nothing else; every one has a name that a person understands, so that a miss
//! can be explained. A [`Key`] is a SHA-256 over the key of the step before it
//! and all inputs, each framed by its length: no two lists of inputs run into
//! each other.
//!
//! What only changes the configuration (`LABEL`, `CMD`, `EXPOSE`, …) is in no
//! key; what a later step sees of it (`ENV`, `USER`, `SHELL`, …) is an input of
//! that step. Proxies that nobody declared, times of files and the order of
//! labels are no inputs, as in the reference.

use std::fmt;

use snapshot::ImagePath;

use super::mounts::RunMount;
use super::step::{AddStep, CopyStep, RunStep};
use crate::image::{Digest, Hasher, Platform};

/// Goes into every key. A change of what is hashed, or of the layers that are made, needs another.
const VERSION: &str = "kaniko-rs step 1";

/// Hashes parts so that their borders count.
#[derive(Debug, Default)]
pub struct Framed(Hasher);

impl Framed {
    /// Begins with what kind of thing is hashed.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self::default().part(kind.as_bytes())
    }

    /// Takes the next part.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Takes a number.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.part(&number.to_le_bytes())
    }

    /// Takes a digest.
    #[must_use]
    pub fn digest(self, digest: Digest) -> Self {
        self.part(digest.hex().as_bytes())
    }

    /// The digest of all parts.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finish().0
    }
}

/// The name of a step's result in a cache: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Digest);

impl Key {
    /// Where a stage begins that is based on an image: its files, whatever it is called and labelled.
    #[must_use]
    pub fn of_base(diff_ids: &[Digest], platform: &Platform) -> Self {
        let start = Framed::new("base").part(platform.to_string().as_bytes());
        Self(diff_ids.iter().fold(start, |framed, id| framed.digest(*id)).finish())
    }

    /// After `before`, by the content of what is copied instead of what made it.
    #[must_use]
    pub fn by_content(before: Self, inputs: &Inputs) -> Self {
        Self(Framed::new("by content").digest(before.0).digest(inputs.digest()).finish())
    }

    /// A command on a base, whatever came in between. A new base makes everything anew, because people
    /// expect that of what comes from the network.
    #[must_use]
    pub fn of_command(base: Self, inputs: &Inputs) -> Self {
        Self(Framed::new("by what it reads").digest(base.0).digest(inputs.digest()).finish())
    }

    /// The key that is written so.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        format!("sha256:{hex}").parse().ok().map(Self)
    }

    /// The bytes that it stands for.
    #[must_use]
    pub fn digest(self) -> Digest {
        self.0
    }

    /// Enough of it to be told from others.
    #[must_use]
    pub fn short(self) -> String {
        self.0.hex().chars().take(12).collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// One thing that a step depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What a person calls it: `src/main.c`, `ENV PATH`.
    pub name: String,
    /// What it is now. Values themselves are not kept: they may be confidential.
    pub digest: Digest,
}

impl Input {
    fn text(name: impl Into<String>, value: &str) -> Self {
        Self { name: name.into(), digest: Digest::of(value.as_bytes()) }
    }

    fn list<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let framed = values.into_iter().fold(Framed::default(), |all, it| all.part(it.as_bytes()));
        Self { name: name.to_owned(), digest: framed.finish() }
    }
}

/// Everything that a step depends on, but for what came before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs(Vec<Input>);

impl Inputs {
    /// Of RUN. `undeclared` are the names in its environment that no key depends on, and `mounted` is
    /// what its mounts bring.
    #[must_use]
    pub fn of_run(run: &RunStep, undeclared: &[String], mounted: Vec<Input>) -> Self {
        // What is mounted comes with its content.
        let RunStep { argv, env, user, dir, network_none, mounts: _, script } = run;
        let mut inputs = vec![
            Input::list("the command", argv.iter().map(String::as_str)),
            Input::text("the user", user),
            Input::text("the working directory", dir),
            Input::text("--network", if *network_none { "none" } else { "" }),
        ];
        if let Some((name, body)) = script {
            inputs.push(Input::list("the here-document", [name.as_str(), body.as_str()]));
        }
        let seen = env.iter().filter(|(name, _)| !undeclared.contains(name));
        inputs.extend(seen.map(|(name, value)| Input::text(format!("variable {name}"), value)));
        inputs.extend(mounted);
        Self(inputs).of_kind("RUN")
    }

    /// Of COPY and ADD, whose sources bring `content`.
    #[must_use]
    pub fn of_copy(copy: &CopyStep, content: Vec<Input>) -> Self {
        // What the sources are called is in `content`, where it matters.
        let CopyStep { from: _, sources: _, dest, chown, chmod, exclude: _, link, parents, add } =
            copy;
        let optional = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| Input::text(name, value))
        };
        let mut inputs = vec![
            Input::text("the destination", dest),
            Input::list("flags", [("link", link), ("parents", parents)].map(given)),
        ];
        inputs.extend(optional("--chown", chown));
        inputs.extend(optional("--chmod", chmod));
        if let Some(AddStep { unpack, checksum: _ }) = add {
            inputs.push(Input::text("--unpack", &format!("{unpack:?}")));
        }
        inputs.extend(content);
        Self(inputs).of_kind(if add.is_some() { "ADD" } else { "COPY" })
    }

    /// Of WORKDIR, which makes a directory for the user.
    #[must_use]
    pub fn of_workdir(path: &ImagePath, user: &str) -> Self {
        let digest = Digest::of(path.as_bytes());
        let path = Input { name: "the directory".to_owned(), digest };
        Self(vec![path, Input::text("the user", user)]).of_kind("WORKDIR")
    }

    fn of_kind(mut self, kind: &str) -> Self {
        self.0.insert(0, Input::text("the instruction", kind));
        self
    }

    /// Adds what is common to all steps of a build: how layers are packed.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push(Input::text(name, value));
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        self.0.iter()
    }

    /// The key of the step that depends on these, after the step or base with the key `before`.
    #[must_use]
    pub fn key(&self, before: Key) -> Key {
        Key(self.framed(Framed::new(VERSION).digest(before.0)))
    }

    /// All of them, whatever came before.
    fn digest(&self) -> Digest {
        self.framed(Framed::new(VERSION))
    }

    fn framed(&self, start: Framed) -> Digest {
        let start = start.number(self.0.len() as u64);
        let take =
            |framed: Framed, input: &Input| framed.part(input.name.as_bytes()).digest(input.digest);
        self.0.iter().fold(start, take).finish()
    }
}

impl FromIterator<Input> for Inputs {
    fn from_iter<I: IntoIterator<Item = Input>>(inputs: I) -> Self {
        Self(inputs.into_iter().collect())
    }
}

fn given((name, value): (&'static str, &bool)) -> &'static str {
    if *value { name } else { "" }
}

/// A stage that files are taken from: what made it.
#[must_use]
pub fn stage(label: &str, last: Key) -> Input {
    Input { name: format!("stage {label}"), digest: last.0 }
}

/// A stage or an image that files are taken from with their owners, whatever made it: their content follows.
#[must_use]
pub fn copied() -> Input {
    Input::text("the source", "a tree")
}

/// An image that files are taken from.
#[must_use]
pub fn image(name: &str, diff_ids: &[Digest]) -> Input {
    let framed = diff_ids.iter().fold(Framed::new("image"), |all, id| all.digest(*id));
    Input { name: format!("image {name}"), digest: framed.finish() }
}

/// A mount of RUN, but for the content of a bind. What is in a cache, a secret or an agent is no input,
/// as in the reference.
#[must_use]
pub fn mount(mount: &RunMount) -> Input {
    let (target, told) = match mount {
        RunMount::Bind { from: _, source, target, read_only } => {
            (target.as_str(), format!("bind {source:?} {read_only}"))
        }
        RunMount::Cache { id: _, sharing: _, from: _, source, target, read_only, mode, owner } => {
            (target.as_str(), format!("cache {source:?} {read_only} {mode:?} {owner:?}"))
        }
        RunMount::Tmpfs { target, size, read_only } => {
            (target.as_str(), format!("tmpfs {size:?} {read_only}"))
        }
        RunMount::Secret { id, target, env, required, mode, owner } => (
            target.as_deref().unwrap_or(id),
            format!("secret {id:?} {target:?} {env:?} {required} {mode} {owner:?}"),
        ),
        RunMount::Ssh { id, target, required, mode, owner } => {
            (target.as_str(), format!("ssh {id:?} {required} {mode} {owner:?}"))
        }
    };
    Input::list(&format!("the mount at {target}"), [told.as_str(), target])
}

/// Which files, where their content is not known yet.
#[must_use]
pub fn selection(copy: &CopyStep) -> Input {
    use super::step::CopySource;
    let sources = copy.sources.iter().map(|source| match source {
        CopySource::Path(path) => path.as_str(),
        // They come with their content.
        CopySource::Url(_) | CopySource::Git(_) | CopySource::Inline(..) => "",
    });
    let excluded = copy.exclude.iter().map(String::as_str);
    Input::list("the sources", sources.chain([""]).chain(excluded))
}

/// A source of COPY whose content is written in the Dockerfile.
#[must_use]
pub fn inline(name: &str, body: &str) -> Input {
    Input::text(format!("here-document {name}"), body)
}

/// A file of the web: the name that it gets, and its content.
#[must_use]
pub fn fetched(shown: &str, name: &str, content: Digest) -> Input {
    let digest = Framed::new("fetched").part(name.as_bytes()).digest(content).finish();
    Input { name: shown.to_owned(), digest }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
