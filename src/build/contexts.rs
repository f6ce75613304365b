//! The contexts of a build, brought to this machine.

use tracer::Interrupt;

use super::images::{NamedContext, NamedContexts};
use super::work::WorkDir;
use super::{Order, registry_failure};
use crate::context::{Access, Context, ContextSource, Elsewhere, obtain};
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
    let obtained = obtain(&order.context, &work.path().join("context"), &access, interrupt)?;
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

/// The further contexts, those from elsewhere as directories of this machine.
pub(super) fn named(
    order: &Order,
    registry: &Registry,
    work: &WorkDir,
    interrupt: &Interrupt,
) -> Result<NamedContexts, Failure> {
    let mut contexts = order.contexts.clone();
    for (number, context) in contexts.values_mut().enumerate() {
        if let NamedContext::Remote(source) = context {
            let into = work.path().join(format!("context-{number}"));
            let access = access(order, source, registry)?;
            *context = NamedContext::Dir(obtain(source, &into, &access, interrupt)?.dir);
        }
    }
    Ok(contexts)
}

/// How to reach a context; Amazon's logins are asked for where it is there.
fn access(order: &Order, source: &ContextSource, registry: &Registry) -> Result<Access, Failure> {
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
