//! Records and items about objects of clusters with drawn values, for tests.

use std::sync::Arc;

use mindos_core::object::{Made, Object, ObjectKey, ObjectRecord};
use mindos_core::record::{Entry, Holds, Record};
use mindos_core::snapshot::Item;
use mindos_model::Seq;

use super::samples::{labels, maybe, tenant, text, time};
use crate::fault::Random;

/// Kinds of records about objects.
pub(super) const KINDS: u64 = 5;

fn holds(random: &mut Random) -> Holds {
    [Holds::NONE, Holds::PAUSED, Holds::DRAINING, Holds::PAUSED.with(Holds::DRAINING)][random.below(4) as usize]
}

fn object(random: &mut Random, kind: u64) -> Object {
    let name = format!("thing-{}", random.below(99));
    let made = match kind {
        0 => {
            let region = maybe(random, |_| "eu-west-1".parse().unwrap());
            Made::Cluster { region, labels: labels(random), holds: holds(random) }
        }
        1 => {
            let ty = maybe(random, |random| format!("type-{}", random.below(9)).parse().unwrap());
            Made::General { name: name.parse().unwrap(), ty, labels: labels(random), holds: holds(random) }
        }
        2 => Made::Route { name: name.parse().unwrap(), holds: holds(random) },
        _ => Made::Budget { name: name.parse().unwrap() },
    };
    let namespace = if kind == 0 { Arc::from("") } else { Arc::from(format!("ns-{}", random.below(9))) };
    let cluster = format!("cluster-{}", random.below(3)).parse().unwrap();
    Object {
        key: ObjectKey { tenant: tenant(random), cluster, kind: made.kind(), namespace, name: Arc::from(name) },
        uid: text(random, "uid"),
        generation: 1 + random.below(99) as i64,
        spec: text(random, "{\"a\":1}"),
        made,
    }
}

/// A record of the kind number `kind`, below [`KINDS`].
pub(super) fn entry(random: &mut Random, kind: u64, at: Seq) -> Entry {
    let of = if kind < 4 { kind } else { random.below(4) };
    let object = object(random, of);
    let (by, from) = (Arc::from(object.key.to_string()), text(random, "agent"));
    let record = match kind {
        0..4 => ObjectRecord::Applied { object: Arc::new(object), by, from },
        _ => ObjectRecord::Removed { key: object.key, by, from },
    };
    Entry { seq: at, at: time(random), record: Record::Object(Box::new(record)) }
}

/// An item.
pub(super) fn item(random: &mut Random) -> Item {
    let kind = random.below(4);
    Item::Object(Arc::new(object(random, kind)))
}
