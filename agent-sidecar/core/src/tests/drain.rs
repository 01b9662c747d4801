use super::*;

fn draining(seconds: u64) -> Act {
    Action::Send(Up::Draining { deadline: T0 + secs(seconds), generals: vec![] })
}

fn no_capacity() -> Act {
    Action::Send(Up::Grant { capacities: vec![(A, 0), (B, 0)], last_assign: 0 })
}

#[test]
fn an_idle_agent_exits_at_once() {
    let mut rig = Rig::open();
    rig.agent.drain(rig.now, secs(20));
    assert_eq!(rig.turn(), [draining(20), no_capacity(), Action::Exit]);
    assert_eq!(rig.pass(secs(60)), [], "once");
}

#[test]
fn work_is_finished_and_settled_before_the_exit() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.drain(rig.now, secs(20));
    assert!(!rig.pass(secs(5)).contains(&Action::Exit));
    rig.finish(D1, 1, ok("done"));
    assert_eq!(rig.turn(), [result(D1, 1, ok("done"))]);
    rig.settle(D1, 1);
    assert_eq!(rig.turn(), [Action::Exit]);
}

#[test]
fn nothing_is_taken_on_while_draining() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.drain(rig.now, secs(20));
    rig.turn();
    rig.assign(D2, 1);
    assert!(matches!(rig.turn()[..], [Action::Send(Up::Decline { .. })]));
}

#[test]
fn what_is_not_done_within_the_grace_is_stopped_and_handed_back() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.drain(rig.now, secs(5));
    assert!(rig.pass(secs(5)).contains(&stop(D1, 1, secs(3))));
    rig.finish(D1, 1, stopped());
    let actions = rig.turn();
    assert!(matches!(actions[0], Action::Send(Up::Decline { delivery: D1, .. })), "{actions:?}");
    assert_eq!(actions[1], Action::Exit);
}

#[test]
fn what_is_handed_back_without_a_stream_is_declined_on_the_next_one() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.drain(rig.now, secs(5));
    rig.pass(secs(4));
    rig.agent.stream_lost(rig.now);
    rig.pass(secs(1));
    rig.finish(D1, 1, stopped());
    let declined_at = rig.now;
    assert!(!rig.turn().contains(&Action::Exit), "it has something to say still");

    rig.pass(secs(2));
    let actions = rig.dial(vec![(D1, token(1), Verdict::Keep)]);

    let message = Arc::from("draining");
    let decline = Up::Decline { delivery: D1, token: token(1), retry_at: declined_at, message };
    assert!(actions.contains(&Action::Send(decline)), "{actions:?}");
    assert_eq!(actions.last(), Some(&Action::Exit), "{actions:?}");
}

#[test]
fn what_is_handed_back_and_cannot_be_said_is_forgotten_with_its_lease() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.drain(rig.now, secs(20));
    rig.agent.stream_lost(rig.now);
    rig.pass(secs(20));
    rig.finish(D1, 1, stopped());
    rig.turn();
    assert_eq!(rig.agent.claims().count(), 1);
    rig.pass(secs(5));
    assert_eq!(rig.agent.claims().count(), 0);
}

#[test]
fn results_that_are_never_settled_hold_the_exit_up_only_so_long() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.finish(D1, 1, ok(""));
    rig.agent.drain(rig.now, secs(5));
    assert!(!rig.pass(secs(14)).contains(&Action::Exit));
    assert!(rig.pass(secs(1)).contains(&Action::Exit));
}

#[test]
fn a_drain_without_a_stream_is_announced_on_the_next_one() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.agent.stream_lost(rig.now);
    rig.agent.drain(rig.now, secs(20));
    rig.turn();
    assert!(rig.dial(vec![(D1, token(1), Verdict::Keep)]).contains(&draining(20)));
}

#[test]
fn a_server_that_goes_is_left_with_the_work_going_on() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Drain { generals: vec![], reconnect: true });
    let actions = rig.turn();
    assert!(matches!(actions[..], [Action::Reconnect { after }] if after <= secs(1)), "{actions:?}");
    assert_eq!(rig.agent.running(), 1);
}

#[test]
fn an_instance_that_the_plane_drains_finishes_and_dials_anew_later() {
    let mut rig = Rig::open();
    rig.working(D1, 1);
    rig.down_message(Down::Drain { generals: vec![], reconnect: false });
    let actions = rig.turn();
    assert!(actions.contains(&draining(30)), "{actions:?}");
    rig.finish(D1, 1, ok(""));
    rig.settle(D1, 1);
    rig.actions();
    let actions = rig.pass(secs(2));
    assert!(matches!(actions[..], [Action::Reconnect { after }] if after <= secs(30)), "{actions:?}");
    // Whether it may work again is for the plane to say.
    assert!(rig.dial(vec![]).contains(&Action::Send(Up::Grant { capacities: vec![(A, 2), (B, 1)], last_assign: 0 })));
}

#[test]
fn one_general_may_be_drained_alone() {
    let mut rig = Rig::open();
    rig.down_message(Down::Drain { generals: vec![GeneralName::new("a").unwrap()], reconnect: false });
    let deadline = T0 + secs(30);
    let grant = Up::Grant { capacities: vec![(A, 0)], last_assign: 0 };
    assert_eq!(rig.turn(), [Action::Send(Up::Draining { deadline, generals: vec![A] }), Action::Send(grant)]);
}
