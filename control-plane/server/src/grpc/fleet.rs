//! The fleet: `mindos.fleet.v1.FleetService`.

use std::sync::Arc;

use mindos_core::input::{Input, Query};
use mindos_core::output::{FleetView, Reply};
use mindos_core::record::{HoldTarget, Holds};
use mindos_proto::convert::{Invalid, parsed};
use mindos_proto::fleet::v1::fleet_service_server::FleetService;
use mindos_proto::fleet::v1::{
    Cluster, CordonRequest, CordonResponse, DrainRequest, DrainResponse, General, GetClusterRequest,
    GetClusterResponse, GetGeneralRequest, GetGeneralResponse, GetInstanceRequest, GetInstanceResponse, Instance,
    ListClustersRequest, ListClustersResponse, ListGeneralsRequest, ListGeneralsResponse, ListInstancesRequest,
    ListInstancesResponse, PauseRequest, PauseResponse, ResumeRequest, ResumeResponse, Target, UncordonRequest,
    UncordonResponse, WatchRequest, WatchResponse, target,
};
use tonic::{Request, Response, Status};

use super::fleet_view::{self, Filter, Items};
use super::watch::{self, Watched};
use super::{Context, fleet_watch, page_size, status, words};
use crate::access::Scoped;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) context: Arc<Context>,
}

impl Scoped {
    /// Everything about the tenant's fleet, as it is.
    pub(crate) async fn fleet(&self) -> Result<Box<FleetView>, Status> {
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query: Query::Fleet };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Fleet(view) => Ok(view),
            other => Err(super::unexpected(&other)),
        }
    }
}

/// What a kind of hold may be put on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    AllButRoutes,
    AllButInstances,
}

fn hold_target(target: Option<Target>, allowed: Allowed) -> Result<HoldTarget, Invalid> {
    let target = target.and_then(|target| target.target).ok_or_else(|| Invalid::new("target", "is required"))?;
    match target {
        target::Target::Cluster(name) => Ok(HoldTarget::Cluster(parsed(&name, "target.cluster")?)),
        target::Target::General(name) => {
            let (cluster, general) = (&name).try_into().map_err(|error: Invalid| error.within("target.general"))?;
            Ok(HoldTarget::General(cluster, general))
        }
        target::Target::Instance(name) if allowed == Allowed::AllButRoutes => {
            let (cluster, instance) = (&name).try_into().map_err(|error: Invalid| error.within("target.instance"))?;
            Ok(HoldTarget::Instance(cluster, instance))
        }
        target::Target::Route(name) if allowed == Allowed::AllButInstances => {
            Ok(HoldTarget::Route(parsed(&name, "target.route")?))
        }
        target::Target::Instance(_) => {
            Err(Invalid::new("target", "is an instance: expected a cluster, general or route"))
        }
        target::Target::Route(_) => Err(Invalid::new("target", "is a route: expected a cluster, general or instance")),
    }
}

/// The holds that are in force on a target; one that is not known has none.
fn holds_on(fleet: &FleetView, target: &HoldTarget) -> Holds {
    let found = match target {
        HoldTarget::Cluster(name) => {
            fleet.clusters.iter().find(|cluster| cluster.cluster == *name).map(|cluster| cluster.holds)
        }
        HoldTarget::General(cluster, name) => {
            let wanted = |key: &mindos_core::record::GeneralKey| key.cluster == *cluster && key.name == *name;
            fleet.generals.iter().find(|general| wanted(&general.key)).map(|general| general.holds)
        }
        HoldTarget::Instance(cluster, id) => {
            let wanted = |key: &mindos_core::record::InstanceKey| key.cluster == *cluster && key.instance == *id;
            fleet.instances.iter().find(|instance| wanted(&instance.key)).map(|instance| instance.holds)
        }
        HoldTarget::Route(name) => fleet.holds.get(name).copied(),
    };
    found.unwrap_or_default()
}

