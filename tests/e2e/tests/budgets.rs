//! Money is reserved before it is spent, against the real binaries: 64 publishers, a budget of a hundred deliveries' worth, generals
//! whose use varies tenfold, `kill -9` of the control plane, of a general with a stream of its own, and of a sidecar, all in the middle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::process::{self, Process};
use mindos_e2e::proxy::Proxy;
use mindos_e2e::spending::{Ended, Lease, Spending, Standing};
use mindos_e2e::world::World;
use mindos_proto::budget::v1::budget::Scope;
use mindos_proto::budget::v1::budget_service_client::BudgetServiceClient;
use mindos_proto::budget::v1::{
    Budget, GetUsageRequest, Level, ListBudgetsRequest, Period, SetBudgetRequest, TenantScope, UsageDimension,
};
use mindos_proto::route::v1::{Route, RouteMatch, RouteTargets, Strategy};
use mindos_sdk::Channel;

const PUBLISHERS: u64 = 64;
const EVENTS_EACH: u64 = 4;
/// What is set aside for a delivery of which nothing is known: the server's default, 5 cents.
const WORTH: u64 = 50_000;
const LIMIT: u64 = 100 * WORTH;
/// What a delivery uses at least; ten times that at most.
const NEEDS_LEAST: u64 = WORTH / 5;
/// What a call of the model is thought to take. It may take two fifths more.
const CALL: u64 = 5000;
const CALL_MOST: u64 = CALL * 7 / 5;
/// Of a general that cannot report in mid-run: the server's default, one unit, is set aside for each delivery.
const PLAIN_WORTH: u64 = 1_000_000;
const PLAIN_SLOTS: u32 = 4;
const PLAIN_EVENTS: u64 = 12;
const PLAIN_LIMIT: u64 = 7 * PLAIN_WORTH;
const SETTLE_MAX: Duration = Duration::from_secs(40);

fn budget(name: &str, scope: Scope, limit: u64) -> Budget {
    Budget {
        name: name.to_owned(),
        scope: Some(scope),
        period: Period::Total.into(),
        cost_micros: Some(limit),
        // Nobody is there to acknowledge.
        pause_percent: Some(0),
        ..Budget::default()
    }
}

async fn set(channel: &Channel, budget: Budget) -> Result<()> {
    let request = SetBudgetRequest { budget: Some(budget) };
    BudgetServiceClient::new(channel.clone()).set_budget(request).await.context("failed to set a budget")?;
    Ok(())
}

/// What the API says of every budget: its figures, its level, how many wait for it.
type Figures = BTreeMap<String, (Standing, Level, u64)>;

async fn figures(channel: &Channel) -> Result<Figures> {
    let mut client = BudgetServiceClient::new(channel.clone());
    let budgets = client.list_budgets(ListBudgetsRequest {}).await.context("failed to list budgets")?.into_inner();
    let one = |status: mindos_proto::budget::v1::BudgetStatus| {
        let level = status.level();
        let micros = |amount: Option<mindos_proto::budget::v1::Amount>| amount.map_or(0, |amount| amount.cost_micros);
        let standing = Standing { charged: micros(status.charged), reserved: micros(status.reserved) };
        (status.budget.unwrap_or_default().name, (standing, level, status.parked))
    };
    Ok(budgets.budgets.into_iter().map(one).collect())
}

fn standings(figures: &Figures) -> BTreeMap<String, Standing> {
    figures.iter().map(|(name, (standing, _, _))| (name.clone(), *standing)).collect()
}

/// What the ledger says, by `mindos ledger export` and the test's own sums.
fn exported(world: &World) -> Result<Spending> {
    let output = process::run(&["ledger", "export", "--server", &world.server()])?;
    ensure!(output.status.success(), "the export failed: {}", String::from_utf8_lossy(&output.stderr));
    Spending::read(std::str::from_utf8(&output.stdout).context("an export is text")?)
}

