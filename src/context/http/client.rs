//! The HTTP client of contexts and of ADD: proxies, certificates, redirects, and what may be told.

use std::fmt;
use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Url, redirect};

use super::FetchSettings;
use crate::registry::causes;

/// How many redirects are followed.
const MOST_REDIRECTS: usize = 10;

/// The roots of trust, taken once: a base image that is unpacked over those of the system in place
/// does not decide whom the executor believes.
#[derive(Clone, Default)]
pub struct Roots(Arc<[Certificate]>);

impl Roots {
    /// Those of the system.
    #[must_use]
    pub fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        Self(found.certs.iter().filter_map(|it| Certificate::from_der(it).ok()).collect())
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

/// What a client does with redirects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::context) enum Redirects {
    /// Up to ten; credentials stay with their host.
    Followed,
    /// Nothing: they are an answer like any other.
    Refused,
}

/// A client by these settings; redirects are followed.
pub(in crate::context) fn client(settings: &FetchSettings) -> Result<Client, String> {
    client_with(settings, Redirects::Followed, false)
}

/// A client by these settings; an insecure one believes any certificate.
pub(in crate::context) fn client_with(
    settings: &FetchSettings,
    redirects: Redirects,
    insecure: bool,
) -> Result<Client, String> {
    let policy = match redirects {
        Redirects::Followed => redirect::Policy::custom(follow),
        Redirects::Refused => redirect::Policy::none(),
    };
    let mut headers = HeaderMap::new();
    if let Some(authorization) = &settings.authorization {
        let value = HeaderValue::from_str(authorization.expose());
        let mut value =
            value.map_err(|_| "the secret is no header: it has a line end".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let mut builder = Client::builder()
        .user_agent(&settings.user_agent)
        .default_headers(headers)
        .redirect(policy)
        .connect_timeout(settings.connect)
        .read_timeout(settings.idle)
        .tls_certs_only(settings.roots.0.iter().cloned())
        .tls_danger_accept_invalid_certs(insecure)
        .no_proxy();
    for proxy in settings.proxies.all()? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| causes(&error))
}

/// Up to ten redirects, and never from https to http.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error(format!("more than {MOST_REDIRECTS} redirects"));
    }
    if attempt.previous().last().is_some_and(|from| is_downgrade(from, attempt.url())) {
        return attempt.error("redirected from https to http");
    }
    attempt.follow()
}

fn is_downgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "https" && to.scheme() != "https"
}

/// The host of a URL, without its port.
pub fn host(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// A URL as it may be shown: without user, password and query.
pub fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "the URL".to_owned() };
    // These fail for URLs that cannot have credentials.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_never_leads_to_http() {
        for (from, to, want) in [
            ("https://a/", "http://a/", true),
            ("https://a/", "https://b/", false),
            ("http://a/", "http://b/", false),
            ("http://a/", "https://a/", false),
        ] {
            let url = |text| Url::parse(text).expect(text);
            assert_eq!(is_downgrade(&url(from), &url(to)), want, "{from} {to}");
        }
    }
}
