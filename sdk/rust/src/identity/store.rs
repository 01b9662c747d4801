//! What an agent keeps on disk, so that a restart needs no proof: its key and certificate, and whom it trusts.
//!
//! ```text
//!   identity.pem   0600   key, then the certificate, leaf first
//!   pending.pem    0600   key of a join whose answer has not come
//!   bundle.pem     0644   roots of the control plane, as it said last, and the digest of what was configured then
//! ```
//! Invariant: each file is replaced whole, so key and certificate always belong together.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::IdentityError;
use super::key::Key;
use crate::tls::read_certificates;

#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

/// Key and certificate of an earlier run.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) key: Key,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Whom to trust, as the control plane said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Digest of what was configured when it said so.
    pub(crate) from: String,
}

/// Begins the first line of `bundle.pem`, which readers of PEM pass over.
const FROM: &str = "# learned from ";

impl Store {
    /// Makes the directory where it is missing.
    pub(crate) fn open(dir: PathBuf) -> Result<Store, IdentityError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| failed("make", &dir, &error))?;
        Ok(Store { dir })
    }

    pub(crate) fn identity(&self) -> Result<Option<Kept>, IdentityError> {
        let path = self.dir.join("identity.pem");
        let Some(pem) = secret(&path)? else { return Ok(None) };
        let key = Key::from_pem(key_of(&pem)).map_err(|error| damaged(&path, &error))?;
        let chain = read_certificates(pem.as_bytes(), "it").map_err(|error| damaged(&path, &error))?;
        Ok(Some(Kept { key, chain }))
    }

    pub(crate) fn pending(&self) -> Result<Option<Key>, IdentityError> {
        let path = self.dir.join("pending.pem");
        let Some(pem) = secret(&path)? else { return Ok(None) };
        Key::from_pem(&pem).map(Some).map_err(|error| damaged(&path, &error))
    }

    pub(crate) fn bundle(&self) -> Result<Option<Learned>, IdentityError> {
        let path = self.dir.join("bundle.pem");
        match fs::read_to_string(&path) {
            Ok(pem) => {
                let roots = read_certificates(pem.as_bytes(), "it").map_err(|error| damaged(&path, &error))?;
                let from = pem.lines().next().and_then(|line| line.strip_prefix(FROM)).unwrap_or_default();
                Ok(Some(Learned { roots, from: from.to_owned() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    pub(crate) fn keep_pending(&self, key: &Key) -> io::Result<()> {
        self.replace("pending.pem", key.to_pem().as_bytes(), 0o600)
    }

    pub(crate) fn keep(&self, key: &Key, chain: &[CertificateDer<'_>]) -> io::Result<()> {
        let text = key.to_pem() + &pem(chain);
        self.replace("identity.pem", text.as_bytes(), 0o600)?;
        match fs::remove_file(self.dir.join("pending.pem")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn keep_bundle(&self, learned: &Learned) -> io::Result<()> {
        let text = format!("{FROM}{}\n{}", learned.from, pem(&learned.roots));
        self.replace("bundle.pem", text.as_bytes(), 0o644)
    }

    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let (path, aside) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        // One left behind by a crash may have other permissions.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(&self.dir)?.sync_all()
    }
}

fn secret(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::metadata(path) {
        Ok(about) if about.mode() & 0o077 != 0 => Err(IdentityError::Kept(format!(
            "`{}` has mode {:o}, so others can read the key: expected 600",
            path.display(),
            about.mode() & 0o777
        ))),
        Ok(_) => fs::read_to_string(path).map(Some).map_err(|error| failed("read", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

/// The first block, which is the key.
fn key_of(pem: &str) -> &str {
    const END: &str = "-----END PRIVATE KEY-----";
    pem.find(END).map_or(pem, |at| &pem[..at + END.len()])
}

fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| crate::event::base64(der)).fold(String::new(), |mut text, encoded| {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
        text
    })
}

fn failed(what: &str, path: &Path, error: &io::Error) -> IdentityError {
    IdentityError::Kept(format!("failed to {what} `{}`: {error}", path.display()))
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Kept(format!("`{}` cannot be used: {error}; remove it to join anew", path.display()))
}
