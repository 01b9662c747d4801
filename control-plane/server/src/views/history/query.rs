//! Asking the history: pages by key, the newest first, across its files.
//!
//! A search walks each file backwards in stretches of the journal, so that it can stop when its time is up and say where to go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mindos_model::{DeliveryId, Seq, TenantName, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::file::{self, DeliveryColumns, Domain};
use super::row::{pack, pack_start};
use super::search::Conditions;
use super::settled::{self, Base};
use super::shown::{EVENT_COLUMNS, EventPart, Names, unsigned};
use super::{
    DeliveryQuery, DeliveryRow, EventQuery, EventRow, FileRef, Files, HistoryError, Page, PageRequest, PlannedRow,
    planned,
};

/// A search that has found something or not ends a page after this time.
pub(super) const TIME_MAX: Duration = Duration::from_secs(2);
/// Records of the first stretch of a search; doubles while little is found.
const STRETCH_MIN: u64 = 1 << 16;
const STRETCH_MAX: u64 = 1 << 22;

/// Answers questions about the past. Its calls read files: not for async threads.
#[derive(Clone, Debug)]
pub struct HistoryReader {
    files: Files,
    committed: Arc<AtomicU64>,
}

/// A part of the journal: from the first on, up to but without the second.
type Stretch = (Seq, Seq);

impl HistoryReader {
    pub(super) fn new(files: Files, committed: Arc<AtomicU64>) -> HistoryReader {
        HistoryReader { files, committed }
    }

    /// The last record that the committed history has seen.
    #[must_use]
    pub fn committed(&self) -> Seq {
        Seq(self.committed.load(Ordering::Acquire))
    }

