//! The journal's embedded home: a segmented log of our own.
//!
//! Records go in as frames, one checksummed batch each; segments are zeroed ahead and recycled; a chain of hashes runs
//! through all records. One [`Log`] writes, any number of [`Reader`]s read what is durable at the same time.
//! Invariant: what was acknowledged is there after any crash, and what was written in part is not.

mod ahead;
mod backup;
pub mod chain;
#[cfg(any(test, feature = "fault"))]
pub mod cuts;
mod direct;
mod disk;
mod embedded;
pub mod encode;
mod error;
pub mod export;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
mod frame;
mod inspect;
pub mod keyring;
mod log;
mod mark;
mod reader;
mod real_disk;
mod recover;
mod redact;
mod repair;
mod retain;
mod scan;
mod segment;
pub mod signing;
mod snapshot;
mod spare;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use backup::{BackupReport, restore};
pub use disk::{Disk, DiskFile};
pub use embedded::{EmbeddedError, EmbeddedJournal, Ledger, Tail};
pub use error::{Damage, Fault, JournalError};
pub use frame::{Entry, FRAME_BYTES_MAX, Frame, Payload};
pub use inspect::{Inspection, SegmentReport, inspect, truncate};
pub use log::{Log, Options, Usage};
pub use mark::{Marks, RESTORE_EPOCH_STEP, Restored, Truncated};
pub use reader::{Batch, Cursor, Reader, StoredEntry, StoredPayload};
pub use real_disk::{RealDisk, RealFile, RealLock};
pub use recover::{Cut, Recovery};
pub use redact::{Redacted, Redactor};
pub use retain::DroppedPrefix;
pub use snapshot::{SNAPSHOT_ITEM_BYTES_MAX, SNAPSHOTS_KEPT, SnapshotReader, SnapshotWriter};
pub use spare::Preparation;
pub use verify::{TornAt, Verified, verify_directory};
