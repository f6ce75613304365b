//! The build: a fold over the stages of the plan, and over the steps of a stage.
//!
//! ```text
//! Order → Context → Dockerfile → Plan → for each stage: for each step
//!                                           Image ← Layer ← Difference ← Suspects
//!       → sinks and registries
//! ```
//!
//! Everything up to the plan is a value; the root file system changes in
//! [`stage`] only. What a build makes on disk lies in one directory of its own
//! and goes with it.

mod add_step;
mod ahead;
mod at_once;
mod between;
mod brief;
mod builder;
mod by_content;
mod by_reads;
mod cached;
mod contexts;
mod copy_step;
mod downloads;
mod epoch;
mod images;
mod inspect;
mod keys;
mod layers;
mod logins;
mod needs;
mod once;
mod outline;
mod own_root;
mod publish;
mod refused;
mod room;
mod roots;
mod run_mounts;
mod run_step;
mod shared_caches;
mod spent;
mod stage;
mod tracers;
mod tree;
mod unpacking;
mod verdict;
mod work;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracer::Interrupt;
use tracing::field::Empty;

use crate::cache::Cache;
use crate::context::{Access, Context, ContextSource};
use crate::dockerfile::Dockerfile;
use crate::image::{Platform, Reference};
use crate::plan::{Goals, Outline, Plan, PlanError, StepError};
use crate::registry::{Registry, RegistryError, Settings};
use crate::report::{ExitStatus, Failure, in_span};
use crate::rootfs::{self, Chosen};

use between::Between;
use builder::Builder;
use images::Images;
pub use images::{NamedContext, NamedContexts};
pub use inspect::{Checked, check, dry_run};
use layers::Times;
pub use layers::{IgnoredPath, LayerRules};
pub use own_root::OwnRoot;
pub use publish::{Built, Outputs};
use room::Room;
pub use run_mounts::MountSources;
pub use shared_caches::SharedCaches;
use shared_caches::UsedCaches;
use stage::Stages;
pub use tracers::StepTracer;
use tracers::Tracers;
use work::WorkDir;

/// What is to be built, and how.
#[derive(Debug)]
pub struct Order {
    /// Where the files are.
    pub context: ContextSource,
    /// The directory of it that is the context of the build; empty for all of it.
    pub context_sub_path: String,
    /// How to reach contexts that are not on this machine.
    pub access: Access,
    /// The Dockerfile, as given.
    pub dockerfile: String,
    /// The directory that relative paths start from.
    pub here: PathBuf,
    /// Further contexts, by name.
    pub contexts: NamedContexts,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`, and whether stages that it does not need are built.
    pub goals: Goals,
    /// The platform that is built for.
    pub platform: Platform,
    /// How to talk to registries.
    pub registry: Settings,
    /// Where the result goes.
    pub outputs: Outputs,
    /// What the mounts of RUN steps are made of.
    pub mounts: MountSources,
    /// How RUN steps are watched.
    pub watch: Watch,
    /// Steps that are watched in another way.
    pub step_tracers: Vec<StepTracer>,
    /// Whether ptrace looks at opened files twice.
    pub strict: bool,
    /// What steps see as the name of their machine, in a namespace.
    pub hostname: String,
    /// Where they run.
    pub isolation: rootfs::Choice,
    /// How many independent stages are built at the same time, if that was said.
    pub parallel_stages: Option<NonZero<usize>>,
    /// Go on in place without a container.
    pub force: bool,
    /// The directory to work in; made if it is missing.
    pub kaniko_dir: PathBuf,
    /// Directories of the executor itself, to be left alone in place.
    pub own_dirs: Vec<PathBuf>,
    /// What becomes of the executor's own root.
    pub own_root: OwnRoot,
    /// Is shown the plan before anything is built.
    pub show_plan: Option<ShowPlan>,
    /// What layers are made of, and how.
    pub layers: LayerRules,
    /// Layers of earlier builds.
    pub cache: Option<crate::cache::Settings>,
    /// The time of the build, RFC 3339.
    pub created: String,
    /// Is told where the build keeps its files, so that whoever ends the process can remove them.
    pub work_dir: std::sync::Arc<OnceLock<PathBuf>>,
}

/// Shows a plan to a person.
pub type ShowPlan = fn(&Outline) -> Result<(), Failure>;

/// Who watches a RUN step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// A tracer; what it names is compared.
    Trace {
        /// Which.
        tracer: tracer::Choice,
        /// Whether the walk is asked as well.
        verify: Verify,
    },
    /// Nobody; the tree is walked after each step.
    Walk(SnapshotMode),
}

/// `--verify-snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The tracer is believed.
    Off,
    /// What it missed is told, and packed.
    Warn,
    /// What it missed ends the build.
    Fail,
}

