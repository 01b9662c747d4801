//! Kills at every step of plan mode: of the general, of its sidecar and of the control plane. In the end one of everything stands.
//!
//! ```text
//!   a first run, unhurt --> its steps: what the general announces, what is asked of the forge, what is asked of the model
//!   for each step: an issue of its own --> stopped there --> kill -9 --> started again --> one branch, pull request, comment, set of labels
//! ```
//! No step is listed here: they are taken from the unhurt run. Where a run stops is decided by what holds it, never by time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::team::{General, Setup, Team};
use super::{Counted, OWNER, Place, money, plan};

/// How long a run may take until it stops where it is to.
const STOP_MAX: Duration = Duration::from_secs(40);
const TYPE: &str = "coding-general";
const TITLE: &str = "Sundays count as late days";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    General,
    Sidecar,
    ControlPlane,
}

/// Where a run is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a step that the general announces.
    Step(String),
    /// At a request: before it is carried out, or when it is and nobody heard so yet.
    Request { place: Place, method: String, template: String, skip: u64, after: bool },
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Step(name) => write!(f, "step {name}"),
            Stop::Request { place, method, template, skip, after } => {
                let when = if *after { "after" } else { "before" };
                write!(f, "{when} {method} {template} ({} at {place:?})", skip + 1)
            }
        }
    }
}

/// A team whose general can be held.
#[derive(Debug)]
pub struct Ward {
    team: Team,
    sidecar: bool,
    /// What the general looks at: `at` names the step to hold at, `held` says that it is.
    holds: PathBuf,
    number: u64,
}

/// What a ward came to.
#[derive(Clone, Debug, Default)]
pub struct Came {
    /// Kills by who was killed.
    pub kills: BTreeMap<Victim, u64>,
    /// Steps of the unhurt run.
    pub steps: Vec<String>,
    /// Where a call that the model server counted was lost with who made it.
    pub lost: Vec<String>,
    /// Folders of tasks that are there in the end.
    pub left_behind: usize,
    /// Calls and tokens: of the ledger, and of the model server.
    pub used: money::Used,
    pub counted: Counted,
}

