//! Records of every kind with drawn values, for tests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mindos_core::input::Seen;
use mindos_core::output::PayloadRef;
use mindos_core::record::*;
use mindos_core::route::{Coalesce, Match, Pattern, Route, RouteTable, Targets};
use mindos_core::snapshot::{DeliveryItem, Ending, EventItem, Item, PhaseItem};
use mindos_model::{DeliveryId, FailureKind, ParkReason, Priority, Seq, Strategy, TenantName, Timestamp, Token};

use super::{access_samples, budget_samples, effect_samples, object_samples};
use crate::fault::Random;

/// How many kinds of records there are.
pub(crate) const KINDS: u64 = OBJECTS_FROM + object_samples::KINDS;
/// Kinds about effects come behind all others.
const EFFECTS_FROM: u64 = 30 + access_samples::KINDS;
const OBJECTS_FROM: u64 = EFFECTS_FROM + effect_samples::KINDS;

pub(super) fn tenant(random: &mut Random) -> TenantName {
    if random.chance(50) { TenantName::default_tenant() } else { TenantName::new("acme").unwrap() }
}

pub(super) fn text(random: &mut Random, what: &str) -> Arc<str> {
    Arc::from(format!("{what}/{}", random.below(1000)))
}

pub(super) fn maybe<T>(random: &mut Random, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
    random.chance(50).then(|| make(random))
}

pub(super) fn time(random: &mut Random) -> Timestamp {
    Timestamp(1_700_000_000_000 + random.below(1 << 40))
}

pub(super) fn seq(random: &mut Random) -> Seq {
    let bits = 1 + random.below(40);
    Seq(1 + random.below(1 << bits))
}

pub(super) fn delivery(random: &mut Random) -> DeliveryId {
    DeliveryId::new(seq(random), 1 + random.below(64) as u32)
}

pub(super) fn token(random: &mut Random) -> Token {
    Token::new(1 + random.below(1 << 20) as u32, 1 + random.below(100) as u32)
}

pub(super) fn general(random: &mut Random, tenant: &TenantName) -> Arc<GeneralKey> {
    let cluster = format!("cluster-{}", random.below(3)).parse().unwrap();
    let name = format!("general-{}", random.below(11)).parse().unwrap();
    Arc::new(GeneralKey { tenant: tenant.clone(), cluster, name })
}

fn instance(random: &mut Random, general: &GeneralKey) -> Arc<InstanceKey> {
    let instance = format!("pod-{}", random.below(20)).parse().unwrap();
    Arc::new(InstanceKey { tenant: general.tenant.clone(), cluster: general.cluster.clone(), instance })
}

pub(super) fn payload(random: &mut Random) -> Payload {
    let len = random.below(2000);
    let bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
    Payload { salt: digest(random), bytes: Bytes::from(bytes) }
}

pub(super) fn digest<const N: usize>(random: &mut Random) -> [u8; N] {
    std::array::from_fn(|_| random.bits() as u8)
}

fn reason(random: &mut Random) -> ParkReason {
    // Those of the first release, so that its bytes stay as they were drawn.
    ParkReason::ALL[random.below(6) as usize]
}

fn weight(random: &mut Random) -> Weight {
    Weight {
        load: Load::default(),
        score: random.below(9000) as u32,
        latency_ms: random.below(90_000) as u32,
        model: random.below(4000) as u32,
        queue: random.below(40) as u32,
        trial: random.below(9) == 0,
    }
}

fn exclusion(random: &mut Random) -> Exclusion {
    match random.below(4) {
        0 => Exclusion::Held,
        1 => Exclusion::Draining,
        2 => Exclusion::BreakerOpen,
        _ => Exclusion::RateLimited,
    }
}

fn load(random: &mut Random) -> Load {
    Load { open: random.below(20) as u32, capacity: random.below(300) as u32 }
}

pub(super) fn usage(random: &mut Random) -> Vec<Usage> {
    (0..random.below(3))
        .map(|_| Usage {
            model: text(random, "model"),
            input_tokens: random.below(1 << 20),
            output_tokens: random.below(1 << 14),
            cost_micros: random.below(1 << 30),
        })
        .collect()
}

pub(super) fn labels(random: &mut Random) -> Labels {
    (0..random.below(4)).map(|number| (Arc::from(format!("key-{number}")), text(random, "value"))).collect()
}

