//! Model servers that limit and cut: work waits, falls back or is tried again as the failure says, each call is accounted once, and what comes of
//! it stands once.
//!
//! ```text
//!   security-general      one model (Anthropic)          cut --> tried again | limited --> waits | limited for long --> the control plane waits
//!   architecture-general  OpenAI, behind it Ollama       cut --> Ollama      | limited --> Ollama
//!   code-review-general   Ollama, with tools and schema
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::reviews::{REVIEWERS, events, open, sticky};
use super::team::{General, Setup, Team};
use super::{Counted, OWNER, money, team, triage};

/// The model of Ollama that generals ask.
const OLLAMA: &str = "qwen3";
/// How long a limit lasts that nobody waits for beside the model, as the server says.
const LONG: Duration = Duration::from_secs(17);

/// What is expected of one pull request.
struct Trouble {
    repository: &'static str,
    /// Behind the title: the model server goes by it.
    word: &'static str,
    /// Calls of all models that are cut and that are limited.
    cut: u64,
    limited: u64,
    /// What attempts end with that come to nothing, in the order of generals.
    ended: &'static [&'static str],
    /// Those of them that use one up.
    used_up: u64,
    /// At least so long it takes.
    takes: Duration,
}

const TROUBLES: [Trouble; 3] = [
    Trouble {
        repository: "cut",
        word: "(cut)",
        cut: 2,
        limited: 0,
        ended: &["Transient"],
        used_up: 1,
        takes: Duration::ZERO,
    },
    Trouble {
        repository: "limited",
        word: "(limited)",
        cut: 0,
        limited: 2,
        ended: &[],
        used_up: 0,
        takes: Duration::from_secs(1),
    },
    // What is limited at OpenAI since is not asked again.
    Trouble {
        repository: "long",
        word: "(limited for long)",
        cut: 0,
        limited: 1,
        ended: &["RateLimited"],
        used_up: 0,
        takes: LONG,
    },
];

/// That the ledger has what the model server counted: of whole answers to the token, of cut ones the call and what was known of it.
async fn accounted(team: &Team) -> Result<(money::ByModel, Counted)> {
    let (used, counted) = (money::used_by_model(&team.export()?)?, team.forge.counted_by_model().await?);
    let mut sum = Counted::default();
    for (model, counted) in counted {
        sum.add(counted);
        let used = used.get(&model).copied().unwrap_or_default();
        let told = || format!("of {model} the ledger has {used:?}, the model server {counted:?}");
        let (input, output) = (used.input.checked_sub(counted.input), used.output.checked_sub(counted.output));
        let (input, output) = (input.with_context(told)?, output.with_context(told)?);
        let is_cut = counted.cut > 0;
        ensure!((input > 0) == is_cut && (output > 0) == is_cut && output <= counted.cut_output, "{}", told());
        // Of cut answers it costs what is known of them, each rounded up.
        let least = counted.cost + team::cost_micros(&model, input, output);
        let most = least + counted.cut.saturating_sub(1);
        ensure!((least..=most).contains(&used.cost), "{}: expected a cost of {least} to {most}", told());
        // Anthropic counts what was asked before it answers; elsewhere it is estimated.
        ensure!(!model.starts_with("claude") || input == counted.cut_input, "{}", told());
    }
    Ok((used, sum))
}

