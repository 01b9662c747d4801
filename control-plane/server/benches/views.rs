//! What the views cost: `cargo bench -p mindos-control-plane --bench views`. Prints one JSON object a line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mindos_control_plane::views::dedupe::{DedupeWriter, Horizon};
use mindos_control_plane::views::follow::View;
use mindos_control_plane::views::history::{DeliveryQuery, HistorySettings, HistoryWriter, PageRequest};
use mindos_core::input::Entropy;
use mindos_core::record::{
    Choice, DedupeKey, DeliveryLeased, DeliverySettled, Entry, EventAccepted, GeneralKey, InstanceKey, Payload,
    PlannedDelivery, Record,
};
use mindos_model::{
    BootId, ClusterName, DeliveryId, GeneralName, InstanceId, Priority, RouteName, Seq, Status, Strategy, TenantName,
    Timestamp, Token,
};

fn main() {
    let million = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(default) * 1_000_000
    };
    // Zero leaves one out.
    let (completions, keys) = (million("HISTORY_MILLIONS", 4), million("DEDUPE_MILLIONS", 8));
    if completions > 0 {
        history(completions);
    }
    if keys > 0 {
        dedupe(keys);
    }
}

/// Events with three deliveries each, leased and settled 300 at a time.
fn history(completions: u64) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut writer = HistoryWriter::open(dir.path(), HistorySettings::default()).expect("an empty history");
    let tenant = TenantName::default_tenant();
    let cluster = ClusterName::new("eu").expect("a name");
    let generals: Vec<_> = (0..3)
        .map(|index| {
            let name = GeneralName::new(&format!("general-{index}")).expect("a name");
            Arc::new(GeneralKey { tenant: tenant.clone(), cluster: cluster.clone(), name })
        })
        .collect();
    let instance = InstanceId::new("instance-0").expect("a name");
    let instance = Arc::new(InstanceKey { tenant: tenant.clone(), cluster, instance });
    let repositories: Vec<_> = (0..1000).map(|index| Arc::<str>::from(format!("owner-{index}/repository"))).collect();
    let (mut seq, mut spent, mut busy, mut records) = (0, Duration::ZERO, Duration::ZERO, 0);
    let mut entropy = Entropy(7);
    let mut entries = Vec::new();
    let mut done = 0;
    while done < completions {
        entries.clear();
        let mut push = |record| {
            seq += 1;
            entries.push(Entry { seq: Seq(seq), at: Timestamp(1_700_000_000_000 + seq / 200), record });
            Seq(seq)
        };
        let mut open = Vec::new();
        for _ in 0..100 {
            let number = entropy.draw();
            let repository = &repositories[(number % 1000) as usize];
            let event = push(Record::EventAccepted(Box::new(EventAccepted {
                tenant: tenant.clone(),
                source: Arc::clone(repository),
                id: format!("{number:032x}").into(),
                ty: "com.github.pull_request.opened".into(),
                kind: "pr_created".into(),
                subject: Some(format!("{}", number % 5000).into()),
                lane: format!("{repository}/pr/{}", number % 5000).into(),
                repository: Some(Arc::clone(repository)),
                priority: Priority::Normal,
                actor: Some("octocat".into()),
                time: Some(Timestamp(1_700_000_000_000)),
                key: key(number),
                digest: [0; 16],
                payload: Payload { salt: [0; 16], bytes: Bytes::from_static(b"{}") },
                route: Some(RouteName::new("pr-created").expect("a name")),
                strategy: Some(Strategy::Broadcast),
                judgement: None,
                deliveries: generals
                    .iter()
                    .map(|general| PlannedDelivery {
                        general: Some(Arc::clone(general)),
                        parked: None,
                        terms: None,
                        degraded: None,
                    })
                    .collect(),
                fell_back_from: None,
                about: None,
            })));
            open.extend((1..=3).map(|ordinal| DeliveryId::new(event, ordinal)));
        }
        for delivery in &open {
            push(Record::DeliveryLeased(Box::new(DeliveryLeased {
                delivery: *delivery,
                token: Token::new(1, 1),
                general: Arc::clone(&generals[delivery.ordinal as usize - 1]),
                instance: Arc::clone(&instance),
                boot: BootId::new("boot").expect("a name"),
                attempt: 1,
                lease_ms: 25_000,
                choice: Choice::default(),
                reservation: None,
                degraded: None,
                variant: None,
            })));
        }
        for delivery in &open {
            push(Record::DeliverySettled(Box::new(DeliverySettled {
                delivery: *delivery,
                token: Token::new(1, 1),
                output: None,
                output_type: None,
                output_ref: None,
                usage: vec![],
                took_ms: 3,
                charged: None,
            })));
        }
        let (began, cpu) = (Instant::now(), cpu_time());
        for entry in &entries {
            writer.apply(entry).expect("a history that takes rows");
        }
        spent += began.elapsed();
        busy += cpu_time() - cpu;
        records += entries.len();
        done += 300;
    }
    writer.close().expect("a history that closes");
    let micros = busy.as_secs_f64() * 1e6 / done as f64;
    let rate = done as f64 / spent.as_secs_f64();
    let bytes: u64 = std::fs::read_dir(dir.path())
        .expect("a directory")
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|data| data.len())
        .sum();
    println!(
        r#"{{"bench":"history","completions":{done},"records":{records},"completions_per_s":{rate:.0},"cpu_us_per_completion":{micros:.2},"bytes_per_completion":{}}}"#,
        bytes / done
    );
    let reader = writer.reader();
    let page = PageRequest { tenant, limit: 100 };
    let ask = |name: &str, query: DeliveryQuery| {
        let began = Instant::now();
        let found = reader.deliveries(&query, &page).expect("a history that answers");
        let took = began.elapsed().as_secs_f64() * 1e3;
        println!(r#"{{"bench":"history_query","query":"{name}","rows":{},"ms":{took:.2}}}"#, found.rows.len());
    };
    ask("newest", DeliveryQuery::default());
    ask("repository", DeliveryQuery { repository: Some("owner-7/repository".into()), ..DeliveryQuery::default() });
    ask("parked", DeliveryQuery { statuses: vec![Status::Parked], ..DeliveryQuery::default() });
    let general = GeneralName::new("general-1").ok();
    ask("general", DeliveryQuery { general, ..DeliveryQuery::default() });
    let time = Timestamp(1_700_000_000_000 + seq / 400);
    ask("until", DeliveryQuery { until: Some(time), ..DeliveryQuery::default() });
    ask("rare", DeliveryQuery { lane: Some("owner-7/repository/pr/none".into()), ..DeliveryQuery::default() });
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn key(number: u64) -> DedupeKey {
    let mut entropy = Entropy(number);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&entropy.draw().to_be_bytes());
    key[8..].copy_from_slice(&entropy.draw().to_be_bytes());
    key
}