fn cause(random: &mut Random) -> Cause {
    let failure = match random.below(7) {
        0 => FailureKind::Transient,
        1 => FailureKind::Lost,
        2 => FailureKind::RateLimited { until: time(random) },
        3 => FailureKind::Poison,
        4 => FailureKind::TooLarge,
        5 => FailureKind::Cancelled,
        _ => FailureKind::OverBudget,
    };
    match random.below(6) {
        0 => Cause::Lapsed,
        1 => Cause::Rebooted,
        2 => Cause::Undelivered,
        3 => Cause::Declined,
        4 => Cause::Deadline,
        _ => Cause::Failed(failure),
    }
}

fn cancel(random: &mut Random) -> CancelReason {
    if random.chance(50) { CancelReason::Requested } else { CancelReason::Superseded { by: delivery(random) } }
}

fn route(random: &mut Random) -> Route {
    let mut route = Route::new(
        format!("route-{}", random.below(5)).parse().unwrap(),
        Match {
            kinds: (0..random.below(3)).map(|number| Pattern::new(&format!("kind-{number}*")).unwrap()).collect(),
            subjects: (0..random.below(2)).map(|number| Pattern::new(&format!("acme/{number}")).unwrap()).collect(),
            condition: None,
        },
        Targets {
            types: (0..random.below(3)).map(|number| format!("type-{number}").parse().unwrap()).collect(),
            clusters: (0..random.below(3)).map(|number| format!("cluster-{number}").parse().unwrap()).collect(),
            regions: (0..random.below(2)).map(|number| format!("region-{number}").parse().unwrap()).collect(),
            names: (0..random.below(2)).map(|number| format!("general-{number}").parse().unwrap()).collect(),
            labels: labels(random),
            weights: Vec::new(),
        },
        Strategy::ALL[random.below(3) as usize],
    );
    route.count = random.below(10) as u32;
    route.coalesce = if random.chance(50) { Coalesce::Every } else { Coalesce::Latest };
    route.attempts_max = random.below(10) as u32;
    route.deadline = Duration::from_millis(random.below(1 << 30));
    route.block_max = Duration::from_millis(random.below(1 << 30));
    route
}

fn table(random: &mut Random) -> Arc<RouteTable> {
    Arc::new(RouteTable { routes: (0..1 + random.below(5)).map(|_| route(random)).collect(), trust: None })
}

fn hold(random: &mut Random) -> HoldChanged {
    let general = general(random, &TenantName::default_tenant());
    HoldChanged {
        tenant: tenant(random),
        target: match random.below(4) {
            0 => HoldTarget::Cluster(general.cluster.clone()),
            1 => HoldTarget::General(general.cluster.clone(), general.name.clone()),
            2 => HoldTarget::Instance(general.cluster.clone(), "pod-1".parse().unwrap()),
            _ => HoldTarget::Route("route-1".parse().unwrap()),
        },
        holds: [Holds::NONE, Holds::PAUSED, Holds::CORDONED, Holds::DRAINING][random.below(4) as usize],
        why: Arc::from(""),
        by: text(random, "person"),
        from: Arc::from(""),
    }
}

fn cluster(random: &mut Random) -> ClusterRegistered {
    ClusterRegistered {
        tenant: tenant(random),
        cluster: "cluster-1".parse().unwrap(),
        region: maybe(random, |_| "eu-1".parse().unwrap()),
        labels: labels(random),
    }
}

fn registered(random: &mut Random) -> GeneralRegistered {
    let tenant = tenant(random);
    let key = GeneralKey::clone(&*general(random, &tenant));
    GeneralRegistered { key, ty: "security".parse().unwrap(), labels: labels(random) }
}

fn accepted(random: &mut Random) -> EventAccepted {
    let tenant = tenant(random);
    let (source, ty) = (text(random, "source"), text(random, "type"));
    let subject = maybe(random, |random| text(random, "subject"));
    let lane = match random.below(3) {
        0 => text(random, "lane"),
        _ => subject.clone().unwrap_or_else(|| source.clone()),
    };
    let deliveries = (0..random.below(13)).map(|_| PlannedDelivery {
        general: random.chance(50).then(|| general(random, &tenant)),
        parked: maybe(random, reason),
        terms: None,
        degraded: None,
    });
    let deliveries = deliveries.collect();
    EventAccepted {
        source,
        id: text(random, "id"),
        kind: if random.chance(50) { ty.clone() } else { text(random, "kind") },
        ty,
        subject,
        lane,
        repository: maybe(random, |random| text(random, "repository")),
        priority: Priority::Normal,
        actor: maybe(random, |random| text(random, "actor")),
        time: maybe(random, time),
        key: digest(random),
        digest: digest(random),
        payload: payload(random),
        route: maybe(random, |_| "route-1".parse().unwrap()),
        strategy: maybe(random, |random| Strategy::ALL[random.below(3) as usize]),
        judgement: None,
        deliveries,
        fell_back_from: None,
        about: None,
        tenant,
    }
}

