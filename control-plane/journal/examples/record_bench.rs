//! What encoding and decoding cost for the records that come with every event, and for a snapshot item.
//!
//! `cargo run --release -p mindos-journal --example record_bench`

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mindos_core::input::Seen;
use mindos_core::output::PayloadRef;
use mindos_core::record::*;
use mindos_core::snapshot::{DeliveryItem, EventItem, Item, PhaseItem};
use mindos_journal::encode::{self, Names};
use mindos_journal::{EmbeddedJournal, Options, Preparation, RealDisk};
use mindos_model::{DeliveryId, Priority, Seq, Strategy, TenantName, Timestamp, Token};
use prost::Message;

const ROUNDS: u32 = 300_000;

fn main() -> Result<(), Box<dyn Error>> {
    let tenant = TenantName::default_tenant();
    let general =
        Arc::new(GeneralKey { tenant: tenant.clone(), cluster: "prod-us".parse()?, name: "security".parse()? });
    let instance = Arc::new(InstanceKey {
        tenant: tenant.clone(),
        cluster: "prod-us".parse()?,
        instance: "security-6d5f7c9b8d-x2x7k".parse()?,
    });
    let at = Timestamp(1_763_600_000_000);
    let delivery = DeliveryId::new(Seq(12_345_678), 2);
    let body = Payload { salt: [7; 16], bytes: Bytes::from(vec![42; 1024]) };
    let (general_key, tenant_name) = (general.clone(), tenant.clone());
    let accepted = EventAccepted {
        tenant,
        source: Arc::from("/acme/widgets"),
        id: Arc::from("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ty: Arc::from("com.github.pull_request.opened"),
        kind: Arc::from("pr_created"),
        subject: Some(Arc::from("acme/widgets/pr/42")),
        lane: Arc::from("acme/widgets/pr/42"),
        repository: Some(Arc::from("acme/widgets")),
        priority: Priority::Normal,
        actor: Some(Arc::from("octocat")),
        time: Some(at),
        key: [1; 16],
        digest: [2; 16],
        payload: body,
        route: Some("pr-created".parse()?),
        strategy: Some(Strategy::Broadcast),
        judgement: None,
        deliveries: vec![
            PlannedDelivery { general: Some(general.clone()), parked: None, terms: None, degraded: None };
            3
        ],
        fell_back_from: None,
        about: None,
    };
    let load = Weight { load: Load { open: 3, capacity: 8 }, score: 500, latency_ms: 900, ..Weight::default() };
    let leased = DeliveryLeased {
        delivery,
        token: Token::new(3, 1),
        general,
        instance: instance.clone(),
        boot: "6f1c0a52-8a7e".parse()?,
        attempt: 1,
        lease_ms: 25_000,
        choice: Choice {
            generals: Vec::new(),
            instances: vec![(instance.clone(), load), (instance, load)].into(),
            free: 12,
            ..Choice::default()
        },
        reservation: None,
        degraded: None,
        variant: None,
    };
    let settled = DeliverySettled {
        delivery,
        token: Token::new(3, 1),
        output: Some(Payload { salt: [8; 16], bytes: Bytes::from(vec![43; 100]) }),
        output_type: Some(Arc::from("application/json")),
        output_ref: None,
        usage: Vec::new(),
        took_ms: 12,
        charged: None,
    };
    for record in [
        Record::EventAccepted(Box::new(accepted)),
        Record::DeliveryLeased(Box::new(leased)),
        Record::DeliverySettled(Box::new(settled)),
    ] {
        measure(&Entry { seq: Seq(12_345_679), at, record })?;
    }
    snapshot(&general_key, &tenant_name)
}

/// A snapshot of many waiting deliveries, written to memory and loaded again.
fn snapshot(general: &Arc<GeneralKey>, tenant: &TenantName) -> Result<(), Box<dyn Error>> {
    const EVENTS: u64 = 200_000;
    let at = Timestamp(1_763_600_000_000);
    let options = Options { preparation: Preparation::Inline, segment_bytes: 1 << 20, ..Options::new([1; 16]) };
    let directory = std::env::temp_dir().join("record-bench");
    let (mut journal, _) = EmbeddedJournal::open(RealDisk::new(&directory)?, options)?;
    let version = Arc::from("0.1.0");
    let started = Record::EpochStarted(EpochStarted { epoch: 1, version, cause: EpochCause::Start });
    if journal.log().end() == Seq::ZERO {
        journal.append_batch(Seq::ZERO, &Batch { entries: vec![Entry { seq: Seq(1), at, record: started }] })?;
    }
    let event = |number: u64| {
        let waiting = DeliveryItem {
            general: Some(general.clone()),
            phase: PhaseItem::Waiting { not_before: Timestamp(0) },
            token: Token::default(),
            attempts: 0,
            place: Seq(number),
            held_ms: 0,
            held_since: None,
            cancel: None,
            last_cause: None,
            terms: None,
        };
        Item::Event(Box::new(EventItem {
            event: Seq(number),
            tenant: tenant.clone(),
            kind: Arc::from("pr_created"),
            lane: Arc::from(format!("acme/widgets/pr/{}", number % 100_000)),
            repository: Some(Arc::from("acme/widgets")),
            source: None,
            priority: Priority::Normal,
            route: "pr-created".parse().expect("a name"),
            accepted: at,
            payload: PayloadRef { seq: Seq(number), len: 1024 },
            deliveries: vec![waiting],
            race: false,
            replay: None,
        }))
    };
    let seen = |number: u64| Item::Seen {
        key: [number.to_le_bytes(), number.to_be_bytes()].concat().try_into().expect("16 bytes"),
        at,
        seen: Seen { event: Seq(number), digest: [5; 16] },
    };
    let ledger = journal.ledger();
    let started = Instant::now();
    ledger.save_snapshot(Seq(1), &mut (1..=EVENTS).map(event).chain((1..=EVENTS).map(seen)))?;
    println!("snapshot saved: {:.0} ns an event", started.elapsed().as_secs_f64() * 1e9 / EVENTS as f64);
    let (started, mut items) = (Instant::now(), 0);
    ledger.load_snapshot(
        &mut |item| {
            black_box(item);
            items += 1;
        },
        |damage| eprintln!("{damage}"),
    )?;
    println!(
        "snapshot loaded: {:.0} ns an event with one delivery and its key ({items} items, {} MB)",
        started.elapsed().as_secs_f64() * 1e9 / EVENTS as f64,
        ledger.reader().usage().used_bytes >> 20,
    );
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn measure(entry: &Entry) -> Result<(), Box<dyn Error>> {
    let mut bytes = Vec::with_capacity(4096);
    let each = |started: Instant| started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        bytes.clear();
        encode::encode(black_box(entry), &mut bytes);
    }
    let by_hand = each(started);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        bytes.clear();
        encode::message(black_box(entry)).encode(&mut bytes)?;
    }
    let by_message = each(started);
    let mut names = Names::default();
    let started = Instant::now();
    for _ in 0..ROUNDS {
        black_box(encode::decode(&mut names, entry.seq, black_box(&bytes), entry.record.payload().cloned())?);
    }
    let decoding = each(started);
    println!(
        "{:<16} {:>4} bytes: encoded in {by_hand:.0} ns (through messages {by_message:.0}), decoded in {decoding:.0} ns",
        entry.record.kind(),
        bytes.len(),
    );
    Ok(())
}
