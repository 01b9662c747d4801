//! Redaction on demand: `LedgerService.Redact`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::input::Input;
use mindos_core::output::{Rejection, Reply};
use mindos_model::limits::REDACTED_MAX;
use mindos_model::{Seq, TenantName};
use mindos_proto::ledger::v1::{RedactFilter, RedactRequest, RedactResponse};
use tonic::Status;

use super::ledger::Ledger;
use super::{Context, failed, status, unexpected};
use crate::access::Scoped;
use crate::driver::CallError;
use crate::views::history::{EventQuery, PageRequest};

/// The longest reason, in characters.
const REASON_CHARS: usize = 512;
/// How long the history is waited for.
const HISTORY_WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn redact(
    service: &Ledger,
    scoped: &Scoped,
    request: RedactRequest,
) -> Result<RedactResponse, Status> {
    let RedactRequest { event_seqs, filter, reason, dry_run } = request;
    let context = &service.context;
    let (by, from, tenant) = (scoped.by(), scoped.from(), scoped.tenant().clone());
    if !(1..=REASON_CHARS).contains(&reason.chars().count()) || reason.chars().any(char::is_control) {
        let expected = format!("reason: expected 1 to {REASON_CHARS} characters, no control characters");
        return Err(Status::invalid_argument(expected));
    }
    let (events, more) = match filter {
        Some(_) if !event_seqs.is_empty() => {
            return Err(Status::invalid_argument("filter: expected either `event_seqs` or `filter`"));
        }
        Some(filter) => found(context, tenant.clone(), filter, service.ledger.clone()).await?,
        None => {
            if !(1..=REDACTED_MAX).contains(&event_seqs.len()) {
                let message = format!("event_seqs: has {}: expected 1 to {REDACTED_MAX}", event_seqs.len());
                return Err(Status::invalid_argument(message));
            }
            (known(context, tenant.clone(), event_seqs).await?, false)
        }
    };
    if events.is_empty() {
        return Err(status::not_found("event", "that matches").into());
    }
    let event_seqs = events.iter().map(|seq| seq.0).collect();
    if dry_run {
        return Ok(RedactResponse { event_seqs, more, record_seqs: Vec::new() });
    }
    let reason: Arc<str> = Arc::from(reason);
    let mut record_seqs = Vec::new();
    let mut parts = vec![events];
    while let Some(events) = parts.pop() {
        let input = |request| Input::Redact {
            request,
            tenant: tenant.clone(),
            events: events.clone(),
            why: Arc::clone(&reason),
            by: Arc::clone(&by),
            from: Arc::clone(&from),
        };
        match context.handle.call(input).await {
            Ok(Reply::Done { at }) => record_seqs.push(at),
            Ok(other) => return Err(unexpected(&other)),
            // Too much open work for one record.
            Err(CallError::Rejected(Rejection::Redaction { field: "events", .. })) if events.len() > 1 => {
                let (one, other) = events.split_at(events.len() / 2);
                parts.push(other.to_vec());
                parts.push(one.to_vec());
            }
            Err(error) => return Err(status::call(&error).into()),
        }
    }
    if let Some(last) = record_seqs.iter().max() {
        tokio::select! {
            () = service.redactions.through(*last) => {}
            () = context.drained() => return Err(status::stopped(crate::driver::Stopped).into()),
        }
    }
    Ok(RedactResponse { event_seqs, more, record_seqs: record_seqs.into_iter().map(|seq| seq.0).collect() })
}

/// The events of those named that are this tenant's; all of them have to be.
async fn known(context: &Arc<Context>, tenant: TenantName, seqs: Vec<u64>) -> Result<Vec<Seq>, Status> {
    use mindos_core::record::Record;
    let read = move |context: &Context| {
        for seq in &seqs {
            let (seq, mut is_ours) = (Seq(*seq), false);
            let read = context.source.read(seq, &mut |entry| {
                is_ours =
                    entry.seq == seq && matches!(&entry.record, Record::EventAccepted(event) if event.tenant == tenant);
                false
            });
            if !is_ours || read.is_err() {
                return Err(Status::from(status::not_found("event", seq.to_string())));
            }
        }
        let mut seqs: Vec<Seq> = seqs.into_iter().map(Seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        Ok(seqs)
    };
    context.blocking(read).await?
}

/// Events of the history that match, the newest ones, and whether there are more.
async fn found(
    context: &Arc<Context>,
    tenant: TenantName,
    filter: RedactFilter,
    ledger: mindos_journal::Ledger<mindos_journal::RealDisk>,
) -> Result<(Vec<Seq>, bool), Status> {
    let RedactFilter { actor, subject, repository, source } = filter;
    let set = |text: String| (!text.is_empty()).then_some(text);
    let (actor, subject, repository, source) = (set(actor), set(subject), set(repository), set(source));
    if [&actor, &subject, &repository, &source].into_iter().all(Option::is_none) {
        let expected = "filter: is empty: expected `actor`, `subject`, `repository` or `source`";
        return Err(Status::invalid_argument(expected));
    }
    // What was accepted before the call is to be found.
    let (end, deadline) = (context.handle.durable_seq(), Instant::now() + HISTORY_WAIT);
    while context.history.committed() < end {
        if Instant::now() > deadline {
            return Err(Status::unavailable("the history lags behind: try again"));
        }
        tokio::time::sleep(POLL).await;
    }
    let search = move |context: &Context| {
        let (mut seqs, mut before) = (Vec::new(), Some(Seq(u64::MAX)));
        while let Some(place) = before {
            let query = EventQuery {
                actor: actor.clone(),
                subject: subject.clone(),
                repository: repository.clone(),
                source: source.clone(),
                before: Some(place),
                ..EventQuery::default()
            };
            let page = PageRequest { tenant: tenant.clone(), limit: REDACTED_MAX + 1 - seqs.len() };
            let page = context.history.events(&query, &page).map_err(|error| failed("history was not read", &error))?;
            seqs.extend(page.rows.iter().map(|row| row.seq));
            if seqs.len() > REDACTED_MAX {
                break;
            }
            before = page.next.filter(|next| *next < place);
        }
        let more = seqs.len() > REDACTED_MAX;
        seqs.truncate(REDACTED_MAX);
        // Only those whose records are kept have a payload; what was redacted before is passed over.
        let first = ledger.reader().first();
        seqs.retain(|seq| *seq >= first);
        seqs.sort_unstable();
        Ok((seqs, more))
    };
    context.blocking(search).await?
}
