//! Effects in the history: each in the file that was written when it was intended, as the API shows it, with what is asked for beside it.

use std::time::Instant;

use mindos_core::record::Entry;
use mindos_core::record::Record;
use mindos_model::{DeliveryId, EffectId, Seq, TenantName};
use mindos_proto::effect::v1 as wire;
use prost::Message;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params};

use super::file::{self, HistoryFile};
use super::query::TIME_MAX;
use super::{HistoryError, HistoryReader, HistoryWriter, Page};
use crate::views::effects::{self, EffectQuery};

pub(super) const TABLE: &str = "
CREATE TABLE effects (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, status INTEGER NOT NULL, event INTEGER NOT NULL, delivery TEXT NOT NULL,
    kind TEXT NOT NULL, target TEXT NOT NULL, general TEXT NOT NULL, shown BLOB NOT NULL
) STRICT;
CREATE INDEX effects_by_event ON effects (event);
";
/// Records of a stretch of a search.
const STRETCH: u64 = 1 << 20;

impl HistoryWriter {
    /// Takes in a record about an effect. Of one that was intended before the history begins nothing is known.
    pub(super) fn effect(&mut self, entry: &Entry) -> Result<(), HistoryError> {
        let Some((tenant, effect)) = effects::subject(entry) else { return Ok(()) };
        let Some(file) = self.file_of(effect.0)? else { return Ok(()) };
        let shown = match &entry.record {
            Record::EffectIntended(record) => effects::intended(entry.seq, entry.at, record),
            _ => {
                let Some(mut shown) = file.effect(effect)? else { return Ok(()) };
                effects::fold(&mut shown, entry);
                shown
            }
        };
        file.put_effect(tenant, effect, &shown)?;
        self.waiting_rows += 1;
        Ok(())
    }
}

impl HistoryFile {
    fn effect(&self, effect: EffectId) -> Result<Option<wire::Effect>, HistoryError> {
        let mut select = self.connection().prepare_cached("SELECT shown FROM effects WHERE id = ?")?;
        let shown: Option<Vec<u8>> = select.query_row([number(effect.0)], |row| row.get(0)).optional()?;
        Ok(shown.and_then(|shown| wire::Effect::decode(&*shown).ok()))
    }

    fn put_effect(&mut self, tenant: &TenantName, effect: EffectId, shown: &wire::Effect) -> Result<(), HistoryError> {
        self.begin()?;
        let written = {
            let text = "INSERT INTO effects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                ON CONFLICT (id) DO UPDATE SET status = ?3, shown = ?9";
            let mut put = self.connection().prepare_cached(text)?;
            put.execute(params![
                number(effect.0),
                tenant.as_str(),
                shown.status,
                number(Seq(shown.event_seq)),
                shown.delivery_id,
                shown.kind,
                shown.target,
                shown.general.as_ref().map_or("", |general| &general.name),
                shown.encode_to_vec(),
            ])?
        };
        self.count_rows(written as u64);
        Ok(())
    }
}

