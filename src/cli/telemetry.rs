//! Where a build's spans go: a collector of OpenTelemetry's, by OTLP over HTTP in its JSON form.
//!
//! It is asked for by `KANIKO_TELEMETRY_ENDPOINT`. What it says never changes what becomes of a build: it gets
//! a few seconds once the build is over, and a warning is all that a failure leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dockerfile::percent_decoded;
use crate::registry::{Registry, Secret, Settings};
use crate::report::{TraceParent, Traces};

/// Where collectors listen, below their address.
const PATH: &str = "/v1/traces";

/// The field that holds the text of the Dockerfile.
const DOCKERFILE: &str = "kaniko.dockerfile.content";

/// How long the end of a build waits for a collector.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is gathered, and who gets it.
pub(super) struct Telemetry {
    traces: Traces,
    url: String,
    headers: Vec<(String, Secret)>,
    resource: Vec<(String, String)>,
}

impl Telemetry {
    /// [`None`] where nobody asked for it.
    pub(super) fn wanted(env: &BTreeMap<String, String>) -> Option<Self> {
        let given = |name: &str| env.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let endpoint = given("KANIKO_TELEMETRY_ENDPOINT")?;
        if given("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return None;
        }
        let omit = given("KANIKO_TELEMETRY_OMIT_DOCKERFILE")
            .is_some_and(|text| !matches!(text, "0" | "f" | "F" | "false" | "False" | "FALSE"));
        let parent = given("TRACEPARENT").and_then(TraceParent::read);
        let mut resource =
            vec![("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        resource.extend(pairs(given("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()));
        // The variable of its own goes before the attribute, says the specification.
        if let Some(name) = given("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name.to_owned()));
        } else if resource.iter().all(|(key, _)| key != "service.name") {
            resource.push(("service.name".to_owned(), "kaniko".to_owned()));
        }
        let headers =
            given("OTEL_EXPORTER_OTLP_TRACES_HEADERS").or(given("OTEL_EXPORTER_OTLP_HEADERS"));
        let headers = pairs(headers.unwrap_or_default()).into_iter();
        Some(Self {
            traces: Traces::new(parent, if omit { vec![DOCKERFILE] } else { Vec::new() }),
            url: with_path(endpoint),
            headers: headers.map(|(name, value)| (name, Secret::new(value))).collect(),
            resource,
        })
    }

    /// Where spans are gathered.
    pub(super) fn traces(&self) -> Traces {
        self.traces.clone()
    }

    /// Sends what was gathered.
    pub(super) fn send(&self, settings: &Settings) {
        let document = self.traces.document(&self.resource);
        let sent = Registry::new(settings.clone())
            .and_then(|client| client.post_json(&self.url, &self.headers, document, PATIENCE));
        match sent {
            Ok(()) => tracing::debug!("Sent the build's spans as trace {}", self.traces.id()),
            Err(error) => tracing::warn!("Could not send the build's spans: {error}"),
        }
    }
}

/// The endpoint with a path; one that it has is kept.
fn with_path(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("http", endpoint));
    match rest.split_once('/') {
        Some((_, path)) if !path.is_empty() => format!("{scheme}://{rest}"),
        _ => format!("{scheme}://{}{PATH}", rest.trim_end_matches('/')),
    }
}

/// `NAME=VALUE,…` with values in percent-encoding, as W3C's baggage has them.
fn pairs(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| {
            let value = percent_decoded(value.trim().as_bytes());
            (name.trim().to_owned(), String::from_utf8_lossy(&value).into_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> Option<Telemetry> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Telemetry::wanted(&pairs.iter().map(owned).collect())
    }

    #[test]
    fn it_is_asked_for_by_its_endpoint() {
        const ENDPOINT: &str = "KANIKO_TELEMETRY_ENDPOINT";
        assert!(wanted(&[("OTEL_SERVICE_NAME", "x")]).is_none());
        assert!(wanted(&[(ENDPOINT, "")]).is_none());
        assert!(wanted(&[(ENDPOINT, "http://c"), ("OTEL_SDK_DISABLED", "TRUE")]).is_none());
        for (given, url) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/x", "https://c/otlp/x"),
            ("c:4318", "http://c:4318/v1/traces"),
        ] {
            assert_eq!(wanted(&[(ENDPOINT, given)]).unwrap().url, url);
        }
        let it = wanted(&[
            (ENDPOINT, "http://c"),
            ("OTEL_SERVICE_NAME", "builds"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other, team = a%20b"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20canary"),
        ])
        .unwrap();
        let find = |name: &str| {
            let found: Vec<&str> = it
                .resource
                .iter()
                .filter(|(key, _)| key == name)
                .map(|(_, it)| it.as_str())
                .collect();
            found.join(" and ")
        };
        assert_eq!([find("service.name"), find("team")], ["builds", "a b"]);
        assert_eq!(it.headers, [("Authorization".to_owned(), Secret::new("Bearer canary"))]);
    }
}
