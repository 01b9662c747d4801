//! An agent's certificate over time, driven by hand.

use std::time::Duration;

use mindos_model::Timestamp;

use crate::membership::*;

const HOUR: Duration = Duration::from_secs(3600);

/// The own clock and how far the control plane is ahead of it.
#[derive(Clone, Copy)]
struct Clocks {
    own: Timestamp,
    ahead: i64,
}

impl Clocks {
    fn start() -> Clocks {
        Clocks { own: Timestamp(1_000_000_000), ahead: 0 }
    }

    fn now(&self) -> Moment {
        Moment { own: self.own, plane: Timestamp(self.own.0.saturating_add_signed(self.ahead)) }
    }

    fn pass(&mut self, span: Duration) -> Moment {
        self.own = self.own + span;
        self.now()
    }
}

fn term(now: Moment, life: Duration) -> Term {
    let not_after = now.plane + life;
    Term { not_before: now.plane - Duration::from_secs(300), not_after, renew_after: now.plane + life / 2 }
}

fn away() -> Trouble {
    Trouble::Away { why: "connection refused".to_owned(), retry_after: None }
}

fn no() -> Trouble {
    Trouble::Refused { why: "join refused: Denied".to_owned() }
}

fn joined(means: Means, life: Duration) -> (Membership, Clocks) {
    let clocks = Clocks::start();
    let kept = (means == Means::Renew).then(|| term(clocks.now(), life));
    let mut membership = Membership::new(means, kept, clocks.now(), 7);
    if means == Means::Join {
        assert_eq!(membership.step(clocks.now()), Some(Step::Join));
        membership.issued(term(clocks.now(), life), clocks.now());
    }
    assert_eq!(membership.phase(), Phase::Valid);
    (membership, clocks)
}

/// Lets time pass until there is something to do.
fn until_due(membership: &Membership, clocks: &mut Clocks) -> Duration {
    let wait = membership.wait(clocks.now()).expect("something is due some day");
    clocks.pass(wait);
    wait
}

#[test]
fn renewal_begins_before_half_the_life_and_not_for_all_at_once() {
    let mut begun = Vec::new();
    for seed in 0..500 {
        let clocks = Clocks::start();
        let membership = Membership::new(Means::Renew, Some(term(clocks.now(), HOUR)), clocks.now(), seed);
        begun.push(membership.wait(clocks.now()).unwrap());
    }
    let (first, last) = (begun.iter().min().unwrap(), begun.iter().max().unwrap());
    assert!(*last <= HOUR / 2 && *last > HOUR * 45 / 100, "{last:?}");
    assert!(*first >= HOUR * 3 / 10 && *first < HOUR * 35 / 100, "{first:?}");
}

#[test]
fn the_control_plane_may_want_an_earlier_renewal() {
    let clocks = Clocks::start();
    let wanted = Term { renew_after: clocks.now().plane + HOUR / 10, ..term(clocks.now(), HOUR) };
    let membership = Membership::new(Means::Join, Some(wanted), clocks.now(), 1);
    assert_eq!(membership.wait(clocks.now()), Some(HOUR / 10));
}

#[test]
fn a_certificate_stays_in_use_while_its_renewal_fails() {
    let (mut membership, mut clocks) = joined(Means::Join, HOUR);
    until_due(&membership, &mut clocks);
    let mut tries = 0;
    while membership.is_good(clocks.now()) {
        assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
        assert_eq!(membership.phase(), Phase::Renewing);
        membership.failed(away(), clocks.now());
        tries += 1;
        let wait = until_due(&membership, &mut clocks);
        assert!(wait <= Duration::from_secs(30));
    }
    assert!(tries > 50, "{tries}");
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    assert_eq!(membership.phase(), Phase::Lapsed);
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    assert_eq!((membership.phase(), membership.problem(clocks.now())), (Phase::Valid, None));
}

