//! `mindos.budget.v1.BudgetService` as its clients see it: what is answered, what is refused and by which name, and what budgets do to
//! work on the stream.

use crate::support::{Agent, Directory, PATIENCE, Running, event, hello};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::control_message::Message as Down;
use mindos_proto::budget::v1::budget::Scope;
use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::budget::v1::{
    AcknowledgeBudgetRequest, Budget, BudgetStatus, DeleteBudgetRequest, GetBudgetRequest, GetUsageRequest, Level,
    ListBudgetsRequest, Period, RunScope, SetBudgetRequest, TenantScope, UsageDimension, UsageRow,
};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::rpc::{BadRequest, ErrorInfo, QuotaFailure, Status as Details};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What the server sets aside for a general that cannot report in mid-run, in millionths.
const WORTH: u64 = 1_000_000;

struct Client(BudgetServiceClient<Channel>);

impl Client {
    async fn of(server: &Running) -> Client {
        Client(BudgetServiceClient::new(server.channel().await))
    }

    async fn set(&mut self, budget: Budget) -> Result<BudgetStatus, Status> {
        let request = SetBudgetRequest { budget: Some(budget) };
        Ok(self.0.set_budget(request).await?.into_inner().budget.unwrap())
    }

    async fn get(&mut self, name: &str) -> Result<BudgetStatus, Status> {
        let request = GetBudgetRequest { name: name.to_owned() };
        Ok(self.0.get_budget(request).await?.into_inner().budget.unwrap())
    }

    async fn acknowledge(&mut self, name: &str) -> Result<BudgetStatus, Status> {
        let request = AcknowledgeBudgetRequest { name: name.to_owned() };
        Ok(self.0.acknowledge_budget(request).await?.into_inner().budget.unwrap())
    }

    async fn delete(&mut self, name: &str) -> Result<(), Status> {
        self.0.delete_budget(DeleteBudgetRequest { name: name.to_owned() }).await.map(drop)
    }

    async fn list(&mut self) -> Vec<BudgetStatus> {
        self.0.list_budgets(ListBudgetsRequest {}).await.unwrap().into_inner().budgets
    }

    async fn names(&mut self) -> Vec<String> {
        self.list().await.into_iter().map(|status| status.budget.unwrap().name).collect()
    }

    async fn usage(&mut self, dimension: UsageDimension) -> Vec<UsageRow> {
        let request = GetUsageRequest { dimension: dimension.into(), ..GetUsageRequest::default() };
        self.0.get_usage(request).await.unwrap().into_inner().rows
    }

