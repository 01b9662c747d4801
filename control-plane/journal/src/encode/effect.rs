//! Effects as messages, in records and in snapshots.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::effect::{Earlier, EffectItem, EffectSeries};
use mindos_core::output::PayloadRef;
use mindos_core::record::{
    EffectDeferred, EffectEnded, EffectIntended, EffectOutcome, EffectRevived, GeneralKey, Payload, Record,
};
use mindos_core::snapshot::Item;
use mindos_model::{DeliveryId, EffectId, Seq, Timestamp, Token};
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1::{self as pb, entry::Record as Kind, snapshot_item::Item as Piece};
use prost::Message;

use super::names::Names;
use super::read::fixed;
use super::record::tenant;

/// Key 16, effect 8, time 8.
const KEY_BYTES: usize = 32;
/// Keys of one block.
const KEYS_MAX: usize = 4096;

pub(super) fn of_intended(record: &EffectIntended) -> Kind {
    let EffectIntended { tenant: of_tenant, event, delivery, token, general, general_type, ordinal, of, .. } = record;
    let EffectIntended { key, kind, target, parameters, first, overflow, .. } = record;
    Kind::EffectIntended(pb::EffectIntended {
        tenant: tenant(of_tenant),
        event: event.0,
        delivery_ordinal: delivery.map_or(0, |delivery| delivery.ordinal),
        epoch: token.epoch,
        term: token.term,
        cluster: general.cluster.to_string(),
        general: general.name.to_string(),
        general_type: general_type.to_string(),
        ordinal: *ordinal,
        of: *of,
        key: key.to_string(),
        kind: kind.to_string(),
        target: target.to_string(),
        first: first.map_or(0, |first| first.0.0),
        overflow: *overflow,
        parameters_len: u32::try_from(parameters.bytes.len()).unwrap_or(u32::MAX),
    })
}

pub(super) fn of_deferred(record: &EffectDeferred) -> Kind {
    let EffectDeferred { tenant: of, effect, attempts, counted, not_before, why } = record;
    Kind::EffectDeferred(pb::EffectDeferred {
        effect: effect.0.0,
        attempts: *attempts,
        counted: *counted,
        not_before_ms: not_before.0,
        why: why.to_string(),
        tenant: tenant(of),
    })
}

pub(super) fn of_ended(record: &EffectEnded) -> Kind {
    use pb::effect_ended::Outcome;
    let EffectEnded { tenant: of, effect, kind, outcome, from } = record;
    let outcome = match outcome {
        EffectOutcome::Done { observed } => Outcome::Done(observed.to_string()),
        EffectOutcome::DryRun { would } => Outcome::DryRun(would.to_string()),
        EffectOutcome::Failed { message } => Outcome::Failed(message.to_string()),
        EffectOutcome::Cancelled { why, by } => {
            Outcome::Cancelled(pb::EffectCancelled { why: why.to_string(), by: by.to_string() })
        }
    };
    Kind::EffectEnded(pb::EffectEnded {
        effect: effect.0.0,
        outcome: Some(outcome),
        from: from.to_string(),
        tenant: tenant(of),
        kind: kind.to_string(),
    })
}

pub(super) fn of_revived(record: &EffectRevived) -> Kind {
    let EffectRevived { tenant: of, effect, by, from } = record;
    let (by, from) = (by.to_string(), from.to_string());
    Kind::EffectRevived(pb::EffectRevived { effect: effect.0.0, by, from, tenant: tenant(of) })
}

/// What an intent says beside its parameters.
fn intended(names: &mut Names, message: pb::EffectIntended, parameters: Payload) -> Result<EffectIntended, Invalid> {
    let pb::EffectIntended { tenant, event, delivery_ordinal, epoch, term, cluster, general, general_type, .. } =
        message;
    let pb::EffectIntended { ordinal, of, key, kind, target, first, overflow, .. } = message;
    let tenant = names.tenant(&tenant)?;
    let general: Arc<GeneralKey> = names.general(&tenant, &cluster, &general)?;
    Ok(EffectIntended {
        event: Seq(event),
        delivery: (delivery_ordinal > 0).then_some(DeliveryId::new(Seq(event), delivery_ordinal)),
        token: Token::new(epoch, term),
        general,
        general_type: parsed(&general_type, "general_type")?,
        ordinal,
        of,
        key: Arc::from(key),
        kind: names.text(&kind),
        target: Arc::from(target),
        parameters,
        first: (first > 0).then_some(EffectId(Seq(first))),
        overflow,
        tenant,
    })
}

