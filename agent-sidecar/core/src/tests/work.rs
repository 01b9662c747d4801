use super::*;

#[test]
fn an_assignment_starts_and_is_accepted_at_the_end_of_the_turn() {
    let mut rig = Rig::open();
    rig.assign(D1, 1);
    assert_eq!(rig.actions(), [start(D1, 1)]);
    assert_eq!(rig.turn(), [accept(D1, 1)]);
    assert_eq!(rig.agent.running(), 1);
}

#[test]
fn an_instant_general_sends_a_result_and_no_accept() {
    let mut rig = Rig::open();
    rig.assign(D1, 1);
    rig.finish(D1, 1, ok("done"));
    assert_eq!(rig.turn(), [start(D1, 1), result(D1, 1, ok("done"))]);
    rig.settle(D1, 1);
    assert_eq!((rig.agent.running(), rig.agent.unsettled()), (0, 0));
    assert_eq!(rig.agent.claims().count(), 0);
}

#[test]
fn a_second_assignment_under_the_same_token_starts_nothing() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.assign(D1, 1);
    assert_eq!(rig.turn(), [accept(D1, 1)]);

    rig.finish(D1, 1, ok("done"));
    rig.actions();
    rig.assign(D1, 1);
    assert_eq!(rig.turn(), [result(D1, 1, ok("done"))]);

    rig.settle(D1, 1);
    rig.assign(D1, 1);
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.agent.counts().repeated, 3);
}

#[test]
fn an_assignment_beyond_the_slots_is_declined() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.working(D2, 1);
    rig.assign(D3, 1);
    let [Action::Send(Up::Decline { delivery, retry_at, .. })] = &rig.turn()[..] else { panic!() };
    assert_eq!((*delivery, *retry_at), (D3, T0 + secs(1)));

    // A result frees the slot, whether it is settled or not.
    rig.finish(D1, 1, ok(""));
    rig.assign(D3, 2);
    assert!(rig.turn().contains(&start(D3, 2)));
}

#[test]
fn results_that_nobody_settles_stop_new_work() {
    let mut rig = Rig::open();
    for event in 1..=64 {
        rig.assign(DeliveryId::new(Seq(event), 1), 1);
        rig.finish(DeliveryId::new(Seq(event), 1), 1, ok(""));
    }
    rig.turn();
    rig.assign(DeliveryId::new(Seq(65), 1), 1);
    assert!(matches!(rig.turn()[..], [Action::Send(Up::Decline { .. })]));
}

#[test]
fn a_lease_is_extended_while_the_general_works() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    for _ in 0..10 {
        let extend = Action::Send(Up::Extend(Extend { delivery: D1, token: token(1), progress: None }));
        assert_eq!(rig.pass(secs(8)), [extend]);
        rig.down_message(Down::Extended { delivery: D1, token: token(1), lease: None });
    }
    assert_eq!(rig.agent.running(), 1);
}

#[test]
fn a_lease_that_is_not_extended_lapses_and_its_work_stops() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.pass(Duration::from_millis(24_999));
    assert_eq!(rig.agent.running(), 1);

    let actions = rig.pass(Duration::from_millis(1));

    assert_eq!(actions[0], stop(D1, 1, secs(0)));
    assert_eq!(rig.agent.counts().lapsed, 1);
    // Whatever it comes to, nobody hears of it.
    rig.finish(D1, 1, ok("late"));
    assert!(!rig.turn().iter().any(|action| matches!(action, Action::Send(Up::Result { .. }))));
}

#[test]
fn an_answer_counts_from_when_the_extend_was_sent() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.pass(secs(8));
    rig.pass(secs(10));
    rig.down_message(Down::Extended { delivery: D1, token: token(1), lease: Some(secs(12)) });
    // Sent at 8 s, for 12 s: not for 12 s from the arrival at 18 s. The 25 s of the acceptance still hold.
    rig.pass(Duration::from_millis(6_999));
    assert_eq!(rig.agent.running(), 1);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.agent.running(), 0);
}

#[test]
fn stopped_work_fills_its_slot_until_it_has_ended() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Lost { delivery: D1, token: token(1) });
    let grant = |capacity| Action::Send(Up::Grant { capacities: vec![(A, capacity)], last_assign: 2 });
    assert_eq!(rig.turn(), [stop(D1, 1, secs(0)), grant(1)]);
    assert_eq!(rig.agent.work().collect::<Vec<_>>(), [(D1, token(1))]);

    rig.finish(D1, 1, stopped());
    assert_eq!(rig.turn(), [grant(2)]);
}

