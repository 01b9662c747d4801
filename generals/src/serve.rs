//! What one program serves with: a profile, its models, and how a run is begun for each way work comes in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mindos_model::{FailureKind, Timestamp};
use mindos_outgoing::Outgoing;
use mindos_sdk::{Blobs, Ceilings, Failure, General, ModelLoad, Output, RepositoryAccess, Work};
use serde_json::Value;

use crate::coding::Hands;
use crate::model::Meter;
use crate::request::Asked;
use crate::run::{Brain, Follower, Run, Steps, fence_bits};
use crate::{Event, Profile, Report};

/// A general, however it is reached.
#[derive(Clone, Debug)]
pub struct Served {
    pub profile: Arc<Profile>,
    pub brain: Brain,
    /// What asks forges, for all runs.
    pub outgoing: Outgoing,
    /// What the workflow `coding` works with.
    pub hands: Hands,
}

impl Served {
    /// A general of a profile with models.
    #[must_use]
    pub fn new(profile: Profile, brain: Brain) -> Served {
        Served { profile: Arc::new(profile), brain, outgoing: Outgoing::new(), hands: Hands::default() }
    }

    /// A general of a profile that asks no model.
    #[must_use]
    pub fn without_model(profile: Profile) -> Served {
        Served::new(profile, Brain::none())
    }

    /// Works on what came by itself, within these ceilings, and says how far it is to whoever follows.
    ///
    /// # Errors
    /// By kind.
    pub(crate) async fn once(
        &self,
        asked: Asked,
        ceilings: Ceilings,
        follower: Option<Follower>,
    ) -> Result<Report, Failure> {
        let Asked { event, access, checkpoint } = asked;
        let meter = Meter::own(ceilings);
        let steps = Steps::new(follower, meter.clone(), &checkpoint, fence_bits()?);
        self.run(event, access, meter, steps, None).go().await
    }

    fn run(
        &self,
        event: Event,
        access: Option<RepositoryAccess>,
        meter: Meter,
        steps: Steps,
        blobs: Option<Blobs>,
    ) -> Run {
        let Served { profile, brain, outgoing, hands } = self.clone();
        let hands = Hands { blobs, ..hands };
        Run { profile, event: Arc::new(event), outgoing, access, brain, meter, steps, hands, now: now() }
    }

    /// Works on a delivery of the stream.
    async fn work(&self, work: Work) -> Result<Output, Failure> {
        let meter = Meter::stream(work.spending());
        let event = Event::of_work(&work);
        let access = access(&work, &event).await?;
        let steps = Steps::new(Some(Follower::Stream(work.reporter())), meter.clone(), &work.checkpoint, fence_bits()?);
        let report = self.run(event, access, meter.clone(), steps, Some(work.blobs())).go().await?;
        output(report, &meter)
    }
}

impl General for Served {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let stopped = work.stopped();
        tokio::select! {
            output = self.work(work) => output,
            // What was paid for is in the checkpoint; whoever goes on begins there.
            _ = stopped => Err(Failure::new(FailureKind::Cancelled, "stopped")),
        }
    }

    fn keeps_ceilings(&self) -> bool {
        true
    }

    async fn models(&self) -> Vec<ModelLoad> {
        self.brain.loads()
    }
}

/// Read access to the event's repository, where there is one and the control plane has any to give.
async fn access(work: &Work, event: &Event) -> Result<Option<RepositoryAccess>, Failure> {
    if event.repository().is_none() {
        return Ok(None);
    }
    match work.repository_access().await {
        Ok(access) => Ok(Some(access)),
        // There is none to be had: then the event has to do.
        Err(Failure { kind: FailureKind::Poison, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A report as an output: its intents go beside it.
fn output(report: Report, meter: &Meter) -> Result<Output, Failure> {
    let mut report = report;
    let effects = std::mem::take(&mut report.effects).into_iter().map(Into::into).collect();
    let json = serde_json::to_vec(&report)
        .map_err(|error| Failure::poison(format!("the report is not to be written: {error}")))?;
    Ok(Output { effects, usage: meter.used(), ..Output::json(Bytes::from(json)) })
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Event {
    /// The event of a delivery.
    fn of_work(work: &Work) -> Event {
        let event = &work.event;
        let bytes = event.bytes();
        let data = serde_json::from_slice(&bytes).unwrap_or_else(|_| match bytes.is_empty() {
            true => Value::Null,
            false => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        });
        let text = |name: &str| event.attribute(name).map(std::borrow::Cow::into_owned);
        Event {
            event_type: text("kind").unwrap_or_else(|| event.ty().to_owned()),
            job_id: Some(work.job_id()),
            id: Some(event.id().to_owned()),
            source: Some(event.source().to_owned()),
            subject: text("subject"),
            time: text("time").and_then(|time| time.parse().ok()),
            extensions: event.attributes().map(|(name, value)| (name.to_owned(), value.into_owned())).collect(),
            data,
        }
    }
}
