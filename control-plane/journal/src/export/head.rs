//! The first and the last part of an exported ledger.

use mindos_model::{Seq, Timestamp};

use super::fault::Wrong;
use super::{FORMAT, crc_of};
use crate::chain::Link;
use crate::frame::{link_at, u32_at, u64_at};
use crate::signing::{Checkpoint, KnownKey, PublicKey};

const MAGIC: [u8; 8] = *b"MDLEDGR1";
pub(crate) const FOOT_MAGIC: [u8; 8] = *b"MDLEDEND";
/// Magic, format, crc, length.
pub(crate) const PREFIX_BYTES: usize = 20;
const BODY_BYTES: usize = 16 + 8 + 32 + 8 + 4 + 4;
const KEY_BYTES: usize = 32 + 8 + 8 + 64;
pub(crate) const FOOT_BYTES: usize = 8 + 4 + 8 + 8 + 32 + 8 + 64;
/// How many keys a file tells of at most; the newest ones.
pub const KEYS_MAX: usize = 1000;
const LENGTH_MAX: usize = BODY_BYTES + KEYS_MAX * KEY_BYTES;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Payloads were left out.
    pub without_payloads: bool,
    /// Of other tenants' records only the leaves are there.
    pub tenant_only: bool,
}

/// What stands before the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Names the journal.
    pub log_id: [u8; 16],
    /// First record.
    pub first: Seq,
    /// Link of the record before it.
    pub previous: Link,
    /// When the file was made, by the clock of who made it.
    pub made: Timestamp,
    /// What was asked for.
    pub flags: Flags,
    /// The keys that signed, oldest first.
    pub keys: Vec<KnownKey>,
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let keys = &self.keys[self.keys.len().saturating_sub(KEYS_MAX)..];
        let flags = u32::from(self.flags.without_payloads) | u32::from(self.flags.tenant_only) << 1;
        let count = u32::try_from(keys.len()).expect("at most a thousand");
        let mut body = Vec::with_capacity(BODY_BYTES + keys.len() * KEY_BYTES);
        body.extend_from_slice(&self.log_id);
        body.extend_from_slice(&self.first.0.to_le_bytes());
        body.extend_from_slice(&self.previous);
        body.extend_from_slice(&self.made.0.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&count.to_le_bytes());
        for KnownKey { public, since, by_old } in keys {
            let (old, signature) = by_old.unwrap_or(([0; 8], [0; 64]));
            body.extend_from_slice(&public.0);
            body.extend_from_slice(&since.0.to_le_bytes());
            body.extend_from_slice(&old);
            body.extend_from_slice(&signature);
        }
        let length = u32::try_from(body.len()).expect("a head is small").to_le_bytes();
        let crc = crc_of(&[&FORMAT.to_le_bytes(), &length, &body]);
        [&MAGIC, &FORMAT.to_le_bytes()[..], &crc.to_le_bytes(), &length, &body].concat()
    }

    /// The length of what follows the first part.
    pub(crate) fn length(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, Wrong> {
        if prefix[..8] != MAGIC {
            return Err(Wrong::NoExport);
        }
        match u32_at(prefix, 8) {
            FORMAT => {}
            found => return Err(Wrong::Format { found, known: FORMAT }),
        }
        let length = u32_at(prefix, 16) as usize;
        if (BODY_BYTES..=LENGTH_MAX).contains(&length) { Ok(length) } else { Err(Wrong::Head) }
    }

    pub(crate) fn decode(prefix: &[u8; PREFIX_BYTES], body: &[u8]) -> Result<Head, Wrong> {
        let count = if body.len() < BODY_BYTES { 0 } else { u32_at(body, 68) as usize };
        let fits = count <= KEYS_MAX && body.len() == BODY_BYTES + count * KEY_BYTES;
        if !fits || crc_of(&[&prefix[8..12], &prefix[16..20], body]) != u32_at(prefix, 12) {
            return Err(Wrong::Head);
        }
        let key = |bytes: &[u8]| {
            let old: [u8; 8] = bytes[40..48].try_into().expect("eight bytes");
            let signature: [u8; 64] = bytes[48..112].try_into().expect("64 bytes");
            let by_old = (signature != [0; 64]).then_some((old, signature));
            KnownKey { public: PublicKey(link_at(bytes, 0)), since: Seq(u64_at(bytes, 32)), by_old }
        };
        let flags = u32_at(body, 64);
        let head = Head {
            log_id: body[..16].try_into().expect("16 bytes"),
            first: Seq(u64_at(body, 16)),
            previous: link_at(body, 24),
            made: Timestamp(u64_at(body, 56)),
            flags: Flags { without_payloads: flags & 1 != 0, tenant_only: flags & 2 != 0 },
            keys: body[BODY_BYTES..].chunks_exact(KEY_BYTES).map(key).collect(),
        };
        if head.first.0 == 0 || head.first.0 > u64::MAX / 2 { Err(Wrong::Head) } else { Ok(head) }
    }
}

/// What stands behind the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foot {
    /// How many records there are.
    pub count: u64,
    /// The last one.
    pub last: Seq,
    /// Its link.
    pub link: Link,
    /// A key's word on that link; unset if nobody signed.
    pub checkpoint: Option<Checkpoint>,
}

impl Foot {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (key, signature) = self.checkpoint.map_or(([0; 8], [0; 64]), |signed| (signed.key, signed.signature));
        let body = [&self.count.to_le_bytes()[..], &self.last.0.to_le_bytes(), &self.link, &key, &signature].concat();
        [&FOOT_MAGIC[..], &crc_of(&[&body]).to_le_bytes(), &body].concat()
    }

    pub(crate) fn decode(bytes: &[u8; FOOT_BYTES]) -> Result<Foot, Wrong> {
        let body = &bytes[12..];
        if bytes[..8] != FOOT_MAGIC || crc_of(&[body]) != u32_at(bytes, 8) {
            return Err(Wrong::Foot);
        }
        let (last, link) = (Seq(u64_at(body, 8)), link_at(body, 16));
        let signature: [u8; 64] = body[56..120].try_into().expect("64 bytes");
        let key = body[48..56].try_into().expect("eight bytes");
        let checkpoint = Checkpoint { through: last, link, key, signature };
        Ok(Foot { count: u64_at(body, 0), last, link, checkpoint: (signature != [0; 64]).then_some(checkpoint) })
    }
}
