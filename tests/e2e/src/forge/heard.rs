//! What people make of a review: reactions to its comments on lines and to the general's own comment, and a thread that is resolved, come back as
//! feedback. Who is asked again and again answers 304, which takes nothing of GitHub's limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_proto::route::v1::ScorecardsRequest;
use mindos_proto::route::v1::route_service_client::RouteServiceClient;
use serde_json::{Value, json};

use super::reviews::{open, sticky};
use super::team::{General, REST_MAX, Setup, Team, repository};
use super::{BOT, OWNER};

/// Answers that nothing has changed which are waited for.
const SAME: usize = 12;
const REVIEWER: &str = "code-review-general";

/// What was asked about reactions: all of it, and those requests that were answered 304.
async fn polls(team: &Team, after: usize) -> Result<(usize, usize)> {
    let log = team.forge.log().await?;
    let is_poll = |one: &&Value| {
        let path = one["path"].as_str().unwrap_or_default();
        let of_review = path.contains("/reviews/") && path.ends_with("/comments");
        one["method"] == "GET" && (path.ends_with("/reactions") && path.contains("/comments/") || of_review)
    };
    let polls: Vec<&Value> = log.iter().skip(after).filter(is_poll).collect();
    Ok((polls.len(), polls.iter().filter(|one| one["status"] == 304).count()))
}

/// Waits for this many more answers of 304; returns what was asked meanwhile, and where the log stood.
async fn quiet(team: &Team) -> Result<(usize, (usize, usize))> {
    let (from, begun) = (team.forge.log().await?.len(), Instant::now());
    loop {
        let (asked, same) = polls(team, from).await?;
        if same >= SAME {
            return Ok((from, (asked, same)));
        }
        ensure!(begun.elapsed() < REST_MAX, "of {asked} requests {same} were answered 304\n{}", team.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Requests that were counted against the hour, of installations.
async fn used(team: &Team) -> Result<u64> {
    let used = team.forge.look("used").await?;
    let counts = used.as_object().context("counts by who asks")?;
    Ok(counts.iter().filter(|(who, _)| who.starts_with("installation")).filter_map(|(_, used)| used.as_u64()).sum())
}

/// What was published of our work: types of events by their ids.
fn said(team: &Team) -> Result<BTreeMap<String, String>> {
    let mut said = BTreeMap::new();
    for line in team.export()?.lines() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        let event = &record["entry"]["event_accepted"];
        if event["source"] == "/github/feedback" {
            let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            ensure!(said.insert(word("id"), word("type")).is_none(), "{} was published twice", event["id"]);
        }
    }
    Ok(said)
}

async fn react(team: &Team, login: &str, path: &str, content: &str) -> Result<u64> {
    let path = format!("{}{path}/reactions", repository("heard"));
    let made = team.forge.by(login, "POST", &path, json!({"content": content})).await?;
    made["id"].as_u64().context("a reaction has a number")
}

/// Runs it.
///
/// # Errors
/// When a promise is broken.
pub async fn run(scale: u32) -> Result<Value> {
    let settings = "feedback: {every: 200ms, pace: 20ms}\n";
    let mut team = Team::start(&Setup { name: "heard", scale, settings }).await?;
    team.general(&General::stream(REVIEWER)).await?;
    team.forge.repository(&format!("{OWNER}/heard")).await?;
    let number = open(&team, "heard", "Whole weeks cost half").await?;
    team.forge.look("settled").await?;
    team.rest(1).await?;
    let own = sticky(&team, "heard", number).await?[REVIEWER]["id"].as_u64().context("a comment has a number")?;
    let at = format!("{}/pulls/{number}", repository("heard"));
    let reviews = team.forge.list(&format!("{at}/reviews")).await?;
    let review = reviews.iter().find(|one| one["user"]["login"] == BOT).context("the general reviews")?;
    let lines = team.forge.list(&format!("{at}/reviews/{}/comments", review["id"])).await?;
    let line = lines.first().and_then(|one| one["id"].as_u64()).context("the review has a comment on a line")?;

    // Nobody has said anything: after the first round all is as it was.
    quiet(&team).await?;
    let liked = react(&team, "bob", &format!("/pulls/comments/{line}"), "+1").await?;
    react(&team, OWNER, &format!("/pulls/comments/{line}"), "eyes").await?;
    let doubted = react(&team, "bob", &format!("/issues/comments/{own}"), "confused").await?;
    let words = [
        (format!("review-comment/{line}/reaction/{liked}"), "dev.mindos.feedback.accepted"),
        (format!("comment/{own}/reaction/{doubted}"), "dev.mindos.feedback.dismissed"),
    ];
    let wanted: BTreeMap<String, String> = words.iter().map(|(id, ty)| (id.clone(), (*ty).to_owned())).collect();
    team.stays(async || {
        let said = said(&team)?;
        ensure!(said == wanted, "said is {said:?}, expected {wanted:?}");
        Ok(())
    })
    .await?;
    let resolved = json!({"login": OWNER, "repository": format!("{OWNER}/heard"), "comment": line});
    team.forge.admin("resolve", resolved).await?;
    let card = team
        .stays(async || {
            let mut routes = RouteServiceClient::new(team.world.channel()?);
            let request = ScorecardsRequest { route: "pr-created".to_owned(), ..ScorecardsRequest::default() };
            let cards = routes.scorecards(request).await.context("no scorecards")?.into_inner().cards;
            let card = cards.into_iter().next().context("no card of the reviewer")?;
            let (counts, said) = ((card.accepted, card.dismissed, card.reverted), said(&team)?);
            // Of one voice about one delivery the last word counts: that of the thread.
            ensure!(counts == (1, 0, 0) && said.len() == 3, "counted are {counts:?}, said is {said:?}");
            Ok(card)
        })
        .await?;

    // Asked on and on: nothing is read anew, and nothing is counted but what is.
    quiet(&team).await?;
    let before = used(&team).await?;
    let (from, (asked, same)) = quiet(&team).await?;
    let counted = used(&team).await? - before;
    ensure!(asked == same, "of {asked} requests {same} were answered 304");
    let log = team.forge.log().await?;
    let others = log.iter().skip(from).filter(|one| one["status"] != 304);
    let others = others.filter(|one| one["by"].as_str().is_some_and(|by| by.starts_with("installation"))).count();
    // What came between the look at the counts and that at the log may be one of the two.
    ensure!(counted <= others as u64 + 1, "{counted} requests were counted, {others} were not answered 304");
    let account = team.account().await?;
    ensure!(said(&team)?.len() == 3 && account.accepted_twice() == 0, "words were published twice");
    team.nothing_refused().await?;
    Ok(json!({
        "reactions_heard": words.len(), "threads_heard": 1, "accepted_in_the_end": card.accepted,
        "asked_while_nothing_changed": asked, "answered_304": same, "counted_against_the_limit": counted,
    }))
}