    /// One event of a tenant.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn event(&self, tenant: &TenantName, seq: Seq) -> Result<Option<EventRow>, HistoryError> {
        self.event_of(Some(tenant), seq)
    }

    /// One event, of whichever tenant where none is named.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn event_of(&self, tenant: Option<&TenantName>, seq: Seq) -> Result<Option<EventRow>, HistoryError> {
        let query = EventQuery { before: Some(seq.next()), ..EventQuery::default() };
        let Some(file) = self.file_of(seq) else { return Ok(None) };
        let connection = file::open_to_read(&file.path)?;
        let conditions = Conditions::of_events(&connection, tenant, &query)?;
        Ok(events_in(&connection, &conditions, (seq, seq.next()), 1)?.pop())
    }

    /// One delivery that has ended or is parked.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn delivery(&self, tenant: &TenantName, delivery: DeliveryId) -> Result<Option<DeliveryRow>, HistoryError> {
        let Some(file) = self.file_of(delivery.event) else { return Ok(None) };
        let connection = file::open_to_read(&file.path)?;
        let conditions = Conditions::of_deliveries(&connection, tenant, &DeliveryQuery::default())?;
        let id = pack(delivery);
        Ok(deliveries_in(&connection, &conditions, (id, id.saturating_add(1)), 1)?.pop())
    }

    /// A page of events, the newest first.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn events(&self, query: &EventQuery, page: &PageRequest) -> Result<Page<EventRow, Seq>, HistoryError> {
        let bounds = (query.since, query.until);
        let before = query.before.unwrap_or(Seq(u64::MAX));
        let key = |row: &EventRow| row.seq;
        let prepare = |connection: &Connection| Conditions::of_events(connection, Some(&page.tenant), query);
        let (rows, rest) =
            self.search(bounds, before, page.limit, prepare, |connection, conditions, stretch, limit| {
                events_in(connection, conditions, stretch, limit)
            })?;
        let next = if rows.len() == page.limit { rows.last().map(key) } else { rest };
        Ok(Page { rows, next })
    }

    /// A page of deliveries that have ended or are parked, those of the newest events first.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn deliveries(
        &self,
        query: &DeliveryQuery,
        page: &PageRequest,
    ) -> Result<Page<DeliveryRow, DeliveryId>, HistoryError> {
        let bounds = (query.since, query.until);
        let before = query.before.map_or(i64::MAX, pack);
        let before_event = query.before.map_or(Seq(u64::MAX), |before| Seq(before.event.0.saturating_add(1)));
        let prepare = |connection: &Connection| Conditions::of_deliveries(connection, &page.tenant, query);
        let (rows, rest) =
            self.search(bounds, before_event, page.limit, prepare, |connection, conditions, (from, until), limit| {
                let until = if until.0 >= before_event.0 { before } else { pack_start(until) };
                deliveries_in(connection, conditions, (pack_start(from), until), limit)
            })?;
        let next = match rows.last() {
            Some(last) if rows.len() == page.limit => Some(last.delivery),
            // No delivery has the ordinal 0, so this is right behind all of the event before.
            _ => rest.map(|event| DeliveryId::new(event, 0)),
        };
        Ok(Page { rows, next })
    }

    pub(super) fn files(&self) -> Arc<Vec<FileRef>> {
        self.files.load_full()
    }

    fn file_of(&self, event: Seq) -> Option<FileRef> {
        let files = self.files.load();
        let index = files.partition_point(|file| file.first <= event).checked_sub(1)?;
        files.get(index).cloned()
    }

    /// Walks the files backwards; also returns where it stopped when its time was up.
    fn search<R>(
        &self,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
        before: Seq,
        limit: usize,
        prepare: impl Fn(&Connection) -> Result<Conditions, HistoryError>,
        mut find: impl FnMut(&Connection, &Conditions, Stretch, usize) -> Result<Vec<R>, HistoryError>,
    ) -> Result<(Vec<R>, Option<Seq>), HistoryError> {
        let began = Instant::now();
        let files = self.files.load_full();
        let mut rows = Vec::new();
        let mut end = before;
        for file in files.iter().rev() {
            if file.first >= end {
                continue;
            }
            let connection = match file::open_to_read(&file.path) {
                Ok(connection) => connection,
                // It has left since the list was read, and all older ones with it.
                Err(_) if !file.path.exists() => break,
                Err(error) => return Err(error),
            };
            let last: Option<i64> =
                connection.query_row("SELECT max(seq) FROM events", [], |row| row.get(0)).optional()?.flatten();
            let mut high = end.min(Seq(last.unwrap_or(0).unsigned_abs()).next());
            if let Some(until) = until {
                high = high.min(first_at_or_after(&connection, until)?.unwrap_or(high));
            }
            let low = match since {
                Some(since) => first_at_or_after(&connection, since)?.unwrap_or(high).max(file.first),
                None => file.first,
            };
            let conditions = prepare(&connection)?;
            let mut length = STRETCH_MIN;
            while !conditions.nothing && high > low {
                let from = Seq(high.0.saturating_sub(length)).max(low);
                let found = find(&connection, &conditions, (from, high), limit - rows.len())?;
                length = if found.len() * 4 < limit { (length * 2).min(STRETCH_MAX) } else { length };
                rows.extend(found);
                if rows.len() >= limit {
                    return Ok((rows, None));
                }
                high = from;
                if began.elapsed() > TIME_MAX {
                    return Ok((rows, Some(high)));
                }
            }
            end = file.first;
            if since.is_some() && low > file.first {
                break;
            }
        }
        Ok((rows, None))
    }
}

/// The schema that a file says it has.
pub(super) fn schema(connection: &Connection) -> Result<i64, HistoryError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0))?)
}

/// When the first event of a file was accepted.
pub(super) fn first_event_at(path: &Path) -> Result<Option<Timestamp>, HistoryError> {
    let connection = file::open_to_read(path)?;
    let at: Option<i64> =
        connection.query_row("SELECT at FROM events ORDER BY seq LIMIT 1", [], |row| row.get(0)).optional()?;
    Ok(at.map(|at| Timestamp(at.unsigned_abs())))
}

