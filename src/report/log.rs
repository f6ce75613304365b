//! Log lines in kaniko's three formats, on standard error.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::str::FromStr;
use std::time::Instant;

use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::label::label;
use super::traces::{OwnSpans, Traces};

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `time="…" level=info msg="…"`, for machines that read key-value lines.
    Text,
    /// `INFO[0003] …`; the level is coloured.
    Color,
    /// One JSON object a line.
    Json,
}

/// A value of `--log-format` that does not exist.
#[derive(Debug, Error)]
#[error("{0:?} is not a log format: use text, color or json")]
pub struct UnknownLogFormat(String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "color" => Ok(Self::Color),
            "json" => Ok(Self::Json),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

/// `--verbosity`, with the level names of kaniko.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(LevelFilter);

/// A value of `--verbosity` that does not exist.
#[derive(Debug, Error)]
#[error("{0:?} is not a verbosity: use panic, fatal, error, warn, info, debug or trace")]
pub struct UnknownVerbosity(String);

impl FromStr for Verbosity {
    type Err = UnknownVerbosity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            // A panic or fatal failure is told by the last message, not by a log line.
            "panic" | "fatal" => Ok(Self(LevelFilter::OFF)),
            "error" => Ok(Self(LevelFilter::ERROR)),
            "warn" | "warning" => Ok(Self(LevelFilter::WARN)),
            "info" => Ok(Self(LevelFilter::INFO)),
            "debug" => Ok(Self(LevelFilter::DEBUG)),
            "trace" => Ok(Self(LevelFilter::TRACE)),
            _ => Err(UnknownVerbosity(text.to_owned())),
        }
    }
}

/// How log lines look and which are shown.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// The least severe level that is shown.
    pub verbosity: Verbosity,
    /// The shape of a line.
    pub format: LogFormat,
    /// Full times instead of seconds since the start.
    pub timestamps: bool,
}

/// Installs the log for the rest of the process, and what gathers spans, if something does. A second call has no
/// effect.
pub fn install(settings: LogSettings, traces: Option<Traces>) {
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    let lines = Lines {
        format: settings.format,
        timestamps: settings.timestamps,
        colored: settings.format == LogFormat::Color && std::io::stderr().is_terminal(),
        started: Instant::now(),
    };
    let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(std::io::stderr);
    let own = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN.min(settings.verbosity.0))
        .with_targets(["kaniko", "tracer", "snapshot"].map(|name| (name, settings.verbosity.0)));
    let traces = traces.map(|traces| traces.with_filter(OwnSpans));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(own)).with(traces);
    // Fails only when a subscriber is there already, as in tests.
    drop(tracing::subscriber::set_global_default(subscriber));
}

struct Lines {
    format: LogFormat,
    timestamps: bool,
    colored: bool,
    started: Instant,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        let message = match label() {
            Some(label) => format!("[{label}] {}", text.0),
            None => text.0,
        };
        writer.write_str(&self.line(*event.metadata().level(), &message))
    }
}

impl Lines {
    fn line(&self, level: Level, message: &str) -> String {
        match self.format {
            LogFormat::Json => format!(
                "{}\n",
                serde_json::json!({"level": name(level), "msg": message, "time": now()})
            ),
            LogFormat::Text if self.timestamps => {
                format!("time={:?} level={} msg={message:?}\n", now(), name(level))
            }
            LogFormat::Text => format!("level={} msg={message:?}\n", name(level)),
            LogFormat::Color => {
                let when = if self.timestamps {
                    now()
                } else {
                    format!("{:04}", self.started.elapsed().as_secs())
                };
                let label = self.paint(level, &name(level).to_ascii_uppercase());
                format!("{label}[{when}] {message}\n")
            }
        }
    }

    fn paint(&self, level: Level, label: &str) -> String {
        let short: String = label.chars().take(4).collect();
        if !self.colored {
            return short;
        }
        let code = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 36,
            Level::DEBUG | Level::TRACE => 37,
        };
        format!("\u{1b}[{code}m{short}\u{1b}[0m")
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The time of the line, RFC 3339 in UTC with whole seconds.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The message of an event, followed by its fields as `key=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            let fields = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{fields}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_kanikos() {
        let lines =
            |format| Lines { format, timestamps: false, colored: false, started: Instant::now() };
        assert_eq!(lines(LogFormat::Color).line(Level::INFO, "hi"), "INFO[0000] hi\n");
        assert_eq!(
            lines(LogFormat::Text).line(Level::WARN, "a \"b\""),
            "level=warning msg=\"a \\\"b\\\"\"\n"
        );
        let json = lines(LogFormat::Json).line(Level::ERROR, "x");
        let value: serde_json::Value = serde_json::from_str(&json).expect("a JSON object");
        assert_eq!((&value["level"], &value["msg"]), (&"error".into(), &"x".into()));
    }
}
