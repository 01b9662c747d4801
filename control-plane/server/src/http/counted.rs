//! How webhooks fare, by door: how many were answered how, and how long that took.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::response::Response;

use crate::metrics::{Exposition, Histogram, Kind};

/// Counts of all doors. Doors and classes of codes are few and fixed.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<BTreeMap<&'static str, Door>>);

#[derive(Debug, Default)]
struct Door {
    answers: BTreeMap<u16, u64>,
    took: Histogram,
}

/// Codes that are told apart; others count as the first of their hundred.
const CODES: [u16; 9] = [400, 401, 403, 408, 409, 413, 415, 429, 503];

impl Counted {
    /// Counts what is answered at a door.
    pub(super) async fn around(&self, door: &'static str, answer: impl Future<Output = Response>) -> Response {
        let began = Instant::now();
        let answer = answer.await;
        let code = answer.status().as_u16();
        let code = if CODES.contains(&code) { code } else { code / 100 * 100 };
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let door = doors.entry(door).or_default();
        *door.answers.entry(code).or_default() += 1;
        door.took.record(began.elapsed());
        answer
    }

    /// Writes the families.
    pub(super) fn expose(&self, into: &mut Exposition) {
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = into.family("mindos_webhooks_total", Kind::Counter, "Webhooks answered, by status code.");
        for (name, door) in &*doors {
            for (code, count) in &door.answers {
                family.series(&[("door", name), ("code", &code.to_string())], count);
            }
        }
        let help = "Time from a webhook's headers to its answer, which is durable where it was accepted.";
        let mut family = into.family("mindos_webhook_seconds", Kind::Histogram, help);
        doors.iter().for_each(|(name, door)| family.histogram(&[("door", name)], &door.took));
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn answers_are_counted_by_door_and_code() {
        let counted = Counted::default();
        for code in [202, 200, 401, 418] {
            let answer = async { StatusCode::from_u16(code).unwrap().into_response() };
            counted.around("github", answer).await;
        }
        let mut metrics = Exposition::default();
        counted.expose(&mut metrics);
        let text = metrics.into_text();
        for line in [
            "mindos_webhooks_total{door=\"github\",code=\"200\"} 2",
            "mindos_webhooks_total{door=\"github\",code=\"400\"} 1",
            "mindos_webhooks_total{door=\"github\",code=\"401\"} 1",
            "mindos_webhook_seconds_count{door=\"github\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
