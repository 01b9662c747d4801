//! What is promised of effects, on the state alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mindos_model::{EffectId, EffectStatus, GeneralName, Seq, TenantName, Timestamp, Token, limits};

use super::decide::backoff;
use super::*;
use crate::durable::Durable;
use crate::input::{Entropy, Input, RequestId};
use crate::output::{Output, Rejection, Reply};
use crate::plane::{Limits, Plane};
use crate::record::{EpochCause, Payload, Record};

const T0: Timestamp = Timestamp(1_000_000);

/// A plane that takes intents in the name of one of its parts.
struct World {
    plane: Plane,
    now: Timestamp,
    entropy: u64,
}

fn intent(key: &str, target: &str) -> Intent {
    let parameters = Payload { salt: [0; 16], bytes: Bytes::from_static(b"{}") };
    Intent { key: Arc::from(key), kind: Arc::from("comment"), target: Arc::from(target), parameters }
}

impl World {
    fn new() -> World {
        let plane = Plane::new(Durable::new(), Limits::default(), "0.1.0", EpochCause::Start, T0);
        World { plane, now: T0, entropy: 0 }
    }

    fn offer(&mut self, input: Input) {
        self.entropy += 1;
        self.plane.offer(input, self.now, Entropy(self.entropy));
        self.plane.advance(self.now, Entropy(self.entropy));
        self.plane.check().unwrap();
    }

    /// Intents of one series, each a key and a target; returns the id that the first one got.
    fn intend(&mut self, intents: &[(&str, &str)]) -> EffectId {
        let first = EffectId(self.plane.durable().seq().next());
        let intents = intents.iter().map(|(key, target)| intent(key, target)).collect();
        let (tenant, part) = (TenantName::default_tenant(), GeneralName::new("intake").unwrap());
        self.offer(Input::Intend { tenant, event: Seq(1), part, intents });
        first
    }

    fn report(&mut self, effect: EffectId, report: EffectReport) {
        self.offer(Input::Effect { effect, report });
    }

    fn done(&mut self, effect: EffectId) {
        let observed = Arc::from(format!("{{\"number\":{}}}", effect.0));
        self.report(effect, EffectReport::Ended(EffectOutcome::Done { observed }));
    }

    fn fail(&mut self, effect: EffectId) {
        self.report(effect, EffectReport::Ended(EffectOutcome::Failed { message: Arc::from("no") }));
    }

    fn defer(&mut self, effect: EffectId, until: Timestamp, counted: bool) {
        self.report(effect, EffectReport::Defer { until, counted, why: Arc::from("busy") });
    }

    fn change(&mut self, effect: EffectId, change: EffectChange) -> Result<Vec<EffectId>, Rejection> {
        let (request, tenant) = (RequestId(7), TenantName::default_tenant());
        let (by, from) = (Arc::from("ada"), Arc::from("192.0.2.7"));
        self.offer(Input::ChangeEffect { request, tenant, effect, change, by, from });
        let end = self.plane.seal().map_or(self.plane.durable_seq(), |batch| batch.last());
        let outputs = self.plane.synced(end, self.now);
        let replies = outputs.into_iter().filter_map(|output| match output {
            Output::Reply { request: RequestId(7), reply } => Some(*reply),
            _ => None,
        });
        match replies.last().expect("it is answered")? {
            Reply::EffectsChanged { effects, .. } => Ok(effects),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.plane.advance(self.now, Entropy(0));
        self.plane.check().unwrap();
    }

    fn due(&self) -> Vec<EffectId> {
        self.plane.durable().effects.due_views(None).map(|view| view.effect).collect()
    }

    fn view(&self, effect: EffectId) -> EffectView {
        let (tenant, filter) = (TenantName::default_tenant(), EffectFilter::default());
        let effects = &self.plane.durable().effects;
        effects.fitting(&tenant, &filter, None).find(|view| view.effect == effect).expect("it is open")
    }

    /// The same world after a restart from its snapshot.
    fn restarted(&self) -> World {
        let durable = Durable::import(self.plane.durable().export());
        assert_eq!(durable.export(), self.plane.durable().export());
        let plane = Plane::new(durable, Limits::default(), "0.1.0", EpochCause::Start, self.now);
        let mut world = World { plane, now: self.now, entropy: self.entropy };
        world.pass(Duration::ZERO);
        world
    }
}

fn after(effect: EffectId, places: u64) -> EffectId {
    EffectId(Seq(effect.0.0 + places))
}

#[test]
fn effects_of_a_series_are_carried_out_one_after_the_other_and_tell_what_was_observed() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r"), ("b", "o/r#7"), ("c", "o/r#8")]);
    let (second, third) = (after(first, 1), after(first, 2));
    assert_eq!(world.due(), [first]);
    assert_eq!(world.view(third).behind, Some(first));

