//! Networks: ranges of addresses, as allow lists name them.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A range such as `10.0.0.0/8` or `fd00::/8`; an address alone is a range of one.
///
/// IPv4 that comes by IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first address.
    base: IpAddr,
    prefix: u8,
}

/// Why a range is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("`{text}` is not a range of addresses: expected one such as 10.0.0.0/8 or fd00::/8")]
    Malformed { text: String },
    #[error("`{text}` has bits beyond its prefix: expected {base}/{prefix}")]
    Host { text: String, base: IpAddr, prefix: u8 },
    #[error("`{text}` is IPv4 in the form of IPv6: expected it as IPv4")]
    Mapped { text: String },
}

/// The bits of an address, at the top of 128.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    match prefix {
        0 => 0,
        prefix => u128::MAX << (128 - u32::from(prefix)),
    }
}

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.base.is_ipv4() && bits(address) & mask(self.prefix) == bits(self.base)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let shown = || text.chars().take(100).collect::<String>();
        let malformed = || NetworkError::Malformed { text: shown() };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if address.to_canonical() != address {
            return Err(NetworkError::Mapped { text: shown() });
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) => {
                let is_number = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
                let prefix = digits.parse().ok().filter(|prefix| is_number && *prefix <= most);
                prefix.ok_or_else(malformed)?
            }
        };
        let first = bits(address) & mask(prefix);
        let base = match address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(first >> 96).unwrap_or(u32::MAX).into()),
            IpAddr::V6(_) => IpAddr::V6(first.into()),
        };
        if base != address {
            return Err(NetworkError::Host { text: shown(), base, prefix });
        }
        Ok(Network { base, prefix })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_its_own_addresses_of_either_family() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("::/0", "2001:db8::", "10.0.0.1"),
        ] {
            let contains = |address: &str| network(range).contains(address.parse().unwrap());
            assert!(contains(inside) && !contains(outside), "{range}");
            assert_eq!(network(&network(range).to_string()), network(range));
        }
    }

    #[test]
    fn what_is_no_range_is_named_with_what_is() {
        for text in ["", "10", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/8/8", "x/8", "::/0008"] {
            assert!(matches!(text.parse::<Network>(), Err(NetworkError::Malformed { .. })), "{text}");
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err().to_string();
        assert!(error.ends_with("expected 10.0.0.0/8"), "{error}");
        assert!("fd12::1/8".parse::<Network>().unwrap_err().to_string().ends_with("expected fd00::/8"));
        assert!(matches!("::ffff:10.0.0.0/104".parse::<Network>(), Err(NetworkError::Mapped { .. })));
    }
}
