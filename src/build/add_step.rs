//! What ADD takes from elsewhere: files of the web, and repositories.

use std::rc::Rc;

use tracer::Hidden;

use super::stage::Stages;
use crate::context::git::{GitSource, Pass};
use crate::context::{self, http};
use crate::dockerfile::GitRef;
use crate::image::Digest;
use crate::plan::CopyStep;
use crate::registry::Secret;
use crate::report::{Explain as _, Failure};
use crate::rootfs::Isolation;
use crate::step::{Copier, Found, SourceTree};

/// A file of the web on this machine.
pub(super) struct Download {
    dir: tempfile::TempDir,
    pub(super) fetched: http::Fetched,
}

impl Stages<'_, '_> {
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
        let settings = http::FetchSettings {
            authorization: self.authorization(url)?,
            ..builder.order.access.fetch.clone()
        };
        let fetched = http::fetch(url, &dir.path().join("file"), &settings, || {
            builder.interrupt.is_triggered()
        })
        .map_err(|error| error.while_doing("add"))?;
        let download = Rc::new(Download { dir, fetched });
        self.downloads.borrow_mut().insert(url.to_owned(), Rc::clone(&download));
        Ok(download)
    }

    /// The `Authorization` header that a secret of the build holds for the URL's host; a token goes before a
    /// whole header, as in BuildKit.
    fn authorization(&self, url: &str) -> Result<Option<Secret>, Failure> {
        let Some(host) = http::host(url) else { return Ok(None) };
        if let Some(token) = self.text_of_secret(&format!("HTTP_AUTH_TOKEN_{host}"))? {
            return Ok(Some(Secret::new(format!("Bearer {}", token.expose()))));
        }
        self.text_of_secret(&format!("HTTP_AUTH_HEADER_{host}"))
    }

    /// How a secret of the build logs in to a repository: the secret of its host goes before the one of all hosts,
    /// a header before a token.
    fn pass(&self, source: &GitSource) -> Result<Option<Pass>, Failure> {
        let Some(host) = source.authority() else { return Ok(None) };
        for suffix in [format!(".{host}"), String::new()] {
            if let Some(header) = self.text_of_secret(&format!("GIT_AUTH_HEADER{suffix}"))? {
                return Ok(Some(Pass::Header(header)));
            }
            if let Some(password) = self.text_of_secret(&format!("GIT_AUTH_TOKEN{suffix}"))? {
                let user = "x-access-token".to_owned();
                return Ok(Some(Pass::User { user, password }));
            }
        }
        Ok(None)
    }

    /// A secret that is a word of a header.
    fn text_of_secret(&self, id: &str) -> Result<Option<Secret>, Failure> {
        let Some(Hidden(bytes)) = self.builder.order.mounts.secrets.get(id) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).ok().map(str::trim_end);
        match text.filter(|text| !text.contains(char::is_control)) {
            Some(text) => Ok(Some(Secret::new(text))),
            None => Err(Failure::new(format!("the secret {id} is no text of one line"))),
        }
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
        if let Some(pass) = self.pass(&source)? {
            access.git = access.git.with_login(&source, &pass);
        }
        let obtained = context::repository(&source, &into, &access, builder.interrupt)?;
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
