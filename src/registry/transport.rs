//! HTTP clients, one for each set of certificates, and the choice between HTTPS and HTTP.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Identity, Url, redirect};
use tokio::sync::OnceCell;

use super::answer::causes;
use super::exchange::is_absent;
use super::retry::Budget;
use super::settings::{Patience, Purpose};
use super::{RegistryError, Settings};

/// What each registry was found to speak; asked once.
type Schemes = HashMap<(String, Purpose), Arc<OnceCell<Scheme>>>;

/// The HTTP clients in use, and which scheme each registry speaks.
pub(crate) struct Transport {
    settings: Arc<Settings>,
    roots: Vec<Certificate>,
    clients: Mutex<HashMap<(String, Purpose), reqwest::Client>>,
    schemes: Mutex<Schemes>,
    metadata: OnceLock<Result<reqwest::Client, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

impl Transport {
    /// Reads the system's roots and every certificate of the settings, so that a wrong path is told at once.
    pub(crate) fn new(settings: Arc<Settings>) -> Result<Self, RegistryError> {
        let found = rustls_native_certs::load_native_certs();
        // A container without roots is fine as long as only plain HTTP is spoken.
        let roots = found.certs.iter().filter_map(|it| Certificate::from_der(it).ok()).collect();
        let (clients, schemes, metadata) = (Mutex::default(), Mutex::default(), OnceLock::new());
        let this = Self { settings, roots, clients, schemes, metadata };
        let settings = Arc::clone(&this.settings);
        for registry in settings.certificates.keys().chain(settings.client_certificates.keys()) {
            for purpose in [Purpose::Pull, Purpose::Push] {
                this.client(registry, purpose)?;
            }
        }
        this.client("", Purpose::Pull).map(|_| this)
    }

