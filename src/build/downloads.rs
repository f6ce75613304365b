//! Files of the web on this machine, each fetched once for a build.

use std::sync::Arc;

use tracer::Interrupt;

use super::Order;
use super::once::Once;
use super::work::WorkDir;
use crate::context::http;
use crate::image::Digest;
use crate::plan::CopyStep;
use crate::report::{Explain as _, Failure};

/// A file of the web.
pub(super) struct Download {
    pub(super) dir: tempfile::TempDir,
    pub(super) fetched: http::Fetched,
}

impl Download {
    /// That it is what the step says.
    pub(super) fn verify(&self, step: &CopyStep, shown: &str) -> Result<(), Failure> {
        let digest = Digest::from_bytes(self.fetched.sha256);
        let expected = step.add.as_ref().and_then(|add| add.checksum);
        match expected.filter(|expected| *expected != digest) {
            None => Ok(()),
            Some(expected) => Err(Failure::new(format!(
                "{shown} has the checksum {digest}, not {expected}"
            ))
            .hint("the file has changed since the Dockerfile was written, or was tampered with")),
        }
    }
}

/// Those that were fetched, by URL.
#[derive(Default)]
pub(super) struct Downloads(Once<String, Arc<Download>>);

impl Downloads {
    /// The file of this URL.
    pub(super) fn fetch(
        &self,
        url: &str,
        order: &Order,
        work: &WorkDir,
        interrupt: &Interrupt,
    ) -> Result<Arc<Download>, Failure> {
        self.0.get_or_make(url.to_owned(), || fetch(url, order, work, interrupt).map(Arc::new))
    }
}

fn fetch(
    url: &str,
    order: &Order,
    work: &WorkDir,
    interrupt: &Interrupt,
) -> Result<Download, Failure> {
    let dir = tempfile::tempdir_in(work.scratch())
        .could_not(|| "make a directory for what is fetched".to_owned())?;
    let shown = http::without_credentials(url);
    tracing::info!("Fetching {shown}");
    let file = dir.path().join("file");
    let settings = order.mounts.fetching(url, &order.access.fetch)?;
    let fetched = http::fetch(url, &file, &settings, || interrupt.is_triggered())
        .map_err(|error| error.while_doing("add"))?;
    Ok(Download { dir, fetched })
}