impl HistoryReader {
    /// One effect of a tenant.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn effect(&self, tenant: &TenantName, effect: EffectId) -> Result<Option<wire::Effect>, HistoryError> {
        let query = EffectQuery::default();
        let found = self.effects_in(&query, tenant, (effect.0, effect.0.next()), 1)?;
        Ok(found.rows.into_iter().next().map(|(_, shown)| shown))
    }

    /// A page of effects, the newest first: those before the given one.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn effects(
        &self,
        query: &EffectQuery,
        tenant: &TenantName,
        before: Seq,
        limit: usize,
    ) -> Result<Page<(EffectId, wire::Effect), Seq>, HistoryError> {
        // Nothing is asked for before the event that it comes from.
        let floor = query.delivery.map(|delivery| delivery.event).or(query.event).unwrap_or(Seq::ZERO);
        self.effects_in(query, tenant, (floor, before), limit)
    }

    fn effects_in(
        &self,
        query: &EffectQuery,
        tenant: &TenantName,
        (floor, before): (Seq, Seq),
        limit: usize,
    ) -> Result<Page<(EffectId, wire::Effect), Seq>, HistoryError> {
        let began = Instant::now();
        let mut rows = Vec::new();
        let mut end = before;
        for file in self.files().iter().rev() {
            if file.first >= end {
                continue;
            }
            if end <= floor {
                break;
            }
            let connection = match file::open_to_read(&file.path) {
                Ok(connection) => connection,
                // It has left since the list was read, and all older ones with it.
                Err(_) if !file.path.exists() => break,
                Err(error) => return Err(error),
            };
            let last: Option<i64> = connection.query_row("SELECT max(id) FROM effects", [], |row| row.get(0))?;
            let mut high = end.min(Seq(last.unwrap_or(0).unsigned_abs()).next());
            let (conditions, values) = conditions(query, tenant);
            let text =
                format!("SELECT id, shown FROM effects WHERE id >= ? AND id < ?{conditions} ORDER BY id DESC LIMIT ?");
            let mut select = connection.prepare(&text)?;
            let low = file.first.max(floor);
            while high > low {
                // By the index of the event there is nothing to walk through.
                let by_event = query.event.is_some() || query.delivery.is_some();
                let from = if by_event { low } else { Seq(high.0.saturating_sub(STRETCH)).max(low) };
                let left = i64::try_from(limit - rows.len()).unwrap_or(i64::MAX);
                let bounds = [Value::Integer(number(from)), Value::Integer(number(high))];
                let all = bounds.into_iter().chain(values.iter().cloned()).chain([Value::Integer(left)]);
                let mut found = select.query(rusqlite::params_from_iter(all))?;
                while let Some(row) = found.next()? {
                    let id = EffectId(Seq(row.get::<_, i64>(0)?.unsigned_abs()));
                    if let Ok(shown) = wire::Effect::decode(&*row.get::<_, Vec<u8>>(1)?) {
                        rows.push((id, shown));
                    }
                }
                if rows.len() >= limit {
                    let next = rows.last().map(|(id, _)| id.0);
                    return Ok(Page { rows, next });
                }
                high = from;
                if began.elapsed() > TIME_MAX {
                    return Ok(Page { rows, next: Some(high) });
                }
            }
            end = file.first;
        }
        Ok(Page { rows, next: None })
    }
}

/// Conditions behind those on the id, with their values.
fn conditions(query: &EffectQuery, tenant: &TenantName) -> (String, Vec<Value>) {
    let EffectQuery { statuses, delivery, event, kind, target, general } = query;
    let (mut text, mut values) = (" AND tenant = ?".to_owned(), vec![Value::Text(tenant.to_string())]);
    let mut and = |condition: &str, more: Vec<Value>| {
        text.push_str(" AND ");
        text.push_str(condition);
        values.extend(more);
    };
    if !statuses.is_empty() {
        let all: Vec<_> = statuses.iter().map(|status| Value::Integer(effects::code(*status).into())).collect();
        and(&format!("status IN ({})", vec!["?"; all.len()].join(", ")), all);
    }
    if let Some(event) = delivery.map(|delivery| delivery.event).or(*event) {
        and("event = ?", vec![Value::Integer(number(event))]);
    }
    if let Some(delivery) = delivery {
        and("delivery = ?", vec![Value::Text(DeliveryId::to_string(delivery))]);
    }
    if let Some(kind) = kind {
        and("kind = ?", vec![Value::Text(kind.clone())]);
    }
    if let Some(general) = general {
        and("general = ?", vec![Value::Text(general.clone())]);
    }
    if let Some(target) = target {
        let exact = Value::Text(target.clone());
        // What lies in a repository has one of these behind its name.
        let within = "(target = ? OR substr(target, 1, length(?) + 1) IN (? || '#', ? || '@'))";
        and(within, vec![exact.clone(), exact.clone(), exact.clone(), exact]);
    }
    (text, values)
}

fn number(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}
