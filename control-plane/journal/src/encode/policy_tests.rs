//! What routes, deliveries and events got since the first release comes back, and stands nowhere where it is not used.

use std::time::Duration;

use mindos_core::affinity::{Affinity, Place, Preference};
use mindos_core::feedback::FeedbackRule;
use mindos_core::record::*;
use mindos_core::route::{Coalesce, Degrade, Match, NoGeneral, Retry, Route, Targets, Weight};
use mindos_core::snapshot::Item;
use mindos_model::{DeliveryId, Seq, Strategy, Timestamp};
use mindos_proto::journal::v1 as pb;
use prost::Message;

use super::samples;
use super::{Names, decode, encode, message, read, route, state, words};
use crate::fault::Random;

/// Bytes of records that say `degraded` or `unanswered`, as this release writes them.
const GOLDEN: &str = include_str!("degraded_golden.txt");

fn accepted(random: &mut Random) -> Entry {
    let entry = samples::entry(random, 1, Seq(9));
    assert_eq!(entry.record.kind(), "EventAccepted");
    entry
}

fn terms(random: &mut Random) -> Option<Box<Terms>> {
    let mut time = || Timestamp(if random.chance(50) { 0 } else { 1 + random.below(1 << 41) });
    let (not_before, burst_since, expires) = (time(), time(), time());
    Terms { shadow: random.chance(50), not_before, burst_since, expires }.boxed()
}

#[test]
fn terms_of_deliveries_come_back_both_ways() {
    let (mut names, mut random) = (Names::default(), Random::new(11));
    for _ in 0..500 {
        let mut entry = accepted(&mut random);
        let Record::EventAccepted(record) = &mut entry.record else { panic!("another kind") };
        record.strategy = Some(Strategy::ALL[random.below(Strategy::ALL.len() as u64) as usize]);
        record.fell_back_from = random.chance(50).then(|| "from".parse().unwrap());
        record.deliveries.iter_mut().for_each(|planned| planned.terms = terms(&mut random));
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);

        assert_eq!(bytes, message(&entry).encode_to_vec());
        let payload = entry.record.payload().cloned();
        assert_eq!(decode(&mut names, Seq(9), &bytes, payload.clone()).unwrap().as_ref(), Some(&entry));
        let kind = pb::Entry::decode(&*bytes).unwrap().record.unwrap();
        assert_eq!(read::from_message(&mut names, kind, payload).unwrap(), entry.record);
    }
}

#[test]
fn that_work_was_degraded_comes_back_both_ways() {
    let (mut names, mut random) = (Names::default(), Random::new(13));
    for at in 0..500_u64 {
        let mut entry = samples::entry(&mut random, 1 + at % 2, Seq(9));
        let mut degraded = |tenant: &mindos_model::TenantName| {
            let from = (0..random.below(4)).map(|_| samples::general(&mut random, tenant)).collect();
            let percent = 1 + random.below(120) as u32;
            random.chance(70).then(|| Box::new(Degraded { budget: "team".parse().unwrap(), percent, from }))
        };
        match &mut entry.record {
            Record::EventAccepted(record) => {
                let tenant = record.tenant.clone();
                record.deliveries.iter_mut().for_each(|planned| planned.degraded = degraded(&tenant));
            }
            Record::DeliveryLeased(record) => record.degraded = degraded(&record.general.tenant),
            other => panic!("another kind: {}", other.kind()),
        }
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);

        assert_eq!(bytes, message(&entry).encode_to_vec());
        let payload = entry.record.payload().cloned();
        assert_eq!(decode(&mut names, Seq(9), &bytes, payload.clone()).unwrap().as_ref(), Some(&entry));
        let kind = pb::Entry::decode(&*bytes).unwrap().record.unwrap();
        assert_eq!(read::from_message(&mut names, kind, payload).unwrap(), entry.record);
    }
}

