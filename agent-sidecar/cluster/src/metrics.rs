//! What an agent counts, as Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number of this moment.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Counter {
    /// One more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// From now on this many.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// So many more, or fewer.
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ident = $name:literal,)*) => {
        /// What an agent counts.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl Metrics {
            /// The text format of Prometheus.
            #[must_use]
            pub fn text(&self) -> String {
                let mut text = String::new();
                $(
                    let help = concat!($($help),+).trim();
                    let _ = writeln!(text, "# HELP {} {help}\n# TYPE {} {}\n{} {}", $name, $name, $type::KIND, $name, self.$field.get());
                )*
                text
            }
        }
    };
}

impl Counter {
    const KIND: &str = "counter";
}

impl Gauge {
    const KIND: &str = "gauge";
}

metrics! {
    /// Whether this agent is the one of its cluster that is at work.
    leader: Gauge = "mindos_cluster_agent_leader",
    /// Whether the first look at the cluster is complete.
    synced: Gauge = "mindos_cluster_agent_synced",
    /// Pods of generals that are known.
    pods: Gauge = "mindos_cluster_agent_pods",
    /// Services of generals that are known.
    services: Gauge = "mindos_cluster_agent_services",
    /// Generals that have an instance here.
    generals: Gauge = "mindos_cluster_agent_generals",
    /// Instances that are served.
    instances: Gauge = "mindos_cluster_agent_instances",
    /// Instances whose pods are ready.
    instances_ready: Gauge = "mindos_cluster_agent_instances_ready",
    /// Instances that are leaving.
    instances_leaving: Gauge = "mindos_cluster_agent_instances_leaving",
    /// Instances that were begun.
    instances_started: Counter = "mindos_cluster_agent_instances_started_total",
    /// Pods and Services that are not served because a label or annotation is not accepted.
    refused: Gauge = "mindos_cluster_agent_objects_refused",
    /// Deliveries that were given to pods.
    work: Counter = "mindos_cluster_agent_work_total",
    /// Deliveries that pods failed.
    work_failed: Counter = "mindos_cluster_agent_work_failed_total",
    /// Deliveries that pods work on.
    work_running: Gauge = "mindos_cluster_agent_work_running",
    /// Objects of Mind OS that are there.
    objects: Gauge = "mindos_cluster_agent_custom_objects",
    /// Objects of Mind OS that the control plane does not take.
    objects_refused: Gauge = "mindos_cluster_agent_custom_objects_refused",
    /// Objects of Mind OS that were brought to the control plane.
    objects_applied: Counter = "mindos_cluster_agent_custom_objects_applied_total",
    /// Steps for objects of Mind OS that could not be taken.
    object_errors: Counter = "mindos_cluster_agent_custom_object_errors_total",
    /// Streams to the control plane.
    streams: Gauge = "mindos_cluster_agent_streams",
    /// Connections that they share.
    connections: Gauge = "mindos_cluster_agent_connections",
    /// Changes that the API server told.
    events: Counter = "mindos_cluster_agent_watch_events_total",
    /// Lists that were read from their beginning.
    lists: Counter = "mindos_cluster_agent_lists_total",
    /// Answers of the API server that were errors, and answers that did not come.
    watch_errors: Counter = "mindos_cluster_agent_watch_errors_total",
    /// Tries to renew the Lease that failed.
    lease_errors: Counter = "mindos_cluster_agent_lease_errors_total",
    /// Seconds until the certificate ends; below zero when it has.
    certificate_left: Gauge = "mindos_cluster_agent_certificate_left_seconds",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_help_type_and_value() {
        let metrics = Metrics::default();
        metrics.leader.set(1);
        metrics.work.add(3);
        let text = metrics.text();
        assert!(text.contains("# TYPE mindos_cluster_agent_leader gauge\nmindos_cluster_agent_leader 1\n"), "{text}");
        assert!(text.contains("# TYPE mindos_cluster_agent_work_total counter\nmindos_cluster_agent_work_total 3\n"));
        let named: Vec<_> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
        assert!(named.iter().all(|line| line.starts_with("# HELP mindos_cluster_agent_")), "{named:?}");
        assert!(Metrics::default().text().lines().all(|line| !line.ends_with("counter") || line.contains("_total ")));
    }
}
