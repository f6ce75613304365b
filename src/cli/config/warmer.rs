//! What was meant with the command line of `warmer`.

use std::time::SystemTime;

use tracer::Interrupt;

use super::{Surroundings, build_args, cache, context, registry};
use crate::cli::flags::{RegistryFlags, WarmerFlags};
use crate::context::http;
use crate::dockerfile::Dockerfile;
use crate::image::{Platform, Reference};
use crate::plan::Arguments;
use crate::registry::Settings;
use crate::report::{Explain as _, Failure};
use crate::warm::{WarmOrder, bases_of};

/// The largest Dockerfile that is read from the web, in bytes.
const LONGEST: u64 = 16 << 20;

/// What to fetch, and where it goes.
///
/// # Errors
/// Nothing to fetch, or flags that mean nothing.
pub(in crate::cli) fn warm_order(
    flags: &WarmerFlags,
    around: &Surroundings,
    now: SystemTime,
    interrupt: &Interrupt,
) -> Result<WarmOrder, Failure> {
    let dockerfile = flags.dockerfile.as_deref().filter(|name| !name.is_empty());
    if flags.image.is_empty() && dockerfile.is_none() {
        return Err(Failure::new("you must select at least one image to cache or a dockerfile")
            .hint("give --image or --dockerfile"));
    }
    let platform = match flags.custom_platform.as_deref() {
        None | Some("") => Platform::host(),
        Some(text) => text
            .parse()
            .map_err(|error| Failure::new(format!("--custom-platform={text}: {error}")))?,
    };
    let pulls = RegistryFlags { pulls: flags.pulls.clone(), ..RegistryFlags::default() };
    let registry = registry::registry(&pulls, around)?;
    let mut images = Vec::new();
    for text in &flags.image {
        let name: Reference =
            text.parse().map_err(|error| Failure::new(format!("--image={text}: {error}")))?;
        images.push((name, platform.clone()));
    }
    if let Some(name) = dockerfile {
        let dockerfile = read(name, around, &registry, interrupt)?;
        let given = build_args(&flags.build_arg, around);
        let arguments = Arguments::new(given, &Platform::host(), &platform, None);
        for image in bases_of(&dockerfile, &arguments, &platform)? {
            if !images.contains(&image) {
                images.push(image);
            }
        }
    }
    Ok(WarmOrder {
        images,
        dir: around.here.join(&flags.cache_dir),
        ttl: cache::ttl(&flags.cache_ttl)?,
        force: flags.force.0,
        registry,
        now,
    })
}

fn read(
    name: &str,
    around: &Surroundings,
    registry: &Settings,
    interrupt: &Interrupt,
) -> Result<Dockerfile, Failure> {
    let bytes = if name.starts_with("http://") || name.starts_with("https://") {
        fetched(name, registry, interrupt)?
    } else {
        let path = around.here.join(name);
        std::fs::read(&path).could_not(|| format!("read {}", path.display()))?
    };
    let shown = http::without_credentials(name);
    crate::dockerfile::parse(&shown, &bytes).map_err(|error| {
        let place = format!("{shown}:{}", error.line());
        Failure::new(error.message().to_owned()).at(place).excerpt(&error.render(false))
    })
}

fn fetched(url: &str, registry: &Settings, interrupt: &Interrupt) -> Result<Vec<u8>, Failure> {
    let doing = || "make a directory for the Dockerfile".to_owned();
    let dir = tempfile::tempdir().could_not(doing)?;
    let file = dir.path().join("Dockerfile");
    let settings = context::fetch(registry);
    let fetched = http::fetch(url, &file, &settings, || interrupt.is_triggered())
        .map_err(|error| error.while_doing("fetch the Dockerfile"))?;
    if fetched.size > LONGEST {
        let shown = http::without_credentials(url);
        return Err(Failure::new(format!(
            "{shown} has {} bytes: it is no Dockerfile",
            fetched.size
        )));
    }
    std::fs::read(&file).could_not(|| "read the Dockerfile".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::tests::around;
    use super::*;

    #[test]
    fn what_is_warmed() {
        for (line, want) in [
            (
                "-i debian:12 --image=r.example/x -c /c",
                "index.docker.io/library/debian:12 r.example/x:latest in /c",
            ),
            ("-i a -c c", "index.docker.io/library/a:latest in /here/c"),
            ("", "you must select at least one image"),
            ("--dockerfile=", "you must select at least one image"),
            ("-i a:b:c", "--image=a:b:c"),
            ("-d /does/not/exist", "could not read /does/not/exist"),
            ("-i a --cache-ttl=6", "--cache-ttl=6: no duration"),
            ("-i a --customPlatform=x", "--custom-platform=x"),
        ] {
            let flags = std::iter::once("warmer").chain(line.split_whitespace());
            let flags = WarmerFlags::try_parse_from(flags).expect("known flags");
            let order = warm_order(&flags, &around(), SystemTime::now(), &Interrupt::new());
            let told = match order {
                Ok(order) => {
                    let names: Vec<_> = order.images.iter().map(|(it, _)| it.to_string()).collect();
                    format!("{} in {}", names.join(" "), order.dir.display())
                }
                Err(failure) => failure.to_string(),
            };
            assert!(told.contains(want), "{line}: {told}");
        }
    }
}
