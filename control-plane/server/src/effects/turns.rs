//! What the pace has to know after a restart: turns to write that were given, and holds, by installation. A small SQLite file beside the journal.
//!
//! Invariant: a turn stands in the file before it is used, so a start knows of every write that may have been made. Where the file is gone and the
//! journal is not, what was written is not known up to the journal's newest record, and counts as a full window.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mindos_model::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

/// Turns of one installation that are kept: those of a window, and some that may have been given and not used.
const TURNS_MAX: u64 = 600;
/// How long they are kept: longer than a window at the slowest pace that may be set, which is 100 hours.
const KEEP: Duration = Duration::from_secs(5 * 24 * 3600);
/// After so many turns those that are too many or too old leave.
const TRIM_EVERY: u64 = 64;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS unknown (until INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS turns (lane TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS turns_by_lane ON turns (lane, at);
CREATE TABLE IF NOT EXISTS held (lane TEXT PRIMARY KEY, until INTEGER NOT NULL, why TEXT NOT NULL) STRICT;
";

/// What is known of one installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// When it was written, or was going to be; the oldest first.
    pub(super) turns: Vec<Timestamp>,
    /// Until when nothing is asked, and why.
    pub(super) held: Option<(Timestamp, String)>,
    /// Up to then anything may have been written; 0 where nothing was.
    pub(super) unknown: Timestamp,
}

/// The file; none in tests of what does not restart.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Option<Arc<File>>);

#[derive(Debug)]
struct File {
    connection: Mutex<Connection>,
    given: std::sync::atomic::AtomicU64,
}

type Result<T> = std::result::Result<T, rusqlite::Error>;

impl Turns {
    /// Opens the file, or begins it. `newest` is when the journal's newest record was made, 0 where it has none.
    pub(super) fn open(path: &Path, newest: Timestamp) -> Result<Turns> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // Synced with each turn: there are few, and none may be forgotten.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
        connection.execute_batch(TABLES)?;
        let known: Option<i64> = connection.query_row("SELECT until FROM unknown", [], |row| row.get(0)).optional()?;
        if known.is_none() {
            connection.execute("INSERT INTO unknown VALUES (?)", [number(newest)])?;
        }
        Ok(Turns(Some(Arc::new(File { connection: Mutex::new(connection), given: 0.into() }))))
    }

    /// What is known of an installation.
    pub(super) fn of(&self, lane: &str) -> Result<Past> {
        let Some(file) = &self.0 else { return Ok(Past::default()) };
        let connection = file.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement =
            connection.prepare_cached("SELECT at FROM turns WHERE lane = ? ORDER BY at DESC LIMIT ?")?;
        let rows = statement.query_map(params![lane, TURNS_MAX as i64], |row| row.get(0))?;
        let mut turns = rows.map(|at| at.map(time)).collect::<Result<Vec<_>>>()?;
        turns.reverse();
        let held = "SELECT until, why FROM held WHERE lane = ?";
        let held = connection.query_row(held, [lane], |row| Ok((time(row.get(0)?), row.get(1)?))).optional()?;
        let unknown = connection.query_row("SELECT until FROM unknown", [], |row| row.get(0)).map(time)?;
        Ok(Past { turns, held, unknown })
    }

    /// Notes a turn.
    pub(super) async fn give(&self, lane: &str, at: Timestamp) -> Result<()> {
        let lane = lane.to_owned();
        self.change(move |file, connection| {
            connection.prepare_cached("INSERT INTO turns VALUES (?, ?)")?.execute(params![lane, number(at)])?;
            if file.given.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % TRIM_EVERY == TRIM_EVERY - 1 {
                let newest = "SELECT at FROM turns WHERE lane = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2";
                let trim = format!("DELETE FROM turns WHERE lane = ?1 AND at < ({newest})");
                connection.execute(&trim, params![lane, TURNS_MAX as i64])?;
                connection.execute("DELETE FROM turns WHERE at < ?", [number(at - KEEP)])?;
                connection.execute("DELETE FROM held WHERE until < ?", [number(at - KEEP)])?;
            }
            Ok(())
        })
        .await
    }

    /// Notes until when nothing is asked.
    pub(super) async fn hold(&self, lane: &str, until: Timestamp, why: &str) -> Result<()> {
        let (lane, why) = (lane.to_owned(), why.to_owned());
        self.change(move |_, connection| {
            let row = params![lane, number(until), why];
            connection.prepare_cached("INSERT OR REPLACE INTO held VALUES (?, ?, ?)")?.execute(row).map(drop)
        })
        .await
    }

    async fn change(&self, change: impl FnOnce(&File, &Connection) -> Result<()> + Send + 'static) -> Result<()> {
        let Some(file) = self.0.clone() else { return Ok(()) };
        let changed = tokio::task::spawn_blocking(move || {
            let connection = file.connection.lock().unwrap_or_else(PoisonError::into_inner);
            change(&file, &connection)
        });
        // It ends with the process alone.
        changed.await.unwrap_or(Ok(()))
    }
}

fn number(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn time(at: i64) -> Timestamp {
    Timestamp(u64::try_from(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_and_holds_are_there_after_a_start_and_do_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pace.db");
        let turns = Turns::open(&path, Timestamp(0)).unwrap();
        for at in 0..TURNS_MAX + 2 * TRIM_EVERY {
            turns.give("7", Timestamp(at)).await.unwrap();
        }
        turns.give("8", Timestamp(5)).await.unwrap();
        turns.hold("8", Timestamp(9), "told").await.unwrap();
        drop(turns);
        let turns = Turns::open(&path, Timestamp(77)).unwrap();
        let all: i64 = {
            let connection = turns.0.as_ref().unwrap().connection.lock().unwrap();
            connection.query_row("SELECT count(*) FROM turns", [], |row| row.get(0)).unwrap()
        };
        assert!(all <= (TURNS_MAX + TRIM_EVERY + 2) as i64, "{all}");
        let past = turns.of("7").unwrap();
        assert_eq!(past.turns.last(), Some(&Timestamp(TURNS_MAX + 2 * TRIM_EVERY - 1)));
        assert_eq!((past.turns.len() as u64, past.unknown), (TURNS_MAX, Timestamp(0)), "the file was there");
        let past = turns.of("8").unwrap();
        for at in 0..TRIM_EVERY {
            turns.give("9", Timestamp(at) + KEEP * 2).await.unwrap();
        }
        assert!(turns.of("7").unwrap().turns.is_empty(), "what is too old is gone");
        assert_eq!((past.turns, past.held), (vec![Timestamp(5)], Some((Timestamp(9), "told".to_owned()))));
        assert_eq!(Turns::default().of("7").unwrap(), Past::default());
    }

    #[test]
    fn a_file_that_is_gone_is_not_the_same_as_nothing_written() {
        let dir = tempfile::tempdir().unwrap();
        let turns = Turns::open(&dir.path().join("pace.db"), Timestamp(77)).unwrap();
        assert_eq!(turns.of("7").unwrap().unknown, Timestamp(77));
    }
}
