//! The redactor: what the ledger says is redacted leaves the disk.
//!
//! ```text
//!  PayloadsRedacted --> which records hold payloads of these events? --> blobs, cache --> live segment sealed, segments written
//!  again --> place noted --> whoever asked is answered
//! ```
//! It follows the journal like a view, and its place moves past a record only once that is done, so whatever a crash cut off is done again
//! at the next start. What comes later of the same events, such as a result that was on its way, is taken out too. Invariant: the place on
//! the disk is behind no redaction that is not done.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::record::{Entry, Record};
use mindos_journal::{EmbeddedError, JournalError, Ledger, RealDisk, Redactor as LogRedactor};
use mindos_model::{Seq, TenantName, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::redactions::Redactions;
use crate::blobs::{BlobRef, BlobStore, PREFIX};
use crate::logging::Chain;
use crate::payloads::Payloads;
use crate::views::follow::{Progress, View, ViewError};

const FILE: &str = "redactions";
/// The form of the file.
const FORMAT: u32 = 1;
/// How often the place is written while nothing is redacted.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Digits of the address of a blob.
const DIGITS: usize = 64;
/// How long what came late may wait for more of it: each time a segment is written again.
const LATE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the writer, or another view, is waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    format: u32,
    /// The last record that was looked at.
    seq: u64,
    at_ms: u64,
    /// Events whose payloads are to be nowhere.
    events: BTreeSet<u64>,
}

/// Other places that hold what a payload says.
#[derive(Debug)]
pub struct Places {
    pub ledger: Ledger<RealDisk>,
    pub log: LogRedactor<RealDisk>,
    pub payloads: Payloads,
    pub blobs: Arc<BlobStore>,
    /// Views that forget by themselves when they see the record, and have forgotten once they have seen it.
    pub views: Vec<Arc<Progress>>,
}

/// Follows the journal for redactions.
#[derive(Debug)]
pub struct RedactorView {
    path: PathBuf,
    places: Places,
    done: Redactions,
    events: BTreeSet<Seq>,
    /// Records of redactions that are not done, each with its events.
    wanted: Vec<(Seq, Vec<Seq>)>,
    /// Records with payloads of events that were redacted before them.
    late: BTreeSet<Seq>,
    /// Blobs that go with them, each with its event.
    late_blobs: BTreeSet<(BlobRef, Seq)>,
    late_since: Option<Instant>,
    mark: (Seq, Timestamp),
    written: Instant,
    saved: Seq,
}

/// A failure of the redaction; it is tried again.
#[derive(Debug, thiserror::Error)]
enum RedactError {
    #[error("failed to write `{path}`")]
    File { path: PathBuf, source: io::Error },
    #[error("the journal's writer did not begin another segment in time")]
    NotSealed,
    #[error("a view did not come along in time")]
    ViewBehind,
}

