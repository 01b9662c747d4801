//! Agents: what a stream's opening tells, and what it is told.

use std::sync::Arc;

use crate::decide::{Context, Decision};
use crate::durable::Durable;
use crate::input::Hello;
use crate::output::{CloseReason, Output, PlaneMessage};
use crate::record::{ClusterRegistered, GeneralKey, GeneralRegistered, Labels, Record};

/// Labels that say where one instance stands: its own, and not of its general.
const PLACES: [&str; 2] = ["kubernetes.io/hostname", "topology.kubernetes.io/"];

/// The labels of an instance that are its general's as well. Without those of its place, or each instance's hello would leave a record.
fn shared(labels: &Labels) -> Labels {
    let is_place = |name: &str| PLACES.iter().any(|place| name.starts_with(place));
    labels.iter().filter(|(name, _)| !is_place(name)).cloned().collect()
}

impl Durable {
    /// What a hello tells of clusters and generals that was not known. Applied before the hello is observed.
    pub(crate) fn introduce(&self, hello: &Hello, generals_max: usize) -> Vec<Record> {
        let Hello { key, region, cluster_labels, generals, .. } = hello;
        let mut records = Vec::new();
        let known = self.registry.clusters.get(&(key.tenant.clone(), key.cluster.clone()));
        // What an agent does not say of its cluster leaves what is known: others may say it.
        let region = region.clone().or_else(|| known.and_then(|known| known.region.clone()));
        let labels = match known {
            Some(known) if cluster_labels.is_empty() => &known.labels,
            _ => cluster_labels,
        };
        let (region, labels) = self.cluster_said((&key.tenant, &key.cluster), &region, labels);
        if known.is_none_or(|known| known.region != region || known.labels != labels) {
            records.push(Record::ClusterRegistered(Box::new(ClusterRegistered {
                tenant: key.tenant.clone(),
                cluster: key.cluster.clone(),
                region,
                labels,
            })));
        }
        let mut room = generals_max.saturating_sub(self.registry.len());
        for named in generals {
            let key = GeneralKey { tenant: key.tenant.clone(), cluster: key.cluster.clone(), name: named.name.clone() };
            let known = self.registry.find(&key).map(|idx| self.registry.general(idx));
            let (ty, labels) = self.general_said(&key, &named.ty, &shared(&named.labels));
            if known.is_some_and(|known| known.ty == ty && known.labels == labels) {
                continue;
            }
            if known.is_none() {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            let record = GeneralRegistered { key, ty, labels };
            records.push(Record::GeneralRegistered(Box::new(record)));
        }
        records
    }

    pub(crate) fn hello(&self, hello: Hello, context: Context<'_>) -> Decision {
        let Hello { session, key, boot, held, .. } = hello;
        let (verdicts, records) = self.claims(&key, Some(&boot), &held, context);
        let welcome = PlaneMessage::Welcome { epoch: self.epoch, verdicts };
        let mut outputs = vec![Output::Send { session, message: welcome }];
        let replaced = context.soft.sessions.get(&session).and_then(|session| session.replaced);
        outputs.extend(replaced.map(|session| Output::Close { session, reason: CloseReason::Replaced }));
        let cluster = self.registry.cluster_holds(&key.tenant, &key.cluster);
        if self.registry.instance_holds(&key).with(cluster).draining {
            outputs.push(Output::Send { session, message: PlaneMessage::Drain });
        }
        Decision { records: records.into(), outputs: outputs.into() }
    }

    /// A general that nothing is known to serve, and that nothing waits for.
    pub(crate) fn forgotten(&self, idx: crate::registry::GeneralIdx, context: Context<'_>) -> Option<Record> {
        let general = self.registry.get(idx)?;
        let is_served = context.soft.pool(idx).is_some_and(|pool| pool.members > 0);
        let is_served = is_served || context.soft.keeps_pool(idx, context.now);
        let has_work = general.bound > 0 || general.leased > 0;
        let key = GeneralKey::clone(&general.key);
        let thing = crate::object::Thing::General(key.cluster.clone(), key.name.clone());
        if self.objects.owner(&key.tenant, thing).is_some() {
            return None;
        }
        let record = crate::record::GeneralRemoved { key, by: Arc::from(""), from: Arc::from("") };
        (!is_served && !has_work).then_some(Record::GeneralRemoved(Box::new(record)))
    }
}
