//! Records as bytes and back: `mindos.journal.v1.Entry` as the metadata of a journal entry, the payload beside it.
//!
//! ```text
//! Entry --encode--> metadata, payload and salt        metadata, payload and salt --decode--> Entry, or an error
//! ```
//! The kinds that come with every event are written and read without messages in between; they give the same bytes.
//! Invariant: what decodes was encoded by some release, and means the same. A record of a kind that this program does not know
//! stops the reader, unless the record itself says that readers of this format may pass over it.

use mindos_core::record::{Entry, Payload, Record};
use mindos_model::{Seq, Timestamp};
use mindos_proto::convert::Invalid;
use mindos_proto::journal::v1 as pb;
use prost::Message;

pub mod about;
mod access;
pub mod budget;
mod budget_state;
pub(crate) mod effect;
mod fields;
pub mod guard;
mod hot;
mod names;
mod object;
pub mod policy;
mod read;
mod record;
mod redacted;
mod route;
pub(crate) mod seen_block;
pub mod siting;
pub(crate) mod state;
mod words;

pub use names::Names;
pub use redacted::REDACTED;
pub(crate) use redacted::stand_in;

/// Number of the journal format that this program writes; it reads this one and all before.
pub const RECORD_FORMAT: u32 = 1;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a message at all.
    #[error("record {seq} is not a journal entry")]
    NotAnEntry { seq: Seq, source: prost::DecodeError },
    /// Written by a later release, and nobody of ours may pass over it.
    #[error(
        "record {seq} is of a kind that this program, journal format {RECORD_FORMAT}, does not know: run a later release"
    )]
    UnknownKind { seq: Seq },
    /// A field is missing or not what it can be.
    #[error("record {seq} is malformed: {invalid}")]
    Malformed { seq: Seq, invalid: Invalid },
    /// It says another place than the one it stands at.
    #[error("record {seq} says that it is record {says}")]
    WrongPlace { seq: Seq, says: Seq },
    /// A snapshot item is missing or not what it can be.
    #[error("snapshot item is malformed: {invalid}")]
    Item { invalid: Invalid },
}

/// Appends the metadata of an entry to `bytes`. Its payload, if it has one, is [`Record::payload`].
pub fn encode(entry: &Entry, bytes: &mut Vec<u8>) {
    match &entry.record {
        Record::EventAccepted(record) => hot::event_accepted(entry, record, bytes),
        Record::DeliveryLeased(record) => hot::delivery_leased(entry, record, bytes),
        Record::DeliverySettled(record) => hot::delivery_settled(entry, record, bytes),
        Record::EpochStarted(_)
        | Record::AttemptEnded(_)
        | Record::DeliveryCancelled(_)
        | Record::CancelRequested(_)
        | Record::DeliveryParked(_)
        | Record::DeliveryRedriven(_)
        | Record::ResultRefused(_)
        | Record::LeaseExtended(_)
        | Record::ClusterRegistered(_)
        | Record::GeneralRegistered(_)
        | Record::GeneralRemoved(_)
        | Record::HoldChanged(_)
        | Record::RoutesApplied(_)
        | Record::RouteAsked(_)
        | Record::PayloadCarried(_)
        | Record::PrefixDropped(_)
        | Record::JournalTruncated(_)
        | Record::UpgradeFinalized(_)
        | Record::BudgetSet(_)
        | Record::BudgetRemoved(_)
        | Record::BudgetAcknowledged(_)
        | Record::BudgetCrossed(_)
        | Record::Access(_)
        | Record::PayloadsRedacted(_)
        | Record::EffectIntended(_)
        | Record::EffectDeferred(_)
        | Record::EffectEnded(_)
        | Record::EffectRevived(_)
        | Record::Object(_) => {
            message(entry).encode(bytes).expect("a vector grows as needed");
        }
    }
}

/// The message that [`encode`] writes.
#[must_use]
pub fn message(entry: &Entry) -> pb::Entry {
    pb::Entry { seq: entry.seq.0, at_ms: entry.at.0, oldest_reader: 0, record: Some(record::to_message(&entry.record)) }
}

/// Reads the entry that stands at `seq`; `None` if it is of a kind that this program may pass over.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(
    names: &mut Names,
    seq: Seq,
    metadata: &[u8],
    mut payload: Option<Payload>,
) -> Result<Option<Entry>, DecodeError> {
    let malformed = |invalid| DecodeError::Malformed { seq, invalid };
    if let Some(entry) = hot::decode(names, metadata, &mut payload).map_err(malformed)? {
        return in_place(seq, entry).map(Some);
    }
    let message = pb::Entry::decode(metadata).map_err(|source| DecodeError::NotAnEntry { seq, source })?;
    let pb::Entry { seq: says, at_ms, record, oldest_reader } = message;
    let Some(kind) = record else {
        // Zero means that nobody may pass over it.
        return match (1..=RECORD_FORMAT).contains(&oldest_reader) {
            true => Ok(None),
            false => Err(DecodeError::UnknownKind { seq }),
        };
    };
    let record = read::from_message(names, kind, payload).map_err(malformed)?;
    in_place(seq, Entry { seq: Seq(says), at: Timestamp(at_ms), record }).map(Some)
}

fn in_place(seq: Seq, entry: Entry) -> Result<Entry, DecodeError> {
    match entry.seq == seq {
        true => Ok(entry),
        false => Err(DecodeError::WrongPlace { seq, says: entry.seq }),
    }
}

#[cfg(test)]
mod about_tests;
#[cfg(test)]
mod access_samples;
#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod budget_samples;
#[cfg(test)]
mod effect_samples;
#[cfg(test)]
mod object_samples;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
