//! One file of the history: its schema, its names, and the statements that write it.
//!
//! A file holds the events accepted from its first sequence on until the next file begins, and all deliveries of those events: beside
//! the event where all of them settled before it was written, else as rows of their own.
//! Texts that repeat are kept once, as names with numbers. Invariant: a file that has its `schema` in `meta` is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use mindos_core::record::GeneralKey;
use mindos_model::{Seq, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::HistoryError;

/// Raised with every change of the tables: files of another version are rebuilt.
pub(super) const SCHEMA: i64 = 3;

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, domain INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (domain, text)) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, tenant INTEGER NOT NULL, source INTEGER NOT NULL, id TEXT NOT NULL,
    type INTEGER NOT NULL, kind INTEGER NOT NULL, subject TEXT, repository INTEGER, lane TEXT, actor INTEGER, time INTEGER,
    payload_len INTEGER NOT NULL, route INTEGER, strategy INTEGER, planned BLOB,
    settled BLOB
) STRICT;
CREATE INDEX events_by_repository ON events (repository) WHERE repository IS NOT NULL;
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, status INTEGER NOT NULL, at INTEGER NOT NULL, general INTEGER,
    instance INTEGER, epoch INTEGER, term INTEGER, leased INTEGER, attempts INTEGER, took_ms INTEGER, reason INTEGER,
    superseded_by INTEGER, redrives INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER, output_tokens INTEGER,
    cost_micros INTEGER
) STRICT;
CREATE INDEX deliveries_set_aside ON deliveries (status) WHERE status IN (2, 4);
";

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Tenant = 0,
    Source = 1,
    Type = 2,
    Kind = 3,
    Repository = 4,
    Actor = 5,
    Route = 6,
    /// Written `<cluster>/<name>`.
    General = 7,
    Instance = 8,
}

const DOMAINS: usize = 9;
/// States of deliveries that are gathered before they are written.
const GATHERED_MAX: usize = 1024;
/// Names of one file; it is rolled when it has more, so that memory stays bounded.
pub(super) const NAMES_MAX: usize = 500_000;

/// The path of the file that begins at `first`.
pub(super) fn path_of(dir: &Path, first: Seq) -> PathBuf {
    dir.join(format!("{:020}.db", first.0))
}

/// The sequence that a file's name says.
pub(super) fn first_of(path: &Path) -> Option<Seq> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".db")?;
    (stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit())).then(|| stem.parse().ok().map(Seq))?
}

/// The last record that the history has seen, and that record's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub seq: Seq,
    pub at: Timestamp,
}

/// A file open for writing, in a transaction while rows wait.
#[derive(Debug)]
pub(super) struct HistoryFile {
    pub path: PathBuf,
    rows: u64,
    dirty: bool,
    connection: Connection,
    names: [HashMap<Arc<str>, i64, foldhash::fast::RandomState>; DOMAINS],
    generals: HashMap<Arc<GeneralKey>, i64, foldhash::fast::RandomState>,
    names_count: usize,
    /// States of deliveries to be written together.
    deliveries: Vec<DeliveryColumns>,
}

impl HistoryFile {
    /// Makes a file; what stood under its name is replaced.
    pub(super) fn create(dir: &Path, first: Seq, mark: Mark, state: &[u8]) -> Result<HistoryFile, HistoryError> {
        let path = path_of(dir, first);
        remove(&path)?;
        let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
        let mut file = HistoryFile::with(path, connection, 0)?;
        file.begin()?;
        file.connection.execute_batch(TABLES)?;
        file.connection.execute_batch(super::effects::TABLE)?;
        file.put_meta("schema", SCHEMA)?;
        file.commit(mark, state)?;
        Ok(file)
    }

    /// Opens a file for writing. `None` when it is not whole or of another schema.
    pub(super) fn open(path: &Path) -> Result<Option<HistoryFile>, HistoryError> {
        match HistoryFile::open_whole(path) {
            Err(HistoryError::Sqlite(source) | HistoryError::Open { source, .. }) if is_damage(&source) => Ok(None),
            opened => opened,
        }
    }

