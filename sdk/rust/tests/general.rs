//! Generals in Rust over a real stream.

mod plane;

use std::time::Duration;

use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::agent::v1::result::Outcome;
use mindos_proto::agent::v1::{Cancel, Drain, Verdict};
use mindos_proto::delivery::v1::{FailureKind, Token};
use mindos_sdk::{Event, Failure, General, Options, Output, Progress, Work, general_config, serve};
use plane::{Plane, assign};
use tokio::sync::oneshot;
use tonic::Status;

/// Does what the event's type says.
struct Obedient;

impl General for Obedient {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        match work.event.ty() {
            "echo" => Ok(Output { data: work.event.bytes(), ..Output::text("") }),
            "poison" => Err(Failure::poison("cannot")),
            "panic" => panic!("as asked"),
            "checkpoint" => {
                work.progress(Progress { checkpoint: b"half".to_vec(), ..Progress::default() });
                std::future::pending().await
            }
            "repository" => {
                let access = work.repository_access().await?;
                assert!(!format!("{access:?}").contains("hush"));
                assert_eq!(access.expires_at, Some(mindos_sdk::model::Timestamp(1_795_176_000_000)));
                Ok(Output::text(format!("{} {} {}", access.repository, access.author, access.token.expose())))
            }
            "stoppable" => {
                work.stopped().await;
                Err(Failure::transient("stopped half way"))
            }
            _ => std::future::pending().await,
        }
    }
}

struct Running {
    plane: Plane,
    stop: oneshot::Sender<()>,
    end: tokio::task::JoinHandle<mindos_sdk::Counts>,
}

async fn start() -> Running {
    let plane = Plane::start().await;
    let options = Options { drain_grace: Duration::from_millis(300), ..Options::new(&plane.url, "c1", "i1").unwrap() };
    let (stop, stopped) = oneshot::channel::<()>();
    let end = tokio::spawn(async move {
        let shutdown = async move {
            let _ = stopped.await;
        };
        serve(Obedient, general_config("obedient", 4).unwrap(), options, shutdown).await.unwrap()
    });
    Running { plane, stop, end }
}

fn event(ty: &str) -> mindos_proto::cloudevents::v1::CloudEvent {
    Event::new("s", "1", ty).json("{\"a\":1}").into_message()
}

fn keep(_: &mindos_proto::agent::v1::LeaseClaim) -> Verdict {
    Verdict::Keep
}

#[tokio::test]
async fn work_is_done_reported_and_settled_and_the_drain_is_clean() {
    let Running { mut plane, stop, end } = start().await;
    let (mut session, hello) = plane.welcome(keep).await;
    assert_eq!((hello.cluster.as_str(), hello.instance_id.as_str(), hello.generals[0].slots), ("c1", "i1", 4));
    let grant = session.granted().await;
    assert_eq!((grant.generals[0].general.as_str(), grant.generals[0].capacity), ("obedient", 4));

    session.send(assign("d1.1", 1, "obedient", event("echo")));
    let result = session.result().await;
    assert_eq!((result.delivery_id.as_str(), &result.output[..]), ("d1.1", &b"{\"a\":1}"[..]));
    assert!(matches!(result.outcome, Some(Outcome::Succeeded(_))));

    stop.send(()).unwrap();
    assert!(matches!(session.next_work().await, Some(Up::Draining(_))));
    session.settle("d1.1", 1);
    assert!(session.next_work().await.is_none(), "the agent half-closes");
    drop(session);
    let counts = end.await.unwrap();
    assert_eq!((counts.started, counts.settled), (1, 1));
}

#[tokio::test]
async fn failures_and_panics_are_reported_by_kind() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    for (at, (ty, kind)) in [("poison", FailureKind::Poison), ("panic", FailureKind::Transient)].into_iter().enumerate()
    {
        session.send(assign(&format!("d{}.1", at + 1), 1, "obedient", event(ty)));
        let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!("{ty}") };
        assert_eq!(failure.kind(), kind);
    }
    session.send(assign("d9.1", 1, "someone-else", event("echo")));
    assert!(matches!(session.next_work().await, Some(Up::Decline(decline)) if decline.delivery_id == "d9.1"));
}

#[tokio::test]
async fn work_gets_read_access_to_its_repository_or_is_told_why_not() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "obedient", event("repository")));
    assert_eq!(&session.result().await.output[..], b"octo/hello mindos[bot] hush");
    session.send(assign("d2.1", 1, "obedient", event("repository")));
    let Some(Outcome::Failure(failure)) = session.result().await.outcome else { panic!("access was given") };
    assert_eq!(failure.kind(), FailureKind::Poison);
    assert!(failure.message.contains("the lease is not yours"), "{}", failure.message);
}

#[tokio::test]
async fn a_broken_stream_is_dialled_again_and_the_work_goes_on() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "obedient", event("stoppable")));
    assert!(matches!(session.next_work().await, Some(Up::Accept(_))));
    session.send(assign("d2.1", 1, "obedient", event("echo")));
    session.result().await;
    session.fail(Status::unavailable("restart"));
    drop(session);

    let (mut session, hello) = plane.welcome(keep).await;
    let claims: Vec<_> = hello.claims.iter().map(|claim| claim.delivery_id.as_str()).collect();
    assert_eq!(claims, ["d1.1", "d2.1"]);
    assert_eq!(session.result().await.delivery_id, "d2.1", "a result is repeated until it is settled");
    session.settle("d2.1", 1);

    let token = Some(Token { epoch: 1, term: 1 });
    session.send(Down::Cancel(Cancel { delivery_id: "d1.1".into(), token, ..Default::default() }));
    let result = session.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Cancelled(_))), "{result:?}");
}

#[tokio::test]
async fn a_checkpoint_travels_at_once() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "obedient", event("checkpoint")));
    loop {
        if let Some(Up::Extend(extend)) = session.next_work().await {
            assert_eq!(&extend.checkpoint[..], b"half");
            return;
        }
    }
}

#[tokio::test]
async fn what_is_not_done_at_the_end_of_the_grace_is_handed_back() {
    let Running { mut plane, stop, end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.send(assign("d1.1", 1, "obedient", event("stoppable")));
    assert!(matches!(session.next_work().await, Some(Up::Accept(_))));
    stop.send(()).unwrap();
    assert!(matches!(session.next_work().await, Some(Up::Draining(_))));
    assert!(matches!(session.next_work().await, Some(Up::Decline(decline)) if decline.delivery_id == "d1.1"));
    drop(session);
    assert_eq!(end.await.unwrap().handed_back, 1);
}

#[tokio::test]
async fn a_server_that_goes_is_dialled_again_at_once() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.send(Down::Drain(Drain { reconnect: true, ..Default::default() }));
    let (_session, hello) = plane.welcome(keep).await;
    assert_eq!(hello.last_session, "1.1");
}

#[tokio::test]
async fn a_server_that_breaks_the_numbering_is_left() {
    let Running { mut plane, stop: _stop, end: _end } = start().await;
    let (mut session, _) = plane.welcome(keep).await;
    session.granted().await;
    session.skip_number();
    session.send(assign("d1.1", 1, "obedient", event("echo")));
    plane.welcome(keep).await;
}