/// The first event accepted at `time` or later; times grow with sequences, so the place is halved.
pub(super) fn first_at_or_after(connection: &Connection, time: Timestamp) -> Result<Option<Seq>, HistoryError> {
    let bound = |order: &str| -> Result<Option<i64>, HistoryError> {
        let text = format!("SELECT seq FROM events ORDER BY seq {order} LIMIT 1");
        Ok(connection.query_row(&text, [], |row| row.get(0)).optional()?)
    };
    let (Some(mut low), Some(last)) = (bound("ASC")?, bound("DESC")?) else { return Ok(None) };
    let mut high = last + 1;
    let mut probe = connection.prepare_cached("SELECT seq, at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> = probe.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((seq, at)) if at.unsigned_abs() < time.0 => low = seq + 1,
            _ => high = middle,
        }
    }
    let found: Option<(i64, i64)> = probe.query_row([low], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.map(|(seq, _)| Seq(seq.unsigned_abs())))
}

fn events_in(
    connection: &Connection,
    conditions: &Conditions,
    (from, until): Stretch,
    limit: usize,
) -> Result<Vec<EventRow>, HistoryError> {
    if conditions.nothing {
        return Ok(Vec::new());
    }
    let table =
        if conditions.by_repository { "events e INDEXED BY events_by_repository" } else { "events e NOT INDEXED" };
    let text = format!(
        "SELECT {EVENT_COLUMNS}, e.seq, e.at, e.actor, e.time, e.payload_len, e.planned FROM {table}
         WHERE e.seq >= ? AND e.seq < ?{} ORDER BY e.seq DESC LIMIT ?",
        conditions.text
    );
    let number = |seq: Seq| i64::try_from(seq.0).unwrap_or(i64::MAX);
    let values = bounds(number(from), number(until), conditions, limit);
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let names = Names(connection);
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let event = EventPart::read(row, &names)?;
        let plan: Option<Vec<u8>> = row.get(14)?;
        let plan = planned::decode(plan.as_deref().unwrap_or_default());
        let deliveries = plan.map(|(general, parked)| Ok(PlannedRow { general: names.general(general)?, parked }));
        found.push(EventRow {
            seq: Seq(unsigned(row, 9)?.unwrap_or(0)),
            at: Timestamp(unsigned(row, 10)?.unwrap_or(0)),
            actor: names.get(Domain::Actor, row.get(11)?)?,
            time: unsigned(row, 12)?.map(Timestamp),
            payload_len: unsigned(row, 13)?.unwrap_or(0) as u32,
            deliveries: deliveries.collect::<Result<_, HistoryError>>()?,
            source: event.source,
            id: event.id,
            ty: event.ty,
            kind: event.kind,
            subject: event.subject,
            repository: event.repository,
            lane: event.lane,
            route: event.route,
            strategy: event.strategy,
        });
    }
    Ok(found)
}

/// Deliveries from the first id on, up to but without the second, the newest first.
fn deliveries_in(
    connection: &Connection,
    conditions: &Conditions,
    range: (i64, i64),
    limit: usize,
) -> Result<Vec<DeliveryRow>, HistoryError> {
    if conditions.nothing {
        return Ok(Vec::new());
    }
    let mut found = rows_in(connection, conditions, range, limit)?;
    let alone = found.len();
    settled_in(connection, conditions, range, limit, &mut found)?;
    if alone > 0 {
        found.sort_unstable_by_key(|row| std::cmp::Reverse(row.delivery));
        found.dedup_by_key(|row| row.delivery);
        found.truncate(limit);
    }
    Ok(found)
}

