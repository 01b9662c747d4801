//! What a start takes: a snapshot with many waiting deliveries, and the records behind it folded into the state.
//!
//! `cargo run --release -p mindos-journal --example replay_bench -- [directory]`; a directory that exists is used again.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mindos_core::Durable;
use mindos_core::record::*;
use mindos_core::route::{Match, Route, RouteTable, Targets};
use mindos_journal::{EmbeddedJournal, Options, RealDisk};
use mindos_model::{DeliveryId, Priority, Seq, Strategy, TenantName, Timestamp, Token};

/// That of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PENDING: u64 = 1_000_000;
const LANES: u64 = 100_000;
/// Behind the snapshot; each leads to seven records.
const EVENTS: u64 = 2_000_000 / 7;
/// Events whose leases are open at the same time.
const OPEN: usize = 256;
const BATCH_BYTES: usize = 512 << 10;
const RECORD_BYTES: usize = 300;
const PAYLOAD_BYTES: usize = 600;
const AT: Timestamp = Timestamp(1_763_600_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("replay-bench"), PathBuf::from);
    if !directory.exists() {
        Fill::new(&directory)?.fill()?;
    }
    let (began, busy) = (Instant::now(), cpu_of_all());
    let (journal, recovery) = EmbeddedJournal::open(RealDisk::new(&directory)?, Options::new([9; 16]))?;
    println!("opened in {:.2} s, {} records", began.elapsed().as_secs_f64(), recovery.end);
    let ledger = journal.ledger();
    let loading = Instant::now();
    let mut durable = ledger.fold_snapshot(|items| Durable::import(items), |damage| eprintln!("{damage}"))?;
    println!("snapshot folded in {:.2} s", loading.elapsed().as_secs_f64());
    let folding = Instant::now();
    let mut records = 0;
    ledger.replay(durable.seq().next(), |entry| {
        durable.apply(&entry);
        records += 1;
    })?;
    println!("{records} records folded in {:.2} s", folding.elapsed().as_secs_f64());
    let (took, busy) = (began.elapsed().as_secs_f64(), (cpu_of_all() - busy).as_secs_f64());
    println!("in all {took:.2} s, {busy:.2} s of processor time; state at record {}", durable.seq());
    Ok(())
}

/// Processor time of all threads so far.
fn cpu_of_all() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes the journal.
struct Fill {
    journal: EmbeddedJournal<RealDisk>,
    durable: Durable,
    batch: Batch,
    bytes: usize,
    generals: Vec<Arc<GeneralKey>>,
    instances: Vec<Arc<InstanceKey>>,
}

impl Fill {
    fn new(directory: &PathBuf) -> Result<Fill, Box<dyn Error>> {
        let (journal, _) = EmbeddedJournal::open(RealDisk::new(directory)?, Options::new([8; 16]))?;
        let (tenant, cluster) = (TenantName::default_tenant(), "prod-us".parse()?);
        let generals = ["pending", "bench-1", "bench-2", "bench-3"].map(|name| {
            let name = name.parse().expect("a name");
            Arc::new(GeneralKey { tenant: tenant.clone(), cluster: Clone::clone(&cluster), name })
        });
        let instances = [0, 1, 2, 3].map(|number| {
            let instance = format!("bench-{number}-6d5f7c9b8d-x2x7k").parse().expect("an id");
            Arc::new(InstanceKey { tenant: tenant.clone(), cluster: Clone::clone(&cluster), instance })
        });
        let mut fill = Fill {
            journal,
            durable: Durable::new(),
            batch: Batch { entries: Vec::new() },
            bytes: 0,
            generals: generals.into(),
            instances: instances.into(),
        };
        let version = Arc::from("0.1.0");
        fill.push(Record::EpochStarted(EpochStarted { epoch: 1, version, cause: EpochCause::Start }))?;
        let labels = Default::default();
        fill.push(Record::ClusterRegistered(Box::new(ClusterRegistered { tenant, cluster, region: None, labels })))?;
        for key in fill.generals.clone() {
            let (key, ty, labels) = (GeneralKey::clone(&key), "bench".parse()?, Default::default());
            fill.push(Record::GeneralRegistered(Box::new(GeneralRegistered { key, ty, labels })))?;
        }
        let route = Route::new("bench".parse()?, Match::default(), Targets::default(), Strategy::Broadcast);
        let table = Arc::new(RouteTable { routes: vec![route], trust: None });
        let tenant = TenantName::default_tenant();
        fill.push(Record::RoutesApplied(Box::new(RoutesApplied {
            tenant,
            table,
            by: Arc::from("bench"),
            from: Arc::from(""),
        })))?;
        Ok(fill)
    }

