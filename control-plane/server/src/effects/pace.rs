//! Pace: how fast may be written for one installation, and until when nothing may be asked of GitHub at all.
//!
//! GitHub asks for at most one content write a second, and allows 80 a minute and 500 an hour, and 900 points a minute, of which a read
//! takes one and a write five; `writes_per_second` makes all of these faster or slower together. Invariant: turns are given in the order in which they are asked for, and who would wait longer than
//! [`PATIENCE`] is told until when, and takes no turn. Turns and holds are kept over restarts ([`Turns`]); points are not, so who begins after others
//! begins without those that may be taken at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use mindos_model::Timestamp;
use tokio::time::Instant;
use tracing::{error, warn};

use super::rest::{ForgeError, number};
use super::turns::{Past, Turns};
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

/// How long nothing is written where a turn could not be noted.
const NOTE_AGAIN: Duration = Duration::from_secs(30);

/// The paces of all installations. They stay when the settings change, so that a change gives nobody another burst.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    lanes: HashMap<String, Arc<Lane>>,
    turns: Turns,
    /// Something may have been asked before that nobody remembers.
    is_later: bool,
}

impl Lanes {
    /// Those of a plane whose turns are kept; `is_later` where it ran before.
    pub(super) fn kept(turns: Turns, is_later: bool) -> Lanes {
        Lanes(Arc::new(Mutex::new(Known { lanes: HashMap::new(), turns, is_later })))
    }

    /// The pace of one installation.
    pub(super) fn of(&self, installation: &str, clock: Clock) -> Arc<Lane> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = known.lanes.get(installation) {
            return Arc::clone(lane);
        }
        if known.lanes.len() >= LANES_MAX {
            // Whoever holds one keeps it; what is idle is read again.
            known.lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            known.is_later = true;
        }
        let past = known.turns.of(installation).unwrap_or_else(|error| {
            // Then anything may have been written until now.
            error!(%error, installation, "pace of an installation was not read: nothing is written for a window");
            Past { unknown: clock.now(), ..Past::default() }
        });
        let state = State::after(past, known.is_later, clock);
        let lane = Lane { name: installation.to_owned(), turns: known.turns.clone(), state: Mutex::new(state) };
        let lane = Arc::new(lane);
        known.lanes.insert(installation.to_owned(), Arc::clone(&lane));
        lane
    }
}

/// The pace of one installation.
#[derive(Debug, Default)]
pub(super) struct Lane {
    name: String,
    turns: Turns,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Turns that were given in the last window, the latest last; some may be still to come.
    turns: VecDeque<Instant>,
    /// Up to then as much as may be may have been written.
    unknown: Option<Instant>,
    /// When all points that were taken would be there again; unset before any were.
    points: Option<Instant>,
    /// Whether as many points as may be may have been taken at once before any were here.
    is_later: bool,
    /// Until when nothing is asked, and why.
    held: Option<(Instant, String)>,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            let wait = turn.saturating_duration_since(now);
            if wait <= PATIENCE
                && let Err(error) = self.turns.give(&self.name, clock.now() + wait).await
            {
                error!(%error, installation = self.name, "a turn to write was not noted");
                let message = format!("the pace of writes cannot be noted: {error}");
                return Err(ForgeError::Limited { until: clock.now() + NOTE_AGAIN, message });
            }
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
    pub(super) async fn hold(&self, until: Timestamp, why: &str, clock: Clock) {
        let at = Instant::now() + clock.until(until);
        let is_longer = {
            let mut state = self.lock();
            let is_longer = state.held.as_ref().is_none_or(|(held, _)| *held < at);
            if is_longer {
                state.held = Some((at, why.to_owned()));
            }
            is_longer
        };
        if is_longer && let Err(error) = self.turns.hold(&self.name, until, why).await {
            warn!(%error, installation = self.name, "a limit of GitHub was not noted");
        }
    }

    /// Takes in what an answer says of the primary limit.
    pub(super) async fn note(&self, headers: &HeaderMap, clock: Clock) {
        let read = |name| number(headers, name);
        let (Some(left), Some(limit), Some(reset)) =
            (read("x-ratelimit-remaining"), read("x-ratelimit-limit"), read("x-ratelimit-reset"))
        else {
            return;
        };
        if left <= limit * RESERVE_PERCENT / 100 {
            let reset = Timestamp(reset.saturating_mul(1000)) + Duration::from_secs(1);
            self.hold(reset, "the hour's requests to GitHub are used up", clock).await;
        }
    }
}