/// `--snapshot-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMode {
    /// All content is read and compared.
    Full,
    /// Content is read where inode, ctime, size, mode or owner differ.
    Redo,
    /// As `Redo`: comparing times alone misses changes.
    Time,
}

/// Builds what is ordered, and gives it where it is wanted.
///
/// # Errors
/// The first thing that went wrong; no tag was moved then, unless it was the push of a further
/// destination, and nothing is left on disk.
pub fn build(order: &Order, interrupt: &Interrupt) -> Result<Built, Failure> {
    let built = within(order, interrupt, |context, registry, work| {
        let dockerfile = parse(context)?;
        run(order, interrupt, context, &dockerfile, registry, work)
    });
    if !interrupt.is_triggered() {
        run_mounts::trim(&order.mounts);
    }
    built
}

/// Does something with the context, a registry client and a working directory that goes afterwards.
fn within<T>(
    order: &Order,
    interrupt: &Interrupt,
    work_on: impl FnOnce(&Context, &Registry, &WorkDir) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let registry =
        Registry::new(order.registry.clone()).map_err(|error| registry_failure(&error))?;
    let canceller = registry.canceller();
    interrupt.also(move || canceller.cancel());
    let work = WorkDir::create(&order.kaniko_dir, &order.hostname)?;
    let room = Room::of(&order.kaniko_dir);
    order.work_dir.get_or_init(|| work.path().to_owned());
    let span = tracing::info_span!("context", error = Empty);
    let result = in_span(span, || contexts::own(order, &registry, &work, interrupt))
        .and_then(|context| work_on(&context, &registry, &work));
    if result.is_err() && interrupt.is_triggered() {
        return Err(Failure::new("the build was interrupted").status(ExitStatus::of_signal(15)));
    }
    result.map_err(|failure| explained(failure, &room))
}

/// A way out for refusals that know none: a right that is missing, a disk that is full.
fn explained(failure: Failure, room: &Room) -> Failure {
    if failure.has_hint() {
        return failure;
    }
    if failure.is_out_of_space() || room.is_used_up() {
        return failure.hint(room.hint());
    }
    match rootfs::missing_capabilities() {
        Some(missing) if failure.is_refusal() => failure.hint(missing),
        _ => failure,
    }
}

