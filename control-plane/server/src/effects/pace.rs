//! Pace: how fast may be written for one installation, and until when nothing may be asked of GitHub at all.
//!
//! GitHub asks for at most one content write a second, and allows 80 a minute and 500 an hour, and 900 points a minute, of which a read
//! takes one and a write five; `writes_per_second` makes all of these faster or slower together. Invariant: turns are given in the order in which they are asked for, and who would wait longer than
//! [`PATIENCE`] is told until when, and takes no turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use mindos_model::Timestamp;
use tokio::time::Instant;

use super::rest::{ForgeError, number};
use crate::clock::Clock;

/// The longest that somebody waits here for a turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Writes within one window, an hour at the usual pace.
const WINDOW_WRITES: usize = 500;
const WINDOW: Duration = Duration::from_secs(3600);
/// Points a second, and how many may be taken at once: together less than 900 in any minute.
const POINTS_PER_SECOND: f64 = 11.0;
const POINTS_AT_ONCE: f64 = 200.0;
const WRITE_POINTS: f64 = 5.0;
/// Requests of the primary limit that are left alone, of a hundred: answers that are on their way count too.
const RESERVE_PERCENT: u64 = 1;
/// Installations whose pace is remembered.
const LANES_MAX: usize = 4096;

/// The paces of all installations. They stay when the settings change, so that a change gives nobody another burst.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<HashMap<String, Arc<Lane>>>>);

impl Lanes {
    /// The pace of one installation.
    pub(super) fn of(&self, installation: &str) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(installation) {
            return Arc::clone(lane);
        }
        if lanes.len() >= LANES_MAX {
            // Whoever holds one keeps it; what is idle begins anew.
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = Arc::new(Lane::default());
        lanes.insert(installation.to_owned(), Arc::clone(&lane));
        lane
    }
}

