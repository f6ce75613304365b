//! A build's spans as OpenTelemetry has them: what was done, when it began and ended, and what became of it.
//!
//! They are gathered from `tracing` and given as one document of OTLP's JSON form (protobuf's JSON mapping, with
//! identifiers in hex) once the build is over. Nothing is sent from here.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// The longest text of an attribute, in bytes.
const LONGEST: usize = 64 << 10;

/// Spans beyond this many are counted and left out, so that memory is bounded.
const MOST: usize = 10_000;

/// The field whose value says that the span failed, and why.
const ERROR: &str = "error";

/// The span of another program that a build is a part of: `traceparent` of W3C's Trace Context, version 00.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    trace: String,
    span: String,
}

impl TraceParent {
    /// Reads `00-TRACE-SPAN-FLAGS`. [`None`] is what the specification asks for where it is anything else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return None };
        let is_id = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                && text.bytes().any(|byte| byte != b'0')
        };
        let valid = version == "00" && is_id(trace, 32) && is_id(span, 16) && flags.len() == 2;
        valid.then(|| Self { trace: trace.to_owned(), span: span.to_owned() })
    }
}

/// The spans of this process. A clone is another handle of the same.
#[derive(Clone)]
pub struct Traces(Arc<Shared>);

struct Shared {
    trace: String,
    parent: String,
    /// Fields that are not kept.
    without: Vec<&'static str>,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    spans: Vec<Value>,
    left_out: usize,
}

impl Traces {
    /// An empty trace, below another program's span if there is one; fields of these names are not kept.
    #[must_use]
    pub fn new(parent: Option<TraceParent>, without: Vec<&'static str>) -> Self {
        let trace = || format!("{:032x}", fastrand::u128(1..));
        let (trace, parent) = match parent {
            Some(TraceParent { trace, span }) => (trace, span),
            None => (trace(), String::new()),
        };
        Self(Arc::new(Shared { trace, parent, without, ended: Mutex::default() }))
    }

    /// The trace's identifier in hex, by which a collector finds it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.trace
    }

    /// The spans that have ended, as the body of an export request; `resource` describes this process.
    #[must_use]
    pub fn document(&self, resource: &[(String, String)]) -> String {
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let resource: Vec<Value> = resource
            .iter()
            .map(|(name, value)| attribute(name, &json!({"stringValue": value})))
            .collect();
        json!({"resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{
                "scope": {"name": "kaniko-rs", "version": env!("CARGO_PKG_VERSION"),
                    "droppedAttributesCount": ended.left_out},
                "spans": ended.spans,
            }],
        }]})
        .to_string()
    }
}

fn attribute(name: &str, value: &Value) -> Value {
    json!({"key": name, "value": value})
}

/// Does something within a span whose field `error` tells why it failed, if it did.
///
/// # Errors
/// Those of what is done.
pub fn in_span<T, E: fmt::Display>(
    span: tracing::Span,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let done = span.in_scope(work);
    if let Err(error) = &done {
        span.record(ERROR, tracing::field::display(error));
    }
    drop(span);
    done
}

/// A span that has not ended.
struct Open {
    id: String,
    began: SystemTime,
    fields: Fields,
}

#[derive(Default)]
struct Fields {
    attributes: Vec<Value>,
    error: Option<String>,
}

impl Fields {
    fn keep(&mut self, field: &Field, value: &Value) {
        self.attributes.retain(|it| it["key"] != field.name());
        self.attributes.push(attribute(field.name(), value));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, text: &str) {
        let text = &text[..text.floor_char_boundary(LONGEST)];
        if field.name() == ERROR {
            self.error = Some(text.to_owned());
        } else {
            self.keep(field, &json!({"stringValue": text}));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, &json!({"boolValue": value}));
    }

    // JSON's numbers are too short for these, so the mapping has them as text.
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, &json!({"intValue": value.to_string()}));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, &json!({"intValue": value.to_string()}));
    }
}

impl<S> Layer<S> for Traces
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let id = format!("{:016x}", fastrand::u64(1..));
        span.extensions_mut().insert(Open { id, began: SystemTime::now(), fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let above = span.parent().and_then(|it| Some(it.extensions().get::<Open>()?.id.clone()));
        let above = above.unwrap_or_else(|| self.0.parent.clone());
        let Some(Open { id, began, mut fields }) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        fields.attributes.retain(|it| self.0.without.iter().all(|name| it["key"] != *name));
        let status = match fields.error {
            // STATUS_CODE_ERROR and STATUS_CODE_UNSET of the protocol.
            Some(message) => json!({"code": 2, "message": message}),
            None => json!({"code": 0}),
        };
        let mut ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.spans.len() >= MOST {
            ended.left_out += 1;
            return;
        }
        ended.spans.push(json!({
            "traceId": self.0.trace,
            "spanId": id,
            "parentSpanId": above,
            "name": span.name(),
            // SPAN_KIND_INTERNAL
            "kind": 1,
            "startTimeUnixNano": nanoseconds(began),
            "endTimeUnixNano": nanoseconds(SystemTime::now()),
            "attributes": fields.attributes,
            "status": status,
        }));
    }
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Spans of this program and of nothing that it is made of.
pub(super) struct OwnSpans;

impl<S> Filter<S> for OwnSpans {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.is_span() && metadata.target().starts_with("kaniko")
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn spans_become_a_document() {
        let parent = TraceParent::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let traces = Traces::new(parent, vec!["text"]);
        let subscriber = tracing_subscriber::registry().with(traces.clone());
        tracing::subscriber::with_default(subscriber, || {
            let build = tracing::info_span!(
                "build",
                text = "secret",
                "a.number" = 7_u64,
                error = tracing::field::Empty
            );
            let _in = build.enter();
            let step =
                tracing::info_span!("Command", "cache.hit" = true, long = "é".repeat(40_000));
            drop(step);
            build.record("error", "no space");
            build.record("a.number", 8_u64);
        });
        let document: Value =
            serde_json::from_str(&traces.document(&[("service.name".into(), "x".into())])).unwrap();
        let resource = &document["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"],
            json!([{"key": "service.name", "value": {"stringValue": "x"}}])
        );
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        let [step, build] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(step["parentSpanId"], build["spanId"]);
        assert_eq!(build["parentSpanId"], "b7ad6b7169203331");
        for span in spans {
            assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
            let time = |name: &str| span[name].as_str().unwrap().parse::<u128>().unwrap();
            assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
        }
        assert_eq!(build["status"], json!({"code": 2, "message": "no space"}));
        assert_eq!(build["attributes"], json!([{"key": "a.number", "value": {"intValue": "8"}}]));
        assert_eq!(step["attributes"][0]["value"], json!({"boolValue": true}));
        let long = step["attributes"][1]["value"]["stringValue"].as_str().unwrap();
        assert_eq!(long.len(), LONGEST);
    }

    #[test]
    fn parents_that_are_none() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
        ] {
            assert_eq!(TraceParent::read(text), None, "{text:?}");
        }
    }
}
