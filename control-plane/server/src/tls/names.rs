//! What a server's certificate is good for: names and addresses under which clients dial.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls::pki_types::DnsName;

/// Names in one certificate.
pub const NAMES_MAX: usize = 64;

/// A name or address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Dns(String),
    Address(IpAddr),
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let text = text.trim();
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Name::Address(address));
        }
        // One wildcard, in front, stands for a single label.
        let plain = text.strip_prefix("*.").unwrap_or(text);
        match DnsName::try_from(plain) {
            Ok(_) => Ok(Name::Dns(text.to_ascii_lowercase())),
            Err(_) => {
                Err("expected names such as mindos.example.com, *.example.com or 10.0.0.7, with commas".to_owned())
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Dns(name) => f.write_str(name),
            Name::Address(address) => address.fmt(f),
        }
    }
}

/// The names that were asked for; where none were, those under which this machine is most likely dialled.
#[must_use]
pub fn served(asked: &[Name], listening: &[SocketAddr]) -> Vec<Name> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let mut names = vec![
        Name::Dns("localhost".to_owned()),
        Name::Address(Ipv4Addr::LOCALHOST.into()),
        Name::Address(Ipv6Addr::LOCALHOST.into()),
    ];
    let bound = listening.iter().map(|at| at.ip().to_canonical()).filter(|at| !at.is_unspecified()).map(Name::Address);
    names.extend(bound);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend(host.parse::<Name>().ok());
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_and_addresses() {
        let read = |text: &str| text.parse::<Name>();
        assert_eq!(read("Plane.Example.com"), Ok(Name::Dns("plane.example.com".to_owned())));
        assert_eq!(read("*.example.com"), Ok(Name::Dns("*.example.com".to_owned())));
        assert_eq!(read("[::1]"), Ok(Name::Address(Ipv6Addr::LOCALHOST.into())));
        for text in ["", "a b", "*.*.x", "https://x", "x/y", "-", "x:1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn without_names_a_certificate_is_for_this_machine() {
        let names = served(&[], &["10.1.2.3:8090".parse().unwrap(), "0.0.0.0:8091".parse().unwrap()]);
        for wanted in ["localhost", "127.0.0.1", "::1", "10.1.2.3"] {
            assert!(names.iter().any(|name| name.to_string() == wanted), "{wanted} in {names:?}");
        }
        assert!(!names.iter().any(|name| name.to_string() == "0.0.0.0"));
        let asked = ["x.example".parse().unwrap()];
        assert_eq!(served(&asked, &["10.1.2.3:8090".parse().unwrap()]), asked);
    }
}
