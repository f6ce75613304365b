//! Which requests go through a proxy, by the variables that every tool reads, as Go's programs read them:
//! this machine is never asked for through one, and an exception may name a port.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::{Proxy, Url};

use super::settings::Proxies;

impl Proxies {
    /// The proxies for a client; the first that takes a request counts.
    ///
    /// # Errors
    /// A text, without the address, which may hold a password.
    pub fn all(&self) -> Result<Vec<Proxy>, String> {
        let exceptions: Arc<[Exception]> = self
            .exceptions
            .iter()
            .flat_map(|text| text.split(','))
            .filter_map(Exception::read)
            .collect();
        [("http", &self.http), ("https", &self.https)]
            .into_iter()
            .filter_map(|(scheme, proxy)| Some((scheme, proxy.as_ref()?)))
            .map(|(scheme, proxy)| {
                let proxy =
                    if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
                let proxy = Url::parse(&proxy).ok().filter(Url::has_host).ok_or_else(|| {
                    format!("the {} proxy is no valid URL", scheme.to_ascii_uppercase())
                })?;
                let exceptions = Arc::clone(&exceptions);
                Ok(Proxy::custom(move |target| {
                    let taken = target.scheme() == scheme && !is_direct(target, &exceptions);
                    taken.then(|| proxy.clone())
                }))
            })
            .collect()
    }
}

/// Whether a URL is asked for without a proxy.
fn is_direct(url: &Url, exceptions: &[Exception]) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    is_here(&host, address)
        || exceptions.iter().any(|it| it.holds(&host, address, url.port_or_known_default()))
}

/// This machine, and servers on its own link that tell it who it is: what they say is nobody else's.
fn is_here(host: &str, address: Option<IpAddr>) -> bool {
    match address {
        Some(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_link_local(),
        Some(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unicast_link_local(),
        None => host == "localhost" || host == "metadata.google.internal",
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// An address, or all whose first so many bits are its own.
    Network(IpAddr, u8),
    /// A name and all below it.
    Domain(String),
}

impl Exception {
    /// [`None`] for an empty entry.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        let (host, port) = with_port(&text);
        let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let network = host.split_once('/').and_then(|(first, bits)| {
            let (first, bits) = (address(first)?, bits.parse().ok()?);
            (bits <= width(first)).then_some(Hosts::Network(first, bits))
        });
        let hosts = match (host, network, address(host)) {
            ("*", ..) => Hosts::All,
            (_, Some(network), _) => network,
            (_, None, Some(one)) => Hosts::Network(one, width(one)),
            (name, None, None) => {
                let name = name.strip_prefix('*').unwrap_or(name).trim_matches('.');
                Hosts::Domain(name.to_owned())
            }
        };
        Some(Self { hosts, port })
    }

    fn holds(&self, host: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        let host = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(first, bits) => address.is_some_and(|it| is_within(it, *first, *bits)),
            Hosts::Domain(name) => {
                let above = host.strip_suffix(name.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        };
        host && (self.port.is_none() || self.port == port)
    }
}

/// `HOST:PORT`, but not the colons of an IPv6 address.
fn with_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(address: IpAddr, first: IpAddr, bits: u8) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let differing = number(address) ^ number(first);
    address.is_ipv4() == first.is_ipv4()
        && differing.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_without_a_proxy() {
        let text = "a.example, .b.example,*.c.example,10.0.0.0/8,192.0.2.7,p.example:5000,192.0.2.8:81,[2001:db8::1]:82,2001:db9::/32,";
        let exceptions: Vec<Exception> = text.split(',').filter_map(Exception::read).collect();
        for (url, want) in [
            ("http://a.example/", true),
            ("https://x.a.example/", true),
            ("http://xa.example/", false),
            ("http://b.example/", true),
            ("http://x.c.example:99/", true),
            ("http://10.200.3.4/", true),
            ("http://11.0.0.1/", false),
            ("http://192.0.2.7:9/", true),
            ("http://192.0.2.8/", false),
            ("http://192.0.2.8:81/", true),
            ("https://p.example:5000/", true),
            ("https://p.example/", false),
            ("http://[2001:db8::1]:82/", true),
            ("http://[2001:db8::1]/", false),
            ("http://[2001:db9::5]/", true),
            ("http://127.0.0.1:5000/", true),
            ("http://localhost:5000/", true),
            ("http://[::1]/", true),
            ("http://169.254.169.254/latest", true),
            ("http://metadata.google.internal/", true),
            ("http://r.example/", false),
        ] {
            assert_eq!(is_direct(&Url::parse(url).unwrap(), &exceptions), want, "{url}");
        }
        assert!(is_direct(
            &Url::parse("http://r.example/").unwrap(),
            &[Exception::read("*").unwrap()]
        ));
    }

    #[test]
    fn a_proxy_that_is_none_is_told_without_its_address() {
        let bad = Proxies { https: Some("http://canary:x@/".to_owned()), ..Proxies::default() };
        assert_eq!(bad.all().unwrap_err(), "the HTTPS proxy is no valid URL");
        let good = Proxies { http: Some("proxy:3128".to_owned()), ..Proxies::default() };
        assert_eq!(good.all().unwrap().len(), 1);
    }
}
