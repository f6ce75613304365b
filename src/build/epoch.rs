//! The time that `SOURCE_DATE_EPOCH` names instead of telling it: that of the context, of a further one, or
//! of what a stage adds.
//!
//! As in Docker, a repository has the time of its commit, and a file of the web that which its server states,
//! or else that of the newest file in it, if it is an archive. What has no such time, a directory of this
//! machine for one, means that there is no epoch.

use std::fs::File;

use tracer::Interrupt;

use super::downloads::Downloads;
use super::images::{Images, NamedContext};
use super::work::WorkDir;
use super::{Order, contexts, inspect};
use crate::context::git::GitSource;
use crate::context::{self, Context, http, obtain};
use crate::dockerfile::{Dockerfile, Instruction, Stage};
use crate::image::ImageConfig;
use crate::plan::{Action, Arguments, CopySource, CopyStep, EPOCH, Scope, step};
use crate::registry::Registry;
use crate::report::{Explain as _, Failure};
use crate::rootfs::{newest_file, sniffed};

/// What the time of a build is looked up with.
#[derive(Clone, Copy)]
pub(super) struct Within<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) registry: &'a Registry,
    pub(super) work: &'a WorkDir,
    pub(super) interrupt: &'a Interrupt,
}

impl Within<'_> {
    /// The arguments of the build, in which the epoch is a number, or nothing.
    ///
    /// # Errors
    /// It is neither a number nor the name of something that can have a time, or that cannot be had.
    pub(super) fn arguments(
        self,
        file: &Dockerfile,
        images: &mut Images<'_>,
    ) -> Result<Arguments, Failure> {
        let arguments = inspect::arguments(self.order, file);
        // What is wrong with global arguments the plan tells.
        let Ok(Some(text)) = arguments.epoch(&file.global_args, file.escape()) else {
            return Ok(arguments);
        };
        let seconds = match text.parse() {
            Ok(seconds) => Some(seconds),
            Err(_) if text.is_empty() => None,
            Err(_) => {
                let named = self.named(&text, file, &arguments, images)?;
                match named {
                    Some(seconds) => tracing::info!("{EPOCH}={text} is {seconds}"),
                    None => tracing::info!("{EPOCH}={text} has no time: there is no epoch"),
                }
                named
            }
        };
        Ok(arguments.with_epoch(seconds))
    }

    fn named(
        self,
        name: &str,
        file: &Dockerfile,
        arguments: &Arguments,
        images: &mut Images<'_>,
    ) -> Result<Option<i64>, Failure> {
        if name == "context" {
            return Ok(self.context.time);
        }
        match images.named(name).cloned() {
            Some(NamedContext::Remote(source)) => {
                let Self { order, registry, work, interrupt, .. } = self;
                let access = contexts::access(order, &source, registry)?;
                let into = work.path().join("context-of-the-epoch");
                let obtained = obtain(&source, &into, &access, interrupt)?;
                images.bring(name, obtained.dir)?;
                return Ok(obtained.time);
            }
            Some(_) => return Ok(None),
            None => {}
        }
        let lower = name.to_lowercase();
        let stage = file.stages.iter().position(|stage| stage.name.as_ref() == Some(&lower));
        let Some(number) = stage else {
            return Err(Failure::new(format!(
                "{EPOCH}={name}: not a number of seconds since 1970, and neither `context` nor the name of a \
                 build context or a stage"
            ))
            .hint("for a Git checkout, `git log -1 --pretty=%ct` prints one"));
        };
        self.of_stage(number, file, arguments, images)
    }

    /// The time of the one thing that a stage adds.
    fn of_stage(
        self,
        number: usize,
        file: &Dockerfile,
        arguments: &Arguments,
        images: &Images<'_>,
    ) -> Result<Option<i64>, Failure> {
        let stage = &file.stages[number];
        let wrong = || {
            Failure::new(format!(
                "{EPOCH} names a stage that is more than FROM scratch and one ADD"
            ))
            .at(format!("{}:{}", file.source.name, stage.line))
            .excerpt(&file.source.annotate(stage.span, "", None, false))
            .hint("its time is that of one file of the web, or of one Git repository")
        };
        let Some(added) = added(number, file, arguments, images)? else { return Err(wrong()) };
        match added.sources.as_slice() {
            [CopySource::Url(url)] => self.of_file(&added, url),
            [CopySource::Git(git)] => {
                let source = GitSource::of_docker(git.clone())
                    .map_err(|why| Failure::new(format!("the URL of the Git repository: {why}")))?;
                let dir = tempfile::tempdir_in(self.work.scratch())
                    .could_not(|| "make a directory for what is fetched".to_owned())?;
                let mut access = self.order.access.clone();
                access.git = self.order.mounts.cloning(&source, access.git)?;
                let into = dir.path().join("repository");
                Ok(context::repository(&source, &into, &access, self.interrupt)?.time)
            }
            _ => Err(wrong()),
        }
    }

    fn of_file(self, step: &CopyStep, url: &str) -> Result<Option<i64>, Failure> {
        let download = Downloads::default().fetch(url, self.order, self.work, self.interrupt)?;
        let shown = http::without_credentials(url);
        download.verify(step, &shown)?;
        if download.fetched.modified.is_some() {
            return Ok(download.fetched.modified);
        }
        let doing = || format!("read {shown}");
        let file = File::open(download.dir.path().join("file")).could_not(doing)?;
        let archive = sniffed(file).could_not(doing)?;
        // What is no archive after all has no time.
        Ok(archive.and_then(|(_, archive)| newest_file(archive).ok().flatten()))
    }
}

/// The one ADD of a stage that has nothing but arguments beside it; nothing where it is another stage.
fn added(
    number: usize,
    file: &Dockerfile,
    arguments: &Arguments,
    images: &Images<'_>,
) -> Result<Option<CopyStep>, Failure> {
    let stage: &Stage = &file.stages[number];
    let globals = arguments.globals(&file.global_args, file.escape()).unwrap_or_default();
    let base = stage.base.expand(&globals, file.escape()).unwrap_or_default();
    if base != "scratch" {
        return Ok(None);
    }
    // Global arguments need no declaration here.
    let seen: Vec<String> = globals.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut scope = Scope::new(arguments, &globals, &seen);
    let mut config = ImageConfig::default();
    let mut found = None;
    for instruction in &stage.instructions {
        let done = match instruction.node {
            Instruction::Arg(_) | Instruction::Add(_) => {
                step(instruction, number, file, images, &mut config, &mut scope, &mut false)
                    .map_err(|error| super::step_failure(&error, false, file))?
            }
            _ => return Ok(None),
        };
        match done.action {
            Action::Copy(_) if found.is_some() => return Ok(None),
            Action::Copy(copy) => found = Some(copy),
            Action::Configure | Action::Run(_) | Action::Workdir(_) => {}
        }
    }
    Ok(found)
}
