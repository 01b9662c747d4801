//! The service: `externalscaler.ExternalScaler`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::Request as HttpRequest;
use mindos_core::demand::Demand;
use mindos_model::GeneralType;
use mindos_proto::externalscaler::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use mindos_proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response as Answer, Status};
use tracing::warn;

use super::config::KedaConfig;
use super::demands::{Demands, Pool};
use super::scale::{Said, Scale};
use crate::metrics::{Exposition, Kind};
use crate::net::Connection;

/// The one metric: deliveries that could be begun and those that are in work.
const METRIC: &str = "mindos-work";
/// How often a stream looks again, where nothing changes.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Messages that may lie for KEDA.
const MESSAGES_MAX: usize = 4;

#[derive(Debug)]
struct Scaler {
    demands: Arc<Demands>,
    config: Arc<KedaConfig>,
    draining: watch::Receiver<bool>,
}

/// The service over what pools have to do.
#[must_use]
pub fn service(
    demands: Arc<Demands>,
    config: Arc<KedaConfig>,
    draining: watch::Receiver<bool>,
) -> ExternalScalerServer<impl ExternalScaler> {
    ExternalScalerServer::new(Scaler { demands, config, draining })
}

/// What a ScaledObject asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scaled {
    pool: Pool,
    ty: GeneralType,
    said: Said,
}

impl Scaled {
    fn read(object: &ScaledObjectRef, config: &KedaConfig) -> Result<Scaled, Status> {
        let ScaledObjectRef { name: _, namespace: _, scaler_metadata } = object;
        let general = required(scaler_metadata, "general")?;
        let cluster = required(scaler_metadata, "cluster")?;
        let tenant = scaler_metadata.get("tenant").map_or("default", String::as_str);
        let ty = scaler_metadata.get("type").map_or(general, String::as_str);
        let unfit = |field| move |_| invalid(field, "expected a name of a-z, 0-9 and -, such as code-review");
        let scaled = Scaled {
            pool: Pool {
                tenant: tenant.parse().map_err(unfit("tenant"))?,
                cluster: cluster.parse().map_err(|_| invalid("cluster", "expected the name of a cluster"))?,
                general: general.parse().map_err(|_| invalid("general", "expected the name of a general"))?,
            },
            ty: ty.parse().map_err(|_| invalid("type", "expected the type of the general"))?,
            said: Said::read(scaler_metadata)?,
        };
        let Pool { tenant, cluster, general: _ } = &scaled.pool;
        if !config.keda_tenants.contains(tenant) {
            let message = format!("scalerMetadata.tenant: KEDA may not ask for tenant {tenant}: see --keda-tenants");
            return Err(Status::permission_denied(message));
        }
        if !config.keda_clusters.is_empty() && !config.keda_clusters.contains(cluster) {
            let message =
                format!("scalerMetadata.cluster: KEDA may not ask for cluster {cluster}: see --keda-clusters");
            return Err(Status::permission_denied(message));
        }
        Ok(scaled)
    }
}

fn required<'a>(metadata: &'a BTreeMap<String, String>, field: &str) -> Result<&'a str, Status> {
    metadata.get(field).map(String::as_str).ok_or_else(|| invalid(field, "is required in the metadata of the trigger"))
}

pub(super) fn invalid(field: &str, expected: &str) -> Status {
    Status::invalid_argument(format!("scalerMetadata.{field}: {expected}"))
}

/// What counts: work that could be begun, and work that goes on.
fn work(demand: Demand) -> u64 {
    demand.ready + demand.running
}

/// How a pool is scaled at this time.
async fn scale(demands: &Demands, scaled: &Scaled) -> Result<Scale, Status> {
    Ok(scaled.said.over(demands.object(&scaled.pool).await?.as_ref()))
}

/// Whether a pool is wanted; where it is so without work, until when.
fn active(demands: &Demands, scaled: &Scaled, scale: &Scale, demand: Demand) -> (bool, Option<Instant>) {
    if work(demand) > 0 || scale.is_standing() {
        return (true, None);
    }
    let until = demands.busy_at(&scaled.pool).map(|at| at + scale.idle).filter(|until| *until > Instant::now());
    (until.is_some(), until)
}

impl Scaler {
    fn read(&self, object: &ScaledObjectRef) -> Result<Scaled, Status> {
        Scaled::read(object, &self.config)
    }

