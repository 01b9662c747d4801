//! Records and items about effects with drawn values, for tests.

use std::sync::Arc;

use mindos_core::effect::{Earlier, EffectItem, EffectSeries};
use mindos_core::output::PayloadRef;
use mindos_core::record::*;
use mindos_core::snapshot::Item;
use mindos_model::{DeliveryId, EffectId, Seq};

use super::samples::{digest, general, maybe, payload, seq, tenant, text, time, token};
use crate::fault::Random;

/// Kinds of records about effects, and the copy of an effect's parameters.
pub(super) const KINDS: u64 = 8;

fn effect(random: &mut Random) -> EffectId {
    EffectId(seq(random))
}

fn outcome(random: &mut Random, kind: u64) -> EffectOutcome {
    let text = text(random, "{\"number\":7}");
    match kind {
        0 => EffectOutcome::Done { observed: text },
        1 => EffectOutcome::DryRun { would: text },
        2 => EffectOutcome::Failed { message: text },
        _ => EffectOutcome::Cancelled { why: text, by: Arc::from(if random.chance(50) { "person" } else { "" }) },
    }
}

/// A record of the kind number `kind`, below [`KINDS`].
pub(super) fn entry(random: &mut Random, kind: u64, at: Seq) -> Entry {
    let record = match kind {
        0 => {
            let (tenant, event) = (tenant(random), seq(random));
            let ordinal = maybe(random, |random| 1 + random.below(64) as u32);
            Record::EffectIntended(Box::new(EffectIntended {
                general: general(random, &tenant),
                general_type: format!("type-{}", random.below(9)).parse().unwrap(),
                tenant,
                event,
                delivery: ordinal.map(|ordinal| DeliveryId::new(event, ordinal)),
                token: maybe(random, token).unwrap_or_default(),
                ordinal: random.below(64) as u32,
                of: 64,
                key: text(random, "key"),
                kind: text(random, "comment"),
                target: text(random, "octocat/hello-world"),
                parameters: payload(random),
                first: maybe(random, effect),
                overflow: random.chance(50),
            }))
        }
        1 => Record::EffectDeferred(Box::new(EffectDeferred {
            tenant: tenant(random),
            effect: effect(random),
            attempts: random.below(9) as u32,
            counted: random.chance(50),
            not_before: time(random),
            why: text(random, "it went wrong"),
        })),
        2..6 => Record::EffectEnded(Box::new(EffectEnded {
            tenant: tenant(random),
            effect: effect(random),
            kind: text(random, "comment"),
            outcome: outcome(random, kind - 2),
            from: Arc::from(if random.chance(50) { "192.0.2.7:443" } else { "" }),
        })),
        6 => Record::EffectRevived(Box::new(EffectRevived {
            tenant: tenant(random),
            effect: effect(random),
            by: text(random, "person"),
            from: text(random, "192.0.2.7"),
        })),
        _ => Record::PayloadCarried(PayloadCarried {
            event: seq(random),
            effect: Some(effect(random)),
            payload: payload(random),
        }),
    };
    Entry { seq: at, at: time(random), record }
}

/// A snapshot item about effects.
pub(super) fn item(random: &mut Random) -> Item {
    match random.below(4) {
        0 => {
            let place = |random: &mut Random| Earlier {
                effect: effect(random),
                observed: maybe(random, |random| text(random, "{}")),
            };
            Item::EffectSeries(Box::new(EffectSeries {
                first: effect(random),
                tenant: tenant(random),
                of: random.below(64) as u32,
                places: (0..random.below(5)).map(|_| place(random)).collect(),
            }))
        }
        1 => {
            let (tenant, event) = (tenant(random), seq(random));
            let ordinal = maybe(random, |random| 1 + random.below(64) as u32);
            Item::Effect(Box::new(EffectItem {
                effect: effect(random),
                general: general(random, &tenant),
                general_type: "type-1".parse().unwrap(),
                tenant,
                event,
                delivery: ordinal.map(|ordinal| DeliveryId::new(event, ordinal)),
                token: maybe(random, token).unwrap_or_default(),
                ordinal: random.below(64) as u32,
                key: text(random, "key"),
                kind: text(random, "comment"),
                target: text(random, "octocat/hello-world"),
                parameters: PayloadRef { seq: seq(random), len: random.below(1 << 16) as u32 },
                intended: time(random),
                attempts: random.below(9) as u32,
                not_before: maybe(random, time).unwrap_or_default(),
                failed: maybe(random, time),
                why: maybe(random, |random| text(random, "why")).unwrap_or_default(),
            }))
        }
        2 => Item::EffectKey { key: digest(random), at: time(random), effect: effect(random) },
        _ => Item::EffectObserved { effect: effect(random), observed: text(random, "{}") },
    }
}