fn run(
    order: &Order,
    interrupt: &Interrupt,
    context: &Context,
    dockerfile: &Dockerfile,
    registry: &Registry,
    work: &WorkDir,
) -> Result<Built, Failure> {
    order.outputs.check(registry)?;
    let bases = order.cache.as_ref().and_then(|cache| cache.bases.as_ref());
    let mut images = Images::new(registry, order.contexts.clone(), interrupt, bases)?;
    let within = epoch::Within { order, context, registry, work, interrupt };
    let arguments = within.arguments(dockerfile, &mut images)?;
    let span = tracing::info_span!("plan", error = Empty);
    let plan = in_span(span, || inspect::plan_of(order, dockerfile, &arguments, &images))?;
    for name in &plan.unused_arguments {
        tracing::warn!("build argument {name} was given, but nothing declares it");
    }
    contexts::bring(order, &plan, &mut images, registry, work, interrupt)?;
    inspect::warn(order, context, dockerfile, &arguments, &plan, &images)?;
    if let Some(show) = order.show_plan {
        let file = dockerfile;
        let at = inspect::At { order, context, file, arguments: &arguments, images: &images };
        show(&inspect::outlined(&at, &plan, registry, interrupt, work)?)?;
    }
    let times = Times::of(order, &arguments, &plan)?;
    let chosen = choose(order, work)?;
    let tracers = {
        let root = match chosen.isolation {
            rootfs::Isolation::Namespace { .. } => work.path(),
            rootfs::Isolation::InPlace => Path::new("/"),
        };
        let by_reads = order.cache.as_ref().is_some_and(|cache| cache.by_reads);
        Tracers::probe(order.watch, &order.step_tracers, by_reads, order.strict, root)?
    };
    tracers.check(&plan)?;
    let cache = order.cache.as_ref().filter(|_| !order.layers.single);
    if order.cache.is_some() && cache.is_none() {
        tracing::warn!("--single-snapshot makes no layers of single steps: none is cached");
    }
    let cache = cache.map(|settings| Cache::new(settings, registry, work.blobs()));
    if let Some(cache) = cache.as_ref().filter(|_| order.outputs.push) {
        let repositories = repositories(&order.outputs.destinations);
        registry.expect_push(&cache.pushed_last(&repositories, &order.platform));
    }
    let (found, caches) = (OnceLock::new(), UsedCaches::default());
    let builder = Builder {
        order,
        context,
        dockerfile,
        arguments: &arguments,
        globals: &plan.globals,
        registry,
        images: &images,
        isolation: chosen.isolation,
        tracers: &tracers,
        interrupt: interrupt.clone(),
        work,
        times,
        cache: cache.as_ref(),
        most_at_once: at_once::most(order.parallel_stages, chosen.isolation),
        found: &found,
        caches: &caches,
    };
    let built = with_cache(&builder, || whole(&builder, &plan));
    if built.is_err() {
        // The steps that succeeded have filled theirs.
        builder.exports().run();
    }
    if interrupt.is_triggered() {
        return built;
    }
    match (built, builder.leave()) {
        (Ok(built), left) => left.map(|()| built),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(left)) => {
            tracing::warn!("{left}");
            Err(failure)
        }
    }
}

/// Builds anew, without them, where layers of the cache turn out to be unreadable; waits for what is
/// being cached, even if the build failed: the steps that succeeded need not run again.
fn with_cache(
    builder: &Builder<'_>,
    build: impl Fn() -> Result<Built, Failure>,
) -> Result<Built, Failure> {
    let Some(cache) = builder.cache else { return build() };
    let built = loop {
        let lost = cache.lost();
        let built = build();
        if built.is_ok() || builder.interrupt.is_triggered() {
            break built;
        }
        if cache.lost() == lost {
            break built;
        }
        tracing::info!("Building again without these cache entries");
        cache.begin_anew();
        builder.begin_anew()?;
    };
    if !builder.interrupt.is_triggered() {
        cache.finish();
    }
    built
}

fn whole(builder: &Builder<'_>, plan: &Plan<'_>) -> Result<Built, Failure> {
    let Builder { order, registry, images, work, .. } = *builder;
    let between = Between::look(builder, plan);
    builder.make_way()?;
    let image = Stages { builder, plan, between: &between }.build_all()?;
    let mut config = image.config().clone();
    config.created = Some(builder.times.created.clone());
    // As with Docker, annotations of the base speak of the base.
    let image = image.with_config(config).with_annotations(order.outputs.annotations.clone());
    let uploads = between.into_uploads();
    let exports = builder.exports();
    let published = std::thread::scope(|scope| {
        // The trees have done their duty, and large ones take a while to go. Where they do not, the end
        // of the working directory tells why.
        scope.spawn(|| work.clear_stages().is_ok());
        scope.spawn(|| exports.run());
        let span = tracing::info_span!("push", kaniko.digest = %image.digest(), error = Empty);
        in_span(span, || order.outputs.publish(&image, registry, uploads, images, work))
    });
    if let (Ok(pushed), Some(cache)) = (&published, builder.cache) {
        cache.note_pushed(&image, pushed, &order.platform);
    }
    let built = published.map(|_| Built { digest: image.digest() });
    built.inspect_err(|_| {
        // What the destination did not get may be a layer that the cache no longer has.
        if let Some(cache) = builder.cache.filter(|_| !builder.interrupt.is_triggered()) {
            cache.verify_used();
        }
    })
}