    async fn spec(&self, scaled: &Scaled) -> Result<GetMetricSpecResponse, Status> {
        let Scale { slots, .. } = scale(&self.demands, scaled).await?;
        let spec =
            MetricSpec { metric_name: METRIC.to_owned(), target_size: slots.into(), target_size_float: slots.into() };
        Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Answer<IsActiveResponse>, Status> {
        let scaled = self.read(request.get_ref())?;
        let demand = self.demands.now(&scaled.pool, &scaled.ty).await?;
        let scale = scale(&self.demands, &scaled).await?;
        let (result, _) = active(&self.demands, &scaled, &scale, demand);
        Ok(Answer::new(IsActiveResponse { result }))
    }

    type StreamIsActiveStream = Answers<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Answer<Self::StreamIsActiveStream>, Status> {
        let scaled = self.read(request.get_ref())?;
        let mut demand = self.demands.watch(&scaled.pool, &scaled.ty).await?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let mut draining = self.draining.clone();
        let demands = Arc::clone(&self.demands);
        let mut bounds = scale(&demands, &scaled).await?;
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let found = *demand.borrow_and_update();
                // Where the plane does not answer, what it said before holds.
                if let Ok(newer) = scale(&demands, &scaled).await {
                    bounds = newer;
                }
                let (result, until) = active(&demands, &scaled, &bounds, found);
                if told != Some(result) {
                    told = Some(result);
                    // Who does not take it is waited for, and then told how it is by then.
                    if sender.send(Ok(IsActiveResponse { result })).await.is_err() {
                        return;
                    }
                }
                // The object of a pool may change while nothing else does.
                let look = until.map_or(LOOK_INTERVAL, |until| until.duration_since(Instant::now()).min(LOOK_INTERVAL));
                tokio::select! {
                    changed = demand.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(look) => {}
                    () = sender.closed() => return,
                    _ = draining.wait_for(|draining| *draining) => {
                        let _ = sender.try_send(Err(Status::unavailable("the control plane is stopping")));
                        return;
                    }
                }
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Answer<GetMetricSpecResponse>, Status> {
        Ok(Answer::new(self.spec(&self.read(request.get_ref())?).await?))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Answer<GetMetricsResponse>, Status> {
        let GetMetricsRequest { scaled_object_ref, metric_name } = request.get_ref();
        let object = scaled_object_ref.as_ref();
        let object = object.ok_or_else(|| Status::invalid_argument("scaledObjectRef: is required"))?;
        let scaled = self.read(object)?;
        if metric_name != METRIC {
            return Err(Status::invalid_argument(format!("metricName: expected {METRIC}")));
        }
        let work = work(self.demands.now(&scaled.pool, &scaled.ty).await?);
        let work = scale(&self.demands, &scaled).await?.bounded(work);
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: i64::try_from(work).unwrap_or(i64::MAX),
            metric_value_float: work as f64,
        };
        Ok(Answer::new(GetMetricsResponse { metric_values: vec![value] }))
    }

    type StreamMetricSpecStream = Answers<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Answer<Self::StreamMetricSpecStream>, Status> {
        let spec = self.spec(&self.read(request.get_ref())?).await?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let mut draining = self.draining.clone();
        // Who wants to know whether the object of the general says something else asks again.
        tokio::spawn(async move {
            let _ = sender.try_send(Ok(spec));
            tokio::select! {
                () = sender.closed() => {}
                _ = draining.wait_for(|draining| *draining) => {
                    let _ = sender.try_send(Err(Status::unavailable("the control plane is stopping")));
                }
            }
        });
        Ok(Answer::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Stands before the service: lets in from where KEDA may ask.
#[derive(Debug)]
pub struct Admission {
    config: Arc<KedaConfig>,
    /// Nobody is asked who they are.
    is_open: bool,
    turned: AtomicU64,
}

impl Admission {
    /// By those options.
    #[must_use]
    pub fn new(config: Arc<KedaConfig>, is_open: bool) -> Admission {
        Admission { config, is_open, turned: AtomicU64::new(0) }
    }

    /// Refuses a request for where it comes from, before it is read.
    pub async fn guard(State(this): State<Arc<Admission>>, request: HttpRequest<Body>, next: Next) -> Response {
        let connection = request.extensions().get::<Connection>().cloned();
        let peer = connection.as_ref().map(|connection| connection.peer.ip().to_canonical());
        if peer.is_some_and(|peer| this.config.admits(peer, this.is_open)) {
            if let Some(connection) = &connection {
                connection.let_in().await;
            }
            return next.run(request).await;
        }
        if this.turned.fetch_add(1, Ordering::Relaxed).is_power_of_two() {
            warn!(?peer, "KEDA was refused for the address that it asks from: see --keda-sources");
        }
        let message = "this address may not ask: a range that holds it has to stand in --keda-sources";
        Status::permission_denied(message).into_http::<Body>()
    }

    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Requests of KEDA refused for the address that they came from.";
        into.single("mindos_keda_refused_sources_total", Kind::Counter, help, self.turned.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        keda: KedaConfig,
    }

    fn read(metadata: &[(&str, &str)], arguments: &[&str]) -> Result<Scaled, String> {
        let scaler_metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let object = ScaledObjectRef { name: "o".to_owned(), namespace: "n".to_owned(), scaler_metadata };
        let config = Command::parse_from([&["test"], arguments].concat()).keda;
        Scaled::read(&object, &config).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn metadata_is_read_and_what_is_wrong_is_named() {
        let scaled = read(&[("general", "review"), ("cluster", "eu"), ("scalerAddress", "x:1")], &[]).unwrap();
        assert_eq!((scaled.ty.as_str(), scaled.pool.tenant.as_str()), ("review", "default"));
        assert_eq!(scaled.said.over(None).slots, 1);
        let eu = [("general", "review"), ("cluster", "eu")];
        let with = |key, value| [&eu[..], &[(key, value)]].concat();
        for (metadata, named) in [
            (vec![("cluster", "eu")], "scalerMetadata.general: is required"),
            (vec![("general", "review")], "scalerMetadata.cluster: is required"),
            (with("slots", "x"), "scalerMetadata.slots: expected a number, 1 to 1000"),
            (with("tenant", "other"), "KEDA may not ask for tenant other"),
            (with("tenant", "Not A Name"), "scalerMetadata.tenant"),
            (with("type", "Not A Type"), "scalerMetadata.type"),
        ] {
            let error = read(&metadata, &[]).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert!(read(&eu, &["--keda-clusters", "us"]).unwrap_err().contains("--keda-clusters"));
        assert!(read(&with("tenant", "other"), &["--keda-tenants", "other"]).is_ok());
    }
}