async fn one(team: &Team, trouble: &Trouble) -> Result<Value> {
    let Trouble { repository, word, cut, limited, ended, used_up, takes } = *trouble;
    team.forge.repository(&format!("{OWNER}/{repository}")).await?;
    let known = events(team).await?;
    let (before, account) = (team.forge.counted().await?, team.account().await?);
    let begun = Instant::now();
    let number = open(team, repository, &format!("Whole weeks cost half {word}")).await?;
    team.forge.look("settled").await?;
    let after = team.rest(known + 1).await?;
    let took = begun.elapsed();
    let comments = team
        .stays(async || {
            let comments = sticky(team, repository, number).await?;
            let mut generals = REVIEWERS;
            generals.sort_unstable();
            ensure!(comments.keys().eq(generals.iter()), "comments of {:?}", comments.keys());
            Ok(comments)
        })
        .await?;
    for (general, comment) in &comments {
        let body = comment["body"].as_str().unwrap_or_default();
        ensure!(!body.contains("is cut"), "{general} says what was cut: {body}");
        ensure!(!body.contains("no model"), "{general} asked no model: {body}");
    }
    let twice = after.settled_twice();
    ensure!(twice.is_empty(), "settled twice: {twice:?}");
    let failed = &after.attempts_ended[account.attempts_ended.len()..];
    let fits = failed.len() == ended.len() && failed.iter().zip(ended).all(|(one, kind)| one.contains(kind));
    ensure!(fits, "attempts ended with {failed:?}, expected {ended:?}");
    ensure!(after.attempts_used - account.attempts_used == used_up, "of {failed:?} not {used_up} were used up");
    ensure!(took >= takes, "it took {took:?}, and the limit lasts {takes:?}");
    let (_, counted) = accounted(team).await?;
    let (now_cut, now_limited) = (counted.cut - before.cut, counted.limited - before.limited);
    ensure!((now_cut, now_limited) == (cut, limited), "{now_cut} calls were cut and {now_limited} limited");
    Ok(json!({
        "comments": comments.len(), "calls": counted.calls - before.calls, "cut": cut, "refused_with_429": limited, "attempts_ended": ended.len(),
        "attempts_used_up": used_up, "seconds": took.as_secs_f64(),
    }))
}

/// Runs it, and an issue that is triaged by a model of Ollama beside it.
///
/// # Errors
/// When a promise is broken.
pub async fn run(scale: u32) -> Result<Value> {
    let mut team = Team::start(&Setup { name: "trouble", scale, settings: "" }).await?;
    let ollama = format!("ollama:{OLLAMA}");
    for (ty, models) in [
        ("security-general", &["anthropic:claude-haiku"][..]),
        ("architecture-general", &["openai:gpt-4o-mini", &ollama]),
        ("code-review-general", &[&ollama]),
        ("triage-general", &[&ollama]),
        ("priority-general", &["openai:gpt-4o-mini"]),
    ] {
        team.general(&General { models, ..General::stream(ty) }).await?;
    }
    let triaged = triage::run(&team, "desk").await?;
    let mut figures = json!({"triage": triaged});
    for trouble in &TROUBLES {
        let name = trouble.repository;
        figures[name] = one(&team, trouble).await.with_context(|| format!("of a pull request {}", trouble.word))?;
    }
    team.nothing_refused().await?;
    let (used, counted) = accounted(&team).await?;
    let mut all = money::Used::default();
    used.values().for_each(|used| all.add(*used));
    let of_ollama = used.get(OLLAMA).copied().unwrap_or_default();
    let by_ollama = team.forge.counted_by_model().await?.get(OLLAMA).copied().unwrap_or_default();
    ensure!(by_ollama.calls >= 10 && of_ollama.cost == 0, "Ollama counted {by_ollama:?}, the ledger has {of_ollama:?}");
    team.world.take_plane()?.kill()?;
    let records = team.world.verify()?;
    figures["calls"] = json!(counted.calls + counted.cut);
    figures["calls_of_ollama"] = json!(by_ollama.calls);
    let (ledger, whole) = (all.input + all.output, counted.input + counted.output);
    figures["tokens_of_the_ledger"] = json!(ledger);
    figures["tokens_counted_by_the_model_server"] = json!(whole);
    figures["tokens_of_cut_answers"] = json!(ledger - whole);
    figures["cost_micros"] = json!(all.cost);
    figures["cost_micros_of_what_the_model_server_counted"] = json!(counted.cost);
    figures["ledger_records_verified"] = json!(records);
    Ok(figures)
}
