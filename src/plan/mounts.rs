//! `RUN --mount` at its point of a stage: what is to be seen where, with nothing left to expand.

use super::origin::{From, Origin, resolve_origin};
use super::step::{Evaluator, StepErrorKind, absolute, working_dir};
use crate::dockerfile::{Mount, MountError, MountKind, MountSpec, Sharing};

/// One mount of a RUN. Targets are absolute and clean, sources relative to the root they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    /// Files of a context, a stage or an image; what is written to them is dropped.
    Bind {
        /// Whose files.
        from: Origin,
        /// Which.
        source: String,
        /// Where they are shown.
        target: String,
        /// Whether they cannot be written to.
        read_only: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// What it is known by.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What is in it at first; an empty directory if nothing is named.
        from: Option<Origin>,
        /// The part of it that is shown.
        source: String,
        /// Where it is shown.
        target: String,
        /// Whether it cannot be written to.
        read_only: bool,
        /// Its permission bits when it is new, if given.
        mode: Option<u32>,
        /// Its owner when it is new, if given.
        owner: Option<(u32, u32)>,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Where it is.
        target: String,
        /// Its limit in bytes.
        size: Option<u64>,
        /// Whether it stays empty.
        read_only: bool,
    },
    /// A secret of the build.
    Secret {
        /// What it is known by.
        id: String,
        /// The file it is in, if it is in one.
        target: Option<String>,
        /// The variable it is in, if it is in one.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// The file's permission bits.
        mode: u32,
        /// The file's owner.
        owner: (u32, u32),
    },
    /// An agent's socket.
    Ssh {
        /// What it is known by.
        id: String,
        /// Where it is.
        target: String,
        /// Whether the step fails without it.
        required: bool,
        /// The socket's permission bits.
        mode: u32,
        /// The socket's owner.
        owner: (u32, u32),
    },
}

impl RunMount {
    /// Where it is shown; nothing for a secret that is in a variable.
    #[must_use]
    pub fn shown_at(&self) -> Option<&str> {
        match self {
            Self::Bind { target, .. }
            | Self::Cache { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Ssh { target, .. } => Some(target),
            Self::Secret { target, .. } => target.as_deref(),
        }
    }
}

impl Evaluator<'_> {
    pub(super) fn mounts(&self, specs: &[MountSpec]) -> Result<Vec<RunMount>, StepErrorKind> {
        let mut mounts = Vec::new();
        let mut sockets = 0;
        for spec in specs {
            let mount = spec.resolve(|word| self.expand(word)).map_err(refused)?;
            mounts.push(match mount.kind {
                MountKind::Bind => self.bind(&mount)?,
                MountKind::Cache => self.cache(&mount)?,
                MountKind::Tmpfs => RunMount::Tmpfs {
                    target: self.target(&mount.target)?,
                    size: Some(mount.size).filter(|size| *size > 0),
                    read_only: mount.read_only,
                },
                MountKind::Secret => self.secret(mount)?,
                MountKind::Ssh => {
                    sockets += 1;
                    self.ssh(mount, sockets - 1)?
                }
            });
        }
        Ok(mounts)
    }

    fn bind(&self, mount: &Mount) -> Result<RunMount, StepErrorKind> {
        let target = self.target(&mount.target)?;
        let (source, read_only) = (absolute("/", &mount.source), mount.read_only);
        let from = match self.mount_origin(&mount.from)? {
            None => Origin::Context,
            Some(Origin::Scratch) if source == "/" => {
                return Ok(RunMount::Tmpfs { target, size: None, read_only });
            }
            Some(Origin::Scratch) => {
                let message = format!("RUN --mount: there is no {source} in scratch");
                return Err(StepErrorKind::Value(message));
            }
            Some(from) => from,
        };
        Ok(RunMount::Bind { from, source, target, read_only })
    }

