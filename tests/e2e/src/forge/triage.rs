//! An issue is opened: it is triaged and prioritised, by labels that the broker puts on once and one comment of each general.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::reviews::{events, sticky};
use super::team::{Team, repository};
use super::{OWNER, plan};

/// Generals that look at an issue.
pub const SORTERS: [&str; 2] = ["priority-general", "triage-general"];
/// What they say of it, as labels.
const LABELS: [&str; 2] = ["bug", "priority: high"];

async fn labels(team: &Team, name: &str, issue: u64) -> Result<BTreeSet<String>> {
    let found = team.forge.list(&format!("{}/issues/{issue}/labels", repository(name))).await?;
    found.iter().map(|one| Ok(one["name"].as_str().context("a label has a name")?.to_owned())).collect()
}

/// How often the broker put labels on an issue, and how often it took one off.
async fn changes(team: &Team, name: &str, issue: u64) -> Result<(usize, usize)> {
    let path = format!("{}/issues/{issue}/labels", repository(name));
    let log = team.forge.log().await?;
    let count = |method: &str| {
        let is = |one: &&Value| {
            let at = one["path"].as_str().unwrap_or_default();
            one["method"] == method
                && at.starts_with(&path)
                && one["status"].as_u64().is_some_and(|status| status < 300)
        };
        log.iter().filter(is).count()
    };
    Ok((count("POST"), count("DELETE")))
}

/// Runs the flow; returns what there is to say.
///
/// # Errors
/// When a promise is broken.
pub async fn run(team: &Team, name: &str) -> Result<Value> {
    team.forge.repository(&format!("{OWNER}/{name}")).await?;
    let before = events(team).await?;
    let issue = plan::open(team, name, "A loan given back on Sunday is fined").await?;
    team.forge.look("settled").await?;
    team.rest(before + 1).await?;
    let wanted: BTreeSet<String> = LABELS.iter().map(|label| (*label).to_owned()).collect();
    let found = team
        .stays(async || {
            let found = labels(team, name, issue).await?;
            ensure!(found == wanted, "labels of #{issue}: {found:?}, not {wanted:?}");
            let comments = sticky(team, name, issue).await?;
            ensure!(comments.keys().eq(SORTERS.iter()), "comments of {:?} on #{issue}", comments.keys());
            Ok(comments)
        })
        .await?;
    let puts = changes(team, name, issue).await?;
    ensure!(puts == (2, 0), "labels were put on {} times and taken off {} times", puts.0, puts.1);

    // A person adds one, which sets both off again: what stands stays as it is, and the person's stays too.
    let known = events(team).await?;
    let path = format!("{}/issues/{issue}/labels", repository(name));
    team.forge.by(OWNER, "POST", &path, json!({"labels": ["question"]})).await?;
    team.forge.look("settled").await?;
    team.rest(known + 1).await?;
    team.forge.look("settled").await?;
    team.rest(known + 1).await?;
    let (after, again) = (labels(team, name, issue).await?, sticky(team, name, issue).await?);
    let mut kept = wanted.clone();
    kept.insert("question".to_owned());
    ensure!(after == kept, "labels of #{issue} after another: {after:?}");
    let same = found.iter().all(|(general, comment)| again.get(general).is_some_and(|now| now["id"] == comment["id"]));
    ensure!(same && again.len() == found.len(), "comments after another label: {:?}", again.keys());
    let puts = changes(team, name, issue).await?;
    ensure!(puts == (2, 0), "labels were put on {} times and taken off {} times", puts.0, puts.1);
    Ok(
        json!({"labels": wanted, "times_put_on": puts.0, "taken_off": puts.1, "comments": again.len(), "after_another_label": kept}),
    )
}