#[test]
fn the_bytes_of_what_was_degraded_or_never_answered_are_those_of_the_golden_file() {
    let (mut names, mut random) = (Names::default(), Random::new(14));
    let mut found = Vec::new();
    // Events, leases and cancelled leases, twice each.
    for kind in [1, 2, 5, 1, 2, 5] {
        let mut entry = samples::entry(&mut random, kind, Seq(9));
        let mut degraded = |tenant: &mindos_model::TenantName, percent| {
            let from = (0..2).map(|_| samples::general(&mut random, tenant)).collect();
            Some(Box::new(Degraded { budget: "team".parse().unwrap(), percent, from }))
        };
        match &mut entry.record {
            Record::EventAccepted(record) => {
                let tenant = record.tenant.clone();
                record.deliveries.truncate(2);
                record.deliveries.iter_mut().for_each(|planned| planned.degraded = degraded(&tenant, 81));
            }
            Record::DeliveryLeased(record) => record.degraded = degraded(&record.general.tenant, 110),
            Record::DeliveryCancelled(record) => record.unanswered = true,
            other => panic!("another kind: {}", other.kind()),
        }
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);
        found.push((entry, bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
    }
    let written: String = found.iter().map(|(_, hex)| format!("{hex}\n")).collect();
    assert_eq!(written, GOLDEN, "{written}");
    // And those bytes mean what they meant.
    for ((entry, _), line) in found.iter().zip(GOLDEN.lines()) {
        let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
        let payload = entry.record.payload().cloned();
        assert_eq!(decode(&mut names, Seq(9), &bytes, payload).unwrap().as_ref(), Some(entry));
    }
}

#[test]
fn snapshots_keep_terms_and_races() {
    let (mut names, mut random) = (Names::default(), Random::new(12));
    let mut events = 0;
    while events < 200 {
        let mut item = samples::item(&mut random);
        let Item::Event(event) = &mut item else { continue };
        events += 1;
        event.race = random.chance(50);
        event.deliveries.iter_mut().for_each(|delivery| delivery.terms = terms(&mut random));
        let mut bytes = Vec::new();
        state::encode(&item, &mut bytes);

        let mut back = Vec::new();
        state::decode(&mut names, &bytes, &mut |item| back.push(item)).unwrap();
        assert_eq!(back, [item]);
    }
}

#[test]
fn every_policy_comes_back_and_the_usual_one_takes_no_room() {
    let ms = Duration::from_millis;
    let targets = Targets { types: vec!["a".parse().unwrap()], ..Targets::default() };
    let usual = Route::new("r".parse().unwrap(), Match::default(), targets.clone(), Strategy::Broadcast);
    let bytes = route::to_message(&usual).encode_to_vec();
    for (strategy, no_general) in Strategy::ALL.iter().zip([
        NoGeneral::Wait,
        NoGeneral::Refuse,
        NoGeneral::FallBackRoute("other".parse().unwrap()),
        NoGeneral::FallBackType("other".parse().unwrap()),
    ]) {
        let mut route = usual.clone();
        route.strategy = *strategy;
        route.coalesce = Coalesce::Debounce { quiet: ms(2000), longest: ms(30_000) };
        route.targets.weights = vec![Weight { target: "v=1".into(), weight: 3 }];
        route.policy.shadow = Some(targets.clone());
        route.policy.ttl = Some(ms(1500));
        route.policy.retry = Retry { first: ms(10), longest: ms(20) };
        route.policy.no_general = no_general;
        route.policy.version_min = Some("1.4".parse().unwrap());
        route.policy.degrade =
            vec![Degrade { from: Some("big".into()), to: "small".into() }, Degrade { from: None, to: "tiny".into() }];
        route.policy.feedback = Some(FeedbackRule { weight: 200, floor: 50 });
        route.policy.residency = vec!["eu-west".parse().unwrap()];
        let place = Place {
            clusters: vec!["c1".parse().unwrap()],
            regions: vec!["eu-west".parse().unwrap(), "eu-central".parse().unwrap()],
            labels: vec![("gpu".into(), "a100".into())],
        };
        let prefer = vec![
            Preference { weight: 40, place: place.clone() },
            Preference { weight: 1, place: Place { clusters: Vec::new(), ..place.clone() } },
        ];
        let require = if route.strategy == Strategy::Sticky { Place::default() } else { place };
        route.policy.affinity = Some(Box::new(Affinity { require, prefer }));
        assert_eq!(route::from_message(route::to_message(&route)).unwrap(), route);
    }
    // Name, match, targets, strategy, count, coalesce, attempts, deadline and longest block, as in the first release.
    let tags = bytes.iter().filter(|byte| **byte == (11 << 3 | 2) || **byte == (15 << 3 | 2)).count();
    assert_eq!(tags, 0, "{bytes:?}");
}

#[test]
fn every_reason_to_cancel_comes_back() {
    let by = DeliveryId::new(Seq(7), 2);
    let reasons = [
        CancelReason::Requested,
        CancelReason::Superseded { by },
        CancelReason::RaceLost { by },
        CancelReason::Expired,
        CancelReason::ShadowFailed,
        CancelReason::ReplayFailed,
        CancelReason::ReplayOverBudget,
    ];
    for reason in reasons {
        let (number, superseded_by) = words::of_cancel(reason);
        assert_eq!(words::cancel(number, superseded_by), Ok(Some(reason)));
    }
}
