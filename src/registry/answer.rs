//! What a registry says when it says no.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::RegistryError;

/// The most that is read of an error's body, in bytes.
const LIMIT: usize = 64 << 10;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words, on one line; empty if there are none fit for a person.
pub(crate) async fn message(response: Response, idle: Duration) -> String {
    match read_limited(response, LIMIT, idle).await {
        Ok(body) => words(&body),
        Err(_) => String::new(), // the status has been told already
    }
}

/// Why a small body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
    #[error("{0}")]
    Broken(String),
}

/// Reads a small body; more than `limit` bytes are an error.
pub(crate) async fn read_limited(
    mut response: Response,
    limit: usize,
    idle: Duration,
) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    loop {
        let piece = tokio::time::timeout(idle, response.chunk())
            .await
            .map_err(|_| Unread::Broken(format!("no byte came for {} s", idle.as_secs_f32())))?;
        match piece.map_err(|error| Unread::Broken(causes(&error.without_url())))? {
            Some(piece) if body.len() + piece.len() > limit => {
                return Err(Unread::TooLong(limit));
            }
            Some(piece) => body.extend_from_slice(&piece),
            None => return Ok(body),
        }
    }
}

/// Distribution-spec's `{"errors": [...]}`, or else a short text.
fn words(body: &[u8]) -> String {
    if let Ok(Errors { errors }) = serde_json::from_slice(body) {
        let one = |error: &OneError| match (error.code.as_str(), error.message.as_str()) {
            ("", message) => message.to_owned(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        return clean(&errors.iter().map(one).collect::<Vec<_>>().join("; "));
    }
    match std::str::from_utf8(body) {
        Ok(text) if !text.trim_start().starts_with('<') => {
            clean(text.lines().next().unwrap_or_default())
        }
        _ => String::new(),
    }
}

/// A stranger's text goes to the terminal without control characters and in moderation.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect::<String>().trim().to_owned()
}

/// An error for a status that is no success; `hint` is for those that say "not you".
pub(crate) fn refusal(
    what: &str,
    status: StatusCode,
    message: String,
    hint: impl FnOnce() -> String,
) -> RegistryError {
    let what = what.to_owned();
    let status = status.as_u16();
    match status {
        401 | 403 => RegistryError::Denied { what, status, message, hint: hint() },
        404 => RegistryError::NotFound { what, message },
        _ => RegistryError::Status { what, status, message },
    }
}

/// An error with its causes, outermost first.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut all = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !all.iter().any(|said| said.contains(&text)) {
            all.push(text);
        }
        next = cause.source();
    }
    all.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_fit_for_a_person() {
        for (body, want) in [
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "DENIED: no"),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "A; b"),
            (
                r#"{"errors":[{"code":"A","message":"\u001b[31mred","detail":{"x":1}}]}"#,
                "A: [31mred",
            ),
            ("<html>", ""),
            ("plain\nsecond", "plain"),
            ("", ""),
        ] {
            assert_eq!(words(body.as_bytes()), want, "{body}");
        }
        assert_eq!(words(&[0xff]), "");
        assert_eq!(words("x".repeat(9999).as_bytes()).len(), 500);
    }
}
