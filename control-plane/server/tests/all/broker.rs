//! Effects from the result of a general to a GitHub that remembers, through the whole server.

use std::time::{Duration, Instant};

use crate::forge::{Fault, Forge, OWN, TOKEN};
use crate::support::{Agent, Directory, PATIENCE, Running, event};
use mindos_proto::agent::v1 as agent;
use mindos_proto::agent::v1::agent_message::Message as Up;
use mindos_proto::agent::v1::repository_service_client::RepositoryServiceClient;
use mindos_proto::blob::v1::blob_service_client::BlobServiceClient;
use mindos_proto::blob::v1::put_request::Part;
use mindos_proto::blob::v1::{PutHeader, PutRequest};
use mindos_proto::cloudevents::v1::CloudEvent;
use mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue;
use mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::effect::v1::effect_service_client::EffectServiceClient;
use mindos_proto::effect::v1::{CancelEffectRequest, ListEffectsRequest};
use mindos_proto::ledger::v1::TailRequest;
use mindos_proto::ledger::v1::ledger_service_client::LedgerServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/catch_up/test_key.pem");

/// A server that writes to a GitHub.
struct World {
    forge: Forge,
    server: Running,
    directory: Directory,
}

impl World {
    /// With a token, and more settings.
    async fn start(effects: &str) -> World {
        let forge = Forge::start().await;
        let directory = Directory::new();
        std::fs::create_dir_all(&directory.0).unwrap();
        std::fs::write(directory.0.join("token"), TOKEN).unwrap();
        let server = World::serve(&forge, &directory, effects).await;
        World { forge, server, directory }
    }

    async fn serve(forge: &Forge, directory: &Directory, effects: &str) -> Running {
        let settings = World::settings(forge, directory, effects);
        Running::with(directory, &["--settings", &settings]).await
    }