    fn fill(mut self) -> Result<(), Box<dyn Error>> {
        for number in 0..PENDING {
            self.event(&format!("acme/widgets/pr/{}", number % LANES), 0..1)?;
        }
        self.write()?;
        let ledger = self.journal.ledger();
        ledger.save_snapshot(self.durable.seq(), &mut self.durable.export().into_iter())?;
        let mut events = 0;
        while events < EVENTS {
            let mut open = Vec::with_capacity(OPEN);
            for _ in 0..OPEN {
                let lane = format!("acme/gadgets/pr/{events}");
                open.push(self.event(&lane, 1..4)?);
                events += 1;
            }
            for event in &open {
                for ordinal in 1..=3 {
                    self.leased(DeliveryId::new(*event, ordinal))?;
                }
            }
            for event in &open {
                for ordinal in 1..=3 {
                    self.settled(DeliveryId::new(*event, ordinal))?;
                }
            }
        }
        self.write()
    }

    fn push(&mut self, record: Record) -> Result<Seq, Box<dyn Error>> {
        let seq = self.durable.seq().next();
        self.bytes += RECORD_BYTES + record.payload().map_or(0, |payload| payload.bytes.len());
        let entry = Entry { seq, at: Timestamp(AT.0 + seq.0 / 100), record };
        self.durable.apply(&entry);
        self.batch.entries.push(entry);
        if self.bytes >= BATCH_BYTES {
            self.write()?;
        }
        Ok(seq)
    }

    fn write(&mut self) -> Result<(), Box<dyn Error>> {
        self.journal.append_batch(Seq(self.batch.first().0 - 1), &self.batch)?;
        self.batch.entries.clear();
        self.bytes = 0;
        Ok(())
    }

    fn event(&mut self, lane: &str, generals: std::ops::Range<usize>) -> Result<Seq, Box<dyn Error>> {
        let number = self.durable.seq().0;
        let id = [number.to_le_bytes(), number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()].concat();
        let planned = |general: &Arc<GeneralKey>| PlannedDelivery {
            general: Some(general.clone()),
            parked: None,
            terms: None,
            degraded: None,
        };
        let deliveries = self.generals[generals].iter().map(planned).collect();
        self.push(Record::EventAccepted(Box::new(EventAccepted {
            tenant: TenantName::default_tenant(),
            source: Arc::from("/acme/widgets"),
            id: Arc::from(format!("72d3162e-cc78-11e3-81ab-{number}")),
            ty: Arc::from("com.github.pull_request.opened"),
            kind: Arc::from("pr_created"),
            subject: Some(Arc::from(lane)),
            lane: Arc::from(lane),
            repository: Some(Arc::from("acme/widgets")),
            priority: Priority::Normal,
            actor: Some(Arc::from("octocat")),
            time: Some(AT),
            key: id.try_into().expect("16 bytes"),
            digest: [2; 16],
            payload: Payload { salt: [7; 16], bytes: Bytes::from(vec![42; PAYLOAD_BYTES]) },
            route: Some("bench".parse()?),
            strategy: Some(Strategy::Broadcast),
            judgement: None,
            deliveries,
            fell_back_from: None,
            about: None,
        })))
    }

    fn leased(&mut self, delivery: DeliveryId) -> Result<Seq, Box<dyn Error>> {
        let number = delivery.ordinal as usize;
        let instance = self.instances[number].clone();
        let load = Weight { load: Load { open: 3, capacity: 1024 }, score: 4, latency_ms: 900, ..Weight::default() };
        self.push(Record::DeliveryLeased(Box::new(DeliveryLeased {
            delivery,
            token: Token::new(1, 1),
            general: self.generals[number].clone(),
            instance: instance.clone(),
            boot: "6f1c0a52-8a7e".parse()?,
            attempt: 1,
            lease_ms: 25_000,
            choice: Choice { instances: vec![(instance, load)].into(), free: 1, connected: 1, ..Choice::default() },
            reservation: None,
            degraded: None,
            variant: None,
        })))
    }

    fn settled(&mut self, delivery: DeliveryId) -> Result<Seq, Box<dyn Error>> {
        self.push(Record::DeliverySettled(Box::new(DeliverySettled {
            delivery,
            token: Token::new(1, 1),
            output: None,
            output_type: None,
            output_ref: None,
            usage: Vec::new(),
            took_ms: 12,
            charged: None,
        })))
    }
}
