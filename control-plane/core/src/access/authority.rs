//! The authority: keys that certificates and the ledger are signed with, and what of the ledger is signed.

use mindos_model::Seq;

/// First 8 bytes of the SHA-256 of a public key.
pub type KeyId = [u8; 8];

/// A key that signs checkpoints of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningKey {
    pub id: KeyId,
    /// Ed25519.
    pub public: [u8; 32],
    /// The record that told of it: it signs what comes after.
    pub since: Seq,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityChange {
    /// A key signs certificates from here on, or is no longer trusted.
    CertificateKey { id: KeyId, retired: bool },
    /// A key signs checkpoints from here on.
    SigningKey {
        /// In a change that is asked for, `since` is not looked at: the record says its own place.
        key: SigningKey,
        /// Over the new key, by the one before; unset with the first one, or where the one before is lost.
        signed_by_old: Option<[u8; 64]>,
    },
}

/// That everything through a record is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub through: Seq,
    /// The chain's hash there.
    pub link: [u8; 32],
    pub key: KeyId,
    /// Ed25519.
    pub signature: [u8; 64],
}
