//! Reactions to our comments, those on lines too: GitHub tells nobody of them, so it is asked, slowly, and for comments of the last days alone.
//!
//! ```text
//!  every `every`: our comments and reviews of the last three days, the newest first, at most 200, one request each `pace`
//!    comment --> its reactions
//!    review  --> its comments on lines, with how many reacted to each --> reactions to those that anybody reacted to
//! ```
//! Every request says what was read last, so that what is as it was is answered 304 and takes nothing of GitHub's limit. Invariants: what cannot
//! be read or published is asked for again later; a reaction is published once, by its id.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mindos_model::{DeliveryId, TenantName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::index::{At, Index, Pending, Watched};
use super::publish::{self, Counts};
use super::settings::Configured;
use super::signal;
use crate::effects::{Effects, Forge, ForgeError, News, Repository, Tag};
use crate::grpc::Context;
use crate::logging::Chain;
use crate::own_logins::OwnLogins;

/// How old comments may be that are asked about.
const AGE_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// Comments and reviews asked about in one round.
const WATCHED_MAX: usize = 200;
/// Pages of reactions to one comment, of 100 each.
const PAGES_MAX: usize = 3;
/// Comments of one review that are asked about: it has no more.
const LINES_MAX: usize = 100;
/// Reactions that are remembered as published; beyond it all are published again, which changes nothing.
const SEEN_MAX: usize = 100_000;

/// A reaction as GitHub has it.
#[derive(Debug, Deserialize)]
struct Reaction {
    id: u64,
    content: String,
    user: Option<User>,
}

#[derive(Debug, Deserialize)]
struct User {
    login: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// A comment on a line, as GitHub lists those of a review.
#[derive(Debug, Deserialize)]
struct Line {
    id: u64,
    reactions: Option<Rollup>,
}

#[derive(Debug, Deserialize)]
struct Rollup {
    total_count: u64,
}

/// What is remembered from round to round.
#[derive(Debug, Default)]
struct Known {
    /// Reactions that were published.
    seen: HashSet<u64>,
    /// What lists said last, by their paths; of the last round, and of this one.
    last: HashMap<String, Tag>,
    tags: HashMap<String, Tag>,
}

impl Known {
    /// What a list said last, for this round too until it says something else.
    fn tag(&mut self, path: &str) -> Option<Tag> {
        let tag = self.last.remove(path).or_else(|| self.tags.get(path).cloned())?;
        self.tags.insert(path.to_owned(), tag.clone());
        Some(tag)
    }

    fn forget(&mut self, path: &str) {
        self.tags.remove(path);
    }
}

/// One thing that is asked about.
struct Asking<'a> {
    context: &'a Arc<Context>,
    forge: Forge,
    tenant: &'a TenantName,
    delivery: DeliveryId,
    pace: Duration,
}

/// Asks for reactions.
#[derive(Clone, Debug)]
pub struct Poller {
    /// The index.
    pub path: PathBuf,
    pub configured: Configured,
    pub effects: Effects,
    pub own: OwnLogins,
    pub counts: Arc<Counts>,
}

impl Poller {
    /// Asks until the server drains.
    pub async fn run(self, context: Arc<Context>) {
        let mut known = Known::default();
        let asks = async {
            loop {
                let settings = self.configured.load_full();
                tokio::time::sleep(settings.every).await;
                if settings.reactions {
                    self.round(&context, &mut known, settings.pace).await;
                }
            }
        };
        tokio::select! {
            () = asks => {}
            () = context.drained() => {}
        }
    }

