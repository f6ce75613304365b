//! When a request is sent again, and after which pause.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::{Patience, RegistryError};

/// The tries that are left for one request.
pub(crate) struct Budget {
    patience: Patience,
    used: u32,
}

impl Budget {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, used: 0 }
    }

    /// The pause before the next try, or `None` if there is none; `asked` is the server's wish.
    pub(crate) fn next_pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.used += 1;
        if self.used >= self.patience.tries {
            return None;
        }
        let doubled = self.patience.first_pause.saturating_mul(1 << (self.used - 1).min(16));
        // Between half and all of it, so that a crowd of builds does not come back at once.
        let jittered = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        Some(asked.unwrap_or(jittered).min(self.patience.longest_pause))
    }

    /// Something was achieved: the count starts anew.
    pub(crate) fn progress(&mut self) {
        self.used = 0;
    }

    /// Pauses and says why, or tells that the budget is spent.
    pub(crate) async fn pause(&mut self, why: &str, asked: Option<Duration>) -> bool {
        let Some(pause) = self.next_pause(asked) else { return false };
        tracing::warn!("{why}; trying again in {:.1} s", pause.as_secs_f64());
        tokio::time::sleep(pause).await;
        true
    }
}

/// Does something until it succeeds, at most `more` times after the first, with pauses that double.
///
/// What no time can mend is not done again: a cancelled operation, or something wrong on this machine.
pub(crate) async fn again<T, F: Future<Output = Result<T, RegistryError>>>(
    more: u32,
    patience: Patience,
    mut attempt: impl FnMut() -> F,
) -> Result<T, RegistryError> {
    let first_pause = patience.first_pause.saturating_mul(2);
    let mut budget =
        Budget::new(Patience { tries: more.saturating_add(1), first_pause, ..patience });
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if error.is_ours() || !budget.pause(&error.to_string(), None).await {
            return Err(error);
        }
    }
}

/// Statuses that say "not now" and not "no".
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The server's wish, in either of the header's two forms (RFC 9110, 10.2.3).
///
/// A date is counted from the server's own `Date`, so that no clock has to agree with another.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wish = text(RETRY_AFTER)?;
    if let Ok(seconds) = wish.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at: SystemTime = httpdate::parse_http_date(wish).ok()?;
    let now = httpdate::parse_http_date(text(DATE)?).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        for (wish, date, want) in [
            ("7", None, Some(7)),
            ("-1", None, None),
            ("soon", None, None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:49:47 GMT"), Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(wish));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            assert_eq!(retry_after(&headers), want.map(Duration::from_secs), "{wish}");
        }
    }

    #[test]
    fn pauses_grow_are_capped_and_end() {
        let patience = Patience {
            tries: 4,
            first_pause: Duration::from_secs(10),
            longest_pause: Duration::from_secs(25),
            ..Patience::default()
        };
        let mut budget = Budget::new(patience);
        for (asked, least, most) in [(None, 5, 10), (Some(99), 25, 25), (None, 20, 25)] {
            let pause = budget.next_pause(asked.map(Duration::from_secs)).unwrap().as_secs();
            assert!((least..=most).contains(&pause), "{pause} is not in {least}..={most}");
        }
        assert_eq!(budget.next_pause(None), None);
        budget.progress();
        assert!(budget.next_pause(None).is_some());
    }
}
