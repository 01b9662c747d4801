//! Reactions to our comments: GitHub tells nobody of them, so it is asked, slowly, and for comments of the last days alone.
//!
//! ```text
//!  every `every`: our comments of the last three days, the newest first, at most 200, one request each `pace`
//! ```
//! Invariant: what cannot be read is asked for again later; a reaction is published once, by its id.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use tracing::debug;

use super::index::{Index, Pending, Watched};
use super::publish::{self, Counts};
use super::settings::Configured;
use super::signal;
use crate::effects::{Effects, Repository};
use crate::grpc::Context;
use crate::logging::Chain;
use crate::own_logins::OwnLogins;

/// How old comments may be that are asked about.
const AGE_MAX: Duration = Duration::from_secs(3 * 24 * 3600);
/// Comments asked about in one round.
const COMMENTS_MAX: usize = 200;
/// Pages of reactions to one comment, of 100 each.
const PAGES_MAX: usize = 3;
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
        let mut seen = HashSet::new();
        let asks = async {
            loop {
                let settings = self.configured.load_full();
                tokio::time::sleep(settings.every).await;
                if settings.reactions {
                    self.round(&context, &mut seen, settings.pace).await;
                }
            }
        };
        tokio::select! {
            () = asks => {}
            () = context.drained() => {}
        }
    }

    async fn round(&self, context: &Arc<Context>, seen: &mut HashSet<u64>, pace: Duration) {
        let (path, since) = (self.path.clone(), context.handle.now() - AGE_MAX);
        let comments = tokio::task::spawn_blocking(move || Index::open(&path)?.comments(since, COMMENTS_MAX)).await;
        let comments = match comments {
            Ok(Ok(comments)) => comments,
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "our comments were not read");
                return;
            }
            Err(_) => return,
        };
        if seen.len() > SEEN_MAX {
            seen.clear();
        }
        for comment in comments {
            tokio::time::sleep(pace).await;
            let count = match self.ask(context, seen, &comment).await {
                true => &self.counts.polls,
                false => &self.counts.polls_failed,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks about one comment; false where it could not be read.
    async fn ask(&self, context: &Arc<Context>, seen: &mut HashSet<u64>, comment: &Watched) -> bool {
        let Watched { tenant, repository, comment: number, delivery } = comment;
        let Some(repository) = Repository::read(repository) else { return false };
        let mut found: Vec<Reaction> = Vec::new();
        let read = async {
            let forge = self.effects.reading(tenant, &repository).await?;
            let Repository { owner, name } = &repository;
            let path = format!("/repos/{owner}/{name}/issues/comments/{number}/reactions");
            let take = |page: Vec<Reaction>| {
                found.extend(page);
                true
            };
            forge.list(&path, PAGES_MAX, take).await
        };
        if let Err(error) = read.await {
            debug!(error = %Chain(&error), comment = number, "reactions were not read");
            return false;
        }
        let own = self.own.load();
        for reaction in found {
            let Reaction { id, content, user: Some(user) } = reaction else { continue };
            let Some(verdict) = signal::reaction(&content) else { continue };
            if own.has(&user.login) || user.kind == "Bot" || seen.contains(&id) {
                continue;
            }
            let word = Pending {
                tenant: tenant.clone(),
                id: format!("comment/{number}/reaction/{id}"),
                delivery: *delivery,
                verdict,
                actor: Some(user.login),
            };
            if publish::now(context, &word, &self.counts).await {
                seen.insert(id);
            }
        }
        true
    }
}