    fn open_whole(path: &Path) -> Result<Option<HistoryFile>, HistoryError> {
        let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("PRAGMA synchronous = NORMAL;")?;
        let meta = |key: &str| connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0));
        let schema: i64 = meta("schema")?;
        if schema != SCHEMA {
            return Ok(None);
        }
        let rows: i64 = meta("rows")?;
        HistoryFile::with(path.to_owned(), connection, rows.unsigned_abs()).map(Some)
    }

    fn with(path: PathBuf, connection: Connection, rows: u64) -> Result<HistoryFile, HistoryError> {
        connection.execute_batch("PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;")?;
        connection.set_prepared_statement_cache_capacity(32);
        let mut names: [HashMap<_, _, _>; DOMAINS] = Default::default();
        let mut names_count = 0;
        if rows > 0 {
            let mut statement = connection.prepare("SELECT id, domain, text FROM names")?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let text: String = row.get(2)?;
                if let Some(domain) = names.get_mut(usize::from(row.get::<_, u8>(1)?)) {
                    domain.insert(Arc::from(text), row.get(0)?);
                    names_count += 1;
                }
            }
        }
        let generals = HashMap::default();
        Ok(HistoryFile { path, rows, dirty: false, connection, names, generals, names_count, deliveries: Vec::new() })
    }

    /// The last record that the file was committed with, and the state kept beside it.
    pub(super) fn mark(&self) -> Result<(Mark, Vec<u8>), HistoryError> {
        let meta = "SELECT value FROM meta WHERE key = ?";
        let number = |key: &str| self.connection.query_row(meta, [key], |row| row.get::<_, i64>(0));
        let (seq, at) = (number("high_water")?.unsigned_abs(), number("high_at")?.unsigned_abs());
        let state = self.connection.query_row(meta, ["state"], |row| row.get(0)).optional()?;
        Ok((Mark { seq: Seq(seq), at: Timestamp(at) }, state.unwrap_or_default()))
    }

    fn put_meta(&self, key: &str, value: impl rusqlite::ToSql) -> Result<(), HistoryError> {
        let mut put = self.connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?;
        put.execute(params![key, value])?;
        Ok(())
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Rows were written.
    pub(super) fn count_rows(&mut self, rows: u64) {
        self.rows += rows;
    }

    pub(super) fn begin(&mut self) -> Result<(), HistoryError> {
        if !self.dirty {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.dirty = true;
        }
        Ok(())
    }

    /// Commits the rows that wait, with the mark they belong to.
    pub(super) fn commit(&mut self, mark: Mark, state: &[u8]) -> Result<(), HistoryError> {
        self.begin()?;
        self.put_meta("high_water", mark.seq.0 as i64)?;
        self.put_meta("high_at", mark.at.0 as i64)?;
        self.put_meta("state", state)?;
        self.commit_rows()
    }

    /// Commits the rows that wait, and leaves the mark where it is: for a file that is not the newest.
    pub(super) fn commit_rows(&mut self) -> Result<(), HistoryError> {
        self.write_deliveries()?;
        self.begin()?;
        self.put_meta("rows", self.rows as i64)?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.dirty = false;
        Ok(())
    }

    /// Has each commit be on the disk before it returns: for a file whose rows must not be lost while the mark in another one stays.
    pub(super) fn sync_commits(&self) -> Result<(), HistoryError> {
        Ok(self.connection.execute_batch("PRAGMA synchronous = FULL;")?)
    }

    /// Whether the next events belong into another file.
    pub(super) fn is_full(&self, rows_max: u64) -> bool {
        self.rows >= rows_max || self.names_count >= NAMES_MAX
    }

    /// Makes one file of database and log.
    pub(super) fn seal(self) -> Result<(), HistoryError> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// The number of a name, given to it where it has none.
    pub(super) fn name(&mut self, domain: Domain, text: &Arc<str>) -> Result<i64, HistoryError> {
        if let Some(id) = self.names[domain as usize].get(text) {
            return Ok(*id);
        }
        self.begin()?;
        let mut insert = self.connection.prepare_cached("INSERT INTO names (domain, text) VALUES (?, ?)")?;
        let id = insert.insert(params![domain as i64, &**text])?;
        self.names[domain as usize].insert(Arc::clone(text), id);
        self.names_count += 1;
        Ok(id)
    }

    /// As [`Self::name`], for a text that is not shared yet.
    pub(super) fn name_of(&mut self, domain: Domain, text: &str) -> Result<i64, HistoryError> {
        match self.names[domain as usize].get(text) {
            Some(id) => Ok(*id),
            None => self.name(domain, &Arc::from(text)),
        }
    }

    pub(super) fn general(&mut self, key: &Arc<GeneralKey>) -> Result<i64, HistoryError> {
        if let Some(id) = self.generals.get(key) {
            return Ok(*id);
        }
        let id = self.name(Domain::General, &Arc::from(key.to_string()))?;
        self.generals.insert(Arc::clone(key), id);
        Ok(id)
    }

    /// Writes an event, with its deliveries where all of them have settled. False when the event stands already; it is left as it is.
    pub(super) fn insert_event(&mut self, event: &EventColumns, settled: Option<&[u8]>) -> Result<bool, HistoryError> {
        self.begin()?;
        let mut insert = self.connection.prepare_cached(
            "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let written = insert.execute(params![
            event.seq,
            event.at,
            event.tenant,
            event.source,
            &*event.id,
            event.ty,
            event.kind,
            event.subject.as_deref(),
            event.repository,
            event.lane.as_deref(),
            event.actor,
            event.time,
            event.payload_len,
            event.route,
            event.strategy,
            Some(event.planned.as_slice()).filter(|plan| !plan.is_empty()),
            settled
        ])?;
        self.rows += written as u64;
        Ok(written > 0)
    }

    /// Has a state of a delivery written, unless a later one stands already. What is unset keeps its earlier value.
    pub(super) fn upsert_delivery(&mut self, row: DeliveryColumns) -> Result<(), HistoryError> {
        self.deliveries.push(row);
        self.rows += 1;
        if self.deliveries.len() < GATHERED_MAX { Ok(()) } else { self.write_deliveries() }
    }

    /// Writes the states gathered so far, in the order in which they lie in the file.
    fn write_deliveries(&mut self) -> Result<(), HistoryError> {
        if self.deliveries.is_empty() {
            return Ok(());
        }
        self.begin()?;
        self.deliveries.sort_unstable_by_key(|row| (row.id, row.seq));
        let mut upsert = self.connection.prepare_cached(
            "INSERT INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
             ON CONFLICT (id) DO UPDATE SET seq = ?2, status = ?3, at = ?4, general = coalesce(?5, general),
             instance = coalesce(?6, instance), epoch = coalesce(?7, epoch), term = coalesce(?8, term),
             leased = coalesce(?9, leased), attempts = coalesce(?10, attempts), took_ms = ?11, reason = ?12,
             superseded_by = ?13, redrives = redrives + ?14, input_tokens = ?15, output_tokens = ?16, cost_micros = ?17
             WHERE seq < ?2",
        )?;
        for row in self.deliveries.drain(..) {
            let DeliveryColumns { id, seq, status, at, general, instance, epoch, term, leased, .. } = row;
            let DeliveryColumns { attempts, took_ms, reason, superseded_by, redrives, .. } = row;
            let DeliveryColumns { input_tokens, output_tokens, cost_micros, .. } = row;
            upsert.execute(params![
                id,
                seq,
                status,
                at,
                general,
                instance,
                epoch,
                term,
                leased,
                attempts,
                took_ms,
                reason,
                superseded_by,
                redrives,
                input_tokens,
                output_tokens,
                cost_micros
            ])?;
        }
        Ok(())
    }

    /// The plan that was written with an event; empty when the event is not here.
    pub(super) fn plan(&mut self, event: Seq) -> Result<Vec<u8>, HistoryError> {
        let mut select = self.connection.prepare_cached("SELECT planned FROM events WHERE seq = ?")?;
        let planned: Option<Option<Vec<u8>>> = select.query_row([event.0 as i64], |row| row.get(0)).optional()?;
        Ok(planned.flatten().unwrap_or_default())
    }
}

