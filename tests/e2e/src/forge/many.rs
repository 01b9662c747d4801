//! Five hundred intents at once: all are carried out, once, at a pace that the forge never refuses. Then the control plane is killed, and fifty more
//! come within the same hour of the forge: what was written before the restart counts.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mindos_proto::route::v1::{Route, RouteTargets, Strategy};
use mindos_sdk::{Effect, Failure, General, Options, Output, Work, general_config, serve};
use serde_json::{Value, json};

use super::team::{Team, repository};
use super::{BOT, OWNER};
use crate::client;

/// Intents in all, and results that they come in.
const INTENTS: u64 = 500;
const RESULTS: u64 = 10;
/// Issues that they are for.
const ISSUES: u64 = 50;

/// A general that wants many things.
struct Wishes {
    repository: String,
}

impl General for Wishes {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let number: u64 = work.event.id().parse().map_err(|_| Failure::poison("an event of the test has a number"))?;
        let each = INTENTS / RESULTS;
        let effects = (0..each).map(|at| {
            let which = number * each + at;
            let parameters = json!({"body": format!("Wish {which}."), "sticky": false});
            Effect {
                key: format!("wish/{which}"),
                kind: "comment".into(),
                target: format!("{}#{}", self.repository, which % ISSUES + 1),
                parameters: parameters.to_string().into(),
            }
        });
        Ok(Output { effects: effects.collect(), ..Output::text("wished") })
    }
}

/// Asks for the wishes of these results.
async fn wish(team: &Team, full: &str, results: std::ops::Range<u64>) -> Result<()> {
    for number in results {
        let mut event = client::event("/wishes", &number.to_string(), "wish", &format!("wish-{number}"));
        let text =
            mindos_proto::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr::CeString(full.to_owned());
        let value = mindos_proto::cloudevents::v1::cloud_event::CloudEventAttributeValue { attr: Some(text) };
        event.attributes.insert("repository".to_owned(), value);
        client::publish(&team.world.channel()?, event, Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// Starts the general that wishes.
fn wisher(team: &Team, full: &str) -> Result<tokio::task::JoinHandle<()>> {
    let options = Options::new(format!("http://{}", team.world.agents()), "east", "wishes-0")?;
    let (wishes, config) = (Wishes { repository: full.to_owned() }, general_config("wishes", 10)?);
    Ok(tokio::spawn(async move {
        let _ = serve(wishes, config, options, std::future::pending::<()>()).await;
    }))
}

/// That this many wishes were carried out, each once.
async fn carried_out(team: &Team, name: &str, wanted: u64) -> Result<()> {
    let mut wishes = std::collections::BTreeMap::<String, u64>::new();
    for number in 1..=ISSUES {
        for comment in team.forge.list(&format!("{}/issues/{number}/comments", repository(name))).await? {
            let body = comment["body"].as_str().unwrap_or_default();
            let wish = body.lines().find(|line| line.starts_with("Wish "));
            if let Some(wish) = wish.filter(|_| comment["user"]["login"] == BOT) {
                *wishes.entry(wish.to_owned()).or_default() += 1;
            }
        }
    }
    let twice = wishes.values().filter(|count| **count > 1).count();
    ensure!(
        wishes.len() == usize::try_from(wanted)? && twice == 0,
        "{} of {wanted} were carried out, {twice} twice",
        wishes.len()
    );
    team.nothing_refused().await
}

/// Runs it; `scale` is how many times faster than GitHub's the limits pass.
///
/// # Errors
/// When an intent is missing, there twice, or was refused on its way.
pub async fn run(team: &mut Team, name: &str, scale: u32) -> Result<Value> {
    let (full, channel) = (format!("{OWNER}/{name}"), team.world.channel()?);
    team.forge.repository(&full).await?;
    for number in 0..ISSUES {
        team.forge
            .by("bob", "POST", &format!("{}/issues", repository(name)), json!({"title": format!("Issue {number}")}))
            .await?;
    }
    team.forge.look("settled").await?;
    let route = Route {
        name: "wishes".to_owned(),
        r#match: Some(mindos_proto::route::v1::RouteMatch { kinds: vec!["wish".to_owned()], ..Default::default() }),
        targets: Some(RouteTargets { types: vec!["wishes".to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::RoundRobin.into(),
        ..Route::default()
    };
    client::apply(&channel, super::team::routes(&[route])).await?;
    let general = wisher(team, &full)?;
    let begun = Instant::now();
    let before = super::reviews::events(team).await?;
    wish(team, &full, 0..RESULTS).await?;
    team.rest(before + usize::try_from(RESULTS)?).await?;
    let took = begun.elapsed();
    general.abort();
    carried_out(team, name, INTENTS).await?;
    let written = team.forge.log().await?.iter().filter(|one| one["content"] == true).count();

    // As much as may be written in an hour is; who forgot that would be refused.
    team.world.take_plane()?.kill()?;
    team.world.start_plane().await?;
    let general = wisher(team, &full)?;
    wish(team, &full, RESULTS..RESULTS + 1).await?;
    team.rest(before + usize::try_from(RESULTS)? + 1).await?;
    general.abort();
    let all = INTENTS + INTENTS / RESULTS;
    carried_out(team, name, all).await?;
    let window = Duration::from_secs(3600) / scale;
    ensure!(begun.elapsed() >= window, "more than may be written in {window:?} were in {:?}", begun.elapsed());
    let peaks = team.forge.look("peaks").await?;
    let content = team.forge.log().await?.iter().filter(|one| one["content"] == true).count();
    Ok(json!({
        "intents": INTENTS, "executed": INTENTS, "twice": 0, "refusals": 0, "scale": scale, "seconds": took.as_secs_f64(),
        "content_writes_before_the_restart": written, "executed_after_it": all - INTENTS, "seconds_in_all": begun.elapsed().as_secs_f64(),
        "content_writes": content, "most_in_a_scaled_minute": peaks["content_minute"], "most_in_a_scaled_hour": peaks["content_hour"],
    }))
}
