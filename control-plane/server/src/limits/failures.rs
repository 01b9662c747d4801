//! Authentications that fail: counted by reason, paced by address, and said in the log now and then.
//!
//! An address whose failures go on beyond its pace is refused for a moment, what costs time to check before it is looked at. Invariant:
//! nothing of a credential is kept or logged.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::keyed::{AddressKey, Keyed};
use crate::metrics::{Exposition, Kind};

/// Addresses that are being refused.
const PACED_MAX: usize = 10_000;
/// Between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        /// Why an authentication failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Why { $($(#[$doc])* $variant),+ }

        impl Why {
            const ALL: &'static [(Why, &'static str)] = &[$((Why::$variant, $word)),+];

            /// As a label.
            #[must_use]
            pub fn word(self) -> &'static str {
                Why::ALL[self as usize].1
            }
        }
    };
}

reasons! {
    /// There was none, and one is needed.
    Missing = "missing",
    /// It is not of a form that is known.
    Malformed = "malformed",
    /// Nobody gave it out.
    Unknown = "unknown",
    /// Its time is over.
    Expired = "expired",
    /// It was taken back, or who has it is denied.
    Revoked = "revoked",
    /// It is not for this server.
    Audience = "audience",
    /// Its signature does not check out.
    Signature = "signature",
    /// Its keys cannot be had at the moment.
    Unreachable = "unreachable",
    /// Somebody was refused before the credential was looked at.
    Paced = "paced",
    /// An agent may not join, or renew its certificate.
    Agent = "agent",
    /// Anything else.
    Other = "other",
}

impl Why {
    /// From the reason of an `ErrorInfo`, such as `UNAUTHENTICATED_TOKEN_EXPIRED`.
    #[must_use]
    pub fn from_reason(reason: &str) -> Why {
        match reason.strip_prefix("UNAUTHENTICATED_").unwrap_or(reason) {
            "NO_CREDENTIAL" => Why::Missing,
            "SCHEME" | "MALFORMED" | "JOIN_TOKEN" | "TOKEN_MALFORMED" => Why::Malformed,
            "TOKEN_UNKNOWN" | "TOKEN_UNKNOWN_ISSUER" | "TOKEN_UNKNOWN_KEY" => Why::Unknown,
            "TOKEN_EXPIRED" | "TOKEN_NOT_YET_VALID" => Why::Expired,
            "AGENT_DENIED" => Why::Revoked,
            "TOKEN_OTHER_AUDIENCE" => Why::Audience,
            "TOKEN_BAD_SIGNATURE" | "SIGNATURE_INVALID" => Why::Signature,
            "TOKEN_KEYS_UNAVAILABLE" => Why::Unreachable,
            _ => Why::Other,
        }
    }
}

/// Failures of all addresses.
#[derive(Debug)]
pub struct Failures {
    counts: [AtomicU64; Why::ALL.len()],
    paced: Mutex<HashMap<AddressKey, Instant>>,
    said: Mutex<Said>,
}

#[derive(Debug)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            paced: Mutex::default(),
            said: Mutex::new(Said { at: None, unsaid: 0 }),
        }
    }
}

impl Failures {
    /// An authentication failed. Says for how long the address is to be refused where it goes beyond its pace.
    ///
    /// # Errors
    /// Beyond its pace.
    pub fn note(&self, pace: &Keyed<AddressKey>, from: IpAddr, why: Why) -> Result<(), Duration> {
        self.counts[why as usize].fetch_add(1, Ordering::Relaxed);
        self.say(from, why);
        let key = AddressKey::from(from);
        pace.take(&key, 1).inspect_err(|wait| {
            let now = Instant::now();
            let mut paced = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
            if paced.len() >= PACED_MAX {
                paced.retain(|_, until| *until > now);
            }
            if paced.len() < PACED_MAX || paced.contains_key(&key) {
                paced.insert(key, now + *wait);
            }
        })
    }

    /// For how long an address is refused still, if it is.
    #[must_use]
    pub fn paced(&self, from: IpAddr) -> Option<Duration> {
        let paced = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
        let until = paced.get(&AddressKey::from(from))?;
        until.checked_duration_since(Instant::now())
    }

    fn say(&self, from: IpAddr, why: Why) {
        let Ok(mut said) = self.said.try_lock() else { return };
        said.unsaid += 1;
        if said.at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            let failures = std::mem::take(&mut said.unsaid);
            said.at = Some(Instant::now());
            warn!(%from, reason = why.word(), failures, "authentication failed");
        }
    }

    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Authentications that failed, by reason.";
        let mut family = into.family("mindos_authentication_failures_total", Kind::Counter, help);
        for (why, word) in Why::ALL {
            family.series(&[("reason", word)], self.counts[*why as usize].load(Ordering::Relaxed));
        }
        let paced = self.paced.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Addresses whose failures went beyond their pace.";
        into.single("mindos_authentication_paced_addresses", Kind::Gauge, help, paced.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_beyond_its_pace_is_refused_and_others_are_not() {
        let (failures, pace) = (Failures::default(), Keyed::new(1, 3));
        let (loud, quiet): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let noted = (0..5).map(|_| failures.note(&pace, loud, Why::Unknown).is_ok());
        assert_eq!(noted.collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(failures.paced(loud).is_some() && failures.paced(quiet).is_none());
        assert!(failures.note(&pace, quiet, Why::Expired).is_ok());

        let mut metrics = Exposition::default();
        failures.expose(&mut metrics);
        let text = metrics.into_text();
        assert!(text.contains("mindos_authentication_failures_total{reason=\"unknown\"} 5\n"), "{text}");
        assert!(text.contains("mindos_authentication_failures_total{reason=\"expired\"} 1\n"), "{text}");
    }

    #[test]
    fn addresses_without_number_take_a_bounded_place() {
        let (failures, pace) = (Failures::default(), Keyed::new(1, 1));
        for number in 0..2 * PACED_MAX as u32 {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            let _ = failures.note(&pace, from, Why::Unknown);
            let _ = failures.note(&pace, from, Why::Unknown);
        }
        assert!(failures.paced.lock().unwrap().len() <= PACED_MAX);
    }

    #[test]
    fn reasons_are_read_from_the_words_of_statuses() {
        assert_eq!(Why::from_reason("UNAUTHENTICATED_TOKEN_EXPIRED"), Why::Expired);
        for refused in crate::access::refusal::Refused::ALL {
            let known = Why::from_reason(refused.reason());
            let is_any = matches!(refused, crate::access::refusal::Refused::Jwt);
            assert_eq!(known == Why::Other, is_any, "{refused:?}");
        }
        assert_eq!(Why::from_reason("SOMETHING"), Why::Other);
        assert!(Why::ALL.iter().enumerate().all(|(place, (why, _))| place == *why as usize));
    }
}
