//! Limits on what peers may take: connections, requests, bytes and failures, by address, principal and tenant.
//!
//! ```yaml
//! limits:
//!   connections_per_address: 8192       # at a time, on all ports together; agents with a certificate are not counted
//!   new_connections_per_second: 500     # of an address; twice as many at once after a pause
//!   handshakes: 64                      # of TLS at a time by one address; its others wait within their time
//!   handshake_timeout: 10s
//!   headers_timeout: 10s                # of a request
//!   idle_timeout: 2m                    # of a connection without a request or stream
//!   body_timeout: 30s                   # of a body or message that was begun
//!   write_timeout: 30s                  # of a peer that takes less than 16 KiB of what waits for it
//!   reading_memory: 256MiB              # messages that are half there, of all connections
//!   streams_per_second: 20000           # begun on a connection
//!   resets_per_second: 100              # of streams of a connection, by either side
//!   penalty: 10s                        # an address that floods is refused for so long
//!   requests_per_second: {address: 20000, principal: 5000}
//!   bytes_per_second: {principal: 128MiB}
//!   failures_per_second: 20             # authentications of an address that fail; further ones are refused without being looked at
//!   agent_messages_per_second: 2000     # of one stream of an agent
//!   agent_bytes_per_second: 64MiB
//! ```
//! Those are the defaults. `requests_per_second` and `bytes_per_second` are not asked of the principal `local`, who is alone.
//!
//! Invariant: what is kept for addresses and principals is bounded; those beyond the bound share one allowance.

mod failures;
mod keyed;
mod layer;
mod rates;
mod refusal;
mod shares;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{bytes, span};

pub use failures::{Failures, Why};
pub use keyed::{AddressKey, Keyed};
pub use layer::{Asker, FindAsker, Outer, OuterLayer, Remembers, Within, WithinLayer};
pub use rates::{Rates, What};
pub use refusal::{Refusal, Subject};
pub use shares::Shares;

/// What the settings say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSetting {
    connections_per_address: Option<u64>,
    new_connections_per_second: Option<u64>,
    handshakes: Option<u64>,
    handshake_timeout: Option<String>,
    headers_timeout: Option<String>,
    idle_timeout: Option<String>,
    body_timeout: Option<String>,
    write_timeout: Option<String>,
    reading_memory: Option<String>,
    streams_per_second: Option<u64>,
    resets_per_second: Option<u64>,
    penalty: Option<String>,
    #[serde(default)]
    requests_per_second: BTreeMap<String, u64>,
    #[serde(default)]
    bytes_per_second: BTreeMap<String, String>,
    failures_per_second: Option<u64>,
    agent_messages_per_second: Option<u64>,
    agent_bytes_per_second: Option<String>,
}

/// The limits in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections_per_address: u32,
    pub new_connections_per_second: u32,
    pub handshakes: u32,
    pub handshake_timeout: Duration,
    pub headers_timeout: Duration,
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub reading_memory: u64,
    pub streams_per_second: u32,
    pub resets_per_second: u32,
    pub penalty: Duration,
    pub requests_per_address: u32,
    pub requests_per_principal: u32,
    pub bytes_per_principal: u32,
    pub failures_per_second: u32,
    pub agent_messages_per_second: u32,
    pub agent_bytes_per_second: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_address: 8192,
            new_connections_per_second: 500,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(10),
            headers_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            reading_memory: 256 << 20,
            streams_per_second: 20_000,
            resets_per_second: 100,
            penalty: Duration::from_secs(10),
            requests_per_address: 20_000,
            requests_per_principal: 5_000,
            bytes_per_principal: 128 << 20,
            failures_per_second: 20,
            agent_messages_per_second: 2_000,
            agent_bytes_per_second: 64 << 20,
        }
    }
}

/// Largest count of anything in a second.
const COUNT_MAX: u64 = 10_000_000;

