//! Watching the fleet: the whole first, then what differs, at most every 250 ms.
//!
//! Invariant: what a watcher was sent is what the fleet was like at the last look, whatever happened in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mindos_model::Seq;
use mindos_proto::fleet::v1::watch_response::Item;
use mindos_proto::fleet::v1::{GeneralName, InstanceName, Target, WatchResponse, target};

use super::fleet_view::{self, Filter, Items};
use super::status;
use super::watch::{Ended, LIFE_INTERVAL, Sender};
use crate::access::Scoped;

const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Sends the fleet and its changes until the watcher goes.
pub(super) async fn show(context: &Scoped, filter: &Filter, sender: &Sender<WatchResponse>) -> Result<(), Ended> {
    let mut sent = BTreeMap::new();
    let mut caught_up = false;
    let mut heard = Instant::now();
    loop {
        let fleet = match context.fleet().await {
            Ok(fleet) => fleet,
            Err(status) => return Err(sender.end(status)),
        };
        let found = by_key(fleet_view::items(&fleet, filter));
        let changes: Vec<Item> = changes(&sent, &found);
        for item in changes {
            heard = Instant::now();
            send(sender, Some(item), caught_up).await?;
        }
        if !caught_up || heard.elapsed() >= LIFE_INTERVAL {
            caught_up = true;
            heard = Instant::now();
            send(sender, None, caught_up).await?;
        }
        sent = found;
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = context.drained() => return Err(sender.end(status::stopped(crate::driver::Stopped).into())),
        }
    }
}

async fn send(sender: &Sender<WatchResponse>, item: Option<Item>, caught_up: bool) -> Result<(), Ended> {
    // A fleet has no sequence: a watcher starts from the whole again.
    sender.send(WatchResponse { item, caught_up }, Seq::ZERO).await
}

type ByKey = BTreeMap<(u8, String), Arc<Item>>;

fn by_key(items: Items) -> ByKey {
    let Items { clusters, generals, instances } = items;
    let clusters = clusters.into_iter().map(|item| ((0, fleet_view::name_of_cluster(&item)), Item::Cluster(item)));
    let generals = generals.into_iter().map(|item| ((1, fleet_view::name_of_general(&item)), Item::General(item)));
    let instances = instances.into_iter().map(|item| ((2, fleet_view::name_of_instance(&item)), Item::Instance(item)));
    clusters.chain(generals).chain(instances).map(|(key, item)| (key, Arc::new(item))).collect()
}

fn changes(before: &ByKey, after: &ByKey) -> Vec<Item> {
    let new = after.iter().filter(|(key, item)| before.get(*key) != Some(*item)).map(|(_, item)| Item::clone(item));
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key)).filter_map(|(_, item)| removed(item));
    new.chain(gone).collect()
}

fn removed(item: &Item) -> Option<Item> {
    let target = match item {
        Item::Cluster(cluster) => target::Target::Cluster(cluster.name.clone()),
        Item::General(general) => {
            target::Target::General(GeneralName { cluster: general.cluster.clone(), name: general.name.clone() })
        }
        Item::Instance(instance) => target::Target::Instance(InstanceName {
            cluster: instance.cluster.clone(),
            instance_id: instance.instance_id.clone(),
        }),
        Item::Removed(_) => return None,
    };
    Some(Item::Removed(Target { target: Some(target) }))
}

#[cfg(test)]
mod tests {
    use mindos_proto::fleet::v1::Cluster;

    use super::*;

    fn items(clusters: &[(&str, u32)]) -> ByKey {
        let cluster = |(name, generals): &(&str, u32)| Cluster {
            name: (*name).to_owned(),
            generals: *generals,
            ..Cluster::default()
        };
        by_key(Items { clusters: clusters.iter().map(cluster).collect(), ..Items::default() })
    }

    #[test]
    fn only_what_differs_is_sent() {
        let before = items(&[("a", 1), ("b", 1), ("c", 1)]);
        let after = items(&[("a", 1), ("b", 2), ("d", 1)]);
        let changes = changes(&before, &after);
        assert!(matches!(&changes[..], [
            Item::Cluster(b),
            Item::Cluster(d),
            Item::Removed(Target { target: Some(target::Target::Cluster(c)) }),
        ] if b.name == "b" && d.name == "d" && c == "c"));
    }
}
