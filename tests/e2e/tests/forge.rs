//! Effects on the forge in short, with nothing but Python and git; `cargo run -p mindos-e2e --bin forge` is all of it, and the stage `forge`
//! of `.ci/run` runs that with Prism and aimock in between.

use anyhow::{Result, ensure};
use mindos_e2e::forge::injured::{Stop, Victim, Ward};
use mindos_e2e::forge::team::{General, Setup, Team};
use mindos_e2e::forge::{money, plan, reviews};

const SCALE: u32 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn three_generals_keep_one_comment_each_over_five_pushes() -> Result<()> {
    let mut team = Team::start(&Setup { name: "reviews", scale: SCALE, settings: "" }).await?;
    for ty in reviews::REVIEWERS {
        team.general(&General::stream(ty)).await?;
    }
    reviews::run(&team, "shelf").await?;
    team.nothing_refused().await?;
    money::agrees(money::used(&team.export()?)?, team.forge.counted().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_becomes_a_plan_and_the_plan_becomes_code() -> Result<()> {
    let mut team = Team::start(&Setup { name: "plans", scale: SCALE, settings: "" }).await?;
    team.general(&General::behind_sidecar("coding-general")).await?;
    plan::run(&team, "plans").await?;
    plan::quick(&team, "quick").await?;
    team.nothing_refused().await?;
    money::agrees(money::used(&team.export()?)?, team.forge.counted().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_over_its_ceiling_stops_within_one_call() -> Result<()> {
    money::ceiling(SCALE).await?;
    Ok(())
}

/// The control plane is killed when a branch, a pull request and a comment are there and it has not heard so.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_behind_each_write_writes_once() -> Result<()> {
    let mut ward = Ward::start("killed", SCALE, false).await?;
    let made = |stop: &Stop| match stop {
        Stop::Request { template, after: true, .. } => {
            ["/git/refs", "/pulls", "/comments"].iter().any(|end| template.ends_with(end))
        }
        Stop::Request { .. } | Stop::Step(_) => false,
    };
    let came = ward.run(&[Victim::ControlPlane], |_, stop| made(stop)).await?;
    ensure!(came.kills.values().sum::<u64>() == 3, "{came:?}");
    Ok(())
}
