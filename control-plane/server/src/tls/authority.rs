//! The built-in authority: a root of its own, which makes the certificates of agents and, unless there are files, of the server.
//!
//! ```text
//!             rotate                            retire
//!   { root } --------> { root, cross, former } --------> { root }
//! ```
//! `root` has the key in use. `cross` is the same name and key signed by the former root, so that whoever trusts only that one
//! still finds a path; `former` is trusted until it is retired, and its key is gone as soon as it has signed `cross`. All of it
//! is one file, `authority.pem`, so that a crash leaves the old state or the new one.
//! Invariant: no certificate for others lives longer than [`AGENT_LIFE_MAX`], and none of them may sign.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mindos_model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tracing::error;

use super::files::{self, FileError};
use super::key::PublicKey;
use super::names::Name;
use crate::logging::Chain;

/// Longest life of an agent's certificate.
pub const AGENT_LIFE_MAX: Duration = Duration::from_secs(3600);
/// How far an agent's certificate reaches back, for clocks that are behind.
pub const AGENT_BACKDATED: Duration = Duration::from_secs(5 * 60);
/// How long a certificate of the server lives. It is replaced at a third, so that a client whose clock is an hour ahead never sees an
/// expired one.
pub const SERVER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How far a certificate of the server reaches back, for clocks that are behind.
pub const SERVER_BACKDATED: Duration = Duration::from_secs(2 * 3600);
/// How long a root lives. Ten years: it is replaced by rotation and not by time.
const ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
pub const ROOT_BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Why the authority does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("no random bytes are to be had")]
    Random(#[from] getrandom::Error),
    #[error("the former root is not retired yet: retire it before the next rotation")]
    NotRetired,
    #[error("there is no former root to retire")]
    NothingToRetire,
}

/// Names a root: the first 8 bytes of the SHA-256 of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootId(pub [u8; 8]);

impl std::fmt::Display for RootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The key in use with what goes along. Never printed.
struct Keys {
    id: RootId,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// The root under the former one, and that one.
    former: Option<(CertificateDer<'static>, CertificateDer<'static>)>,
}

/// Makes certificates.
pub struct Authority {
    path: PathBuf,
    keys: ArcSwap<Keys>,
    changing: Mutex<()>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("path", &self.path).field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A certificate for somebody, with what goes along.
#[derive(Debug)]
pub struct Made {
    /// Leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Authority {
    /// Opens the authority in a folder, or makes one there.
    ///
    /// # Errors
    /// When the folder or file may be read by others, is damaged, or cannot be written.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Authority, AuthorityError> {
        files::private_dir(dir)?;
        let path = dir.join("authority.pem");
        let keys = if path.try_exists().map_err(|source| FileError::Read { path: path.clone(), source })? {
            Keys::read(&path)?
        } else {
            let keys = Keys::fresh(now)?;
            keys.write(&path)?;
            keys
        };
        let authority = Authority { path, keys: ArcSwap::from_pointee(keys), changing: Mutex::default() };
        authority.publish()?;
        Ok(authority)
    }

    /// The root in use.
    #[must_use]
    pub fn id(&self) -> RootId {
        self.keys.load().id
    }

    /// The root that is still trusted and no more used.
    #[must_use]
    pub fn former(&self) -> Option<RootId> {
        self.keys.load().former.as_ref().and_then(|(_, root)| root_id(root))
    }

    /// Roots to trust, the one in use first.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let keys = self.keys.load();
        let former = keys.former.iter().map(|(_, root)| root.clone());
        std::iter::once(keys.root.clone()).chain(former).collect()
    }

    /// Common names of the roots, as they stand in the certificates that they signed.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        [Some(self.id()), self.former()].into_iter().flatten().map(|id| Arc::from(common_name(id))).collect()
    }

    /// Where the roots stand for others to read.
    #[must_use]
    pub fn roots_path(&self) -> PathBuf {
        self.path.with_file_name("roots.pem")
    }

    /// A certificate for an agent: `uri` is its SPIFFE id.
    ///
    /// # Errors
    /// When the id is no URI, or there is no chance to be had.
    pub fn for_agent(
        &self,
        uri: &str,
        key: &PublicKey,
        now: Timestamp,
        life: Duration,
    ) -> Result<Made, AuthorityError> {
        let names = vec![SanType::URI(uri.try_into()?)];
        let life = life.min(AGENT_LIFE_MAX);
        let (from, until) = (now.0.saturating_sub(millis(AGENT_BACKDATED)), now + life);
        self.leaf(names, ExtendedKeyUsagePurpose::ClientAuth, key, Timestamp(from), until)
    }

    /// A certificate for the server, with a key of its own.
    ///
    /// # Errors
    /// When a name is not one that a certificate can hold, or there is no chance to be had.
    pub fn for_server(&self, names: &[Name], now: Timestamp) -> Result<(Made, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate()?;
        let san = |name: &Name| match name {
            Name::Dns(name) => Ok(SanType::DnsName(name.as_str().try_into()?)),
            Name::Address(address) => Ok(SanType::IpAddress(*address)),
        };
        let names = names.iter().map(san).collect::<Result<Vec<_>, rcgen::Error>>()?;
        let (from, until) = (now.0.saturating_sub(millis(SERVER_BACKDATED)), now + SERVER_LIFE);
        let made = self.leaf(names, ExtendedKeyUsagePurpose::ServerAuth, &key, Timestamp(from), until)?;
        Ok((made, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        key: &impl PublicKeyData,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Made, AuthorityError> {
        let keys = self.keys.load();
        let mut params = params(from, until)?;
        params.distinguished_name.push(DnType::OrganizationName, "Mind OS");
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &keys.issuer)?;
        let cross = keys.former.iter().map(|(cross, _)| cross.clone());
        let chain = std::iter::once(leaf.der().clone()).chain(cross).collect();
        // As the certificate has them, which counts in seconds.
        let seconds = |at: Timestamp| Timestamp(at.0 / 1000 * 1000);
        Ok(Made { chain, not_before: seconds(from), not_after: seconds(until) })
    }

    /// Takes a new key into use at once and signs it with the one before, whose root stays trusted.
    ///
    /// # Errors
    /// When the root before last is not retired, or the file cannot be written; nothing has changed then.
    pub fn rotate(&self, now: Timestamp) -> Result<RootId, AuthorityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.keys.load_full();
        if old.former.is_some() {
            return Err(AuthorityError::NotRetired);
        }
        let mut keys = Keys::fresh(now)?;
        let cross = ca(now, keys.id, 0)?.signed_by(keys.issuer.key(), &old.issuer)?;
        keys.former = Some((cross.der().clone(), old.root.clone()));
        self.replace(keys)
    }

    /// Trusts the former root no more.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written; nothing has changed then.
    pub fn retire(&self) -> Result<RootId, AuthorityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.keys.load_full();
        let former = old.former.as_ref().and_then(|(_, root)| root_id(root));
        let former = former.ok_or(AuthorityError::NothingToRetire)?;
        let pair = KeyPair::try_from(old.issuer.key().serialized_der())?;
        self.replace(Keys::new(pair, old.root.clone(), None)?)?;
        Ok(former)
    }

    fn replace(&self, keys: Keys) -> Result<RootId, AuthorityError> {
        let id = keys.id;
        keys.write(&self.path)?;
        self.keys.store(Arc::new(keys));
        // The change is made; the copy of the roots is written again at the next start.
        if let Err(failed) = self.publish() {
            error!(error = %Chain(&failed), path = %self.roots_path().display(), "roots were not published");
        }
        Ok(id)
    }

    /// Writes the roots beside the keys, for `--ca` of clients.
    fn publish(&self) -> Result<(), AuthorityError> {
        let text: String = self.roots().iter().map(|root| files::pem("CERTIFICATE", root)).collect();
        Ok(files::write_private(&self.roots_path(), text.as_bytes())?)
    }
}

