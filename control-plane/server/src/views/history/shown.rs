//! Rows as they are shown: numbers of a file turned back into names.

use mindos_model::{Seq, Timestamp, Token};
use rusqlite::{Connection, OptionalExtension, Row};

use super::file::{DeliveryColumns, Domain};
use super::row::{reason_of, status_of, strategy_of, unpack};
use super::{DeliveryRow, GeneralRef, HistoryError};

/// What [`EventPart::read`] reads, in its order: the first nine columns of a question.
pub(super) const EVENT_COLUMNS: &str =
    "e.source, e.id, e.type, e.kind, e.subject, e.repository, e.lane, e.route, e.strategy";

pub(super) fn unsigned(row: &Row<'_>, index: usize) -> Result<Option<u64>, HistoryError> {
    Ok(row.get::<_, Option<i64>>(index)?.map(i64::unsigned_abs))
}

/// The columns of an event that every row shows: the first nine.
pub(super) struct EventPart {
    pub source: String,
    pub id: String,
    pub ty: String,
    pub kind: String,
    pub subject: Option<String>,
    pub repository: Option<String>,
    pub lane: String,
    pub route: Option<String>,
    pub strategy: Option<mindos_model::Strategy>,
}

impl EventPart {
    pub(super) fn read(row: &Row<'_>, names: &Names<'_>) -> Result<EventPart, HistoryError> {
        let name = |domain, index| -> Result<Option<String>, HistoryError> { names.get(domain, row.get(index)?) };
        let subject: Option<String> = row.get(4)?;
        let lane: Option<String> = row.get(6)?;
        Ok(EventPart {
            source: name(Domain::Source, 0)?.unwrap_or_default(),
            id: row.get(1)?,
            ty: name(Domain::Type, 2)?.unwrap_or_default(),
            kind: name(Domain::Kind, 3)?.unwrap_or_default(),
            repository: name(Domain::Repository, 5)?,
            lane: lane.or_else(|| subject.clone()).unwrap_or_default(),
            subject,
            route: name(Domain::Route, 7)?,
            strategy: row.get::<_, Option<i64>>(8)?.and_then(strategy_of),
        })
    }

    /// The row of one of its deliveries; `None` when its status is not one of ours.
    pub(super) fn delivery(
        self,
        accepted: Timestamp,
        delivery: &DeliveryColumns,
        names: &Names<'_>,
    ) -> Result<Option<DeliveryRow>, HistoryError> {
        let Some(status) = status_of(delivery.status) else { return Ok(None) };
        let number = |value: Option<i64>| value.map(i64::unsigned_abs);
        Ok(Some(DeliveryRow {
            delivery: unpack(delivery.id),
            accepted,
            seq: Seq(delivery.seq.unsigned_abs()),
            status,
            ended: Timestamp(delivery.at.unsigned_abs()),
            general: names.general(delivery.general)?,
            instance: names.get(Domain::Instance, delivery.instance)?,
            token: delivery.epoch.zip(delivery.term).map(|(epoch, term)| Token::new(epoch, term)),
            leased: number(delivery.leased).map(Timestamp),
            attempts: delivery.attempts.unwrap_or(0),
            took_ms: number(delivery.took_ms),
            reason: delivery.reason.and_then(reason_of),
            superseded_by: delivery.superseded_by.map(unpack),
            redrives: delivery.redrives as u32,
            input_tokens: number(delivery.input_tokens).unwrap_or(0),
            output_tokens: number(delivery.output_tokens).unwrap_or(0),
            cost_micros: number(delivery.cost_micros).unwrap_or(0),
            source: self.source,
            event_id: self.id,
            ty: self.ty,
            kind: self.kind,
            subject: self.subject,
            repository: self.repository,
            lane: self.lane,
            route: self.route,
            strategy: self.strategy,
        }))
    }
}

/// The names of a file, read as they are needed: a page has few rows.
pub(super) struct Names<'a>(pub &'a Connection);

impl Names<'_> {
    pub(super) fn get(&self, domain: Domain, id: Option<i64>) -> Result<Option<String>, HistoryError> {
        let Some(id) = id else { return Ok(None) };
        let mut select = self.0.prepare_cached("SELECT text FROM names WHERE id = ? AND domain = ?")?;
        Ok(select.query_row((id, domain as i64), |row| row.get(0)).optional()?)
    }

    pub(super) fn general(&self, id: Option<i64>) -> Result<Option<GeneralRef>, HistoryError> {
        let text = self.get(Domain::General, id)?;
        let split = text.as_deref().and_then(|text| text.split_once('/'));
        Ok(split.map(|(cluster, name)| GeneralRef { cluster: cluster.to_owned(), name: name.to_owned() }))
    }
}