    /// Waits until a budget stands so.
    async fn stands(&mut self, name: &str, is_so: impl Fn(&BudgetStatus) -> bool) -> BudgetStatus {
        let began = std::time::Instant::now();
        loop {
            let status = self.get(name).await.unwrap();
            if is_so(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// A budget over all work, without end.
fn of_all(name: &str, cost_micros: u64) -> Budget {
    Budget {
        name: name.to_owned(),
        scope: Some(Scope::Tenant(TenantScope {})),
        period: Period::Total.into(),
        cost_micros: Some(cost_micros),
        ..Budget::default()
    }
}

fn of_route(name: &str, route: &str) -> Budget {
    Budget { scope: Some(Scope::Route(route.to_owned())), ..of_all(name, 1) }
}

/// The field that a refusal is about, and its message.
fn field(refused: &Status) -> (String, String) {
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let bad: BadRequest = Details::from(refused).detail().unwrap();
    (bad.field_violations[0].field.clone(), refused.message().to_owned())
}

/// Refused for want of room, which is no fault of what was asked.
fn assert_full(refused: &Status, field: &str, most: &str) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = Details::from(refused);
    let info: ErrorInfo = details.detail().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["field"].as_str()), ("BUDGETS_FULL", field));
    let quota: QuotaFailure = details.detail().unwrap();
    assert!(quota.violations[0].description.contains(most) && refused.message().contains(most), "{refused}");
}

fn assert_unknown(refused: &Status, name: &str) {
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(refused.message().contains(&format!("budget {name}")), "{refused}");
}

/// An event on a lane of its own.
fn work(id: &str) -> mindos_proto::cloudevents::v1::CloudEvent {
    let mut event = event(id, "x");
    event.source = format!("/budgets/{id}");
    event
}

async fn settle(agent: &mut Agent, assign: &agent::Assign, cost_micros: u64) {
    let usage = delivery::Usage {
        model: "m".to_owned(),
        input_tokens: 70,
        output_tokens: 30,
        cost_micros,
        ..delivery::Usage::default()
    };
    let result = agent::Result {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
        usage: vec![usage],
        ..agent::Result::default()
    };
    agent.say(Up::Result(result)).await;
    assert_eq!(agent.settled().await.verdict(), agent::SettleVerdict::Settled);
}

#[tokio::test]
async fn a_budget_is_set_shown_raised_and_removed_and_outlives_a_restart() {
    let directory = Directory::new();
    let server = Running::start(&directory).await;
    let mut client = Client::of(&server).await;
    let hourly = Budget { period: Period::Hour.into(), tokens: Some(500), ..of_all("team", 9) };

    let set = client.set(hourly.clone()).await.unwrap();

    let known = set.budget.clone().unwrap();
    let filled = Budget { warn_percent: Some(50), act_percent: Some(80), pause_percent: Some(95), ..hourly.clone() };
    assert_eq!(known, filled);
    let (began, resets) = (set.period_began_at.unwrap().seconds, set.resets_at.unwrap().seconds);
    assert_eq!((began % 3600, resets - began), (0, 3600));
    assert_eq!((set.level(), set.used_percent, set.parked, set.acknowledged), (Level::Unspecified, 0, 0, false));
    // Said again it is the same, and stands once in the ledger.
    assert_eq!(client.set(hourly.clone()).await.unwrap(), set);
    assert_eq!(client.get("team").await.unwrap(), set);
    client.set(Budget { scope: Some(Scope::Run(RunScope {})), ..of_all("each", 5) }).await.unwrap();
    client.set(of_route("a-route", "default")).await.unwrap();
    assert_eq!(client.names().await, ["a-route", "each", "team"]);
    let raised = client.set(Budget { tokens: None, pause_percent: Some(0), ..hourly }).await.unwrap();
    assert_eq!(raised.budget.clone().unwrap().pause_percent, Some(0));
    let listed = client.list().await;

    server.stop().await;
    let server = Running::start(&directory).await;
    let mut client = Client::of(&server).await;
    assert_eq!(client.list().await, listed);
    client.delete("each").await.unwrap();
    assert_unknown(&client.delete("each").await.unwrap_err(), "each");
    assert_unknown(&client.get("each").await.unwrap_err(), "each");
    assert_unknown(&client.acknowledge("each").await.unwrap_err(), "each");
    assert_eq!(client.names().await, ["a-route", "team"]);
    server.stop().await;
}

#[tokio::test]
async fn what_a_budget_cannot_say_is_refused_by_the_name_of_the_field_and_changes_nothing() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    let good = || of_all("b", 5);
    let scoped = |scope| Budget { scope: Some(scope), ..of_all("b", 5) };
    let long = "x".repeat(257);
    let over = (1 << 53) + 1;
    let bad: Vec<(Budget, &str)> = vec![
        (Budget { name: String::new(), ..good() }, "budget.name"),
        (Budget { name: "Not A Name".to_owned(), ..good() }, "budget.name"),
        (Budget { name: "x".repeat(64), ..good() }, "budget.name"),
        (Budget { scope: None, ..good() }, "budget.scope"),
        (scoped(Scope::Repository(String::new())), "budget.repository"),
        (scoped(Scope::Repository(long.clone())), "budget.repository"),
        (scoped(Scope::GeneralType("No Type".to_owned())), "budget.general_type"),
        (scoped(Scope::Route(String::new())), "budget.route"),
        (Budget { period: Period::Unspecified.into(), ..good() }, "budget.period"),
        (Budget { period: 99, ..good() }, "budget.period"),
        (Budget { period: -1, ..good() }, "budget.period"),
        (Budget { period: Period::Day.into(), ..scoped(Scope::Run(RunScope {})) }, "budget.period"),
        (Budget { cost_micros: None, ..good() }, "budget.cost_micros"),
        (Budget { cost_micros: Some(over), ..good() }, "budget.cost_micros"),
        (Budget { tokens: Some(over), ..good() }, "budget.tokens"),
        (Budget { time_ms: Some(u64::MAX), ..good() }, "budget.time_ms"),
        (Budget { warn_percent: Some(101), ..good() }, "budget.warn_percent"),
        (Budget { act_percent: Some(u32::MAX), ..good() }, "budget.act_percent"),
        (Budget { pause_percent: Some(101), ..good() }, "budget.pause_percent"),
        (Budget { priority_kinds: vec![String::new()], ..good() }, "budget.priority_kinds"),
        (Budget { priority_kinds: vec![long], ..good() }, "budget.priority_kinds"),
        (Budget { priority_kinds: vec!["k".to_owned(); 65], ..good() }, "budget.priority_kinds"),
    ];
    for (budget, expected) in bad {
        let refused = client.set(budget.clone()).await.unwrap_err();
        let (field, message) = field(&refused);
        assert_eq!(field, expected, "{budget:?}: {refused}");
        let short = expected.strip_prefix("budget.").unwrap();
        assert!(message.contains(short), "`{message}` does not name {short}");
        let info: ErrorInfo = Details::from(&refused).detail().unwrap();
        assert!(["FIELD_INVALID", "BUDGET_INVALID"].contains(&info.reason.as_str()), "{}", info.reason);
    }
    let nothing = client.0.set_budget(SetBudgetRequest { budget: None }).await.unwrap_err();
    assert_eq!(field(&nothing).0, "budget");
    assert_eq!(field(&client.get("No").await.unwrap_err()).0, "name");
    assert_eq!(field(&client.get("").await.unwrap_err()).0, "name");
    assert_eq!(field(&client.delete("No").await.unwrap_err()).0, "name");
    assert_eq!(field(&client.acknowledge("").await.unwrap_err()).0, "name");
    assert_eq!(client.names().await, [""; 0]);
    // The ends of what is accepted are.
    let most = 1 << 53;
    let ends = Budget {
        name: "x".repeat(63),
        cost_micros: Some(most),
        tokens: Some(0),
        time_ms: Some(most),
        warn_percent: Some(0),
        act_percent: Some(100),
        priority_kinds: vec!["k".repeat(256); 64],
        ..good()
    };
    // Of no tokens all is used.
    assert_eq!(client.set(ends).await.unwrap().used_percent, 100);
    server.stop().await;
}

