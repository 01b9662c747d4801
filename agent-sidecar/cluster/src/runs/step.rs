//! What is to be done next for a run, from what its object and its Job say. Pure, so that who is started again decides the same.
//!
//! ```text
//!  status Pending, with the Job's name --> Job made --> status Running --> Job ends --> status, result --> the Job may go
//! ```
//! Invariants: a Job is made under a context that the status names already, so a crash between the two makes the same Job; Running is written
//! once the Job is there, so one that is not there then was begun, and is not begun again.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use mindos_kube::platform::{Phase, RunStatus};
use mindos_model::Timestamp;

use super::plane::Stands;

/// How long a workspace is kept for a Job that is not there: it is made right after the workspace was taken, or never.
pub(super) const JOB_WITHIN: Duration = Duration::from_secs(60);

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// There is none.
    Absent,
    Running,
    Complete,
    /// With what its condition says.
    Failed(String),
}

impl JobState {
    /// Reads a Job.
    #[must_use]
    pub(super) fn of(job: Option<&Job>) -> JobState {
        let Some(job) = job else { return JobState::Absent };
        let status = job.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let holds =
            |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        if let Some(failed) = holds("Failed") {
            let said = [failed.reason.as_deref(), failed.message.as_deref()];
            return JobState::Failed(said.into_iter().flatten().collect::<Vec<_>>().join(": "));
        }
        if holds("Complete").is_some() {
            return JobState::Complete;
        }
        if status.and_then(|status| status.failed).is_some_and(|failed| failed > 0) {
            return JobState::Failed("its pod failed".to_owned());
        }
        JobState::Running
    }

    /// Whether it needs the workspace that it was given at `since`. One that is not there may be about to be made.
    #[must_use]
    pub(super) fn needs_workspace(&self, since: Option<Timestamp>, now: Timestamp) -> bool {
        match self {
            JobState::Running => true,
            JobState::Absent => is_within(JOB_WITHIN, since, now),
            JobState::Complete | JobState::Failed(_) => false,
        }
    }
}

/// Whether two times are less than this apart: of two clocks either may be ahead.
#[must_use]
pub(super) fn is_within(span: Duration, since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| now.since(since).max(since.since(now)) < span)
}

/// The context and the attempts before it of the newest attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) context: u32,
    pub(super) retries: u32,
}

impl Attempt {
    /// The newest attempt that a status knows, or the first.
    #[must_use]
    pub(super) fn newest(status: &RunStatus, first_context: u32) -> Attempt {
        Attempt { context: status.context_version.unwrap_or(first_context), retries: status.retry_count.unwrap_or(0) }
    }

    /// The one after it.
    #[must_use]
    pub(super) fn next(self) -> Attempt {
        Attempt { context: self.context.saturating_add(1), retries: self.retries.saturating_add(1) }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The run has ended well: its result is what its status and its Job say.
    Done(Attempt),
    /// It was cancelled before.
    Cancelled,
    /// A Job is to be made for this attempt.
    Start(Attempt),
    /// The Job of this attempt is there.
    Watch(Attempt),
    /// The Job of this attempt was there and is not any more: nobody saw what came of it.
    Gone(Attempt),
    /// This attempt failed, as its status says already: the control plane has yet to hear of it.
    Tell(Attempt),
}

/// Decides. `job` is the Job of the newest attempt, by its name; its failure `is_untold` where the control plane has not heard of it.
#[must_use]
pub(super) fn next(status: &RunStatus, first_context: u32, job_name: &str, job: &JobState, is_untold: bool) -> Step {
    let newest = Attempt::newest(status, first_context);
    let is_its = status.job_name.as_deref() == Some(job_name);
    match (status.phase(), job) {
        (Phase::Succeeded, _) => Step::Done(newest),
        (Phase::Cancelled, _) => Step::Cancelled,
        // Not its own failure, but that of a control plane that had waited for too long.
        (Phase::Failed, JobState::Running | JobState::Complete) if is_its => Step::Watch(newest),
        (Phase::Failed, _) if is_its && is_untold => Step::Tell(newest),
        // It was told of: whoever comes now is another attempt. Without a Job nothing was tried.
        (Phase::Failed, _) if is_its => Step::Start(newest.next()),
        (Phase::Running, JobState::Absent) => Step::Gone(newest),
        (Phase::Failed | Phase::Pending, JobState::Absent) => Step::Start(newest),
        (Phase::Failed | Phase::Pending | Phase::Running, _) => Step::Watch(newest),
    }
}

/// Whether a Job that has ended may go, however its run stands at the control plane: the outcome is there, or nobody will ask for it.
/// `is_newest` is the Job of the newest attempt.
#[must_use]
pub(super) fn may_go(job: &JobState, is_newest: bool, phase: Phase, stands: &Stands, is_by_hand: bool) -> bool {
    if !is_newest {
        return true;
    }
    match stands {
        Stands::Open => false,
        Stands::Cancelled | Stands::Succeeded => true,
        // One that did well was not read: it is once the run is set going again.
        Stands::Parked(_) => matches!(job, JobState::Failed(_)),
        // What was applied by hand is submitted again, and then read.
        Stands::Unknown => !is_by_hand || !matches!(phase, Phase::Pending | Phase::Running),
    }
}

/// What is to be done for a run whose delivery the control plane does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// Nothing, or nothing yet.
    Leave,
    /// Whoever gets the lease of another delivery goes on where the run stands.
    Submit,
    /// A person has to look what came of it.
    GiveUp,
}