    // One whose turn has not come is not ended by a report.
    world.done(third);
    assert_eq!(world.due(), [first]);
    world.done(first);
    assert_eq!(world.due(), [second]);
    world.done(second);

    assert_eq!(world.due(), [third]);
    let observed: Vec<_> = world.view(third).earlier.iter().map(|one| one.observed.clone().unwrap()).collect();
    assert_eq!(observed, [format!("{{\"number\":{}}}", first.0).into(), format!("{{\"number\":{}}}", second.0).into()]);
    world.done(third);
    assert_eq!(world.due(), []);
    assert!(world.plane.durable().effects.series.is_empty());
}

#[test]
fn effects_on_one_target_keep_the_order_of_their_ids_and_others_do_not_wait() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r#7")]);
    let second = world.intend(&[("b", "o/r#7")]);
    let third = world.intend(&[("c", "o/r#8")]);
    assert_eq!(world.due(), [first, third]);
    assert_eq!(world.view(second).behind, Some(first));

    world.done(first);

    assert_eq!(world.due(), [second, third]);
}

#[test]
fn a_known_key_is_not_carried_out_again_and_is_the_effect_that_had_it_first() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r")]);
    let second = world.intend(&[("a", "o/r"), ("b", "o/r#7")]);
    // What comes after the repeated one waits until that is done.
    assert_eq!(world.due(), [first]);
    assert_eq!(world.view(after(second, 1)).behind, Some(first));

    world.done(first);

    assert_eq!(world.due(), [after(second, 1)]);
    let earlier = Earlier { effect: first, observed: Some(format!("{{\"number\":{}}}", first.0).into()) };
    assert_eq!(world.view(after(second, 1)).earlier, std::slice::from_ref(&earlier));
    world.done(after(second, 1));
    // Also when it ended long ago, and within one series.
    let third = world.intend(&[("a", "o/r"), ("c", "o/r#7"), ("c", "o/r#7"), ("d", "o/r#7")]);
    assert_eq!(world.due(), [after(third, 1)]);
    assert_eq!(world.view(after(third, 1)).earlier, [earlier]);
    world.done(after(third, 1));
    assert_eq!(world.due(), [after(third, 3)]);
    // Another tenant has keys of its own.
    let (tenant, part) = (TenantName::new("acme").unwrap(), GeneralName::new("intake").unwrap());
    world.offer(Input::Intend { tenant, event: Seq(1), part, intents: vec![intent("a", "o/r")] });
    assert_eq!(world.due().len(), 2);
}

