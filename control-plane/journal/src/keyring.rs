//! The keys that sign checkpoints, in a folder of their own.
//!
//! ```text
//! ledger-<key id>.key    private half, PKCS#8, mode 0600; there is one
//! ledger-keys            a line for each key there ever was, oldest first: public key, first record, key before it, its signature
//! ```
//! A key comes into use with its line. Invariant: the last line's private half is on the disk before the line is, and no other one
//! is needed once the line is recorded.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mindos_model::Seq;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::chain::Link;
use crate::signing::{
    Checkpoint, KeyId, KnownKey, PublicKey, Signature, checkpoint_message, hex, new_key_message, unhex,
};

const KEYS: &str = "ledger-keys";
/// A key is about a hundred bytes, the list of keys a line each.
const KEY_BYTES_MAX: u64 = 4096;
const LIST_BYTES_MAX: u64 = 1 << 20;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The system refused.
    #[error("failed to {action} `{path}`")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Others could read it.
    #[error("`{path}` has mode {mode:03o}: expected {expected:03o}, nothing for others")]
    Open { path: PathBuf, mode: u32, expected: u32 },
    /// The bytes are no key.
    #[error("`{path}` is no Ed25519 key in PKCS#8")]
    NoKey { path: PathBuf },
    /// A line of the list of keys cannot be read.
    #[error("line {line} of `{path}` is no key of the ledger")]
    BadLine { path: PathBuf, line: usize },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// A private key. It is never shown.
struct Private(Ed25519KeyPair);

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Private")
    }
}

impl Private {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// The keys of one ledger; the newest one signs.
#[derive(Debug)]
pub struct Keyring {
    folder: PathBuf,
    log_id: [u8; 16],
    known: Vec<KnownKey>,
    private: Private,
}

impl Keyring {
    /// Opens the keys in `folder`, and makes the first one where there is none.
    ///
    /// # Errors
    /// When a key cannot be read or written, or others may read it.
    pub fn open(folder: &Path, log_id: [u8; 16]) -> Result<Keyring, KeyringError> {
        if !folder.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make", folder))?;
        }
        check_mode(folder, 0o700)?;
        match Keyring::existing(folder, log_id)? {
            Some(keyring) => Ok(keyring),
            None => {
                let private = generate(folder)?;
                let known = vec![KnownKey { public: private.public(), since: Seq(0), by_old: None }];
                write_list(folder, &known)?;
                Ok(Keyring { folder: folder.to_owned(), log_id, known, private })
            }
        }
    }

    /// Opens the keys in `folder`; `None` where there are none.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub fn existing(folder: &Path, log_id: [u8; 16]) -> Result<Option<Keyring>, KeyringError> {
        let known = read_list(folder)?;
        let Some(last) = known.last() else { return Ok(None) };
        let private = read_private(&key_path(folder, &last.public.id()))?;
        Ok(Some(Keyring { folder: folder.to_owned(), log_id, known, private }))
    }

    /// All keys there ever were, oldest first; the last one signs.
    #[must_use]
    pub fn known(&self) -> &[KnownKey] {
        &self.known
    }

    /// The key that signs.
    #[must_use]
    pub fn current(&self) -> &KnownKey {
        self.known.last().expect("a keyring has a key")
    }

    /// Signs what stands up to `through`.
    #[must_use]
    pub fn checkpoint(&self, through: Seq, link: Link) -> Checkpoint {
        let key = self.private.public().id();
        let signature = self.private.sign(&checkpoint_message(&self.log_id, through, &link, &key));
        Checkpoint { through, link, key, signature }
    }

    /// Makes a key, vouched for by the one before, and signs with it from here on.
    ///
    /// # Errors
    /// When it cannot be written; the old one then goes on.
    pub fn rotate(&mut self, since: Seq) -> Result<&KnownKey, KeyringError> {
        let private = generate(&self.folder)?;
        let old = self.private.public().id();
        let signature = self.private.sign(&new_key_message(&self.log_id, &private.public(), &old));
        let mut known = self.known.clone();
        known.push(KnownKey { public: private.public(), since, by_old: Some((old, signature)) });
        write_list(&self.folder, &known)?;
        self.known = known;
        self.private = private;
        Ok(self.current())
    }

    /// Removes the private halves of all keys but the one that signs: once the ledger says which that is.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_old(&self) -> Result<(), KeyringError> {
        let current = self.current().public.id();
        for known in self.known.iter().filter(|known| known.public.id() != current) {
            let path = key_path(&self.folder, &known.public.id());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Random bytes in a file of their own in `folder`, made where they are missing: what they are mixed into cannot be guessed from outside.
///
/// # Errors
/// As [`Keyring::open`].
pub fn salt(folder: &Path, name: &str) -> Result<[u8; 32], KeyringError> {
    let path = folder.join(name);
    if let Some(bytes) = read_bounded(&path, KEY_BYTES_MAX)? {
        check_mode(&path, 0o600)?;
        return bytes.as_slice().try_into().map_err(|_| KeyringError::NoKey { path });
    }
    let mut salt = [0; 32];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut salt).map_err(|_| KeyringError::Random)?;
    write(&path, &salt, 0o600)?;
    Ok(salt)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyringError {
    let path = path.to_owned();
    move |source| KeyringError::Io { action, path, source }
}

fn key_path(folder: &Path, id: &KeyId) -> PathBuf {
    folder.join(format!("ledger-{}.key", hex(id)))
}

fn check_mode(path: &Path, expected: u32) -> Result<(), KeyringError> {
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Open { path: path.to_owned(), mode, expected });
    }
    Ok(())
}

fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, KeyringError> {
    use io::Read as _;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("read", path))?,
    };
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(Some(bytes))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyringError> {
    let unfinished = path.with_extension("tmp");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &unfinished)(error)),
        _ => {}
    }
    let written = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(failed("write", path))
}

fn generate(folder: &Path) -> Result<Private, KeyringError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyringError::Random)?;
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| KeyringError::Random)?;
    let private = Private(pair);
    write(&key_path(folder, &private.public().id()), document.as_ref(), 0o600)?;
    Ok(private)
}

fn read_private(path: &Path) -> Result<Private, KeyringError> {
    let missing = || failed("read", path)(io::ErrorKind::NotFound.into());
    let bytes = read_bounded(path, KEY_BYTES_MAX)?.ok_or_else(missing)?;
    check_mode(path, 0o600)?;
    let pair = Ed25519KeyPair::from_pkcs8(&bytes);
    pair.map(Private).map_err(|_| KeyringError::NoKey { path: path.to_owned() })
}

fn write_list(folder: &Path, known: &[KnownKey]) -> Result<(), KeyringError> {
    let line = |key: &KnownKey| {
        let by_old = key.by_old.map(|(id, signature)| format!("{} {}", hex(&id), hex(&signature)));
        format!("{} {} {}\n", key.public, key.since, by_old.unwrap_or_else(|| "- -".to_owned()))
    };
    let text: String = known.iter().map(line).collect();
    write(&folder.join(KEYS), text.as_bytes(), 0o600)
}

fn read_list(folder: &Path) -> Result<Vec<KnownKey>, KeyringError> {
    let path = folder.join(KEYS);
    let Some(bytes) = read_bounded(&path, LIST_BYTES_MAX)? else { return Ok(Vec::new()) };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let bad = || KeyringError::BadLine { path: path.clone(), line: at + 1 };
            parse_line(line).ok_or_else(bad)
        })
        .collect()
}

fn parse_line(line: &str) -> Option<KnownKey> {
    let mut words = line.split_ascii_whitespace();
    let (public, since, old, signature) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let by_old = match (old, signature) {
        ("-", "-") => None,
        (old, signature) => Some((unhex(old)?, unhex(signature)?)),
    };
    Some(KnownKey { public: public.parse().ok()?, since: Seq(since.parse().ok()?), by_old })
}

#[cfg(any(test, feature = "fault"))]
pub mod testing {
    //! Keys in memory, for tests.

    use super::*;

    /// A key that nobody stored.
    #[derive(Debug)]
    pub struct SigningKey(Private);

    impl SigningKey {
        /// A fresh one.
        ///
        /// # Panics
        /// When the system has no random bytes.
        #[must_use]
        pub fn generate() -> SigningKey {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system has random bytes");
            SigningKey(Private(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("what was made can be read")))
        }

        /// The same one for the same seed.
        ///
        /// # Panics
        /// Never: any 32 bytes are a seed.
        #[must_use]
        pub fn from_seed(seed: [u8; 32]) -> SigningKey {
            SigningKey(Private(Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed")))
        }

        /// Its public half.
        #[must_use]
        pub fn public(&self) -> PublicKey {
            self.0.public()
        }

        /// Its word on what stands up to `through`.
        #[must_use]
        pub fn checkpoint(&self, log_id: &[u8; 16], through: Seq, link: Link) -> Checkpoint {
            let key = self.public().id();
            let signature = self.0.sign(&checkpoint_message(log_id, through, &link, &key));
            Checkpoint { through, link, key, signature }
        }

        /// Its word on the key that follows it.
        #[must_use]
        pub fn vouch(&self, log_id: &[u8; 16], new: &PublicKey) -> Signature {
            self.0.sign(&new_key_message(log_id, new, &self.public().id()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::TrustedKeys;

    const LOG: [u8; 16] = [9; 16];

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mindos-keyring-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn keys_are_made_once_kept_from_others_and_found_again() {
        let folder = folder("made");
        let made = Keyring::open(&folder, LOG).unwrap();
        let key = made.current().public;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&key_path(&folder, &key.id()))), (0o700, 0o600));

        let again = Keyring::open(&folder, LOG).unwrap();
        assert_eq!(again.known(), made.known());
        assert!(again.checkpoint(Seq(3), [1; 32]).is_by(&key, &LOG));
        assert!(!format!("{again:?}").contains("PRIVATE"));

        fs::set_permissions(key_path(&folder, &key.id()), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keyring::open(&folder, LOG), Err(KeyringError::Open { mode: 0o640, .. })));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_rotated_key_is_vouched_for_and_the_old_one_goes() {
        let folder = folder("rotated");
        let mut ring = Keyring::open(&folder, LOG).unwrap();
        let first = ring.current().public;
        ring.rotate(Seq(40)).unwrap();
        ring.rotate(Seq(80)).unwrap();
        ring.forget_old().unwrap();

        let again = Keyring::open(&folder, LOG).unwrap();
        let mut trusted = TrustedKeys::new(LOG, &[first]);
        assert!(again.known().iter().all(|known| trusted.meet(known) == Ok(true)));
        assert!(again.checkpoint(Seq(90), [2; 32]).is_by(&again.current().public, &LOG));
        let private = fs::read_dir(&folder).unwrap().flatten().filter(|file| file.path().extension().is_some()).count();
        assert_eq!(private, 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_line_that_is_no_key_is_named() {
        let folder = folder("bad");
        drop(Keyring::open(&folder, LOG).unwrap());
        let path = folder.join(KEYS);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}rubbish\n")).unwrap();
        assert!(matches!(Keyring::open(&folder, LOG), Err(KeyringError::BadLine { line: 2, .. })));
        fs::remove_dir_all(folder).unwrap();
    }
}
