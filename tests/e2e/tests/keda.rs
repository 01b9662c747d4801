//! KEDA's protocol against the real binaries: a client written from its definition scales a pool of real sidecars from nobody to
//! three and back, and work neither waits for long nor is lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mindos_e2e::client;
use mindos_e2e::general::{self, Notes};
use mindos_e2e::process::Process;
use mindos_e2e::world::{World, free_address};
use mindos_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use mindos_proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use mindos_proto::route::v1::{NoGeneralPolicy, Route, RouteTargets, Strategy};
use mindos_sdk::Channel;
use tokio::sync::watch;

/// What KEDA promises nothing about, and a push has to.
const PUSH_MAX: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// Slots of one replica.
const SLOTS: u32 = 2;
const REPLICAS_MAX: i64 = 3;

fn scaled(cluster: &str) -> ScaledObjectRef {
    let pairs = [("general", "worker"), ("cluster", cluster), ("slots", "2"), ("scalerAddress", "mindos:8092")];
    let scaler_metadata: BTreeMap<_, _> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    ScaledObjectRef { name: "worker".to_owned(), namespace: "agents".to_owned(), scaler_metadata }
}

/// What KEDA and the autoscaler of Kubernetes do with the answers: a push wakes the pool, the metric sizes it, no activity empties it.
struct Keda {
    client: ExternalScalerClient<Channel>,
    object: ScaledObjectRef,
    /// What was pushed last, and when it came.
    active: watch::Receiver<(bool, Instant)>,
}

impl Keda {
    async fn begin(address: &str, cluster: &str) -> Result<Keda> {
        let mut client = ExternalScalerClient::new(client::channel(&format!("http://{address}"))?);
        let object = scaled(cluster);
        let mut stream = client.stream_is_active(object.clone()).await.context("no stream")?.into_inner();
        let first = stream.message().await?.context("the stream ended before its first word")?.result;
        let (sender, active) = watch::channel((first, Instant::now()));
        tokio::spawn(async move {
            while let Ok(Some(told)) = stream.message().await {
                let _ = sender.send((told.result, Instant::now()));
            }
        });
        Ok(Keda { client, object, active })
    }

    /// Waits for a push, and says when it came.
    async fn pushed(&mut self, wanted: bool) -> Result<Instant> {
        let told = tokio::time::timeout(PATIENCE, self.active.wait_for(|(active, _)| *active == wanted)).await;
        Ok(told.with_context(|| format!("never pushed {wanted}"))??.1)
    }

    async fn is_active(&mut self) -> Result<bool> {
        Ok(self.client.is_active(self.object.clone()).await?.into_inner().result)
    }

    async fn metric(&mut self) -> Result<i64> {
        let spec = self.client.get_metric_spec(self.object.clone()).await?.into_inner().metric_specs;
        ensure!(spec.len() == 1 && spec[0].target_size == i64::from(SLOTS), "{spec:?}");
        let request = GetMetricsRequest {
            scaled_object_ref: Some(self.object.clone()),
            metric_name: spec[0].metric_name.clone(),
        };
        let values = self.client.get_metrics(request).await?.into_inner().metric_values;
        ensure!(values.len() == 1 && values[0].metric_value as f64 == values[0].metric_value_float, "{values:?}");
        Ok(values[0].metric_value)
    }

    /// Replicas as the autoscaler computes them from an average.
    async fn wanted(&mut self) -> Result<usize> {
        let replicas = (self.metric().await? + i64::from(SLOTS) - 1) / i64::from(SLOTS);
        Ok(usize::try_from(replicas.clamp(0, REPLICAS_MAX))?)
    }
}

/// The replicas, as real sidecars.
struct Pool<'a> {
    world: &'a World,
    url: String,
    replicas: Vec<Process>,
    made: usize,
}

