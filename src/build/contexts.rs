//! The contexts of a build, brought to this machine.

use tracer::Interrupt;

use super::images::{NamedContext, NamedContexts};
use super::work::WorkDir;
use super::{Order, registry_failure};
use crate::context::{Access, Context, ContextSource, obtain};
use crate::registry::Registry;
use crate::report::Failure;

/// How and where contexts are brought.
pub(super) struct Contexts<'a> {
    order: &'a Order,
    work: &'a WorkDir,
    interrupt: &'a Interrupt,
    access: Access,
}

impl<'a> Contexts<'a> {
    /// Asks for the login of Amazon, if a context is there.
    pub(super) fn new(
        order: &'a Order,
        registry: &Registry,
        work: &'a WorkDir,
        interrupt: &'a Interrupt,
    ) -> Result<Self, Failure> {
        let named = order.contexts.values().filter_map(|context| match context {
            NamedContext::Remote(source) => Some(source),
            NamedContext::Dir(_) | NamedContext::Layout { .. } | NamedContext::Image(_) => None,
        });
        let is_s3 = |source: &ContextSource| match source {
            ContextSource::Object(object) => object.is_s3(),
            ContextSource::Dir(_)
            | ContextSource::Tar(_)
            | ContextSource::Stdin
            | ContextSource::Web(_)
            | ContextSource::Git(_) => false,
        };
        let mut access = order.access.clone();
        if named.chain([&order.context]).any(is_s3) {
            let region = access.stores.region().unwrap_or("us-east-1").to_owned();
            access.stores.aws =
                registry.aws_login(&region).map_err(|error| registry_failure(&error))?;
        }
        Ok(Self { order, work, interrupt, access })
    }

    /// The context, whole and on this machine.
    pub(super) fn own(&self) -> Result<Context, Failure> {
        let order = self.order;
        let into = self.work.path().join("context");
        let obtained = obtain(&order.context, &into, &self.access, self.interrupt)?;
        let obtained = obtained.below(&order.context_sub_path, "--context-sub-path")?;
        Context::open(&obtained, &order.dockerfile, &order.here)
            .map_err(|error| Failure::new(error.to_string()).hint("see --context and --dockerfile"))
    }

    /// The further contexts, those from elsewhere as directories of this machine.
    pub(super) fn named(&self) -> Result<NamedContexts, Failure> {
        let mut contexts = self.order.contexts.clone();
        for (number, context) in contexts.values_mut().enumerate() {
            if let NamedContext::Remote(source) = context {
                let into = self.work.path().join(format!("context-{number}"));
                let obtained = obtain(source, &into, &self.access, self.interrupt)?;
                *context = NamedContext::Dir(obtained.dir);
            }
        }
        Ok(contexts)
    }
}
