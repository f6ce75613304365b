//! COPY, ADD and WORKDIR: steps that name what they write.

use std::path::PathBuf;

use super::between::read;
use super::images::{Images, NamedContext};
use super::stage::{Fold, Stages, gone};
use super::unpacking::Interruptible;

use snapshot::{Difference, ImagePath, Suspects};

use crate::context::{Context, Ignore};
use crate::dockerfile::Chmod;
use crate::image::Image;
use crate::plan::{BaseImages as _, CopySource, CopyStep, Origin};
use crate::report::{Explain as _, Failure};
use crate::rootfs::Rootfs;
use crate::step::{Copier, CopyRules, Found, SourceTree, add, make_workdir};

/// The tree with nothing in it: no image has this name, all of them have a registry's in front.
const SCRATCH: &str = "scratch";

impl<'a> Stages<'a, '_> {
    pub(super) fn copy(&self, step: &CopyStep, fold: &mut Fold) -> Result<Difference, Failure> {
        let rules = rules(step, fold.root()?)?;
        self.prepare_origin(&step.from)?;
        let rootfs = fold.root()?;
        let sources = self.sources(&step.from)?;
        let mut copier = Copier::new(rootfs, rules, &self.builder.interrupt);
        let failed = |error: crate::step::CopyError| Failure::new(error.to_string());
        for source in &step.sources {
            let pattern = match source {
                CopySource::Path(pattern) => pattern,
                CopySource::Url(url) => {
                    self.add_fetched(step, url, &mut copier)?;
                    continue;
                }
                CopySource::Git(git) => {
                    self.add_repository(step, git, &mut copier)?;
                    continue;
                }
                CopySource::Inline(..) => continue,
            };
            if step.parents {
                copier.copy_with_parents(&sources, pattern, &step.dest).map_err(failed)?;
                continue;
            }
            let found = sources.find(pattern).map_err(failed)?;
            if found.is_empty() {
                tracing::warn!("{pattern}: no file of {} matches", sources.label());
            }
            let unpack = step.add.as_ref().is_some_and(|add| add.unpack.unwrap_or(true));
            for one in found {
                if unpack && self.unpacked(step, &sources, &one, &mut copier)? {
                    continue;
                }
                copier.copy(&sources, &one, &step.dest).map_err(failed)?;
            }
        }
        for source in &step.sources {
            let CopySource::Inline(name, body) = source else { continue };
            copier.write(name, body.as_bytes(), &step.dest).map_err(failed)?;
        }
        let paths = copier.into_written();
        self.compare_named(paths, rootfs)
    }

    /// Unpacks a source of ADD if it is an archive; tells whether it was one.
    pub(super) fn unpacked(
        &self,
        step: &CopyStep,
        sources: &SourceTree<'_>,
        found: &Found,
        copier: &mut Copier<'_>,
    ) -> Result<bool, Failure> {
        let archive =
            add::archive(sources, found).map_err(|error| Failure::new(error.to_string()))?;
        let Some(archive) = archive else { return Ok(false) };
        let archive = Interruptible { archive, interrupt: &self.builder.interrupt };
        add::unpack(copier, archive, &step.dest).map_err(|error| {
            Failure::new(format!("could not unpack {}: {error}", found.name.display()))
        })?;
        Ok(true)
    }

    pub(super) fn workdir(&self, path: &ImagePath, fold: &mut Fold) -> Result<Difference, Failure> {
        let user = fold.image.config().config.user.clone();
        let rootfs = fold.root()?;
        let accounts = rootfs.accounts().could_not(|| "read the users of the image".to_owned())?;
        let owner =
            accounts.owner(&user).map_err(|error| Failure::new(format!("USER {user}: {error}")))?;
        let made =
            make_workdir(rootfs, path, owner).map_err(|error| Failure::new(error.to_string()))?;
        self.compare_named(made, rootfs)
    }

    pub(super) fn compare_named(
        &self,
        paths: Vec<ImagePath>,
        rootfs: &Rootfs,
    ) -> Result<Difference, Failure> {
        rootfs
            .difference(&Suspects::Only { paths, trees: Vec::new() })
            .could_not(|| "compare what was written".to_owned())
    }

    /// Unpacks the image or makes the empty tree that files are copied from, once.
    pub(super) fn prepare_origin(&self, from: &Origin) -> Result<(), Failure> {
        let (name, image) = match from {
            Origin::Context => return Ok(()),
            Origin::Stage(number) => return self.lay_out_finished(*number),
            Origin::Scratch => (SCRATCH.to_owned(), None),
            Origin::Image(reference) => (
                reference.to_string(),
                Some(self.builder.images.image(reference, &self.builder.order.platform)?),
            ),
            Origin::Named(name) => {
                let platform = &self.builder.order.platform;
                match self.builder.images.context_image(name, platform)? {
                    Some(image) => (format!("context {name}"), Some(image)),
                    None => return Ok(()),
                }
            }
        };
        let unpack = || self.unpack_foreign(&name, image.as_ref());
        self.between.foreign.get_or_make(name.clone(), unpack).map(drop)
    }

    fn unpack_foreign(&self, name: &str, image: Option<&Image>) -> Result<PathBuf, Failure> {
        let dir = self.builder.work.root(&self.between.name_for_foreign())?;
        let mut rootfs = Rootfs::empty(&dir).could_not(|| format!("unpack {name}"))?;
        if let Some(image) = image {
            tracing::info!("Unpacking {name} to copy from it");
            self.builder.images.prefetch(image, &self.builder.work.blobs());
            self.builder.unpack(image.layers(), &mut rootfs)?;
            self.builder.images.forget(image, &self.between.bases_to_come(self.plan));
        }
        Ok(dir)
    }

    pub(super) fn sources(&self, from: &Origin) -> Result<SourceTree<'a>, Failure> {
        let own = self.builder.work.path();
        let context = context_sources(from, self.builder.context, self.builder.images, own);
        let opened = match from {
            Origin::Context => context.ok_or_else(|| Failure::new("there is no build context"))?,
            Origin::Stage(number) => {
                let finished = self.finished(*number)?;
                let tree = read(&finished.tree);
                let Some(rootfs) = &tree.rootfs else { return Err(gone(*number)) };
                SourceTree::rootfs(rootfs.tree().path(), &format!("stage {number}"))
            }
            Origin::Image(reference) => self.foreign_source(&reference.to_string())?,
            Origin::Scratch => self.foreign_source(SCRATCH)?,
            Origin::Named(name) => match context {
                Some(opened) => opened,
                None => self.foreign_source(&format!("context {name}"))?,
            },
        };
        opened.could_not(|| "open what is to be copied from".to_owned())
    }

    pub(super) fn foreign_source(
        &self,
        name: &str,
    ) -> Result<std::io::Result<SourceTree<'a>>, Failure> {
        match self.between.foreign.made(&name.to_owned()) {
            Some(dir) => Ok(SourceTree::rootfs(&dir, name)),
            None => Err(Failure::new(format!("the files of {name} are not there"))),
        }
    }
}

