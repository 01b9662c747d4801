//! The ledger: the journal's records with their places in the chain, and its verification.
//!
//! Invariant: the link sent with a record is computed from what storage holds, never from what memory remembers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::record::Payload;
use mindos_journal::encode::{Names, decode};
use mindos_journal::signing::KnownKey;
use mindos_journal::{Cursor, Damage as Damaged, JournalError, Reader, RealDisk, chain};
use mindos_model::{Seq, TenantName};
use mindos_proto::journal::v1 as journal;
use mindos_proto::ledger::v1::ledger_service_server::LedgerService;
use mindos_proto::ledger::v1::{
    Checkpoint, Damage, ExportRequest, ExportResponse, LedgerEntry, ListCheckpointsRequest, ListCheckpointsResponse,
    ListKeysRequest, ListKeysResponse, RedactRequest, RedactResponse, SigningKey, TailRequest, TailResponse,
    VerifyRequest, VerifyResponse,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, failed, ledger_export, ledger_redact, page_size, seq_token, status};

use crate::driver::Followed;
use crate::ledger::checkpoints::{Checkpoints, Noted};
use crate::ledger::keys::LedgerKeys;
use crate::ledger::redactions::Redactions;

/// A sign of life comes at least this often.
const LIFE_INTERVAL: Duration = Duration::from_secs(15);
/// Messages that may lie for a reader, and how long it may leave them.
const MESSAGES_MAX: usize = 8;
const SLOW_MAX: Duration = Duration::from_secs(10);
/// One message holds about this much at most.
const CHUNK_BYTES: usize = 512 * 1024;
const CHUNK_ENTRIES: usize = 1000;
/// Records looked at for one message, whether they are wanted or not.
const CHUNK_LOOKED: u64 = 50_000;
/// How long a slice of a verification should take, and how many records the first one has.
const SLICE_TIME: Duration = Duration::from_secs(1);
const SLICE_RECORDS: u64 = 100_000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) context: Arc<Context>,
    pub(crate) reader: Reader<RealDisk>,
    pub(crate) ledger: mindos_journal::Ledger<RealDisk>,
    pub(crate) keys: LedgerKeys,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) redactions: Redactions,
}

