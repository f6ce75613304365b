//! Looking at a Dockerfile instead of building it: the checks, and the plan. Nothing is unpacked, run or
//! pushed; of base images only manifest and config are fetched.

use std::collections::BTreeMap;

use tracer::Interrupt;

use super::ahead::Ahead;
use super::downloads::Downloads;
use super::epoch::Within;
use super::images::Images;
use super::keys::{Keys, known_files};
use super::layers::Times;
use super::outline::{Looked, outline};
use super::refused::refused;
use super::work::WorkDir;
use super::{Order, contexts, parse, plan_failure, within};
use crate::cache::Cache;
use crate::check::{self, Findings, Options, Surroundings};
use crate::context::Context;
use crate::dockerfile::Dockerfile;
use crate::image::Platform;
use crate::plan::{Arguments, Goals, Outline, Plan, plan};
use crate::registry::Registry;
use crate::report::Failure;

/// The build argument that goes before the directive of the file.
const CHECK: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What `--check` has to say.
#[derive(Debug)]
pub struct Checked {
    /// For a person, several lines.
    pub text: String,
    /// How many things were found.
    pub count: usize,
}

/// Looks for what is allowed and probably not meant, in all stages or those of the target.
///
/// # Errors
/// The Dockerfile cannot be read at all.
pub fn check(order: &Order, interrupt: &Interrupt, colour: bool) -> Result<Checked, Failure> {
    within(order, interrupt, |context, registry, work| {
        let file = parse(context)?;
        let mut found = Findings::new(options(&file, &order.build_args)?);
        let mut images = Images::new(registry, order.contexts.clone(), interrupt, None)?;
        check::text(&file, &arguments(order, &file), &mut found);
        let around = Within { order, context, registry, work, interrupt };
        let failures = match around.arguments(&file, &mut images) {
            Ok(arguments) => check_stages(around, &file, &arguments, &mut images, &mut found)?,
            Err(failure) => vec![failure],
        };
        let rendered = found.sorted().into_iter().map(|it| it.render(&file.source, colour));
        let parts: Vec<String> = rendered.chain(failures.iter().map(ToString::to_string)).collect();
        Ok(Checked { count: parts.len(), text: parts.join("\n\n") })
    })
}

/// Looks at the stages; answers what cannot be built in them.
fn check_stages(
    around: Within<'_>,
    file: &Dockerfile,
    arguments: &Arguments,
    images: &mut Images<'_>,
    found: &mut Findings,
) -> Result<Vec<Failure>, Failure> {
    let Within { order, context, registry, work, interrupt } = around;
    let unused = order.goals.unused || order.goals.targets.is_empty();
    let goals = Goals { unused, ..order.goals.clone() };
    let plan = match plan(file, &goals, arguments, &order.platform, images) {
        Ok(plan) => plan,
        Err(error) => return Ok(vec![plan_failure(error, file)]),
    };
    contexts::bring(order, &plan, images, registry, work, interrupt)?;
    let ignore = &context.ignore;
    let shown = Surroundings { dockerfile: file, arguments, ignore, images };
    check::stages(&plan, shown, found);
    let mut failures = refused(file, arguments, &plan, images);
    failures.extend(Times::of(order, arguments, &plan).err());
    Ok(failures)
}

/// The plan of the build, and with a cache what is found there.
///
/// # Errors
/// As a build that fails before its first step, or at an instruction that cannot be carried out.
pub fn dry_run(order: &Order, interrupt: &Interrupt) -> Result<Outline, Failure> {
    within(order, interrupt, |context, registry, work| {
        let file = parse(context)?;
        let mut images = Images::new(registry, order.contexts.clone(), interrupt, None)?;
        let around = Within { order, context, registry, work, interrupt };
        let arguments = around.arguments(&file, &mut images)?;
        let plan = plan_of(order, &file, &arguments, &images)?;
        contexts::bring(order, &plan, &mut images, registry, work, interrupt)?;
        warn(order, context, &file, &arguments, &plan, &images)?;
        Times::of(order, &arguments, &plan)?;
        let at = At { order, context, file: &file, arguments: &arguments, images: &images };
        outlined(&at, &plan, registry, interrupt, work)
    })
}

