//! `executor push`: an image that is a file already.

use tracer::Interrupt;

use super::config::{Surroundings, kaniko_dir, outputs, registry};
use super::flags::PushFlags;
use super::run::WorkDir;
use crate::build::registry_failure;
use crate::registry::Registry;
use crate::report::{Explain as _, Failure};
use crate::ship::{self, ShipError};

/// Pushes what the flags name.
///
/// # Errors
/// What is wrong with the flags, the image or a destination.
pub(super) fn push(
    flags: &PushFlags,
    around: &Surroundings,
    interrupt: &Interrupt,
    work_dir: &WorkDir,
) -> Result<(), Failure> {
    let destinations = outputs::destinations(&flags.destination)?;
    let told = outputs::place("--digest-file", &flags.digest_file, around)?;
    let settings = registry::registry(&flags.registry, around)?;
    let registry = Registry::new(settings).map_err(|error| registry_failure(&error))?;
    let canceller = registry.canceller();
    interrupt.also(move || canceller.cancel());
    if !flags.registry.skip_push_permission_check.0 {
        for destination in &destinations {
            registry.check_push(destination).map_err(|error| {
                let failure = registry_failure(&error);
                failure.at("push permission")
            })?;
        }
    }
    let kaniko_dir = kaniko_dir(None, around);
    let doing = || format!("make a working directory in {}", kaniko_dir.display());
    std::fs::create_dir_all(&kaniko_dir).could_not(doing)?;
    let work = tempfile::Builder::new().prefix("push-").tempdir_in(&kaniko_dir).could_not(doing)?;
    work_dir.get_or_init(|| work.path().to_owned());
    let path = around.here.join(&flags.path);
    let (digest, pushed) =
        ship::push(&path, &destinations, &registry, work.path()).map_err(|error| match error {
            ShipError::Registry(error) => registry_failure(&error),
            other @ ShipError::Archive { .. } => Failure::new(other.to_string()),
        })?;
    for one in pushed {
        tracing::info!("Pushed {}", one.reference.with_digest(one.digest));
    }
    if let Some(place) = told {
        place
            .write(&digest.to_string(), &registry)
            .could_not(|| "tell the digest of the image".to_owned())?;
    }
    Ok(())
}