pub(super) fn read_intended(
    names: &mut Names,
    message: pb::EffectIntended,
    parameters: Option<Payload>,
) -> Result<Record, Invalid> {
    let parameters = required(parameters, "parameters")?;
    Ok(Record::EffectIntended(Box::new(intended(names, message, parameters)?)))
}

pub(super) fn read_deferred(names: &mut Names, message: pb::EffectDeferred) -> Result<Record, Invalid> {
    let pb::EffectDeferred { effect, attempts, counted, not_before_ms, why, tenant } = message;
    Ok(Record::EffectDeferred(Box::new(EffectDeferred {
        tenant: names.tenant(&tenant)?,
        effect: EffectId(Seq(effect)),
        attempts,
        counted,
        not_before: Timestamp(not_before_ms),
        why: Arc::from(why),
    })))
}

pub(super) fn read_ended(names: &mut Names, message: pb::EffectEnded) -> Result<Record, Invalid> {
    use pb::effect_ended::Outcome;
    let pb::EffectEnded { effect, outcome, from, tenant, kind } = message;
    let outcome = match required(outcome, "outcome")? {
        Outcome::Done(observed) => EffectOutcome::Done { observed: Arc::from(observed) },
        Outcome::DryRun(would) => EffectOutcome::DryRun { would: Arc::from(would) },
        Outcome::Failed(message) => EffectOutcome::Failed { message: Arc::from(message) },
        Outcome::Cancelled(pb::EffectCancelled { why, by }) => {
            EffectOutcome::Cancelled { why: Arc::from(why), by: Arc::from(by) }
        }
    };
    let (tenant, effect, kind) = (names.tenant(&tenant)?, EffectId(Seq(effect)), names.text(&kind));
    Ok(Record::EffectEnded(Box::new(EffectEnded { tenant, effect, kind, outcome, from: Arc::from(from) })))
}

pub(super) fn read_revived(names: &mut Names, message: pb::EffectRevived) -> Result<Record, Invalid> {
    let pb::EffectRevived { effect, by, from, tenant } = message;
    let (tenant, effect) = (names.tenant(&tenant)?, EffectId(Seq(effect)));
    Ok(Record::EffectRevived(Box::new(EffectRevived { tenant, effect, by: Arc::from(by), from: Arc::from(from) })))
}

pub(super) fn of_series(item: &EffectSeries) -> Piece {
    let EffectSeries { first, tenant: of_tenant, of, places } = item;
    let place = |Earlier { effect, observed }: &Earlier| pb::EffectPlaceState {
        effect: effect.0.0,
        observed: observed.as_deref().map(str::to_owned),
    };
    Piece::EffectSeries(pb::EffectSeriesState {
        first: first.0.0,
        tenant: tenant(of_tenant),
        of: *of,
        places: places.iter().map(place).collect(),
    })
}

pub(super) fn series(names: &mut Names, message: pb::EffectSeriesState) -> Result<Item, Invalid> {
    let pb::EffectSeriesState { first, tenant, of, places } = message;
    let place = |pb::EffectPlaceState { effect, observed }| Earlier {
        effect: EffectId(Seq(effect)),
        observed: observed.map(Arc::from),
    };
    Ok(Item::EffectSeries(Box::new(EffectSeries {
        first: EffectId(Seq(first)),
        tenant: names.tenant(&tenant)?,
        of,
        places: places.into_iter().map(place).collect(),
    })))
}

pub(super) fn of_item(item: &EffectItem) -> Piece {
    let EffectItem { effect, tenant: of_tenant, event, delivery, token, general, general_type, ordinal, .. } = item;
    let EffectItem { key, kind, target, parameters, intended, attempts, not_before, failed, why, .. } = item;
    let said = pb::EffectIntended {
        tenant: tenant(of_tenant),
        event: event.0,
        delivery_ordinal: delivery.map_or(0, |delivery| delivery.ordinal),
        epoch: token.epoch,
        term: token.term,
        cluster: general.cluster.to_string(),
        general: general.name.to_string(),
        general_type: general_type.to_string(),
        ordinal: *ordinal,
        key: key.to_string(),
        kind: kind.to_string(),
        target: target.to_string(),
        ..pb::EffectIntended::default()
    };
    let PayloadRef { seq, len } = parameters;
    Piece::Effect(pb::EffectState {
        intended: Some(said),
        effect: effect.0.0,
        at_ms: intended.0,
        payload_seq: seq.0,
        payload_len: *len,
        attempts: *attempts,
        not_before_ms: not_before.0,
        failed_ms: failed.map(|failed| failed.0),
        why: why.to_string(),
    })
}