/// The pace of one installation.
#[derive(Debug, Default)]
pub(super) struct Lane(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Turns that were given in the last window, the latest last; some may be still to come.
    turns: VecDeque<Instant>,
    /// When all points that were taken would be there again.
    points: Option<Instant>,
    /// Until when nothing is asked, and why.
    held: Option<(Instant, String)>,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something may be read.
    pub(super) async fn ask(&self, per_second: f64, clock: Clock) -> Result<(), ForgeError> {
        self.free(clock).await?;
        self.pay(1.0, per_second, clock).await
    }

    /// Waits until nothing holds all of it up.
    async fn free(&self, clock: Clock) -> Result<(), ForgeError> {
        loop {
            let held = self.lock().held(Instant::now());
            let Some((until, why)) = held else { return Ok(()) };
            self.wait(until, &why, clock).await?;
        }
    }

    /// Waits until there are so many points.
    async fn pay(&self, points: f64, per_second: f64, clock: Clock) -> Result<(), ForgeError> {
        let now = Instant::now();
        let at = self.lock().pay(points, per_second, now);
        self.wait(at, "the pace of requests is kept", clock).await
    }

    /// Waits for the turn to write something.
    pub(super) async fn write(&self, per_second: f64, clock: Clock) -> Result<(), ForgeError> {
        loop {
            self.free(clock).await?;
            self.pay(WRITE_POINTS, per_second, clock).await?;
            let now = Instant::now();
            let turn = {
                let mut state = self.lock();
                let turn = state.next(per_second, now);
                if turn.saturating_duration_since(now) <= PATIENCE {
                    state.turns.push_back(turn);
                }
                turn
            };
            self.wait(turn, "the pace of writes is kept", clock).await?;
            // What was told meanwhile holds for this turn too; it is lost then.
            if self.lock().held(Instant::now()).is_none() {
                return Ok(());
            }
        }
    }

    async fn wait(&self, until: Instant, why: &str, clock: Clock) -> Result<(), ForgeError> {
        let wait = until.saturating_duration_since(Instant::now());
        if wait > PATIENCE {
            return Err(ForgeError::Limited { until: clock.now() + wait, message: why.to_owned() });
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Nothing is asked until then.
    pub(super) fn hold(&self, until: Timestamp, why: &str, clock: Clock) {
        let until = Instant::now() + clock.until(until);
        let mut state = self.lock();
        if state.held.as_ref().is_none_or(|(held, _)| *held < until) {
            state.held = Some((until, why.to_owned()));
        }
    }

    /// Takes in what an answer says of the primary limit.
    pub(super) fn note(&self, headers: &HeaderMap, clock: Clock) {
        let read = |name| number(headers, name);
        let (Some(left), Some(limit), Some(reset)) =
            (read("x-ratelimit-remaining"), read("x-ratelimit-limit"), read("x-ratelimit-reset"))
        else {
            return;
        };
        if left <= limit * RESERVE_PERCENT / 100 {
            let reset = Timestamp(reset.saturating_mul(1000)) + Duration::from_secs(1);
            self.hold(reset, "the hour's requests to GitHub are used up", clock);
        }
    }
}

impl State {
    fn held(&mut self, now: Instant) -> Option<(Instant, String)> {
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.held = None;
        }
        self.held.clone()
    }

    /// Takes points, and says when they may be used. Where that is too far off none are taken.
    fn pay(&mut self, points: f64, per_second: f64, now: Instant) -> Instant {
        let one = Duration::from_secs_f64(1.0 / (POINTS_PER_SECOND * per_second));
        let whole = self.points.unwrap_or(now).max(now) + one.mul_f64(points);
        let at = whole.checked_sub(one.mul_f64(POINTS_AT_ONCE)).unwrap_or(now).max(now);
        if at.saturating_duration_since(now) <= PATIENCE {
            self.points = Some(whole);
        }
        at
    }

    /// When the next write may go.
    fn next(&mut self, per_second: f64, now: Instant) -> Instant {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        // Requests take different times to arrive, so the window is a little wider than GitHub's.
        let window = WINDOW.div_f64(per_second) + interval * 2 + Duration::from_millis(250);
        while self.turns.len() > WINDOW_WRITES || self.turns.front().is_some_and(|turn| *turn + window <= now) {
            self.turns.pop_front();
        }
        let behind = self.turns.back().map_or(now, |last| *last + interval);
        let within = match self.turns.len() >= WINDOW_WRITES {
            true => self.turns[self.turns.len() - WINDOW_WRITES] + window,
            false => now,
        };
        now.max(behind).max(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::start(Timestamp(0))
    }

    /// Takes so many turns at once, and says when each may go, in milliseconds.
    fn take(state: &mut State, per_second: f64, now: Instant, count: usize) -> Vec<u128> {
        let one = |_| {
            let turn = state.next(per_second, now);
            state.turns.push_back(turn);
            turn.duration_since(now).as_millis()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn writes_go_one_a_second_in_their_order() {
        let (mut state, start) = (State::default(), Instant::now());
        assert_eq!(take(&mut state, 1.0, start, 4), [0, 1000, 2000, 3000]);
        assert_eq!(take(&mut state, 1.0, start + Duration::from_secs(9), 2), [0, 1000]);
        assert_eq!(take(&mut State::default(), 60.0, start, 3), [0, 16, 33]);
    }

    #[test]
    fn five_hundred_go_in_an_hour() {
        let (mut state, start) = (State::default(), Instant::now());
        let turns = take(&mut state, 60.0, start, WINDOW_WRITES + 2);
        // A minute at sixty times the pace, and a little more.
        assert_eq!((turns[WINDOW_WRITES - 1] / 1000, turns[WINDOW_WRITES] / 1000), (8, 60));
        assert!(turns[WINDOW_WRITES + 1] - turns[WINDOW_WRITES] <= 17);
        let mut state = State::default();
        assert!(take(&mut state, 1.0, start, WINDOW_WRITES + 1)[WINDOW_WRITES] > 3_600_000);
        assert_eq!(take(&mut state, 1.0, start + WINDOW * 3, 1), [0]);
        assert_eq!(state.turns.len(), 1, "what is past is forgotten");
    }

    #[test]
    fn nine_hundred_points_a_minute_are_never_reached() {
        for per_second in [1.0, 60.0] {
            let (mut state, start) = (State::default(), Instant::now());
            let minute = Duration::from_secs_f64(60.0 / per_second);
            // Reads and writes by turns, as fast as they may.
            let (mut now, mut spent) = (start, Vec::new());
            for points in [1.0, WRITE_POINTS].into_iter().cycle().take(2000) {
                now = now.max(state.pay(points, per_second, now));
                spent.push((now, points));
            }
            let most = spent.iter().map(|(from, _)| {
                let within = spent.iter().filter(|(at, _)| at >= from && *at < *from + minute);
                within.map(|(_, points)| points).sum::<f64>()
            });
            let most = most.fold(0.0, f64::max);
            assert!((800.0..900.0).contains(&most), "{most}");
        }
        let (mut state, now) = (State::default(), Instant::now());
        for _ in 0..2000 {
            state.pay(1.0, 1.0, now);
        }
        assert!(state.pay(1.0, 1.0, now) > now + PATIENCE, "who would wait for too long is told so");
        assert!(state.pay(1.0, 1.0, now + Duration::from_secs(22)) <= now + Duration::from_secs(22) + PATIENCE);
    }

    #[tokio::test]
    async fn who_is_told_to_wait_asks_nothing_until_then() {
        let lanes = Lanes::default();
        let (lane, clock) = (lanes.of("7"), clock());
        lane.hold(clock.now() + Duration::from_secs(90), "told", clock);
        lanes.of("8").ask(1.0, clock).await.unwrap();
        let Err(ForgeError::Limited { until, message }) = lanes.of("7").ask(1.0, clock).await else {
            panic!("it asked")
        };
        assert!((89..=90).contains(&until.since(clock.now()).as_secs()) && message == "told");
        assert!(lane.lock().turns.is_empty(), "who does not go takes no turn");
        assert_eq!(lane.lock().held(Instant::now() + Duration::from_secs(91)), None);
    }

    #[tokio::test]
    async fn the_last_of_the_hours_requests_are_left_alone() {
        let (lane, clock) = (Lane::default(), clock());
        let left = |left: &str| {
            let reset = (clock.now().0 / 1000 + 600).to_string();
            let all = [("x-ratelimit-remaining", left), ("x-ratelimit-limit", "5000"), ("x-ratelimit-reset", &reset)];
            let mut headers = HeaderMap::new();
            all.iter().for_each(|(name, value)| drop(headers.insert(*name, value.parse().unwrap())));
            headers
        };
        lane.note(&HeaderMap::new(), clock);
        lane.note(&left("51"), clock);
        lane.write(1000.0, clock).await.unwrap();
        lane.note(&left("50"), clock);
        assert!(matches!(lane.write(1000.0, clock).await, Err(ForgeError::Limited { .. })));
    }
}