fn dedupe(count: u64) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let mut writer = DedupeWriter::open(dir.path(), Horizon::default()).expect("an empty index");
    let began = Instant::now();
    for number in 1..=count {
        let event = EventAccepted {
            tenant: TenantName::default_tenant(),
            source: "".into(),
            id: "".into(),
            ty: "".into(),
            kind: "".into(),
            subject: None,
            lane: "".into(),
            repository: None,
            priority: Priority::Normal,
            actor: None,
            time: None,
            key: key(number),
            digest: [0; 16],
            payload: Payload { salt: [0; 16], bytes: Bytes::new() },
            route: None,
            strategy: None,
            judgement: None,
            deliveries: vec![],
            fell_back_from: None,
            about: None,
        };
        let record = Record::EventAccepted(Box::new(event));
        writer.apply(&Entry { seq: Seq(number), at: Timestamp(number), record }).expect("an index that takes keys");
    }
    writer.close().expect("an index that closes");
    let written = began.elapsed().as_secs_f64() * 1e6 / count as f64;
    let index = writer.index();
    let timed = |keys: Vec<DedupeKey>| {
        let began = cpu_time();
        let found = keys.iter().filter(|key| index.lookup(key).expect("an index that answers").is_some()).count();
        ((cpu_time() - began).as_secs_f64() * 1e9 / keys.len() as f64, found)
    };
    let (absent, wrong) = timed((0..1_000_000).map(|number| key(number + 1_000_000_000_000)).collect());
    let (present, found) = timed((0..200_000).map(|number| key(1 + number * (count / 200_000))).collect());
    println!(
        r#"{{"bench":"dedupe","keys":{count},"us_per_key_written":{written:.2},"ns_absent":{absent:.0},"wrong":{wrong},"ns_present":{present:.0},"found":{found}}}"#
    );
}
