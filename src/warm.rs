//! Fills a directory with base images, for executors that read them there.
//!
//! Any number of warmers may fill one volume: who is second waits for the first
//! and finds the image there. An image that expired is fetched again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::cache::Bases;
use crate::dockerfile::Dockerfile;
use crate::image::{Blob, Image, Platform, Reference};
use crate::plan::Arguments;
use crate::registry::{Registry, Settings};
use crate::report::{Explain as _, Failure};

/// What is to be fetched, and where it goes.
#[derive(Debug)]
pub struct WarmOrder {
    /// The images, by name.
    pub images: Vec<(Reference, Platform)>,
    /// Where they go.
    pub dir: PathBuf,
    /// How old one may be that is there already.
    pub ttl: Duration,
    /// Fetches what is there already, too.
    pub force: bool,
    /// How to talk to registries.
    pub registry: Settings,
    /// The time.
    pub now: SystemTime,
}

/// The images that the stages of a Dockerfile are based on, with the platform of each; what is a stage
/// itself, or `scratch`, is none.
///
/// # Errors
/// A name that cannot be expanded, or is none.
pub fn bases_of(
    dockerfile: &Dockerfile,
    arguments: &Arguments,
    platform: &Platform,
) -> Result<Vec<(Reference, Platform)>, Failure> {
    let file = &dockerfile.source.name;
    let escape = dockerfile.escape();
    let globals = arguments
        .globals(&dockerfile.global_args, escape)
        .map_err(|(line, _, error)| Failure::new(format!("{file}:{line}: {error}")))?;
    let mut stages = BTreeSet::new();
    let mut found: Vec<(Reference, Platform)> = Vec::new();
    for stage in &dockerfile.stages {
        let failed = |error: String| Failure::new(format!("{file}:{}: {error}", stage.line));
        let expand = |word: &crate::dockerfile::Word| {
            word.expand(&globals, escape).map_err(|error| failed(error.to_string()))
        };
        let name = expand(&stage.base)?;
        let own = match &stage.platform {
            Some(word) => expand(word)?,
            None => String::new(),
        };
        let platform = match own.as_str() {
            "" => platform.clone(),
            text => {
                text.parse().map_err(|error: crate::image::ImageError| failed(error.to_string()))?
            }
        };
        if name != "scratch" && !stages.contains(&name.to_lowercase()) {
            let reference = name
                .parse()
                .map_err(|error: crate::image::ImageError| failed(error.to_string()))?;
            if !found.contains(&(Reference::clone(&reference), platform.clone())) {
                found.push((reference, platform));
            }
        }
        stages.extend(stage.name.clone());
    }
    Ok(found)
}

/// Fetches all images. One that cannot be had is a warning.
///
/// # Errors
/// None could be had, or the directory cannot be written.
pub fn warm(order: &WarmOrder) -> Result<(), Failure> {
    std::fs::create_dir_all(&order.dir)
        .could_not(|| format!("make {}", order.dir.display()))
        .map_err(|failure| failure.hint("give a writable directory with --cache-dir"))?;
    let registry =
        Registry::new(order.registry.clone()).map_err(|error| Failure::new(error.to_string()))?;
    let bases = Bases::new(order.dir.clone(), order.ttl, order.now);
    let mut last = None;
    let mut done = 0;
    for (reference, platform) in &order.images {
        match one(order, &bases, &registry, reference, platform) {
            Ok(()) => done += 1,
            Err(failure) => {
                let told = failure.to_string();
                tracing::warn!("{reference}: {}", told.trim_start_matches("error: "));
                last = Some(failure);
            }
        }
    }
    match last {
        Some(failure) if done == 0 => Err(failure.at("no image could be warmed")),
        _ => Ok(()),
    }
}

fn one(
    order: &WarmOrder,
    bases: &Bases,
    registry: &Registry,
    reference: &Reference,
    platform: &Platform,
) -> Result<(), Failure> {
    tracing::info!("Retrieving image manifest {reference}");
    let image =
        registry.pull(reference, platform).map_err(|error| Failure::new(error.to_string()))?;
    let digest = image.digest();
    let doing = || format!("keep {reference}");
    let _lock = bases.lock(digest).could_not(doing)?;
    if !order.force && bases.find(digest).is_some() {
        tracing::info!("{reference} is there already: {digest}");
        return Ok(());
    }
    let downloads = tempfile::Builder::new()
        .prefix("warmingLayers.")
        .tempdir_in(bases.dir())
        .could_not(doing)?;
    let local = fetched(registry, &image, downloads.path())?;
    bases.put(&local, &reference.to_string()).could_not(doing)?;
    tracing::info!("Warmed {reference}: {digest}");
    Ok(())
}

/// The image with all layers on this machine, which are downloaded beside each other.
fn fetched(registry: &Registry, image: &Image, dir: &std::path::Path) -> Result<Image, Failure> {
    let layers = image.layers().to_vec();
    let pending: Vec<_> = layers.iter().map(|layer| registry.fetch(layer, dir)).collect();
    let mut local = image.clone();
    for (layer, pending) in layers.iter().zip(pending) {
        let file = pending.wait().map_err(|error| Failure::new(error.to_string()))?;
        local = local.with_blob(layer.descriptor.digest, &Blob::File(file));
    }
    Ok(local)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn bases_are_images_and_no_stages() {
        let text = b"ARG V=12\nFROM --platform=linux/arm64 debian:$V AS a\nFROM a AS b\n\
                     FROM scratch\nFROM debian:$V\nFROM debian:$V\nCOPY --from=x /a /a\n";
        let dockerfile = crate::dockerfile::parse("Dockerfile", text).expect("valid");
        let platform = Platform::new("linux", "amd64", None);
        let told = |given: &[(&str, &str)]| {
            let given: BTreeMap<_, _> =
                given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let arguments = Arguments::new(given, &platform, &platform, None);
            let found = bases_of(&dockerfile, &arguments, &platform).expect("names");
            let all = found.iter().map(|(name, platform)| format!("{name} {platform}"));
            all.collect::<Vec<_>>().join(", ")
        };
        let hub = "index.docker.io/library/debian";
        assert_eq!(told(&[]), format!("{hub}:12 linux/arm64, {hub}:12 linux/amd64"));
        assert_eq!(told(&[("V", "13")]), format!("{hub}:13 linux/arm64, {hub}:13 linux/amd64"));
    }
}