impl Limits {
    /// Checks what the settings say; what they leave out is as by default.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn new(setting: &LimitsSetting) -> Result<Limits, String> {
        let LimitsSetting {
            connections_per_address,
            new_connections_per_second,
            handshakes,
            handshake_timeout,
            headers_timeout,
            idle_timeout,
            body_timeout,
            write_timeout,
            reading_memory,
            streams_per_second,
            resets_per_second,
            penalty,
            requests_per_second,
            bytes_per_second,
            failures_per_second,
            agent_messages_per_second,
            agent_bytes_per_second,
        } = setting;
        let default = Limits::default();
        let of = |map: &str, name: &str| format!("{map}.{name}");
        if let Some(name) = requests_per_second.keys().find(|name| !["address", "principal"].contains(&name.as_str())) {
            return Err(format!("limits.requests_per_second: `{name}` is not known: expected address, principal"));
        }
        if let Some(name) = bytes_per_second.keys().find(|name| *name != "principal") {
            return Err(format!("limits.bytes_per_second: `{name}` is not known: expected principal"));
        }
        let requests = |name: &str, default| {
            count(&of("requests_per_second", name), requests_per_second.get(name).copied(), 1, default)
        };
        Ok(Limits {
            connections_per_address: count(
                "connections_per_address",
                *connections_per_address,
                1,
                default.connections_per_address,
            )?,
            new_connections_per_second: count(
                "new_connections_per_second",
                *new_connections_per_second,
                1,
                default.new_connections_per_second,
            )?,
            handshakes: count("handshakes", *handshakes, 1, default.handshakes)?,
            handshake_timeout: time("handshake_timeout", handshake_timeout.as_deref(), default.handshake_timeout)?,
            headers_timeout: time("headers_timeout", headers_timeout.as_deref(), default.headers_timeout)?,
            idle_timeout: time("idle_timeout", idle_timeout.as_deref(), default.idle_timeout)?,
            body_timeout: time("body_timeout", body_timeout.as_deref(), default.body_timeout)?,
            write_timeout: time("write_timeout", write_timeout.as_deref(), default.write_timeout)?,
            // Less would refuse a message of the largest size beside a few others.
            reading_memory: size(
                "reading_memory",
                reading_memory.as_deref(),
                32 << 20,
                1 << 40,
                default.reading_memory,
            )?,
            streams_per_second: count("streams_per_second", *streams_per_second, 10, default.streams_per_second)?,
            resets_per_second: count("resets_per_second", *resets_per_second, 1, default.resets_per_second)?,
            penalty: time("penalty", penalty.as_deref(), default.penalty)?,
            requests_per_address: requests("address", default.requests_per_address)?,
            requests_per_principal: requests("principal", default.requests_per_principal)?,
            bytes_per_principal: rate(
                "bytes_per_second.principal",
                bytes_per_second.get("principal").map(String::as_str),
                default.bytes_per_principal,
            )?,
            failures_per_second: count("failures_per_second", *failures_per_second, 1, default.failures_per_second)?,
            agent_messages_per_second: count(
                "agent_messages_per_second",
                *agent_messages_per_second,
                10,
                default.agent_messages_per_second,
            )?,
            agent_bytes_per_second: rate(
                "agent_bytes_per_second",
                agent_bytes_per_second.as_deref(),
                default.agent_bytes_per_second,
            )?,
        })
    }
}

fn count(field: &str, value: Option<u64>, min: u64, default: u32) -> Result<u32, String> {
    match value {
        None => Ok(default),
        Some(value) if (min..=COUNT_MAX).contains(&value) => Ok(u32::try_from(value).unwrap_or(u32::MAX)),
        Some(value) => Err(format!("limits.{field}: is {value}: expected {min} to {COUNT_MAX}")),
    }
}

fn time(field: &str, value: Option<&str>, default: Duration) -> Result<Duration, String> {
    let Some(text) = value else { return Ok(default) };
    let value = span(text).map_err(|error| format!("limits.{field}: {error}"))?;
    if value < Duration::from_millis(100) || value > Duration::from_secs(3600) {
        return Err(format!("limits.{field}: is {text}: expected 100ms to 1h"));
    }
    Ok(value)
}

fn size(field: &str, value: Option<&str>, min: u64, max: u64, default: u64) -> Result<u64, String> {
    let Some(text) = value else { return Ok(default) };
    let value = bytes(text).map_err(|error| format!("limits.{field}: {error}"))?;
    if !(min..=max).contains(&value) {
        return Err(format!("limits.{field}: is {text}: expected {} MiB to {} MiB", min >> 20, max >> 20));
    }
    Ok(value)
}

/// Bytes in a second: at least what one message may have, so that any message can pass.
fn rate(field: &str, value: Option<&str>, default: u32) -> Result<u32, String> {
    size(field, value, 8 << 20, 2 << 30, default.into()).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(yaml: &str) -> Result<Limits, String> {
        let setting: LimitsSetting = serde_norway::from_str(yaml).map_err(|error| error.to_string())?;
        Limits::new(&setting)
    }

    #[test]
    fn what_is_left_out_is_as_by_default_and_the_rest_as_it_is_said() {
        assert_eq!(limits("{}"), Ok(Limits::default()));
        let said = limits(
            "{idle_timeout: 5s, requests_per_second: {principal: 7}, bytes_per_second: {principal: 8MiB}, handshakes: 3}",
        );
        let expected = Limits {
            idle_timeout: Duration::from_secs(5),
            requests_per_principal: 7,
            bytes_per_principal: 8 << 20,
            handshakes: 3,
            ..Limits::default()
        };
        assert_eq!(said, Ok(expected));
    }

    #[test]
    fn the_defaults_that_are_described_are_those_in_force() {
        let text = include_str!("mod.rs");
        let yaml: String = text
            .lines()
            .skip_while(|line| !line.contains("```yaml"))
            .skip(2)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        assert_eq!(limits(&yaml), Ok(Limits::default()));
    }

    #[test]
    fn a_slip_is_named_with_what_is_accepted() {
        for (yaml, named) in [
            ("{idle_timeout: 5}", "limits.idle_timeout: expected a number with"),
            ("{idle_timeout: 2h}", "limits.idle_timeout: is 2h: expected 100ms to 1h"),
            ("{handshakes: 0}", "limits.handshakes: is 0: expected 1 to"),
            ("{requests_per_second: {tenant: 1}}", "`tenant` is not known: expected address, principal"),
            ("{requests_per_second: {address: 0}}", "limits.requests_per_second.address: is 0"),
            ("{bytes_per_second: {principal: 1KiB}}", "expected 8 MiB to"),
            ("{reading_memory: 1MiB}", "expected 32 MiB to"),
            ("{typo: 1}", "typo"),
        ] {
            let error = limits(yaml).unwrap_err();
            assert!(error.contains(named), "{yaml}: {error}");
        }
    }
}
