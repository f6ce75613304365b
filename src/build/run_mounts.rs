//! The mounts of a RUN step: their files, caches, secrets and agents are looked up here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapshot::ImagePath;
use tracer::Hidden;

use super::shared_caches::{Opened, SharedCaches};
use super::stage::Stages;
use crate::plan::{BaseImages as _, Origin, RunMount};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::Isolation;
use crate::step::{
    AgentSource, CacheDir, CacheError, CacheKey, CacheStore, Content, Copier, CopyRules, Mounted,
    Mounts, SourceTree, Trimmed,
};

/// What mounts are made of.
#[derive(Debug, Clone, Default)]
pub struct MountSources {
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Hidden>,
    /// `--ssh`, by id.
    pub agents: BTreeMap<String, AgentSource>,
    /// The directory that caches are kept in.
    pub caches: PathBuf,
    /// What they may take on disk when a build ends, in bytes.
    pub cache_limit: Option<u64>,
    /// What their names begin with.
    pub cache_namespace: String,
    /// Whether and where they are shared with other machines.
    pub shared: Option<SharedCaches>,
}

impl MountSources {
    /// The sockets of agents that somebody else runs.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.agents.values().filter_map(|agent| match agent {
            AgentSource::Socket(path) => Some(path.as_path()),
            AgentSource::Keys(_) => None,
        })
    }
}

/// Keeps caches below their limit. What cannot be removed is no reason for a build to fail.
pub(super) fn trim(sources: &MountSources) {
    let Some(limit) = sources.cache_limit else { return };
    match CacheStore::new(&sources.caches).trim(limit) {
        Ok(Trimmed { caches: 0, .. }) => {}
        Ok(Trimmed { caches, bytes: gone }) => {
            tracing::info!("Emptied {caches} caches of mounts, {}, to keep the limit", bytes(gone));
        }
        Err(error) => {
            tracing::warn!("the caches of mounts are not kept below their limit: {error}");
        }
    }
}

/// The variable that tells programs where an SSH agent listens.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