#[test]
fn a_transient_failure_is_tried_again_with_a_growing_wait_until_it_has_failed() {
    let mut world = World::new();
    let effect = world.intend(&[("a", "o/r#7")]);
    for attempt in 1..limits::EFFECT_ATTEMPTS_MAX {
        world.defer(effect, Timestamp(0), true);
        assert_eq!(world.due(), []);
        let view = world.view(effect);
        assert_eq!((view.attempts, view.status, &*view.why), (attempt, EffectStatus::Waiting, "busy"));
        assert_eq!(view.not_before, Some(world.now + backoff(attempt)));
        world.pass(backoff(attempt) - Duration::from_millis(1));
        assert_eq!(world.due(), []);
        world.pass(Duration::from_millis(1));
        assert_eq!(world.due(), [effect]);
    }

    world.defer(effect, Timestamp(0), true);

    assert_eq!((world.due(), world.view(effect).status), (vec![], EffectStatus::Failed));
    assert_eq!(backoff(1), Duration::from_secs(1));
    assert_eq!(backoff(7), Duration::from_secs(64));
    assert_eq!(backoff(99), limits::EFFECT_RETRY_MAX);
}

#[test]
fn a_wait_for_a_limit_counts_as_no_try_and_is_bounded() {
    let mut world = World::new();
    let effect = world.intend(&[("a", "o/r#7")]);
    for _ in 0..3 * limits::EFFECT_ATTEMPTS_MAX {
        world.defer(effect, world.now + Duration::from_secs(3600), false);
        assert_eq!((world.due(), world.view(effect).attempts), (vec![], 0));
        world.pass(Duration::from_secs(3600));
        assert_eq!(world.due(), [effect]);
    }

    world.defer(effect, Timestamp::MAX, false);

    assert_eq!(world.view(effect).not_before, Some(world.now + limits::EFFECT_WAIT_MAX));
}

#[test]
fn a_failed_effect_holds_up_its_series_for_good_and_its_target_for_a_while() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r#7"), ("b", "o/r#8")]);
    let same_target = world.intend(&[("c", "o/r#7")]);
    let target_of_second = world.intend(&[("d", "o/r#8")]);
    world.fail(first);
    assert_eq!(world.due(), []);
    world.pass(limits::EFFECT_BLOCK_MAX - Duration::from_millis(1));
    assert_eq!(world.due(), []);

    world.pass(Duration::from_millis(1));

    assert_eq!(world.due(), [same_target, target_of_second]);
    assert_eq!(world.view(after(first, 1)).behind, Some(first));
    // A restart finds the same.
    let mut again = world.restarted();
    assert_eq!(again.due(), [same_target, target_of_second]);
    // Tried again it has its old place, and the others wait for it.
    assert_eq!(world.change(first, EffectChange::Retry), Ok(vec![first]));
    assert_eq!(world.due(), [first]);
    world.done(first);
    assert_eq!(world.due(), [after(first, 1), same_target]);
    assert_eq!(again.change(first, EffectChange::Cancel), Ok(vec![first, after(first, 1)]));
    assert_eq!(again.due(), [same_target, target_of_second]);
}

#[test]
fn only_what_failed_or_was_put_off_is_tried_again_and_only_what_is_open_is_cancelled() {
    let mut world = World::new();
    let effect = world.intend(&[("a", "o/r#7")]);
    let status = EffectStatus::Waiting;
    assert_eq!(world.change(effect, EffectChange::Retry), Err(Rejection::EffectNotFailed { effect, status }));
    world.defer(effect, Timestamp(0), true);
    assert_eq!(world.change(effect, EffectChange::Retry), Ok(vec![effect]));
    assert_eq!((world.due(), world.view(effect).attempts), (vec![effect], 0));
    assert_eq!(world.change(effect, EffectChange::Cancel), Ok(vec![effect]));
    for change in [EffectChange::Retry, EffectChange::Cancel] {
        assert_eq!(world.change(effect, change), Err(Rejection::UnknownEffect { effect }));
    }
    // A report that comes too late changes nothing.
    let before = world.plane.durable().seq();
    world.done(effect);
    assert_eq!(world.plane.durable().seq(), before);
}

