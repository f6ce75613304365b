//! Durations as Go reads and writes them: `1h2m3.5s`.

use std::time::Duration;

const UNITS: &[(&str, i128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds, `None` where the text is no duration or does not fit Go's 64 bits.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0;
    loop {
        let (nanoseconds, after) = term(rest)?;
        total += nanoseconds;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (total <= i128::from(i64::MAX)).then_some(sign * total)
}

/// One number and its unit.
fn term(text: &str) -> Option<(i128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    Some((whole * scale + part(fraction, *scale), rest))
}

/// The digits after the point, of a unit; what is below a nanosecond is cut off.
fn part(digits: &str, scale: i128) -> i128 {
    let digits = digits.get(..digits.len().min(18)).unwrap_or_default();
    let mut divisor = 1;
    let mut number = 0;
    for digit in digits.bytes() {
        number = number * 10 + i128::from(digit - b'0');
        divisor *= 10;
    }
    number * scale / divisor
}

/// As Go prints it: `1h0m0s`, `1.5s`, `250ms`, `0s`.
pub(super) fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    for (unit, scale) in [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)] {
        if nanoseconds < scale * 1_000 {
            return format!("{}{unit}", decimal(nanoseconds, scale));
        }
    }
    let minutes = duration.as_secs() / 60;
    let seconds = decimal(nanoseconds - u128::from(minutes) * 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: u128, scale: u128) -> String {
    let whole = value / scale;
    let digits = scale.ilog10() as usize;
    let fraction = format!("{:0digits$}", value % scale);
    match fraction.trim_end_matches('0') {
        "" => whole.to_string(),
        fraction => format!("{whole}.{fraction}"),
    }
}
