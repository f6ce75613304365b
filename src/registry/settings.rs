//! What a registry client has to be told; `cli` fills it from flags and environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Builtin, Credentials};

/// How to talk to registries. A registry is named by host and port as in an image's name.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Plain HTTP is accepted from every registry that is pushed to (`--insecure`).
    pub insecure: bool,
    /// Plain HTTP is accepted from every registry that is pulled from (`--insecure-pull`).
    pub insecure_pull: bool,
    /// Plain HTTP is accepted from these (`--insecure-registry`).
    pub insecure_registries: Vec<String>,
    /// Certificates are not checked, in pulls neither (`--skip-tls-verify`).
    pub skip_tls_verify: bool,
    /// Certificates are not checked in pulls (`--skip-tls-verify-pull`).
    pub skip_tls_verify_pull: bool,
    /// Certificates of these are not checked (`--skip-tls-verify-registry`).
    pub skip_tls_verify_registries: Vec<String>,
    /// PEM files with the roots of one registry, beside the system's (`--registry-certificate`).
    pub certificates: BTreeMap<String, PathBuf>,
    /// PEM files with certificate and key, by registry (`--registry-client-cert`).
    pub client_certificates: BTreeMap<String, (PathBuf, PathBuf)>,
    /// Other places to pull from, by registry, each `host[:port][/prefix]`, in order (`--registry-map`, `--registry-mirror`).
    pub maps: BTreeMap<String, Vec<String>>,
    /// Whether a mapped registry itself is left out when its maps fail.
    pub skip_default_registry_fallback: bool,
    /// Whether a tag that exists and must not be moved is taken for pushed (`--push-ignore-immutable-tag-errors`).
    pub ignore_immutable_tags: bool,
    /// How often whole operations are begun again.
    pub attempts: Attempts,
    /// Who the user is, by registry.
    pub credentials: Credentials,
    /// Who is asked for a login that no file holds.
    pub builtin: Builtin,
    /// Proxies; nothing is read from the environment here.
    pub proxies: Proxies,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How patient to be.
    pub patience: Patience,
    /// How many blobs are downloaded, and how many uploaded, at a time.
    pub parallel: usize,
}

/// Proxies by the scheme of the request, in the form of the usual environment variables.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`: hosts, domains and networks, separated by commas.
    pub exceptions: Option<String>,
}

/// Limits in time and number. There is no limit on the whole of a transfer: slow but alive succeeds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often a request is sent at most, the first time included; progress starts the count anew.
    pub tries: u32,
    /// The pause before the second try; it doubles from there.
    pub first_pause: Duration,
    /// The longest pause, and the most that `Retry-After` is obeyed.
    pub longest_pause: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long a transfer may stand still.
    pub idle: Duration,
    /// How long a registry may take over what it has got in full: some copy a layer before they answer.
    pub commit: Duration,
}

/// How often an operation of several requests is begun again when it failed, whatever the reason: each
/// of its requests has had its own tries by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The push to one destination (`--push-retry`).
    pub push: u32,
    /// The look-up of an image: manifest and config (`--image-download-retry`).
    pub pull: u32,
    /// The download of a layer (`--image-fs-extract-retry`).
    pub layer: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            commit: Duration::from_secs(900),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure: false,
            insecure_pull: false,
            insecure_registries: Vec::new(),
            skip_tls_verify: false,
            skip_tls_verify_pull: false,
            skip_tls_verify_registries: Vec::new(),
            certificates: BTreeMap::new(),
            client_certificates: BTreeMap::new(),
            maps: BTreeMap::new(),
            skip_default_registry_fallback: false,
            ignore_immutable_tags: false,
            attempts: Attempts::default(),
            credentials: Credentials::anonymous(),
            builtin: Builtin::default(),
            proxies: Proxies::default(),
            user_agent: concat!("kaniko-rs/", env!("CARGO_PKG_VERSION")).to_owned(),
            patience: Patience::default(),
            parallel: 4,
        }
    }
}

/// What a registry is asked for: the flags for pulls and for pushes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Pull,
    Push,
    /// Something else than a registry, as a server of logins: flags of registries do not speak of it.
    Service,
}

impl Settings {
    /// Whether plain HTTP was asked for.
    pub(crate) fn is_insecure(&self, registry: &str, purpose: Purpose) -> bool {
        let all = match purpose {
            Purpose::Pull => self.insecure_pull,
            Purpose::Push => self.insecure,
            Purpose::Service => false,
        };
        all || self.insecure_registries.iter().any(|it| it == registry)
    }

    /// Whether certificates are left unchecked.
    pub(crate) fn skips_verification(&self, registry: &str, purpose: Purpose) -> bool {
        let all = match purpose {
            Purpose::Pull => self.skip_tls_verify || self.skip_tls_verify_pull,
            Purpose::Push => self.skip_tls_verify,
            Purpose::Service => false,
        };
        all || self.skip_tls_verify_registries.iter().any(|it| it == registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_registries_speak_of_registries() {
        let all = Settings {
            skip_tls_verify: true,
            skip_tls_verify_pull: true,
            insecure: true,
            insecure_pull: true,
            ..Settings::default()
        };
        for (purpose, want) in
            [(Purpose::Pull, true), (Purpose::Push, true), (Purpose::Service, false)]
        {
            assert_eq!(all.skips_verification("r.example", purpose), want, "{purpose:?}");
            assert_eq!(all.is_insecure("r.example", purpose), want, "{purpose:?}");
        }
        let pull = Settings { skip_tls_verify_pull: true, ..Settings::default() };
        assert!(!pull.skips_verification("r.example", Purpose::Push));
    }
}