fn leased(random: &mut Random) -> DeliveryLeased {
    let tenant = tenant(random);
    let general = general(random, &tenant);
    let generals = (0..random.below(5)).map(|_| (self::general(random, &tenant), load(random))).collect();
    let instances = (0..random.below(3)).map(|_| (instance(random, &general), load(random)));
    let instances: Vec<_> = instances.collect();
    let mut leased = DeliveryLeased {
        delivery: delivery(random),
        token: token(random),
        instance: instance(random, &general),
        boot: format!("boot-{}", random.below(9)).parse().unwrap(),
        attempt: 1 + random.below(5) as u32,
        lease_ms: random.below(1 << 20) as u32,
        choice: Choice { generals, free: random.below(300) as u32, ..Choice::default() },
        reservation: None,
        degraded: None,
        variant: None,
        general,
    };
    let weighed = instances.into_iter().map(|(instance, load)| (instance, Weight { load, ..weight(random) }));
    leased.choice.instances = weighed.collect();
    leased.choice.connected = random.below(300) as u32;
    leased.choice.aside = random.below(9) as u32;
    let excluded = (0..random.below(3)).map(|_| (instance(random, &leased.general), exclusion(random)));
    leased.choice.excluded = excluded.collect();
    leased
}

/// A record that brings a table in force.
pub(crate) fn applied_routes(random: &mut Random, at: Seq) -> Entry {
    let record =
        RoutesApplied { tenant: tenant(random), table: table(random), by: text(random, "person"), from: Arc::from("") };
    Entry { seq: at, at: time(random), record: Record::RoutesApplied(Box::new(record)) }
}

/// A record of the kind number `kind`, below [`KINDS`], at `at`.
pub(crate) fn entry(random: &mut Random, kind: u64, at: Seq) -> Entry {
    let record = match kind {
        0 => Record::EpochStarted(EpochStarted {
            epoch: 1 + random.below(99) as u32,
            version: text(random, "0.1"),
            cause: if random.chance(50) { EpochCause::Start } else { EpochCause::Restore },
        }),
        1 => Record::EventAccepted(Box::new(accepted(random))),
        2 => Record::DeliveryLeased(Box::new(leased(random))),
        3 => Record::AttemptEnded(Box::new(AttemptEnded {
            delivery: delivery(random),
            token: token(random),
            cause: cause(random),
            message: text(random, "it went wrong"),
            counted: random.chance(50),
            next: match random.chance(50) {
                true => Next::Wait { not_before: time(random) },
                false => Next::Park { reason: reason(random) },
            },
            usage: Vec::new(),
            charged: None,
            over: None,
        })),
        4 => Record::DeliverySettled(Box::new(DeliverySettled {
            delivery: delivery(random),
            token: token(random),
            output: maybe(random, payload),
            output_type: maybe(random, |random| text(random, "application")),
            output_ref: maybe(random, digest),
            usage: usage(random),
            took_ms: random.below(1 << 22),
            charged: None,
        })),
        5 => Record::DeliveryCancelled(Box::new(DeliveryCancelled {
            delivery: delivery(random),
            reason: cancel(random),
            why: Arc::from(""),
            by: text(random, "person"),
            unanswered: false,
            charged: None,
        })),
        6 => Record::CancelRequested(CancelRequested {
            delivery: delivery(random),
            reason: cancel(random),
            why: Arc::from(""),
            by: text(random, "person"),
        }),
        7 => Record::DeliveryParked(DeliveryParked { delivery: delivery(random), reason: reason(random), over: None }),
        8 => Record::DeliveryRedriven(DeliveryRedriven {
            delivery: delivery(random),
            place_before: seq(random),
            why: Arc::from(""),
            by: text(random, "person"),
        }),
        9 => {
            let tenant = tenant(random);
            let general = general(random, &tenant);
            Record::ResultRefused(Box::new(ResultRefused {
                delivery: delivery(random),
                presented: token(random),
                current: maybe(random, token).unwrap_or_default(),
                instance: instance(random, &general),
            }))
        }
        10 => Record::LeaseExtended(Box::new(LeaseExtended {
            delivery: delivery(random),
            token: token(random),
            checkpoint: maybe(random, payload),
            usage: usage(random),
            reserved: None,
            spent: None,
        })),
        11 => Record::ClusterRegistered(Box::new(cluster(random))),
        12 => Record::GeneralRegistered(Box::new(registered(random))),
        13 => Record::GeneralRemoved(Box::new(GeneralRemoved {
            key: registered(random).key,
            by: text(random, "person"),
            from: Arc::from(""),
        })),
        14 => Record::HoldChanged(Box::new(hold(random))),
        15 => Record::RoutesApplied(Box::new(RoutesApplied {
            tenant: tenant(random),
            table: table(random),
            by: text(random, "person"),
            from: Arc::from(""),
        })),
        16 => Record::PayloadCarried(PayloadCarried { event: seq(random), effect: None, payload: payload(random) }),
        17 => Record::PrefixDropped(PrefixDropped { through: seq(random), link: digest(random) }),
        18 => Record::JournalTruncated(JournalTruncated { kept: seq(random), dropped_through: seq(random) }),
        OBJECTS_FROM.. => return object_samples::entry(random, kind - OBJECTS_FROM, at),
        EFFECTS_FROM.. => return effect_samples::entry(random, kind - EFFECTS_FROM, at),
        30.. => return access_samples::entry(random, kind - 30, at),
        21.. => return budget_samples::entry(random, kind - 1, at),
        19 => Record::UpgradeFinalized(UpgradeFinalized {
            version: text(random, "0.2"),
            by: text(random, "person"),
            from: Arc::from(""),
        }),
        _ => {
            let replaces = random.chance(50).then(|| (tenant(random), route(random).name));
            Record::RouteAsked(Box::new(RouteAsked {
                tenant: tenant(random),
                route: Arc::new(route(random)),
                replaces,
            }))
        }
    };
    Entry { seq: at, at: time(random), record }
}

