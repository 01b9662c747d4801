//! The Lease in the cluster: read, taken, renewed and given up, as the election says.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mindos_sdk::Trunk;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::discovery::chain;
use crate::election::{Election, Held, Step};
use crate::metrics::Metrics;

/// How often it is asked whether the control plane gave streams of this agent to another.
const LOOK: Duration = Duration::from_secs(1);
/// How long the Lease may take to be given up at the end.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// Keeps this agent in the election.
pub(crate) struct Leader {
    api: Api<Lease>,
    name: String,
    me: String,
    duration: Duration,
    election: Election,
    began: Instant,
    trouble: Option<String>,
}

impl Leader {
    pub(crate) fn new(client: Client, config: &Config, me: &str) -> Leader {
        Leader {
            api: Api::namespaced(client, &config.namespace),
            name: config.lease.clone(),
            me: me.to_owned(),
            duration: config.lease_duration,
            election: Election::new(me, config.lease_duration),
            began: Instant::now(),
            trouble: None,
        }
    }

    /// Says whether this agent is at work, until nobody listens.
    pub(crate) async fn run(&mut self, leading: &watch::Sender<bool>, trunk: &Trunk, metrics: &Metrics) {
        let (mut due, mut takeovers) = (Instant::now(), trunk.takeovers());
        loop {
            if due <= Instant::now() {
                let interval = self.election.interval();
                let reached = self.attempt(interval, metrics).await;
                due = Instant::now() + interval;
                // Who was halted may find its streams another's: it opens none before it has looked again. Who cannot reach the API server
                // goes on, since nobody else can take the Lease either.
                let known_for = if reached { self.duration } else { interval * 2 + LOOK };
                trunk.open_until(std::time::Instant::now() + known_for);
            }
            let now_taken = trunk.takeovers();
            if std::mem::replace(&mut takeovers, now_taken) != now_taken
                && self.election.taken_over(self.began.elapsed())
            {
                warn!("another agent is at work, and this one cannot reach the api server: it stands back");
            }
            let is_leading = self.election.is_leading();
            metrics.leader.set(i64::from(is_leading));
            let changed = leading.send_if_modified(|was| std::mem::replace(was, is_leading) != is_leading);
            if changed {
                info!(agent = self.me, leading = is_leading, "leadership changed");
            }
            sleep(LOOK.min(self.election.interval())).await;
        }
    }

    /// Gives the Lease up, so that another agent need not wait.
    pub(crate) async fn release(&mut self) {
        if !self.election.is_leading() {
            return;
        }
        let given_up = timeout(RELEASE_MAX, async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        });
        match given_up.await {
            Ok(Ok(())) => info!("lease given up"),
            Ok(Err(error)) => warn!(error = %chain(&error), "lease not given up"),
            Err(_) => warn!("lease not given up: no answer"),
        }
    }

    /// Returns whether the API server answered.
    async fn attempt(&mut self, within: Duration, metrics: &Metrics) -> bool {
        let outcome = match timeout(within, self.step()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some(format!("no answer within {} s", within.as_secs())),
        };
        if let Some(error) = &outcome {
            metrics.lease_errors.add(1);
            if self.trouble.as_ref() == Some(error) {
                debug!(error, lease = self.name, "lease not renewed");
            } else {
                warn!(error, lease = self.name, leading = self.election.is_leading(), "lease not renewed");
            }
        }
        let reached = outcome.is_none();
        self.trouble = outcome;
        reached
    }

    async fn step(&mut self) -> Result<(), kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let held = lease.as_ref().map(held);
        let step = self.election.read(held.as_ref(), self.began.elapsed());
        let written = match (step, lease) {
            (Step::Wait, _) => return Ok(()),
            (Step::Take | Step::Renew, None) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.claim(LeaseSpec::default())) };
                self.api.create(&PostParams::default(), &lease).await
            }
            // With the version that was read: whoever writes first has it.
            (Step::Take | Step::Renew, Some(mut lease)) => {
                lease.spec = Some(self.claim(lease.spec.unwrap_or_default()));
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => {
                self.election.written(self.began.elapsed());
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!(lease = self.name, "another agent wrote the lease");
                self.election.lost();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn claim(&self, before: LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let is_new = before.holder_identity.as_deref() != Some(&self.me);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if is_new { Some(now.clone()) } else { before.acquire_time },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(i32::from(is_new))),
            ..before
        }
    }
}

fn held(lease: &Lease) -> Held {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    Held {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(seconds),
    }
}
