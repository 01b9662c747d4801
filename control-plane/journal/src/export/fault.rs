//! What can be wrong with an exported ledger, and where.

use std::io;

use mindos_model::Seq;

use crate::signing::{KeyId, hex};

/// The first place at which a file is not as it was written, or proves less than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq}, offset {offset}: {wrong}")]
pub struct ExportFault {
    /// The record, or the one that should be there.
    pub seq: Seq,
    /// Offset in the file: of the record's entry, or of what stands in its place.
    pub offset: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not such a file at all.
    #[error("this is no ledger's export")]
    NoExport,
    /// Written by a later release.
    #[error("the file has format {found}, this program reads {known}")]
    Format { found: u32, known: u32 },
    /// The head is not as written.
    #[error("the head of the file is not as it was written")]
    Head,
    /// Records are missing.
    #[error("dropped: {count} record(s) are missing here, {found} follows")]
    Dropped { count: u64, found: Seq },
    /// A record stands twice, or one from elsewhere.
    #[error("record {found} stands here, which is out of order")]
    OutOfOrder { found: Seq },
    /// Two records stand in each other's place.
    #[error("swapped: it stands in the place of record {with}")]
    Swapped { with: Seq },
    /// A record is not the one that the chain goes through.
    #[error("altered: the record does not lead to the link beside it")]
    Altered,
    /// The bytes of an entry make no sense.
    #[error("altered: the entry cannot be read")]
    Unreadable,
    /// The checksum of a block does not fit, and no record in it shows it.
    #[error("altered: the block does not match its checksum")]
    Checksum,
    /// The file ends before its foot.
    #[error("truncated: the file ends here, without its foot")]
    Truncated,
    /// Bytes follow the foot.
    #[error("bytes follow the end of the file")]
    Trailing,
    /// The foot is not as written.
    #[error("the foot of the file is not as it was written")]
    Foot,
    /// The foot speaks of other records.
    #[error("the foot says {count} record(s) through {last}, the file holds {found} through {found_last}")]
    Count { count: u64, last: Seq, found: u64, found_last: Seq },
    /// A key signed another link: something between was replaced, links and all.
    #[error("rewritten: key {} signed another link of record {signed}; a record after {good} was replaced", hex(key))]
    Rewritten { key: KeyId, signed: Seq, good: Seq },
    /// A signature is not by the key that it names.
    #[error("the signature over record {signed} is not by key {}", hex(key))]
    Signature { key: KeyId, signed: Seq },
    /// A key says that one vouched for it which did not.
    #[error("key {} is not vouched for by the key that it names as the one before", hex(key))]
    KeyNotVouched { key: KeyId },
    /// No trusted key says anything.
    #[error("no signature by a trusted key covers any record; keys in the file: {}", if keys.is_empty() { "none" } else { keys })]
    Unsigned { keys: String },
    /// The end is covered by no signature.
    #[error("truncated or unsigned: no signature covers the records from here to {last}")]
    UnsignedEnd { last: Seq },
    /// An anchor knows of a later record.
    #[error("truncated: an anchor has a checkpoint through record {anchored}, the file ends before")]
    AnchorPastEnd { anchored: Seq },
    /// An anchor knows another link.
    #[error("rewritten: the anchor's checkpoint through record {anchored} has another link")]
    AnchorDiffers { anchored: Seq },
    /// An anchor is of another journal.
    #[error("the anchor is of journal {anchored}, the file of {found}")]
    AnchorForeign { anchored: String, found: String },
    /// The file does not reach as far as is wanted.
    #[error("truncated: record {wanted} is wanted, the file ends before")]
    Short { wanted: Seq },
}

/// Why a verification did not come to an end.
#[derive(Debug)]
pub(crate) enum Stop {
    Fault(ExportFault),
    Io(io::Error),
}

impl From<ExportFault> for Stop {
    fn from(fault: ExportFault) -> Stop {
        Stop::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

pub(crate) fn fault(seq: u64, offset: u64, wrong: Wrong) -> ExportFault {
    ExportFault { seq: Seq(seq), offset, wrong }
}
