//! COPY, ADD and WORKDIR: steps that name what they write.

use std::rc::Rc;

use super::builder::Interruptible;
use super::images::NamedContext;
use super::stage::{Fold, Stages};

use snapshot::{Difference, ImagePath, Suspects};

use crate::context::Ignore;
use crate::context::http;
use crate::image::Digest;
use crate::plan::{BaseImages as _, CopySource, CopyStep, Origin};
use crate::report::{Explain as _, Failure};
use crate::rootfs::Rootfs;
use crate::step::{Chmod, Copier, CopyRules, Found, SourceTree, add, make_workdir};

/// A file of the web on this machine.
pub(super) struct Download {
    dir: tempfile::TempDir,
    pub(super) fetched: http::Fetched,
}

impl<'a> Stages<'a, '_> {
    pub(super) fn copy(&mut self, step: &CopyStep, fold: &mut Fold) -> Result<Difference, Failure> {
        let rules = rules(step, fold.root()?)?;
        self.prepare_origin(&step.from)?;
        let rootfs = fold.root()?;
        let sources = self.sources(&step.from)?;
        let mut copier = Copier::new(rootfs, rules, self.builder.interrupt);
        let failed = |error: crate::step::CopyError| Failure::new(error.to_string());
        for source in &step.sources {
            let pattern = match source {
                CopySource::Path(pattern) => pattern,
                CopySource::Url(url) => {
                    self.add_fetched(step, url, &mut copier)?;
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
        let archive = Interruptible { archive, interrupt: self.builder.interrupt };
        add::unpack(copier, archive, &step.dest).map_err(|error| {
            Failure::new(format!("could not unpack {}: {error}", found.name.display()))
        })?;
        Ok(true)
    }

    /// Fetches a file of the web, once for a build.
    pub(super) fn download(&self, url: &str) -> Result<Rc<Download>, Failure> {
        if let Some(known) = self.downloads.borrow().get(url) {
            return Ok(Rc::clone(known));
        }
        let builder = self.builder;
        let dir = tempfile::tempdir_in(builder.work.scratch())
            .could_not(|| "make a directory for what is fetched".to_owned())?;
        let shown = http::without_credentials(url);
        tracing::info!("Fetching {shown}");
        let fetched =
            http::fetch(url, &dir.path().join("file"), &builder.order.access.fetch, || {
                builder.interrupt.is_triggered()
            })
            .map_err(|error| error.while_doing("add"))?;
        let download = Rc::new(Download { dir, fetched });
        self.downloads.borrow_mut().insert(url.to_owned(), Rc::clone(&download));
        Ok(download)
    }

    /// Adds a file of the web.
    pub(super) fn add_fetched(
        &self,
        step: &CopyStep,
        url: &str,
        copier: &mut Copier<'_>,
    ) -> Result<(), Failure> {
        let shown = http::without_credentials(url);
        let download = self.download(url)?;
        let digest = Digest::from_bytes(download.fetched.sha256);
        let expected = step.add.as_ref().and_then(|add| add.checksum);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Failure::new(format!("{shown} has the checksum {digest}, not {expected}"))
                .hint(
                    "the file has changed since the Dockerfile was written, or was tampered with",
                ));
        }
        let sources =
            SourceTree::context(download.dir.path(), None, self.builder.work.path(), &shown)
                .could_not(|| "open what was fetched".to_owned())?;
        let found = Found { path: "file".into(), name: download.fetched.name.clone().into() };
        let unpack = step.add.as_ref().is_some_and(|add| add.unpack == Some(true));
        if unpack && self.unpacked(step, &sources, &found, copier)? {
            return Ok(());
        }
        copier
            .copy(&sources, &found, &step.dest)
            .map_err(|error| Failure::new(format!("could not add {shown}: {error}")))
    }

    pub(super) fn workdir(
        &mut self,
        path: &ImagePath,
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let user = fold.image.config().config.user.clone();
        let rootfs = fold.root()?;
        let accounts = rootfs.accounts().could_not(|| "read the users of the image".to_owned())?;
        let owner = accounts
            .identity(&user)
            .map(|who| (who.uid, who.gid))
            .map_err(|error| Failure::new(format!("USER {user}: {error}")))?;
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

    /// Unpacks the image that files are copied from, once.
    pub(super) fn prepare_origin(&mut self, from: &Origin) -> Result<(), Failure> {
        let (name, image) = match from {
            Origin::Context => return Ok(()),
            Origin::Stage(number) => return self.lay_out_finished(*number),
            Origin::Image(reference) => (
                reference.to_string(),
                self.builder.images.image(reference, &self.builder.order.platform)?,
            ),
            Origin::Named(name) => {
                let platform = &self.builder.order.platform;
                match self.builder.images.context_image(name, platform)? {
                    Some(image) => (format!("context {name}"), image),
                    None => return Ok(()),
                }
            }
        };
        if self.foreign.contains_key(&name) {
            return Ok(());
        }
        let dir = self.builder.work.root(&format!("image-{}", self.foreign.len()))?;
        let mut rootfs = Rootfs::empty(&dir).could_not(|| format!("unpack {name}"))?;
        tracing::info!("Unpacking {name} to copy from it");
        self.builder.images.prefetch(&image, &self.builder.work.blobs());
        self.builder.unpack(image.layers(), &mut rootfs)?;
        self.builder.images.forget(&image, &[]);
        self.foreign.insert(name, rootfs);
        Ok(())
    }

    pub(super) fn sources(&self, from: &Origin) -> Result<SourceTree<'a>, Failure> {
        let context = self.builder.context;
        let own = self.builder.work.path();
        let opened = match from {
            Origin::Context => {
                SourceTree::context(&context.dir, Some(&context.ignore), own, "the build context")
            }
            Origin::Stage(number) => {
                let finished = self.finished.get(number);
                let rootfs = finished.and_then(|finished| finished.rootfs.as_ref());
                let Some(rootfs) = rootfs else {
                    return Err(Failure::new(format!("the files of stage {number} are gone")));
                };
                SourceTree::rootfs(rootfs.tree().path(), &format!("stage {number}"))
            }
            Origin::Image(reference) => self.foreign_source(&reference.to_string())?,
            Origin::Named(name) => match self.builder.images.named(name) {
                Some(NamedContext::Dir(dir)) => {
                    let ignore = self.builder.images.ignore_of(name);
                    let label = format!("the build context {name:?}");
                    SourceTree::context(dir, ignore, own, &label)
                }
                _ => self.foreign_source(&format!("context {name}"))?,
            },
        };
        opened.could_not(|| "open what is to be copied from".to_owned())
    }

    pub(super) fn foreign_source(
        &self,
        name: &str,
    ) -> Result<std::io::Result<SourceTree<'a>>, Failure> {
        match self.foreign.get(name) {
            Some(rootfs) => Ok(SourceTree::rootfs(rootfs.tree().path(), name)),
            None => Err(Failure::new(format!("the files of {name} are not there"))),
        }
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
