//! The ledger as a file: `LedgerService.Export`, read from storage and sent as it is read.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::AccessRecord;
use mindos_core::record::{Payload, Record};
use mindos_journal::encode::{self, Names};
use mindos_journal::export::{ExportWriter, Flags, Head, Shown};
use mindos_journal::{Cursor, EmbeddedError, Entry, JournalError, RealDisk};
use mindos_model::{Seq, TenantName};
use mindos_proto::ledger::v1::{ExportRequest, ExportResponse};
use tokio::sync::mpsc;
use tonic::Status;

use super::ledger::Ledger;
use super::{Context, failed, status};

/// A chunk has about this much.
const CHUNK_BYTES: usize = 1 << 20;
/// How long a reader may leave a chunk.
const SLOW_MAX: Duration = Duration::from_secs(60);

/// An export that goes on.
struct Exporting {
    writer: ExportWriter,
    cursor: Option<Cursor<RealDisk>>,
    through: Seq,
    flags: Flags,
    tenant: TenantName,
    names: Names,
}

/// What was asked for, held against what is there.
pub(super) struct Asked {
    from: Seq,
    through: Seq,
    after: Seq,
    flags: Flags,
    tenant: TenantName,
}

impl Asked {
    pub(super) fn new(request: &ExportRequest, service: &Ledger, tenant: &TenantName) -> Result<Asked, Status> {
        let ExportRequest { from_seq, through_seq, tenant_only, without_payloads, after_seq } = *request;
        let reader = service.ledger.reader();
        let (first, end) = (reader.first(), reader.end());
        let from = if from_seq == 0 { first } else { Seq(from_seq) };
        let through = if through_seq == 0 { end } else { Seq(through_seq) };
        let after = if after_seq == 0 { Seq(from.0 - 1) } else { Seq(after_seq) };
        if from < first || after.next() < first {
            return Err(status::dropped(from.min(after.next()), first).into());
        }
        if through > end {
            return Err(Status::out_of_range(format!("record {through} is past the end of the journal, {end}")));
        }
        if from > through {
            return Err(Status::invalid_argument(format!("from_seq: is {from}: expected at most {through}")));
        }
        if after.next() < from || after > through {
            let expected = format!("expected {} to {through}", from.0 - 1);
            return Err(Status::invalid_argument(format!("after_seq: is {after}: {expected}")));
        }
        let flags = Flags { without_payloads, tenant_only };
        Ok(Asked { from, through, after, flags, tenant: tenant.clone() })
    }
}

/// Sends the file, or the rest of it.
pub(super) async fn export(
    context: Arc<Context>,
    service: Ledger,
    asked: Asked,
    is_resumed: bool,
    sender: mpsc::Sender<Result<ExportResponse, Status>>,
) -> Result<(), Status> {
    let through = asked.through;
    let (begun, keys) = (service.clone(), service.keys.clone());
    let begin = move || begin(&begun, asked, is_resumed);
    let mut exporting = read(context.blocking(move |_| begin()).await?)?;
    loop {
        let (next, done) = context
            .blocking(move |context| {
                let done = exporting.fill(context);
                (exporting, done)
            })
            .await?;
        exporting = next;
        let done = read(done)?;
        if done {
            break;
        }
        let (chunk, seq) = (exporting.writer.take(), exporting.writer.through());
        let sent = ExportResponse { chunk: chunk.into(), seq: seq.0, through_seq: through.0 };
        let sent = tokio::select! {
            sent = sender.send_timeout(Ok(sent), SLOW_MAX) => sent,
            () = context.drained() => return Err(status::stopped(crate::driver::Stopped).into()),
        };
        if sent.is_err() {
            return Err(status::too_slow(seq.next()).into());
        }
    }
    let link = exporting.writer.link();
    let signed = context.blocking(move |_| keys.checkpoint(through, link)).await?;
    let chunk = exporting.writer.finish(Some(signed));
    let last = ExportResponse { chunk: chunk.into(), seq: through.0, through_seq: through.0 };
    let _ = sender.send_timeout(Ok(last), SLOW_MAX).await;
    Ok(())
}