/// Leases that are held at a target.
fn leases_at(fleet: &FleetView, target: &HoldTarget) -> u64 {
    let instances = fleet.instances.iter().filter(|instance| match target {
        HoldTarget::Cluster(name) => instance.key.cluster == *name,
        HoldTarget::General(cluster, _) => instance.key.cluster == *cluster,
        HoldTarget::Instance(cluster, id) => instance.key.cluster == *cluster && instance.key.instance == *id,
        HoldTarget::Route(_) => false,
    });
    let loads = instances.flat_map(|instance| &instance.generals).filter(|(general, ..)| match target {
        HoldTarget::General(_, name) => general.name == *name,
        _ => true,
    });
    loads.map(|(_, load, ..)| u64::from(load.open)).sum()
}

impl Scoped {
    /// Sets a hold; returns whether it was not in force before, and how many leases are held there.
    async fn hold(
        &self,
        target: Result<HoldTarget, Invalid>,
        begin: Holds,
        reason: &str,
    ) -> Result<(bool, u64), Status> {
        let target = target.map_err(status::invalid)?;
        let why = words::why(reason).map_err(status::invalid)?;
        let fleet = self.fleet().await?;
        let leases = leases_at(&fleet, &target);
        let changed = !begin.without(holds_on(&fleet, &target)).is_none();
        self.set(target, Holds::NONE, begin, why).await?;
        Ok((changed, leases))
    }

    /// Ends the holds named, and no others; returns whether one was in force.
    async fn release(&self, target: Result<HoldTarget, Invalid>, end: Holds, reason: &str) -> Result<bool, Status> {
        let target = target.map_err(status::invalid)?;
        let why = words::why(reason).map_err(status::invalid)?;
        let before = holds_on(&*self.fleet().await?, &target);
        self.set(target, end, Holds::NONE, why).await?;
        Ok(before.without(end) != before)
    }

    async fn set(&self, target: HoldTarget, end: Holds, begin: Holds, why: Arc<str>) -> Result<(), Status> {
        let (tenant, by, from) = (self.tenant().clone(), self.by(), self.from());
        let hold = |request| Input::Hold { request, tenant, target, end, begin, why, by, from };
        let reply = self.handle.call(hold).await;
        match reply.map_err(|error| status::call(&error))? {
            Reply::Done { .. } => Ok(()),
            other => Err(super::unexpected(&other)),
        }
    }

    async fn items(&self, filter: Option<mindos_proto::fleet::v1::FleetFilter>) -> Result<Items, Status> {
        let filter = Filter::new(filter.unwrap_or_default())?;
        Ok(fleet_view::items(&*self.fleet().await?, &filter))
    }
}

/// A page out of all: those after the token, which names the last of the page before.
pub(super) fn page<T>(
    items: Vec<T>,
    asked: u32,
    token: &str,
    name: impl Fn(&T) -> String,
) -> Result<(Vec<T>, String), Status> {
    let limit = page_size(asked, 1000)?;
    let mut rest = items.into_iter().filter(|item| token.is_empty() || *name(item) > *token);
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    let next = if rest.next().is_some() { page.last().map(&name).unwrap_or_default() } else { String::new() };
    Ok((page, next))
}

fn one<T>(mut items: Vec<T>, kind: &str, name: String) -> Result<T, Status> {
    items.pop().ok_or_else(|| status::not_found(kind, name).into())
}

#[tonic::async_trait]
impl FleetService for Fleet {
    type WatchStream = Watched<WatchResponse>;