/// One row of `events`.
#[derive(Clone, Debug)]
pub(super) struct EventColumns {
    pub seq: i64,
    pub at: i64,
    pub tenant: i64,
    pub source: i64,
    pub id: Arc<str>,
    pub ty: i64,
    pub kind: i64,
    pub subject: Option<Arc<str>>,
    pub repository: Option<i64>,
    /// Unset when it is the subject.
    pub lane: Option<Arc<str>>,
    pub actor: Option<i64>,
    pub time: Option<i64>,
    pub payload_len: i64,
    pub route: Option<i64>,
    pub strategy: Option<i64>,
    /// Of [`super::planned`].
    pub planned: Vec<u8>,
}

/// One row of `deliveries`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryColumns {
    pub id: i64,
    pub seq: i64,
    pub status: i64,
    pub at: i64,
    pub general: Option<i64>,
    pub instance: Option<i64>,
    pub epoch: Option<u32>,
    pub term: Option<u32>,
    pub leased: Option<i64>,
    pub attempts: Option<u32>,
    pub took_ms: Option<i64>,
    pub reason: Option<i64>,
    pub superseded_by: Option<i64>,
    /// Added to what stands.
    pub redrives: i64,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_micros: Option<i64>,
}

/// Opens a file for questions only.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, HistoryError> {
    // A log that no writer has open needs its index made, so the file cannot be opened read-only; questions never write.
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096; PRAGMA temp_store = MEMORY;")?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, HistoryError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|source| HistoryError::Open { path: path.to_owned(), source })?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// Unlinks a file with its log.
pub(super) fn remove(path: &Path) -> Result<(), HistoryError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(HistoryError::Files { path: path.to_owned(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a file cannot be used as it is, so that it is rebuilt.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    match error {
        rusqlite::Error::SqliteFailure(error, _) => matches!(error.code, DatabaseCorrupt | NotADatabase | Unknown),
        rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::InvalidColumnType(..) => true,
        rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}
