//! An agent with two generals (`a` with two slots, `b` with one), driven by hand.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{
    BootId, ClusterName, DeliveryId, FailureKind, GeneralName, GeneralType, InstanceId, Seq, Timestamp, Token,
};

use crate::*;

mod drain;
mod membership;
mod stream;
mod work;

type Body = &'static str;
type Act = Action<u32, Body>;

const A: GeneralIndex = GeneralIndex(0);
const B: GeneralIndex = GeneralIndex(1);
const T0: Timestamp = Timestamp(1_000_000);
const D1: DeliveryId = DeliveryId { event: Seq(1), ordinal: 1 };
const D2: DeliveryId = DeliveryId { event: Seq(2), ordinal: 1 };
const D3: DeliveryId = DeliveryId { event: Seq(3), ordinal: 1 };

struct Rig {
    agent: Agent<u32, Body>,
    now: Timestamp,
    number: u64,
}

fn general(name: &str, slots: u32) -> GeneralConfig {
    GeneralConfig {
        name: GeneralName::new(name).unwrap(),
        ty: GeneralType::new(name).unwrap(),
        labels: Labels::new(),
        slots,
    }
}

fn config() -> Config {
    Config::new(
        ClusterName::new("c1").unwrap(),
        InstanceId::new("i1").unwrap(),
        BootId::new("boot1").unwrap(),
        vec![general("a", 2), general("b", 1)],
        7,
    )
}

fn token(term: u32) -> Token {
    Token::new(1, term)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ok(body: Body) -> Finish<Body> {
    Finish { outcome: Outcome::Succeeded, body }
}

fn failed() -> Finish<Body> {
    let outcome = Outcome::Failed { kind: FailureKind::Transient, message: Arc::from("no") };
    Finish { outcome, body: "" }
}

fn stopped() -> Finish<Body> {
    Finish { outcome: Outcome::Cancelled { reason: CancelReason::Human }, body: "" }
}

fn start(delivery: DeliveryId, term: u32) -> Act {
    Action::Start { general: A, delivery, token: token(term), work: 0 }
}

fn result(delivery: DeliveryId, term: u32, finish: Finish<Body>) -> Act {
    Action::Send(Up::Result { delivery, token: token(term), finish })
}

fn accept(delivery: DeliveryId, term: u32) -> Act {
    Action::Send(Up::Accept { delivery, token: token(term) })
}

fn stop(delivery: DeliveryId, term: u32, grace: Duration) -> Act {
    Action::Stop { delivery, token: token(term), grace }
}

impl Rig {
    /// Not connected; both generals ready.
    fn down() -> Rig {
        let mut agent = Agent::new(config()).unwrap();
        agent.ready(A, true);
        agent.ready(B, true);
        Rig { agent, now: T0, number: 0 }
    }

    /// Connected and welcomed, grants and first heartbeat sent.
    fn open() -> Rig {
        let mut rig = Rig::down();
        rig.dial(vec![]);
        rig.actions();
        rig
    }

    fn dial(&mut self, verdicts: Vec<(DeliveryId, Token, Verdict)>) -> Vec<Act> {
        self.agent.connected(self.now);
        self.number = 0;
        let session = Arc::from("s");
        self.down_message(Down::Welcome(Welcome { session, intervals: Intervals::default(), verdicts }));
        self.turn()
    }

    fn down_message(&mut self, message: Down<u32>) {
        self.number += 1;
        self.agent.received(self.number, message, self.now);
    }

    fn assign(&mut self, delivery: DeliveryId, term: u32) {
        let assign = Assign { delivery, token: token(term), general: A, lease: None, deadline: None, work: 0 };
        self.down_message(Down::Assign(assign));
    }

    /// Assigned and accepted.
    fn working(&mut self, delivery: DeliveryId, term: u32) {
        self.assign(delivery, term);
        assert_eq!(self.turn(), [start(delivery, term), accept(delivery, term)]);
    }

    fn finish(&mut self, delivery: DeliveryId, term: u32, finish: Finish<Body>) {
        self.agent.general_finished(delivery, token(term), finish, self.now);
    }

    fn settle(&mut self, delivery: DeliveryId, term: u32) {
        self.down_message(Down::Settled { delivery, token: token(term), verdict: SettledVerdict::Settled });
    }

    /// What there is to do, without heartbeats.
    fn actions(&mut self) -> Vec<Act> {
        let mut actions = Vec::new();
        self.agent.take_actions(&mut actions);
        actions.retain(|action| !matches!(action, Action::Send(Up::Heartbeat { .. })));
        actions
    }

    fn turn(&mut self) -> Vec<Act> {
        self.agent.tick(self.now);
        self.actions()
    }

    /// Lets time pass, with a turn whenever one is due.
    fn pass(&mut self, span: Duration) -> Vec<Act> {
        let end = self.now + span;
        let mut actions = Vec::new();
        while let Some(due) = self.agent.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.agent.tick(self.now);
            self.agent.take_actions(&mut actions);
        }
        self.now = end;
        self.agent.tick(end);
        self.agent.take_actions(&mut actions);
        actions.retain(|action| !matches!(action, Action::Send(Up::Heartbeat { .. })));
        actions
    }
}

#[test]
fn a_config_is_checked() {
    let with = |generals| Agent::<u32, Body>::new(Config { generals, ..config() }).map(drop);
    assert_eq!(with(vec![]), Err(ConfigError::Generals(0)));
    assert_eq!(with(vec![general("a", 1), general("a", 1)]), Err(ConfigError::Twice(GeneralName::new("a").unwrap())));
    assert!(matches!(with(vec![general("a", 0)]), Err(ConfigError::Slots { .. })));
}

#[test]
fn the_same_seed_and_inputs_give_the_same_actions() {
    let run = || {
        let mut rig = Rig::open();
        rig.working(D1, 1);
        rig.agent.stream_lost(rig.now);
        let mut actions = rig.pass(secs(5));
        rig.agent.stream_lost(rig.now);
        actions.extend(rig.pass(secs(60)));
        actions
    };
    assert_eq!(run(), run());
}
