//! The index: whose work stands behind what we wrote on GitHub, and what was said of it and is not published yet.
//!
//! ```text
//!  intended (effects under way) --ended--> wrote (comment/17, pull/o/n#9, commit/<sha> -> delivery)
//!                                             |  a signal names it
//!                                             v
//!                                          pending (signals with their deliveries) --published--> gone
//! ```
//! A small SQLite file beside the journal. Invariant: it can always be rebuilt from the journal; every table has a bound, beyond which
//! the oldest rows leave.

use std::path::Path;
use std::time::Duration;

use mindos_core::record::FeedbackVerdict;
use mindos_model::{DeliveryId, EffectId, Seq, TenantName, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::signal::{Signal, Wrote};

/// Raised with every change of the tables: a file of another version is begun anew.
const SCHEMA: i64 = 2;
/// How long it is known whose work something is.
pub const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// Rows of each table.
const ROWS_MAX: u64 = 200_000;

const TABLES: &str = "
CREATE TABLE mark (seq INTEGER NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE intended (effect INTEGER PRIMARY KEY, tenant TEXT NOT NULL, delivery TEXT NOT NULL, kind TEXT NOT NULL,
    target TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE wrote (tenant TEXT NOT NULL, name TEXT NOT NULL, delivery TEXT NOT NULL, repository TEXT NOT NULL,
    pull INTEGER, at INTEGER NOT NULL, PRIMARY KEY (tenant, name)) STRICT, WITHOUT ROWID;
CREATE INDEX wrote_by_age ON wrote (at);
CREATE TABLE pending (tenant TEXT NOT NULL, id TEXT NOT NULL, delivery TEXT NOT NULL, verdict TEXT NOT NULL, actor TEXT,
    PRIMARY KEY (tenant, id)) STRICT, WITHOUT ROWID;
";

/// An effect under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    pub tenant: TenantName,
    pub delivery: DeliveryId,
    pub kind: String,
    pub target: String,
}

/// Something that was said and is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub tenant: TenantName,
    pub id: String,
    pub delivery: DeliveryId,
    pub verdict: FeedbackVerdict,
    pub actor: Option<String>,
}

/// Something that reactions are looked for at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    pub tenant: TenantName,
    pub repository: String,
    pub at: At,
    pub delivery: DeliveryId,
}

/// Where somebody may react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At a comment on an issue or pull request.
    Comment { id: u64 },
    /// At the comments on lines of a review.
    Review { pull: u64, id: u64 },
}

/// The file, open for writing.
#[derive(Debug)]
pub struct Index(Connection);

type Result<T> = std::result::Result<T, rusqlite::Error>;

impl Index {
    /// Opens the file, or begins it.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: &Path) -> Result<Index> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
        let index = Index(connection);
        let version: i64 = index.0.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != SCHEMA {
            index.clear()?;
        }
        Ok(index)
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn clear(&self) -> Result<()> {
        self.0.execute_batch(
            "DROP TABLE IF EXISTS mark; DROP TABLE IF EXISTS intended; DROP TABLE IF EXISTS wrote; DROP TABLE IF EXISTS pending;",
        )?;
        self.0.execute_batch(TABLES)?;
        self.0.pragma_update(None, "user_version", SCHEMA)
    }

