//! What can go wrong with the journal.

use std::io;

use mindos_model::Seq;

use crate::chain::{Link, hex};

/// A failure of the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the directory.
    #[error("journal `{directory}` is in use by another process")]
    Locked { directory: String },
    /// The system refused.
    #[error("failed to {action} `{file}`")]
    Io { action: &'static str, file: String, source: io::Error },
    /// The bytes are not those that were written.
    #[error(transparent)]
    Damaged(#[from] Box<Damage>),
    /// The log holds nothing while a snapshot says that it did.
    #[error("journal `{directory}` has a snapshot through record {snapshot} but no segment")]
    MissingSegments { directory: String, snapshot: Seq },
    /// There is no log in the directory.
    #[error("directory `{directory}` holds no journal")]
    NoLog { directory: String },
    /// A restore into this directory ended half way.
    #[error("journal `{directory}` holds an unfinished restore: empty it and restore again")]
    UnfinishedRestore { directory: String },
    /// The log's end was being cut off when that was interrupted.
    #[error("journal `{directory}` holds an unfinished truncation: truncate it again")]
    UnfinishedTruncate { directory: String },
    /// A restore needs an empty directory.
    #[error("directory `{directory}` is not empty: it holds `{file}`")]
    NotEmpty { directory: String, file: String },
    /// The directory is not a finished backup.
    #[error("directory `{directory}` holds no finished backup")]
    NoBackup { directory: String },
    /// The writer's idea of the end is not ours: somebody else wrote, or the caller lost count.
    #[error("append expected the log to end at {expected}, but it ends at {end}")]
    UnexpectedEnd { expected: Seq, end: Seq },
    /// An older epoch tried to write.
    #[error("append under epoch {presented}, but the log has seen epoch {current}")]
    StaleEpoch { presented: u32, current: u32 },
    /// A batch without records.
    #[error("append of an empty batch")]
    EmptyBatch,
    /// A batch that fits into no segment.
    #[error("batch of {bytes} bytes exceeds the most that fits into a segment, {bytes_max}")]
    BatchTooLarge { bytes: usize, bytes_max: usize },
    /// The disk is full. Nothing was acknowledged, nothing is broken: the same batch may be appended again later.
    #[error("no space left for the journal in `{directory}`")]
    NoSpace { directory: String, source: io::Error },
    /// An earlier write or sync failed, so what is on the disk is unknown. The process must end and start from the disk.
    #[error("journal stopped after an earlier failure: {reason}")]
    Poisoned { reason: String },
    /// The records asked for are gone.
    #[error("record {seq} was dropped: the log starts at {first}")]
    Dropped { seq: Seq, first: Seq },
    /// The records asked for are not there yet.
    #[error("record {seq} is past the end of the log, {end}")]
    PastEnd { seq: Seq, end: Seq },
    /// No snapshot covers what would be dropped.
    #[error("no snapshot reaches record {through}, so nothing may be dropped")]
    NoSnapshot { through: Seq },
    /// A snapshot in which not all is as written.
    #[error("snapshot `{file}` is damaged at offset {offset}: {fault}")]
    SnapshotDamaged { file: String, offset: u64, fault: &'static str },
    /// An item too large for a snapshot.
    #[error("snapshot item of {bytes} bytes exceeds {bytes_max}")]
    SnapshotItemTooLarge { bytes: usize, bytes_max: usize },
    /// A mark left by a tool cannot be read.
    #[error("mark `{file}` is not readable: {text}")]
    BadMark { file: String, text: String },
}

impl JournalError {
    /// Whether the process must end: nothing can be promised about what was written.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, JournalError::Poisoned { .. } | JournalError::Io { .. } | JournalError::Damaged(_))
    }

    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> JournalError {
        let file = file.into();
        move |source| JournalError::Io { action, file, source }
    }
}

impl From<Damage> for JournalError {
    fn from(damage: Damage) -> JournalError {
        JournalError::Damaged(Box::new(damage))
    }
}

/// A place where the log is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal segment `{file}` is damaged at offset {offset}, record {seq}: {fault}")]
pub struct Damage {
    /// The segment's file.
    pub file: String,
    /// Offset in the file: of the byte where that is known, else of the frame or header.
    pub offset: u64,
    /// The record there, or the first one of the frame, or the first one of the segment.
    pub seq: Seq,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong at a damaged place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Exactly one byte differs; with the right one the hash chain holds.
    #[error("byte is {found:#04x}, was written as {written:#04x}")]
    Byte { found: u8, written: u8 },
    /// No frame can be read although the log goes on behind.
    #[error("no valid batch although the log goes on behind")]
    NoFrame,
    /// The head of the segment is not as written.
    #[error("segment header is not valid")]
    Header,
    /// Written by a later release.
    #[error("segment has format {found}, this program reads {known}")]
    Format { found: u32, known: u32 },
    /// The segment belongs to another log.
    #[error("segment belongs to another log")]
    ForeignLog,
    /// The segment's name and header disagree.
    #[error("segment is named {name} but starts at record {first}")]
    WrongName { name: Seq, first: Seq },
    /// Segments are missing before this one.
    #[error("segment is number {found} in the log, expected number {expected}")]
    MissingSegment { expected: u64, found: u64 },
    /// Records are missing or doubled.
    #[error("batch starts at record {found}, expected {expected}")]
    Gap { expected: Seq, found: Seq },
    /// The epoch went back.
    #[error("batch has epoch {found} after epoch {before}")]
    EpochBack { before: u32, found: u32 },
    /// The chain does not join.
    #[error("batch follows link {}, expected {}", hex(found), hex(expected))]
    PreviousLink { expected: Link, found: Link },
    /// The records do not lead to the link beside them.
    #[error("records lead to link {}, but {} is written", hex(computed), hex(written))]
    EndLink { computed: Link, written: Link },
    /// An entry reaches past its batch.
    #[error("entry reaches past its batch")]
    Entry,
}
