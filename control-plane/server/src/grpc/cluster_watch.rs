//! Watching how objects of a cluster fare: the whole first, then what differs, at most once in a second.
//!
//! Invariant: what a watcher was sent is what the objects were like at the last look, whatever happened in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mindos_core::object::ObjectKey;
use mindos_model::Seq;
use mindos_proto::cluster::v1::{ObjectStatus, WatchStatusResponse};
use tonic::Status;

use super::cluster::{Site, condition, reference};
use super::status;
use super::watch::{Ended, LIFE_INTERVAL, Sender};
use crate::clusters::standing::{Seen, asks_for};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Objects in one message.
const OBJECTS_MAX: usize = 500;

type Statuses = BTreeMap<ObjectKey, ObjectStatus>;

/// Sends how objects fare until the watcher goes.
pub(super) async fn show(site: &Site, sender: &Sender<WatchStatusResponse>) -> Result<(), Ended> {
    let mut sent = Statuses::new();
    let mut caught_up = false;
    let mut heard = Instant::now();
    loop {
        let found = match look(site).await {
            Ok(found) => found,
            Err(status) => return Err(sender.end(status)),
        };
        let differs = found.iter().filter(|(key, status)| sent.get(*key) != Some(*status));
        let changed: Vec<ObjectStatus> = differs.map(|(_, status)| status.clone()).collect();
        let mut chunks = changed.chunks(OBJECTS_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            caught_up |= chunks.peek().is_none();
            heard = Instant::now();
            sender.send(WatchStatusResponse { objects: chunk.to_vec(), caught_up }, Seq::ZERO).await?;
        }
        if !caught_up || heard.elapsed() >= LIFE_INTERVAL {
            caught_up = true;
            heard = Instant::now();
            sender.send(WatchStatusResponse { objects: Vec::new(), caught_up }, Seq::ZERO).await?;
        }
        sent = found;
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = site.context.drained() => return Err(sender.end(status::stopped(crate::driver::Stopped).into())),
        }
    }
}

async fn look(site: &Site) -> Result<Statuses, Status> {
    let objects = site.objects(Some(site.cluster.clone())).await?;
    if objects.is_empty() {
        return Ok(Statuses::new());
    }
    let (budgets, routes) = asks_for(&objects);
    let fleet = site.context.fleet().await?;
    let budgets = if budgets { site.context.budget_views().await? } else { Vec::new() };
    let table = if routes { Some(site.context.routes_in_force().await?.0) } else { None };
    let seen = Seen::new(&fleet, &budgets, table.as_deref());
    let statuses = objects.iter().map(|object| {
        let standing = seen.standing(object);
        let status = ObjectStatus {
            object: Some(reference(&object.key)),
            uid: object.uid.to_string(),
            generation: object.generation,
            conditions: standing.conditions.iter().map(condition).collect(),
            status: standing.status,
        };
        (object.key.clone(), status)
    });
    Ok(statuses.collect())
}
