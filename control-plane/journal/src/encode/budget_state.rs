//! What a snapshot keeps of budgets, as messages and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::estimate::{Learnt, Pair, Sketch};
use mindos_core::snapshot::{BudgetItem, Item};
use mindos_model::{Seq, Timestamp};
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1::{self as pb, snapshot_item::Item as Piece};

use super::names::Names;
use super::record;
use super::{budget, read};

/// # Panics
/// When the item is about something else.
pub(crate) fn to_message(item: &Item) -> Piece {
    match item {
        Item::Budget(item) => Piece::Budget(of_budget(item)),
        Item::Estimate { pair: Pair { tenant, ty, kind }, learnt: Learnt { micros, tokens, time_ms } } => {
            let buckets =
                |sketch: &Sketch| sketch.buckets.iter().map(|(bucket, count)| ((*bucket).into(), *count)).collect();
            Piece::Estimate(pb::EstimateState {
                tenant: record::tenant(tenant),
                general_type: ty.to_string(),
                kind: kind.to_string(),
                cost_micros: buckets(micros),
                tokens: buckets(tokens),
                time_ms: buckets(time_ms),
            })
        }
        Item::Spend { delivery, reserved, spent, accounts } => Piece::Spend(pb::SpendState {
            delivery: Some((*delivery).into()),
            reserved: budget::of_some(*reserved),
            spent: spent.map(budget::of_amount),
            accounts: accounts.iter().map(|since| since.0).collect(),
        }),
        Item::Over { delivery, account, wanted, place, admitted } => Piece::OverBudget(pb::OverBudgetState {
            delivery: Some((*delivery).into()),
            account: account.0,
            wanted: budget::of_some(*wanted),
            parked_seq: place.map_or(0, |(_, seq)| seq.0),
            turn: place.map_or(0, |(turn, _)| budget::of_turn(turn)),
            admitted: *admitted,
        }),
        other => unreachable!("{other:?} is not about budgets"),
    }
}

fn of_budget(item: &BudgetItem) -> pb::BudgetState {
    let BudgetItem { tenant, budget, since, began, tally, level, acknowledged, runs } = item;
    let runs = runs.iter().map(|(event, tally)| pb::RunState {
        event: event.0,
        charged: budget::of_some(tally.charged),
        reserved: budget::of_some(tally.reserved),
    });
    pb::BudgetState {
        tenant: record::tenant(tenant),
        budget: Some(budget::to_message(budget)),
        since: since.0,
        began_ms: began.0,
        charged: budget::of_some(tally.charged),
        reserved: budget::of_some(tally.reserved),
        level: budget::of_level(*level),
        acknowledged: *acknowledged,
        runs: runs.collect(),
    }
}

pub(crate) fn budget(names: &mut Names, message: pb::BudgetState) -> Result<Item, Invalid> {
    let pb::BudgetState { tenant, budget, since, began_ms, charged, reserved, level, acknowledged, runs } = message;
    let runs = runs.into_iter().map(|run| (Seq(run.event), budget::tally(run.charged, run.reserved)));
    Ok(Item::Budget(Box::new(BudgetItem {
        tenant: names.tenant(&tenant)?,
        budget: Arc::new(budget::from_message(required(budget, "budget")?)?),
        since: Seq(since),
        began: Timestamp(began_ms),
        tally: budget::tally(charged, reserved),
        level: budget::level(level)?,
        acknowledged,
        runs: runs.collect(),
    })))
}

pub(crate) fn estimate(names: &mut Names, message: pb::EstimateState) -> Result<Item, Invalid> {
    let pb::EstimateState { tenant, general_type, kind, cost_micros, tokens, time_ms } = message;
    let sketch = |buckets: BTreeMap<u32, u32>| {
        let one = |(bucket, count): (u32, u32)| {
            let bucket = u8::try_from(bucket);
            bucket.map(|bucket| (bucket, count)).map_err(|error| Invalid::new("bucket", error))
        };
        Ok::<_, Invalid>(Sketch { buckets: buckets.into_iter().map(one).collect::<Result<_, Invalid>>()? })
    };
    let pair =
        Pair { tenant: names.tenant(&tenant)?, ty: parsed(&general_type, "general_type")?, kind: names.text(&kind) };
    let learnt = Learnt { micros: sketch(cost_micros)?, tokens: sketch(tokens)?, time_ms: sketch(time_ms)? };
    Ok(Item::Estimate { pair, learnt })
}

pub(crate) fn spend(message: pb::SpendState) -> Result<Item, Invalid> {
    let pb::SpendState { delivery, reserved, spent, accounts } = message;
    Ok(Item::Spend {
        delivery: read::delivery_id(delivery)?,
        reserved: budget::some(reserved),
        spent: spent.map(budget::amount),
        accounts: accounts.into_iter().map(Seq).collect(),
    })
}

pub(crate) fn over(message: pb::OverBudgetState) -> Result<Item, Invalid> {
    let pb::OverBudgetState { delivery, account, wanted, parked_seq, turn, admitted } = message;
    let place = (parked_seq > 0).then(|| Ok::<_, Invalid>((budget::turn(turn)?, Seq(parked_seq))));
    Ok(Item::Over {
        delivery: read::delivery_id(delivery)?,
        account: Seq(account),
        wanted: budget::some(wanted),
        place: place.transpose()?,
        admitted,
    })
}