impl Pool<'_> {
    fn scale(&mut self, wanted: usize) -> Result<()> {
        while self.replicas.len() < wanted {
            let name = format!("east-{}", self.made);
            self.made += 1;
            self.replicas.push(self.world.sidecar("east", &name, SLOTS, &self.url, None)?);
        }
        while self.replicas.len() > wanted {
            // As Kubernetes ends a pod: told to end, and given time for what runs.
            let status = self.replicas.remove(0).terminate(Duration::from_secs(30))?;
            ensure!(status.success(), "a sidecar that was scaled in ended with {status}");
        }
        Ok(())
    }
}

async fn publish(channel: &Channel, numbers: std::ops::Range<usize>) -> Result<Instant> {
    for number in numbers {
        let event = client::event("/keda", &number.to_string(), "work", &format!("lane-{number}"));
        let acked = client::publish(channel, event, Duration::from_secs(10)).await?;
        ensure!(acked.deliveries == 1, "{acked:?}");
    }
    Ok(Instant::now())
}

fn route() -> Route {
    Route {
        name: "all".to_owned(),
        targets: Some(RouteTargets { types: vec!["worker".to_owned()], ..RouteTargets::default() }),
        strategy: Strategy::LoadBalanced.into(),
        no_general: NoGeneralPolicy::Refuse.into(),
        ..Route::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_comes_from_nobody_grows_shrinks_and_goes_as_its_work_does() -> Result<()> {
    let address = free_address()?;
    let world = World::started("keda", &["--surface", &format!("keda={address}")]).await?;
    let channel = world.channel()?;
    // Refused where nobody is there: a pool that is scaled is there at zero.
    client::apply(&channel, vec![route()]).await?;
    let notes = Notes::new(400, 600);
    let url = general::serve(notes.clone()).await?;
    let mut keda = Keda::begin(&address, "east").await?;
    let mut pool = Pool { world: &world, url, replicas: Vec::new(), made: 0 };
    ensure!(!keda.active.borrow().0 && !keda.is_active().await? && keda.metric().await? == 0, "nothing is to do");

    // 0 to 1: one event, and the push that it is there.
    let before = Instant::now();
    let acked = publish(&channel, 0..1).await?;
    let pushed = keda.pushed(true).await?.duration_since(before);
    println!("pushed {pushed:?} after the first event was sent, which took {:?}", acked.duration_since(before));
    ensure!(pushed < PUSH_MAX, "the push took {pushed:?}");
    ensure!(keda.metric().await? == 1 && keda.wanted().await? == 1);

    // 1 to N: what could be begun, not what waits.
    publish(&channel, 1..24).await?;
    ensure!(keda.metric().await? == 24, "24 lanes, of which all could be begun");
    pool.scale(keda.wanted().await?)?;
    ensure!(pool.replicas.len() == 3, "no more than may be");
    let done = |notes: &Notes| notes.starts().into_iter().map(|start| start.delivery).collect::<BTreeSet<_>>().len();
    let begun = Instant::now();
    let mut sizes = BTreeSet::new();
    let mut shrunk_at_work = false;
    while keda.is_active().await? {
        ensure!(begun.elapsed() < PATIENCE, "{} of 24 began", done(&notes));
        let wanted = keda.wanted().await?.max(1);
        shrunk_at_work |= wanted < pool.replicas.len();
        // Scale-in in mid-work: who is told to end finishes what it has.
        pool.scale(wanted)?;
        sizes.insert(pool.replicas.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("24 events by 3 replicas in {:?}; sizes seen {sizes:?}", begun.elapsed());
    ensure!(shrunk_at_work, "the pool shrank while there was work");
    keda.pushed(false).await?;

    // N to 0.
    pool.scale(0)?;
    ensure!(keda.metric().await? == 0 && keda.wanted().await? == 0);
    world.settled(24, PATIENCE).await?;
    ensure!(done(&notes) == 24, "every event was worked on");
    ensure!(notes.by_job().values().all(|starts| *starts == 1), "no lease was worked on twice");
    let moved = notes.starts().len() - 24;
    println!("{moved} deliveries ran a second time after their replica was scaled in");
    ensure!(moved == 0, "who is scaled in finishes: nothing is begun again");

    // And from nobody once more.
    let before = Instant::now();
    publish(&channel, 24..25).await?;
    let pushed = keda.pushed(true).await?.duration_since(before);
    println!("pushed {pushed:?} after the next event");
    ensure!(pushed < PUSH_MAX, "the push took {pushed:?}");
    pool.scale(1)?;
    world.settled(25, PATIENCE).await?;
    let pushed = keda.pushed(false).await?;
    println!("told that nothing is left {:?} ago", pushed.elapsed());
    pool.scale(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_one_lane_wakes_one_replica_and_each_cluster_is_asked_for_its_own() -> Result<()> {
    let address = free_address()?;
    let world = World::started("keda-lanes", &["--surface", &format!("keda={address}")]).await?;
    let channel = world.channel()?;
    let east_only =
        RouteTargets { types: vec!["worker".to_owned()], clusters: vec!["east".to_owned()], ..RouteTargets::default() };
    client::apply(&channel, vec![Route { targets: Some(east_only), ..route() }]).await?;
    let mut east = Keda::begin(&address, "east").await?;
    let mut west = Keda::begin(&address, "west").await?;
    for number in 0..10 {
        let event = client::event("/keda", &number.to_string(), "work", "one-lane");
        client::publish(&channel, event, Duration::from_secs(10)).await?;
    }
    east.pushed(true).await?;
    ensure!(east.metric().await? == 1, "ten wait, and order lets one begin");
    ensure!(west.metric().await? == 0 && !west.is_active().await?, "what may not go there wakes nobody there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_two_clusters_may_do_wakes_pools_for_it_once() -> Result<()> {
    let address = free_address()?;
    let world = World::started("keda-shared", &["--surface", &format!("keda={address}")]).await?;
    let channel = world.channel()?;
    client::apply(&channel, vec![Route { strategy: Strategy::RoundRobin.into(), ..route() }]).await?;
    let mut east = Keda::begin(&address, "east").await?;
    let mut west = Keda::begin(&address, "west").await?;
    publish(&channel, 0..1).await?;
    east.pushed(true).await?;
    ensure!(east.metric().await? == 1 && west.metric().await? == 0 && !west.is_active().await?, "one event wakes one");
    publish(&channel, 1..5).await?;
    west.pushed(true).await?;
    let (one, other) = (east.metric().await?, west.metric().await?);
    ensure!(one + other == 5 && one - other == 1, "five events are {one} and {other}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watchers_are_told_at_once_and_let_go_when_the_plane_ends() -> Result<()> {
    let address = free_address()?;
    let mut world = World::started("keda-many", &["--surface", &format!("keda={address}")]).await?;
    let channel = world.channel()?;
    client::apply(&channel, vec![Route { strategy: Strategy::Broadcast.into(), ..route() }]).await?;
    let mut all = Vec::new();
    for number in 0..100 {
        all.push(Keda::begin(&address, &format!("c{number}")).await?);
    }
    let before = Arc::new(Instant::now());
    let event = client::event("/keda", "1", "work", "lane");
    let acked = client::publish(&channel, event, Duration::from_secs(10)).await?;
    ensure!(acked.deliveries == 100, "one for each pool, all of them empty: {acked:?}");
    let mut slowest = Duration::ZERO;
    for keda in &mut all {
        slowest = slowest.max(keda.pushed(true).await?.duration_since(*before));
    }
    println!("100 pools were told within {slowest:?}");
    ensure!(slowest < PUSH_MAX, "the slowest push took {slowest:?}");
    let status = world.take_plane()?.terminate(Duration::from_secs(20))?;
    ensure!(status.success(), "streams of KEDA hold the end up: {status}");
    Ok(())
}
