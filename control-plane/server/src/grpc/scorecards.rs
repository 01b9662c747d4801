//! Scorecards as messages: the journal is read for the window that is asked for.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::journal::JournalError;
use mindos_model::Timestamp;
use mindos_proto::convert::{Invalid, parsed, timestamp};
use mindos_proto::route::v1::{Scorecard, ScorecardsRequest, ScorecardsResponse};
use tonic::Status;

use super::{explain, status, words};
use crate::access::Scoped;
use crate::views::scorecards::{Card, Scorecards, Side};

/// How far back is looked where nothing is said.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) async fn read(context: &Scoped, request: ScorecardsRequest) -> Result<ScorecardsResponse, Status> {
    let ScorecardsRequest { route, since, until } = request;
    let invalid = |error: Invalid| Status::from(status::invalid(error));
    let route = if route.is_empty() { None } else { Some(parsed(&route, "route").map_err(invalid)?) };
    let at = |at: Option<prost_types::Timestamp>, field| at.map(|at| timestamp(&at, field)).transpose();
    let until = at(until, "until").map_err(invalid)?;
    let week_ago = Timestamp(context.handle.now().0.saturating_sub(WINDOW.as_millis() as u64));
    let since = at(since, "since").map_err(invalid)?.unwrap_or(week_ago);
    // One at a time, and none for a caller who is gone: a long window reads much.
    let turn = Arc::clone(&context.scorecards).acquire_owned().await;
    let turn = turn.map_err(|_| Status::from(status::stopped(crate::driver::Stopped)))?;
    let caller = Arc::new(());
    let is_gone = Arc::downgrade(&caller);
    let folded = context.blocking(move |context| {
        let _turn = turn;
        let mut cards = Scorecards::new(context.tenant().clone(), route, since);
        let end = context.source.end();
        let first = explain::begin(context, since, end)?;
        context.source.read(first, &mut |entry| {
            let is_wanted = is_gone.strong_count() > 0 && !*context.draining.borrow();
            let is_within = is_wanted && entry.seq <= end && until.is_none_or(|until| entry.at < until);
            if is_within {
                cards.fold(entry);
            }
            is_within
        })?;
        Ok(cards)
    });
    let folded = folded.await;
    drop(caller);
    if *context.draining.borrow() {
        return Err(status::stopped(crate::driver::Stopped).into());
    }
    let cards = folded?.map_err(|error: JournalError| super::failed("journal was not read", &error))?;
    Ok(ScorecardsResponse { cards: cards.cards().map(card).collect(), left_out: cards.left_out })
}

fn card((side, card): (&Side, &Card)) -> Scorecard {
    let Side { route, role, arm, general, version } = side;
    let Card { succeeded, failed, cancelled, cost_micros, input_tokens, output_tokens, .. } = *card;
    let Card { accepted, dismissed, reverted, .. } = *card;
    Scorecard {
        route: route.to_string(),
        role: mindos_journal::encode::about::of_role(*role),
        arm: arm.to_string(),
        general: Some(words::general_name(general)),
        version: version.to_string(),
        ended: succeeded + failed + cancelled,
        succeeded,
        failed,
        cancelled,
        took_p50_ms: card.took_ms(50),
        took_p90_ms: card.took_ms(90),
        cost_micros,
        input_tokens,
        output_tokens,
        accepted,
        dismissed,
        reverted,
    }
}