    async fn list_clusters(
        &self,
        request: Request<ListClustersRequest>,
    ) -> Result<Response<ListClustersResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListClustersRequest { filter, page_size, page_token } = request.into_inner();
        let items = context.items(filter).await?.clusters;
        let (clusters, next_page_token) = page(items, page_size, &page_token, fleet_view::name_of_cluster)?;
        Ok(Response::new(ListClustersResponse { clusters, next_page_token }))
    }

    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Result<Response<GetClusterResponse>, Status> {
        let context = self.context.of(&request)?;
        let name = request.into_inner().name;
        let mut items: Vec<Cluster> = context.items(None).await?.clusters;
        items.retain(|cluster| cluster.name == name);
        let cluster = Some(one(items, "cluster", name)?);
        Ok(Response::new(GetClusterResponse { cluster }))
    }

    async fn list_generals(
        &self,
        request: Request<ListGeneralsRequest>,
    ) -> Result<Response<ListGeneralsResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListGeneralsRequest { filter, page_size, page_token } = request.into_inner();
        let items = context.items(filter).await?.generals;
        let (generals, next_page_token) = page(items, page_size, &page_token, fleet_view::name_of_general)?;
        Ok(Response::new(ListGeneralsResponse { generals, next_page_token }))
    }

    async fn get_general(&self, request: Request<GetGeneralRequest>) -> Result<Response<GetGeneralResponse>, Status> {
        let context = self.context.of(&request)?;
        let name = request.into_inner().name.ok_or_else(|| Status::invalid_argument("name: is required"))?;
        let mut items: Vec<General> = context.items(None).await?.generals;
        items.retain(|general| general.cluster == name.cluster && general.name == name.name);
        let general = Some(one(items, "general", format!("{}/{}", name.cluster, name.name))?);
        Ok(Response::new(GetGeneralResponse { general }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let context = self.context.of(&request)?;
        let ListInstancesRequest { filter, page_size, page_token } = request.into_inner();
        let items = context.items(filter).await?.instances;
        let (instances, next_page_token) = page(items, page_size, &page_token, fleet_view::name_of_instance)?;
        Ok(Response::new(ListInstancesResponse { instances, next_page_token }))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<GetInstanceResponse>, Status> {
        let context = self.context.of(&request)?;
        let name = request.into_inner().name.ok_or_else(|| Status::invalid_argument("name: is required"))?;
        let mut items: Vec<Instance> = context.items(None).await?.instances;
        items.retain(|instance| instance.cluster == name.cluster && instance.instance_id == name.instance_id);
        let instance = Some(one(items, "instance", format!("{}/{}", name.cluster, name.instance_id))?);
        Ok(Response::new(GetInstanceResponse { instance }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let context = self.context.of(&request)?;
        let filter = Filter::new(request.into_inner().filter.unwrap_or_default())?;
        let (sender, watched) = watch::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = fleet_watch::show(&context, &filter, &sender) => {}
                () = sender.gone() => {}
            }
        });
        Ok(Response::new(watched))
    }

    async fn cordon(&self, request: Request<CordonRequest>) -> Result<Response<CordonResponse>, Status> {
        let context = self.context.of(&request)?;
        let CordonRequest { target, reason } = request.into_inner();
        let target = hold_target(target, Allowed::AllButRoutes);
        let (changed, _) = context.hold(target, Holds::CORDONED, &reason).await?;
        Ok(Response::new(CordonResponse { changed }))
    }

    async fn uncordon(&self, request: Request<UncordonRequest>) -> Result<Response<UncordonResponse>, Status> {
        let context = self.context.of(&request)?;
        let UncordonRequest { target, reason } = request.into_inner();
        let target = hold_target(target, Allowed::AllButRoutes);
        let changed = context.release(target, Holds::CORDONED.with(Holds::DRAINING), &reason).await?;
        Ok(Response::new(UncordonResponse { changed }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let context = self.context.of(&request)?;
        let DrainRequest { target, reason, grace: _ } = request.into_inner();
        let target = hold_target(target, Allowed::AllButRoutes);
        let (changed, leases) = context.hold(target, Holds::DRAINING, &reason).await?;
        Ok(Response::new(DrainResponse { changed, leases }))
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        let context = self.context.of(&request)?;
        let PauseRequest { target, reason } = request.into_inner();
        let target = hold_target(target, Allowed::AllButInstances);
        let (changed, _) = context.hold(target, Holds::PAUSED, &reason).await?;
        Ok(Response::new(PauseResponse { changed }))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        let context = self.context.of(&request)?;
        let ResumeRequest { target, reason } = request.into_inner();
        let target = hold_target(target, Allowed::AllButInstances);
        let changed = context.release(target, Holds::PAUSED, &reason).await?;
        Ok(Response::new(ResumeResponse { changed }))
    }
}