    fn cache(&self, mount: &Mount) -> Result<RunMount, StepErrorKind> {
        let id = match mount.id.as_str() {
            "" => cleaned(&mount.target),
            id => id.to_owned(),
        };
        let owned = mount.uid.is_some() || mount.gid.is_some();
        Ok(RunMount::Cache {
            id,
            sharing: mount.sharing.unwrap_or(Sharing::Shared),
            from: self.mount_origin(&mount.from)?.filter(|from| *from != Origin::Scratch),
            source: absolute("/", &mount.source),
            target: self.target(&mount.target)?,
            read_only: mount.read_only,
            mode: mount.mode,
            owner: owned.then(|| owner(mount)),
        })
    }

    fn secret(&self, mount: Mount) -> Result<RunMount, StepErrorKind> {
        let (mode, owner) = (mount.mode.unwrap_or(0o400), owner(&mount));
        let named = if mount.source.is_empty() { mount.id } else { mount.source };
        let id = if named.is_empty() { base_name(&mount.target).to_owned() } else { named };
        let target = match mount.target.as_str() {
            "" if mount.env.is_some() => None,
            "" => Some(format!("/run/secrets/{}", base_name(&id))),
            target => Some(self.target(target)?),
        };
        let env = mount.env.map(|name| if name.is_empty() { id.clone() } else { name });
        if let Some(name) = env.as_ref().filter(|name| name.contains('=')) {
            let message = format!("RUN --mount: {name:?} is no name of a variable");
            return Err(StepErrorKind::Value(message));
        }
        Ok(RunMount::Secret { id, target, env, required: mount.required, mode, owner })
    }

    fn ssh(&self, mount: Mount, number: usize) -> Result<RunMount, StepErrorKind> {
        if !mount.source.is_empty() {
            let message = "RUN --mount: a ssh mount has no `source`".to_owned();
            return Err(StepErrorKind::Value(message));
        }
        let (mode, owner) = (mount.mode.unwrap_or(0o600), owner(&mount));
        let target = match mount.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{number}"),
            target => self.target(target)?,
        };
        let id = if mount.id.is_empty() { "default".to_owned() } else { mount.id };
        Ok(RunMount::Ssh { id, target, required: mount.required, mode, owner })
    }

    /// A target that is not absolute is below the working directory.
    fn target(&self, written: &str) -> Result<String, StepErrorKind> {
        match absolute(&working_dir(self.config), written) {
            root if root == "/" => {
                Err(StepErrorKind::Value("RUN --mount: the target cannot be /".to_owned()))
            }
            target => Ok(target),
        }
    }

    /// What `from` names; nothing where it is empty.
    fn mount_origin(&self, from: &str) -> Result<Option<Origin>, StepErrorKind> {
        if from.is_empty() {
            return Ok(None);
        }
        let from = From { text: from, counts: false };
        resolve_origin(from, self.stage, self.dockerfile, self.images)
            .map(Some)
            .map_err(|message| StepErrorKind::Origin(format!("RUN --mount: {message}")))
    }
}

fn owner(mount: &Mount) -> (u32, u32) {
    (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0))
}

fn refused(error: MountError<StepErrorKind>) -> StepErrorKind {
    match error {
        MountError::Expand(error) => error,
        MountError::Invalid { message, hint } => StepErrorKind::Value(match hint {
            None => format!("RUN --mount: {message}"),
            Some(hint) => format!("RUN --mount: {message} (did you mean {hint}?)"),
        }),
    }
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// A path without `.`, doubled slashes and `..` that can be undone; a relative one stays relative.
fn cleaned(path: &str) -> String {
    if path.starts_with('/') {
        return absolute("/", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_caches_are_clean_paths() {
        for (written, want) in [
            ("/a//b/", "/a/b"),
            ("/a/../b", "/b"),
            ("a/./b/", "a/b"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("", "."),
        ] {
            assert_eq!(cleaned(written), want, "{written}");
        }
    }

    #[test]
    fn last_components() {
        for (path, want) in [("/a/b", "b"), ("b", "b"), ("/a/b/", "b")] {
            assert_eq!(base_name(path), want, "{path}");
        }
    }
}