#[tonic::async_trait]
impl LedgerService for Ledger {
    type TailStream = ReceiverStream<Result<TailResponse, Status>>;
    type VerifyStream = ReceiverStream<Result<VerifyResponse, Status>>;
    type ExportStream = ReceiverStream<Result<ExportResponse, Status>>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let scoped = self.context.of(&request)?;
        let TailRequest { from_seq, follow, kinds, limit, include_payload } = request.into_inner();
        if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let message = format!("kinds: `{unknown}` is not a kind of record: expected one of {}", KINDS.join(", "));
            return Err(Status::invalid_argument(message));
        }
        let first = self.reader.first();
        let next = if from_seq == 0 { first } else { Seq(from_seq) };
        if next < first {
            return Err(status::dropped(next, first).into());
        }
        let left = if limit == 0 { u64::MAX } else { limit };
        let whose = (!scoped.caller.sees_all()).then(|| scoped.tenant().clone());
        let wanted =
            Wanted { kinds, include_payload, whose, context: Arc::clone(&self.context), names: Names::default() };
        let walk = Walk { reader: self.reader.clone(), next, left, wanted, cursor: None };
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = tail(&context, walk, follow, &sender) => ended,
                () = sender.closed() => Ok(()),
            };
            if let Err(status) = ended {
                let _ = sender.send_timeout(Err(status), SLOW_MAX).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let VerifyRequest { from_seq, through_seq } = request.into_inner();
        let (first, end) = (self.reader.first(), self.reader.end());
        let from = if from_seq == 0 { first } else { Seq(from_seq) };
        if from < first {
            return Err(status::dropped(from, first).into());
        }
        let through = if through_seq == 0 { end } else { Seq(through_seq) };
        if through > end || (from > through && from > end.next()) {
            return Err(Status::out_of_range(format!("record {through} is past the end of the journal, {end}")));
        }
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let (context, reader) = (Arc::clone(&self.context), self.reader.clone());
        tokio::spawn(async move {
            if let Err(status) = verify(&context, &reader, from, through, &sender).await {
                let _ = sender.send_timeout(Err(status), SLOW_MAX).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let scoped = self.context.of(&request)?;
        let mut request = request.into_inner();
        // Whoever does not see everything gets their own.
        request.tenant_only |= !scoped.caller.sees_all();
        let asked = ledger_export::Asked::new(&request, self, scoped.tenant())?;
        let is_resumed = request.after_seq > 0;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let (context, service, ending) = (Arc::clone(&self.context), self.clone(), sender.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = ledger_export::export(context, service, asked, is_resumed, sender) => ended,
                () = ending.closed() => Ok(()),
            };
            if let Err(status) = ended {
                let _ = ending.send_timeout(Err(status), SLOW_MAX).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        let ListCheckpointsRequest { page_size: asked, page_token } = request.into_inner();
        let limit = page_size(asked, 1000)?;
        let before = seq_token(&page_token)?.unwrap_or(Seq(u64::MAX));
        let page = self.checkpoints.page(before, limit);
        let next = page.last().filter(|_| page.len() == limit).map(|noted| noted.checkpoint.through);
        Ok(Response::new(ListCheckpointsResponse {
            checkpoints: page.iter().map(checkpoint).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn list_keys(&self, _: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let key = |known: &KnownKey| SigningKey {
            public_key: known.public.0.to_vec().into(),
            text: known.public.to_string(),
            since_seq: known.since.0,
            old_key: known.by_old.map(|(old, _)| old.to_vec().into()).unwrap_or_default(),
            signature: known.by_old.map(|(_, signature)| signature.to_vec().into()).unwrap_or_default(),
        };
        let keys = self.keys.known().iter().map(key).collect();
        Ok(Response::new(ListKeysResponse { keys, journal_id: self.keys.log_id().to_vec().into() }))
    }

    async fn redact(&self, request: Request<RedactRequest>) -> Result<Response<RedactResponse>, Status> {
        let scoped = self.context.of(&request)?;
        ledger_redact::redact(self, &scoped, request.into_inner()).await.map(Response::new)
    }
}

/// A checkpoint as callers see it.
fn checkpoint(noted: &Noted) -> Checkpoint {
    let Noted { seq, at, checkpoint } = noted;
    Checkpoint {
        through_seq: checkpoint.through.0,
        link: checkpoint.link.to_vec().into(),
        key: checkpoint.key.to_vec().into(),
        signature: checkpoint.signature.to_vec().into(),
        seq: seq.0,
        at_ms: at.0,
    }
}

/// Kinds of records: the names of the fields in `mindos.journal.v1.Entry`.
const KINDS: &[&str] = &[
    "event_accepted",
    "delivery_leased",
    "delivery_settled",
    "attempt_ended",
    "lease_extended",
    "delivery_cancelled",
    "cancel_requested",
    "delivery_parked",
    "delivery_redriven",
    "result_refused",
    "payload_carried",
    "epoch_started",
    "cluster_registered",
    "general_registered",
    "general_removed",
    "hold_changed",
    "routes_applied",
    "route_asked",
    "prefix_dropped",
    "journal_truncated",
    "upgrade_finalized",
    "budget_set",
    "budget_removed",
    "budget_acknowledged",
    "budget_crossed",
    "api_token_created",
    "api_token_used",
    "api_token_revoked",
    "join_token_created",
    "join_token_revoked",
    "agent_joined",
    "join_refused",
    "role_bound",
    "role_unbound",
    "issuer_registered",
    "issuer_removed",
    "agent_denied",
    "agent_allowed",
    "quota_set",
    "settings_changed",
    "authority_changed",
    "checkpoint_signed",
    "payloads_redacted",
    "effect_intended",
    "effect_deferred",
    "effect_ended",
    "effect_revived",
    "object_applied",
    "object_removed",
];

fn kind(entry: &journal::Entry) -> &'static str {
    use journal::entry::Record;
    match &entry.record {
        None => "",
        Some(Record::EventAccepted(_)) => "event_accepted",
        Some(Record::DeliveryLeased(_)) => "delivery_leased",
        Some(Record::DeliverySettled(_)) => "delivery_settled",
        Some(Record::AttemptEnded(_)) => "attempt_ended",
        Some(Record::LeaseExtended(_)) => "lease_extended",
        Some(Record::DeliveryCancelled(_)) => "delivery_cancelled",
        Some(Record::CancelRequested(_)) => "cancel_requested",
        Some(Record::DeliveryParked(_)) => "delivery_parked",
        Some(Record::DeliveryRedriven(_)) => "delivery_redriven",
        Some(Record::ResultRefused(_)) => "result_refused",
        Some(Record::PayloadCarried(_)) => "payload_carried",
        Some(Record::EpochStarted(_)) => "epoch_started",
        Some(Record::ClusterRegistered(_)) => "cluster_registered",
        Some(Record::GeneralRegistered(_)) => "general_registered",
        Some(Record::GeneralRemoved(_)) => "general_removed",
        Some(Record::HoldChanged(_)) => "hold_changed",
        Some(Record::RoutesApplied(_)) => "routes_applied",
        Some(Record::RouteAsked(_)) => "route_asked",
        Some(Record::PrefixDropped(_)) => "prefix_dropped",
        Some(Record::JournalTruncated(_)) => "journal_truncated",
        Some(Record::UpgradeFinalized(_)) => "upgrade_finalized",
        Some(Record::BudgetSet(_)) => "budget_set",
        Some(Record::BudgetRemoved(_)) => "budget_removed",
        Some(Record::BudgetAcknowledged(_)) => "budget_acknowledged",
        Some(Record::BudgetCrossed(_)) => "budget_crossed",
        Some(Record::ApiTokenCreated(_)) => "api_token_created",
        Some(Record::ApiTokenUsed(_)) => "api_token_used",
        Some(Record::ApiTokenRevoked(_)) => "api_token_revoked",
        Some(Record::JoinTokenCreated(_)) => "join_token_created",
        Some(Record::JoinTokenRevoked(_)) => "join_token_revoked",
        Some(Record::AgentJoined(_)) => "agent_joined",
        Some(Record::JoinRefused(_)) => "join_refused",
        Some(Record::RoleBound(_)) => "role_bound",
        Some(Record::RoleUnbound(_)) => "role_unbound",
        Some(Record::IssuerRegistered(_)) => "issuer_registered",
        Some(Record::IssuerRemoved(_)) => "issuer_removed",
        Some(Record::AgentDenied(_)) => "agent_denied",
        Some(Record::AgentAllowed(_)) => "agent_allowed",
        Some(Record::QuotaSet(_)) => "quota_set",
        Some(Record::SettingsChanged(_)) => "settings_changed",
        Some(Record::AuthorityChanged(_)) => "authority_changed",
        Some(Record::CheckpointSigned(_)) => "checkpoint_signed",
        Some(Record::PayloadsRedacted(_)) => "payloads_redacted",
        Some(Record::EffectIntended(_)) => "effect_intended",
        Some(Record::EffectDeferred(_)) => "effect_deferred",
        Some(Record::EffectEnded(_)) => "effect_ended",
        Some(Record::EffectRevived(_)) => "effect_revived",
        Some(Record::ObjectApplied(_)) => "object_applied",
        Some(Record::ObjectRemoved(_)) => "object_removed",
    }
}

struct Wanted {
    kinds: Vec<String>,
    include_payload: bool,
    /// The tenant whose records alone are shown; unset shows all, and those of the plane.
    whose: Option<TenantName>,
    context: Arc<Context>,
    names: Names,
}

impl Wanted {
    /// Whether whoever asks may see a record. One that cannot be read is nobody's.
    fn shows(&mut self, seq: Seq, metadata: &[u8], has_payload: bool) -> bool {
        let Some(tenant) = &self.whose else { return true };
        let payload = has_payload.then(|| Payload { salt: Default::default(), bytes: Default::default() });
        let Ok(Some(entry)) = decode(&mut self.names, seq, metadata, payload) else { return false };
        let Context { event_tenants, source, history, .. } = &*self.context;
        event_tenants.shows(seq, &entry.record, tenant, &**source, history)
    }
}

/// A place in the journal that moves on.
struct Walk {
    reader: Reader<RealDisk>,
    next: Seq,
    left: u64,
    wanted: Wanted,
    cursor: Option<Cursor<RealDisk>>,
}

impl Walk {
    /// What fits into one message; empty when nothing more is durable, or nothing of what was looked at is wanted.
    fn chunk(&mut self) -> Result<Vec<LedgerEntry>, JournalError> {
        let (mut found, mut bytes, began, started) = (Vec::new(), 0, self.next, Instant::now());
        if self.next > self.reader.end() {
            return Ok(found);
        }
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            none => none.insert(self.reader.cursor(self.next)?),
        };
        while self.left > 0
            && bytes < CHUNK_BYTES
            && found.len() < CHUNK_ENTRIES
            && self.next.0 - began.0 < CHUNK_LOOKED
            && started.elapsed() < SLICE_TIME
        {
            let Some(batch) = cursor.next_batch()? else { break };
            let mut link = batch.previous_link();
            for entry in batch.all_entries() {
                let entry = entry?;
                let leaf = entry.leaf();
                link = chain::link(&link, entry.seq.0, &leaf);
                if entry.seq < self.next || self.left == 0 {
                    continue;
                }
                self.next = entry.seq.next();
                // A record of a later release is shown by its bytes' absence, and still has its place in the chain.
                let mut decoded = journal::Entry::decode(entry.metadata).unwrap_or_default();
                let kind = kind(&decoded);
                if !self.wanted.kinds.is_empty() && !self.wanted.kinds.iter().any(|wanted| wanted == kind) {
                    continue;
                }
                if !self.wanted.shows(entry.seq, entry.metadata, entry.payload.is_some()) {
                    continue;
                }
                if let (Some(_), Some(journal::entry::Record::RouteAsked(asked))) =
                    (&self.wanted.whose, &mut decoded.record)
                {
                    // The place that it takes may have been another tenant's.
                    if asked.replaces_tenant != asked.tenant {
                        (asked.replaces, asked.replaces_tenant) = (String::new(), asked.tenant.clone());
                    }
                }
                let body = entry.payload.filter(|_| self.wanted.include_payload);
                let shown = LedgerEntry {
                    seq: entry.seq.0,
                    at_ms: decoded.at_ms,
                    kind: kind.to_owned(),
                    entry: Some(decoded),
                    leaf: leaf.to_vec().into(),
                    link: link.to_vec().into(),
                    payload: body.map(|body| body.bytes.to_vec().into()).unwrap_or_default(),
                    salt: body.map(|body| body.salt.to_vec().into()).unwrap_or_default(),
                    redacted: entry.redacted.is_some(),
                };
                bytes += entry.metadata.len() + shown.payload.len() + 128;
                found.push(shown);
                self.left -= 1;
            }
        }
        Ok(found)
    }
}

async fn tail(
    context: &Arc<Context>,
    mut walk: Walk,
    follow: bool,
    sender: &mpsc::Sender<Result<TailResponse, Status>>,
) -> Result<(), Status> {
    // Before the end is looked at, so that nothing becomes durable unseen in between.
    let mut follower = context.handle.subscribe();
    let end = walk.reader.end();
    loop {
        let (entries, moved, returned) = context
            .blocking(move |_| {
                let began = walk.next;
                let entries = walk.chunk();
                (entries, walk.next > began, walk)
            })
            .await?;
        walk = returned;
        let entries = entries.map_err(|error| match error {
            JournalError::Dropped { seq, first } => status::dropped(seq, first).into(),
            error => failed("journal was not read", &error),
        })?;
        if moved {
            let seq = walk.next.0 - 1;
            let sent = sender.send_timeout(Ok(TailResponse { entries, seq }), SLOW_MAX).await;
            if sent.is_err() {
                return Err(status::too_slow(walk.next).into());
            }
        }
        if walk.left == 0 || (!follow && walk.next > end) || (!follow && !moved) {
            return Ok(());
        }
        if moved {
            continue;
        }
        tokio::select! {
            followed = follower.next() => {
                if matches!(followed, Followed::Closed) {
                    return Err(status::stopped(crate::driver::Stopped).into());
                }
            }
            () = context.drained() => return Err(status::stopped(crate::driver::Stopped).into()),
            () = tokio::time::sleep(LIFE_INTERVAL) => {
                let life = TailResponse { entries: Vec::new(), seq: walk.next.0.saturating_sub(1) };
                if sender.send_timeout(Ok(life), SLOW_MAX).await.is_err() {
                    return Err(status::too_slow(walk.next).into());
                }
            }
        }
    }
}

/// Verifies slice by slice, each as long as takes about a second, and tells how far it is after each.
async fn verify(
    context: &Arc<Context>,
    reader: &Reader<RealDisk>,
    from: Seq,
    through: Seq,
    sender: &mpsc::Sender<Result<VerifyResponse, Status>>,
) -> Result<(), Status> {
    let (mut next, mut length) = (from, SLICE_RECORDS);
    let mut last = VerifyResponse { through_seq: from.0.saturating_sub(1), ..VerifyResponse::default() };
    loop {
        let end = Seq(next.0.saturating_add(length - 1)).min(through);
        let slice = reader.clone();
        let began = Instant::now();
        let verified = context.blocking(move |_| slice.verify(next, end)).await?;
        let verified = verified.map_err(|error| match error {
            JournalError::Dropped { seq, first } => status::dropped(seq, first).into(),
            error => failed("journal was not read", &error),
        })?;
        if verified.last >= next {
            last.checked += verified.last.0 - next.0 + 1;
            last.through_seq = verified.last.0;
            next = verified.last.next();
        }
        last.link = bytes_of(&verified.link).into();
        last.damage = verified.broken.as_ref().map(damage);
        last.done = last.damage.is_some() || next > through || verified.last < end;
        if sender.send(Ok(last.clone())).await.is_err() || last.done {
            return Ok(());
        }
        let took = began.elapsed();
        length = if took > SLICE_TIME { (length / 2).max(SLICE_RECORDS / 10) } else { length.saturating_mul(2) };
    }
}

fn damage(damage: &Damaged) -> Damage {
    let Damaged { file, offset, seq, fault } = damage;
    // Relative to the data directory: the journal's own directory and the file in it.
    let names: Vec<&str> = file.rsplit('/').take(2).collect();
    let file = names.into_iter().rev().collect::<Vec<_>>().join("/");
    Damage { seq: seq.0, file, offset: *offset, message: fault.to_string() }
}

/// The bytes that hexadecimal text stands for.
fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