/// What a plan was made of.
pub(super) struct At<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) file: &'a Dockerfile,
    pub(super) arguments: &'a Arguments,
    pub(super) images: &'a Images<'a>,
}

/// The plan, with what the cache has of it.
pub(super) fn outlined(
    at: &At<'_>,
    plan: &Plan<'_>,
    registry: &Registry,
    interrupt: &Interrupt,
    work: &WorkDir,
) -> Result<Outline, Failure> {
    let At { order, context, file, arguments, images } = *at;
    let outline = |looked| outline(order, file, arguments, plan, images, looked);
    let Some(settings) = order.cache.as_ref().filter(|_| !order.layers.single) else {
        return outline(None);
    };
    let times = Times::of(order, arguments, plan)?;
    let cache = Cache::new(settings, registry, work.blobs());
    let keys = Keys {
        order,
        context,
        dockerfile: file,
        arguments,
        plan,
        images,
        interrupt,
        work,
        latest: times.latest,
        downloads: &Downloads::default(),
        known: &known_files(settings, context),
    };
    let ahead = Ahead::look(&keys, &cache);
    cache.look_up_by_reads(&ahead.open_commands());
    outline(Some(&Looked { ahead: &ahead, cache: &cache }))
}

/// What is to be built, and whose files are wanted at the end.
pub(super) fn plan_of<'a>(
    order: &Order,
    file: &'a Dockerfile,
    arguments: &Arguments,
    images: &Images<'_>,
) -> Result<Plan<'a>, Failure> {
    let mut plan = plan(file, &order.goals, arguments, &order.platform, images)
        .map_err(|error| plan_failure(error, file))?;
    if let Some(failure) = Failure::all_of(refused(file, arguments, &plan, images)) {
        return Err(failure);
    }
    if order.own_root.materialize {
        plan.keep_result();
    }
    Ok(plan)
}

/// Tells what the checks find in the stages of a build that is about to begin.
pub(super) fn warn(
    order: &Order,
    context: &Context,
    file: &Dockerfile,
    arguments: &Arguments,
    plan: &Plan<'_>,
    images: &Images<'_>,
) -> Result<(), Failure> {
    let options = options(file, &order.build_args)?;
    for name in options.unknown_rules() {
        tracing::warn!("{}: # check= names {name}, which is no rule", file.source.name);
    }
    let mut found = Findings::new(options);
    check::text(file, arguments, &mut found);
    let ignore = &context.ignore;
    check::stages(plan, Surroundings { dockerfile: file, arguments, ignore, images }, &mut found);
    for finding in found.sorted() {
        tracing::warn!("{}", finding.line(&file.source));
    }
    if found.are_errors() {
        return Err(Failure::new("the checks found what is told above, and check=error=true")
            .hint("mend it, or name the rule in # check=skip="));
    }
    Ok(())
}

pub(super) fn arguments(order: &Order, file: &Dockerfile) -> Arguments {
    let target = order.goals.target_name(file);
    Arguments::new(order.build_args.clone(), &Platform::host(), &order.platform, target)
}

fn options(file: &Dockerfile, given: &BTreeMap<String, String>) -> Result<Options, Failure> {
    let (place, options) = match (given.get(CHECK), &file.directives.check) {
        (Some(text), _) => (format!("--build-arg {CHECK}"), Options::parse(text)),
        (None, Some(text)) => {
            (format!("{}: # check=", file.source.name), Options::of_comment(text))
        }
        (None, None) => return Ok(Options::default()),
    };
    options.map_err(|error| Failure::new(error.to_string()).at(place))
}
