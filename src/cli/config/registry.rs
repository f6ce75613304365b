//! How registries are spoken to: flags and variables become [`Settings`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Surroundings;
use super::credentials::{builtin, credentials};
use crate::cli::flags::RegistryFlags;
use crate::registry::{Attempts, Proxies, Settings};
use crate::report::Failure;

/// The settings of the one client that a build has.
///
/// # Errors
/// Flags that cannot be read, and files that are not there.
pub(in crate::cli) fn registry(
    flags: &RegistryFlags,
    around: &Surroundings,
) -> Result<Settings, Failure> {
    Ok(Settings {
        insecure: flags.insecure.0,
        insecure_pull: flags.pulls.insecure_pull.0,
        insecure_registries: flags.pulls.insecure_registry.clone(),
        skip_tls_verify: flags.skip_tls_verify.0,
        skip_tls_verify_pull: flags.pulls.skip_tls_verify_pull.0,
        skip_tls_verify_registries: flags.pulls.skip_tls_verify_registry.clone(),
        certificates: certificates(&flags.pulls.registry_certificate, around)?,
        client_certificates: client_certificates(&flags.pulls.registry_client_cert, around)?,
        maps: maps(flags, around)?,
        skip_default_registry_fallback: flags.pulls.skip_default_registry_fallback.0,
        ignore_immutable_tags: flags.push_ignore_immutable_tag_errors.0,
        attempts: Attempts {
            push: flags.push_retry,
            pull: flags.image_download_retry,
            layer: flags.image_fs_extract_retry,
        },
        credentials: credentials(around)?,
        builtin: builtin(&flags.credential_helpers, around)?,
        proxies: Proxies {
            http: around.either("HTTP_PROXY"),
            https: around.either("HTTPS_PROXY"),
            exceptions: around.either("NO_PROXY"),
        },
        user_agent: user_agent(around),
        ..Settings::default()
    })
}

/// `HOST=FILE`.
fn certificates(
    given: &[String],
    around: &Surroundings,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut certificates = BTreeMap::new();
    for text in given {
        let flag = format!("--registry-certificate={text}");
        let (host, file) =
            text.split_once('=').ok_or_else(|| Failure::new(format!("{flag}: write HOST=FILE")))?;
        certificates.insert(host.to_owned(), existing(&flag, file, around)?);
    }
    Ok(certificates)
}

/// `HOST=CERTIFICATE,KEY`.
fn client_certificates(
    given: &[String],
    around: &Surroundings,
) -> Result<BTreeMap<String, (PathBuf, PathBuf)>, Failure> {
    let mut certificates = BTreeMap::new();
    for text in given {
        let flag = format!("--registry-client-cert={text}");
        let parts = text.split_once('=').and_then(|(host, files)| {
            let (certificate, key) = files.split_once(',')?;
            (!key.contains(',')).then_some((host, certificate, key))
        });
        let (host, certificate, key) = parts
            .ok_or_else(|| Failure::new(format!("{flag}: write HOST=CERTIFICATE-FILE,KEY-FILE")))?;
        let files = (existing(&flag, certificate, around)?, existing(&flag, key, around)?);
        certificates.insert(host.to_owned(), files);
    }
    Ok(certificates)
}

fn existing(flag: &str, file: &str, around: &Surroundings) -> Result<PathBuf, Failure> {
    let file = around.here.join(file);
    std::fs::metadata(&file)
        .map_err(|error| Failure::new(format!("{flag}: {}: {error}", file.display())))?;
    Ok(file)
}

/// What Docker Hub is called by the names of images.
const HUB: &str = "index.docker.io";

/// Other places to pull from, by registry: maps first, mirrors of Docker Hub after them.
fn maps(
    flags: &RegistryFlags,
    around: &Surroundings,
) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut maps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mapped = around.variable("KANIKO_REGISTRY_MAP").map(|text| ("KANIKO_REGISTRY_MAP", text));
    let flagged = flags.pulls.registry_map.iter().map(|text| ("--registry-map", text.as_str()));
    for (source, text) in flagged.chain(mapped) {
        for one in text.split(';').filter(|one| !one.is_empty()) {
            let (from, to) = one.split_once('=').ok_or_else(|| {
                Failure::new(format!("{source}={text}: write REGISTRY=HOST[/PREFIX], joined by ;"))
            })?;
            let from = place(source, from)?;
            maps.entry(from).or_default().push(place(source, to)?);
        }
    }
    let mirror =
        around.variable("KANIKO_REGISTRY_MIRROR").map(|text| ("KANIKO_REGISTRY_MIRROR", text));
    let flagged =
        flags.pulls.registry_mirror.iter().map(|text| ("--registry-mirror", text.as_str()));
    for (source, text) in flagged.chain(mirror).filter(|(_, text)| !text.is_empty()) {
        maps.entry(HUB.to_owned()).or_default().push(place(source, text)?);
    }
    Ok(maps)
}