#[test]
fn a_short_life_leaves_time_for_more_than_one_try() {
    let (mut membership, mut clocks) = joined(Means::Join, Duration::from_secs(10));
    until_due(&membership, &mut clocks);
    let mut tries = 0;
    while membership.is_good(clocks.now()) {
        assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
        membership.failed(away(), clocks.now());
        until_due(&membership, &mut clocks);
        tries += 1;
    }
    assert!(tries >= 5, "{tries}");
}

#[test]
fn a_night_without_the_control_plane_costs_no_token() {
    let (mut membership, mut clocks) = joined(Means::Join, HOUR);
    clocks.pass(HOUR * 13);
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    assert_eq!(membership.phase(), Phase::Lapsed);
    let problem = membership.problem(clocks.now()).unwrap();
    assert_eq!(problem, "the certificate expired 43200 s ago and is not renewed");
}

#[test]
fn after_a_day_it_joins_again_if_it_can() {
    for (means, phase, step) in [(Means::Join, Phase::Joining, Some(Step::Join)), (Means::Renew, Phase::Refused, None)]
    {
        let (mut membership, mut clocks) = joined(means, HOUR);
        clocks.pass(HOUR + RENEW_LATE_MAX);
        assert_eq!(membership.step(clocks.now()), Some(Step::Renew), "the last moment");
        membership.failed(away(), clocks.now());
        clocks.pass(HOUR);
        assert_eq!(membership.step(clocks.now()), step);
        assert_eq!(membership.phase(), phase);
        assert!(!membership.is_good(clocks.now()));
    }
}

#[test]
fn a_refused_renewal_is_tried_once_more_and_then_joined_anew() {
    let (mut membership, mut clocks) = joined(Means::Join, HOUR);
    until_due(&membership, &mut clocks);
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    membership.failed(no(), clocks.now());
    until_due(&membership, &mut clocks);
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    membership.failed(no(), clocks.now());
    assert_eq!(membership.step(clocks.now()), Some(Step::Join));
    assert!(membership.is_good(clocks.now()), "the old certificate is still in use");
    membership.failed(no(), clocks.now());
    assert_eq!(membership.phase(), Phase::Refused);
    let problem = membership.problem(clocks.now()).unwrap();
    assert_eq!(problem, "the control plane refused this agent: join refused: Denied");
}

#[test]
fn the_refused_ask_again_ever_more_rarely() {
    let mut clocks = Clocks::start();
    let mut membership = Membership::new(Means::Join, None, clocks.now(), 3);
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(membership.step(clocks.now()), Some(Step::Join));
        membership.failed(no(), clocks.now());
        waits.push(until_due(&membership, &mut clocks));
    }
    assert!(waits[0] >= Duration::from_millis(2500) && waits[0] <= Duration::from_secs(5), "{waits:?}");
    assert!(waits[11] >= Duration::from_secs(150) && waits[11] <= Duration::from_secs(300), "{waits:?}");
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    assert_eq!(membership.phase(), Phase::Valid, "who is allowed again is in again");
}

#[test]
fn another_proof_is_tried_at_once() {
    let clocks = Clocks::start();
    let mut membership = Membership::new(Means::Join, None, clocks.now(), 3);
    membership.step(clocks.now());
    membership.failed(Trouble::NoProof { why: "failed to read `/token`".to_owned() }, clocks.now());
    assert_eq!(membership.problem(clocks.now()).unwrap(), "not joined yet: failed to read `/token`");
    membership.files_changed(clocks.now());
    assert_eq!(membership.step(clocks.now()), Some(Step::Join));
}

#[test]
fn nothing_to_join_with_and_nothing_kept_is_said() {
    let clocks = Clocks::start();
    let mut membership = Membership::new(Means::Renew, None, clocks.now(), 3);
    assert_eq!((membership.wait(clocks.now()), membership.step(clocks.now())), (None, None));
    assert!(membership.problem(clocks.now()).unwrap().starts_with("there is neither"));
}

