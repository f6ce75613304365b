//! `EXPOSE`: from words to `port/protocol`.

/// Why a port is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Neither a number from 0 to 65535 nor a range of them.
    #[error("invalid port `{0}`")]
    Number(String),
    /// Not tcp, udp or sctp.
    #[error("invalid protocol `{0}`: it must be tcp, udp or sctp")]
    Protocol(String),
    /// The address before the ports.
    #[error("invalid IP address `{0}`")]
    Address(String),
    /// `1-3:1-2`
    #[error("the ranges of host and container ports differ in length in `{0}`")]
    Ranges(String),
}

/// The ports of expanded words in order, one for each port of a range: `["80", "90-91/udp"]` gives
/// `80/tcp`, `90/udp`, `91/udp`. Addresses and host ports are checked and mean nothing.
///
/// # Errors
/// A word is no port.
pub fn exposed(words: &[String]) -> Result<Vec<String>, PortError> {
    let mut ports = Vec::new();
    for word in words {
        ports.extend(one(word)?);
    }
    Ok(ports)
}

fn one(word: &str) -> Result<Vec<String>, PortError> {
    let (outer, container) = word.rsplit_once(':').map_or((None, word), |(o, c)| (Some(o), c));
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(PortError::Protocol(protocol.to_owned())),
    };
    let (first, last) = bounds(range)?;
    if let Some(outer) = outer {
        check_outer(word, outer, last - first)?;
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn check_outer(word: &str, outer: &str, length: u16) -> Result<(), PortError> {
    let (address, host) = outer.rsplit_once(':').unwrap_or(("", outer));
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if !address.is_empty() && bare.unwrap_or(address).parse::<std::net::IpAddr>().is_err() {
        return Err(PortError::Address(address.to_owned()));
    }
    if host.is_empty() {
        return Ok(());
    }
    let (first, last) = bounds(host)?;
    if last - first != length && length != 0 {
        return Err(PortError::Ranges(word.to_owned()));
    }
    Ok(())
}

fn bounds(range: &str) -> Result<(u16, u16), PortError> {
    let wrong = || PortError::Number(range.to_owned());
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first > last { Err(wrong()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (word, want) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("53/sctp", "53/sctp"),
            ("8000-8002", "8000/tcp 8001/tcp 8002/tcp"),
            ("7-7", "7/tcp"),
            ("8080:80", "80/tcp"),
            ("1-3:80", "80/tcp"),
            ("127.0.0.1::80", "80/tcp"),
            ("[::1]:80:80/udp", "80/udp"),
            ("::1:80:80", "80/tcp"),
        ] {
            assert_eq!(exposed(&[word.to_owned()]).unwrap().join(" "), want, "{word}");
        }
    }

    #[test]
    fn refused() {
        for (word, want) in [
            ("http", "invalid port `http`"),
            ("65536", "invalid port `65536`"),
            ("9-8", "invalid port `9-8`"),
            ("", "invalid port ``"),
            ("80/icmp", "invalid protocol `icmp`: it must be tcp, udp or sctp"),
            ("80/tcp/udp", "invalid protocol `tcp/udp`: it must be tcp, udp or sctp"),
            ("a.b:1:1", "invalid IP address `a.b`"),
            ("1-3:1-2", "the ranges of host and container ports differ in length in `1-3:1-2`"),
        ] {
            assert_eq!(exposed(&[word.to_owned()]).unwrap_err().to_string(), want, "{word}");
        }
    }
}