impl RedactorView {
    /// Opens the file in `data_dir`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(data_dir: &Path, places: Places, done: Redactions) -> io::Result<RedactorView> {
        let path = data_dir.join(FILE);
        let Saved { format: _, seq, at_ms, events } = load(&path)?;
        let mark = (Seq(seq), Timestamp(at_ms));
        done.reached(Seq(seq));
        Ok(RedactorView {
            path,
            places,
            done,
            events: events.into_iter().map(Seq).collect(),
            wanted: Vec::new(),
            late: BTreeSet::new(),
            late_blobs: BTreeSet::new(),
            late_since: None,
            mark,
            written: Instant::now(),
            saved: mark.0,
        })
    }

    /// What of an event's payload stands with a record: the event, and the blob that goes with it.
    fn touched(&self, record: &Record) -> Option<(Option<(BlobRef, Seq)>, bool)> {
        let is_redacted = |event: &Seq| self.events.contains(event);
        match record {
            Record::PayloadCarried(carried) if is_redacted(&carried.event) => {
                let of_event = carried.effect.is_none().then(|| dataref(&carried.payload.bytes)).flatten();
                Some((of_event.map(|blob| (blob, carried.event)), true))
            }
            Record::EffectIntended(intended) if is_redacted(&intended.event) => {
                Some((named(&intended.parameters.bytes).map(|blob| (blob, intended.event)), true))
            }
            Record::DeliverySettled(settled) if is_redacted(&settled.delivery.event) => {
                let blob = settled.output_ref.map(|digest| (BlobRef(digest), settled.delivery.event));
                Some((blob, settled.output.is_some()))
            }
            Record::LeaseExtended(extended) if is_redacted(&extended.delivery.event) => {
                Some((None, extended.checkpoint.is_some()))
            }
            Record::EventAccepted(event) => {
                let of = event.replay().map(|replay| replay.of).filter(is_redacted)?;
                Some((dataref(&event.payload.bytes).map(|blob| (blob, of)), true))
            }
            _ => None,
        }
    }

    /// Does what is wanted, and notes the place.
    fn redact(&mut self) -> Result<(), ViewError> {
        if self.wanted.is_empty() && self.late.is_empty() && self.late_blobs.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let (mut seqs, mut blobs) = (self.late.clone(), self.late_blobs.clone());
        let (from, through) = (
            self.wanted.iter().flat_map(|(_, events)| events).min().copied(),
            self.wanted.iter().map(|(seq, _)| *seq).max().unwrap_or(Seq::ZERO),
        );
        self.events.extend(self.wanted.iter().flat_map(|(_, events)| events));
        if let Some(from) = from {
            self.scan(from.max(self.places.ledger.reader().first()), through, &mut seqs, &mut blobs)?;
        }
        let deadline = Instant::now() + WAIT_MAX;
        for view in &self.places.views {
            while view.seen() < through {
                if Instant::now() > deadline {
                    return Err(RedactError::ViewBehind.into());
                }
                std::thread::sleep(POLL);
            }
        }
        // Before the payloads, which say what the blobs are called.
        for (blob, event) in &blobs {
            self.places.blobs.disown(blob, &self.tenant_of(*event)?)?;
        }
        self.places.payloads.forget(&seqs);
        let redacted = self.places.log.begin().map_err(ViewError::from).and_then(|()| self.erase(&seqs));
        self.places.log.end();
        let payloads = redacted?;
        self.wanted.clear();
        self.late.clear();
        self.late_blobs.clear();
        self.late_since = None;
        self.save()?;
        self.done.reached(self.mark.0);
        let took_ms = began.elapsed().as_millis() as u64;
        info!(payloads, blobs = blobs.len(), took_ms, "payloads were redacted");
        Ok(())
    }

    /// Which records up to `through` hold what is to go.
    fn scan(
        &mut self,
        from: Seq,
        through: Seq,
        seqs: &mut BTreeSet<Seq>,
        blobs: &mut BTreeSet<(BlobRef, Seq)>,
    ) -> Result<(), ViewError> {
        let ledger = self.places.ledger.clone();
        let mut tail = ledger.tail(from)?;
        while tail.next_seq() <= through {
            let more = tail.next_batch(|entry| {
                if let Record::EventAccepted(event) = &entry.record {
                    let repeats = event.replay().is_some_and(|replay| self.events.contains(&replay.of));
                    if repeats {
                        self.events.insert(entry.seq);
                    }
                    if self.events.contains(&entry.seq) {
                        seqs.insert(entry.seq);
                        blobs.extend(dataref(&event.payload.bytes).map(|blob| (blob, entry.seq)));
                    }
                } else if let Some((blob, has_payload)) = self.touched(&entry.record) {
                    blobs.extend(blob);
                    if has_payload {
                        seqs.insert(entry.seq);
                    }
                }
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Whose an event is.
    fn tenant_of(&self, event: Seq) -> Result<TenantName, ViewError> {
        let entry = match self.places.ledger.entry(event) {
            Err(EmbeddedError::Log(JournalError::Dropped { .. })) => None,
            other => other?,
        };
        Ok(match entry.map(|entry| entry.record) {
            Some(Record::EventAccepted(event)) => event.tenant,
            _ => TenantName::default_tenant(),
        })
    }

    /// Takes the payloads of records out of the journal's files; how many there were.
    fn erase(&self, seqs: &BTreeSet<Seq>) -> Result<u64, ViewError> {
        let log = &self.places.log;
        let deadline = Instant::now() + WAIT_MAX;
        // So that the writer does not wait for one to be made.
        while !log.is_ready() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let through = log.seal();
        while !log.is_sealed(through) {
            if Instant::now() > deadline {
                return Err(RedactError::NotSealed.into());
            }
            std::thread::sleep(POLL);
        }
        let seqs: Vec<Seq> = seqs.iter().copied().collect();
        let redacted = log.redact(&seqs)?;
        if redacted.live.is_empty() { Ok(redacted.payloads) } else { Err(RedactError::NotSealed.into()) }
    }

    fn save(&mut self) -> Result<(), RedactError> {
        let first = self.places.ledger.reader().first();
        // Nothing comes of an event whose records are gone: its deliveries have ended.
        self.events = self.events.split_off(&first);
        let (seq, at) = self.mark;
        let events = self.events.iter().map(|seq| seq.0).collect();
        let saved = Saved { format: FORMAT, seq: seq.0, at_ms: at.0, events };
        let path = &self.path;
        write(path, &saved).map_err(|source| RedactError::File { path: path.clone(), source })?;
        (self.written, self.saved) = (Instant::now(), seq);
        Ok(())
    }
}

/// The blob that an encoded event names as its data.
fn dataref(encoded: &[u8]) -> Option<BlobRef> {
    crate::ingest::event::dataref(encoded)?.parse().ok()
}

/// The blob that the parameters of an effect name.
fn named(parameters: &[u8]) -> Option<BlobRef> {
    let text = std::str::from_utf8(parameters).ok()?;
    let address = text.get(text.find(PREFIX)?..)?;
    address.get(..PREFIX.len() + DIGITS)?.parse().ok()
}

fn load(path: &Path) -> io::Result<Saved> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
        other => other?,
    };
    match serde_json::from_str::<Saved>(&text) {
        Ok(saved) if saved.format == FORMAT => Ok(saved),
        Ok(_) | Err(_) => {
            warn!(path = %path.display(), "list of redactions cannot be read: the ledger is looked through again");
            Ok(Saved::default())
        }
    }
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(saved)?)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl View for RedactorView {
    fn name(&self) -> &'static str {
        "redactor"
    }

    fn next(&self) -> Seq {
        self.mark.0.next()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        if let Record::PayloadsRedacted(redacted) = &entry.record {
            self.wanted.push((entry.seq, redacted.events.clone()));
            self.mark = (entry.seq, entry.at);
            // At once: whoever asked waits for it, and the place must not pass it.
            if let Err(error) = self.redact() {
                warn!(error = %Chain(&*error), "payloads were not redacted yet");
                return Err(error);
            }
            return Ok(());
        }
        if !self.events.is_empty()
            && let Some((blob, has_payload)) = self.touched(&entry.record)
        {
            if matches!(entry.record, Record::EventAccepted(_)) {
                self.events.insert(entry.seq);
            }
            self.late_blobs.extend(blob);
            if has_payload {
                self.late.insert(entry.seq);
            }
            self.late_since.get_or_insert_with(Instant::now);
        }
        self.mark = (entry.seq, entry.at);
        Ok(())
    }

    fn upkeep(&mut self, _idle: bool) -> Result<(), ViewError> {
        let is_late = self.late_since.is_some_and(|since| since.elapsed() >= LATE_INTERVAL);
        if is_late {
            self.redact()?;
        }
        if self.late_since.is_none() && self.wanted.is_empty() {
            self.done.reached(self.mark.0);
            if self.mark.0 > self.saved && self.written.elapsed() >= WRITE_INTERVAL {
                self.save()?;
            }
        }
        Ok(())
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        (self.mark.0 > Seq::ZERO && self.mark.1 > Timestamp(0)).then_some(self.mark)
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        self.events.clear();
        self.wanted.clear();
        self.late.clear();
        self.late_blobs.clear();
        self.late_since = None;
        self.mark = (Seq::ZERO, Timestamp(0));
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.mark = (Seq(first.0.saturating_sub(1)), Timestamp(0));
        Ok(())
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        let Saved { format: _, seq, at_ms, events } = load(&self.path)?;
        self.reset()?;
        self.events = events.into_iter().map(Seq).collect();
        self.mark = (Seq(seq), Timestamp(at_ms));
        self.saved = Seq(seq);
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        self.redact()?;
        Ok(self.save()?)
    }
}