/// The files of the build context or of a named directory; nothing where they come from elsewhere.
pub(super) fn context_sources<'a>(
    from: &Origin,
    context: &'a Context,
    images: &'a Images<'_>,
    own: &std::path::Path,
) -> Option<std::io::Result<SourceTree<'a>>> {
    match from {
        Origin::Context => {
            let (dir, ignore) = (&context.dir, Some(&context.ignore));
            Some(SourceTree::context(dir, ignore, own, "the build context"))
        }
        Origin::Named(name) => match images.named(name)? {
            NamedContext::Dir(dir) => {
                let label = format!("the build context {name:?}");
                Some(SourceTree::context(dir, images.ignore_of(name), own, &label))
            }
            NamedContext::Image(_)
            | NamedContext::Layout { .. }
            | NamedContext::Remote(_)
            | NamedContext::Scratch => None,
        },
        Origin::Stage(_) | Origin::Image(_) | Origin::Scratch => None,
    }
}

fn rules(step: &CopyStep, rootfs: &Rootfs) -> Result<CopyRules, Failure> {
    let accounts = || rootfs.accounts().could_not(|| "read the users of the image".to_owned());
    let owner = match &step.chown {
        None => None,
        Some(spec) => Some(accounts()?.owner(spec).map_err(|error| {
            Failure::new(format!("--chown={spec}: {error}"))
                .hint("give a number, or create the user in an earlier step")
        })?),
    };
    let mode = match &step.chmod {
        None => None,
        Some(text) => Some(
            text.parse::<Chmod>()
                .map_err(|error| Failure::new(format!("--chmod={text}: {error}")))?,
        ),
    };
    let exclude = match step.exclude.as_slice() {
        [] => None,
        patterns => Some(Ignore::new(patterns).could_not(|| "read --exclude".to_owned())?),
    };
    Ok(CopyRules { owner, mode, exclude, link: step.link })
}
