//! What settled deliveries used, added up by one thing that is known of them.

use std::collections::BTreeMap;
use std::time::Instant;

use hashbrown::HashMap;
use mindos_model::{Seq, TenantName, Timestamp};
use rusqlite::OptionalExtension;

use super::HistoryError;
use super::file::{self, DeliveryColumns, Domain};
use super::query::{HistoryReader, TIME_MAX, first_at_or_after};
use super::row::pack_start;
use super::settled::{self, Base};

/// Events added up between two looks at the clock.
const STRETCH: u64 = 1 << 18;

/// By what it is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpendingBy {
    Repository,
    Route,
    Kind,
    /// Written `<cluster>/<name>`.
    General,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    pub cost_micros: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub time_ms: u64,
    pub deliveries: u64,
}

impl Spending {
    /// Adds more of it.
    pub fn add(&mut self, more: Spending) {
        let Spending { cost_micros, input_tokens, output_tokens, time_ms, deliveries } = more;
        self.cost_micros += cost_micros;
        self.input_tokens += input_tokens;
        self.output_tokens += output_tokens;
        self.time_ms += time_ms;
        self.deliveries += deliveries;
    }
}

fn of_settled(delivery: &DeliveryColumns) -> Spending {
    let number = |value: Option<i64>| value.unwrap_or(0).unsigned_abs();
    Spending {
        cost_micros: number(delivery.cost_micros),
        input_tokens: number(delivery.input_tokens),
        output_tokens: number(delivery.output_tokens),
        time_ms: number(delivery.took_ms),
        deliveries: 1,
    }
}

impl HistoryReader {
    /// What settled deliveries of events accepted in that time used, the newest events first; also whether the time for it was up
    /// before the oldest were reached.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn spending(
        &self,
        tenant: &TenantName,
        by: SpendingBy,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<(BTreeMap<String, Spending>, bool), HistoryError> {
        let column = match by {
            SpendingBy::Repository => "e.repository",
            SpendingBy::Route => "e.route",
            SpendingBy::Kind => "e.kind",
            SpendingBy::General => "d.general",
        };
        let text = format!(
            "SELECT n.text, s.* FROM (SELECT {column} AS name, sum(d.cost_micros), sum(d.input_tokens), sum(d.output_tokens),
             sum(d.took_ms), count(*) FROM deliveries d CROSS JOIN events e ON e.seq = d.id >> 13
             WHERE d.id >= ? AND d.id < ? AND e.tenant = ? AND d.took_ms IS NOT NULL GROUP BY 1) s
             LEFT JOIN names n ON n.id = s.name"
        );
        let events = match by {
            SpendingBy::General => "NULL",
            SpendingBy::Repository | SpendingBy::Route | SpendingBy::Kind => column,
        };
        let settled = format!(
            "SELECT {events}, e.seq, e.at, e.settled FROM events e NOT INDEXED
             WHERE e.seq >= ? AND e.seq < ? AND e.tenant = ? AND e.settled IS NOT NULL"
        );
        let began = Instant::now();
        let mut found = BTreeMap::<String, Spending>::new();
        let mut end = Seq(u64::MAX >> 16);
        for of in self.files().iter().rev() {
            let connection = match file::open_to_read(&of.path) {
                Ok(connection) => connection,
                // It has left since the list was read, and all older ones with it.
                Err(_) if !of.path.exists() => break,
                Err(error) => return Err(error),
            };
            let mut select = connection.prepare_cached("SELECT id FROM names WHERE domain = ? AND text = ?")?;
            let known: Option<i64> =
                select.query_row((Domain::Tenant as i64, tenant.as_str()), |row| row.get(0)).optional()?;
            let last: Option<i64> =
                connection.query_row("SELECT max(seq) FROM events", [], |row| row.get(0)).optional()?.flatten();
            let last = Seq(last.unwrap_or(0).unsigned_abs()).next();
            let low = first_at_or_after(&connection, since)?.unwrap_or(last).max(of.first);
            let mut high = first_at_or_after(&connection, until)?.unwrap_or(last).min(last).min(end);
            let (mut statement, mut settled) =
                (connection.prepare_cached(&text)?, connection.prepare_cached(&settled)?);
            while let Some(known) = known
                && high > low
            {
                let from = Seq(high.0.saturating_sub(STRETCH)).max(low);
                let mut rows = statement.query((pack_start(from), pack_start(high), known))?;
                while let Some(row) = rows.next()? {
                    let number = |index| -> Result<u64, HistoryError> {
                        Ok(row.get::<_, Option<i64>>(index)?.unwrap_or(0).unsigned_abs())
                    };
                    let value: Option<String> = row.get(0)?;
                    found.entry(value.unwrap_or_default()).or_default().add(Spending {
                        cost_micros: number(2)?,
                        input_tokens: number(3)?,
                        output_tokens: number(4)?,
                        time_ms: number(5)?,
                        deliveries: number(6)?,
                    });
                }
                let mut sums = HashMap::<Option<i64>, Spending>::new();
                let mut rows = settled.query((from.0 as i64, high.0 as i64, known))?;
                while let Some(row) = rows.next()? {
                    let (name, base) = (row.get(0)?, Base { seq: row.get(1)?, at: row.get(2)? });
                    for delivery in settled::decode(row.get_ref(3)?.as_blob().unwrap_or_default(), base) {
                        let name = if by == SpendingBy::General { delivery.general } else { name };
                        sums.entry(name).or_default().add(of_settled(&delivery));
                    }
                }
                for (name, sum) in sums {
                    let mut select = connection.prepare_cached("SELECT text FROM names WHERE id = ?")?;
                    let text: Option<String> = select.query_row([name], |row| row.get(0)).optional()?;
                    found.entry(text.unwrap_or_default()).or_default().add(sum);
                }
                high = from;
                if began.elapsed() > TIME_MAX && high > low {
                    return Ok((found, true));
                }
            }
            end = of.first;
            if low > of.first {
                break;
            }
        }
        Ok((found, false))
    }
}