    /// Begins a transaction, unless one is open.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&self) -> Result<()> {
        if self.0.is_autocommit() { self.0.execute_batch("BEGIN IMMEDIATE") } else { Ok(()) }
    }

    /// Commits what was written, with the last record seen.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn commit(&self, seq: Seq, at: Timestamp) -> Result<()> {
        self.begin()?;
        self.0.execute("DELETE FROM mark", [])?;
        self.0.execute("INSERT INTO mark VALUES (?, ?)", params![number(seq.0), number(at.0)])?;
        self.0.execute_batch("COMMIT")
    }

    /// Takes back what was not committed.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn roll_back(&self) -> Result<()> {
        if self.0.is_autocommit() { Ok(()) } else { self.0.execute_batch("ROLLBACK") }
    }

    /// The last record that was committed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn mark(&self) -> Result<(Seq, Timestamp)> {
        let row = |row: &rusqlite::Row<'_>| Ok((Seq(unsigned(row.get(0)?)), Timestamp(unsigned(row.get(1)?))));
        let mark = self.0.query_row("SELECT seq, at FROM mark", [], row).optional()?;
        Ok(mark.unwrap_or((Seq::ZERO, Timestamp(0))))
    }

    /// Notes an effect under way.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn intend(&self, effect: EffectId, intended: &Intended, at: Timestamp) -> Result<()> {
        let Intended { tenant, delivery, kind, target } = intended;
        let row = params![number(effect.0.0), tenant.as_str(), delivery.to_string(), kind, target, number(at.0)];
        self.0.prepare_cached("INSERT OR REPLACE INTO intended VALUES (?, ?, ?, ?, ?, ?)")?.execute(row).map(drop)
    }

    /// Takes an effect that has ended out of those under way.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn take(&self, effect: EffectId) -> Result<Option<Intended>> {
        let sql = "DELETE FROM intended WHERE effect = ? RETURNING tenant, delivery, kind, target";
        let row = |row: &rusqlite::Row<'_>| -> Result<(String, String, String, String)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        };
        let found = self.0.prepare_cached(sql)?.query_row([number(effect.0.0)], row).optional()?;
        Ok(found.and_then(|(tenant, delivery, kind, target)| {
            Some(Intended { tenant: tenant.parse().ok()?, delivery: delivery.parse().ok()?, kind, target })
        }))
    }

    /// Notes whose work something is. What is edited in place is the newest delivery's.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn wrote(
        &self,
        tenant: &TenantName,
        wrote: &Wrote,
        delivery: DeliveryId,
        repository: &str,
        at: Timestamp,
    ) -> Result<()> {
        let pull = match wrote {
            Wrote::Review { pull, .. } => pull.map(number),
            Wrote::Comment { .. } | Wrote::PullRequest { .. } | Wrote::Commit { .. } => None,
        };
        let row = params![tenant.as_str(), wrote.to_string(), delivery.to_string(), repository, pull, number(at.0)];
        let sql =
            "INSERT OR REPLACE INTO wrote (tenant, name, delivery, repository, pull, at) VALUES (?, ?, ?, ?, ?, ?)";
        self.0.prepare_cached(sql)?.execute(row).map(drop)
    }

    /// Whose work something is, and in which repository.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn whose(&self, tenant: &TenantName, wrote: &Wrote) -> Result<Option<(DeliveryId, String)>> {
        let sql = "SELECT delivery, repository FROM wrote WHERE tenant = ? AND name = ?";
        let row = |row: &rusqlite::Row<'_>| -> Result<(String, String)> { Ok((row.get(0)?, row.get(1)?)) };
        let found = self.0.prepare_cached(sql)?.query_row(params![tenant.as_str(), wrote.to_string()], row);
        let found = found.optional()?;
        Ok(found.and_then(|(delivery, repository)| Some((delivery.parse().ok()?, repository))))
    }

    /// Notes what was said of somebody's work.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn say(&self, tenant: &TenantName, delivery: DeliveryId, signal: &Signal) -> Result<()> {
        let Signal { about: _, verdict, id, actor } = signal;
        let row = params![tenant.as_str(), id, delivery.to_string(), word(*verdict), actor];
        self.0.prepare_cached("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?)")?.execute(row).map(drop)
    }

    /// What is to be published.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn pending(&self, limit: usize) -> Result<Vec<Pending>> {
        let mut statement =
            self.0.prepare_cached("SELECT tenant, id, delivery, verdict, actor FROM pending LIMIT ?")?;
        let row = |row: &rusqlite::Row<'_>| -> Result<(String, String, String, String, Option<String>)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        };
        let rows = statement.query_map([number(limit as u64)], row)?.collect::<Result<Vec<_>>>()?;
        let read = |(tenant, id, delivery, verdict, actor): (String, String, String, String, Option<String>)| {
            let (tenant, delivery) = (tenant.parse().ok()?, delivery.parse().ok()?);
            let verdict = match verdict.as_str() {
                "accepted" => FeedbackVerdict::Accepted,
                "dismissed" => FeedbackVerdict::Dismissed,
                _ => FeedbackVerdict::Reverted,
            };
            Some(Pending { tenant, id, delivery, verdict, actor })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Takes out what was published.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn published(&self, tenant: &TenantName, id: &str) -> Result<()> {
        let mut statement = self.0.prepare_cached("DELETE FROM pending WHERE tenant = ? AND id = ?")?;
        statement.execute(params![tenant.as_str(), id]).map(drop)
    }

    /// Comments and reviews written since, the newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn watched(&self, since: Timestamp, limit: usize) -> Result<Vec<Watched>> {
        let sql = "SELECT tenant, name, delivery, repository, pull FROM wrote WHERE at >= ? AND
            (name LIKE 'comment/%' OR name LIKE 'review/%' AND pull IS NOT NULL) ORDER BY at DESC LIMIT ?";
        let mut statement = self.0.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| -> Result<(String, String, String, String, Option<i64>)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        };
        let rows = statement.query_map(params![number(since.0), number(limit as u64)], row)?;
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let read = |(tenant, name, delivery, repository, pull): (String, String, String, String, Option<i64>)| {
            let (kind, id) = name.split_once('/')?;
            let id = id.parse().ok()?;
            let at = match (kind, pull) {
                ("comment", _) => At::Comment { id },
                ("review", Some(pull)) => At::Review { pull: unsigned(pull), id },
                _ => return None,
            };
            Some(Watched { tenant: tenant.parse().ok()?, repository, at, delivery: delivery.parse().ok()? })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Has the oldest rows leave.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn expire(&self, now: Timestamp) -> Result<()> {
        let before = number((now - KEEP).0);
        for (table, order) in [("wrote", "at"), ("intended", "at")] {
            self.0.execute(&format!("DELETE FROM {table} WHERE at < ?"), [before])?;
            let count: i64 = self.0.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
            let over = unsigned(count).saturating_sub(ROWS_MAX);
            if over > 0 {
                let oldest = format!("SELECT {order} FROM {table} ORDER BY {order} LIMIT 1 OFFSET ?");
                let at: i64 = self.0.query_row(&oldest, [number(over)], |row| row.get(0))?;
                self.0.execute(&format!("DELETE FROM {table} WHERE at < ?"), [at])?;
            }
        }
        let count: i64 = self.0.query_row("SELECT count(*) FROM pending", [], |row| row.get(0))?;
        let over = unsigned(count).saturating_sub(ROWS_MAX);
        if over > 0 {
            let some = "DELETE FROM pending WHERE (tenant, id) IN (SELECT tenant, id FROM pending LIMIT ?)";
            self.0.execute(some, [number(over)])?;
        }
        Ok(())
    }
}

