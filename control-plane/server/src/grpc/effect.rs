//! Effects: `mindos.effect.v1.EffectService`.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use mindos_core::effect::EffectChange;
use mindos_core::input::Input;
use mindos_core::output::{Rejection, Reply};
use mindos_core::record::{Entry, Record};
use mindos_model::{EffectId, EffectStatus, Seq};
use mindos_proto::convert::Invalid;
use mindos_proto::effect::v1::effect_service_server::EffectService;
use mindos_proto::effect::v1::{
    CancelEffectRequest, CancelEffectResponse, Effect, GetEffectRequest, GetEffectResponse, ListEffectsRequest,
    ListEffectsResponse, RetryEffectRequest, RetryEffectResponse, WatchEffectsRequest, WatchEffectsResponse,
};
use tonic::{Request, Response, Status};

use super::watch::{self, Ended, Sender, Step, Walk, Watched};
use super::{Context, effect_list, page_size, status};
use crate::access::Scoped;
use crate::driver::CallError;
use crate::views::effects::{self, EffectQuery};

/// Effects that a watcher remembers; a forgotten one is read again.
const KNOWN_MAX: usize = 4096;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct EffectApi {
    pub(super) context: Arc<Context>,
}

#[tonic::async_trait]
impl EffectService for EffectApi {
    type WatchEffectsStream = Watched<WatchEffectsResponse>;

    async fn list_effects(
        &self,
        request: Request<ListEffectsRequest>,
    ) -> Result<Response<ListEffectsResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListEffectsRequest { filter, page_size: asked, page_token } = request.into_inner();
        let limit = page_size(asked, 1000)?;
        let query = effect_list::query(filter.unwrap_or_default())?;
        let (effects, next) = effect_list::page(&context, query, effect_list::token(&page_token)?, limit).await?;
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(Response::new(ListEffectsResponse { effects, next_page_token }))
    }

    async fn get_effect(&self, request: Request<GetEffectRequest>) -> Result<Response<GetEffectResponse>, Status> {
        let context = self.context.of(&request)?;
        let effect = context.effect(id(&request.into_inner().effect_id)?).await?;
        Ok(Response::new(GetEffectResponse { effect: Some(effect) }))
    }

    async fn retry_effect(
        &self,
        request: Request<RetryEffectRequest>,
    ) -> Result<Response<RetryEffectResponse>, Status> {
        let context = self.context.of(&request)?;
        let effect = id(&request.into_inner().effect_id)?;
        match change(&context, effect, EffectChange::Retry).await? {
            Some(_) => {}
            None => {
                // It has ended, or never was.
                let ended = context.effect(effect).await?;
                return Err(ended_already(effect, &ended, "tried again"));
            }
        }
        Ok(Response::new(RetryEffectResponse { effect: Some(context.effect(effect).await?) }))
    }

    async fn cancel_effect(
        &self,
        request: Request<CancelEffectRequest>,
    ) -> Result<Response<CancelEffectResponse>, Status> {
        let context = self.context.of(&request)?;
        let effect = id(&request.into_inner().effect_id)?;
        if let Some(cancelled) = change(&context, effect, EffectChange::Cancel).await? {
            let effect_ids = cancelled.iter().map(ToString::to_string).collect();
            return Ok(Response::new(CancelEffectResponse { effect_ids }));
        }
        let ended = context.effect(effect).await?;
        if ended.status == effects::code(EffectStatus::Cancelled) {
            return Ok(Response::new(CancelEffectResponse::default()));
        }
        Err(ended_already(effect, &ended, "cancelled"))
    }

    async fn watch_effects(
        &self,
        request: Request<WatchEffectsRequest>,
    ) -> Result<Response<Self::WatchEffectsStream>, Status> {
        let context = self.context.of(&request)?;
        let WatchEffectsRequest { filter, from_seq } = request.into_inner();
        let query = effect_list::query(filter.unwrap_or_default())?;
        let walk = Walk::start(&context, from_seq);
        let (sender, watched) = watch::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = show(&context, walk, &query, &sender) => {}
                () = sender.gone() => {}
            }
        });
        Ok(Response::new(watched))
    }
}

