//! The control plane's side: what it holds, how objects fare there, and what is asked of it.
//!
//! ```text
//!  stream opened --> list, page by page --> `Held` --> statuses as they come ... --> `Away`, and again after a while
//!                          ^ every resync
//! ```
//! Invariant: `Held` comes before any status of a connection, and after `Away` nothing does but the next `Held`.

use std::collections::BTreeMap;
use std::time::Duration;

use mindos_proto::cluster::v1::cluster_service_client::ClusterServiceClient;
use mindos_proto::cluster::v1::{
    ApplyObjectRequest, ConditionStatus, DeleteObjectRequest, HeldObject, ListObjectsRequest, WatchStatusRequest,
};
use mindos_sdk::Channel;
use mindos_sdk::model::ClusterName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};

use super::known::{Held, Known, Ref, Refusal, Stand};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// The stream says something at least every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
const PAGE: u32 = 1000;
/// By which header the cluster is said where nobody is asked who they are.
const CLUSTER_HEADER: &str = "mindos-cluster";

/// What the control plane tells.
#[derive(Debug)]
pub(super) enum Told {
    /// All that it holds.
    Held(BTreeMap<Ref, Held>),
    /// How some fare.
    Stands(Vec<(Ref, Stand)>),
    Away(Status),
}

/// What came of an object.
#[derive(Debug)]
pub(super) enum Brought {
    Accepted,
    Refused(Refusal),
}

/// Calls to the control plane.
#[derive(Clone)]
pub(super) struct Caller {
    client: ClusterServiceClient<Channel>,
    cluster: ClusterName,
}

impl Caller {
    pub(super) fn new(channel: Channel, cluster: ClusterName) -> Caller {
        Caller { client: ClusterServiceClient::new(channel), cluster }
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // Names are of letters that metadata may have.
        if let Ok(cluster) = self.cluster.as_str().parse() {
            request.metadata_mut().insert(CLUSTER_HEADER, cluster);
        }
        request
    }

    /// Brings an object. What the control plane does not want, now or ever, is a refusal; what may be tried again is an error.
    pub(super) async fn apply(&self, of: &Ref, known: &Known) -> Result<Brought, Status> {
        let (uid, generation, spec) = (known.uid.clone(), known.generation, known.spec.clone());
        let request = self.ask(ApplyObjectRequest { object: Some(of.wire()), uid, generation, spec });
        let refusal = |reason: &str, message: &str| {
            let (uid, generation) = (known.uid.clone(), known.generation);
            Brought::Refused(Refusal { uid, generation, reason: reason.to_owned(), message: message.to_owned() })
        };
        match within(self.client.clone().apply_object(request)).await {
            Ok(response) if response.get_ref().accepted => Ok(Brought::Accepted),
            Ok(response) => {
                let mut no = response.into_inner().conditions.into_iter();
                let no = no.find(|one| one.status == i32::from(ConditionStatus::False));
                Ok(no.map_or_else(|| refusal("Refused", ""), |no| refusal(&no.reason, &no.message)))
            }
            Err(status) => match status.code() {
                // The latter for what is too large for a message.
                Code::InvalidArgument | Code::OutOfRange => Ok(refusal("Invalid", status.message())),
                Code::PermissionDenied => Ok(refusal("Denied", status.message())),
                _ => Err(status),
            },
        }
    }

    /// Says that an object is gone.
    pub(super) async fn delete(&self, of: &Ref, uid: &str) -> Result<(), Status> {
        let request = self.ask(DeleteObjectRequest { object: Some(of.wire()), uid: uid.to_owned() });
        within(self.client.clone().delete_object(request)).await.map(drop)
    }

    async fn list(&self) -> Result<BTreeMap<Ref, Held>, Status> {
        let (mut held, mut page_token) = (BTreeMap::new(), String::new());
        loop {
            let request = self.ask(ListObjectsRequest { page_size: PAGE, page_token });
            let page = within(self.client.clone().list_objects(request)).await?.into_inner();
            held.extend(page.objects.into_iter().filter_map(|object| {
                let HeldObject { object, uid, generation, spec_digest } = object;
                Some((Ref::of_wire(object?)?, Held { uid, generation, digest: spec_digest }))
            }));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(held);
            }
        }
    }

    /// Tells what the control plane holds and how it fares, through every absence, until nobody listens.
    pub(super) async fn follow(self, resync: Duration, sender: mpsc::Sender<Told>) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let Err(status) = self.connection(resync, &sender).await else { return };
            if begun.elapsed() > Duration::from_secs(60) {
                failures = 0;
            }
            if sender.send(Told::Away(status)).await.is_err() {
                return;
            }
            let wait = Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(15));
            failures += 1;
            sleep(wait.mul_f64(0.5 + super::work::chance() / 2.0)).await;
        }
    }

    /// One stream and what is listed beside it. Ends with `Ok` when nobody listens.
    async fn connection(&self, resync: Duration, sender: &mpsc::Sender<Told>) -> Result<(), Status> {
        let request = self.ask(WatchStatusRequest {});
        let mut stream = within(self.client.clone().watch_status(request)).await?.into_inner();
        if sender.send(Told::Held(self.list().await?)).await.is_err() {
            return Ok(());
        }
        let mut next = Instant::now() + resync;
        loop {
            let told = tokio::select! {
                message = timeout(SILENCE_MAX, stream.message()) => match message {
                    Ok(Ok(Some(message))) => {
                        let stands: Vec<_> = message.objects.into_iter().filter_map(Stand::of).collect();
                        if stands.is_empty() {
                            continue;
                        }
                        Told::Stands(stands)
                    }
                    Ok(Ok(None)) => return Err(Status::unavailable("the control plane ended the stream")),
                    Ok(Err(status)) => return Err(status),
                    Err(_) => return Err(Status::unavailable("the control plane says nothing")),
                },
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + resync;
                    Told::Held(self.list().await?)
                }
            };
            if sender.send(told).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::unavailable("no answer from the control plane")),
    }
}