impl Keys {
    fn new(
        key: KeyPair,
        root: CertificateDer<'static>,
        former: Option<(CertificateDer<'static>, CertificateDer<'static>)>,
    ) -> Result<Keys, AuthorityError> {
        let id = id_of(&key.subject_public_key_info());
        // Only name and key of the issuer go into what it signs.
        let issuer = Issuer::new(ca(Timestamp(0), id, 1)?, key);
        Ok(Keys { id, issuer, root, former })
    }

    fn fresh(now: Timestamp) -> Result<Keys, AuthorityError> {
        let key = KeyPair::generate()?;
        let id = id_of(&key.subject_public_key_info());
        let root = ca(now, id, 1)?.self_signed(&key)?.der().clone();
        Keys::new(key, root, None)
    }

    fn read(path: &Path) -> Result<Keys, AuthorityError> {
        files::for_owner_only(path, 0o600)?;
        let bytes = files::read(path)?;
        let key = files::private_key(path, &bytes)?;
        let key = KeyPair::try_from(&key).map_err(|_| FileError::content(path, "holds a key of another kind"))?;
        let mut found = files::certificates(path, &bytes)?.into_iter();
        let expected = "expected a root, or a root, the same signed by the former, and the former";
        let (root, former) = match (found.next(), found.next(), found.next(), found.next()) {
            (Some(root), None, None, None) => (root, None),
            (Some(root), Some(cross), Some(former), None) => (root, Some((cross, former))),
            _ => return Err(FileError::content(path, expected).into()),
        };
        let id = id_of(&key.subject_public_key_info());
        let same = |certificate| root_id(certificate) == Some(id);
        if !same(&root) || former.as_ref().is_some_and(|(cross, former)| !same(cross) || root_id(former).is_none()) {
            return Err(FileError::content(path, "holds a key and certificates that do not belong together").into());
        }
        Keys::new(key, root, former)
    }

    fn write(&self, path: &Path) -> Result<(), AuthorityError> {
        let mut text = self.issuer.key().serialize_pem();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let former = self.former.iter().flat_map(|(cross, former)| [cross, former]);
        for certificate in std::iter::once(&self.root).chain(former) {
            text.push_str(&files::pem("CERTIFICATE", certificate));
        }
        Ok(files::write_private(path, text.as_bytes())?)
    }
}

fn common_name(id: RootId) -> String {
    format!("authority {id}")
}

fn id_of(spki: &[u8]) -> RootId {
    let digest: [u8; 32] = Sha256::digest(spki).into();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    RootId(id)
}

/// The id of a root; `None` when it is no certificate.
#[must_use]
pub fn root_id(certificate: &CertificateDer<'_>) -> Option<RootId> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(id_of(read.tbs_certificate.subject_pki.raw))
}

fn params(from: Timestamp, until: Timestamp) -> Result<CertificateParams, AuthorityError> {
    let date = |at: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at.0 / 1000);
    let mut serial = [0; 16];
    getrandom::fill(&mut serial)?;
    // Positive, and of full length.
    serial[0] = serial[0] & 0x3f | 0x40;
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date(from), date(until));
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// What a certificate that may sign others says; `below` is how many such may stand between it and a leaf.
fn ca(now: Timestamp, id: RootId, below: u8) -> Result<CertificateParams, AuthorityError> {
    let from = Timestamp(now.0.saturating_sub(millis(ROOT_BACKDATED)));
    let mut params = params(from, now + ROOT_LIFE)?;
    params.distinguished_name.push(DnType::OrganizationName, "Mind OS");
    params.distinguished_name.push(DnType::CommonName, common_name(id));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