/// Decides. Only an object that was applied by hand is an event of its own: what was asked for elsewhere has to be asked for again there.
#[must_use]
pub(super) fn forgotten(phase: Phase, job: &JobState, is_by_hand: bool) -> Forgotten {
    match (phase, job) {
        // Its status says it already.
        (Phase::Failed | Phase::Succeeded | Phase::Cancelled, _) => Forgotten::Leave,
        (Phase::Pending | Phase::Running, JobState::Running) => Forgotten::Leave,
        (Phase::Pending | Phase::Running, JobState::Complete | JobState::Failed(_)) if is_by_hand => Forgotten::Submit,
        (Phase::Pending, JobState::Absent) if is_by_hand => Forgotten::Submit,
        // Its Job goes in time.
        (Phase::Pending | Phase::Running, JobState::Complete | JobState::Failed(_)) => Forgotten::Leave,
        // A Job that is gone may have made a pull request.
        (Phase::Pending | Phase::Running, JobState::Absent) => Forgotten::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase, job: Option<&str>, context: Option<u32>, retries: Option<u32>) -> RunStatus {
        RunStatus {
            phase: Some(phase),
            job_name: job.map(str::to_owned),
            context_version: context,
            retry_count: retries,
            ..RunStatus::default()
        }
    }

    #[test]
    fn a_run_is_taken_up_where_it_was_left() {
        let at = |context, retries| Attempt { context, retries };
        let absent = JobState::Absent;
        let failed = JobState::Failed(String::new());
        for (status, job, step) in [
            (RunStatus::default(), &absent, Step::Start(at(3, 0))),
            // A crash between status and Job, and between Job and status.
            (status(Phase::Pending, Some("j"), Some(3), Some(0)), &absent, Step::Start(at(3, 0))),
            (status(Phase::Pending, Some("j"), Some(3), Some(0)), &JobState::Running, Step::Watch(at(3, 0))),
            (RunStatus::default(), &JobState::Running, Step::Watch(at(3, 0))),
            // It was there: deleted, or gone by a time to live that an agent from before gave it.
            (status(Phase::Running, Some("j"), Some(4), Some(1)), &absent, Step::Gone(at(4, 1))),
            (status(Phase::Running, Some("i"), Some(4), Some(1)), &absent, Step::Gone(at(4, 1))),
            (status(Phase::Running, Some("j"), Some(4), Some(1)), &JobState::Running, Step::Watch(at(4, 1))),
            (status(Phase::Running, Some("j"), Some(4), Some(1)), &JobState::Complete, Step::Watch(at(4, 1))),
            // A failure that was not told of, one that was, and one before any Job.
            (status(Phase::Running, Some("j"), Some(4), Some(1)), &failed, Step::Watch(at(4, 1))),
            (status(Phase::Failed, Some("j"), Some(4), Some(1)), &failed, Step::Start(at(5, 2))),
            (status(Phase::Failed, Some("j"), Some(4), Some(1)), &absent, Step::Start(at(5, 2))),
            (status(Phase::Failed, None, None, None), &absent, Step::Start(at(3, 0))),
            // The control plane gave it up, and its Job went on.
            (status(Phase::Failed, Some("j"), Some(4), Some(1)), &JobState::Running, Step::Watch(at(4, 1))),
            (status(Phase::Failed, Some("j"), Some(4), Some(1)), &JobState::Complete, Step::Watch(at(4, 1))),
            (status(Phase::Succeeded, Some("j"), Some(4), None), &absent, Step::Done(at(4, 0))),
            (status(Phase::Cancelled, Some("j"), Some(4), None), &JobState::Running, Step::Cancelled),
        ] {
            assert_eq!(next(&status, 3, "j", job, false), step, "{status:?} {job:?}");
        }
    }

    #[test]
    fn a_failure_that_was_not_told_is_told_before_another_attempt() {
        let at = Attempt { context: 4, retries: 1 };
        let failed = JobState::Failed(String::new());
        for (phase, job_name, job, step) in [
            (Phase::Failed, Some("j"), &failed, Step::Tell(at)),
            (Phase::Failed, Some("j"), &JobState::Absent, Step::Tell(at)),
            // Nothing was tried, or not yet.
            (Phase::Failed, None, &JobState::Absent, Step::Start(at)),
            (Phase::Pending, Some("i"), &JobState::Absent, Step::Start(at)),
        ] {
            assert_eq!(next(&status(phase, job_name, Some(4), Some(1)), 3, "j", job, true), step, "{phase:?} {job:?}");
        }
    }

    #[test]
    fn a_job_goes_once_nobody_has_to_read_it() {
        let (complete, failed) = (JobState::Complete, JobState::Failed(String::new()));
        let parked = Stands::Parked(String::new());
        for (job, phase, stands, goes, goes_by_hand) in [
            (&complete, Phase::Succeeded, &Stands::Open, false, false),
            (&failed, Phase::Failed, &Stands::Open, false, false),
            (&complete, Phase::Running, &Stands::Open, false, false),
            (&complete, Phase::Succeeded, &Stands::Succeeded, true, true),
            (&complete, Phase::Cancelled, &Stands::Cancelled, true, true),
            (&failed, Phase::Failed, &parked, true, true),
            (&complete, Phase::Failed, &parked, false, false),
            (&complete, Phase::Running, &Stands::Unknown, true, false),
            (&complete, Phase::Succeeded, &Stands::Unknown, true, true),
            (&failed, Phase::Failed, &Stands::Unknown, true, true),
        ] {
            assert_eq!(may_go(job, true, phase, stands, false), goes, "{job:?} {phase:?} {stands:?}");
            assert_eq!(may_go(job, true, phase, stands, true), goes_by_hand, "{job:?} {phase:?} {stands:?}");
            assert!(may_go(job, false, phase, stands, true), "another took its place");
        }
    }

    #[test]
    fn a_forgotten_run_is_submitted_again_where_nothing_is_done_twice() {
        let failed = JobState::Failed(String::new());
        for (phase, job, by_hand, elsewhere) in [
            (Phase::Pending, &JobState::Absent, Forgotten::Submit, Forgotten::GiveUp),
            (Phase::Pending, &JobState::Running, Forgotten::Leave, Forgotten::Leave),
            (Phase::Running, &JobState::Running, Forgotten::Leave, Forgotten::Leave),
            // Its outcome is read by the next lease.
            (Phase::Running, &JobState::Complete, Forgotten::Submit, Forgotten::Leave),
            (Phase::Running, &failed, Forgotten::Submit, Forgotten::Leave),
            (Phase::Running, &JobState::Absent, Forgotten::GiveUp, Forgotten::GiveUp),
            (Phase::Failed, &JobState::Absent, Forgotten::Leave, Forgotten::Leave),
            (Phase::Failed, &failed, Forgotten::Leave, Forgotten::Leave),
        ] {
            assert_eq!(forgotten(phase, job, true), by_hand, "{phase:?} {job:?}");
            assert_eq!(forgotten(phase, job, false), elsewhere, "{phase:?} {job:?}");
        }
    }

    #[test]
    fn a_job_that_is_not_there_needs_its_workspace_for_a_while() {
        let now = Timestamp(1_795_176_000_000);
        let just = Some(now - JOB_WITHIN + Duration::from_millis(1));
        for (job, since, needs) in [
            (JobState::Absent, just, true),
            (JobState::Absent, Some(now - JOB_WITHIN), false),
            (JobState::Absent, Some(now + Duration::from_secs(3)), true),
            (JobState::Absent, Some(now + JOB_WITHIN), false),
            (JobState::Absent, None, false),
            (JobState::Running, None, true),
            (JobState::Complete, just, false),
            (JobState::Failed(String::new()), just, false),
        ] {
            assert_eq!(job.needs_workspace(since, now), needs, "{job:?} {since:?}");
        }
    }

    #[test]
    fn a_job_is_read_by_its_conditions() {
        let job = |status: serde_json::Value| -> Job {
            serde_json::from_value(serde_json::json!({ "metadata": {}, "status": status })).unwrap()
        };
        let condition = |kind: &str| serde_json::json!({ "conditions": [{ "type": kind, "status": "True", "reason": "R", "message": "m" }] });
        assert_eq!(JobState::of(None), JobState::Absent);
        assert_eq!(JobState::of(Some(&job(serde_json::json!({ "active": 1 })))), JobState::Running);
        assert_eq!(JobState::of(Some(&job(condition("Complete")))), JobState::Complete);
        assert_eq!(JobState::of(Some(&job(condition("Failed")))), JobState::Failed("R: m".into()));
        assert_eq!(
            JobState::of(Some(&job(serde_json::json!({ "failed": 1 })))),
            JobState::Failed("its pod failed".into())
        );
    }
}