    fn settings(forge: &Forge, directory: &Directory, effects: &str) -> String {
        let path = directory.0.join("settings.yaml");
        let token = directory.0.join("token");
        let github = json!({ "api": forge.url, "token_file": token, "writes_per_second": 1000 });
        let github = if effects.contains("github_app") {
            json!({ "api": forge.url, "writes_per_second": 1000 })
        } else {
            github
        };
        std::fs::write(&path, format!("github: {github}\n{effects}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// An event about a repository, and the result that a general gives for it.
    async fn work(
        &self,
        agent: &mut Agent,
        id: &str,
        repository: &str,
        effects: Vec<delivery::Effect>,
    ) -> agent::Assign {
        self.server.publish(about(id, repository)).await.unwrap();
        let assign = agent.assignment().await;
        // As the SDK names what has no key.
        let named = |(effect, at): (delivery::Effect, usize)| delivery::Effect {
            key: format!("{}/{at}", assign.delivery_id),
            ..effect
        };
        let effects: Vec<_> = effects.into_iter().zip(0..).map(named).collect();
        let count = effects.len();
        let result = agent::Result {
            delivery_id: assign.delivery_id.clone(),
            token: assign.token,
            outcome: Some(agent::result::Outcome::Succeeded(delivery::Succeeded {})),
            effects,
            ..Default::default()
        };
        agent.say(Up::Result(result)).await;
        assert_eq!(agent.settled().await.effect_ids.len(), count);
        assign
    }

    /// Records of effects, as the ledger shows them, once one of them says so.
    async fn record(&self, says: &str) -> String {
        let mut ledger = LedgerServiceClient::new(self.server.channel().await);
        let began = Instant::now();
        loop {
            let request = TailRequest { from_seq: 1, follow: false, ..Default::default() };
            let mut tail = ledger.tail(request).await.unwrap().into_inner();
            let mut shown = Vec::new();
            while let Some(record) = tail.message().await.unwrap() {
                let text = format!("{record:?}");
                if text.contains("Effect") {
                    shown.push(text);
                }
            }
            if let Some(text) = shown.iter().rev().find(|text| text.contains(says)) {
                return text.clone();
            }
            assert!(began.elapsed() < PATIENCE, "no record says {says}: {shown:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn about(id: &str, repository: &str) -> CloudEvent {
    let value = CloudEventAttributeValue { attr: Some(Attr::CeString(repository.to_owned())) };
    CloudEvent { attributes: [("repository".to_owned(), value)].into(), ..event(id, "{}") }
}

fn effect(kind: &str, target: &str, parameters: Value) -> delivery::Effect {
    delivery::Effect {
        kind: kind.to_owned(),
        target: target.to_owned(),
        parameters_json: parameters.to_string(),
        ..Default::default()
    }
}

/// Waits for something to be so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_result_becomes_a_branch_a_pull_request_and_a_comment_that_names_it() {
    let world = World::start("").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    // The first write fails for a passing reason, and what comes after it waits.
    world.forge.fault("POST /repos/octo/hello/git/commits", Fault::Refused(500, vec![], json!({ "message": "oops" })));
    let files = json!([{ "path": "fix.txt", "content": "fixed" }]);
    let effects = vec![
        effect("branch", "octo/hello", json!({ "branch": "fix/1", "message": "fix", "files": files })),
        effect(
            "pull_request",
            "octo/hello",
            json!({ "head": "fix/1", "title": "Fix #1", "body": "at ${effects.0.sha}" }),
        ),
        effect("comment", "octo/hello#1", json!({ "body": "see ${effects.1.url}" })),
        effect("labels", "octo/hello#${effects.1.number}", json!({ "add": ["fix"] })),
    ];
    world.work(&mut agent, "e1", "octo/hello", effects).await;
    until("the pull request has its label", || {
        world.forge.state().issues.values().any(|issue| issue.labels.contains("fix"))
    })
    .await;
    {
        let state = world.forge.state();
        let (number, pull) = state.issues.iter().find(|(_, issue)| issue.user == OWN).unwrap();
        assert!(
            pull.labels.contains("fix") && pull.body.ends_with(&format!("at {}", state.refs["heads/fix/1"])),
            "{pull:?}"
        );
        let comment = state.issues[&1].comments[0]["body"].as_str().unwrap();
        assert!(comment.ends_with(&format!("see https://forge/{number}")), "{comment}");
        let order: Vec<_> = state.writes.iter().filter(|write| !write.contains("git/")).map(String::as_str).collect();
        let labels = format!("POST /repos/octo/hello/issues/{number}/labels");
        assert_eq!(
            order,
            [
                "POST /repos/octo/hello/pulls",
                "POST /repos/octo/hello/issues/1/comments",
                "POST /repos/octo/hello/labels",
                &labels
            ]
        );
    }
    assert_eq!(world.forge.log("fix/1"), ["fix", "first"]);
    world.server.stop().await;
}

#[tokio::test]
async fn many_results_of_one_general_come_to_one_comment_over_a_restart() {
    let World { forge, server, directory } = World::start("").await;
    let world = World { forge, server, directory };
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    for push in 1..=5 {
        let effects = vec![effect("comment", "octo/hello#2", json!({ "body": format!("push {push}") }))];
        world.work(&mut agent, &format!("e{push}"), "octo/hello", effects).await;
    }
    until("the last push is told", || world.forge.comments(2).first().is_some_and(|body| body.ends_with("push 5")))
        .await;
    drop(agent);
    let World { forge, server, directory } = world;
    server.stop().await;
    let writes = forge.writes();
    let server = World::serve(&forge, &directory, "").await;
    let world = World { forge, server, directory };
    let mut agent = Agent::ready(&world.server, "b2", 1).await;
    let effects = vec![effect("comment", "octo/hello#2", json!({ "body": "push 6" }))];
    world.work(&mut agent, "e6", "octo/hello", effects).await;
    until("the next push is told", || world.forge.comments(2)[0].ends_with("push 6")).await;
    assert_eq!((world.forge.comments(2).len(), world.forge.writes()), (1, writes + 1));
    world.server.stop().await;
}

#[tokio::test]
async fn a_limit_is_waited_for_and_costs_no_try() {
    let world = World::start("").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    for _ in 0..10 {
        let limited =
            Fault::Refused(403, vec![("retry-after", "0.05".to_owned())], json!({ "message": "secondary rate limit" }));
        world.forge.fault("POST /repos/octo/hello/issues/1/comments", limited);
    }
    world.work(&mut agent, "e1", "octo/hello", vec![effect("comment", "octo/hello#1", json!({ "body": "x" }))]).await;
    until("it is written", || world.forge.comments(1).len() == 1).await;
    world.server.stop().await;
}

#[tokio::test]
async fn an_effect_goes_to_the_repository_of_its_event_and_nowhere_else() {
    let world = World::start("").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    let comment = || vec![effect("comment", "octo/hello#1", json!({ "body": "x" }))];
    world.work(&mut agent, "e1", "octo/other", comment()).await;
    world.record("the event is about octo/other, not octo/hello").await;
    assert_eq!(world.forge.state().requests.iter().filter(|request| !request.contains("/user")).count(), 0);
    world.work(&mut agent, "e2", "Octo/Hello", vec![effect("comment", "octo/hello#2", json!({ "body": "x" }))]).await;
    until("it is written", || world.forge.comments(2).len() == 1).await;
    world.work(&mut agent, "e3", "octo/hello", vec![effect("merge", "octo/hello#2", json!({}))]).await;
    world.record("kind: is not known: expected one of comment").await;
    world.server.stop().await;
}

#[tokio::test]
async fn a_tenant_touches_its_own_repositories_only() {
    let world = World::start("").await;
    let path = World::settings(&world.forge, &world.directory, "");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"writes_per_second\"", "\"tenants\": {\"acme\": [\"*\"]}, \"writes_per_second\"");
    let World { forge, server, directory } = world;
    server.stop().await;
    std::fs::write(&path, text).unwrap();
    let server = Running::with(&directory, &["--settings", &path]).await;
    let world = World { forge, server, directory };
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    world.work(&mut agent, "e1", "octo/hello", vec![effect("comment", "octo/hello#1", json!({ "body": "x" }))]).await;
    world.record("tenant default may not touch octo/hello").await;
    assert!(world.forge.comments(1).is_empty());
    world.server.stop().await;
}

#[tokio::test]
async fn a_dry_run_is_recorded_and_writes_nothing() {
    let world = World::start("effects: {mode: dry_run}").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    let effects = vec![
        effect("issue", "octo/hello", json!({ "title": "t" })),
        effect("labels", "octo/hello#${effects.0.number}", json!({ "add": ["x"] })),
    ];
    world.work(&mut agent, "e1", "octo/hello", effects).await;
    world.record("octo/hello#${effects.0.number}").await;
    assert_eq!(world.forge.writes(), 0);
    world.server.stop().await;
}

#[tokio::test]
async fn while_effects_are_off_they_wait_and_say_so() {
    let world = World::start("effects: {mode: off}").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    world.work(&mut agent, "e2", "octo/hello", vec![effect("comment", "octo/hello#1", json!({ "body": "x" }))]).await;
    let mut effects = EffectServiceClient::new(world.server.channel().await);
    let shown = effects.list_effects(ListEffectsRequest::default()).await.unwrap().into_inner().effects;
    assert!(shown[0].due && shown[0].message.starts_with("effects are off: expected"), "{shown:?}");
    World::settings(&world.forge, &world.directory, "effects: {mode: live}");
    until("it is written", || world.forge.comments(1).len() == 1).await;
    world.server.stop().await;
}

#[tokio::test]
async fn files_may_lie_in_the_blob_store_of_the_tenant() {
    let world = World::start("").await;
    let mut agent = Agent::ready(&world.server, "b1", 1).await;
    let mut blobs = BlobServiceClient::new(world.server.channel().await);
    let put = async |blobs: &mut BlobServiceClient<Channel>, text: String| {
        let header = PutHeader { length: text.len() as u64, ..Default::default() };
        let parts = [Part::Header(header), Part::Chunk(text.into())].map(|part| PutRequest { part: Some(part) });
        blobs.put(tokio_stream::iter(parts)).await.unwrap().into_inner().r#ref
    };
    let large = "x".repeat(100_000);
    let files = put(&mut blobs, json!([{ "path": "large.txt", "content": large }]).to_string()).await;
    let branch = |name: &str, files: &str| {
        vec![effect("branch", "octo/hello", json!({ "branch": name, "message": "m", "files_ref": files }))]
    };
    world.work(&mut agent, "e1", "octo/hello", branch("large", &files)).await;
    until("the branch is there", || world.forge.state().refs.contains_key("heads/large")).await;
    assert_eq!(world.forge.file("large", "large.txt").map(|text| text.len()), Some(100_000));
    for (at, (files, says)) in [
        (format!("blob:sha256:{}", "0".repeat(64)), "files_ref: names no blob of the tenant"),
        ("blob:x".to_owned(), "files_ref: expected `blob:sha256:`"),
        (put(&mut blobs, "{}".to_owned()).await, "files_ref: expected a blob that holds a list"),
    ]
    .into_iter()
    .enumerate()
    {
        world.work(&mut agent, &format!("f{at}"), "octo/hello", branch("none", &files)).await;
        world.record(says).await;
        // A failed one holds up its target, so it is cancelled.
        let mut effects = EffectServiceClient::new(world.server.channel().await);
        let failed = effects.list_effects(ListEffectsRequest::default()).await.unwrap().into_inner().effects;
        let effect_id = failed[0].effect_id.clone();
        effects.cancel_effect(CancelEffectRequest { effect_id }).await.unwrap();
    }
    world.server.stop().await;
}

async fn access(
    server: &Running,
    assign: &agent::Assign,
    repository: &str,
) -> Result<agent::GetRepositoryAccessResponse, Status> {
    let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let (delivery_id, token) = (assign.delivery_id.clone(), assign.token);
    let request = agent::GetRepositoryAccessRequest { delivery_id, token, repository: repository.to_owned() };
    Ok(RepositoryServiceClient::new(channel).get_repository_access(request).await?.into_inner())
}

#[tokio::test]
async fn who_holds_a_lease_reads_the_repository_of_its_event_until_the_lease_ends() {
    let app = format!("github_app: {{id: 7, private_key_file: {KEY:?}, every: 1h}}");
    let world = World::start(&app).await;
    let server = &world.server;
    let mut agent = Agent::ready(server, "b1", 1).await;
    server.publish(about("e1", "octo/hello")).await.unwrap();
    let assign = agent.assignment().await;
    let first = access(server, &assign, "").await.unwrap();
    assert_eq!(
        (first.repository.as_str(), first.author.as_str(), first.clone_url.as_str()),
        ("octo/hello", OWN, "https://forge/octo/hello.git")
    );
    assert!(first.api_url == world.forge.url && first.expires_at.is_some());
    assert_eq!(access(server, &assign, "Octo/Hello").await.unwrap().token, first.token, "asked again, the same");
    let asked = world.forge.state().tokens[&first.token].clone();
    assert!(asked["permissions"].as_object().unwrap().values().all(|level| level == "read"), "{asked}");

    let code = |result: Result<agent::GetRepositoryAccessResponse, Status>| result.unwrap_err().code();
    assert_eq!(code(access(server, &assign, "octo/other").await), Code::PermissionDenied);
    let mut stale = assign.clone();
    stale.token.as_mut().unwrap().term += 1;
    assert_eq!(code(access(server, &stale, "").await), Code::PermissionDenied);
    stale.delivery_id = "d999.1".to_owned();
    assert_eq!(code(access(server, &stale, "").await), Code::NotFound);

    agent.succeed(&assign, "done").await;
    agent.settled().await;
    until("the token is revoked", || world.forge.state().revoked.contains(&first.token)).await;
    assert!(matches!(code(access(server, &assign, "").await), Code::PermissionDenied | Code::NotFound));

    // An event about no repository gives access to none.
    server.publish(event("e2", "{}")).await.unwrap();
    let assign = agent.assignment().await;
    assert_eq!(code(access(server, &assign, "").await), Code::FailedPrecondition);
    assert_eq!(code(access(server, &assign, "octo/hello").await), Code::FailedPrecondition);
    world.server.stop().await;
}
