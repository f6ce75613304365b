//! What a collector of OpenTelemetry's is told of a build.

use serde_json::Value;

use crate::base;
use crate::executor::{Build, PLACES};
use crate::web::{Answer, Web};

/// The spans of the only request that a collector got.
fn spans(collector: &Web) -> Vec<Value> {
    let seen = collector.seen();
    let [request] = &seen[..] else { panic!("{} requests", seen.len()) };
    assert_eq!(request.headers["content-type"], "application/json");
    let document: Value = serde_json::from_slice(&request.body).unwrap();
    document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

fn attribute(span: &Value, name: &str) -> Option<String> {
    let all = span["attributes"].as_array().unwrap();
    let value = &all.iter().find(|it| it["key"] == name)?["value"];
    Some(value.as_object().unwrap().values().next().unwrap().to_string().replace('"', ""))
}

fn build(collector: &Web, dockerfile: &str) -> Build {
    Build::of(dockerfile)
        .base("busybox", base::busybox())
        .variable("KANIKO_TELEMETRY_ENDPOINT", collector.url(""))
        .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-token=canary-41c0")
        .canary("canary-41c0")
}

#[test]
fn a_collector_is_told_what_was_done_and_when() {
    for place in PLACES {
        let collector = Web::start(|_| Answer::of(200, "{}"));
        build(&collector, "FROM busybox AS first\nRUN echo 1 > /a\nLABEL x=y\n")
            .variable("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .place(place)
            .run()
            .succeeded();
        assert_eq!(collector.seen()[0].path, "/v1/traces");
        assert_eq!(collector.seen()[0].headers["x-token"], "canary-41c0");
        let spans = spans(&collector);
        let named = |name: &str| -> Vec<&Value> {
            spans.iter().filter(|span| span["name"] == name).collect()
        };
        let [root] = named("build")[..] else { panic!("{spans:?}") };
        assert_eq!(root["parentSpanId"], "b7ad6b7169203331");
        assert!(attribute(root, "kaniko.dockerfile.content").unwrap().contains("LABEL x=y"));
        let [stage] = named("stage")[..] else { panic!("{spans:?}") };
        assert_eq!(attribute(stage, "kaniko.stage").as_deref(), Some("first"));
        let commands: Vec<_> =
            named("Command").iter().map(|it| attribute(it, "kaniko.command").unwrap()).collect();
        assert_eq!(commands, ["RUN echo 1 > /a", "LABEL x=y"]);
        for span in named("Command") {
            assert_eq!(span["parentSpanId"], stage["spanId"]);
            assert_eq!(span["status"]["code"], 0, "{span}");
        }
        for name in ["context", "plan", "unpack", "push"] {
            assert_eq!(named(name).len(), 1, "{name}: {spans:?}");
        }
    }
}

#[test]
fn a_failed_step_is_told_and_a_text_that_is_not_to_be_told_is_not() {
    let collector = Web::start(|_| Answer::of(200, "{}"));
    build(&collector, "FROM busybox\nRUN exit 7\n")
        .variable("KANIKO_TELEMETRY_OMIT_DOCKERFILE", "1")
        .run()
        .refused(7, &["RUN exit 7"]);
    let spans = spans(&collector);
    for name in ["Command", "stage", "build"] {
        let span = spans.iter().find(|span| span["name"] == name).unwrap();
        assert_eq!(span["status"]["code"], 2, "{span}");
    }
    assert!(spans.iter().all(|span| attribute(span, "kaniko.dockerfile.content").is_none()));
}

/// Neither a collector that refuses, nor one that is not there, nor nonsense ends a build.
#[test]
fn a_build_does_not_depend_on_its_collector() {
    let refusing = Web::start(|_| Answer::of(403, "no"));
    let ended = build(&refusing, "FROM busybox\nRUN true\n").run().succeeded();
    assert!(ended.log.contains("Could not send the build's spans"), "{}", ended.log);
    let ended = build(&refusing, "FROM busybox\nRUN true\n")
        .variable("KANIKO_TELEMETRY_ENDPOINT", "ftp://canary-41c0@x")
        .run()
        .succeeded();
    assert!(ended.log.contains("a URL to send JSON to is none"), "{}", ended.log);
}
