//! Replays: `mindos.replay.v1.ReplayService`. Past events are read back from the journal and offered again, one after the other.
//!
//! Invariants: one event is on its way at a time, so a replay takes from the plane what it has room for; an event that was
//! accepted under the same name before is accepted once.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::budget::Scope;
use mindos_core::input::{BudgetChange, Input, NewEvent, Query};
use mindos_core::journal::JournalError;
use mindos_core::output::{Published, Rejection, Reply};
use mindos_core::record::{About, EventAccepted, Payload, Record, Replay};
use mindos_model::{Priority, Seq, Timestamp};
use mindos_proto::replay::v1::replay_response::Part;
use mindos_proto::replay::v1::replay_service_server::ReplayService;
use mindos_proto::replay::v1::{ReplayRequest, ReplayResponse, ReplaySummary, ReplayedEvent};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::replay_request::{Asked, BUDGET_PREFIX, TTL, Which};
use super::{Context, event, status};
use crate::access::Scoped;
use crate::driver::CallError;
use crate::ingest::event::{key, salt};

/// Answers that may lie for whoever asked.
const ANSWERS_MAX: usize = 64;
/// How long to wait where there is no room.
const FULL_WAIT: Duration = Duration::from_millis(250);
/// Budgets of single replays that are kept; the oldest that nothing is reserved of makes room.
const BUDGETS_MAX: usize = 64;

type Sender = mpsc::Sender<Result<ReplayResponse, Status>>;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Replays {
    pub(super) context: Arc<Context>,
}

#[tonic::async_trait]
impl ReplayService for Replays {
    type ReplayStream = ReceiverStream<Result<ReplayResponse, Status>>;

