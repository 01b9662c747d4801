//! Asking the history: pages by key, the newest first, across its files.
//!
//! A search walks each file backwards in stretches of the journal, so that it can stop when its time is up and say where to go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mindos_model::{DeliveryId, Seq, TenantName, Timestamp, Token};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row};

use super::file::{self, Domain};
use super::row::{pack, pack_start, reason_of, status_of, strategy_of, unpack};
use super::search::Conditions;
use super::{
    DeliveryQuery, DeliveryRow, EventQuery, EventRow, FileRef, Files, GeneralRef, HistoryError, Page, PageRequest,
    PlannedRow, planned,
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

    /// One event.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn event(&self, tenant: &TenantName, seq: Seq) -> Result<Option<EventRow>, HistoryError> {
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
        let prepare = |connection: &Connection| Conditions::of_events(connection, &page.tenant, query);
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

const EVENT_COLUMNS: &str = "e.source, e.id, e.type, e.kind, e.subject, e.repository, e.lane, e.route, e.strategy";

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

fn deliveries_in(
    connection: &Connection,
    conditions: &Conditions,
    (from, until): (i64, i64),
    limit: usize,
) -> Result<Vec<DeliveryRow>, HistoryError> {
    if conditions.nothing {
        return Ok(Vec::new());
    }
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
        let event = EventPart::read(row, &names)?;
        let number = |index| unsigned(row, index);
        let token = match (number(16)?, number(17)?) {
            (Some(epoch), Some(term)) => Some(Token::new(epoch as u32, term as u32)),
            _ => None,
        };
        let Some(status) = status_of(row.get(12)?) else { continue };
        found.push(DeliveryRow {
            delivery: unpack(row.get(10)?),
            accepted: Timestamp(number(9)?.unwrap_or(0)),
            seq: Seq(number(11)?.unwrap_or(0)),
            status,
            ended: Timestamp(number(13)?.unwrap_or(0)),
            general: names.general(row.get(14)?)?,
            instance: names.get(Domain::Instance, row.get(15)?)?,
            token,
            leased: number(18)?.map(Timestamp),
            attempts: number(19)?.unwrap_or(0) as u32,
            took_ms: number(20)?,
            reason: row.get::<_, Option<i64>>(21)?.and_then(reason_of),
            superseded_by: row.get::<_, Option<i64>>(22)?.map(unpack),
            redrives: number(23)?.unwrap_or(0) as u32,
            input_tokens: number(24)?.unwrap_or(0),
            output_tokens: number(25)?.unwrap_or(0),
            cost_micros: number(26)?.unwrap_or(0),
            source: event.source,
            event_id: event.id,
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

fn bounds(from: i64, until: i64, conditions: &Conditions, limit: usize) -> Vec<Value> {
    let mut values = vec![Value::Integer(from), Value::Integer(until)];
    values.extend(conditions.values.iter().cloned());
    values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    values
}

fn unsigned(row: &Row<'_>, index: usize) -> Result<Option<u64>, HistoryError> {
    Ok(row.get::<_, Option<i64>>(index)?.map(i64::unsigned_abs))
}

/// The columns of an event that every row shows: the first nine.
struct EventPart {
    source: String,
    id: String,
    ty: String,
    kind: String,
    subject: Option<String>,
    repository: Option<String>,
    lane: String,
    route: Option<String>,
    strategy: Option<mindos_model::Strategy>,
}

impl EventPart {
    fn read(row: &Row<'_>, names: &Names<'_>) -> Result<EventPart, HistoryError> {
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
}

/// The names of a file, read as they are needed: a page has few rows.
struct Names<'a>(&'a Connection);

impl Names<'_> {
    fn get(&self, domain: Domain, id: Option<i64>) -> Result<Option<String>, HistoryError> {
        let Some(id) = id else { return Ok(None) };
        let mut select = self.0.prepare_cached("SELECT text FROM names WHERE id = ? AND domain = ?")?;
        Ok(select.query_row((id, domain as i64), |row| row.get(0)).optional()?)
    }

    fn general(&self, id: Option<i64>) -> Result<Option<GeneralRef>, HistoryError> {
        let text = self.get(Domain::General, id)?;
        let split = text.as_deref().and_then(|text| text.split_once('/'));
        Ok(split.map(|(cluster, name)| GeneralRef { cluster: cluster.to_owned(), name: name.to_owned() }))
    }
}
