//! The broker: takes effects that are due, has them carried out, and says what came of it.
//!
//! It is woken by records of effects as they become durable, by time, and by a change of the settings. What it knows it knows from the
//! plane, so a restart loses nothing: an effect whose end was not recorded is due again, and its executor finds what was done. Invariant:
//! one effect is tried by one task at a time, and few of one owner, so that a limit of one holds up nobody else.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mindos_core::effect::{EffectOutcome, EffectReport, EffectView};
use mindos_core::input::{Input, Query};
use mindos_core::output::Reply;
use mindos_core::record::{Batch, Record};
use mindos_model::{EffectId, TenantName, Timestamp};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::attempt::{Attempt, Verdict};
use super::service::{Counts, Effects};
use super::settings::Mode;
use crate::driver::{Followed, Handle};
use crate::grpc::Context;

/// Effects that are tried at a time, in all and for one owner of repositories.
const TRIED_MAX: usize = 16;
const TRIED_OF_OWNER_MAX: usize = 8;
/// Effects asked for at a time. A look takes the first of these pages; all of them are looked through now and then, so that those of an
/// owner who is held up do not hide the others.
const PAGE: u32 = 64;
const PAGES_MAX: usize = 200;
const WHOLE_LOOK: Duration = Duration::from_secs(1);
/// Without any word it looks this often.
const LOOK: Duration = Duration::from_secs(5);
/// What the process before sent to GitHub has arrived by then.
const AFTER_START: Duration = Duration::from_secs(1);
/// The longest that one try may take.
const TRY_MAX: Duration = Duration::from_secs(600);
/// How long tries may go on when the server drains; whatever is cut is found again.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Between two questions who we are, while there is no answer.
const LEARN_MAX: Duration = Duration::from_secs(300);
/// Times that are remembered as those when something is due again.
const TIMES_MAX: usize = 20_000;

impl Effects {
    /// Carries out what is due until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let Effects { accounts, handle, counts } = self;
        let attempt = Arc::new(Attempt { accounts, context: Arc::clone(&context) });
        let broker = Broker {
            attempt,
            handle,
            counts,
            trying: HashMap::new(),
            tries: JoinSet::new(),
            held: HashMap::new(),
            times: BTreeSet::new(),
            whole_at: None,
        };
        broker.run(&context).await;
    }
}

struct Broker {
    attempt: Arc<Attempt>,
    handle: Handle,
    counts: Arc<Counts>,
    /// What is being tried, and of whom it is.
    trying: HashMap<EffectId, String>,
    tries: JoinSet<(EffectId, Verdict)>,
    /// Owners of whom nothing is tried until then.
    held: HashMap<String, Timestamp>,
    /// When something is due again.
    times: BTreeSet<Timestamp>,
    /// When all that was due was last looked through.
    whole_at: Option<Instant>,
}

