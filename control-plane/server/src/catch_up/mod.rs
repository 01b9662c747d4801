//! Catching up: what GitHub could not deliver to the App's webhook is asked for again.
//!
//! ```text
//!  every 5 min:  list deliveries, newest first, back to where the last look had all   ->  those that no attempt got through
//!                ask for each of them again, one a second, at most 100 a look, at most 5 attempts in all
//! ```
//! GitHub itself tries once. A delivery got through when we answered 2xx, which we do only when its event is durable; so its own list
//! says what never came, and asking too often costs a duplicate that is recognised by its id. Off unless `github_app` is set.

pub mod app_jwt;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mindos_model::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};
use mindos_outgoing::{Answer, Outgoing, OutgoingError, Request};
use settings::App;

/// Deliveries on one page of the list: the most GitHub gives.
const PER_PAGE: usize = 100;
/// Pages read in one look.
const PAGES_MAX: usize = 100;
/// A page of 100 deliveries has about 40 KiB.
const PAGE_MAX: usize = 1 << 20;
/// Deliveries asked for in one look.
const ASKS_MAX: usize = 100;
/// Between two of them.
const PACE: Duration = Duration::from_secs(1);
/// Attempts on one delivery in all, the first included.
const ATTEMPTS_MAX: usize = 5;
/// Deliveries remembered as missing.
const MISSING_MAX: usize = 10_000;
/// Looks overlap by this much, for deliveries that were on their way at the last one.
const OVERLAP: Duration = Duration::from_secs(600);
/// A delivery younger than this may still be on its way.
const YOUNG: Duration = Duration::from_secs(30);
/// How long to stay away after GitHub refused without saying for how long, and at most.
const AWAY: Duration = Duration::from_secs(60);
const AWAY_MAX: Duration = Duration::from_secs(3600);

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
enum CatchUpError {
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    #[error("GitHub answered {status}")]
    Refused { status: StatusCode, wait: Duration },
    #[error("the list of deliveries is not as documented")]
    List(#[from] serde_json::Error),
    #[error("GitHub's address of the next page is not usable")]
    Page(#[from] mindos_outgoing::TargetError),
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counts {
    looks: AtomicU64,
    failed: AtomicU64,
    asked: AtomicU64,
    given_up: AtomicU64,
    missing: AtomicU64,
}

impl Counts {
    /// Writes the families.
    pub fn expose(&self, into: &mut Exposition) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let name = "mindos_github_catch_up_looks_total";
        let mut family = into.family(name, Kind::Counter, "Looks at the App's list of deliveries.");
        family.series(&[("outcome", "done")], read(&self.looks));
        family.series(&[("outcome", "failed")], read(&self.failed));
        let help = "Deliveries that GitHub was asked to send again.";
        into.single("mindos_github_redeliveries_asked_total", Kind::Counter, help, read(&self.asked));
        let help = "Deliveries that were not asked for again, because no attempt got through.";
        into.single("mindos_github_redeliveries_given_up_total", Kind::Counter, help, read(&self.given_up));
        let help = "Deliveries that GitHub lists and that never came.";
        into.single("mindos_github_deliveries_missing", Kind::Gauge, help, read(&self.missing));
    }
}

/// One attempt, as the list has it.
#[derive(Debug, Deserialize)]
struct Attempt {
    id: u64,
    guid: String,
    delivered_at: String,
    status_code: i64,
}

/// A delivery that did not come.
#[derive(Debug, Default)]
struct Missing {
    /// The attempts known, all failed.
    attempts: BTreeSet<u64>,
    newest_at: Timestamp,
    /// The newest attempt when it was last asked for: until another shows, it is not asked for again at once.
    asked: Option<(u64, Timestamp)>,
    /// Cannot be had, or was tried often enough: only remembered, so that it is not begun anew.
    given_up: bool,
}

/// Asks for what did not come.
#[derive(Debug)]
pub struct CatchUp {
    client: Outgoing,
    clock: Clock,
    counts: Arc<Counts>,
    missing: BTreeMap<String, Missing>,
    /// Everything delivered before was seen; unset before the first whole look.
    seen_until: Option<Timestamp>,
    pace: Duration,
}

impl CatchUp {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(client: Outgoing, clock: Clock) -> CatchUp {
        let counts = Arc::default();
        CatchUp { client, clock, counts, missing: BTreeMap::new(), seen_until: None, pace: PACE }
    }

    /// Where its counts are read.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Looks again and again, while an App is configured, until `drain` turns true.
    pub async fn run(mut self, app: Arc<ArcSwapOption<App>>, mut drain: watch::Receiver<bool>) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = drain.wait_for(|draining| *draining) => return,
            }
            let Some(app) = app.load_full() else {
                wait = Duration::from_secs(2);
                continue;
            };
            let looked = tokio::select! {
                looked = self.look(&app) => looked,
                _ = drain.wait_for(|draining| *draining) => return,
            };
            let missing = self.missing.values().filter(|missing| !missing.given_up).count();
            self.counts.missing.store(missing as u64, Ordering::Relaxed);
            wait = match looked {
                Ok(()) => {
                    self.counts.looks.fetch_add(1, Ordering::Relaxed);
                    app.every
                }
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    let wait = match &error {
                        CatchUpError::Refused { wait, .. } => (*wait).max(app.every),
                        _ => app.every,
                    };
                    warn!(error = %Chain(&error), retry_in_ms = wait.as_millis() as u64, "GitHub's deliveries were not looked through");
                    wait
                }
            };
        }
    }

    /// One look, and what it asks for.
    async fn look(&mut self, app: &App) -> Result<(), CatchUpError> {
        let began = self.clock.now();
        let back_to = self.seen_until.unwrap_or(began - app.look_back) - OVERLAP;
        if self.list(app, back_to).await? {
            self.seen_until = Some(began);
        }
        let oldest = began - app.look_back;
        self.missing.retain(|_, missing| missing.newest_at >= oldest);
        self.ask(app).await
    }

    /// Reads the list back to a time; false when there was more than it may read.
    async fn list(&mut self, app: &App, back_to: Timestamp) -> Result<bool, CatchUpError> {
        let mut path = Some(format!("/app/hook/deliveries?per_page={PER_PAGE}"));
        let mut came = BTreeSet::new();
        for _ in 0..PAGES_MAX {
            let Some(page) = path.take() else { return Ok(true) };
            let answer = self.call(app, Method::GET, &page).await?;
            if !answer.status.is_success() {
                return Err(refused(&answer, self.clock.now()));
            }
            let attempts: Vec<Attempt> = serde_json::from_slice(&answer.body)?;
            let mut oldest = None;
            for attempt in attempts {
                let at = attempt.delivered_at.parse::<Timestamp>().unwrap_or(back_to);
                oldest = Some(at);
                self.note(attempt, at, &mut came);
            }
            if oldest.is_none_or(|at| at < back_to) {
                return Ok(true);
            }
            path = next_page(&answer.headers);
        }
        Ok(path.is_none())
    }

    fn note(&mut self, attempt: Attempt, at: Timestamp, came: &mut BTreeSet<String>) {
        let Attempt { id, guid, delivered_at: _, status_code } = attempt;
        if (200..300).contains(&status_code) {
            self.missing.remove(&guid);
            came.insert(guid);
        } else if !came.contains(&guid) {
            let full = self.missing.len() >= MISSING_MAX;
            if full && !self.missing.contains_key(&guid) {
                return;
            }
            let missing = self.missing.entry(guid).or_default();
            missing.attempts.insert(id);
            missing.newest_at = missing.newest_at.max(at);
            if missing.attempts.len() >= ATTEMPTS_MAX && !missing.given_up {
                self.counts.given_up.fetch_add(1, Ordering::Relaxed);
                missing.given_up = true;
            }
        }
    }

    async fn ask(&mut self, app: &App) -> Result<(), CatchUpError> {
        let now = self.clock.now();
        let due = |missing: &Missing| {
            let newest = missing.attempts.last().copied()?;
            let patient = match missing.asked {
                // The attempt that was asked for does not stand in the list yet.
                Some((last, at)) if last == newest => at + app.every * 4 <= now,
                _ => true,
            };
            let wanted = !missing.given_up && missing.newest_at + YOUNG <= now && patient;
            wanted.then_some(newest)
        };
        let mut wanted: Vec<(Timestamp, String, u64)> = self
            .missing
            .iter()
            .filter_map(|(guid, missing)| Some((missing.newest_at, guid.clone(), due(missing)?)))
            .collect();
        // The oldest first: they are the next to be forgotten.
        wanted.sort_unstable();
        for (index, (_, guid, attempt)) in wanted.into_iter().take(ASKS_MAX).enumerate() {
            if index > 0 {
                tokio::time::sleep(self.pace).await;
            }
            let answer = self.call(app, Method::POST, &format!("/app/hook/deliveries/{attempt}/attempts")).await?;
            match answer.status {
                status if status.is_success() => {
                    info!(delivery = guid, "missing delivery was asked for");
                    self.counts.asked.fetch_add(1, Ordering::Relaxed);
                    if let Some(missing) = self.missing.get_mut(&guid) {
                        missing.asked = Some((attempt, self.clock.now()));
                    }
                }
                StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
                    debug!(delivery = guid, status = answer.status.as_u16(), "missing delivery cannot be had");
                    self.counts.given_up.fetch_add(1, Ordering::Relaxed);
                    if let Some(missing) = self.missing.get_mut(&guid) {
                        missing.given_up = true;
                    }
                }
                _ => return Err(refused(&answer, self.clock.now())),
            }
        }
        Ok(())
    }

    async fn call(&self, app: &App, method: Method, path: &str) -> Result<Answer, CatchUpError> {
        let mut request = Request::new(method, app.api.join(path)?);
        request.answer_max = PAGE_MAX;
        request.timeout = Duration::from_secs(30);
        let token = app.key.token(&app.id, self.clock.now());
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            value.set_sensitive(true);
            request.headers.insert(header::AUTHORIZATION, value);
        }
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        request.headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        Ok(self.client.send(request).await?)
    }
}

fn refused(answer: &Answer, now: Timestamp) -> CatchUpError {
    let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let reset = || {
        (number("x-ratelimit-remaining")? == 0).then_some(())?;
        Some(Timestamp(number("x-ratelimit-reset")?.saturating_mul(1000)).since(now))
    };
    let wait = answer.retry_after().or_else(reset).unwrap_or(AWAY).min(AWAY_MAX);
    CatchUpError::Refused { status: answer.status, wait }
}

/// Path and query of `rel="next"`, below the API's own path.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    let at = address.find("/app/hook/deliveries?")?;
    Some(address[at..].to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