impl<'a> Stages<'a, '_> {
    /// Everything that a step is to see besides its root.
    pub(super) fn mounts(
        &self,
        mounts: &[RunMount],
        env: &[(String, String)],
    ) -> Result<Mounts<'a>, Failure> {
        for origin in mounts.iter().filter_map(origin) {
            self.prepare_origin(origin)?;
        }
        let mut found = Mounts::default();
        let mut caches = self.caches(mounts)?;
        for (number, mount) in mounts.iter().enumerate() {
            self.look_up(mount, caches.remove(&number), &mut found)?;
        }
        let first = mounts.iter().find_map(|mount| match mount {
            RunMount::Ssh { target, .. } => Some(target),
            _ => None,
        });
        if let (Some(target), false) = (first, env.iter().any(|(name, _)| name == AGENT_VARIABLE)) {
            found.env.push((AGENT_VARIABLE.to_owned(), Hidden(target.as_bytes().into())));
        }
        Ok(found)
    }

    /// The caches among the mounts, by number: locked in one order by everybody.
    fn caches(&self, mounts: &[RunMount]) -> Result<BTreeMap<usize, Content<'a>>, Failure> {
        let mut keys = Vec::new();
        for (number, mount) in mounts.iter().enumerate() {
            if let RunMount::Cache { id, from, mode, owner, .. } = mount {
                let from = from.as_ref().map(|from| self.identity(from)).transpose()?;
                let id = match self.builder.order.mounts.cache_namespace.as_str() {
                    "" => id.clone(),
                    namespace => format!("{namespace}/{id}"),
                };
                keys.push((CacheKey { id, from, mode: *mode, owner: *owner }, number));
            }
        }
        keys.sort();
        let mut caches = BTreeMap::new();
        for (key, number) in keys {
            let cache = self.cache(&mounts[number], &key, &caches)?;
            caches.insert(number, cache);
        }
        Ok(caches)
    }

    fn look_up(
        &self,
        mount: &RunMount,
        cache: Option<Content<'a>>,
        found: &mut Mounts<'a>,
    ) -> Result<(), Failure> {
        let (target, content) = match mount {
            RunMount::Bind { from, source, target, read_only } => {
                let (sources, read_only) = (self.sources(from)?, *read_only);
                let found = sources
                    .find_plain(source)
                    .map_err(|error| Failure::new(format!("RUN --mount at {target}: {error}")))?;
                (target, Content::Files { sources, found, read_only })
            }
            RunMount::Cache { target, .. } => match cache {
                Some(cache) => (target, cache),
                None => return Err(Failure::new(format!("the cache at {target} is not open"))),
            },
            RunMount::Tmpfs { target, size, read_only } => {
                (target, Content::Tmpfs { size: *size, read_only: *read_only })
            }
            RunMount::Secret { id, target, env, required, mode, owner } => {
                let content = self.secret(id, *required)?;
                if let Some(name) = env {
                    let value = content.clone().unwrap_or_else(|| Hidden([].into()));
                    found.env.push((name.clone(), value));
                }
                let (Some(target), Some(content)) = (target, content) else { return Ok(()) };
                (target, Content::Secret { content, mode: *mode, owner: *owner })
            }
            RunMount::Ssh { id, target, required, mode, owner } => {
                let Some(agent) = self.agent(id, *required)? else { return Ok(()) };
                (target, Content::Agent { agent, mode: *mode, owner: *owner })
            }
        };
        let target =
            ImagePath::parse(target.as_bytes()).could_not(|| format!("mount at {target}"))?;
        found.mounted.push(Mounted { target, content });
        Ok(())
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Hidden>, Failure> {
        let secret = self.builder.order.mounts.secrets.get(id);
        if secret.is_none() && required {
            return Err(Failure::new(format!(
                "the step requires the secret {id:?}, and it was not given"
            ))
            .hint(format!(
                "give it with --secret=id={id},src=FILE or --secret=id={id},env=VARIABLE"
            )));
        }
        Ok(secret.cloned())
    }

    fn agent(&self, id: &str, required: bool) -> Result<Option<AgentSource>, Failure> {
        let agent = self.builder.order.mounts.agents.get(id);
        if agent.is_none() && required {
            return Err(Failure::new(format!(
                "the step requires the SSH agent {id:?}, and it was not given"
            ))
            .hint(format!(
                "give its socket with --ssh={id}=SOCKET, or --ssh={id} for $SSH_AUTH_SOCK"
            )));
        }
        Ok(agent.cloned())
    }

    /// The cache of a mount, made if it is new.
    fn cache(
        &self,
        mount: &RunMount,
        key: &CacheKey,
        open: &BTreeMap<usize, Content<'_>>,
    ) -> Result<Content<'a>, Failure> {
        let RunMount::Cache { id, sharing, from, source, target, read_only, mode, owner } = mount
        else {
            return Err(Failure::new("only a cache has a directory of its own"));
        };
        let in_place = self.builder.isolation == Isolation::InPlace;
        let content = |dir: CacheDir| {
            // Links in it are a step's, and lead nowhere but into it.
            let inside = SourceTree::rootfs(&dir.path, &format!("the cache {id:?}"));
            let inside = inside.could_not(|| format!("open the cache {id:?}"))?;
            let part = inside.find_plain(source).map_err(|_| {
                Failure::new(format!(
                    "RUN --mount at {target}: there is no {source} in the cache {id:?}"
                ))
            })?;
            let shared = *sharing == crate::dockerfile::Sharing::Shared;
            Ok(Content::Cache { dir, part: part.path, read_only: *read_only, shared })
        };
        let same = open.values().find_map(|other| match other {
            Content::Cache { dir, .. } if dir.key == *key => Some(dir),
            _ => None,
        });
        if let Some(same) = same {
            if in_place {
                return Err(Failure::new(format!(
                    "in place, a step can see the cache {id:?} at one target only"
                ))
                .hint(
                    "give one of the mounts another id, or build where --isolation=namespace works",
                ));
            }
            return content(same.again());
        }
        let store = CacheStore::new(&self.builder.order.mounts.caches);
        let mut opened = Opened::Here;
        let dir = store.open(key, *sharing, in_place, &self.builder.interrupt, |path| {
            opened = self.builder.import(key, path).map_err(Failing)?;
            match (from, &opened) {
                (Some(from), Opened::New) if mode.is_none() && owner.is_none() => {
                    self.fill(from, path)
                }
                (Some(_) | None, _) => Ok(()),
            }
        });
        let dir = dir.map_err(|error: Failing| error.0)?;
        self.builder.use_cache(&dir, opened);
        content(dir)
    }

    /// What a cache begins with.
    fn fill(&self, from: &Origin, to: &Path) -> Result<(), Failing> {
        let sources = self.sources(from).map_err(Failing)?;
        copy_whole(&sources, to, &self.builder.interrupt).map_err(Failing)
    }

    /// What tells the beginning of a cache from others: the content of an image, the instructions of a
    /// stage. The layers of a stage that is built again differ in their times at least.
    fn identity(&self, from: &Origin) -> Result<String, Failure> {
        let image = match from {
            Origin::Context => return Ok("the build context".to_owned()),
            Origin::Scratch => return Ok("nothing".to_owned()),
            Origin::Stage(number) => {
                let finished = self.finished(*number)?;
                let history = finished.image.config().history.iter();
                let lines = history.filter_map(|line| line.created_by.as_deref());
                return Ok(format!("stage {}", lines.collect::<Vec<_>>().join("\n")));
            }
            Origin::Image(reference) => {
                self.builder.images.image(reference, &self.builder.order.platform)?
            }
            Origin::Named(name) => {
                match self.builder.images.context_image(name, &self.builder.order.platform)? {
                    Some(image) => image,
                    None => return Ok(format!("the context {name}")),
                }
            }
        };
        let layers = image.layers().iter().map(|layer| layer.diff_id.to_string());
        Ok(layers.collect::<Vec<_>>().join(" "))
    }
}

/// A failure on the way through [`CacheStore::open`].
struct Failing(Failure);

impl From<CacheError> for Failing {
    fn from(error: CacheError) -> Self {
        Self(Failure::new(format!("could not use {error}")).hint("see --cache-dir"))
    }
}

fn copy_whole(
    sources: &SourceTree<'_>,
    to: &Path,
    interrupt: &tracer::Interrupt,
) -> Result<(), Failure> {
    let rootfs = crate::rootfs::Rootfs::empty(to).could_not(|| format!("open {}", to.display()))?;
    let failed = |error: crate::step::CopyError| Failure::new(error.to_string());
    let whole = sources.find_plain("/").map_err(failed)?;
    Copier::new(&rootfs, CopyRules::default(), interrupt).copy(sources, &whole, "/").map_err(failed)
}

pub(super) fn origin(mount: &RunMount) -> Option<&Origin> {
    match mount {
        RunMount::Bind { from, .. } => Some(from),
        RunMount::Cache { from, .. } => from.as_ref(),
        RunMount::Tmpfs { .. } | RunMount::Secret { .. } | RunMount::Ssh { .. } => None,
    }
}
