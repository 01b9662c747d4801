//! Records and items about budgets with drawn values, for tests.

use std::sync::Arc;

use mindos_core::budget::{Amount, Budget, Level, Limit, Period, Scope, Thresholds};
use mindos_core::estimate::{Learnt, Pair, Sketch};
use mindos_core::record::*;
use mindos_core::snapshot::{BudgetItem, Item};
use mindos_core::{OverBudget, Reservation, Tally, Turn};
use mindos_model::{ParkReason, Seq};

use super::samples::{self, delivery, maybe, seq, tenant, text, time, usage};
use crate::fault::Random;

fn amount(random: &mut Random) -> Amount {
    let mut number = || if random.chance(20) { 0 } else { random.below(1 << 40) };
    Amount { micros: number(), tokens: number(), time_ms: number() }
}

fn level(random: &mut Random) -> Level {
    [Level::Free, Level::Warned, Level::Degraded, Level::Paused, Level::Exhausted][random.below(5) as usize]
}

fn turn(random: &mut Random) -> Turn {
    [Turn::Priority, Turn::Usual, Turn::Never][random.below(3) as usize]
}

fn tally(random: &mut Random) -> Tally {
    Tally { charged: amount(random), reserved: amount(random) }
}

fn budget(random: &mut Random) -> Arc<Budget> {
    let limit = |random: &mut Random| maybe(random, |random| random.below(1 << 50));
    Arc::new(Budget {
        name: format!("budget-{}", random.below(9)).parse().unwrap(),
        scope: match random.below(5) {
            0 => Scope::Tenant,
            1 => Scope::Repository(text(random, "acme")),
            2 => Scope::GeneralType("security".parse().unwrap()),
            3 => Scope::Route("route-1".parse().unwrap()),
            _ => Scope::Run,
        },
        period: [Period::Hour, Period::Day, Period::Month, Period::Total][random.below(4) as usize],
        limit: Limit { micros: limit(random), tokens: limit(random), time_ms: limit(random) },
        thresholds: Thresholds {
            warn: random.below(101) as u32,
            act: random.below(101) as u32,
            pause: random.below(101) as u32,
        },
        priority: (0..random.below(3)).map(|_| text(random, "kind")).collect(),
    })
}

fn over(random: &mut Random) -> Box<OverBudget> {
    Box::new(OverBudget {
        account: seq(random),
        budget: budget(random).name.clone(),
        resets: maybe(random, time),
        wanted: amount(random),
        turn: turn(random),
    })
}

fn reservation(random: &mut Random) -> Reservation {
    Reservation { amount: amount(random), accounts: (0..random.below(6)).map(|_| seq(random)).collect() }
}

/// Records of budgets, and those of other kinds with what budgets add to them.
pub(super) fn entry(random: &mut Random, kind: u64, at: Seq) -> Entry {
    let other = match kind {
        24 => 2,
        25 => 3,
        26 => 4,
        27 => 10,
        28 => 5,
        _ => 7,
    };
    let mut entry = samples::entry(random, other, at);
    let by = text(random, "person");
    match (kind, &mut entry.record) {
        (24, Record::DeliveryLeased(record)) => record.reservation = Some(Box::new(reservation(random))),
        (25, Record::AttemptEnded(record)) => {
            record.usage = usage(random);
            record.charged = maybe(random, amount);
            record.over = maybe(random, over);
        }
        (26, Record::DeliverySettled(record)) => record.charged = Some(amount(random)),
        (27, Record::LeaseExtended(record)) => {
            record.reserved = maybe(random, amount);
            record.spent = maybe(random, amount);
        }
        (28, Record::DeliveryCancelled(record)) => {
            record.charged = Some(Box::new(amount(random)));
            record.unanswered = at.0.is_multiple_of(2);
        }
        (20, record) => {
            let (tenant, budget) = (tenant(random), budget(random));
            *record = Record::BudgetSet(Box::new(BudgetSet { tenant, budget, by, from: Arc::from("") }));
        }
        (21, record) => {
            let (tenant, budget) = (tenant(random), budget(random).name.clone());
            *record = Record::BudgetRemoved(BudgetRemoved { tenant, budget, by, from: Arc::from("") });
        }
        (22, record) => {
            let (tenant, budget) = (tenant(random), budget(random).name.clone());
            *record = match random.chance(50) {
                true => Record::BudgetAcknowledged(BudgetAcknowledged { tenant, budget, by, from: Arc::from("") }),
                false => Record::DeliveryParked(DeliveryParked {
                    delivery: delivery(random),
                    reason: ParkReason::OverBudget,
                    over: Some(over(random)),
                }),
            };
        }
        (23, record) => {
            let (tenant, budget) = (tenant(random), budget(random).name.clone());
            let (level, tally) = (level(random), tally(random));
            *record = Record::BudgetCrossed(Box::new(BudgetCrossed { tenant, budget, level, tally }));
        }
        (kind, record) => panic!("{kind} is not made of {record:?}"),
    }
    entry
}

/// A snapshot item about budgets.
pub(super) fn item(random: &mut Random) -> Item {
    let sketch = |random: &mut Random| Sketch {
        buckets: (0..random.below(5)).map(|at| (at as u8 * 50, 1 + at as u32)).collect(),
    };
    match random.below(4) {
        0 => Item::Budget(Box::new(BudgetItem {
            tenant: tenant(random),
            budget: budget(random),
            since: seq(random),
            began: time(random),
            tally: tally(random),
            level: level(random),
            acknowledged: random.chance(50),
            runs: (0..random.below(3)).map(|_| (seq(random), tally(random))).collect(),
        })),
        1 => Item::Estimate {
            pair: Pair { tenant: tenant(random), ty: "security".parse().unwrap(), kind: text(random, "kind") },
            learnt: Learnt { micros: sketch(random), tokens: sketch(random), time_ms: sketch(random) },
        },
        2 => {
            let Reservation { amount: reserved, accounts } = reservation(random);
            Item::Spend { delivery: delivery(random), reserved, spent: maybe(random, amount), accounts }
        }
        _ => Item::Over {
            delivery: delivery(random),
            account: seq(random),
            wanted: amount(random),
            place: maybe(random, |random| (turn(random), seq(random))),
            admitted: random.chance(50),
        },
    }
}
