//! How a run stands: what its object's status says.
//!
//! ```text
//!  Pending --> Running --> Succeeded
//!     |           |------> Failed     (another attempt: Running again)
//!     +-----------+------> Cancelled
//! ```
//! Invariant: `lastTransitionTime` of a condition moves only when its status does.

use mindos_model::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::code_run::PromptMode;
use super::outcome::Outcome;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing runs yet.
    #[default]
    Pending,
    /// Its Job runs.
    Running,
    /// It is done.
    Succeeded,
    /// Its last attempt failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Phase {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
            Phase::Cancelled => "Cancelled",
        }
    }
}

/// One aspect of how a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunCondition {
    /// What it is about: `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When the status last changed, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// One word: the phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the status was last written, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update: Option<String>,
    /// The Job of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
    /// The pull request that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request_url: Option<String>,
    /// Attempts after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<RunCondition>,
    /// The files of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configmap_name: Option<String>,
    /// The context of the newest attempt: it grows with every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_modification: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_mode: Option<PromptMode>,
    /// The session of the agent within the Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Nothing more will be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_completed: Option<bool>,
    /// What the attempts cost together in US dollars, such as `0.4213`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<String>,
    /// When the run ended, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl RunStatus {
    /// The phase; one without is pending.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.unwrap_or_default()
    }

    /// Whether nothing more will be done.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.work_completed == Some(true) || matches!(self.phase(), Phase::Succeeded | Phase::Cancelled)
    }

    /// Enters a phase.
    pub fn enter(&mut self, phase: Phase, message: &str, now: Timestamp) {
        let at = now.to_string();
        self.phase = Some(phase);
        self.message = Some(message.to_owned());
        let ready = if phase == Phase::Succeeded { "True" } else { "False" };
        let before = self.conditions.iter().find(|condition| condition.kind == "Ready");
        let since = match before {
            Some(before) if before.status == ready => before.last_transition_time.clone(),
            Some(_) | None => Some(at.clone()),
        };
        let condition = RunCondition {
            kind: "Ready".to_owned(),
            status: ready.to_owned(),
            last_transition_time: since.or_else(|| Some(at.clone())),
            reason: Some(phase.as_str().to_owned()),
            message: Some(message.to_owned()),
        };
        match self.conditions.iter_mut().find(|condition| condition.kind == "Ready") {
            Some(place) => *place = condition,
            None => self.conditions.push(condition),
        }
        match phase {
            Phase::Succeeded | Phase::Cancelled => {
                self.work_completed = Some(true);
                self.finished_at.get_or_insert(at.clone());
            }
            Phase::Failed => self.finished_at = Some(at.clone()),
            Phase::Pending | Phase::Running => (self.work_completed, self.finished_at) = (None, None),
        }
        self.last_update = Some(at);
    }

    /// Takes over what an attempt told.
    pub fn learn(&mut self, outcome: &Outcome) {
        let Outcome { pull_request_url, session_id, cost_micros, .. } = outcome;
        if let Some(url) = pull_request_url {
            self.pull_request_url = Some(url.clone());
        }
        if let Some(session) = session_id {
            self.session_id = Some(session.clone());
        }
        if let Some(cost) = cost_micros {
            let before = self.cost_usd.as_deref().and_then(micros).unwrap_or(0);
            self.cost_usd = Some(usd(before.saturating_add(*cost)));
        }
    }

    /// Whether another status differs in more than when it was written.
    #[must_use]
    pub fn differs(&self, other: &RunStatus) -> bool {
        let timeless = |status: &RunStatus| RunStatus { last_update: None, ..status.clone() };
        timeless(self) != timeless(other)
    }
}

/// Dollars of millionths, with four digits behind the point at least.
#[must_use]
pub fn usd(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let keep = text.trim_end_matches('0').len().max(text.len() - 2);
    text[..keep].to_owned()
}

/// Millionths of dollars.
#[must_use]
pub fn micros(usd: &str) -> Option<u64> {
    let dollars: f64 = usd.trim().parse().ok()?;
    (0.0..1e9).contains(&dollars).then(|| (dollars * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_true_when_succeeded_alone_and_its_time_moves_with_its_status() {
        let mut status = RunStatus::default();
        status.enter(Phase::Running, "runs", Timestamp(1000));
        status.enter(Phase::Failed, "exit 1", Timestamp(2000));
        let ready = |status: &RunStatus| status.conditions[0].clone();
        assert_eq!((ready(&status).status.as_str(), ready(&status).reason.as_deref()), ("False", Some("Failed")));
        assert_eq!(ready(&status).last_transition_time, Some(Timestamp(1000).to_string()));
        assert_eq!(status.finished_at, Some(Timestamp(2000).to_string()));
        status.enter(Phase::Running, "again", Timestamp(3000));
        assert_eq!((status.finished_at.clone(), status.is_final()), (None, false));
        status.enter(Phase::Succeeded, "done", Timestamp(4000));
        assert_eq!((ready(&status).status.as_str(), status.work_completed), ("True", Some(true)));
        assert_eq!(ready(&status).last_transition_time, Some(Timestamp(4000).to_string()));
        assert_eq!(status.conditions.len(), 1);
        let json = serde_json::to_value(&status).unwrap();
        for field in ["phase", "lastUpdate", "workCompleted", "finishedAt", "conditions"] {
            assert!(json.get(field).is_some(), "{field} is not in {json}");
        }
    }

    #[test]
    fn what_attempts_cost_adds_up() {
        let mut status = RunStatus::default();
        let outcome = Outcome { cost_micros: Some(421_300), ..Outcome::default() };
        status.learn(&outcome);
        assert_eq!(status.cost_usd.as_deref(), Some("0.4213"));
        status.learn(&outcome);
        assert_eq!(status.cost_usd.as_deref(), Some("0.8426"));
        assert_eq!((usd(1_000_001), usd(0), usd(2_000_000)), ("1.000001".into(), "0.0000".into(), "2.0000".into()));
        assert_eq!((micros("0.1"), micros("x"), micros("-1"), micros("NaN")), (Some(100_000), None, None, None));
    }
}