impl Broker {
    async fn run(mut self, context: &Context) {
        let mut follower = self.handle.subscribe();
        let mut settings = self.attempt.accounts.settings();
        let mut learning = tokio::spawn(learn(Arc::clone(&self.attempt)));
        let mut next = Instant::now() + AFTER_START;
        let began = next;
        let drained = context.drained();
        tokio::pin!(drained);
        loop {
            let wakes = tokio::select! {
                followed = follower.next() => match followed {
                    Followed::Batch(batch) => self.is_news(&batch),
                    Followed::Lagged { .. } => true,
                    Followed::Idle => false,
                    Followed::Closed => break,
                },
                Some(tried) = self.tries.join_next() => {
                    if self.report(tried).await.is_err() {
                        break;
                    }
                    true
                }
                () = tokio::time::sleep_until(next) => true,
                () = &mut drained => break,
            };
            if !wakes || Instant::now() < began {
                continue;
            }
            let now_in_force = self.attempt.accounts.settings();
            if !Arc::ptr_eq(&settings, &now_in_force) {
                settings = now_in_force;
                // Other credentials may have limits of their own.
                self.held.clear();
                learning.abort();
                learning = tokio::spawn(learn(Arc::clone(&self.attempt)));
            }
            if self.look(settings.mode).await.is_err() {
                debug!("effects were not looked at: the plane is busy or gone");
            }
            next = Instant::now() + self.wait();
        }
        learning.abort();
        let finish = async {
            while let Some(tried) = self.tries.join_next().await {
                if self.report(tried).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(DRAIN_MAX, finish).await.is_err() {
            info!("effects that were being carried out were left: what they did is found again");
        }
    }

    /// Whether a batch says something of effects.
    fn is_news(&mut self, batch: &Batch) -> bool {
        let mut is_news = false;
        for entry in &batch.entries {
            match &entry.record {
                Record::EffectDeferred(record) => self.remember(record.not_before),
                Record::EffectIntended(_) | Record::EffectEnded(_) | Record::EffectRevived(_) => {}
                _ => continue,
            }
            is_news = true;
        }
        is_news
    }

    fn remember(&mut self, at: Timestamp) {
        if self.times.len() < TIMES_MAX {
            self.times.insert(at);
        }
    }

    /// How long until the next look.
    fn wait(&mut self) -> Duration {
        let now = self.handle.now();
        self.times = self.times.split_off(&Timestamp(now.0 + 1));
        let until = |at: &Timestamp| at.since(now) + Duration::from_millis(1);
        let soonest = self.times.first().map(until);
        let held = self.held.values().map(until).min();
        [soonest, held].into_iter().flatten().min().unwrap_or(LOOK).min(LOOK)
    }

    /// Begins with what is due, as far as there is room.
    async fn look(&mut self, mode: Mode) -> Result<(), crate::driver::CallError> {
        if mode == Mode::Off {
            return Ok(());
        }
        let now = self.handle.now();
        self.held.retain(|_, until| *until > now);
        let mut after = None;
        let is_whole = self.whole_at.is_none_or(|at| at.elapsed() >= WHOLE_LOOK);
        for page in 0..PAGES_MAX {
            if self.trying.len() >= TRIED_MAX || page > 0 && !is_whole {
                return Ok(());
            }
            let (tenant, query) = (TenantName::default_tenant(), Query::EffectsDue { after, limit: PAGE });
            let reply = self.handle.call(|request| Input::Query { request, tenant, query }).await?;
            let Reply::Effects(due) = reply else { return Ok(()) };
            let is_last = due.len() < PAGE as usize;
            after = due.last().map(|view| view.effect);
            due.into_iter().for_each(|view| self.begin(view));
            if is_last {
                break;
            }
        }
        self.whole_at = Some(Instant::now());
        Ok(())
    }

    fn begin(&mut self, view: EffectView) {
        let owner = view.target.split_once('/').map_or("", |(owner, _)| owner).to_ascii_lowercase();
        let of_owner = self.trying.values().filter(|other| **other == owner).count();
        if self.trying.len() >= TRIED_MAX
            || of_owner >= TRIED_OF_OWNER_MAX
            || self.trying.contains_key(&view.effect)
            || self.held.contains_key(&owner)
        {
            return;
        }
        let effect = view.effect;
        self.trying.insert(effect, owner);
        self.counts.trying.store(self.trying.len() as u64, Ordering::Relaxed);
        let attempt = Arc::clone(&self.attempt);
        self.tries.spawn(async move {
            let clock = attempt.context.handle.clock();
            // In a task of its own, which ends with this one, so that what panics is told of like all else.
            let mut tried = JoinSet::new();
            tried.spawn(async move { attempt.run(view).await });
            let verdict = match tokio::time::timeout(TRY_MAX, tried.join_next()).await {
                Ok(Some(Ok(verdict))) => verdict,
                Ok(_) => Verdict::later(clock.now(), "its try ended without a word"),
                Err(_) => Verdict::later(clock.now(), "it took too long"),
            };
            (effect, verdict)
        });
    }

    /// Tells the plane what came of a try.
    async fn report(
        &mut self,
        tried: Result<(EffectId, Verdict), tokio::task::JoinError>,
    ) -> Result<(), crate::driver::Stopped> {
        // It panics nowhere: what it runs has a task of its own.
        let Ok((effect, verdict)) = tried else { return Ok(()) };
        let Verdict { report, hold } = verdict;
        note(&self.counts, &report);
        let owner = self.trying.remove(&effect);
        self.counts.trying.store(self.trying.len() as u64, Ordering::Relaxed);
        if let (Some(until), Some(owner)) = (hold, owner) {
            self.held.insert(owner, until);
        }
        // Before the next question what is due, so that the answer knows of it.
        self.handle.send(&mut vec![Input::Effect { effect, report }]).await
    }
}

/// Finds out who we are on GitHub, before anything of ours comes back as an event.
async fn learn(attempt: Arc<Attempt>) {
    let mut wait = LOOK;
    while let Err(error) = attempt.accounts.learn().await {
        warn!(%error, "GitHub did not say under which login effects are written");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LEARN_MAX);
    }
}

fn note(counts: &Counts, report: &EffectReport) {
    let count = match report {
        EffectReport::Ended(EffectOutcome::Done { .. }) => &counts.done,
        EffectReport::Ended(EffectOutcome::DryRun { .. }) => &counts.dry_run,
        EffectReport::Ended(EffectOutcome::Failed { .. } | EffectOutcome::Cancelled { .. }) => &counts.failed,
        EffectReport::Defer { counted: true, .. } => &counts.transient,
        EffectReport::Defer { counted: false, .. } => &counts.limited,
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// What earlier effects of a series observed, by their places.
pub(super) fn observed(view: &EffectView) -> Vec<Option<serde_json::Value>> {
    let one = |earlier: &mindos_core::effect::Earlier| serde_json::from_str(earlier.observed.as_deref()?).ok();
    view.earlier.iter().map(one).collect()
}