/// What a general's own account says of each job: the sum of its calls, and how it ended where it says so.
#[derive(Clone, Debug, Default)]
struct Job {
    calls: u64,
    ended: Option<(bool, u64)>,
}

fn accounts(files: &[PathBuf]) -> Result<BTreeMap<String, Job>> {
    let mut jobs = BTreeMap::<String, Job>::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [what, job, micros] = words[..] else { anyhow::bail!("the account has the line {line:?}") };
            let (job, micros) = (jobs.entry(job.to_owned()).or_default(), micros.parse()?);
            match what {
                "call" => job.calls += micros,
                "done" => job.ended = Some((true, micros)),
                _ => job.ended = Some((false, micros)),
            }
        }
    }
    Ok(jobs)
}

fn spender(world: &World, instance: &str, proxy: &Proxy) -> Result<(Process, PathBuf)> {
    let account = world.folder().join(format!("{instance}.account"));
    let arguments = [
        ("--control-plane", proxy.address().to_owned()),
        ("--cluster", "east".to_owned()),
        ("--instance", instance.to_owned()),
        ("--slots", "8".to_owned()),
        ("--needs-least", NEEDS_LEAST.to_string()),
        ("--call", CALL.to_string()),
        ("--call-ms", "40".to_owned()),
        ("--account", account.display().to_string()),
    ];
    let arguments: Vec<_> = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_spender"));
    Ok((Process::start_program(program, world.folder(), instance, &arguments)?, account))
}