fn id(text: &str) -> Result<EffectId, Status> {
    text.parse().map_err(|error| status::invalid(Invalid::new("effect_id", error)).into())
}

fn ended_already(effect: EffectId, ended: &Effect, what: &str) -> Status {
    let word = mindos_proto::effect::v1::EffectStatus::try_from(ended.status)
        .ok()
        .and_then(|status| EffectStatus::try_from(status).ok())
        .map_or("gone", EffectStatus::as_str);
    Status::failed_precondition(format!("effect {effect} is {word}: it cannot be {what} any more"))
}

/// Has the plane change an effect; `None` when it is not open there.
async fn change(context: &Scoped, effect: EffectId, change: EffectChange) -> Result<Option<Vec<EffectId>>, Status> {
    let input = |request| Input::ChangeEffect {
        request,
        tenant: context.tenant().clone(),
        effect,
        change,
        by: context.by(),
        from: context.from(),
    };
    match context.handle.call(input).await {
        Ok(Reply::EffectsChanged { effects, at: _ }) => Ok(Some(effects)),
        Ok(other) => Err(super::unexpected(&other)),
        Err(CallError::Rejected(Rejection::UnknownEffect { .. })) => Ok(None),
        Err(error) => Err(status::call(&error).into()),
    }
}

/// Sends every change until the watcher goes.
async fn show(
    context: &Scoped,
    mut walk: Walk,
    query: &EffectQuery,
    sender: &Sender<WatchEffectsResponse>,
) -> Result<(), Ended> {
    let known = walk.known();
    let mut states = States::default();
    if walk.next() > known {
        sender.send(WatchEffectsResponse { effect: None, seq: known.0, caught_up: true }, walk.next()).await?;
    }
    loop {
        let from = walk.next();
        let step = match walk.step().await {
            Ok(Step::Closed) => return Err(sender.end(status::stopped(crate::driver::Stopped).into())),
            Ok(step) => step,
            Err(status) => return Err(sender.end(status)),
        };
        for entry in step.entries() {
            let Some(effect) = states.change(context, entry).await else { continue };
            if query.fits(&effect) {
                let caught_up = entry.seq >= known;
                let response = WatchEffectsResponse { effect: Some(effect), seq: entry.seq.0, caught_up };
                sender.send(response, entry.seq).await?;
            }
        }
        let seq = Seq(walk.next().0 - 1);
        let caught_up = seq >= known;
        if matches!(step, Step::Quiet) || caught_up && from <= known {
            sender.send(WatchEffectsResponse { effect: None, seq: seq.0, caught_up }, walk.next()).await?;
        }
    }
}

/// Effects of late, as they are; bounded.
#[derive(Debug, Default)]
struct States {
    known: HashMap<EffectId, Effect, FixedState>,
    order: VecDeque<EffectId>,
}

impl States {
    async fn change(&mut self, context: &Scoped, entry: &Entry) -> Option<Effect> {
        let (_, id) = effects::subject(entry).filter(|(tenant, _)| *tenant == context.tenant())?;
        let mut effect = match &entry.record {
            Record::EffectIntended(record) => effects::intended(entry.seq, entry.at, record),
            _ => match self.known.remove(&id) {
                Some(known) => known,
                None => recall(context, id, entry.seq).await?,
            },
        };
        effects::fold(&mut effect, entry);
        if self.known.len() >= KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(id, effect.clone()).is_none() {
            self.order.push_back(id);
        }
        Some(effect)
    }
}

/// An effect from before the watch, as it was before a record about it.
async fn recall(context: &Scoped, effect: EffectId, before: Seq) -> Option<Effect> {
    let read = context.blocking(move |context| effect_list::as_it_was(context, effect, before));
    read.await.ok()?.ok().flatten()
}
