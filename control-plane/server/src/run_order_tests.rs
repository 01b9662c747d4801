//! The order of a stream of events while the routes change, with answers that are held up where that matters.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use mindos_core::input::Input;
use mindos_core::output::Reply;
use mindos_core::record::Batch;
use mindos_core::route::{Match, Route, RouteTable, Targets};
use mindos_model::{Seq, Strategy, TenantName};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::event::v1::PublishStreamRequest;
use mindos_proto::event::v1::event_service_client::EventServiceClient;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::driver::AppendError;
use crate::store::EmbeddedHome;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    config: Config,
}

/// A home that appends nothing while it is shut.
struct Gated {
    home: EmbeddedHome,
    shut: Arc<AtomicBool>,
}

impl Home for Gated {
    fn append(&mut self, expected: Seq, batch: &Batch) -> Result<(), AppendError> {
        while self.shut.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.home.append(expected, batch)
    }

    fn drop_prefix(&mut self, through: Seq) -> Result<(), AppendError> {
        self.home.drop_prefix(through)
    }

    fn is_tight(&self) -> bool {
        self.home.is_tight()
    }
}

fn table(condition: Option<&str>) -> Arc<RouteTable> {
    let targets = Targets { types: vec!["worker".parse().unwrap()], ..Targets::default() };
    let some = Match { condition: condition.map(Arc::from), kinds: Vec::new(), subjects: Vec::new() };
    let route = |name: &str, matches| Route::new(name.parse().unwrap(), matches, targets.clone(), Strategy::Sticky);
    let default = route("default", Match::default());
    let routes = if condition.is_some() { vec![route("some", some), default] } else { vec![default] };
    Arc::new(RouteTable { routes, trust: None })
}

fn batch(number: u64) -> PublishStreamRequest {
    let event = |place: u64| CloudEvent {
        id: format!("{number}.{place}"),
        source: "/test".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "com.example.test".to_owned(),
        ..CloudEvent::default()
    };
    PublishStreamRequest { batch: number, events: (0..3).map(event).collect(), explain: false }
}

/// Sends two batches while the second of two tables is on its way to the disk: it is in force, and only known from the second batch on.
async fn in_order(name: &str, first: Option<&str>, second: Option<&str>) {
    let folder = std::env::temp_dir().join(format!("mindos-server-order-{name}-{}", std::process::id()));
    let words = ["test", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--segment-bytes", "4MiB"];
    let words = [&words[..], &["--data-dir", folder.to_str().unwrap()]].concat();
    let config = Command::parse_from(words).config;
    let Opened { home, durable, newest, cause, reads, plane_id } = store::open(&config).unwrap();
    let shut = Arc::new(AtomicBool::new(false));
    let home = Gated { home, shut: Arc::clone(&shut) };
    let server = Server::with(config, Opened { home, durable, newest, cause, reads, plane_id }).await.unwrap();
    let (handle, context, api) = (server.handle().clone(), Arc::clone(&server.context), server.api);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    handle.begun().await;
    let apply = |table: &Arc<RouteTable>| {
        let (tenant, table, by) = (TenantName::default_tenant(), Arc::clone(table), Arc::from("ann"));
        let (handle, expected) = (handle.clone(), None);
        async move {
            handle
                .call(|request| Input::ApplyRoutes { request, tenant, table, expected, by, from: Arc::from("") })
                .await
        }
    };
    apply(&table(first)).await.unwrap();
    context.learn_routes(&TenantName::default_tenant()).await.unwrap();

    shut.store(true, Ordering::Release);
    let (second, before) = (table(second), handle.durable_seq());
    let applied = tokio::spawn(apply(&second));
    // Longer than any of these steps takes: on a slower machine the test shows less, and does not fail.
    let a_while = Duration::from_millis(200);
    tokio::time::sleep(a_while).await;
    let (batches, receiver) = tokio::sync::mpsc::channel(4);
    batches.send(batch(1)).await.unwrap();
    let channel = tonic::transport::Channel::from_shared(format!("http://{api}")).unwrap().connect().await.unwrap();
    let mut client = EventServiceClient::new(channel);
    let opening = tokio::spawn(async move { client.publish_stream(ReceiverStream::new(receiver)).await });
    tokio::time::sleep(a_while).await;
    // As after `Apply`, whose caller hears of it a little earlier.
    context.judges.learn(&TenantName::default_tenant(), second, before.next());
    batches.send(batch(2)).await.unwrap();
    batches.send(batch(3)).await.unwrap();
    drop(batches);
    tokio::time::sleep(a_while).await;
    shut.store(false, Ordering::Release);

    match applied.await.unwrap().unwrap() {
        Reply::Done { at } => assert_eq!(at, before.next()),
        other => panic!("{other:?}"),
    }
    let mut answers = opening.await.unwrap().unwrap().into_inner();
    let (mut last, mut results) = (0, 0);
    while let Some(answer) = answers.message().await.unwrap() {
        for result in answer.results {
            assert!(result.error.is_none(), "{result:?}");
            assert!(result.seq > last, "{name}: event {} of batch {} follows {last}", result.seq, answer.batch);
            (last, results) = (result.seq, results + 1);
        }
    }
    assert_eq!(results, 9);
    assert!(context.judges.counts().1 >= 3, "{name}: nothing was given back");
    drop(stop);
    serving.await.unwrap().unwrap();
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn events_of_a_stream_are_accepted_in_order_while_their_conditions_change() {
    in_order("conditions", Some("type == 'a'"), Some("type == 'b'")).await;
}

#[tokio::test]
async fn events_of_a_stream_are_accepted_in_order_when_the_first_condition_comes() {
    in_order("first", None, Some("type == 'b'")).await;
}
