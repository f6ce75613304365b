//! Where the result goes and what it carries.

use std::collections::BTreeMap;

use super::{Surroundings, switch};
use crate::build::Outputs;
use crate::cli::flags::Flags;
use crate::image::{Flavor, Reference};
use crate::registry::Secret;
use crate::report::Failure;
use crate::sink::Place;

/// The outputs of a build.
///
/// # Errors
/// Names that are none, outputs that contradict each other.
pub(super) fn outputs(flags: &Flags, around: &Surroundings) -> Result<Outputs, Failure> {
    let no_push = switch(flags.no_push.is_some_and(|flag| flag.0), "KANIKO_NO_PUSH", around)?;
    let destinations = destinations(&flags.destination)?;
    if destinations.is_empty() && !no_push && !flags.language.build_nothing() {
        return Err(Failure::new("you must provide --destination, or use --no-push"));
    }
    let absolute = |path: &std::path::PathBuf| around.here.join(path);
    let result = &flags.result;
    let outputs = Outputs {
        push: !no_push,
        check: !flags.registry.skip_push_permission_check.0,
        tar: flags.tar_path.as_ref().map(absolute),
        layout: flags.oci_layout_path.as_ref().map(absolute),
        digest_file: place("--digest-file", &flags.digest_file, around)?,
        names_file: place(
            "--image-name-with-digest-file",
            &result.image_name_with_digest_file,
            around,
        )?,
        tags_file: place(
            "--image-name-tag-with-digest-file",
            &result.image_name_tag_with_digest_file,
            around,
        )?,
        list: around
            .variable("BUILDER_OUTPUT")
            .filter(|_| !no_push)
            .map(|dir| Place::File(around.here.join(dir).join("images"))),
        annotations: pairs("--annotation", &result.annotation)?,
        labels: pairs("--label", &result.label)?,
        flavor: flavor(&result.image_format)?,
        destinations,
    };
    if outputs.destinations.is_empty() {
        for (flag, file) in [
            ("--image-name-with-digest-file", &outputs.names_file),
            ("--image-name-tag-with-digest-file", &outputs.tags_file),
        ] {
            if file.is_some() {
                return Err(Failure::new(format!("{flag} tells destinations, and there is none"))
                    .hint("give a --destination too"));
            }
        }
    }
    Ok(outputs)
}

/// Names of images that can be pushed to.
pub(in crate::cli) fn destinations(given: &[String]) -> Result<Vec<Reference>, Failure> {
    let parse = |text: &String| {
        let reference: Reference =
            text.parse().map_err(|error| Failure::new(format!("--destination={text}: {error}")))?;
        if reference.digest().is_some() {
            return Err(Failure::new(format!(
                "--destination={text}: a digest cannot be pushed to"
            ))
            .hint("give a tag"));
        }
        Ok(reference)
    };
    given.iter().map(parse).collect()
}

/// A file, or an https URL that takes a PUT.
pub(in crate::cli) fn place(
    flag: &str,
    text: &str,
    around: &Surroundings,
) -> Result<Option<Place>, Failure> {
    match text.split_once("://") {
        _ if text.is_empty() => Ok(None),
        Some(("https", _)) => Ok(Some(Place::Url(Secret::new(text)))),
        // The URL itself may be signed, and is not for logs.
        Some((scheme, _)) => Err(Failure::new(format!(
            "{flag}: {scheme}:// is not supported: give a file or https://"
        ))),
        None => Ok(Some(Place::File(around.here.join(text)))),
    }
}

/// `KEY=VALUE`; the last one of a key counts.
fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("{flag}={text}: write KEY=VALUE"))),
    };
    given.iter().map(split).collect()
}

fn flavor(text: &str) -> Result<Option<Flavor>, Failure> {
    match text {
        "" => Ok(None),
        "docker" => Ok(Some(Flavor::Docker)),
        "oci" => Ok(Some(Flavor::Oci)),
        other => Err(Failure::new(format!("--image-format={other}: use docker or oci"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn parsed(line: &str) -> Result<Outputs, String> {
        let around = Surroundings {
            env: BTreeMap::new(),
            here: "/here".into(),
            executable: None,
            now: String::new(),
        };
        let flags =
            Flags::try_parse_from(std::iter::once("executor").chain(line.split_whitespace()))
                .expect(line);
        outputs(&flags, &around).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_refused_and_why() {
        for (line, want) in [
            ("", "must provide --destination"),
            ("--no-push=false", "must provide --destination"),
            ("--no-push", ""),
            ("-d r.example/x", ""),
            (
                "-d r.example/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "a digest cannot be pushed to",
            ),
            ("-d UPPER/x:", "--destination=UPPER/x:"),
            ("--no-push --label=x", "write KEY=VALUE"),
            ("--no-push --annotation==x", "write KEY=VALUE"),
            ("--no-push --image-format=tar", "use docker or oci"),
            ("--no-push --digest-file=http://h/x?sig=canary", "http:// is not supported"),
            ("--no-push --image-name-with-digest-file=f", "there is none"),
            ("--no-push --image-name-tag-with-digest-file=f", "there is none"),
            ("--no-push -d r.example/x --image-name-tag-with-digest-file=f", ""),
        ] {
            let message = parsed(line).err().unwrap_or_default();
            assert_eq!(message.is_empty(), want.is_empty(), "{line}: {message}");
            assert!(message.contains(want) && !message.contains("canary"), "{line}: {message}");
        }
    }

    #[test]
    fn files_urls_and_pairs() {
        let it = parsed(
            "-d r.example/x --digest-file=https://h/p?sig=canary --image-name-with-digest-file=n \
             --label=a=b=c --label=d= --annotation=k=v --image-format=oci",
        )
        .expect("well formed");
        assert!(
            matches!(&it.digest_file, Some(Place::Url(url)) if url.expose().ends_with("canary"))
        );
        assert!(!format!("{it:?}").contains("canary"));
        assert!(matches!(&it.names_file, Some(Place::File(path)) if path.ends_with("here/n")));
        let labels: Vec<_> = it.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(labels, ["a=b=c", "d="]);
        assert_eq!((it.annotations["k"].as_str(), it.flavor), ("v", Some(Flavor::Oci)));
    }
}
