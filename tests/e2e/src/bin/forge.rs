//! `cargo run -p mindos-e2e --bin forge`: all that is shown of effects on the forge, its figures as JSON.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use mindos_e2e::forge::injured::{Came, Stop, Victim, Ward};
use mindos_e2e::forge::team::{General, Setup, Team};
use mindos_e2e::forge::{cold, heard, many, money, plan, reviews, trouble};
use serde_json::{Value, json};

/// Runs generals from cold, the flows of reviews, of issues and of the coding agent, models that limit and cut, what people make of it all, kills at every step of
/// plan mode, and five hundred intents under GitHub's limits.
#[derive(Debug, Parser)]
struct Options {
    /// How many times faster than GitHub's the limits pass, and the control plane writes.
    #[arg(long, default_value_t = 60)]
    scale: u32,
    /// Only these: cold, flows, trouble, heard, ceiling, many, kills.
    #[arg(long, value_delimiter = ',', default_value = "cold,flows,trouble,heard,ceiling,many,kills")]
    only: Vec<String>,
    /// File to write the figures to, besides printing them.
    #[arg(long)]
    results: Option<PathBuf>,
}

async fn flows(scale: u32) -> Result<Value> {
    let mut team = Team::start(&Setup { name: "flows", scale, settings: "" }).await?;
    for (ty, models) in [
        ("architecture-general", &["anthropic:claude-haiku"][..]),
        ("security-general", &["openai:gpt-4o-mini"]),
        ("code-review-general", &["openai:gpt-4o-mini"]),
    ] {
        team.general(&General { models, ..General::stream(ty) }).await?;
    }
    team.general(&General::behind_sidecar("coding-general")).await?;
    let reviews = reviews::run(&team, "reviews").await?;
    let planned = plan::run(&team, "plans").await?;
    let quick = plan::quick(&team, "quick").await?;
    team.nothing_refused().await?;
    let (used, counted) = (money::used(&team.export()?)?, team.forge.counted().await?);
    money::agrees(used, counted)?;
    let requests = team.forge.log().await?.len();
    team.world.take_plane()?.kill()?;
    let records = team.world.verify()?;
    Ok(json!({
        "reviews": reviews, "plan": planned, "quickfix": quick, "requests_of_the_forge": requests, "refused_or_wrong": 0,
        "held_against_githubs_description": team.forge.is_checked(),
        "tokens_of_the_ledger": used.input + used.output, "tokens_counted_by_the_model_server": counted.input + counted.output,
        "cost_micros": used.cost, "cost_micros_of_what_the_model_server_counted": counted.cost, "calls": counted.calls, "ledger_records_verified": records,
    }))
}

/// Half of the steps in one world and half in another, beside each other: most of the time is spent waiting to dial again.
async fn ward(
    name: &str,
    scale: u32,
    sidecar: bool,
    victims: &[Victim],
    wanted: impl Fn(&Stop) -> bool,
) -> Result<Came> {
    let half = async |which: usize| {
        let mut ward = Ward::start(&format!("{name}-{which}"), scale, sidecar).await?;
        let came = ward.run(victims, |at, stop| at % 2 == which && wanted(stop)).await;
        came.with_context(|| format!("in the world `{name}-{which}`"))
    };
    let (first, second) = tokio::try_join!(half(0), half(1))?;
    Ok(first.and(second))
}

/// Of a general behind a sidecar, its sidecar and the control plane at every step; of a general with a stream of its own at its own steps.
async fn kills(scale: u32) -> Result<Value> {
    let every = |_: &Stop| true;
    let (general, sidecar, plane, stream) = tokio::try_join!(
        ward("kills-general", scale, true, &[Victim::General], every),
        ward("kills-sidecar", scale, true, &[Victim::Sidecar], every),
        ward("kills-plane", scale, true, &[Victim::ControlPlane], every),
        ward("kills-stream", scale, false, &[Victim::General, Victim::ControlPlane], |stop| matches!(
            stop,
            Stop::Step(_)
        )),
    )?;
    Ok(json!({
        "steps": plane.steps, "general": general.figures(), "sidecar": sidecar.figures(), "control_plane": plane.figures(),
        "own_stream": stream.figures(),
    }))
}

#[tokio::main]
async fn main() -> Result<()> {
    let Options { scale, only, results } = Options::parse();
    let begun = Instant::now();
    let is_wanted = |name: &str| only.iter().any(|one| one == name);
    let mut figures = json!({});
    if is_wanted("cold") {
        figures["cold"] = cold::run().await?;
    }
    if is_wanted("flows") {
        figures["flows"] = flows(scale).await?;
    }
    if is_wanted("trouble") {
        figures["trouble"] = trouble::run(scale).await?;
    }
    if is_wanted("heard") {
        figures["heard"] = heard::run(scale).await?;
    }
    if is_wanted("ceiling") {
        figures["ceiling"] = money::ceiling(scale).await?;
    }
    if is_wanted("many") {
        let mut team = Team::start(&Setup { name: "many", scale, settings: "" }).await?;
        figures["many"] = many::run(&mut team, "many", scale).await?;
    }
    if is_wanted("kills") {
        figures["kills"] = kills(scale).await?;
    }
    figures["seconds"] = json!(begun.elapsed().as_secs());
    let text = format!("{figures:#}\n");
    print!("{text}");
    if let Some(path) = results {
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
