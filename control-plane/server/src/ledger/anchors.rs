//! Anchors: places outside of the data directory where each checkpoint is noted, so that a cut end is seen.
//!
//! A file gets a line and is synced; a webhook gets the line as its body, signed as those of sinks. Each anchor gets all of them in
//! order, those that are not taken again and again. How far each is stands in a small file. Invariant: an anchor's place moves only past
//! what it has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mindos_journal::signing::hex;
use mindos_model::{Seq, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::anchor_settings::Anchor;
use super::checkpoints::{Checkpoints, Line, Noted};
use crate::clock::Clock;
use crate::logging::Chain;
use crate::metrics::{Exposition, Kind};
use mindos_outgoing::Outgoing;

/// Between two looks for checkpoints.
const LOOK: Duration = Duration::from_secs(1);
/// Checkpoints that go to an anchor in one turn.
const TURN_MAX: usize = 100;
/// First wait after a failure; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The anchors in force.
pub type Configured = Arc<ArcSwap<Vec<Anchor>>>;

/// How an anchor stands.
#[derive(Clone, Copy, Debug)]
struct State {
    /// It has every checkpoint up to this record.
    through: Seq,
    failures: u64,
    /// Not before.
    again: Instant,
    wait: Duration,
    /// Since when the oldest one that it lacks is there.
    behind_since: Option<Timestamp>,
}

/// How all anchors stand; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AnchorStates(Arc<Mutex<BTreeMap<String, State>>>);

impl AnchorStates {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes how far each anchor is.
    pub fn expose(&self, checkpoints: &Checkpoints, durable: Seq, now: Timestamp, into: &mut Exposition) {
        let signed = checkpoints.last().map_or(Seq::ZERO, |noted| noted.checkpoint.through);
        let help = "Last record that a signed checkpoint of the ledger covers.";
        into.single("mindos_ledger_signed_through_seq", Kind::Gauge, help, signed.0);
        let help = "Durable records that no signed checkpoint of the ledger covers.";
        into.single("mindos_ledger_unsigned_records", Kind::Gauge, help, durable.0.saturating_sub(signed.0));
        let states: Vec<(String, State)> = self.lock().iter().map(|(name, state)| (name.clone(), *state)).collect();
        let help = "Signed records of which an anchor has no checkpoint.";
        let mut lag = into.family("mindos_ledger_anchor_lag_records", Kind::Gauge, help);
        for (name, state) in &states {
            lag.series(&[("anchor", name)], signed.0.saturating_sub(state.through.0));
        }
        let help = "Age of the oldest checkpoint that an anchor lacks, in seconds.";
        let mut behind = into.family("mindos_ledger_anchor_behind_seconds", Kind::Gauge, help);
        for (name, state) in &states {
            let seconds = state.behind_since.map_or(0.0, |since| now.0.saturating_sub(since.0) as f64 / 1000.0);
            behind.series(&[("anchor", name)], seconds);
        }
        let help = "Times that an anchor did not take a checkpoint.";
        let mut failures = into.family("mindos_ledger_anchor_failures_total", Kind::Counter, help);
        for (name, state) in &states {
            failures.series(&[("anchor", name)], state.failures);
        }
    }
}

/// What brings checkpoints to anchors.
#[derive(Debug)]
pub struct Anchoring {
    pub configured: Configured,
    pub checkpoints: Checkpoints,
    pub states: AnchorStates,
    pub client: Outgoing,
    pub clock: Clock,
    pub log_id: [u8; 16],
    /// Where the anchors' places are kept.
    pub dir: PathBuf,
}

/// Why an anchor did not take a checkpoint.
#[derive(Debug, thiserror::Error)]
enum AnchorError {
    #[error("failed to write `{path}`")]
    File { path: PathBuf, source: io::Error },
    #[error("{reason}")]
    Webhook { reason: String },
    #[error("writing panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Anchoring {
    /// Brings them until `drain` turns true.
    pub async fn run(self, mut drain: watch::Receiver<bool>) {
        let anchoring = Arc::new(self);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = drain.wait_for(|draining| *draining) => return,
            }
            let mut turns = JoinSet::new();
            let configured = anchoring.configured.load_full();
            anchoring.states.lock().retain(|name, _| configured.iter().any(|anchor| anchor.name() == *name));
            for anchor in configured.iter().cloned() {
                turns.spawn(Arc::clone(&anchoring).turn(anchor));
            }
            tokio::select! {
                () = async { while turns.join_next().await.is_some() {} } => {}
                _ = drain.wait_for(|draining| *draining) => return,
            }
        }
    }

    async fn turn(self: Arc<Self>, anchor: Anchor) {
        let name = anchor.name();
        let known = self.states.lock().get(&name).copied();
        let mut state = known.unwrap_or_else(|| State {
            through: self.place(&name),
            failures: 0,
            again: Instant::now(),
            wait: RETRY_MIN,
            behind_since: None,
        });
        if state.again <= Instant::now() {
            for noted in self.checkpoints.after(state.through, TURN_MAX) {
                if let Err(error) = self.note(&anchor, noted).await {
                    let retry_in_ms = state.wait.as_millis();
                    warn!(error = %Chain(&error), anchor = name, through = %noted.checkpoint.through, retry_in_ms, "checkpoint was not anchored");
                    state.failures += 1;
                    state.again = Instant::now() + state.wait;
                    state.wait = (state.wait * 2).min(RETRY_MAX);
                    break;
                }
                if state.wait > RETRY_MIN {
                    info!(anchor = name, through = %noted.checkpoint.through, "anchor takes checkpoints again");
                }
                state.through = noted.checkpoint.through;
                state.wait = RETRY_MIN;
                let (path, through) = (self.place_path(&name), state.through);
                let text = format!("{} {through}\n", hex(&self.log_id));
                // Where that fails, the checkpoint goes out once more after a restart.
                let written = tokio::task::spawn_blocking(move || write_place(&path, &text)).await;
                if let Ok(Err(error)) = written {
                    warn!(error = %Chain(&error), anchor = name, "an anchor's place was not written");
                }
            }
        }
        state.behind_since = self.checkpoints.after(state.through, 1).first().map(|noted| noted.at);
        self.states.lock().insert(name, state);
    }

    async fn note(&self, anchor: &Anchor, noted: Noted) -> Result<(), AnchorError> {
        let line = Line::of(&self.log_id, &noted).json();
        match anchor {
            Anchor::File(path) => {
                let path = path.clone();
                let written = tokio::task::spawn_blocking(move || {
                    append(&path, &line).map_err(|source| AnchorError::File { path, source })
                });
                written.await?
            }
            Anchor::Webhook(post) => {
                let id = format!("{}-{}", hex(&self.log_id), noted.checkpoint.through);
                let sent = post.post(&self.client, &id, line.into(), self.clock.now()).await;
                sent.map_err(|reason| AnchorError::Webhook { reason })
            }
        }
    }

    fn place_path(&self, name: &str) -> PathBuf {
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        self.dir.join(format!("{}.place", hex(&digest[..8])))
    }

    /// How far an anchor is, as was noted.
    fn place(&self, name: &str) -> Seq {
        let text = fs::read_to_string(self.place_path(name)).unwrap_or_default();
        let place = text.trim().split_once(' ').filter(|(journal, _)| *journal == hex(&self.log_id));
        Seq(place.and_then(|(_, through)| through.parse().ok()).unwrap_or(0))
    }
}

/// Adds a line to a file that is made where it is missing, and has it on stable storage.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn write_place(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)
}