pub(super) fn item(names: &mut Names, message: pb::EffectState) -> Result<Item, Invalid> {
    let pb::EffectState { intended: said, effect, at_ms, payload_seq, payload_len, .. } = message;
    let pb::EffectState { attempts, not_before_ms, failed_ms, why, .. } = message;
    let nothing = Payload { salt: [0; 16], bytes: Bytes::new() };
    let said = intended(names, required(said, "intended")?, nothing)?;
    let EffectIntended { tenant, event, delivery, token, general, general_type, ordinal, key, kind, target, .. } = said;
    Ok(Item::Effect(Box::new(EffectItem {
        effect: EffectId(Seq(effect)),
        tenant,
        event,
        delivery,
        token,
        general,
        general_type,
        ordinal,
        key,
        kind,
        target,
        parameters: PayloadRef { seq: Seq(payload_seq), len: payload_len },
        intended: Timestamp(at_ms),
        attempts,
        not_before: Timestamp(not_before_ms),
        failed: failed_ms.map(Timestamp),
        why: Arc::from(why),
    })))
}

pub(super) fn of_observed(effect: EffectId, observed: &str) -> Piece {
    Piece::EffectObserved(pb::EffectObservedState { effect: effect.0.0, observed: observed.to_owned() })
}

pub(super) fn observed(message: pb::EffectObservedState) -> Item {
    let pb::EffectObservedState { effect, observed } = message;
    Item::EffectObserved { effect: EffectId(Seq(effect)), observed: Arc::from(observed) }
}

/// Keys in a snapshot, so many that each by itself would cost more than all the rest.
#[derive(Debug, Default)]
pub(crate) struct KeyBlock {
    entries: Vec<u8>,
}

impl KeyBlock {
    /// Takes the item in, if it is a key and there is room.
    pub(crate) fn takes(&mut self, item: &Item) -> bool {
        let Item::EffectKey { key, at, effect } = item else { return false };
        if self.entries.len() == KEYS_MAX * KEY_BYTES {
            return false;
        }
        put_key(&mut self.entries, key, *effect, *at);
        true
    }

    /// The encoded block, if it has anything in it; the next one begins.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if self.entries.is_empty() {
            return None;
        }
        let piece = Piece::EffectKeys(pb::EffectKeyBlock { entries: std::mem::take(&mut self.entries).into() });
        Some(pb::SnapshotItem { item: Some(piece) }.encode_to_vec())
    }
}

fn put_key(entries: &mut Vec<u8>, key: &[u8; 16], effect: EffectId, at: Timestamp) {
    entries.extend_from_slice(key);
    entries.extend_from_slice(&effect.0.0.to_le_bytes());
    entries.extend_from_slice(&at.0.to_le_bytes());
}

/// One key as a block of its own.
pub(super) fn of_key(key: &[u8; 16], effect: EffectId, at: Timestamp) -> Piece {
    let mut entries = Vec::with_capacity(KEY_BYTES);
    put_key(&mut entries, key, effect, at);
    Piece::EffectKeys(pb::EffectKeyBlock { entries: entries.into() })
}

/// Hands out the keys that a block holds.
pub(super) fn read_keys(entries: &[u8], visit: &mut dyn FnMut(Item)) -> Result<(), Invalid> {
    let (entries, rest) = entries.as_chunks::<KEY_BYTES>();
    if !rest.is_empty() {
        return Err(Invalid::new("entries", format_args!("ends within a key of {KEY_BYTES} bytes")));
    }
    for entry in entries {
        let number = |bytes: &[u8]| fixed(bytes, "entries").map(u64::from_le_bytes);
        let (effect, at) = (number(&entry[16..24])?, number(&entry[24..])?);
        visit(Item::EffectKey {
            key: fixed(&entry[..16], "entries")?,
            at: Timestamp(at),
            effect: EffectId(Seq(effect)),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_of_keys_takes_in_comes_out_in_order() {
        let item = |number: u64| Item::EffectKey {
            key: u128::from(number).to_be_bytes(),
            at: Timestamp(number << 20),
            effect: EffectId(Seq(u64::MAX - number)),
        };
        let mut block = KeyBlock::default();
        let taken = (0..).take_while(|number| block.takes(&item(*number))).count();
        assert_eq!(taken, KEYS_MAX);

        let encoded = block.take().unwrap();
        let mut items = Vec::new();
        super::super::state::decode(&mut Default::default(), &encoded, &mut |item| items.push(item)).unwrap();

        assert!(items == (0..KEYS_MAX as u64).map(item).collect::<Vec<_>>());
        assert!(block.take().is_none(), "the next one is empty");
        assert!(read_keys(&[0; KEY_BYTES + 1], &mut |_| {}).is_err());
    }
}