    async fn round(&self, context: &Arc<Context>, known: &mut Known, pace: Duration) {
        let (path, since) = (self.path.clone(), context.handle.now() - AGE_MAX);
        let watched = tokio::task::spawn_blocking(move || Index::open(&path)?.watched(since, WATCHED_MAX)).await;
        let watched = match watched {
            Ok(Ok(watched)) => watched,
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "our comments were not read");
                return;
            }
            Err(_) => return,
        };
        if known.seen.len() > SEEN_MAX {
            // What was said before is read again, and published again, which changes nothing.
            *known = Known::default();
        }
        // What is not asked about in this round is forgotten with it.
        known.last = std::mem::take(&mut known.tags);
        for one in watched {
            if let Err(error) = self.ask(context, known, &one, pace).await {
                debug!(error = %Chain(&error), at = ?one.at, "reactions were not read");
                self.counts.polls_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        known.last.clear();
    }

    /// Asks about one comment or review.
    async fn ask(
        &self,
        context: &Arc<Context>,
        known: &mut Known,
        watched: &Watched,
        pace: Duration,
    ) -> Result<(), ForgeError> {
        let Watched { tenant, repository, at, delivery } = watched;
        let Some(repository) = Repository::read(repository) else { return Ok(()) };
        let forge = self.effects.reading(tenant, &repository).await?;
        let asking = Asking { context, forge, tenant, delivery: *delivery, pace };
        let Repository { owner, name } = &repository;
        let (pull, id) = match *at {
            At::Comment { id } => {
                let path = format!("/repos/{owner}/{name}/issues/comments/{id}/reactions");
                return self.reactions(&asking, known, &path, &format!("comment/{id}")).await.map(drop);
            }
            At::Review { pull, id } => (pull, id),
        };
        let path = format!("/repos/{owner}/{name}/pulls/{pull}/reviews/{id}/comments");
        let Some((lines, tag)) = self.news::<Line>(&asking, known, &path, 1).await? else { return Ok(()) };
        // Until all of it is published the list is not known.
        known.forget(&path);
        let mut is_whole = true;
        for Line { id, reactions } in lines.into_iter().take(LINES_MAX) {
            if reactions.is_some_and(|reactions| reactions.total_count == 0) {
                continue;
            }
            let path = format!("/repos/{owner}/{name}/pulls/comments/{id}/reactions");
            is_whole &= self.reactions(&asking, known, &path, &format!("review-comment/{id}")).await?;
        }
        if let Some(tag) = tag.filter(|_| is_whole) {
            known.tags.insert(path, tag);
        }
        Ok(())
    }

    /// A list where it is not as it was.
    async fn news<T: DeserializeOwned>(
        &self,
        asking: &Asking<'_>,
        known: &mut Known,
        path: &str,
        pages_max: usize,
    ) -> Result<Option<(Vec<T>, Option<Tag>)>, ForgeError> {
        tokio::time::sleep(asking.pace).await;
        let tag = known.tag(path);
        let news = asking.forge.news(path, pages_max, tag.as_ref()).await?;
        let (count, read) = match news {
            News::Same => (&self.counts.polls_same, None),
            News::Read(entries, tag) => (&self.counts.polls, Some((entries, tag))),
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(read)
    }

    /// Publishes the reactions to one comment, named `of`; false where not all were, and they are to be read again.
    async fn reactions(
        &self,
        asking: &Asking<'_>,
        known: &mut Known,
        path: &str,
        of: &str,
    ) -> Result<bool, ForgeError> {
        let news = self.news::<Reaction>(asking, known, path, PAGES_MAX).await?;
        let Some((reactions, tag)) = news else { return Ok(true) };
        known.forget(path);
        let Asking { context, tenant, delivery, .. } = asking;
        let (own, mut is_whole) = (self.own.load(), true);
        for reaction in reactions {
            let Reaction { id, content, user: Some(user) } = reaction else { continue };
            let Some(verdict) = signal::reaction(&content) else { continue };
            if own.has(&user.login) || user.kind == "Bot" || known.seen.contains(&id) {
                continue;
            }
            let word = Pending {
                tenant: (*tenant).clone(),
                id: format!("{of}/reaction/{id}"),
                delivery: *delivery,
                verdict,
                actor: Some(user.login),
            };
            match publish::now(context, &word, &self.counts).await {
                true => drop(known.seen.insert(id)),
                false => is_whole = false,
            }
        }
        if let Some(tag) = tag.filter(|_| is_whole) {
            known.tags.insert(path.to_owned(), tag);
        }
        Ok(is_whole)
    }
}
