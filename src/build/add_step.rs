//! What ADD takes from elsewhere: files of the web, and repositories.

use std::sync::Arc;

use super::builder::Builder;
use super::downloads::Download;
use super::stage::Stages;
use crate::context::git::GitSource;
use crate::context::{self, http};
use crate::dockerfile::GitRef;
use crate::plan::CopyStep;
use crate::report::{Explain as _, Failure};
use crate::rootfs::Isolation;
use crate::step::{Copier, Found, SourceTree};

impl Stages<'_, '_> {
    fn download(&self, url: &str) -> Result<Arc<Download>, Failure> {
        let Builder { order, work, interrupt, .. } = self.builder;
        self.between.downloads.fetch(url, order, work, interrupt)
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
        download.verify(step, &shown)?;
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

    /// Adds the files of a repository.
    pub(super) fn add_repository(
        &self,
        step: &CopyStep,
        git: &GitRef,
        copier: &mut Copier<'_>,
    ) -> Result<(), Failure> {
        let builder = self.builder;
        let source = GitSource::of_docker(git.clone())
            .map_err(|why| Failure::new(format!("the URL of the Git repository: {why}")))?;
        if source.is_ssh() && builder.isolation == Isolation::InPlace {
            return Err(Failure::new("in place, ADD fetches no repository by ssh")
                .hint("the ssh program could be the image's; write an https:// URL"));
        }
        let dir = tempfile::tempdir_in(builder.work.scratch())
            .could_not(|| "make a directory for what is fetched".to_owned())?;
        let into = dir.path().join("repository");
        let mut access = builder.order.access.clone();
        access.git = builder.order.mounts.cloning(&source, access.git)?;
        let obtained = context::repository(&source, &into, &access, &builder.interrupt)?;
        let shown = source.to_string();
        let sources = SourceTree::context(&obtained.dir, None, builder.work.path(), &shown)
            .could_not(|| "open what was fetched".to_owned())?;
        let failed =
            |error: crate::step::CopyError| Failure::new(format!("could not add {shown}: {error}"));
        for found in sources.find(".").map_err(failed)? {
            copier.copy(&sources, &found, &step.dest).map_err(failed)?;
        }
        Ok(())
    }
}