fn parse(context: &Context) -> Result<Dockerfile, Failure> {
    let text = std::ffi::OsStr::from_bytes(&context.dockerfile).display();
    // Made into text by whoever gathers spans, if anybody does.
    tracing::Span::current().record("kaniko.dockerfile.content", tracing::field::display(text));
    crate::dockerfile::parse(&context.dockerfile_name, &context.dockerfile).map_err(|error| {
        let place = format!("{}:{}", context.dockerfile_name, error.line());
        let failure = Failure::new(error.message().to_owned()).at(place);
        let failure = failure.excerpt(&error.render(false));
        match error.others() {
            0 => failure,
            1 => failure.hint("there is another error"),
            others => failure.hint(format!("there are {others} more errors")),
        }
    })
}

fn plan_failure(error: PlanError, dockerfile: &Dockerfile) -> Failure {
    let source = &dockerfile.source;
    let told = error.to_string();
    match error {
        PlanError::NoBase { file, line, span, failure } => {
            failure.at(format!("{file}:{line}")).excerpt(&source.annotate(span, "", None, false))
        }
        PlanError::NoSuchTarget { hint, .. } => with_hint(Failure::new(told), hint),
        PlanError::Expand { span, .. } => {
            Failure::new(told).excerpt(&source.annotate(span, "", None, false))
        }
        PlanError::BadBase { span, hint, .. } => {
            let failure = Failure::new(told).excerpt(&source.annotate(span, "", None, false));
            with_hint(failure, hint)
        }
        PlanError::BadOrigin { span, stage, .. } => {
            Failure::new(told).excerpt(&source.annotate_both(span, stage, "it begins here"))
        }
        PlanError::BadTrigger { .. } => Failure::new(told),
    }
}

/// A step that cannot be carried out, with its place.
fn step_failure(error: &StepError, trigger: bool, dockerfile: &Dockerfile) -> Failure {
    let message = error.kind.to_string();
    if trigger {
        return Failure::new(message).at("ONBUILD trigger of the base image");
    }
    let place = format!("{}:{}", dockerfile.source.name, error.line);
    let excerpt = dockerfile.source.annotate(error.span, &message, None, false);
    Failure::new(message).at(place).excerpt(&excerpt)
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Which isolation, told at `info` with the reason.
fn choose(order: &Order, work: &WorkDir) -> Result<Chosen, Failure> {
    let (choice, force) = own_root::isolation(order)?;
    let chosen = rootfs::choose(choice, force, work.path())
        .map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    tracing::info!("Isolation: {} ({})", chosen.isolation, chosen.why);
    if chosen.isolation == rootfs::Isolation::InPlace {
        for origin in order.registry.credentials.origins() {
            tracing::warn!("in place, RUN steps can read the logins in {}", origin.display());
        }
    }
    Ok(chosen)
}

/// A registry's failure with its hint.
pub(crate) fn registry_failure(error: &RegistryError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The destinations' repositories, each once.
pub(crate) fn repositories(destinations: &[Reference]) -> Vec<crate::image::Repository> {
    let mut found: Vec<crate::image::Repository> = Vec::new();
    for reference in destinations {
        if !found.contains(reference.repository()) {
            found.push(reference.repository().clone());
        }
    }
    found
}
