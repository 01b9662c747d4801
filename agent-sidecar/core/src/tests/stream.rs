use super::*;

fn reconnect_after(actions: &[Act]) -> Option<Duration> {
    actions.iter().find_map(|action| match action {
        Action::Reconnect { after } => Some(*after),
        _ => None,
    })
}

#[test]
fn the_first_message_is_hello_and_grants_follow_the_welcome() {
    let mut rig = Rig::down();
    rig.agent.connected(rig.now);
    assert_eq!(rig.turn(), [Action::Send(Up::Hello(Hello::default()))]);
    let welcome = Welcome { session: Arc::from("s1"), intervals: Intervals::default(), verdicts: vec![] };
    rig.down_message(Down::Welcome(welcome));
    assert_eq!(rig.turn(), [Action::Send(Up::Grant { capacities: vec![(A, 2), (B, 1)], last_assign: 0 })]);
}

#[test]
fn a_general_is_granted_nothing_until_it_is_ready() {
    let mut rig = Rig::open();
    rig.agent.ready(B, false);
    assert_eq!(rig.turn(), [Action::Send(Up::Grant { capacities: vec![(B, 0)], last_assign: 0 })]);
    rig.agent.ready(B, true);
    assert_eq!(rig.turn(), [Action::Send(Up::Grant { capacities: vec![(B, 1)], last_assign: 0 })]);
}

#[test]
fn heartbeats_come_every_5_s_with_work_and_every_15_s_without() {
    let mut rig = Rig::open();
    let beats = |rig: &mut Rig, seconds: u64| {
        let mut beats = 0;
        for _ in 0..seconds {
            rig.now = rig.now + secs(1);
            rig.agent.tick(rig.now);
            let mut actions = Vec::new();
            rig.agent.take_actions(&mut actions);
            beats += actions.iter().filter(|action| matches!(action, Action::Send(Up::Heartbeat { .. }))).count();
        }
        beats
    };
    assert_eq!(beats(&mut rig, 30), 2);
    rig.working(D1, 1);
    assert_eq!(beats(&mut rig, 20), 4);
}

#[test]
fn what_is_held_is_claimed_and_judged_after_a_reconnect() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.working(D2, 1);
    rig.finish(D2, 1, ok("done"));
    rig.actions();

    rig.agent.stream_lost(rig.now);
    assert!(reconnect_after(&rig.turn()).unwrap() <= Duration::from_millis(500));
    rig.agent.connected(rig.now);
    let hello = Hello { last_session: Some(Arc::from("s")), claims: vec![(D1, token(1)), (D2, token(1))] };
    assert_eq!(rig.actions(), [Action::Send(Up::Hello(hello))]);

    let verdicts = vec![(D1, token(1), Verdict::Keep), (D2, token(1), Verdict::Keep)];
    let actions = rig.dial(verdicts);
    assert!(actions.contains(&result(D2, 1, ok("done"))), "{actions:?}");
    assert_eq!(rig.agent.running(), 1);
}

#[test]
fn claims_that_are_unknown_or_unjudged_are_stopped_and_forgotten() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.working(D2, 1);
    rig.agent.stream_lost(rig.now);
    let actions = rig.dial(vec![(D1, token(1), Verdict::Unknown)]);
    assert!(actions.contains(&stop(D1, 1, secs(0))) && actions.contains(&stop(D2, 1, secs(0))));
    assert_eq!(rig.agent.claims().count(), 0);
}

#[test]
fn a_claim_to_cancel_is_stopped_and_reported() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.stream_lost(rig.now);
    assert!(rig.dial(vec![(D1, token(1), Verdict::Cancel)]).contains(&stop(D1, 1, secs(10))));
    rig.finish(D1, 1, stopped());
    assert_eq!(rig.turn(), [result(D1, 1, stopped())]);
}

#[test]
fn a_kept_claim_runs_from_when_it_was_made() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.pass(secs(5));
    rig.agent.stream_lost(rig.now);
    rig.pass(secs(5));
    rig.agent.connected(rig.now);
    rig.pass(secs(9));
    let verdicts = vec![(D1, token(1), Verdict::Keep)];
    rig.down_message(Down::Welcome(Welcome { session: Arc::from("s"), intervals: Intervals::default(), verdicts }));
    // Claimed at 10 s, so it is extended at once, and without an answer lapses at 35 s.
    assert!(rig.turn().iter().any(|action| matches!(action, Action::Send(Up::Extend(_)))));
    rig.pass(Duration::from_millis(15_999));
    assert_eq!(rig.agent.running(), 1);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.agent.running(), 0);
}

