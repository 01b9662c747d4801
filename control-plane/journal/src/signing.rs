//! Signatures over the chain: what a key says of the ledger, and how somebody who holds nothing but a public key checks it.
//!
//! ```text
//! checkpoint = "mindos.ledger.checkpoint.v1" 0 | log id 16 | through 8 | link 32 | key id 8
//! new key    = "mindos.ledger.key.v1" 0        | log id 16 | new public key 32 | old key id 8
//! ```
//! Ed25519; numbers are little endian. A checkpoint covers every record up to `through`, because its link rests on all of them.
//! Invariant: no message of one sort can be taken for one of the other, nor for one of another journal.

use std::fmt;
use std::str::FromStr;

use mindos_model::Seq;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::chain::Link;

const CHECKPOINT: &[u8] = b"mindos.ledger.checkpoint.v1\0";
const NEW_KEY: &[u8] = b"mindos.ledger.key.v1\0";
/// What the text of a public key begins with.
const PREFIX: &str = "mindos-ledger-ed25519:";

/// Names a key: the first bytes of the SHA-256 of its public half.
pub type KeyId = [u8; 8];
/// An Ed25519 signature.
pub type Signature = [u8; 64];

/// The public half of a key that signs checkpoints. Written `mindos-ledger-ed25519:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.0);
        digest[..8].try_into().expect("eight bytes")
    }

    fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no public key of a ledger: expected `{PREFIX}` and 64 hex digits")]
pub struct NoPublicKey {
    text: String,
}

impl FromStr for PublicKey {
    type Err = NoPublicKey;

    fn from_str(text: &str) -> Result<PublicKey, NoPublicKey> {
        let digits = text.trim();
        let digits = digits.strip_prefix(PREFIX).unwrap_or(digits);
        unhex(digits).map(PublicKey).ok_or_else(|| NoPublicKey { text: text.chars().take(120).collect() })
    }
}

/// A key's word that the journal stood so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Last record that is covered.
    pub through: Seq,
    /// Link of that record.
    pub link: Link,
    /// Who signed.
    pub key: KeyId,
    /// Over [`checkpoint_message`].
    pub signature: Signature,
}

impl Checkpoint {
    /// Whether `key` signed this for the journal `log_id`.
    #[must_use]
    pub fn is_by(&self, key: &PublicKey, log_id: &[u8; 16]) -> bool {
        let message = checkpoint_message(log_id, self.through, &self.link, &self.key);
        self.key == key.id() && key.verifies(&message, &self.signature)
    }
}

/// What is signed for a checkpoint.
#[must_use]
pub fn checkpoint_message(log_id: &[u8; 16], through: Seq, link: &Link, key: &KeyId) -> Vec<u8> {
    [CHECKPOINT, log_id, &through.0.to_le_bytes(), link, key].concat()
}

/// What an old key signs so that a new one is trusted.
#[must_use]
pub fn new_key_message(log_id: &[u8; 16], new: &PublicKey, old: &KeyId) -> Vec<u8> {
    [NEW_KEY, log_id, &new.0, old].concat()
}

/// A key of the ledger as it is told to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The key.
    pub public: PublicKey,
    /// First record after which it signed; zero if that is not known.
    pub since: Seq,
    /// The word of the key before it, unset for the first one.
    pub by_old: Option<(KeyId, Signature)>,
}

impl KnownKey {
    /// Whether `old` vouches for this key of the journal `log_id`.
    #[must_use]
    pub fn is_vouched_by(&self, old: &PublicKey, log_id: &[u8; 16]) -> bool {
        self.by_old.is_some_and(|(id, signature)| {
            id == old.id() && old.verifies(&new_key_message(log_id, &self.public, &id), &signature)
        })
    }
}

/// Keys that somebody trusts, and those that these vouched for.
#[derive(Clone, Debug)]
pub struct TrustedKeys {
    log_id: [u8; 16],
    keys: Vec<PublicKey>,
}

impl TrustedKeys {
    /// Trusts `keys` for the journal `log_id`.
    #[must_use]
    pub fn new(log_id: [u8; 16], keys: &[PublicKey]) -> TrustedKeys {
        TrustedKeys { log_id, keys: keys.to_vec() }
    }

    /// The key of this name, if it is trusted.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.id() == *id)
    }

    /// All that are trusted, in the order in which they came to be.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Meets a key that says it follows on another one: whether it is trusted from here on.
    ///
    /// # Errors
    /// If it names a trusted key as the one before, whose signature it is not.
    pub fn meet(&mut self, known: &KnownKey) -> Result<bool, KeyId> {
        if self.keys.contains(&known.public) {
            return Ok(true);
        }
        let Some((old, _)) = known.by_old else { return Ok(false) };
        let Some(old) = self.get(&old) else { return Ok(false) };
        if !known.is_vouched_by(old, &self.log_id) {
            return Err(known.public.id());
        }
        self.keys.push(known.public);
        Ok(true)
    }
}

/// Bytes as hexadecimal text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// The bytes that hexadecimal text of just this length stands for.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::testing::SigningKey;

    const LOG: [u8; 16] = [5; 16];

    #[test]
    fn a_checkpoint_holds_for_its_journal_place_link_and_key_alone() {
        let (one, two) = (SigningKey::generate(), SigningKey::generate());
        let good = one.checkpoint(&LOG, Seq(7), [3; 32]);
        assert!(good.is_by(&one.public(), &LOG));
        assert!(!good.is_by(&two.public(), &LOG));
        assert!(!good.is_by(&one.public(), &[6; 16]));
        assert!(!Checkpoint { through: Seq(8), ..good }.is_by(&one.public(), &LOG));
        assert!(!Checkpoint { link: [4; 32], ..good }.is_by(&one.public(), &LOG));
        assert!(!Checkpoint { key: two.public().id(), ..good }.is_by(&two.public(), &LOG));
    }

    #[test]
    fn trust_goes_from_the_old_key_to_the_new_one_and_not_back() {
        let keys: Vec<_> = (0..3).map(|_| SigningKey::generate()).collect();
        let known = |at: usize| KnownKey {
            public: keys[at].public(),
            since: Seq(1),
            by_old: at.checked_sub(1).map(|old| (keys[old].public().id(), keys[old].vouch(&LOG, &keys[at].public()))),
        };
        let mut trusted = TrustedKeys::new(LOG, &[keys[1].public()]);
        assert_eq!((trusted.meet(&known(0)), trusted.meet(&known(2))), (Ok(false), Ok(true)));
        assert_eq!(trusted.keys(), [keys[1].public(), keys[2].public()]);
        // A stranger who only says so is named.
        let stranger = SigningKey::generate();
        let by_old = Some((keys[1].public().id(), stranger.vouch(&LOG, &stranger.public())));
        let forged = KnownKey { public: stranger.public(), since: Seq(1), by_old };
        assert_eq!(trusted.meet(&forged), Err(stranger.public().id()));
    }

    #[test]
    fn a_public_key_is_read_as_it_is_written() {
        let key = SigningKey::generate().public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(hex(&key.0).parse(), Ok(key));
        for text in ["", "mindos-ledger-ed25519:", "mindos-ledger-ed25519:zz", &format!("{key}0")] {
            assert!(text.parse::<PublicKey>().is_err());
        }
    }
}
