//! A serving certificate of its own making: a root that signs this one certificate and whose key is gone then.
//!
//! Invariant: a [`Pair`] is whole: its key is that of its certificate, which its root has signed.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How far certificates reach back, for API servers whose clocks are behind.
const BACKDATED: u64 = 3600;

/// A root with the certificate that it signed, all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) root: String,
    pub(super) chain: String,
    /// Never printed.
    pub(super) key: String,
    /// Seconds since the epoch.
    pub(super) not_after: u64,
    /// Names and addresses, in order.
    pub(super) names: Vec<String>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("not_after", &self.not_after).field("names", &self.names).finish_non_exhaustive()
    }
}

/// Why a certificate is not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("{0}")]
    Read(String),
}

impl Pair {
    /// Makes one. `now` in seconds since the epoch.
    pub(super) fn make(names: &[String], now: u64, life: u64) -> Result<Pair, CertificateError> {
        let (from, until) = (now.saturating_sub(BACKDATED), now.saturating_add(life));
        let date = |at: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at);
        let dated = |params: &mut CertificateParams, name: &str| {
            (params.not_before, params.not_after) = (date(from), date(until));
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "Mind OS");
            params.distinguished_name.push(DnType::CommonName, name);
        };
        let mut ca = CertificateParams::default();
        dated(&mut ca, "injector authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate()?;
        let root = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let mut leaf = CertificateParams::new(names)?;
        dated(&mut leaf, "injector");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let leaf = leaf.signed_by(&key, &issuer)?;
        Pair::read(root.pem(), leaf.pem(), key.serialize_pem())
    }

    /// Checks one that was kept.
    pub(super) fn read(root: String, chain: String, key: String) -> Result<Pair, CertificateError> {
        let broken = |what: &str| CertificateError::Read(what.to_owned());
        certified(chain.as_bytes(), key.as_bytes())?;
        let root_der = CertificateDer::from_pem_slice(root.as_bytes()).map_err(|_| broken("root is not PEM"))?;
        let leaf_der =
            CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_| broken("certificate is not PEM"))?;
        let (_, root_read) = X509Certificate::from_der(&root_der).map_err(|_| broken("root is no certificate"))?;
        let (_, leaf) = X509Certificate::from_der(&leaf_der).map_err(|_| broken("certificate cannot be read"))?;
        if leaf.issuer() != root_read.subject() || leaf.verify_signature(Some(root_read.public_key())).is_err() {
            return Err(broken("certificate is not signed by its root"));
        }
        let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        let mut names: Vec<String> = match leaf.subject_alternative_name() {
            Ok(Some(san)) => san.value.general_names.iter().filter_map(name).collect(),
            _ => Vec::new(),
        };
        names.sort();
        Ok(Pair { root, chain, key, not_after, names })
    }

    /// As TLS uses it.
    pub(super) fn certified(&self) -> Result<CertifiedKey, CertificateError> {
        certified(self.chain.as_bytes(), self.key.as_bytes())
    }
}

fn name(of: &GeneralName<'_>) -> Option<String> {
    match of {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// A chain and its key, in PEM; what does not belong together is refused.
pub(super) fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let broken = |what: String| CertificateError::Read(what);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| broken(format!("certificate is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(broken("there is no certificate: expected PEM with `BEGIN CERTIFICATE`".to_owned()));
    }
    // The error of a key says nothing of what is in it.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| broken("there is no private key: expected PEM with `BEGIN PRIVATE KEY`".to_owned()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| broken(format!("certificate and key do not fit: {error}")))
}

/// When a chain in PEM ends, in seconds since the epoch.
pub(super) fn not_after(chain: &[u8]) -> Option<u64> {
    let der = CertificateDer::from_pem_slice(chain).ok()?;
    let (_, leaf) = X509Certificate::from_der(&der).ok()?;
    u64::try_from(leaf.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_176_000;

    #[test]
    fn a_pair_reads_back_whole_and_nothing_else_does() {
        let names = ["127.0.0.1", "::1", "mindos-injector.mindos.svc"].map(str::to_owned);
        let pair = Pair::make(&names, NOW, 86_400).unwrap();
        assert_eq!((pair.not_after, &pair.names[..]), (NOW + 86_400, &names[..]));
        let Pair { root, chain, key, .. } = pair.clone();
        assert_eq!(Pair::read(root.clone(), chain.clone(), key.clone()).unwrap(), pair);
        assert_eq!(not_after(chain.as_bytes()), Some(NOW + 86_400));
        assert!(!format!("{pair:?}").contains("BEGIN"));

        let other = Pair::make(&names, NOW, 60).unwrap();
        for (root, chain, key) in [
            (other.root.clone(), chain.clone(), key.clone()),
            (root.clone(), other.chain.clone(), key.clone()),
            (root.clone(), chain.clone(), other.key.clone()),
            (root.clone(), String::new(), key.clone()),
            (root.clone(), chain.clone(), "no key".to_owned()),
            (String::new(), chain.clone(), key.clone()),
        ] {
            assert!(Pair::read(root, chain, key).is_err());
        }
    }
}
