//! Publishing with conditions: events that were judged against another table than the one in force are judged again.
//!
//! Invariants: a publisher sees one answer to each event, in their order, and never that it was judged more than once. Events that are
//! offered together, and batches of one stream that are under way together, were judged by one table: the plane gives back all from the
//! first on for which that is not the one in force, since no table comes back into force, so none is accepted before an earlier one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mindos_core::input::{Input, NewEvent, Query};
use mindos_core::output::Reply;
use mindos_model::{Seq, TenantName};
use tokio::sync::oneshot;

use super::judge::More;
use crate::driver::{Answer, CallError, Stopped};
use crate::grpc::Context;
use crate::priority;

/// How long an event waits for its conditions to be evaluated, where they take long.
const TURN_MAX: std::time::Duration = std::time::Duration::from_secs(2);
/// How far the thread for those stands back.
const NICENESS: i32 = 15;
/// Before the table in force is asked for once more, where the plane has no room for the question.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

impl Context {
    /// Publishes one event, however often it has to be judged.
    pub(crate) async fn publish_one(self: &Arc<Self>, mut event: Box<NewEvent>) -> Result<Reply, CallError> {
        loop {
            match self.handle.call(|request| Input::Publish { request, event }).await? {
                Reply::Unjudged(unjudged) => event = unjudged,
                reply => return Ok(reply),
            }
            self.learn_routes(&event.tenant).await?;
            self.judges.count_again(1);
            self.judge(&mut event).await;
        }
    }

    /// Judges an event by the table that is known to be in force.
    pub(crate) async fn judge(self: &Arc<Self>, event: &mut NewEvent) {
        match self.judges.judge(event) {
            More::Nothing => {}
            More::Data => *event = self.judge_reading(event.clone()).await,
            More::Time => self.judge_slowly(event).await,
        }
    }

    /// Judges an event whose conditions take long, on a thread that stands back behind all others. One at a time: whoever sends many
    /// such events waits for their own, and after [`TURN_MAX`] has them taken as they were found.
    async fn judge_slowly(self: &Arc<Self>, event: &mut NewEvent) {
        let turn = tokio::time::timeout(TURN_MAX, Arc::clone(&self.slow_judges).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            self.judges.no_turn.fetch_add(1, Ordering::Relaxed);
            event.judged.iter().for_each(|judged| self.judges.count_failed(*judged));
            return;
        };
        let (context, mut its) = (Arc::clone(self), event.clone());
        let (done, judged) = oneshot::channel();
        let thread = std::thread::Builder::new().name("slow-judge".to_owned()).spawn(move || {
            let _turn = turn;
            priority::make_room(NICENESS);
            context.judges.judge_slowly(&mut its);
            let _ = done.send(its);
        });
        if thread.is_ok()
            && let Ok(its) = judged.await
        {
            *event = its;
        }
    }

    /// Has all of these events, which are of one tenant, judged by one table, and says by which. Another may have come into force
    /// between two of them.
    pub(crate) async fn judge_alike(self: &Arc<Self>, events: &mut [NewEvent]) -> Result<Option<Seq>, Stopped> {
        let Some(first) = events.first() else { return Ok(None) };
        self.know_routes(&first.tenant).await?;
        let table = |event: &NewEvent| event.judged.map(|judged| judged.table);
        loop {
            let newest = events.iter().map(table).max().flatten();
            let mut all = true;
            for event in events.iter_mut().filter(|event| table(event) != newest || newest.is_none()) {
                all = false;
                self.judge(event).await;
            }
            if all {
                return Ok(newest);
            }
        }
    }

    /// Learns a tenant's table where none is known.
    async fn know_routes(&self, tenant: &TenantName) -> Result<(), Stopped> {
        while !self.judges.knows(tenant) {
            self.learn_patiently(tenant).await?;
        }
        Ok(())
    }

    async fn learn_patiently(&self, tenant: &TenantName) -> Result<(), Stopped> {
        loop {
            match self.learn_routes(tenant).await {
                Ok(()) => return Ok(()),
                // Nothing was lost: the events are still here.
                Err(CallError::Full(_)) => tokio::time::sleep(ASK_AGAIN).await,
                Err(CallError::Stopped(_) | CallError::Rejected(_)) => return Err(Stopped),
            }
        }
    }

    /// Judges an event whose data a condition asked for and which are in a blob.
    pub(crate) async fn judge_reading(self: &Arc<Self>, mut event: NewEvent) -> NewEvent {
        // Each holds as much as its data take.
        let Ok(permit) = Arc::clone(&self.data_reads).acquire_owned().await else { return event };
        let (context, kept) = (Arc::clone(self), event.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            context.judges.judge_reading(&mut event, &context.blobs);
            event
        });
        // Judged as if the data were not there.
        judged.await.unwrap_or(kept)
    }

    /// Judges those again that the plane gave back, until it has answered all.
    pub(crate) async fn settle_unjudged(self: &Arc<Self>, answers: &mut [Answer]) -> Result<(), Stopped> {
        loop {
            let mut places = Vec::new();
            let mut events = Vec::new();
            for (place, answer) in answers.iter_mut().enumerate() {
                if let Ok(Reply::Unjudged(event)) = answer {
                    places.push(place);
                    events.push(NewEvent::clone(event));
                }
            }
            let Some(first) = events.first() else { return Ok(()) };
            self.learn_patiently(&first.tenant).await?;
            self.judges.count_again(events.len());
            for event in &mut events {
                self.judge(event).await;
            }
            self.judge_alike(&mut events).await?;
            let again = self.handle.publish(events).await?.answers().await?;
            for (place, answer) in places.into_iter().zip(again) {
                answers[place] = answer;
            }
        }
    }

    /// Asks the plane for a tenant's table in force and has it judged by from here on.
    pub(crate) async fn learn_routes(&self, tenant: &TenantName) -> Result<(), CallError> {
        let ask = |request| Input::Query { request, tenant: tenant.clone(), query: Query::Routes };
        if let Reply::Routes { table, at } = self.handle.call(ask).await? {
            self.judges.learn(tenant, table, at);
        }
        Ok(())
    }
}
