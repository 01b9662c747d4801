//! Reviews: a pull request is opened, three generals look at it, and five pushes later there is still one comment of each, edited.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::team::{Team, repository};
use super::{BOT, OWNER};

/// Generals that look at a pull request.
pub const REVIEWERS: [&str; 3] = ["architecture-general", "security-general", "code-review-general"];
/// Pushes after the first.
const PUSHES: u32 = 5;

/// The change that is proposed: a book costs less where it is late for a week, with a defect.
fn change(step: u32) -> Value {
    let fines = format!(
        "\"\"\"Fines: 20 cents a day, at most 10.00 a book. Money is in cents.\"\"\"\n\nA_DAY = 20\nBOOK_MAX = 1000\nWEEK = {}\n\n\n\
         def fine(loan, today):\n    days = loan.days_late(today)\n    if days % WEEK == 0:\n        return days * A_DAY * 0.5\n    \
         return min(days * A_DAY, BOOK_MAX)\n\n\ndef as_text(cents):\n    return f\"{{cents // 100}}.{{cents % 100:02}}\"\n",
        7 + step
    );
    json!({"shelf/fines.py": fines, format!("docs/step-{step}.md"): format!("# Step {step}\n")})
}

/// Comments of the bot on an issue or pull request, by the general in their mark.
///
/// # Errors
/// When one has no mark, or two have the same.
pub async fn sticky(team: &Team, name: &str, number: u64) -> Result<std::collections::BTreeMap<String, Value>> {
    let mut found = std::collections::BTreeMap::new();
    for comment in team.forge.list(&format!("{}/issues/{number}/comments", repository(name))).await? {
        if comment["user"]["login"] != BOT {
            continue;
        }
        let body = comment["body"].as_str().unwrap_or_default();
        let marked = body.split_once("<!-- mindos:general=").and_then(|(_, rest)| rest.split_whitespace().next());
        let general = marked.with_context(|| format!("a comment without a mark: {body}"))?.to_owned();
        ensure!(found.insert(general.clone(), comment.clone()).is_none(), "two comments of {general} on #{number}");
    }
    Ok(found)
}

/// Opens a pull request as a person; returns its number.
///
/// # Errors
/// When the forge refuses.
pub async fn open(team: &Team, name: &str, title: &str) -> Result<u64> {
    let full = format!("{OWNER}/{name}");
    team.forge.push("bob", &full, "feature/weeks", change(0), "fines: whole weeks cost half").await?;
    let body = json!({"title": title, "head": "feature/weeks", "base": "main", "body": "Who is late for whole weeks pays half. Asked for at the desk."});
    let made = team.forge.by("bob", "POST", &format!("{}/pulls", repository(name)), body).await?;
    made["number"].as_u64().context("a pull request has a number")
}

/// Runs the flow; returns what there is to say.
///
/// # Errors
/// When a promise is broken.
pub async fn run(team: &Team, name: &str) -> Result<Value> {
    let full = format!("{OWNER}/{name}");
    team.forge.repository(&full).await?;
    let before = events(team).await?;
    let number = open(team, name, "Whole weeks cost half").await?;
    team.forge.look("settled").await?;
    team.rest(before + 1).await?;
    let first = sticky(team, name, number).await?;
    ensure!(
        first.keys().eq(["architecture-general", "code-review-general", "security-general"].iter()),
        "comments of {:?}\n{}",
        first.keys(),
        team.logs()
    );
    for step in 1..=PUSHES {
        let known = events(team).await?;
        team.forge.push("bob", &full, "feature/weeks", change(step), &format!("fines: step {step}")).await?;
        team.forge.look("settled").await?;
        team.rest(known + 1).await?;
    }
    let last = sticky(team, name, number).await?;
    ensure!(last.len() == first.len(), "{} comments after {PUSHES} pushes", last.len());
    let mut edited = 0;
    for (general, comment) in &last {
        ensure!(comment["id"] == first[general]["id"], "{general} wrote another comment");
        edited += u64::from(comment["body"] != first[general]["body"]);
    }
    ensure!(edited == 3, "{edited} of 3 comments were edited; the log ends {}", team.logs());
    Ok(json!({"comments": last.len(), "pushes": PUSHES, "edited": edited}))
}

/// Events accepted so far.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn events(team: &Team) -> Result<usize> {
    Ok(team.account().await?.events.len())
}
