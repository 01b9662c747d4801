//! From an issue to code: a label asks for a plan, `/approve` for its implementation, `/refine` for a change of it; a quick fix does without a plan.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::team::{Team, repository};
use super::{BOT, OWNER};

/// Headings that a plan has.
pub const HEADINGS: [&str; 5] =
    ["Summary", "Files to Modify", "Implementation Steps", "Potential Risks", "Testing Strategy"];

/// What stands at the forge for one issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// Branches of the agent.
    pub branches: Vec<String>,
    /// Pull requests, with number, draft, title.
    pub pulls: Vec<(u64, bool, String)>,
    /// Labels of the first.
    pub labels: Vec<String>,
    /// Comments of the bot on the issue.
    pub comments: usize,
    /// Commits of the pull request.
    pub commits: usize,
}

/// Looks at what stands for an issue.
///
/// # Errors
/// When the forge does not answer.
pub async fn stands(team: &Team, name: &str, issue: u64) -> Result<Stands> {
    let (at, forge) = (repository(name), &team.forge);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ends = format!("issue-{issue}");
    let branches = forge
        .list(&format!("{at}/branches"))
        .await?
        .iter()
        .map(|one| word(&one["name"]))
        .filter(|name| name.ends_with(&ends))
        .collect();
    let pulls: Vec<Value> = forge
        .list(&format!("{at}/pulls?state=all"))
        .await?
        .into_iter()
        .filter(|one| word(&one["head"]["ref"]).ends_with(&ends))
        .collect();
    let (mut labels, mut commits) = (Vec::new(), 0);
    if let Some(number) = pulls.first().and_then(|one| one["number"].as_u64()) {
        labels =
            forge.list(&format!("{at}/issues/{number}/labels")).await?.iter().map(|one| word(&one["name"])).collect();
        labels.sort();
        commits = forge.list(&format!("{at}/pulls/{number}/commits")).await?.len();
    }
    let comments = forge.list(&format!("{at}/issues/{issue}/comments")).await?;
    Ok(Stands {
        branches,
        pulls: pulls
            .iter()
            .map(|one| (one["number"].as_u64().unwrap_or(0), one["draft"] == true, word(&one["title"])))
            .collect(),
        labels,
        comments: comments.iter().filter(|one| one["user"]["login"] == BOT).count(),
        commits,
    })
}

/// Opens an issue as a person; returns its number.
///
/// # Errors
/// When the forge refuses.
pub async fn open(team: &Team, name: &str, title: &str) -> Result<u64> {
    let body = json!({"title": title, "body": "A loan that is given back on Sunday is counted late, though the desk is closed. `fine` in `shelf/fines.py` should not count Sundays."});
    let made = team.forge.by("bob", "POST", &format!("{}/issues", repository(name)), body).await?;
    made["number"].as_u64().context("an issue has a number")
}

/// Asks for a plan of an issue by its label.
///
/// # Errors
/// When the forge refuses.
pub async fn label(team: &Team, name: &str, issue: u64) -> Result<()> {
    team.forge
        .by(OWNER, "POST", &format!("{}/issues/{issue}/labels", repository(name)), json!({"labels": ["ai-help"]}))
        .await?;
    team.forge.look("settled").await?;
    Ok(())
}

/// That a plan stands for an issue, once: one branch, one draft pull request with its labels, one comment.
///
/// # Errors
/// Naming what is missing or too much.
pub async fn planned_once(team: &Team, name: &str, issue: u64, title: &str) -> Result<u64> {
    let found = stands(team, name, issue).await?;
    let number = found.pulls.first().map_or(0, |pull| pull.0);
    let wanted = Stands {
        branches: vec![format!("ai-agent/issue-{issue}")],
        pulls: vec![(number, true, format!("[AI Agent] Fix issue #{issue}: {title}"))],
        labels: vec!["ai-agent".to_owned(), "plan-pending".to_owned()],
        comments: 1,
        commits: 1,
    };
    ensure!(found == wanted, "for #{issue} there is {found:?}, not {wanted:?}");
    Ok(number)
}

async fn comment(team: &Team, name: &str, number: u64, body: &str) -> Result<u64> {
    let path = format!("{}/issues/{number}/comments", repository(name));
    let made = team.forge.by(OWNER, "POST", &path, json!({"body": body})).await?;
    team.forge.look("settled").await?;
    made["id"].as_u64().context("a comment has a number")
}

async fn reactions(team: &Team, name: &str, comment: u64) -> Result<Vec<String>> {
    let given = team.forge.list(&format!("{}/issues/comments/{comment}/reactions", repository(name))).await?;
    let mut given: Vec<String> =
        given.iter().map(|one| one["content"].as_str().unwrap_or_default().to_owned()).collect();
    given.sort();
    Ok(given)
}