#[test]
fn work_that_ends_without_a_stream_is_reported_on_the_next_one() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.stream_lost(rig.now);
    rig.actions();
    rig.finish(D1, 1, ok("done"));
    assert_eq!(rig.turn(), []);
    rig.pass(secs(120));
    assert!(rig.dial(vec![(D1, token(1), Verdict::Keep)]).contains(&result(D1, 1, ok("done"))));
}

#[test]
fn a_lease_lapses_without_a_stream_too() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.stream_lost(rig.now);
    rig.actions();
    assert_eq!(rig.pass(secs(25)), [stop(D1, 1, secs(0))]);
}

#[test]
fn waits_between_dials_grow_and_stay_short_while_leases_are_held() {
    let longest = |mut rig: Rig| {
        (0..200)
            .map(|_| {
                rig.agent.stream_lost(rig.now);
                reconnect_after(&rig.actions()).unwrap()
            })
            .max()
            .unwrap()
    };
    let mut holding = Rig::open();
    holding.working(D1, 1);
    let (holding, idle) = (longest(holding), longest(Rig::open()));
    assert!(holding <= secs(10) && holding > secs(8), "{holding:?}");
    assert!(idle <= secs(30) && idle > secs(25), "{idle:?}");
}

#[test]
fn a_silent_server_is_dialled_again() {
    let mut rig = Rig::down();
    rig.agent.connected(rig.now);
    rig.actions();
    assert!(reconnect_after(&rig.pass(secs(10))).is_some());
}

#[test]
fn a_server_that_forgets_to_say_welcome_is_left() {
    let mut rig = Rig::down();
    rig.agent.connected(rig.now);
    rig.actions();
    rig.assign(D1, 1);
    let actions = rig.turn();
    assert!(reconnect_after(&actions).is_some() && actions.len() == 1, "{actions:?}");
}

#[test]
fn an_old_stream_is_left_between_leases() {
    let mut rig = Rig::open();
    rig.pass(secs(23 * 60));
    rig.working(D1, 1);
    let mut actions = Vec::new();
    for _ in 0..70 {
        actions.extend(rig.pass(secs(8)));
        rig.down_message(Down::Extended { delivery: D1, token: token(1), lease: None });
        if actions.iter().any(|action| matches!(action, Action::Send(Up::Grant { .. }))) {
            break;
        }
    }
    // It has stopped granting and waits for the work to end.
    assert_eq!(reconnect_after(&actions), None);
    rig.finish(D1, 1, ok(""));
    rig.settle(D1, 1);
    rig.turn();
    assert_eq!(reconnect_after(&rig.pass(secs(2))), Some(secs(0)));
}

#[test]
fn an_old_stream_goes_with_its_leases_when_they_do_not_end() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    let mut left = None;
    for _ in 0..240 {
        left = left.or(reconnect_after(&rig.pass(secs(8))));
        rig.down_message(Down::Extended { delivery: D1, token: token(1), lease: None });
    }
    assert_eq!(left, Some(secs(0)));
}

#[test]
fn the_planes_list_of_leases_is_judged() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    let claims = vec![(D1, token(1)), (D1, token(2)), (D2, token(1))];
    rig.down_message(Down::Reconcile { request: 9, claims });
    let verdicts =
        vec![(D1, token(1), Verdict::Keep), (D1, token(2), Verdict::Unknown), (D2, token(1), Verdict::Unknown)];
    assert_eq!(rig.turn(), [Action::Send(Up::Reconciled { request: 9, verdicts })]);
}

#[test]
fn results_that_wait_for_long_are_asked_about_and_repeated() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.finish(D1, 1, ok("done"));
    rig.turn();
    let actions = rig.pass(secs(30));
    let reconcile = Up::Reconcile { request: 1, claims: vec![(D1, token(1))], last_assign: 2 };
    assert_eq!(actions, [Action::Send(reconcile)]);
    rig.down_message(Down::Reconciled { verdicts: vec![(D1, token(1), Verdict::Keep)] });
    assert_eq!(rig.turn(), [result(D1, 1, ok("done"))]);
}
