//! The index as a view of the journal: effects that ended say what is ours, events of GitHub say what became of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_core::record::{EffectEnded, EffectIntended, EffectOutcome, Entry, EventAccepted, Record};
use mindos_model::{DeliveryId, Seq, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;

use super::index::{Index, Intended};
use super::signal::{self, Wrote};
use crate::blobs::BlobStore;
use crate::ingest::event::{json_data, json_dataref};
use crate::own_logins::OwnLogins;
use crate::routing::elsewhere;
use crate::views::follow::{View, ViewError};

/// How long what was found may wait to be committed, and how far the mark may lag behind.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const MARK_INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks for rows that may leave.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(600);

/// Follows the journal for what is ours and what is said of it.
pub struct FeedbackView {
    index: Index,
    blobs: Arc<BlobStore>,
    own: OwnLogins,
    mark: (Seq, Timestamp),
    written: bool,
    /// What the mark was when it was committed, and when that was.
    committed_mark: Seq,
    committed: Instant,
    expired: Instant,
    said: Arc<Notify>,
}

impl FeedbackView {
    /// Opens the index at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: &Path, blobs: Arc<BlobStore>, own: OwnLogins) -> Result<FeedbackView, rusqlite::Error> {
        let index = Index::open(path)?;
        let mark = index.mark()?;
        let now = Instant::now();
        let said = Arc::new(Notify::new());
        Ok(FeedbackView {
            index,
            blobs,
            own,
            mark,
            written: false,
            committed_mark: mark.0,
            committed: now,
            expired: now,
            said,
        })
    }

    /// Told when something was found that is to be published.
    #[must_use]
    pub fn said(&self) -> Arc<Notify> {
        Arc::clone(&self.said)
    }

    fn write(&mut self) -> Result<&Index, rusqlite::Error> {
        self.written = true;
        self.index.begin()?;
        Ok(&self.index)
    }

    fn intended(&mut self, seq: Seq, at: Timestamp, record: &EffectIntended) -> Result<(), rusqlite::Error> {
        // What the plane itself writes nobody's work stands behind, and a repeated key writes nothing.
        let (Some(delivery), None, false) = (record.delivery, record.first, record.overflow) else { return Ok(()) };
        let intended = Intended {
            tenant: record.tenant.clone(),
            delivery,
            kind: record.kind.to_string(),
            target: record.target.to_string(),
        };
        self.write()?.intend(mindos_model::EffectId(seq), &intended, at)
    }

    fn ended(&mut self, at: Timestamp, record: &EffectEnded) -> Result<(), rusqlite::Error> {
        let observed = match &record.outcome {
            EffectOutcome::Done { observed } => observed,
            // One that failed may be tried again.
            EffectOutcome::Failed { .. } => return Ok(()),
            EffectOutcome::DryRun { .. } | EffectOutcome::Cancelled { .. } => {
                return self.write()?.take(record.effect).map(drop);
            }
        };
        let Some(intended) = self.write()?.take(record.effect)? else { return Ok(()) };
        let Intended { tenant, delivery, kind, target } = intended;
        let Ok(observed) = serde_json::from_str::<Value>(observed) else { return Ok(()) };
        let repository = repository_of(&target);
        for wrote in written(&kind, &target, &observed) {
            self.index.wrote(&tenant, &wrote, delivery, repository, at)?;
        }
        Ok(())
    }

    fn accepted(&mut self, at: Timestamp, event: &EventAccepted) -> Result<(), rusqlite::Error> {
        if !is_of_repository(event) {
            return Ok(());
        }
        let bytes = &event.payload.bytes;
        let payload = match (json_data(bytes), json_dataref(bytes)) {
            (Some(data), _) if !data.is_empty() => serde_json::from_slice::<Value>(data),
            (_, Some(blob)) => match elsewhere::read(&self.blobs, &event.tenant, blob) {
                Ok(data) => serde_json::from_slice(&data),
                // Gone, or redacted: nobody can say any more what it said.
                Err(_) => return Ok(()),
            },
            _ => return Ok(()),
        };
        let Ok(payload) = payload else { return Ok(()) };
        let said = signal::read(&event.ty, &payload, &self.own.load());
        if let Some((commit, pull)) = &said.merged
            && let Some((delivery, repository)) = self.index.whose(&event.tenant, pull)?
        {
            self.write()?.wrote(&event.tenant, commit, delivery, &repository, at)?;
        }
        for signal in &said.signals {
            let whose: Option<(DeliveryId, String)> = self.index.whose(&event.tenant, &signal.about)?;
            let here = event.repository.as_deref().unwrap_or_default();
            if let Some((delivery, repository)) = whose.filter(|(_, there)| there.eq_ignore_ascii_case(here)) {
                tracing::debug!(%delivery, repository, id = signal.id, "feedback was found");
                self.write()?.say(&event.tenant, delivery, signal)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), rusqlite::Error> {
        let (seq, at) = self.mark;
        self.index.commit(seq, at)?;
        (self.committed_mark, self.committed) = (seq, Instant::now());
        if std::mem::take(&mut self.written) {
            self.said.notify_one();
        }
        Ok(())
    }
}

/// Whether an event names itself by its repository, as those of webhooks do: who may publish under other names is not GitHub.
fn is_of_repository(event: &EventAccepted) -> bool {
    let Some(repository) = event.repository.as_deref().filter(|name| !name.is_empty()) else { return false };
    let source = event.source.to_ascii_lowercase();
    (source.starts_with("https://") || source.starts_with("http://"))
        && source.ends_with(&format!("/{}", repository.to_ascii_lowercase()))
}

/// `owner/name` of a target such as `owner/name#7` or `owner/name@<commit>`.
fn repository_of(target: &str) -> &str {
    target.split(['#', '@']).next().unwrap_or_default()
}

/// What an effect of this kind left behind, by what was observed of it.
fn written(kind: &str, target: &str, observed: &Value) -> Vec<Wrote> {
    let pull = || target.split_once('#').and_then(|(_, number)| number.parse().ok());
    let number = |name: &str| observed.get(name).and_then(Value::as_u64);
    let sha = || observed.get("sha").and_then(Value::as_str).filter(|sha| sha.len() == 40).map(str::to_owned);
    let found = match kind {
        "comment" => number("id").map(|id| Wrote::Comment { id }),
        "review" => number("id").map(|id| Wrote::Review { id, pull: pull() }),
        "pull_request" => {
            number("number").map(|number| Wrote::PullRequest { repository: repository_of(target).to_owned(), number })
        }
        "branch" => sha().map(|sha| Wrote::Commit { sha }),
        _ => None,
    };
    found.into_iter().collect()
}

impl View for FeedbackView {
    fn name(&self) -> &'static str {
        "feedback"
    }

    fn next(&self) -> Seq {
        self.mark.0.next()
    }

    fn mark(&self) -> Option<(Seq, Timestamp)> {
        (self.mark.0 > Seq::ZERO && self.mark.1 > Timestamp(0)).then_some(self.mark)
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ViewError> {
        match &entry.record {
            Record::EffectIntended(record) => self.intended(entry.seq, entry.at, record)?,
            Record::EffectEnded(record) => self.ended(entry.at, record)?,
            Record::EventAccepted(event) if signal::may_say(&event.ty) => self.accepted(entry.at, event)?,
            _ => {}
        }
        self.mark = (entry.seq, entry.at);
        Ok(())
    }

    fn upkeep(&mut self, idle: bool) -> Result<(), ViewError> {
        let since = self.committed.elapsed();
        let lags = self.mark.0 > self.committed_mark && since >= MARK_INTERVAL;
        if self.written && (idle || since >= COMMIT_INTERVAL) || lags {
            self.commit()?;
        }
        if idle && self.expired.elapsed() >= EXPIRE_INTERVAL {
            self.expired = Instant::now();
            self.index.begin()?;
            self.index.expire(self.mark.1)?;
            self.commit()?;
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ViewError> {
        self.index.roll_back()?;
        self.index.clear()?;
        self.mark = (Seq::ZERO, Timestamp(0));
        Ok(())
    }

    fn skip_to(&mut self, first: Seq) -> Result<(), ViewError> {
        self.mark = (Seq(first.0.saturating_sub(1)), Timestamp(0));
        Ok(self.commit()?)
    }

    fn recover(&mut self) -> Result<(), ViewError> {
        self.index.roll_back()?;
        self.written = false;
        self.mark = self.index.mark()?;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ViewError> {
        Ok(self.commit()?)
    }
}

/// For tests: who has what.
#[cfg(test)]
fn whose(view: &FeedbackView, tenant: &mindos_model::TenantName, wrote: &Wrote) -> Option<DeliveryId> {
    view.index.whose(tenant, wrote).unwrap().map(|(delivery, _)| delivery)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