fn route(kind: &str, ty: &str) -> Route {
    Route {
        name: kind.to_owned(),
        r#match: Some(RouteMatch { kinds: vec![kind.to_owned()], ..RouteMatch::default() }),
        targets: Some(RouteTargets { types: vec![ty.to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::Broadcast.into(),
        ..Route::default()
    }
}

/// Waits until a budget has been leased for so often.
async fn leased(world: &World, budget: &str, count: usize) -> Result<Spending> {
    let begun = Instant::now();
    loop {
        let spending = exported(world)?;
        let leases = spending.leases_of(budget).count();
        if leases >= count {
            return Ok(spending);
        }
        ensure!(begun.elapsed() < SETTLE_MAX, "{leases} leases of {count} for {budget}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills the control plane, with no agent connected when it is back; returns what the API says then, which the ledger has to say too.
async fn killed(world: &mut World, proxy: &Proxy) -> Result<Figures> {
    world.take_plane()?.kill()?;
    proxy.cut();
    world.start_plane().await?;
    let figures = figures(&world.channel()?).await?;
    ensure!(standings(&figures) == exported(world)?.budgets, "after a recovery the API says {figures:?}");
    Ok(figures)
}

/// Waits until nothing is leased and what is left waits for a budget.
async fn rested(world: &World) -> Result<Spending> {
    let begun = Instant::now();
    loop {
        let account = world.account().await?;
        let spending = exported(world)?;
        if account.open() == 0 && spending.open() == 0 {
            return Ok(spending);
        }
        ensure!(
            begun.elapsed() < SETTLE_MAX,
            "{} deliveries and {} leases are open; ended: {:?}",
            account.open(),
            spending.open(),
            account.attempts_ended
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each lease was charged what its general's own account says, or, where nobody answered, its last report or its reservation.
fn agree(spending: &Spending, jobs: &BTreeMap<String, Job>, plain: &BTreeMap<String, u64>) -> Result<()> {
    for (name, lease) in spending.leases_of("spenders") {
        let job = jobs.get(name).cloned().unwrap_or_default();
        let Lease { reserved, spent, used, ended, .. } = lease;
        let (how, charge) = ended.with_context(|| format!("{name} has not ended"))?;
        ensure!(job.calls <= reserved + CALL_MOST - CALL, "{name} used {} of {reserved}", job.calls);
        match how {
            Ended::Settled | Ended::Failed => {
                let said = job.ended.with_context(|| format!("{name} ended by a word that nobody said"))?;
                ensure!(said == (how == Ended::Settled, charge), "{name}: {said:?} was said, {charge} is charged");
                ensure!(job.calls == charge && *used == charge, "{name}: {job:?}, {lease:?}");
            }
            Ended::Lost => ensure!(spent.is_none_or(|spent| spent <= job.calls), "{name}: {job:?}, {lease:?}"),
            Ended::Unbegun => ensure!(job.calls == 0, "{name} was given back after {job:?}"),
        }
    }
    for (name, lease) in spending.leases_of("plain") {
        let (how, charge) = lease.ended.with_context(|| format!("{name} has not ended"))?;
        match how {
            Ended::Lost => ensure!(charge == PLAIN_WORTH, "{name} is charged {charge}"),
            _ => ensure!(plain.get(name) == Some(&charge), "{name} said {:?}, is charged {charge}", plain.get(name)),
        }
    }
    Ok(())
}

async fn usage_by_general(channel: &Channel) -> Result<BTreeMap<String, u64>> {
    let request =
        GetUsageRequest { dimension: UsageDimension::GeneralType.into(), limit: 100, ..GetUsageRequest::default() };
    let answer = BudgetServiceClient::new(channel.clone()).get_usage(request).await.context("no usage")?.into_inner();
    ensure!(!answer.partial, "the usage is partial");
    Ok(answer.rows.into_iter().map(|row| (row.value, row.cost_micros)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_overrun_by_one_call_of_each_lease_at_most_whatever_is_killed() -> Result<()> {
    let begun = Instant::now();
    let mut world = World::started("budgets", &[]).await?;
    let channel = world.channel()?;
    let routes = vec![route("plain", "worker"), Route { r#match: None, ..route("work", "spender") }];
    client::apply(&channel, routes).await?;
    set(&channel, budget("spenders", Scope::GeneralType("spender".to_owned()), LIMIT)).await?;
    set(&channel, budget("plain", Scope::GeneralType("worker".to_owned()), PLAIN_LIMIT)).await?;
    set(&channel, budget("all", Scope::Tenant(TenantScope {}), 100 * LIMIT)).await?;

    // Two generals with streams of their own, and a sidecar whose general says what it cost at its end, or never.
    let proxy = Proxy::start(world.agents().to_owned()).await?;
    let notes = Notes::new(600_000, 600_000);
    notes.set_cost(NEEDS_LEAST, 10 * NEEDS_LEAST);
    let url = general::serve(notes.clone()).await?;
    let (first, first_account) = spender(&world, "spender-0", &proxy)?;
    let (second, second_account) = spender(&world, "spender-1", &proxy)?;
    let sidecar = world.sidecar("east", "plain-0", PLAIN_SLOTS, &url, Some(proxy.address()))?;
    world.fleet(2, 3).await?;
    for number in 0..PLAIN_EVENTS {
        let event = client::event("/plain", &number.to_string(), "plain", &format!("plain-{number}"));
        client::publish(&channel, event, Duration::from_secs(10)).await?;
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for number in 0..EVENTS_EACH {
                    let (id, lane) = (format!("{publisher}-{number}"), format!("lane-{publisher}-{number}"));
                    let event = client::event("/budgets", &id, "work", &lane);
                    client::publish(&channel, event, Duration::from_secs(30)).await?;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                anyhow::Ok(())
            })
        })
        .collect();

    // Killed with everything on its way.
    leased(&world, "spenders", 20).await?;
    killed(&mut world, &proxy).await?;
    proxy.mend();
    // Killed while nothing can move: what was said before is what is said after, to the last millionth.
    leased(&world, "spenders", 45).await?;
    leased(&world, "plain", PLAIN_SLOTS as usize).await?;
    proxy.cut();
    let before = still(&world).await?;
    ensure!(before["spenders"].0.reserved > 0 && before["spenders"].0.charged > 0, "nothing is under way: {before:?}");
    let after = killed(&mut world, &proxy).await?;
    ensure!(before == after, "before the kill {before:?}, after the recovery {after:?}");
    proxy.mend();

    // A general with its leases, and a sidecar whose general has not said a word.
    let open = leased(&world, "spenders", 70).await?;
    ensure!(open.leases.values().any(|lease| lease.instance == "spender-1" && lease.ended.is_none()), "it is idle");
    second.kill()?;
    sidecar.kill()?;
    notes.set_time(20, 60);
    let (second, _) = spender(&world, "spender-1", &proxy)?;
    let sidecar = world.sidecar("east", "plain-0", PLAIN_SLOTS, &url, Some(proxy.address()))?;

    for publisher in publishers {
        publisher.await.context("a publisher panicked")??;
    }
    let files = [first_account, second_account];
    let spending = rested(&world).await?;
    agree(&spending, &accounts(&files)?, &notes.costs())?;
    let said = figures(&channel).await?;
    ensure!(standings(&said) == spending.budgets, "{said:?} by the API, {:?} by the ledger", spending.budgets);
    let spenders = spending.budgets["spenders"];
    let (leases, lost) = (
        spending.leases_of("spenders").count() as u64,
        spending.leases_of("spenders").filter(|(_, lease)| matches!(lease.ended, Some((Ended::Lost, _)))).count(),
    );
    let overrun = spenders.charged.saturating_sub(LIMIT);
    println!(
        "limit {LIMIT}: {} charged by {leases} leases, {lost} of them lost; overrun {overrun}; {} wait; plain {} of {PLAIN_LIMIT}, {} wait",
        spenders.charged, said["spenders"].2, spending.budgets["plain"].charged, said["plain"].2
    );
    ensure!(overrun <= leases * (CALL_MOST - CALL), "overrun by {overrun} in {leases} leases");
    ensure!(spenders.charged > LIMIT * 9 / 10, "only {} of {LIMIT} was used", spenders.charged);
    ensure!(lost > 0 && said["spenders"].2 > 0 && spending.crossed >= 2, "{lost} lost, {said:?}");
    let plain = spending.budgets["plain"].charged;
    ensure!((4 * PLAIN_WORTH..=PLAIN_LIMIT).contains(&plain), "plain is charged {plain}");

    // Enough for all of it, and nothing is left over; then once more from the disk alone.
    set(&channel, budget("spenders", Scope::GeneralType("spender".to_owned()), 10 * LIMIT)).await?;
    set(&channel, budget("plain", Scope::GeneralType("worker".to_owned()), 10 * PLAIN_LIMIT)).await?;
    let events = usize::try_from(PUBLISHERS * EVENTS_EACH + PLAIN_EVENTS)?;
    let account = world.settled(events, SETTLE_MAX).await?;
    let waits = Instant::now();
    while world.account().await?.unsettled() > 0 {
        ensure!(waits.elapsed() < SETTLE_MAX, "{:?} are parked", world.account().await?.parked);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(account.settled_twice().is_empty() && account.accepted_twice() == 0, "each settled once");
    let spending = rested(&world).await?;
    agree(&spending, &accounts(&files)?, &notes.costs())?;
    let before = figures(&channel).await?;
    let after = killed(&mut world, &proxy).await?;
    ensure!(before == after, "before the kill {before:?}, after the recovery {after:?}");
    // The history is a view, and may have to catch up.
    let waits = Instant::now();
    loop {
        let by_usage = usage_by_general(&channel).await?;
        if by_usage == spending.settled {
            break;
        }
        ensure!(waits.elapsed() < SETTLE_MAX, "{by_usage:?} by GetUsage, {:?} by the ledger", spending.settled);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop((first, second, sidecar));
    world.take_plane()?.kill()?;
    println!("{} records verified, {:.1} s", world.verify()?, begun.elapsed().as_secs_f64());
    Ok(())
}

/// The figures once they do not move any more.
async fn still(world: &World) -> Result<Figures> {
    let channel = world.channel()?;
    let mut before = figures(&channel).await?;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let after = figures(&channel).await?;
        if before == after {
            return Ok(after);
        }
        before = after;
    }
    anyhow::bail!("the figures go on moving with no agent connected: {before:?}")
}
