//! Data that do not stand in their event: read back from the blob store, where a condition asks for them.
//!
//! Invariant: nothing is read before a condition asked; what cannot be read makes that condition fail, and is counted by its reason.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mindos_model::TenantName;
use tracing::warn;

use crate::blobs::{BlobRef, BlobStore};
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};

/// Data beyond this are not read: the largest webhook that is taken.
pub const READ_MAX: u64 = 25 << 20;

/// Why a condition sees nothing of an event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Nobody has looked yet.
    Pending,
    TooLarge,
    /// The blob is not there.
    Missing,
    /// They are not in a blob of this plane.
    Foreign,
    /// The disk failed.
    Failed,
}

impl Unread {
    const COUNTED: [Unread; 4] = [Unread::TooLarge, Unread::Missing, Unread::Foreign, Unread::Failed];

    /// For metrics.
    fn as_str(self) -> &'static str {
        match self {
            Unread::Pending => "pending",
            Unread::TooLarge => "too_large",
            Unread::Missing => "missing",
            Unread::Foreign => "foreign",
            Unread::Failed => "failed",
        }
    }

    /// For people: why a condition could not be evaluated.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Unread::Pending => "the data are in a blob, which was not read",
            Unread::TooLarge => "the data are in a blob of more than 25 MiB, which no condition reads",
            Unread::Missing => "the data are in a blob that is not there",
            Unread::Foreign => "the data are elsewhere: `dataref` names no blob of this plane",
            Unread::Failed => "the data are in a blob that could not be read",
        }
    }
}

/// Reads data of a tenant's event back. Blocks.
///
/// # Errors
/// Says why nothing can be seen of them.
pub fn read(blobs: &BlobStore, tenant: &TenantName, dataref: &str) -> Result<Bytes, Unread> {
    let blob: BlobRef = dataref.parse().map_err(|_| Unread::Foreign)?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        warn!(error = %Chain(error), %blob, "data were not read for a condition");
        Unread::Failed
    };
    if !blobs.is_of(&blob, tenant).map_err(|error| failed(&error))? {
        return Err(Unread::Missing);
    }
    let (info, file) = blobs.read(&blob, 0).map_err(|error| failed(&error))?.ok_or(Unread::Missing)?;
    if info.length > READ_MAX {
        return Err(Unread::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(info.length).unwrap_or(0));
    file.take(READ_MAX).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    Ok(bytes.into())
}

/// How often data could not be read, by reason.
#[derive(Debug, Default)]
pub(super) struct UnreadCounts([AtomicU64; 4]);

impl UnreadCounts {
    pub(super) fn count(&self, unread: Unread) {
        if let Some(place) = Unread::COUNTED.iter().position(|counted| *counted == unread) {
            self.0[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn expose(&self, into: &mut Exposition) {
        let help = "Events whose data a condition asked for and could not see, by reason.";
        let mut family = into.family("mindos_route_data_unread_total", Kind::Counter, help);
        for (unread, count) in Unread::COUNTED.iter().zip(&self.0) {
            family.series(&[("reason", unread.as_str())], count.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;
