//! `executor cache`: what `--cache` keeps is listed, explained and removed.
//!
//! What these commands answer is one text for standard output; nothing of it
//! is printed here.

mod mounts;
mod told;

use tracer::Interrupt;

use super::config::{Surroundings, duration, insecure_cache, registry, size};
use super::flags::{CacheCommand, CacheExplainFlags, CachePruneFlags, ListFormat, WhichCache};
use crate::build::registry_failure;
use crate::cache::{Content, Inventory, InventoryError, Kept, Place, Pruning, Record};
use crate::image::Platform;
use crate::plan::Key;
use crate::registry::Registry;
use crate::report::Failure;

/// A cache, and how it is reached.
struct Opened {
    place: Place,
    registry: Registry,
    now: i64,
}

/// Does what the command says; what it has to tell.
///
/// # Errors
/// Flags that mean nothing, or a cache that cannot be read or written.
pub(super) fn cache(
    command: &CacheCommand,
    around: &Surroundings,
    interrupt: &Interrupt,
) -> Result<String, Failure> {
    let which = command.which();
    let pruning = match command {
        CacheCommand::Prune(flags) => Some(pruning(flags)?),
        CacheCommand::Ls(_) | CacheCommand::Explain(_) => None,
    };
    if let Some(dir) = which.place.strip_prefix("mounts:") {
        return mounts::cache(command, pruning.as_ref(), dir, around);
    }
    let opened = Opened::of(which, around, interrupt)?;
    let inventory = opened.inventory()?;
    match (command, pruning) {
        (CacheCommand::Ls(_), _) => Ok(told::list(&inventory, opened.now, which.format)),
        (CacheCommand::Explain(flags), _) => opened.explain(&inventory, flags),
        (CacheCommand::Prune(flags), Some(pruning)) => opened.prune(&inventory, &pruning, flags),
        (CacheCommand::Prune(_), None) => Ok(String::new()),
    }
}

fn pruning(flags: &CachePruneFlags) -> Result<Pruning, Failure> {
    let pruning = Pruning {
        all: flags.all.0,
        older_than: flags
            .older_than
            .as_deref()
            .map(|text| duration("--older-than", text))
            .transpose()?,
        keep: flags.keep.as_deref().map(|text| size("--keep", text)).transpose()?,
    };
    if !pruning.all && pruning.older_than.is_none() && pruning.keep.is_none() {
        return Err(Failure::new("nothing says which entries are to go")
            .hint("give --older-than=336h, --keep=20G or --all"));
    }
    Ok(pruning)
}

impl Opened {
    fn of(
        which: &WhichCache,
        around: &Surroundings,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let text = &which.place;
        let place = Place::parse(text, &around.here, u64::MAX)
            .map_err(|error| Failure::new(format!("{text}: {error}")))?;
        if let Some(dir) = place.dir().filter(|dir| !dir.is_dir()) {
            return Err(Failure::new(format!("there is no cache in {}", dir.display())));
        }
        let mut settings = registry::registry(&which.registry, around)?;
        insecure_cache(&place, &mut settings);
        let registry = Registry::new(settings).map_err(|error| registry_failure(&error))?;
        let canceller = registry.canceller();
        interrupt.also(move || canceller.cancel());
        Ok(Self { place, registry, now: around.time()?.as_second() })
    }

    fn inventory(&self) -> Result<Inventory, Failure> {
        self.place.inventory(&self.registry).map_err(|error| failure(&error))
    }

    fn prune(
        &self,
        inventory: &Inventory,
        pruning: &Pruning,
        flags: &CachePruneFlags,
    ) -> Result<String, Failure> {
        let chosen = inventory.chosen(pruning, self.now);
        if !flags.dry_run.0 {
            self.place.remove(&self.registry, &chosen).map_err(|error| failure(&error))?;
        }
        let in_registry = matches!(self.place, Place::Registry(_));
        let told = told::Pruned { chosen: &chosen, dry_run: flags.dry_run.0, in_registry };
        Ok(told.text(inventory, self.now, flags.which.format))
    }

    fn explain(&self, inventory: &Inventory, flags: &CacheExplainFlags) -> Result<String, Failure> {
        let kept = named(inventory, &flags.key)?;
        let record = match kept.entry {
            Ok(Content::Mount(_) | Content::Pushed(_)) => None,
            Ok(Content::Layer(_)) | Err(_) => self.record(kept.key)?,
        };
        let other = match &flags.other {
            Some(other) => Some(named(inventory, other)?.key),
            None => record
                .as_ref()
                .and_then(|it| self.place.last_of(&self.registry, it, &Platform::host()))
                .filter(|last| *last != kept.key),
        };
        let other = other
            .map(|key| Ok::<_, Failure>((key, self.record(key)?)))
            .transpose()?
            .and_then(|(key, record)| Some((key, record?)));
        let explained = told::Explained { kept, record, other };
        Ok(explained.text(self.now, flags.which.format))
    }

    fn record(&self, key: Key) -> Result<Option<Record>, Failure> {
        self.place
            .record(&self.registry, key, &Platform::host())
            .map_err(|why| Failure::new(format!("entry {}: {why}", key.short())))
    }
}

/// The one entry whose key begins so.
fn named<'i>(inventory: &'i Inventory, start: &str) -> Result<&'i Kept, Failure> {
    match inventory.called(start).as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::new(format!("no entry is called {start}"))
            .hint("executor cache ls tells all; a build tells its keys with --dryrun")),
        several => {
            let names: Vec<String> = several.iter().map(|kept| kept.key.short()).collect();
            let what = format!("{start} may be {}", names.join(", "));
            Err(Failure::new(what).hint("give more digits"))
        }
    }
}

fn failure(error: &InventoryError) -> Failure {
    match error {
        InventoryError::Layout(error) => Failure::new(error.to_string()),
        InventoryError::Registry(error) => {
            let failure = registry_failure(error);
            if error.is_unsupported() {
                return failure.hint(
                    "this registry lets nobody delete by its API: use its own rules for old \
                     images, or switch deletion on (REGISTRY_STORAGE_DELETE_ENABLED=true)",
                );
            }
            failure
        }
    }
}

impl ListFormat {
    fn is_json(self) -> bool {
        self == Self::Json
    }
}