/// The word of a verdict, as in the types of feedback events.
#[must_use]
pub fn word(verdict: FeedbackVerdict) -> &'static str {
    match verdict {
        FeedbackVerdict::Accepted => "accepted",
        FeedbackVerdict::Dismissed => "dismissed",
        FeedbackVerdict::Reverted => "reverted",
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantName {
        TenantName::default_tenant()
    }

    fn delivery(event: u64) -> DeliveryId {
        DeliveryId::new(Seq(event), 1)
    }

    #[test]
    fn what_is_committed_is_there_after_a_start_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("feedback.db");
        let comment = Wrote::Comment { id: 17 };
        {
            let index = Index::open(&path).unwrap();
            index.begin().unwrap();
            index.wrote(&tenant(), &comment, delivery(1), "o/n", Timestamp(5)).unwrap();
            index.commit(Seq(9), Timestamp(8)).unwrap();
            index.begin().unwrap();
            index.wrote(&tenant(), &comment, delivery(2), "o/n", Timestamp(6)).unwrap();
        }
        let index = Index::open(&path).unwrap();
        assert_eq!(index.mark().unwrap(), (Seq(9), Timestamp(8)));
        assert_eq!(index.whose(&tenant(), &comment).unwrap(), Some((delivery(1), "o/n".to_owned())));
        assert_eq!(index.whose(&"other".parse().unwrap(), &comment).unwrap(), None, "another tenant's is not theirs");
    }

    #[test]
    fn effects_under_way_signals_and_comments_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("feedback.db")).unwrap();
        let intended = Intended {
            tenant: tenant(),
            delivery: delivery(3),
            kind: "comment".to_owned(),
            target: "o/n#7".to_owned(),
        };
        index.intend(EffectId(Seq(4)), &intended, Timestamp(1)).unwrap();
        assert_eq!(index.take(EffectId(Seq(4))).unwrap(), Some(intended));
        assert_eq!(index.take(EffectId(Seq(4))).unwrap(), None);

        let about = Wrote::Comment { id: 17 };
        let signal =
            Signal { about: about.clone(), verdict: FeedbackVerdict::Dismissed, id: "x".to_owned(), actor: None };
        index.say(&tenant(), delivery(3), &signal).unwrap();
        index.say(&tenant(), delivery(3), &signal).unwrap();
        let pending = index.pending(10).unwrap();
        assert_eq!((pending.len(), pending[0].verdict), (1, FeedbackVerdict::Dismissed));
        index.published(&tenant(), "x").unwrap();
        assert!(index.pending(10).unwrap().is_empty());

        let now = Timestamp(KEEP.as_millis() as u64 + 10);
        index.wrote(&tenant(), &about, delivery(3), "o/n", Timestamp(5)).unwrap();
        index.wrote(&tenant(), &Wrote::Comment { id: 18 }, delivery(4), "o/n", now).unwrap();
        let review = |id, pull| Wrote::Review { id, pull };
        index.wrote(&tenant(), &review(19, Some(7)), delivery(4), "o/n", now - Duration::from_millis(1)).unwrap();
        index.wrote(&tenant(), &review(20, None), delivery(4), "o/n", now).unwrap();
        let watched = index.watched(Timestamp(0), 10).unwrap();
        let at: Vec<At> = watched.iter().map(|it| it.at).collect();
        assert_eq!(at, [At::Comment { id: 18 }, At::Review { pull: 7, id: 19 }, At::Comment { id: 17 }]);
        index.expire(now).unwrap();
        assert_eq!(index.watched(Timestamp(0), 10).unwrap().len(), 2);
    }
}