fn read<T>(read: Result<T, EmbeddedError>) -> Result<T, Status> {
    read.map_err(|error| match error {
        EmbeddedError::Log(JournalError::Dropped { seq, first }) => status::dropped(seq, first).into(),
        error => failed("journal was not read", &error),
    })
}

fn begin(service: &Ledger, asked: Asked, is_resumed: bool) -> Result<Exporting, EmbeddedError> {
    let Asked { from, through, after, flags, tenant } = asked;
    let ledger = &service.ledger;
    let writer = if is_resumed {
        ExportWriter::resume(from, after.next(), ledger.link_at(after)?)
    } else {
        ExportWriter::new(&Head {
            log_id: ledger.reader().log_id(),
            first: from,
            previous: ledger.link_at(Seq(from.0 - 1))?,
            made: service.context.handle.now(),
            flags,
            keys: service.keys.known(),
        })
    };
    // Nothing is left to be read where the end alone was lost.
    let cursor = if after < through { Some(ledger.reader().cursor(after.next())?) } else { None };
    Ok(Exporting { writer, cursor, through, flags, tenant, names: Names::default() })
}

impl Exporting {
    /// Gathers a chunk; true when all records are in.
    fn fill(&mut self, context: &Context) -> Result<bool, EmbeddedError> {
        while self.writer.next() <= self.through {
            if self.writer.len() >= CHUNK_BYTES {
                return Ok(false);
            }
            // A cursor lends its batches: it is put aside while their records are judged.
            let Some(mut cursor) = self.cursor.take() else { break };
            let gathered = self.gather(context, &mut cursor);
            self.cursor = Some(cursor);
            if !gathered? {
                break;
            }
        }
        Ok(true)
    }

    fn gather(&mut self, context: &Context, cursor: &mut Cursor<RealDisk>) -> Result<bool, EmbeddedError> {
        let Some(batch) = cursor.next_batch()? else { return Ok(false) };
        for entry in batch.entries() {
            let entry = entry?;
            if entry.seq > self.through {
                break;
            }
            let shown = if self.flags.tenant_only { self.shown_to(context, &entry)? } else { of(self.flags) };
            self.writer.push(&entry, shown);
        }
        Ok(true)
    }
}

fn of(flags: Flags) -> Shown {
    if flags.without_payloads { Shown::WithoutPayload } else { Shown::Whole }
}

/// Whether a record is needed by everybody to verify the ledger, and says nothing of a tenant.
fn is_everybodys(record: &Record) -> bool {
    match record {
        Record::EpochStarted(_) | Record::PrefixDropped(_) | Record::JournalTruncated(_) => true,
        Record::Access(record) => {
            matches!(**record, AccessRecord::CheckpointSigned(_) | AccessRecord::AuthorityChanged { .. })
        }
        _ => false,
    }
}

impl Exporting {
    /// How much of a record the tenant is shown.
    fn shown_to(&mut self, context: &Context, entry: &Entry<'_>) -> Result<Shown, EmbeddedError> {
        // Whose it is stands in no payload.
        let has_payload = entry.payload.is_some() || entry.redacted.is_some();
        let payload = has_payload.then(|| Payload { salt: [0; 16], bytes: bytes::Bytes::new() });
        let Some(decoded) = encode::decode(&mut self.names, entry.seq, entry.metadata, payload)? else {
            return Ok(Shown::LeafOnly);
        };
        let Context { event_tenants, source, history, .. } = context;
        let is_shown = is_everybodys(&decoded.record)
            || event_tenants.shows(entry.seq, &decoded.record, &self.tenant, &**source, history);
        Ok(if is_shown { of(self.flags) } else { Shown::LeafOnly })
    }
}