    /// The client for one host, which is named as in a reference.
    pub(crate) fn client(
        &self,
        registry: &str,
        purpose: Purpose,
    ) -> Result<reqwest::Client, RegistryError> {
        let key = (self.class(registry), purpose);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(registry, purpose)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// The client for services of this machine and its link: they answer at once or are not there.
    pub(crate) fn metadata(&self) -> Result<reqwest::Client, RegistryError> {
        const HERE: Duration = Duration::from_secs(1);
        const ANSWER: Duration = Duration::from_secs(10);
        let client = self.metadata.get_or_init(|| {
            reqwest::Client::builder()
                .user_agent(&self.settings.user_agent)
                .redirect(redirect::Policy::none())
                .connect_timeout(HERE)
                .timeout(ANSWER)
                .tls_certs_only(self.roots.clone())
                .no_proxy()
                .build()
                .map_err(|error| causes(&error))
        });
        client.clone().map_err(RegistryError::Settings)
    }

    /// Registries without a setting of their own share one client and its connections.
    fn class(&self, registry: &str) -> String {
        let s = &self.settings;
        let own = s.certificates.contains_key(registry)
            || s.client_certificates.contains_key(registry)
            || s.skip_tls_verify_registries.iter().any(|it| it == registry);
        if own { registry.to_owned() } else { String::new() }
    }

    fn build(&self, registry: &str, purpose: Purpose) -> Result<reqwest::Client, RegistryError> {
        let settings = &self.settings;
        let mut roots = self.roots.clone();
        if let Some(path) = settings.certificates.get(registry) {
            let pem = Certificate::from_pem_bundle(&read(path)?);
            roots.extend(pem.map_err(|error| invalid(path, &error))?);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.patience.connect)
            .tls_certs_only(roots)
            .tls_danger_accept_invalid_certs(settings.skips_verification(registry, purpose))
            .no_proxy();
        if let Some((certificate, key)) = settings.client_certificates.get(registry) {
            let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
            let identity = Identity::from_pem(&pem).map_err(|e| invalid(certificate, &e))?;
            builder = builder.identity(identity);
        }
        for proxy in settings.proxies.all().map_err(RegistryError::Settings)? {
            builder = builder.proxy(proxy);
        }
        builder.build().map_err(|error| RegistryError::Settings(causes(&error)))
    }

    /// Where requests to a registry go: scheme and host.
    ///
    /// A registry that may speak plain HTTP is asked once; HTTPS is preferred where it answers.
    pub(crate) async fn origin(
        &self,
        registry: &str,
        purpose: Purpose,
    ) -> Result<Url, RegistryError> {
        let scheme = self.scheme(registry, purpose).await?;
        base(scheme, registry)
    }

    async fn scheme(&self, registry: &str, purpose: Purpose) -> Result<Scheme, RegistryError> {
        if !self.settings.is_insecure(registry, purpose) && !is_local(registry) {
            return Ok(Scheme::Https);
        }
        let cell = {
            let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(schemes.entry((registry.to_owned(), purpose)).or_default())
        };
        cell.get_or_try_init(|| self.probe(registry, purpose)).await.copied()
    }

    /// Plain HTTP is taken only where nothing there speaks TLS: a bad certificate stays an error.
    async fn probe(&self, registry: &str, purpose: Purpose) -> Result<Scheme, RegistryError> {
        const PROBES: u32 = 3;
        let (url, client) = (base(Scheme::Https, registry)?, self.client(registry, purpose)?);
        let patience = self.settings.patience;
        let mut budget = Budget::new(Patience { tries: PROBES, ..patience });
        let scheme = loop {
            let answer = tokio::time::timeout(patience.idle, client.get(url.clone()).send()).await;
            let (why, silent) = match answer {
                Ok(Ok(_)) => break Scheme::Https,
                Ok(Err(error)) => match spoken(&error) {
                    Some(scheme) => break scheme,
                    None => (causes(&error), error.is_timeout()),
                },
                Err(_) => (format!("nothing moved for {} s", patience.idle.as_secs_f32()), true),
            };
            let what = format!("reach {registry}");
            if budget.pause(&format!("{what}: {why}"), None).await {
                continue;
            }
            if silent {
                return Err(RegistryError::Network { what, why, hint: None });
            }
            // Who hangs up at each handshake does not speak TLS.
            break Scheme::Http;
        };
        tracing::debug!(registry, scheme = scheme.text(), "chose a scheme");
        Ok(scheme)
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a server speaks that answered a handshake so; nothing where it may have been a hiccup.
fn spoken(error: &reqwest::Error) -> Option<Scheme> {
    let why = causes(error);
    // What fails later than the handshake, or by an alert, does speak TLS.
    if (!error.is_connect() && !error.is_timeout()) || is_certificate(&why) {
        return Some(Scheme::Https);
    }
    // Bytes that are no TLS, and nobody at the port, which may be another one for plain HTTP.
    let other = why.contains("InvalidContentType") || is_absent(&why);
    other.then_some(Scheme::Http)
}

/// Whether an error's text is about a certificate rather than about TLS as such.
pub(crate) fn is_certificate(text: &str) -> bool {
    text.to_lowercase().contains("certificate") || text.contains("fatal alert")
}

fn base(scheme: Scheme, registry: &str) -> Result<Url, RegistryError> {
    let text = format!("{}://{registry}/v2/", scheme.text());
    Url::parse(&text).map_err(|error| RegistryError::Settings(format!("{registry}: {error}")))
}

/// Hosts from which plain HTTP is taken without a flag: this machine and private networks.
pub(crate) fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private(),
        Ok(std::net::IpAddr::V6(v6)) => v6.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost") || host.ends_with(".local"),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(RegistryError::io(path))
}

fn invalid(path: &Path, error: &reqwest::Error) -> RegistryError {
    RegistryError::Settings(format!("{}: {}", path.display(), causes(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_plain_http_needs_no_flag() {
        for (registry, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.1.2.3", true),
            ("192.168.0.1:80", true),
            ("172.16.0.1", true),
            ("172.32.0.1", false),
            ("registry.local:5000", true),
            ("a.localhost", true),
            ("local.example", false),
            ("localhost.example", false),
            ("8.8.8.8", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(is_local(registry), want, "{registry}");
        }
    }
}
