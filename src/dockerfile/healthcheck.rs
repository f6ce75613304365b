//! `HEALTHCHECK` and its options.

use std::time::Duration;

use super::check::{command, words};
use super::duration;
use super::flags::{Flags, Kind};
use super::instruction::{HealthTiming, Healthcheck};
use super::node::Node;
use super::span::Fault;
use super::suggest;
use super::words::Word;

const FLAGS: &[(&str, Kind)] = &[
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

const LEAST: i128 = 1_000_000;

/// Checks a `HEALTHCHECK`. The reference does not look at the flags of `NONE`.
pub(super) fn check(node: &Node) -> Result<Healthcheck, Fault> {
    let (words, json) = words(node);
    let Some((kind, rest)) = words.split_first() else {
        return Err(fault(node, "HEALTHCHECK requires at least one argument"));
    };
    match (kind.text.to_uppercase().as_str(), rest) {
        ("NONE", []) => Ok(Healthcheck::None),
        ("NONE", _) => Err(fault(node, "HEALTHCHECK NONE takes no arguments")),
        ("CMD", []) => Err(fault(node, "missing command after HEALTHCHECK CMD")),
        ("CMD", rest) => {
            let timing = timing(&Flags::check(node, FLAGS)?)?;
            Ok(Healthcheck::Cmd { command: command(rest, json), timing })
        }
        _ => {
            Flags::check(node, FLAGS)?;
            let message = format!("unknown type `{}` in HEALTHCHECK", kind.text);
            let hint = suggest::nearest(&kind.text, &["CMD", "NONE"]);
            let hint = hint.or(Some("try HEALTHCHECK CMD".to_owned()));
            Err(Fault::new(kind.span, message).with_hint(hint))
        }
    }
}

fn fault(node: &Node, message: &str) -> Fault {
    Fault::new(node.span, message.to_owned())
}

fn timing(flags: &Flags) -> Result<HealthTiming, Fault> {
    Ok(HealthTiming {
        interval: interval(flags, "interval")?,
        timeout: interval(flags, "timeout")?,
        start_period: interval(flags, "start-period")?,
        start_interval: interval(flags, "start-interval")?,
        retries: retries(flags)?,
    })
}

fn interval(flags: &Flags, name: &str) -> Result<Duration, Fault> {
    let Some(word) = flags.text(name) else {
        return Ok(Duration::ZERO);
    };
    let wrong = |what: &str| Fault::new(word.span, format!("--{name} {what}: `{}`", word.text));
    let nanoseconds =
        duration::parse(&word.text).ok_or_else(|| wrong("is no duration such as 1m30s"))?;
    if nanoseconds != 0 && nanoseconds < LEAST {
        return Err(wrong("cannot be less than 1ms"));
    }
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| wrong("is too long"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn retries(flags: &Flags) -> Result<u32, Fault> {
    let Some(word) = flags.text("retries") else {
        return Ok(0);
    };
    let number = word.text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| not_a_count(&word))
}

fn not_a_count(word: &Word) -> Fault {
    Fault::new(word.span, format!("--retries must be a number from 0 on, not `{}`", word.text))
}