/// Those that have rows of their own.
fn rows_in(
    connection: &Connection,
    conditions: &Conditions,
    (from, until): (i64, i64),
    limit: usize,
) -> Result<Vec<DeliveryRow>, HistoryError> {
    // CROSS JOIN keeps the order of the tables: what narrows most comes first.
    let tables = if conditions.by_repository {
        "events e INDEXED BY events_by_repository CROSS JOIN deliveries d ON d.id >= e.seq << 13 AND d.id < (e.seq + 1) << 13"
    } else if conditions.by_status {
        "deliveries d INDEXED BY deliveries_set_aside CROSS JOIN events e ON e.seq = d.id >> 13"
    } else {
        "deliveries d NOT INDEXED CROSS JOIN events e ON e.seq = d.id >> 13"
    };
    let (range, order) = if conditions.by_repository {
        // The last event may be cut within its deliveries.
        ("e.seq >= ?1 >> 13 AND e.seq <= ?2 >> 13 AND +d.id >= ?1 AND +d.id < ?2", "e.seq DESC, d.id DESC")
    } else {
        ("d.id >= ?1 AND d.id < ?2", "d.id DESC")
    };
    let mut text = format!(
        "SELECT {EVENT_COLUMNS}, e.at, d.id, d.seq, d.status, d.at, d.general, d.instance, d.epoch, d.term, d.leased,
         d.attempts, d.took_ms, d.reason, d.superseded_by, d.redrives, d.input_tokens, d.output_tokens, d.cost_micros
         FROM {tables} WHERE {range}{} ORDER BY {order} LIMIT ?",
        conditions.text
    );
    if conditions.by_status {
        // The index is partial: say what it holds, so that it may be used.
        text = text.replace(" ORDER BY", " AND d.status IN (2, 4) ORDER BY");
    }
    let values = bounds(from, until, conditions, limit);
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let names = Names(connection);
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let accepted = Timestamp(unsigned(row, 9)?.unwrap_or(0));
        let delivery = DeliveryColumns {
            id: row.get(10)?,
            seq: row.get(11)?,
            status: row.get(12)?,
            at: row.get(13)?,
            general: row.get(14)?,
            instance: row.get(15)?,
            epoch: row.get(16)?,
            term: row.get(17)?,
            leased: row.get(18)?,
            attempts: row.get(19)?,
            took_ms: row.get(20)?,
            reason: row.get(21)?,
            superseded_by: row.get(22)?,
            redrives: row.get::<_, Option<i64>>(23)?.unwrap_or(0),
            input_tokens: row.get(24)?,
            output_tokens: row.get(25)?,
            cost_micros: row.get(26)?,
        };
        found.extend(EventPart::read(row, &names)?.delivery(accepted, &delivery, &names)?);
    }
    Ok(found)
}

/// Those that stand beside their events, added to `found`.
fn settled_in(
    connection: &Connection,
    conditions: &Conditions,
    (from, until): (i64, i64),
    limit: usize,
    found: &mut Vec<DeliveryRow>,
) -> Result<(), HistoryError> {
    let Some(wanted) = &conditions.settled else { return Ok(()) };
    let table =
        if conditions.by_repository { "events e INDEXED BY events_by_repository" } else { "events e NOT INDEXED" };
    let (condition, values) = conditions.of_event();
    // The last event may be cut within its deliveries.
    let text = format!(
        "SELECT {EVENT_COLUMNS}, e.seq, e.at, e.settled FROM {table}
         WHERE e.seq >= ?1 >> 13 AND e.seq <= ?2 >> 13 AND e.settled IS NOT NULL{condition} ORDER BY e.seq DESC"
    );
    let values = [from, until].map(Value::Integer).into_iter().chain(values.iter().cloned());
    let mut statement = connection.prepare_cached(&text)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let names = Names(connection);
    let (mut count, mut settled) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        let (base, bytes) = (Base { seq: row.get(9)?, at: row.get(10)? }, row.get_ref(11)?.as_blob());
        let fits = |delivery: &DeliveryColumns| (from..until).contains(&delivery.id) && wanted.fits(delivery);
        settled.extend(settled::decode(bytes.unwrap_or_default(), base).filter(fits));
        settled.sort_unstable_by_key(|delivery| std::cmp::Reverse(delivery.id));
        for delivery in settled.drain(..) {
            let accepted = Timestamp(base.at.unsigned_abs());
            found.extend(EventPart::read(row, &names)?.delivery(accepted, &delivery, &names)?);
            count += 1;
            if count == limit {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn bounds(from: i64, until: i64, conditions: &Conditions, limit: usize) -> Vec<Value> {
    let mut values = vec![Value::Integer(from), Value::Integer(until)];
    values.extend(conditions.values.iter().cloned());
    values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    values
}
