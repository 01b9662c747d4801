//! Past events once more, with the real programs: `mindos replay`, feedback on what came of it, and the scorecards of both.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mindos_e2e::client;
use mindos_e2e::process::{self, Process};
use mindos_e2e::world::World;
use mindos_proto::route::v1::{Route, RouteTargets, Strategy};
use serde_json::Value;

/// A sidecar whose general is a command: it says who it is and in which mode it was asked.
fn sidecar(world: &World, cluster: &str, ty: &str) -> Result<Process> {
    let command = format!("cat > /dev/null; printf '{{\"analysis\":\"{ty} in %s\"}}' \"$MINDOS_MODE\"");
    let general = format!("name={ty},type={ty},slots=2,command={command}");
    let plane = format!("http://{}", world.agents());
    let instance = format!("{cluster}-0");
    let words = ["sidecar", "--control-plane", &plane, "--cluster", cluster, "--instance", &instance];
    let words = words.into_iter().chain(["--general", &general]).map(str::to_owned).collect::<Vec<_>>();
    Process::start(world.folder(), &format!("sidecar-{instance}"), &words)
}

fn mindos(world: &World, words: &[&str]) -> Result<Value> {
    let server = world.server();
    process::json(&[words, &["--server", &server]].concat())
}

/// The exit code of a command that is refused.
fn code(world: &World, words: &[&str]) -> Result<i32> {
    let server = world.server();
    let output = process::run(&[words, &["--server", &server, "--output", "json"]].concat())?;
    output.status.code().context("it was ended by a signal")
}

fn analysis(of: &Value) -> &str {
    of[0]["output"]["data"]["analysis"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn past_events_are_worked_on_again_beside_live_ones_and_compared() -> Result<()> {
    let world = World::started("again", &[]).await?;
    let route = Route {
        name: "all".to_owned(),
        targets: Some(RouteTargets { types: vec!["old".to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::RoundRobin.into(),
        ..Route::default()
    };
    client::apply(&world.channel()?, vec![route]).await?;
    let _old = sidecar(&world, "east", "old")?;
    let _next = sidecar(&world, "west", "next")?;
    world.fleet(2, 2).await?;
    for number in 0..3 {
        let event = client::event("/again", &number.to_string(), "work", &format!("lane-{number}"));
        client::publish(&world.channel()?, event, Duration::from_secs(10)).await?;
    }
    world.settled(3, Duration::from_secs(30)).await?;
    mindos(&world, &["budgets", "set", "live", "--cost", "5", "--time", "1h"])?;

    let wanted =
        ["replay", "--last", "1h", "--kind", "work", "--to", "next", "--id", "try-1", "--cost-max", "5", "--wait"];
    let compared = mindos(&world, &wanted)?;

    let pairs = compared["pairs"].as_array().context("pairs")?;
    ensure!(pairs.len() == 3 && compared["settled"] == true, "{compared}");
    for pair in pairs {
        ensure!(analysis(&pair["then"]) == "old in live" && analysis(&pair["again"]) == "next in replay", "{pair}");
        ensure!(pair["then"][0]["outcome"] == "succeeded" && pair["again"][0]["outcome"] == "succeeded", "{pair}");
    }
    ensure!(compared["summary"]["budget"] == "replay.try-1", "{compared}");
    budgets_are_apart(&world)?;
    // As a table, with both sides in one row.
    let server = world.server();
    let table = process::run(&[&wanted[..], &["--server", &server]].concat())?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(
        table.lines().filter(|line| line.contains("old in live") && line.contains("next in replay")).count() == 3,
        "{table}"
    );
    ensure!(table.contains("then 3 of 3 succeeded") && table.contains("again 3 of 3 succeeded"), "{table}");

    // The same replay once more is known; under its name nothing else is.
    let again = mindos(&world, &wanted)?;
    ensure!(again["summary"]["duplicates"] == 3 && again["pairs"][2]["again"] == pairs[2]["again"], "{again}");
    let event = &pairs[0]["event"]["seq"].to_string();
    let other = ["replay", "--event", event, "--to", "old", "--id", "try-1"];
    ensure!(code(&world, &other)? == 3, "a name stands for one target");
    ensure!(code(&world, &["replay", "--event", event, "--to", "nobody"])? == 3, "no general is of this type");
    ensure!(code(&world, &["replay", "--event", "99999", "--to", "next"])? == 4, "there is no such event");
    let late = ["replay", "--event", event, "--to", "next", "--version", "99.0+", "--wait", "--timeout", "1s"];
    ensure!(code(&world, &late)? == 5, "nobody has this version");

    feedback(&world, pairs)?;
    world.verify()?;
    Ok(())
}

fn budgets_are_apart(world: &World) -> Result<()> {
    let answer = mindos(world, &["budgets", "list"])?;
    let budgets = answer["budgets"].as_array().context("budgets")?;
    let of = |name: &str| budgets.iter().find(|budget| budget["name"] == name).context(name.to_owned());
    let spent = |budget: &Value| budget["charged"].to_string();
    let (live, replays) = (of("live")?, of("replay.try-1")?);
    ensure!(spent(live).find(|digit: char| ('1'..='9').contains(&digit)).is_none(), "{live}");
    ensure!(replays["scope"].to_string().contains("try-1"), "{replays}");
    Ok(())
}

fn feedback(world: &World, pairs: &[Value]) -> Result<()> {
    let delivery = |of: &Value| of[0]["delivery"].as_str().unwrap_or_default().to_owned();
    let (then, again) = (delivery(&pairs[0]["then"]), delivery(&pairs[0]["again"]));
    mindos(world, &["feedback", &again, "accepted"])?;
    mindos(world, &["feedback", &again, "reverted"])?;
    mindos(world, &["feedback", &again, "accepted", "--source", "/ann"])?;
    mindos(world, &["feedback", &then, "dismissed"])?;
    ensure!(code(world, &["feedback", "d99999.1", "accepted"])? == 4, "there is no such delivery");
    let answer = mindos(world, &["routes", "scorecard", "all"])?;
    let cards = answer["cards"].as_array().context("cards")?;
    let card = |role: &str| cards.iter().find(|card| card["role"].as_str().is_some_and(|of| of == role));
    let (replay, live) = (card("replay").context("replay")?, card("live").context("live")?);
    ensure!(replay["succeeded"] == 3 && replay["general"]["name"] == "next", "{replay}");
    // One voice has one word, its last.
    ensure!(replay["accepted"] == 1 && replay["reverted"] == 1 && live["dismissed"] == 1, "{replay} {live}");
    Ok(())
}