#[test]
fn the_server_may_ask_for_patience() {
    let clocks = Clocks::start();
    let mut membership = Membership::new(Means::Join, None, clocks.now(), 3);
    membership.step(clocks.now());
    let retry_after = Some(Duration::from_secs(20));
    membership.failed(Trouble::Away { why: "too many join".to_owned(), retry_after }, clocks.now());
    let wait = membership.wait(clocks.now()).unwrap();
    assert!(wait >= Duration::from_secs(20) && wait <= Duration::from_secs(21), "{wait:?}");
}

#[test]
fn a_corrected_clock_moves_certificates_and_no_waits() {
    // The control plane turns out to be two hours ahead: the certificate is expired, and the wait of the last failure is what it was.
    let (mut membership, mut clocks) = joined(Means::Join, HOUR);
    until_due(&membership, &mut clocks);
    membership.step(clocks.now());
    membership.failed(away(), clocks.now());
    let before = membership.wait(clocks.now());
    clocks.ahead = 2 * 3600 * 1000;
    assert_eq!(membership.wait(clocks.now()), before);
    until_due(&membership, &mut clocks);
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    assert_eq!(membership.phase(), Phase::Lapsed);
    // An hour behind: the certificate is of the future, which no server takes.
    clocks.ahead = -3600 * 1000;
    assert!(!membership.is_good(clocks.now()));
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    assert_eq!(membership.phase(), Phase::Valid);
}

#[test]
fn a_stream_that_was_turned_away_leads_to_one_renewal() {
    let (mut membership, mut clocks) = joined(Means::Join, HOUR);
    membership.suspect(clocks.now());
    assert!(membership.wait(clocks.now()).unwrap() <= Duration::from_secs(1));
    until_due(&membership, &mut clocks);
    assert_eq!(membership.step(clocks.now()), Some(Step::Renew));
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    membership.suspect(clocks.now());
    assert_eq!(membership.phase(), Phase::Valid, "not again within ten seconds");
    clocks.pass(Duration::from_secs(10));
    membership.suspect(clocks.now());
    assert_eq!(membership.phase(), Phase::Renewing);
}

#[test]
fn what_others_bring_is_watched_only() {
    let mut clocks = Clocks::start();
    let mut membership = Membership::new(Means::Brought, None, clocks.now(), 3);
    assert_eq!((membership.wait(clocks.now()), membership.step(clocks.now())), (None, None));
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    assert_eq!(until_due(&membership, &mut clocks), HOUR);
    assert_eq!(membership.step(clocks.now()), None);
    assert_eq!(membership.phase(), Phase::Lapsed);
    membership.issued(term(clocks.now(), HOUR), clocks.now());
    assert_eq!(membership.phase(), Phase::Valid);
}

#[test]
fn whatever_happens_there_is_always_a_next_try_for_who_can_join() {
    let mut seed = 1_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut clocks = Clocks::start();
    let mut membership = Membership::new(Means::Join, None, clocks.now(), 11);
    for _ in 0..20_000 {
        let due = membership.wait(clocks.now()).expect("a next try");
        assert!(due <= HOUR, "{due:?} in {:?}", membership.phase());
        clocks.pass(Duration::from_millis(draw(600_000)));
        let now = clocks.now();
        if membership.step(now).is_some() {
            match draw(4) {
                0 => membership.issued(term(now, Duration::from_secs(10 + draw(3590))), now),
                1 => membership.failed(no(), now),
                2 => membership.failed(Trouble::NoProof { why: String::new() }, now),
                _ => membership.failed(away(), now),
            }
        }
        match draw(50) {
            0 => clocks.ahead += draw(7_200_000) as i64 - 3_600_000,
            1 => membership.suspect(now),
            2 => membership.files_changed(now),
            3 => {
                clocks.pass(HOUR * 30);
            }
            _ => {}
        }
        let now = clocks.now();
        membership.step(now);
        let good = membership.is_good(now);
        match membership.phase() {
            Phase::Valid | Phase::Renewing => assert!(good),
            Phase::Lapsed => assert!(!good),
            Phase::Joining | Phase::Refused => {}
        }
    }
}