#[test]
fn a_later_lease_of_a_delivery_replaces_the_one_held() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.assign(D1, 2);
    assert_eq!(rig.actions(), [stop(D1, 1, secs(0)), start(D1, 2)]);
    rig.finish(D1, 1, ok("old"));
    rig.finish(D1, 2, ok("new"));
    assert!(rig.turn().contains(&result(D1, 2, ok("new"))));
    assert_eq!(rig.agent.claims().collect::<Vec<_>>(), [(D1, token(2))]);
}

#[test]
fn a_cancel_stops_the_work_and_reports_it() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Cancel { delivery: D1, token: token(1), reason: CancelReason::Superseded, grace: secs(3) });
    assert_eq!(rig.turn(), [stop(D1, 1, secs(3))]);
    rig.finish(D1, 1, failed());
    let cancelled = Finish { outcome: Outcome::Cancelled { reason: CancelReason::Superseded }, body: "" };
    assert_eq!(rig.turn(), [result(D1, 1, cancelled)]);
}

#[test]
fn work_that_succeeds_in_spite_of_a_cancel_is_reported_as_such() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Cancel { delivery: D1, token: token(1), reason: CancelReason::Human, grace: secs(3) });
    rig.finish(D1, 1, ok("done"));
    assert_eq!(rig.turn(), [stop(D1, 1, secs(3)), result(D1, 1, ok("done"))]);
}

#[test]
fn work_that_does_not_stop_is_answered_for_after_its_grace() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Cancel { delivery: D1, token: token(1), reason: CancelReason::Human, grace: secs(3) });
    rig.turn();
    let actions = rig.pass(secs(5));
    assert!(actions.contains(&result(D1, 1, stopped())));
    // Its slot stays taken.
    assert!(actions.contains(&Action::Send(Up::Grant { capacities: vec![(A, 1)], last_assign: 2 })));
}

#[test]
fn work_beyond_its_deadline_is_stopped_and_failed() {
    let mut rig = Rig::open();
    let deadline = Some(T0 + secs(5));
    let assign = Assign { delivery: D1, token: token(1), general: A, lease: None, deadline, work: 0 };
    rig.down_message(Down::Assign(assign));
    rig.turn();
    assert_eq!(rig.pass(secs(5)), [stop(D1, 1, secs(10))]);
    rig.finish(D1, 1, stopped());
    let [Action::Send(Up::Result { finish, .. })] = &rig.turn()[..] else { panic!() };
    assert!(matches!(finish.outcome, Outcome::Failed { kind: FailureKind::Transient, .. }));
}

#[test]
fn a_checkpoint_is_sent_at_once_and_again_until_it_has_arrived() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    let progress = Progress { checkpoint: vec![7], ..Progress::default() };
    rig.agent.progressed(D1, token(1), progress.clone(), rig.now);
    let extend = |progress| Action::Send(Up::Extend(Extend { delivery: D1, token: token(1), progress }));
    assert_eq!(rig.turn(), [extend(Some(Arc::new(progress.clone())))]);

    rig.agent.stream_lost(rig.now);
    rig.actions();
    rig.dial(vec![(D1, token(1), Verdict::Keep)]);
    assert!(rig.pass(secs(8)).contains(&extend(Some(Arc::new(progress)))));

    rig.down_message(Down::Extended { delivery: D1, token: token(1), lease: None });
    assert_eq!(rig.pass(secs(8)), [extend(None)]);
}

#[test]
fn noise_about_leases_not_held_changes_nothing() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    for (delivery, term) in [(D1, 2), (D2, 1)] {
        let token = token(term);
        rig.down_message(Down::Lost { delivery, token });
        rig.down_message(Down::Extended { delivery, token, lease: Some(secs(9)) });
        rig.down_message(Down::Cancel { delivery, token, reason: CancelReason::Human, grace: secs(0) });
        rig.down_message(Down::Settled { delivery, token, verdict: SettledVerdict::Settled });
        rig.agent.general_finished(delivery, token, ok(""), rig.now);
    }
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.agent.running(), 1);
}