impl State {
    /// As the past leaves it.
    fn after(past: Past, is_later: bool, clock: Clock) -> State {
        let Past { turns, held, unknown } = past;
        let (now, time) = (Instant::now(), clock.now());
        // A clock that was put back says nothing of how long something is still to come.
        let instant = |at: Timestamp| match at > time {
            true => now + at.since(time).min(PATIENCE),
            false => now.checked_sub(time.since(at)).unwrap_or(now),
        };
        let held = held.filter(|(until, _)| *until > time).map(|(until, why)| (now + until.since(time), why));
        State {
            turns: turns.into_iter().map(instant).collect(),
            unknown: (unknown > Timestamp(0)).then(|| instant(unknown)),
            points: None,
            is_later,
            held,
        }
    }

    fn held(&mut self, now: Instant) -> Option<(Instant, String)> {
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.held = None;
        }
        self.held.clone()
    }

    /// Takes points, and says when they may be used. Where that is too far off none are taken.
    fn pay(&mut self, points: f64, per_second: f64, now: Instant) -> Instant {
        let one = Duration::from_secs_f64(1.0 / (POINTS_PER_SECOND * per_second));
        let begun = if self.is_later { now + one.mul_f64(POINTS_AT_ONCE) } else { now };
        let whole = self.points.unwrap_or(begun).max(now) + one.mul_f64(points);
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
        let known = self.unknown.map_or(now, |unknown| unknown + window);
        now.max(behind).max(within).max(known)
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
        let clock = clock();
        let lane = lanes.of("7", clock);
        lane.hold(clock.now() + Duration::from_secs(90), "told", clock).await;
        lanes.of("8", clock).ask(1.0, clock).await.unwrap();
        let Err(ForgeError::Limited { until, message }) = lanes.of("7", clock).ask(1.0, clock).await else {
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
        lane.note(&HeaderMap::new(), clock).await;
        lane.note(&left("51"), clock).await;
        lane.write(1000.0, clock).await.unwrap();
        lane.note(&left("50"), clock).await;
        assert!(matches!(lane.write(1000.0, clock).await, Err(ForgeError::Limited { .. })));
    }

    #[tokio::test]
    async fn a_start_knows_what_was_written_before_it_and_what_github_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, clock) = (dir.path().join("pace.db"), clock());
        let start = |newest| Lanes::kept(Turns::open(&path, newest).unwrap(), true);
        // At a thousand a second the window is 3.6 s and a little more, of 500 writes.
        let lane = start(Timestamp(0)).of("7", clock);
        let begun = Instant::now();
        for _ in 0..WINDOW_WRITES {
            lane.write(1000.0, clock).await.unwrap();
        }
        lane.hold(clock.now() + Duration::from_secs(90), "told", clock).await;
        drop(lane);

        let lanes = start(clock.now());
        let lane = lanes.of("7", clock);
        let (held, why) = lane.lock().held(Instant::now()).unwrap();
        assert!((80..=90).contains(&held.duration_since(Instant::now()).as_secs()) && why == "told");
        let next = lane.lock().next(1000.0, Instant::now());
        assert!(next.duration_since(begun) >= Duration::from_millis(3600), "{:?}", next.duration_since(begun));
        let another = lanes.of("8", clock);
        assert!(another.lock().held(Instant::now()).is_none(), "each installation has limits of its own");
        assert!(another.lock().next(1000.0, Instant::now()) <= Instant::now(), "nothing was written for it");
        // Points are not kept: what could be taken at once may have been.
        let now = Instant::now();
        assert!(another.lock().pay(1.0, 1.0, now) > now);
        assert_eq!(Lanes::default().of("8", clock).lock().pay(1.0, 1.0, now), now);
    }

    #[tokio::test]
    async fn without_the_file_a_window_behind_the_newest_record_is_waited_out() {
        let dir = tempfile::tempdir().unwrap();
        let clock = clock();
        let turns = Turns::open(&dir.path().join("pace.db"), clock.now()).unwrap();
        let lane = Lanes::kept(turns, true).of("7", clock);
        let wait = lane.lock().next(1.0, Instant::now()).duration_since(Instant::now());
        assert!(wait >= WINDOW - Duration::from_secs(1), "{wait:?}");
        assert!(matches!(lane.write(1.0, clock).await, Err(ForgeError::Limited { .. })));
        lane.ask(1.0, clock).await.unwrap();
        let long_ago = Turns::open(&dir.path().join("other.db"), clock.now() - WINDOW * 2).unwrap();
        Lanes::kept(long_ago, true).of("7", clock).write(1000.0, clock).await.unwrap();
    }
}