#[tokio::test]
async fn what_was_used_is_asked_for_with_a_dimension_and_a_time_that_there_are() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let ask = GetUsageRequest::default;
    for (request, expected) in [
        (GetUsageRequest { dimension: 6, ..ask() }, "dimension"),
        (GetUsageRequest { dimension: -1, ..ask() }, "dimension"),
        (GetUsageRequest { limit: 1001, ..ask() }, "limit"),
        (GetUsageRequest { limit: u32::MAX, ..ask() }, "limit"),
        (GetUsageRequest { since: at(0, -1), ..ask() }, "since"),
        (GetUsageRequest { since: at(i64::MAX, 0), ..ask() }, "since"),
        (GetUsageRequest { until: at(-5, 0), ..ask() }, "until"),
    ] {
        let refused = client.0.get_usage(request).await.unwrap_err();
        assert_eq!(field(&refused).0, expected, "{request:?}: {refused}");
    }
    assert_eq!(client.usage(UsageDimension::Route).await, []);
    server.stop().await;
}

#[tokio::test]
async fn as_many_budgets_are_set_as_there_may_be_and_then_others_than_new_ones() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    for number in 0..8 {
        client.set(of_all(&format!("all-{number}"), 5)).await.unwrap();
    }
    assert_full(&client.set(of_all("all-8", 5)).await.unwrap_err(), "scope", "8 budgets");

    let mut calls = JoinSet::new();
    for worker in 0..16 {
        let mut client = Client(client.0.clone());
        calls.spawn(async move {
            for number in (8..1000).filter(|number| number % 16 == worker) {
                client.set(of_route(&format!("b{number}"), &format!("r{number}"))).await.unwrap();
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!(client.list().await.len(), 1000);
    assert_full(&client.set(of_route("one-more", "r1000")).await.unwrap_err(), "name", "1000 budgets");
    assert_unknown(&client.get("one-more").await.unwrap_err(), "one-more");
    // What is known can be changed, and who removes one has room for one.
    client.set(of_all("all-3", 6)).await.unwrap();
    client.delete("all-4").await.unwrap();
    client.set(of_route("one-more", "r1000")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn work_waits_for_its_budget_and_goes_on_when_there_is_room_or_more_of_it() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    let limit = WORTH * 3 / 2;
    client.set(Budget { pause_percent: Some(0), ..of_all("all", limit) }).await.unwrap();
    let mut agent = Agent::ready(&server, "b1", 4).await;
    for id in ["e1", "e2", "e3"] {
        server.publish(work(id)).await.unwrap();
    }

    let first = agent.assignment().await;
    assert_eq!(first.ceilings.unwrap().cost_micros, Some(WORTH));
    let full = client.stands("all", |status| status.parked == 2).await;
    assert_eq!((full.charged.unwrap().cost_micros, full.reserved.unwrap().cost_micros), (0, WORTH));
    assert_eq!((full.used_percent, full.level()), (66, Level::Unspecified));
    let parked = delivery::DeliveryFilter {
        statuses: vec![delivery::DeliveryStatus::Parked.into()],
        ..delivery::DeliveryFilter::default()
    };
    let list = delivery::ListRequest { filter: Some(parked), ..delivery::ListRequest::default() };
    let waiting = server.deliveries().await.list(list).await.unwrap().into_inner().deliveries;
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|one| one.park_reason() == delivery::ParkReason::OverBudget), "{waiting:?}");

    // It used less than was set aside, so that the next one fits; that one uses more than it had.
    settle(&mut agent, &first, WORTH / 4).await;
    let second = agent.assignment().await;
    settle(&mut agent, &second, WORTH * 5 / 4).await;
    let used = client.stands("all", |status| status.reserved.is_some_and(|amount| amount.cost_micros == 0)).await;
    assert_eq!((used.charged.unwrap().cost_micros, used.used_percent, used.parked), (limit, 100, 1));
    assert_eq!((used.level(), used.charged.unwrap().tokens), (Level::Exhausted, 200));
    // No word makes more of it than there is.
    let acknowledged = client.acknowledge("all").await.unwrap();
    assert!(acknowledged.acknowledged && acknowledged.parked == 1, "{acknowledged:?}");
    assert_eq!(client.acknowledge("all").await.unwrap(), acknowledged);
    let raised = client.set(Budget { pause_percent: Some(0), ..of_all("all", 10 * WORTH) }).await.unwrap();
    assert!(!raised.acknowledged && raised.level() == Level::Unspecified, "{raised:?}");
    let third = agent.assignment().await;
    settle(&mut agent, &third, 7).await;

    for (dimension, value) in [
        (UsageDimension::Unspecified, "general-purpose-general"),
        (UsageDimension::GeneralType, "general-purpose-general"),
        (UsageDimension::General, "c1/general-purpose-general"),
        (UsageDimension::Route, "default"),
        (UsageDimension::Kind, "com.example.test"),
        (UsageDimension::Repository, ""),
    ] {
        let began = std::time::Instant::now();
        // The history may lag.
        let rows = loop {
            let rows = client.usage(dimension).await;
            if rows.first().is_some_and(|row| row.deliveries == 3) {
                break rows;
            }
            assert!(began.elapsed() < PATIENCE, "{dimension:?}: {rows:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!((rows.len(), rows[0].value.as_str()), (1, value), "{dimension:?}");
        assert_eq!((rows[0].cost_micros, rows[0].input_tokens, rows[0].output_tokens), (limit + 7, 210, 90));
    }
    let late = GetUsageRequest {
        since: Some(prost_types::Timestamp { seconds: 32_503_680_000, nanos: 0 }),
        ..GetUsageRequest::default()
    };
    assert_eq!(client.0.get_usage(late).await.unwrap().into_inner().rows, []);
    server.stop().await;
}

#[tokio::test]
async fn a_budget_that_has_paused_goes_on_when_somebody_says_so() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    client.set(Budget { pause_percent: Some(10), ..of_all("all", 10 * WORTH) }).await.unwrap();
    let mut agent = Agent::ready(&server, "b1", 4).await;
    server.publish(work("e1")).await.unwrap();
    let first = agent.assignment().await;
    settle(&mut agent, &first, WORTH).await;
    assert_eq!(client.get("all").await.unwrap().level(), Level::Paused);
    server.publish(work("e2")).await.unwrap();
    client.stands("all", |status| status.parked == 1).await;

    let acknowledged = client.acknowledge("all").await.unwrap();

    assert!(acknowledged.acknowledged, "{acknowledged:?}");
    let second = agent.assignment().await;
    settle(&mut agent, &second, 1).await;
    // A budget that is gone holds nobody up.
    client.set(Budget { pause_percent: Some(1), ..of_all("all", 10 * WORTH) }).await.unwrap();
    server.publish(work("e3")).await.unwrap();
    client.stands("all", |status| status.parked == 1).await;
    client.delete("all").await.unwrap();
    let third = agent.assignment().await;
    assert!(third.ceilings.is_none_or(|ceilings| ceilings == agent::Ceilings::default()));
    settle(&mut agent, &third, 1).await;
    server.stop().await;
}

#[tokio::test]
async fn more_is_set_aside_once_however_often_its_general_says_what_it_wants_in_all() {
    let server = Running::alone(&[]).await;
    let mut client = Client::of(&server).await;
    client.set(of_all("all", 10 * WORTH)).await.unwrap();
    let hello = |claims| agent::Hello { capabilities: vec!["ceilings".to_owned()], ..hello("b1", claims) };
    let mut agent = Agent::dial(&server, hello(Vec::new())).await.unwrap();
    agent.grant(1).await;
    server.publish(event("e1", "one")).await.unwrap();
    let assign = agent.assignment().await;
    let had = assign.ceilings.unwrap().cost_micros.unwrap();
    let ceilings = |cost_micros| agent::Ceilings { cost_micros: Some(cost_micros), ..Default::default() };
    let wants = |in_all: Option<u64>, more: Option<u64>| agent::Extend {
        delivery_id: assign.delivery_id.clone(),
        token: assign.token,
        wanted: more.map(ceilings),
        ceilings_wanted: in_all.map(ceilings),
        ..Default::default()
    };
    assert_eq!(ceilings_of(&mut agent, wants(Some(had + 500), None)).await, had + 500);
    drop(agent);

    // The answer may have been lost, so the same is said on the next stream, by some in both ways.
    let claim = agent::LeaseClaim { delivery_id: assign.delivery_id.clone(), token: assign.token };
    let mut agent = Agent::dial(&server, hello(vec![claim])).await.unwrap();
    assert_eq!(ceilings_of(&mut agent, wants(Some(had + 500), Some(500))).await, had + 500);
    assert_eq!(ceilings_of(&mut agent, wants(Some(had), None)).await, had + 500);
    assert_eq!(client.get("all").await.unwrap().reserved.unwrap().cost_micros, had + 500);
    // What is said the other way is beyond what there is.
    assert_eq!(ceilings_of(&mut agent, wants(None, Some(500))).await, had + 1000);
    server.stop().await;
}

async fn ceilings_of(agent: &mut Agent, extend: agent::Extend) -> u64 {
    agent.say(Up::Extend(extend)).await;
    match agent.next().await.unwrap() {
        Down::Extended(extended) => extended.ceilings.unwrap().cost_micros.unwrap(),
        other => panic!("{other:?}"),
    }
}
