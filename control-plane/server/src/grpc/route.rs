//! Routes: `mindos.route.v1.RouteService`.

use std::collections::BTreeMap;
use std::sync::Arc;

use mindos_core::input::{Input, Query};
use mindos_core::output::{FleetView, Reply};
use mindos_core::record::{HoldTarget, Holds, Record};
use mindos_core::route::RouteTable;
use mindos_model::Seq;
use mindos_proto::convert::time;
use mindos_proto::route::v1::route_service_server::RouteService;
use mindos_proto::route::v1::{
    self as wire, ApplyRequest, ApplyResponse, ExplainRequest, ExplainResponse, GetRequest, GetResponse,
    ScorecardsRequest, ScorecardsResponse,
};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::route_table::{read, write};
use super::{Context, explain, scorecards, status};
use crate::access::Scoped;

/// Explained events that may lie for whoever asked.
const EXPLAINED_MAX: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    pub(super) context: Arc<Context>,
}

impl Scoped {
    pub(super) async fn routes_in_force(&self) -> Result<(Arc<RouteTable>, Seq), Status> {
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query: Query::Routes };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Routes { table, at } => Ok((table, at)),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Starts the routes that the table wants paused as such.
    async fn pause_routes(&self, names: Vec<mindos_model::RouteName>) -> Result<(), Status> {
        for name in names {
            let (tenant, by, target) = (self.tenant().clone(), self.by(), HoldTarget::Route(name));
            let (end, begin, why, from) = (Holds::NONE, Holds::PAUSED, Arc::default(), self.from());
            let hold = |request| Input::Hold { request, tenant, target, end, begin, why, by, from };
            let reply = self.handle.call(hold).await;
            reply.map_err(|error| status::call(&error))?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl RouteService for Routes {
    type ExplainStream = ReceiverStream<Result<ExplainResponse, Status>>;

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<Self::ExplainStream>, Status> {
        let context = self.context.of(&request)?;
        let (table, _) = context.routes_in_force().await?;
        let asked = explain::Asked::new(request.into_inner(), table, &*context.fleet().await?)?;
        let (sender, receiver) = mpsc::channel(EXPLAINED_MAX);
        tokio::spawn(async move {
            let ended = context.blocking({
                let sender = sender.clone();
                move |context| explain::run(context, &asked, &sender)
            });
            if let Err(status) = ended.await {
                // Whoever asked may be gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn scorecards(&self, request: Request<ScorecardsRequest>) -> Result<Response<ScorecardsResponse>, Status> {
        let context = self.context.of(&request)?;
        scorecards::read(&context, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let context = self.context.of(&request)?;
        let (table, at) = context.routes_in_force().await?;
        let applied = context.blocking(move |context| {
            let mut found = None;
            let read = context.source.read(at, &mut |entry| {
                if let Record::RoutesApplied(record) = &entry.record
                    && entry.seq == at
                {
                    found = Some((entry.at, record.by.to_string()));
                }
                false
            });
            read.ok().and(found)
        });
        let applied = if at == Seq::ZERO { None } else { applied.await? };
        let table = write(&table);
        let digest = digest(&table);
        let (applied_at, applied_by) = applied.map_or((None, String::new()), |(at, by)| (Some(time(at)), by));
        Ok(Response::new(GetResponse { table: Some(table), digest, seq: at.0, applied_at, applied_by }))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let context = self.context.of(&request)?;
        let ApplyRequest { table, expected_digest, dry_run } = request.into_inner();
        let table = table.ok_or_else(|| Status::invalid_argument("table: is required"))?;
        let (wanted, paused) = read(table).map_err(|error| status::invalid(error.within("table")))?;
        wanted.check().map_err(|error| status::routes(&error))?;
        let (before, at) = context.routes_in_force().await?;
        let wanted = context.with_owned(&before, wanted).await?;
        let (before_wire, wanted_wire) = (write(&before), write(&wanted));
        if !expected_digest.is_empty() && expected_digest != digest(&before_wire) {
            let text = format!("the table in force has the digest {}, not {expected_digest}", digest(&before_wire));
            return Err(Status::aborted(text));
        }
        let mut response = compare(&before_wire, &wanted_wire);
        response.digest = digest(&wanted_wire);
        response.warnings = warnings(&wanted, &*context.fleet().await?);
        response.seq = at.0;
        if !dry_run {
            let (tenant, by, table) = (context.tenant().clone(), context.by(), Arc::new(wanted));
            let (expected, from) = ((!expected_digest.is_empty()).then_some(at), context.from());
            let apply = |request| Input::ApplyRoutes { request, tenant, table, expected, by, from };
            match context.handle.call(apply).await.map_err(|error| status::call(&error))? {
                Reply::Done { at } => {
                    response.seq = at.0;
                    // Whoever publishes next finds it judged by; who is faster is told by the plane.
                    context.learn_routes(context.tenant()).await.map_err(|error| status::call(&error))?;
                }
                other => return Err(super::unexpected(&other)),
            }
            context.pause_routes(paused).await?;
        }
        Ok(Response::new(response))
    }
}

/// The table's name: SHA-256 of its encoding, which is canonical because its maps are sorted.
fn digest(table: &wire::RouteTable) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(table.encode_to_vec()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn compare(before: &wire::RouteTable, after: &wire::RouteTable) -> ApplyResponse {
    let by_name = |table: &wire::RouteTable| -> BTreeMap<String, (usize, wire::Route)> {
        table.routes.iter().cloned().enumerate().map(|(place, route)| (route.name.clone(), (place, route))).collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let added = after.keys().filter(|name| !before.contains_key(*name)).cloned().collect();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
    let differs = |(name, route): &(&String, &(usize, wire::Route))| before.get(*name).is_some_and(|old| old != *route);
    let changed = after.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    ApplyResponse { added, changed, removed, ..ApplyResponse::default() }
}

/// What is allowed and yet looks wrong.
fn warnings(table: &RouteTable, fleet: &FleetView) -> Vec<String> {
    let is_known = |ty: &&mindos_model::GeneralType| fleet.generals.iter().any(|general| general.ty == **ty);
    let warning = |route: &mindos_core::route::Route| {
        if let Some(ty) = route.targets.types.iter().find(|ty| !is_known(ty)) {
            return Some(format!("route {}: no general of type {ty} is known", route.name));
        }
        let keeps_all_out = explain::keeps_all_out(route, fleet);
        keeps_all_out
            .then(|| format!("route {}: affinity or residency keeps out all generals that it names", route.name))
    };
    table.routes.iter().filter_map(warning).collect()
}
