//! What events say of other work, and what leases compare, comes back both ways, and takes no byte where it is not said.

use std::fmt::Write as _;

use mindos_core::budget::{Budget, Limit, Period, Scope, Thresholds};
use mindos_core::feedback::Voices;
use mindos_core::record::*;
use mindos_core::snapshot::Item;
use mindos_model::{DeliveryId, Seq, TenantName};
use mindos_proto::journal::v1 as pb;
use prost::Message;

use super::samples;
use super::{Names, decode, encode, message, read, state};
use crate::fault::Random;

/// Bytes as this release writes them, record by record.
const GOLDEN: &str = include_str!("about_golden.txt");

fn general(tenant: &TenantName) -> std::sync::Arc<GeneralKey> {
    let key = GeneralKey { tenant: tenant.clone(), cluster: "eu".parse().unwrap(), name: "g".parse().unwrap() };
    std::sync::Arc::new(key)
}

fn variant(random: &mut Random) -> Variant {
    let role = [Role::Live, Role::Shadow, Role::Replay][random.below(3) as usize];
    let text = |random: &mut Random, text: &str| if random.chance(50) { "".into() } else { text.into() };
    Variant { route: "r".parse().unwrap(), role, arm: text(random, "v=2"), version: text(random, "1.2.3-rc.1") }
}

fn verdict(random: &mut Random) -> FeedbackVerdict {
    use FeedbackVerdict::{Accepted, Dismissed, Reverted};
    [Accepted, Dismissed, Reverted][random.below(3) as usize]
}

fn replay(random: &mut Random) -> Replay {
    let version = match random.below(3) {
        0 => None,
        1 => Some(VersionWanted::Exactly("1.2".into())),
        _ => Some(VersionWanted::AtLeast("1.2".into())),
    };
    let route = random.chance(50).then(|| "r".parse().unwrap());
    Replay { of: Seq(1 + random.below(1 << 40)), id: "try-1".into(), route, version }
}

fn about(random: &mut Random, tenant: &TenantName) -> About {
    if random.chance(50) {
        return About::Replay(replay(random));
    }
    let delivery = DeliveryId::new(Seq(1 + random.below(1 << 40)), 1 + random.below(9) as u32);
    let voice = [random.below(256) as u8; 16];
    About::Feedback(Feedback {
        delivery,
        verdict: verdict(random),
        voice,
        general: general(tenant),
        variant: variant(random),
    })
}

fn assert_comes_back(names: &mut Names, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(entry, &mut bytes);
    assert_eq!(bytes, message(entry).encode_to_vec());
    let payload = entry.record.payload().cloned();
    assert_eq!(decode(names, entry.seq, &bytes, payload.clone()).unwrap().as_ref(), Some(entry));
    let kind = pb::Entry::decode(&*bytes).unwrap().record.unwrap();
    assert_eq!(read::from_message(names, kind, payload).unwrap(), entry.record);
    bytes
}

#[test]
fn what_events_and_leases_say_of_other_work_comes_back_both_ways() {
    let (mut names, mut random) = (Names::default(), Random::new(21));
    for number in 0..500 {
        let mut entry = samples::entry(&mut random, 1 + number % 2, Seq(9));
        let mut plain = Vec::new();
        encode(&entry, &mut plain);
        match &mut entry.record {
            Record::EventAccepted(record) => record.about = Some(Box::new(about(&mut random, &record.tenant))),
            Record::DeliveryLeased(record) => {
                record.variant = random.chance(70).then(|| Box::new(variant(&mut random)));
                let factors = |random: &mut Random| -> Vec<u32> {
                    (0..random.below(3)).map(|_| 500 + random.below(1000) as u32).collect()
                };
                let (generals, instances) = (factors(&mut random), factors(&mut random));
                let weighing = Weighing { left_out: random.chance(50), generals, instances };
                record.choice.feedback = random.chance(70).then(|| Box::new(weighing));
                let (generals, instances) = (factors(&mut random), factors(&mut random));
                let why = [KeptOut::Residency, KeptOut::Affinity];
                let named: Vec<_> =
                    (0..random.below(3)).map(|at| (record.general.clone(), why[at as usize % 2])).collect();
                let siting = Siting { kept_out: random.below(300) as u32, named, generals, instances };
                record.choice.siting = random.chance(70).then(|| Box::new(siting));
            }
            other => panic!("{} was not asked for", other.kind()),
        }
        let bytes = assert_comes_back(&mut names, &entry);
        match &mut entry.record {
            Record::EventAccepted(record) => record.about = None,
            Record::DeliveryLeased(record) => {
                (record.variant, record.choice.feedback, record.choice.siting) = (None, None, None);
            }
            other => panic!("{} was not asked for", other.kind()),
        }
        let mut without = Vec::new();
        encode(&entry, &mut without);
        assert!(without == plain && plain.len() <= bytes.len());
    }
}

#[test]
fn snapshots_keep_replays_opinions_and_voices() {
    let (mut names, mut random) = (Names::default(), Random::new(22));
    let mut came_back = |item: Item| {
        let mut bytes = Vec::new();
        state::encode(&item, &mut bytes);
        let mut back = Vec::new();
        state::decode(&mut names, &bytes, &mut |item| back.push(item)).unwrap();
        assert_eq!(back, [item]);
    };
    let mut events = 0;
    while events < 100 {
        let mut item = samples::item(&mut random);
        let Item::Event(event) = &mut item else { continue };
        events += 1;
        event.replay = Some(Box::new(replay(&mut random)));
        came_back(item);
        let mut count = || random.below(500) as u32;
        let voices = Voices { accepted: count(), dismissed: count(), reverted: count() };
        came_back(Item::Opinion { general: general(&TenantName::default_tenant()), version: "1.2".into(), voices });
        came_back(Item::Voice { voice: [7; 16], verdict: verdict(&mut random) });
    }
}

#[test]
fn budgets_for_replays_come_back() {
    for id in ["", "try-1"] {
        let limit = Limit { micros: Some(5_000_000), ..Limit::default() };
        let budget = Budget {
            name: "replays".parse().unwrap(),
            scope: Scope::Replay(id.into()),
            period: Period::Total,
            limit,
            thresholds: Thresholds::default(),
            priority: Vec::new(),
        };
        assert_eq!(super::budget::from_message(super::budget::to_message(&budget)), Ok(budget));
    }
}

#[test]
fn the_bytes_are_those_of_the_golden_file() {
    let (mut names, mut random) = (Names::default(), Random::new(23));
    let mut found = String::new();
    for _ in 0..8 {
        let mut entry = samples::entry(&mut random, 1, Seq(9));
        let Record::EventAccepted(record) = &mut entry.record else { panic!("another kind") };
        record.about = Some(Box::new(about(&mut random, &record.tenant)));
        record.deliveries.clear();
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        writeln!(found, "{}", hex(assert_comes_back(&mut names, &entry))).unwrap();
    }
    assert_eq!(found, GOLDEN, "{found}");
}
