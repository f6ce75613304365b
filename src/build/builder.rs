//! What all stages of a build share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracer::Interrupt;

use super::Order;
use super::images::{Images, NamedContext};
use super::layers::Times;
use super::own_root::Found;
use super::shared_caches::UsedCaches;
use super::tracers::Tracers;
use super::tree::in_place_exclusions;
use super::work::WorkDir;
use crate::cache::Cache;
use crate::context::Context;
use crate::dockerfile::Dockerfile;
use crate::plan::{Arguments, Step, StepError};
use crate::registry::Registry;
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Exclusions, Isolation, Rootfs};

/// What all stages of a build share. Each has a copy with an interrupt of its own.
#[derive(Clone)]
pub(super) struct Builder<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) arguments: &'a Arguments,
    pub(super) globals: &'a BTreeMap<String, String>,
    pub(super) registry: &'a Registry,
    pub(super) images: &'a Images<'a>,
    pub(super) isolation: Isolation,
    pub(super) tracers: &'a Tracers<'a>,
    /// Ends the stage from another thread.
    pub(super) interrupt: Interrupt,
    pub(super) work: &'a WorkDir,
    pub(super) times: Times,
    /// Layers of earlier builds.
    pub(super) cache: Option<&'a Cache<'a>>,
    /// How many stages may be built at the same time.
    pub(super) most_at_once: usize,
    /// Once a stage may begin: what was at `/`, if it is to be put back.
    pub(super) found: &'a OnceLock<Option<Found>>,
    /// The caches of mounts that steps have used.
    pub(super) caches: &'a UsedCaches,
}

impl Builder<'_> {
    /// Ends the build where somebody asked for that.
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if self.interrupt.is_triggered() { Err(Failure::new("interrupted")) } else { Ok(()) }
    }

    pub(super) fn exclusions(&self) -> Result<Exclusions, Failure> {
        let own: Vec<&Path> = self
            .order
            .own_dirs
            .iter()
            .map(PathBuf::as_path)
            .chain([self.order.kaniko_dir.as_path(), self.work.path(), self.context.dir.as_path()])
            .chain(self.order.contexts.values().filter_map(NamedContext::dir))
            .chain(self.order.outputs.files())
            .chain(self.order.cache.as_ref().and_then(|cache| cache.place.dir()))
            .chain(self.order.cache.as_ref().and_then(|cache| Some(cache.bases.as_ref()?.dir())))
            .chain([self.order.mounts.caches.as_path()])
            .chain(self.order.mounts.sockets())
            .collect();
        in_place_exclusions(&own)
    }

    /// Wipes the container's root at the end; a root of its own goes with the working directory.
    pub(super) fn clean_up(&self) -> Result<(), Failure> {
        if self.isolation == Isolation::InPlace {
            tracing::info!("Deleting filesystem...");
            let mut rootfs =
                Rootfs::open(Path::new("/"), snapshot::Index::new(), self.exclusions()?)
                    .could_not(|| "open /".to_owned())?;
            rootfs.wipe().could_not(|| "clean up".to_owned())?;
        }
        Ok(())
    }

    /// Removes what a build has on disk so far.
    pub(super) fn begin_anew(&self) -> Result<(), Failure> {
        if self.isolation == Isolation::InPlace {
            self.clean_up()?;
        }
        self.caches.begin_anew();
        self.images.begin_anew();
        self.work.clear_stages()
    }

    pub(super) fn place(&self, step: &Step, trigger: bool) -> String {
        if trigger {
            return "ONBUILD trigger of the base image".to_owned();
        }
        format!("{}:{}", self.context.dockerfile_name, step.line)
    }

    /// The lines of an instruction, marked.
    pub(super) fn excerpt(&self, span: crate::dockerfile::Span) -> String {
        self.dockerfile.source.annotate(span, "", None, false)
    }

    pub(super) fn step_failure(&self, error: &StepError, trigger: bool) -> Failure {
        super::step_failure(error, trigger, self.dockerfile)
    }
}