impl Ward {
    /// Starts one: a control plane of its own, a general with a stream of its own or behind a sidecar.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(name: &str, scale: u32, sidecar: bool) -> Result<Ward> {
        let team = Team::start(&Setup { name, scale, settings: "" }).await?;
        let holds = team.world.folder().join("holds");
        std::fs::create_dir_all(&holds).context("failed to make a folder")?;
        let mut ward = Ward { team, sidecar, holds, number: 0 };
        let general = ward.general();
        ward.team.general(&general).await?;
        ward.team.forge.repository(&format!("{OWNER}/shelf")).await?;
        Ok(ward)
    }

    fn general(&self) -> General<'static> {
        let environment = vec![format!("MINDOS_HOLD_DIR={}", self.holds.display())];
        General { environment, sidecar: self.sidecar, ..General::stream(TYPE) }
    }

    /// A plan, unhurt; returns the stops that it offers.
    async fn unhurt(&mut self) -> Result<Vec<Stop>> {
        // The first fetches tokens that are then kept; the second shows what every run does.
        self.plan_of(None).await?;
        let steps = self.holds.join("steps");
        std::fs::remove_file(&steps)
            .context("the general writes its steps down: is it a build with debug assertions?")?;
        let before = self.team.forge.log().await?.len();
        let asked = self.team.forge.journal().await?.len();
        self.plan_of(None).await?;
        let text = std::fs::read_to_string(&steps).context("the general writes its steps down")?;
        let mut stops: Vec<Stop> = Vec::new();
        for name in text.lines() {
            let stop = Stop::Step(name.to_owned());
            if !stops.contains(&stop) {
                stops.push(stop);
            }
        }
        let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
        for request in &self.team.forge.log().await?[before..] {
            let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
            let (method, template) = (text("method"), text("template"));
            // Looking for webhooks that were missed has its own time.
            if template.is_empty() || template.starts_with("/app/hook") {
                continue;
            }
            let count = seen.entry((method.clone(), template.clone())).or_default();
            let skip = *count;
            *count += 1;
            let writes = method != "GET" && method != "GIT";
            for after in [false, true].into_iter().filter(|after| writes || !after) {
                let (method, template) = (method.clone(), template.clone());
                stops.push(Stop::Request { place: Place::Github, method, template, skip, after });
            }
        }
        for skip in 0..self.team.forge.journal().await?.len() - asked {
            for after in [false, true] {
                let (method, template) = ("POST".to_owned(), String::new());
                stops.push(Stop::Request { place: Place::Models, method, template, skip: skip as u64, after });
            }
        }
        Ok(stops)
    }

    /// One issue, planned; stopped and hurt on the way where `hurt` says so.
    async fn plan_of(&mut self, hurt: Option<(&Stop, Victim)>) -> Result<()> {
        self.number += 1;
        let issue = plan::open(&self.team, "shelf", TITLE).await?;
        let held = match hurt {
            Some((stop, _)) => self.arm(stop).await?,
            None => 0,
        };
        plan::label(&self.team, "shelf", issue).await?;
        if let Some((stop, victim)) = hurt {
            self.stopped(stop, held).await.with_context(|| self.team.logs())?;
            self.hurt(stop, victim).await?;
        }
        self.team.stays(async || plan::planned_once(&self.team, "shelf", issue, TITLE).await).await?;
        Ok(())
    }

    async fn arm(&self, stop: &Stop) -> Result<u64> {
        match stop {
            Stop::Step(name) => {
                std::fs::write(self.holds.join("at"), name).context("failed to write")?;
                Ok(0)
            }
            Stop::Request { place, method, template, skip, after } => {
                let mut wanted =
                    json!({"method": method, "skip": skip, "do": if *after { "hold_after" } else { "hold_before" }});
                if !template.is_empty() {
                    wanted["template"] = json!(template);
                }
                self.team.forge.fault(*place, wanted).await
            }
        }
    }

    async fn stopped(&self, stop: &Stop, held: u64) -> Result<()> {
        match stop {
            Stop::Step(_) => {
                let begun = Instant::now();
                while !self.holds.join("held").exists() {
                    ensure!(begun.elapsed() < STOP_MAX, "the run did not stop at {stop}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }
            Stop::Request { place, .. } => {
                self.team.forge.holds(*place, held, STOP_MAX).await.map(|_| ()).with_context(|| stop.to_string())
            }
        }
    }

    /// Kills, lets go what was held, and starts again.
    async fn hurt(&mut self, stop: &Stop, victim: Victim) -> Result<()> {
        match victim {
            Victim::General => self.team.take(TYPE)?.kill()?,
            Victim::Sidecar => self.team.take(&format!("sidecar-{TYPE}"))?.kill()?,
            Victim::ControlPlane => self.team.world.take_plane()?.kill()?,
        }
        for name in ["at", "held"] {
            let path = self.holds.join(name);
            if path.exists() {
                std::fs::remove_file(path).context("failed to remove a file")?;
            }
        }
        if let Stop::Request { place, method, .. } = stop {
            // What the dead control plane was about to write never arrives; all else goes on.
            let never = victim == Victim::ControlPlane && *place == Place::Github && method != "GET" && method != "GIT";
            self.team.forge.let_all_go(never).await?;
        }
        match victim {
            Victim::General => {
                let general = self.general();
                self.team.program(&general)?;
            }
            Victim::Sidecar => self.team.sidecar(TYPE)?,
            Victim::ControlPlane => {
                self.team.world.start_plane().await?;
            }
        }
        Ok(())
    }

    /// Kills `victims` at every step of plan mode that `wanted` takes.
    ///
    /// # Errors
    /// When something is there twice or not at all, or money is not.
    pub async fn run(&mut self, victims: &[Victim], wanted: impl Fn(usize, &Stop) -> bool) -> Result<Came> {
        let stops = self.unhurt().await?;
        ensure!(stops.len() > 20, "plan mode has steps: {stops:?}");
        let mut came = Came { steps: stops.iter().map(Stop::to_string).collect(), ..Came::default() };
        let (mut gone, mut missing) = (0, Counted::default());
        for (_, stop) in stops.iter().enumerate().filter(|(at, stop)| wanted(*at, stop)) {
            for victim in victims {
                let what = format!("{victim:?} killed at {stop}");
                self.plan_of(Some((stop, *victim))).await.with_context(|| what.clone())?;
                *came.kills.entry(*victim).or_default() += 1;
                gone += 1;
                let (used, counted) = self.money().await?;
                let now = Counted {
                    input: counted.input - used.input,
                    output: counted.output - used.output,
                    cost: counted.cost - used.cost,
                    ..Counted::default()
                };
                let tokens = now.input + now.output;
                ensure!(
                    (tokens > 0) == (now.cost > 0),
                    "{what}: {tokens} tokens were lost, and a cost of {}",
                    now.cost
                );
                if now != missing {
                    ensure!(*victim != Victim::ControlPlane, "{what}: a call was lost, though its run went on");
                    came.lost.push(what);
                    missing = now;
                }
            }
        }
        ensure!(gone > 0, "nobody was killed");
        (came.used, came.counted) = self.money().await?;
        self.team.nothing_refused().await?;
        came.left_behind = self.team.left_behind().len();
        Ok(came)
    }

    /// What the ledger has and what the model server counted. The ledger never has more: money is counted once.
    async fn money(&self) -> Result<(money::Used, Counted)> {
        let (used, counted) = (money::used(&self.team.export()?)?, self.team.forge.counted().await?);
        ensure!(
            used.input <= counted.input && used.output <= counted.output && used.cost <= counted.cost,
            "the ledger counts twice: {used:?} of {counted:?}"
        );
        Ok((used, counted))
    }
}

impl Came {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Came) -> Came {
        let Came { kills, steps: _, lost, left_behind, used, counted } = other;
        for (victim, count) in kills {
            *self.kills.entry(victim).or_default() += count;
        }
        self.lost.extend(lost);
        self.left_behind += left_behind;
        self.used.add(used);
        self.counted.add(counted);
        self
    }

    /// Its figures.
    #[must_use]
    pub fn figures(&self) -> Value {
        let kills: serde_json::Map<String, Value> =
            self.kills.iter().map(|(who, count)| (format!("{who:?}"), json!(count))).collect();
        json!({
            "steps": self.steps.len(), "kills": kills, "tokens_of_the_ledger": self.used.input + self.used.output,
            "tokens_counted_by_the_model_server": self.counted.input + self.counted.output, "cost_micros": self.used.cost,
            "cost_micros_of_what_the_model_server_counted": self.counted.cost, "calls_lost_with_their_run": self.lost,
            "folders_left_behind": self.left_behind,
        })
    }
}