/// Runs the flow from the label to the refinement.
///
/// # Errors
/// When a promise is broken.
pub async fn run(team: &Team, name: &str) -> Result<Value> {
    let (at, forge) = (repository(name), &team.forge);
    forge.repository(&format!("{OWNER}/{name}")).await?;
    let title = "Sundays count as late days";
    let issue = open(team, name, title).await?;
    label(team, name, issue).await?;
    let pull = team.stays(async || planned_once(team, name, issue, title).await).await?;
    let whole = forge.get(&format!("{at}/pulls/{pull}")).await?;
    let body = whole["body"].as_str().unwrap_or_default();
    for heading in HEADINGS {
        ensure!(
            body.lines().any(|line| line.trim_start_matches('#').trim() == heading && line.starts_with('#')),
            "no heading {heading}: {body}"
        );
    }
    ensure!(body.contains("/approve") && body.contains(title), "the plan says how it is approved: {body}");
    ensure!(whole["changed_files"] == 0, "the commit of a plan is empty: {}", whole["changed_files"]);
    let said = forge.list(&format!("{at}/issues/{issue}/comments")).await?;
    ensure!(
        said.iter().any(|one| one["body"]
            .as_str()
            .is_some_and(|text| text.contains(&format!("#{pull}")) || text.contains(&format!("pull/{pull}")))),
        "{said:?}"
    );

    let approval = comment(team, name, pull, "/approve").await?;
    let after = team
        .stays(async || {
            let after = forge.get(&format!("{at}/pulls/{pull}")).await?;
            ensure!(
                after["commits"] == 2 && after["changed_files"].as_u64() >= Some(1),
                "no commit after /approve: {after}"
            );
            Ok(after)
        })
        .await?;
    ensure!(reactions(team, name, approval).await?.contains(&"eyes".to_owned()), "no receipt of /approve");
    let branch = format!("ai-agent%2Fissue-{issue}");
    ensure!(text(team, name, &branch, "shelf%2Ffines.py").await?.contains("def sundays"), "the plan is implemented");

    let wish = comment(team, name, pull, "/refine Name the day in a constant").await?;
    let refined = team
        .stays(async || {
            let refined = forge.get(&format!("{at}/pulls/{pull}")).await?;
            ensure!(refined["commits"] == 3, "no commit after /refine: {}", refined["commits"]);
            Ok(refined)
        })
        .await?;
    ensure!(text(team, name, &branch, "shelf%2Ffines.py").await?.contains("SUNDAY"), "the request is carried out");
    let given = reactions(team, name, wish).await?;
    ensure!(
        given.contains(&"eyes".to_owned()) && given.contains(&"rocket".to_owned()),
        "reactions to /refine: {given:?}"
    );
    ensure!(stands(team, name, issue).await?.pulls.len() == 1, "one pull request in the end");
    Ok(
        json!({"plan": pull, "headings": HEADINGS.len(), "commits_after_approve": after["commits"], "commits_after_refine": refined["commits"]}),
    )
}

/// The text of a file of a branch; both with `%2F` for slashes.
async fn text(team: &Team, name: &str, branch: &str, path: &str) -> Result<String> {
    let found =
        team.forge.get(&format!("{}/contents/{path}?ref={}", repository(name), branch.replace("%2F", "/"))).await?;
    let encoded: String = found["content"].as_str().unwrap_or_default().split_whitespace().collect();
    let output = std::process::Command::new("python3")
        .args(["-c", "import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.argv[1]))", &encoded])
        .output()
        .context("failed to start python3")?;
    String::from_utf8(output.stdout).context("a text")
}

/// Runs a quick fix.
///
/// # Errors
/// When a promise is broken.
pub async fn quick(team: &Team, name: &str) -> Result<Value> {
    let (at, forge) = (repository(name), &team.forge);
    forge.repository(&format!("{OWNER}/{name}")).await?;
    let title = "Sundays count as late days";
    let issue = open(team, name, title).await?;
    comment(team, name, issue, "/quickfix").await?;
    let found = team
        .stays(async || {
            let found = stands(team, name, issue).await?;
            ensure!(found.labels.len() == 2 && found.comments > 0, "no quick fix: {found:?}");
            Ok(found)
        })
        .await?;
    ensure!(found.branches == [format!("ai-agent/quickfix-issue-{issue}")], "{found:?}\n{}", team.logs());
    let [(pull, draft, of)] = &found.pulls[..] else { anyhow::bail!("{found:?}\n{}", team.logs()) };
    ensure!(!draft && *of == format!("[AI Agent QuickFix] Fix issue #{issue}: {title}"), "{found:?}");
    ensure!(found.labels == ["ai-agent", "quickfix"] && found.comments == 1, "{found:?}");
    let said = forge.list(&format!("{at}/issues/{issue}/comments")).await?;
    let line = format!("QuickFix applied. PR: #{pull}");
    ensure!(said.iter().any(|one| one["body"].as_str().is_some_and(|text| text.contains(&line))), "{said:?}");
    ensure!(team.left_behind().is_empty(), "tasks that are over left {:?}", team.left_behind());
    Ok(json!({"pull": pull, "commits": found.commits}))
}
