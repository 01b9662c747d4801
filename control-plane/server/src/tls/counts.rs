//! How handshakes ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{CertificateError, Error};

use crate::metrics::{Exposition, Kind};

/// A port, as metrics and logs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortName {
    Api,
    Agents,
    Aggregator,
    Keda,
    Platform,
}

impl PortName {
    const ALL: [PortName; 5] =
        [PortName::Api, PortName::Agents, PortName::Aggregator, PortName::Keda, PortName::Platform];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PortName::Api => "api",
            PortName::Agents => "agents",
            PortName::Aggregator => "aggregator",
            PortName::Keda => "keda",
            PortName::Platform => "platform",
        }
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Not within its time.
    Late,
    /// Something else than TLS was sent.
    Plain,
    NoCertificate,
    Expired,
    NotYetValid,
    /// The agent or its key is kept out.
    Denied,
    UnknownIssuer,
    /// Names no agent of this trust domain.
    NoAgent,
    BadCertificate,
    /// Versions, suites or protocols have nothing in common, such as with TLS 1.2.
    Incompatible,
    /// The client refused, mostly the server's certificate.
    ByClient,
    Malformed,
    /// The connection ended.
    Broken,
}

impl Outcome {
    const ALL: [Outcome; 14] = [
        Outcome::Done,
        Outcome::Late,
        Outcome::Plain,
        Outcome::NoCertificate,
        Outcome::Expired,
        Outcome::NotYetValid,
        Outcome::Denied,
        Outcome::UnknownIssuer,
        Outcome::NoAgent,
        Outcome::BadCertificate,
        Outcome::Incompatible,
        Outcome::ByClient,
        Outcome::Malformed,
        Outcome::Broken,
    ];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "ok",
            Outcome::Late => "timeout",
            Outcome::Plain => "plaintext",
            Outcome::NoCertificate => "no_certificate",
            Outcome::Expired => "expired",
            Outcome::NotYetValid => "not_yet_valid",
            Outcome::Denied => "denied",
            Outcome::UnknownIssuer => "unknown_issuer",
            Outcome::NoAgent => "no_agent",
            Outcome::BadCertificate => "bad_certificate",
            Outcome::Incompatible => "incompatible",
            Outcome::ByClient => "refused_by_client",
            Outcome::Malformed => "malformed",
            Outcome::Broken => "broken",
        }
    }

    /// Whether somebody should look: a certificate was turned down, or ours was.
    #[must_use]
    pub fn is_telling(self) -> bool {
        !matches!(self, Outcome::Done | Outcome::Late | Outcome::Malformed | Outcome::Broken)
    }

    /// What an error of the handshake stands for.
    #[must_use]
    pub fn of(error: &io::Error) -> Outcome {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Outcome::Broken;
        };
        match error {
            Error::NoCertificatesPresented => Outcome::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Outcome::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Outcome::NotYetValid,
                CertificateError::Revoked => Outcome::Denied,
                CertificateError::UnknownIssuer => Outcome::UnknownIssuer,
                CertificateError::ApplicationVerificationFailure => Outcome::NoAgent,
                _ => Outcome::BadCertificate,
            },
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Outcome::Incompatible,
            Error::AlertReceived(_) => Outcome::ByClient,
            _ => Outcome::Malformed,
        }
    }
}

/// Counters of handshakes by port and outcome.
#[derive(Debug, Default)]
pub struct Handshakes([[AtomicU64; Outcome::ALL.len()]; PortName::ALL.len()]);

impl Handshakes {
    /// Counts one; how many there were of its kind before.
    pub fn count(&self, port: PortName, outcome: Outcome) -> u64 {
        self.0[port as usize][outcome as usize].fetch_add(1, Ordering::Relaxed)
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, port: PortName, outcome: Outcome) -> u64 {
        self.0[port as usize][outcome as usize].load(Ordering::Relaxed)
    }

    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "TLS handshakes, by port and by how they ended.";
        let mut family = into.family("mindos_tls_handshakes_total", Kind::Counter, help);
        for port in PortName::ALL {
            for outcome in Outcome::ALL {
                let labels = [("port", port.as_str()), ("result", outcome.as_str())];
                family.series(&labels, self.of(port, outcome));
            }
        }
    }
}