    async fn replay(&self, request: Request<ReplayRequest>) -> Result<Response<Self::ReplayStream>, Status> {
        let context = self.context.of(&request)?;
        let asked = Asked::new(request.into_inner()).map_err(|error| Status::from(status::invalid(error)))?;
        let seqs = match &asked.which {
            Which::Named(seqs) => {
                // Who names one wants that one.
                if let [seq] = seqs[..] {
                    context.past(seq).await?.map_err(|_| Status::from(status::not_found("event", seq.to_string())))?;
                }
                seqs.clone()
            }
            Which::Window { query, limit } => {
                let (query, limit) = ((**query).clone(), *limit);
                context.blocking(move |context| event::newest(context, query, limit)).await??
            }
        };
        if !asked.dry_run && asked.budget.is_some() {
            context.set_budget_of(&asked).await?;
        }
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(async move {
            tokio::select! {
                ended = run(&context, &asked, seqs, &sender) => {
                    if let Err(status) = ended {
                        // Whoever asked may be gone.
                        let _ = sender.send(Err(status)).await;
                    }
                }
                // Whoever asked is gone, and asks again under the same name.
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn run(context: &Scoped, asked: &Asked, seqs: Vec<Seq>, sender: &Sender) -> Result<(), Status> {
    let mut summary = ReplaySummary {
        budget: asked
            .budget
            .as_ref()
            .filter(|_| !asked.dry_run)
            .map(|budget| budget.name.to_string())
            .unwrap_or_default(),
        ..ReplaySummary::default()
    };
    for seq in seqs {
        if *context.draining.borrow() {
            return Err(status::stopped(crate::driver::Stopped).into());
        }
        let event = match context.past(seq).await? {
            Err(Gone::Compares) => continue,
            Err(gone) => {
                summary.skipped += 1;
                ReplayedEvent { seq: seq.0, skipped: gone.to_string(), ..ReplayedEvent::default() }
            }
            Ok(accepted) => {
                let mut shown = ReplayedEvent {
                    seq: seq.0,
                    kind: accepted.kind.to_string(),
                    subject: accepted.subject.as_deref().unwrap_or_default().to_owned(),
                    ..ReplayedEvent::default()
                };
                if !asked.dry_run {
                    let published = context.again(asked, seq, &accepted).await?;
                    summary.replayed += 1;
                    summary.duplicates += u64::from(published.duplicate);
                    (shown.replay_seq, shown.duplicate) = (published.event.0, published.duplicate);
                    shown.delivery_id = mindos_model::DeliveryId::new(published.event, 1).to_string();
                }
                shown
            }
        };
        if sender.send(Ok(ReplayResponse { part: Some(Part::Event(event)) })).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Ok(ReplayResponse { part: Some(Part::Summary(summary)) })).await;
    Ok(())
}

/// Why a past event is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Gone {
    #[error("no event has this sequence")]
    NoEvent,
    #[error("its payload has left the journal: retention keeps none that old")]
    Dropped,
    #[error("its payload was removed")]
    Redacted,
    /// A replay, or feedback.
    #[error("it is a replay or feedback itself")]
    Compares,
}

impl Scoped {
    /// A past event with its payload.
    async fn past(&self, seq: Seq) -> Result<Result<Box<EventAccepted>, Gone>, Status> {
        self.blocking(move |context| {
            let mut found = Err(Gone::NoEvent);
            let read = context.source.read(seq, &mut |entry| {
                if let Record::EventAccepted(accepted) = &entry.record
                    && entry.seq == seq
                    && accepted.tenant == *context.tenant()
                {
                    found = match () {
                        () if accepted.about.is_some() => Err(Gone::Compares),
                        () if accepted.payload.bytes.is_empty() => Err(Gone::Redacted),
                        () => Ok(accepted.clone()),
                    };
                }
                false
            });
            match read {
                Ok(()) => Ok(found),
                Err(JournalError::Dropped { .. }) => {
                    let row = context.history.event(context.tenant(), seq);
                    let row = row.map_err(|error| super::failed("history was not read", &error))?;
                    Ok(Err(if row.is_some() { Gone::Dropped } else { Gone::NoEvent }))
                }
                Err(error) => Err(super::failed("journal was not read", &error)),
            }
        })
        .await?
    }

    /// Offers a past event once more, as soon as there is room.
    async fn again(&self, asked: &Asked, of: Seq, accepted: &EventAccepted) -> Result<Published, Status> {
        let event = self.repeated(asked, of, accepted);
        loop {
            let mut event = event.clone();
            self.recall(&mut event).await;
            self.room()?;
            match self.publish_one(Box::new(event)).await {
                Ok(Reply::Published(published)) => return Ok(self.first_answer(self.tenant(), published).await),
                Ok(other) => return Err(super::unexpected(&other)),
                Err(CallError::Full(_))
                | Err(CallError::Rejected(
                    Rejection::BacklogFull { .. } | Rejection::TenantFull { .. } | Rejection::PlaneFull { .. },
                )) => {}
                Err(error) => return Err(status::call(&error).into()),
            }
            tokio::select! {
                () = tokio::time::sleep(FULL_WAIT) => {}
                () = self.drained() => return Err(status::stopped(crate::driver::Stopped).into()),
            }
        }
    }

    fn repeated(&self, asked: &Asked, of: Seq, accepted: &EventAccepted) -> NewEvent {
        let EventAccepted { tenant, ty, kind, subject, lane, repository, actor, time, digest, payload, route, .. } =
            accepted;
        let (source, id): (Arc<str>, Arc<str>) = (asked.source(), Arc::from(of.to_string()));
        // The same event for another target is another replay, and may not have the same name.
        let mut content = [0; 16];
        content.copy_from_slice(&Sha256::new().chain_update(digest).chain_update(asked.target).finalize()[..16]);
        NewEvent {
            tenant: tenant.clone(),
            key: key(tenant, &source, &id),
            source,
            id,
            ty: ty.clone(),
            kind: kind.clone(),
            subject: subject.clone(),
            lane: lane.clone(),
            repository: repository.clone(),
            priority: Some(Priority::Low),
            actor: actor.clone(),
            time: *time,
            digest: content,
            payload: Payload { salt: salt(), bytes: payload.bytes.clone() },
            trust: None,
            judged: None,
            not_before: None,
            routed: true,
            asked: Some(Arc::clone(&asked.route)),
            about: Some(Box::new(About::Replay(Replay {
                of,
                id: Arc::clone(&asked.id),
                route: route.clone(),
                version: asked.version.clone(),
            }))),
            seen: None,
        }
    }

    /// Sets the budget of a replay; the oldest of those whose work has ended, or is too old to begin, makes room.
    async fn set_budget_of(&self, asked: &Asked) -> Result<(), Status> {
        let Some(budget) = &asked.budget else { return Ok(()) };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query: Query::Budgets };
        let views = match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Budgets(views) => views,
            other => return Err(super::unexpected(&other)),
        };
        let of_replay = views.iter().filter(|view| {
            let is_ours = view.budget.name.as_str().starts_with(BUDGET_PREFIX) && view.budget.name != budget.name;
            is_ours && matches!(&view.budget.scope, Scope::Replay(id) if !id.is_empty())
        });
        // Without its budget the work of a replay that waits would run without a limit.
        let mut idle: Vec<_> = of_replay.clone().filter(|view| view.reserved == Default::default()).collect();
        idle.sort_by_key(|view| view.since);
        let surplus = (of_replay.count() + 1).saturating_sub(BUDGETS_MAX);
        if idle.len() < surplus {
            return Err(status::replay_budgets_full(BUDGETS_MAX).into());
        }
        // Work that waits for the reset of a budget for all replays lives longer by that.
        let of_all = || views.iter().filter(|view| matches!(&view.budget.scope, Scope::Replay(id) if id.is_empty()));
        let waits = surplus > 0 && of_all().any(|view| view.parked > 0);
        let longest = of_all().filter_map(|view| Some(view.resets?.since(view.began))).max().unwrap_or_default();
        for view in idle.into_iter().take(surplus) {
            if waits || self.decided_at(view.since).await? + TTL + longest >= self.handle.now() {
                return Err(status::replay_budgets_full(BUDGETS_MAX).into());
            }
            self.change_budget(BudgetChange::Remove(view.budget.name.clone())).await?;
        }
        self.change_budget(BudgetChange::Set(Arc::new(budget.clone()))).await
    }

    /// When a record was decided; long ago where the journal no longer has it.
    async fn decided_at(&self, seq: Seq) -> Result<Timestamp, Status> {
        let read = self.blocking(move |context| {
            let mut at = Timestamp(0);
            let read = context.source.read(seq, &mut |entry| {
                at = entry.at;
                false
            });
            match read {
                Ok(()) | Err(JournalError::Dropped { .. }) => Ok(at),
                Err(error) => Err(super::failed("journal was not read", &error)),
            }
        });
        read.await?
    }
}