#[test]
fn what_is_stuck_behind_a_failed_effect_of_another_series_holds_up_no_target() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r")]);
    let second = world.intend(&[("a", "o/r"), ("b", "o/r#7")]);
    let third = world.intend(&[("b", "o/r#7"), ("c", "o/r#8")]);
    let last = world.intend(&[("d", "o/r#8")]);
    world.fail(first);
    world.pass(limits::EFFECT_BLOCK_MAX);
    assert_eq!(world.due(), [last]);

    world.change(first, EffectChange::Retry).unwrap();

    assert_eq!(world.due(), [first]);
    world.done(first);
    assert_eq!(world.due(), [after(second, 1)]);
    world.done(after(second, 1));
    assert_eq!(world.due(), [after(third, 1)]);
}

#[test]
fn what_is_too_much_for_a_tenant_ends_as_failed_and_leaves_its_key_free() {
    let mut world = World::new();
    let many: Vec<String> = (0..limits::EFFECTS_OPEN_MAX - 1).map(|key| format!("k{key}")).collect();
    for keys in many.chunks(limits::EFFECTS_MAX) {
        let (tenant, part) = (TenantName::default_tenant(), GeneralName::new("intake").unwrap());
        let intents = keys.iter().map(|key| intent(key, "o/r")).collect();
        world.plane.offer(Input::Intend { tenant, event: Seq(1), part, intents }, world.now, Entropy(1));
    }
    let last = world.intend(&[("fits", "o/r#1"), ("over", "o/r#2")]);
    let open = world.plane.durable().effects.open.len();
    assert_eq!(open, limits::EFFECTS_OPEN_MAX);
    let mut records = Vec::new();
    while let Some(batch) = world.plane.seal() {
        world.plane.synced(batch.last(), world.now);
        records.extend(batch.entries);
    }
    let ended = records.iter().filter_map(|entry| match &entry.record {
        Record::EffectEnded(record) => Some((record.effect, record.outcome.status())),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [(after(last, 1), EffectStatus::Failed)]);
    // Room again: the key is as free as it was.
    world.done(last);
    let again = world.intend(&[("over", "o/r#2")]);
    assert!(world.due().contains(&again));
}

#[test]
fn a_redacted_event_ends_its_open_effects() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r#7"), ("b", "o/r#8")]);
    world.done(first);
    let (tenant, why) = (TenantName::default_tenant(), Arc::from("asked"));
    let (request, by, from) = (RequestId(1), Arc::from("ada"), Arc::from(""));
    world.offer(Input::Redact { request, tenant, events: vec![Seq(1)], why, by, from });
    assert_eq!(world.due(), []);
    assert!(world.plane.durable().effects.open.is_empty());
}

#[test]
fn folding_at_once_and_one_by_one_gives_the_same() {
    let mut world = World::new();
    let first = world.intend(&[("a", "o/r#7"), ("a", "o/r#7"), ("b", "o/r#8")]);
    world.defer(first, Timestamp(0), true);
    world.pass(Duration::from_secs(2));
    world.fail(first);
    world.intend(&[("b", "o/r#8"), ("c", "o/r#9")]);
    let batch = world.plane.seal().unwrap();
    assert_eq!(batch.first(), Seq(1));
    let (mut plain, mut at_once) = (Durable::new(), Durable::new());

    batch.entries.iter().for_each(|entry| plain.apply(entry));
    at_once.apply_all(&batch.entries);

    assert_eq!(plain.export(), at_once.export());
    assert_eq!(plain.export(), world.plane.durable().export());
}

#[test]
fn intents_of_the_plane_are_shown_as_its_own() {
    let mut world = World::new();
    let effect = world.intend(&[("a", "o/r#7")]);
    let view = world.view(effect);
    assert_eq!((view.general.to_string(), view.general_type.as_str()), ("plane/intake".to_owned(), "intake"));
    assert_eq!((view.delivery, view.token), (None, Token::default()));
    // An event that is not there yet is none.
    let before = world.plane.durable().seq();
    let (tenant, part) = (TenantName::default_tenant(), GeneralName::new("intake").unwrap());
    world.offer(Input::Intend { tenant, event: Seq(999), part, intents: vec![intent("z", "o/r")] });
    assert_eq!(world.plane.durable().seq(), before);
}
