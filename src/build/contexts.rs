//! The contexts of a build, brought to this machine.

use tracer::Interrupt;

use super::images::{Images, NamedContext};
use super::work::WorkDir;
use super::{Order, registry_failure};
use crate::context::git::GitSource;
use crate::context::{Access, Context, ContextSource, Elsewhere, obtain};
use crate::plan::{EPOCH, Plan};
use crate::registry::Registry;
use crate::report::Failure;

/// The context with its Dockerfile, whole and on this machine.
pub(super) fn own(
    order: &Order,
    registry: &Registry,
    work: &WorkDir,
    interrupt: &Interrupt,
) -> Result<Context, Failure> {
    let access = access(order, &order.context, registry)?;
    let source = with_times(order);
    let obtained = obtain(&source, &work.path().join("context"), &access, interrupt)?;
    let obtained = obtained.below(&order.context_sub_path, "--context-sub-path")?;
    let opened = match Elsewhere::parse(&order.dockerfile) {
        None => Context::open(&obtained, &order.dockerfile, &order.here),
        Some(elsewhere) => {
            let text = elsewhere.read(&work.scratch(), &order.access, interrupt)?;
            Context::with(&obtained, elsewhere.name(), text)
        }
    };
    opened.map_err(|error| Failure::new(error.to_string()).hint("see --context and --dockerfile"))
}

/// As in Docker, the files of a repository have the time of its commit where an epoch is given.
fn with_times(order: &Order) -> ContextSource {
    let has_epoch = order.build_args.get(EPOCH).is_some_and(|text| !text.is_empty());
    match &order.context {
        ContextSource::Git(git) if has_epoch => {
            ContextSource::Git(Box::new(GitSource::clone(git).with_commit_times()))
        }
        source => source.clone(),
    }
}

/// Brings the further contexts that instructions of the plan take files from, and that are elsewhere, to
/// this machine. Those that no planned stage names are never asked for.
pub(super) fn bring(
    order: &Order,
    plan: &Plan<'_>,
    images: &mut Images<'_>,
    registry: &Registry,
    work: &WorkDir,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    for (number, name) in plan.origins().iter().enumerate() {
        let Some(NamedContext::Remote(source)) = images.named(name).cloned() else { continue };
        let into = work.path().join(format!("context-{number}"));
        let access = access(order, &source, registry)?;
        images.bring(name, obtain(&source, &into, &access, interrupt)?.dir)?;
    }
    Ok(())
}

/// How to reach a context; Amazon's logins are asked for where it is there.
pub(super) fn access(
    order: &Order,
    source: &ContextSource,
    registry: &Registry,
) -> Result<Access, Failure> {
    let mut access = order.access.clone();
    if let ContextSource::Object(object) = source
        && object.is_s3()
    {
        let region = access.stores.region().unwrap_or("us-east-1").to_owned();
        access.stores.aws =
            registry.aws_login(&region).map_err(|error| registry_failure(&error))?;
    }
    Ok(access)
}
