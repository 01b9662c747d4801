//! `/healthz` and `/readyz`: whether the process lives, and whether it wants work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reads the journal.
    Recovering,
    /// Takes work.
    Ready,
    /// Finishes what it has, and takes no more.
    Draining,
    /// Cannot go on: the process is about to end.
    Failed,
}

/// The phase, shared by those who set it and those who answer with it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Enters a phase.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Recovering,
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Failed,
        }
    }

    pub(super) fn live(&self) -> Response {
        self.answer(self.phase() != Phase::Failed)
    }

    pub(super) fn ready(&self) -> Response {
        self.answer(self.phase() == Phase::Ready)
    }

    fn answer(&self, good: bool) -> Response {
        let word = match self.phase() {
            Phase::Recovering => "recovering",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Failed => "failed",
        };
        let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Json(json!({ "status": word }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_process_wants_work_and_only_a_failed_one_is_dead() {
        let readiness = Readiness::default();
        let codes = |phase| {
            readiness.set(phase);
            (readiness.live().status().as_u16(), readiness.ready().status().as_u16())
        };
        assert_eq!(readiness.phase(), Phase::Recovering);
        assert_eq!(codes(Phase::Recovering), (200, 503));
        assert_eq!(codes(Phase::Ready), (200, 200));
        assert_eq!(codes(Phase::Draining), (200, 503));
        assert_eq!(codes(Phase::Failed), (503, 503));
    }
}