/// `HOST[:PORT][/PREFIX]`, with Docker Hub under the name that images have it by.
fn place(source: &str, text: &str) -> Result<String, Failure> {
    let text = text.trim_end_matches('/');
    let wrong = |why: &str| {
        Failure::new(format!("{source}: {text:?} {why}")).hint("write HOST[:PORT][/PREFIX]")
    };
    if text.contains("://") {
        return Err(wrong("is a URL: leave the scheme out"));
    }
    let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
    if host.is_empty() || text.contains([' ', ',', '@', '?', '#']) {
        return Err(wrong("is no registry"));
    }
    Ok(match (host, prefix) {
        ("docker.io" | "registry-1.docker.io", "") => HUB.to_owned(),
        ("docker.io" | "registry-1.docker.io", prefix) => format!("{HUB}/{prefix}"),
        _ => text.to_owned(),
    })
}

fn user_agent(around: &Surroundings) -> String {
    let own = concat!("kaniko-rs/", env!("CARGO_PKG_VERSION"));
    match around.variable("UPSTREAM_CLIENT_TYPE") {
        Some(client) => format!("{own},{client}"),
        None => own.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::Flags;
    use clap::Parser as _;

    /// The settings of a line of flags, preceded by variables; or the message of the failure.
    fn settings(line: &str) -> Result<Settings, String> {
        let words = line.split_whitespace();
        let (variables, flags): (Vec<&str>, Vec<&str>) =
            words.partition(|word| word.starts_with("KANIKO_"));
        let around = Surroundings {
            env: variables
                .iter()
                .filter_map(|it| it.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            here: "/".into(),
            executable: None,
            now: String::new(),
        };
        let flags = Flags::try_parse_from(["executor"].into_iter().chain(flags)).expect(line);
        registry(&flags.registry, &around).map_err(|failure| failure.to_string())
    }

    #[test]
    fn where_else_images_are_pulled_from() {
        for (line, want) in [
            ("", ""),
            ("--registry-mirror=m.example", "index.docker.io: m.example"),
            (
                "--registry-mirror=m.example/p/ --registry-mirror n.example:5000 KANIKO_REGISTRY_MIRROR=o",
                "index.docker.io: m.example/p n.example:5000 o",
            ),
            (
                "--registry-mirror=m.example --registry-map=docker.io=a.example;gcr.io=b.example/x;gcr.io=docker.io/y",
                "gcr.io: b.example/x index.docker.io/y, index.docker.io: a.example m.example",
            ),
            (
                "KANIKO_REGISTRY_MAP=gcr.io=second --registry-map=gcr.io=first --registry-map=",
                "gcr.io: first second",
            ),
        ] {
            let maps = settings(line).expect(line).maps;
            let shown = maps.iter().map(|(from, to)| format!("{from}: {}", to.join(" ")));
            assert_eq!(shown.collect::<Vec<_>>().join(", "), want, "{line}");
        }
    }

    #[test]
    fn what_is_no_registry_or_file_is_refused() {
        for (line, want) in [
            ("--registry-mirror=https://m.example", "leave the scheme out"),
            ("--registry-map=gcr.io", "write REGISTRY=HOST"),
            ("--registry-map=gcr.io=", "no registry"),
            ("--registry-map==m.example", "no registry"),
            ("KANIKO_REGISTRY_MIRROR=a,b", "KANIKO_REGISTRY_MIRROR"),
            ("--registry-client-cert=r.example=/etc/hosts", "CERTIFICATE-FILE,KEY-FILE"),
            ("--registry-client-cert=r.example=/etc/hosts,/etc/hosts,/x", "KEY-FILE"),
            ("--registry-client-cert=r.example=/etc/hosts,/does/not/exist", "/does/not/exist"),
            ("--registry-certificate=/etc/hosts", "HOST=FILE"),
            ("--registry-certificate=r.example=/does/not/exist", "/does/not/exist"),
        ] {
            let message = settings(line).expect_err(line);
            assert!(message.contains(want), "{line}: {message}");
        }
    }

    #[test]
    fn what_is_trusted_and_how_often_is_tried() {
        let it = settings(
            "--skip-tls-verify-pull --skip-tls-verify-registry=r.example --push-retry=3 \
             --image-download-retry 2 --image-fs-extract-retry=1 --skip-default-registry-fallback \
             --push-ignore-immutable-tag-errors --registry-client-cert=c.example=/etc/hosts,/etc/passwd",
        )
        .expect("well formed");
        assert!(it.skip_tls_verify_pull && !it.skip_tls_verify && !it.insecure);
        assert!(it.skip_default_registry_fallback && it.ignore_immutable_tags);
        assert_eq!(it.skip_tls_verify_registries, ["r.example"]);
        assert_eq!((it.attempts.push, it.attempts.pull, it.attempts.layer), (3, 2, 1));
        let (certificate, key) = &it.client_certificates["c.example"];
        assert_eq!((certificate.to_str(), key.to_str()), (Some("/etc/hosts"), Some("/etc/passwd")));
    }
}