/// A snapshot item of any kind.
pub(crate) fn item(random: &mut Random) -> Item {
    match random.below(18) {
        17.. => object_samples::item(random),
        15.. => effect_samples::item(random),
        13.. => Item::Access(access_samples::item(random)),
        9.. => budget_samples::item(random),
        0 => Item::Header { seq: seq(random), at: time(random), epoch: random.below(99) as u32 },
        1 => Item::Cluster(cluster(random)),
        2 => Item::General(registered(random)),
        3 => Item::Hold(hold(random)),
        4 => Item::Routes { tenant: tenant(random), at: seq(random), table: table(random) },
        5 => {
            let tenant = tenant(random);
            let cursor = random.chance(50).then(|| general(random, &tenant));
            Item::Route { tenant, route: Arc::new(route(random)), cursor }
        }
        6 => Item::Event(Box::new(event(random))),
        7 => Item::Seen {
            key: digest(random),
            at: time(random),
            seen: Seen { event: seq(random), digest: digest(random) },
        },
        _ => {
            let (delivery, token) = (delivery(random), maybe(random, token).unwrap_or_default());
            Item::Settled {
                delivery,
                token,
                ending: [Ending::Held, Ending::Answered, Ending::Unanswered][token.term as usize % 3],
            }
        }
    }
}

fn event(random: &mut Random) -> EventItem {
    let tenant = tenant(random);
    let deliveries = (0..random.below(5)).map(|_| {
        let holder = general(random, &tenant);
        let phase = match random.below(5) {
            0 => PhaseItem::Waiting { not_before: maybe(random, time).unwrap_or_default() },
            1 => {
                let instance = instance(random, &holder);
                PhaseItem::Leased { instance, general: holder, boot: "boot-1".parse().unwrap(), since: time(random) }
            }
            2 => PhaseItem::Parked { reason: reason(random), since: time(random) },
            3 => PhaseItem::Succeeded { general: maybe(random, |_| holder) },
            _ => PhaseItem::Cancelled,
        };
        DeliveryItem {
            general: random.chance(50).then(|| general(random, &tenant)),
            phase,
            token: maybe(random, token).unwrap_or_default(),
            attempts: random.below(5) as u32,
            place: seq(random),
            held_ms: random.below(1 << 20),
            held_since: maybe(random, |random| if random.chance(20) { Timestamp(0) } else { time(random) }),
            cancel: maybe(random, cancel),
            last_cause: maybe(random, cause),
            terms: None,
        }
    });
    let deliveries = deliveries.collect();
    EventItem {
        event: seq(random),
        deliveries,
        race: false,
        replay: None,
        kind: text(random, "kind"),
        lane: text(random, "lane"),
        repository: maybe(random, |random| text(random, "repository")),
        source: None,
        priority: Priority::Normal,
        route: "route-2".parse().unwrap(),
        accepted: time(random),
        payload: PayloadRef { seq: seq(random), len: random.below(1 << 20) as u32 },
        tenant,
    }
}
