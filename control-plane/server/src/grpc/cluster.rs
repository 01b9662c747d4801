//! Objects of clusters: `mindos.cluster.v1.ClusterService`.

use std::sync::Arc;

use mindos_core::access::{Identity, IdentityHolder};
use mindos_core::budget::BudgetError;
use mindos_core::input::{Input, Query};
use mindos_core::object::{Made, Object, ObjectChange, ObjectKey, ObjectKind, With};
use mindos_core::output::{Rejection, Reply};
use mindos_core::route::RouteTable;
use mindos_kube::conditions::{Holds, Said};
use mindos_kube::mindos::ACCEPTED;
use mindos_model::limits::OBJECT_SPEC_MAX;
use mindos_model::{ClusterName, RouteName};
use mindos_proto::cluster::v1::cluster_service_server::ClusterService;
use mindos_proto::cluster::v1::{
    self as wire, ApplyObjectRequest, ApplyObjectResponse, DeleteObjectRequest, DeleteObjectResponse, HeldObject,
    ListObjectsRequest, ListObjectsResponse, ObjectRef, WatchStatusRequest, WatchStatusResponse,
};
use mindos_proto::convert::{Invalid, parsed};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::{Context, cluster_watch, status, watch};
use crate::access::{PrincipalKind, Scoped};
use crate::clusters::arrange::{Placed, arrange, placed};
use crate::clusters::spec::{self, Brings, Meant};
use crate::driver::CallError;

/// What a request may have.
pub(super) const REQUEST_MAX: usize = OBJECT_SPEC_MAX + 16 * 1024;
/// How often a table that others change meanwhile is made again.
const TRIES: usize = 8;
/// By which header a caller says its cluster while nobody is asked who they are.
const CLUSTER_HEADER: &str = "mindos-cluster";

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Clusters {
    pub(super) context: Arc<Context>,
}

/// A cluster agent that calls.
pub(super) struct Site {
    pub(super) context: Scoped,
    pub(super) cluster: ClusterName,
}

/// Why an object is not taken.
struct Refused {
    reason: &'static str,
    message: String,
    /// What it had made is not its own any more.
    taken_back: bool,
}

enum Failed {
    Refused(Refused),
    Status(Box<Status>),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        Failed::Status(Box::new(status))
    }
}

fn refused(reason: &'static str, message: impl ToString) -> Failed {
    Failed::Refused(Refused { reason, message: message.to_string(), taken_back: false })
}

impl Clusters {
    fn site<T>(&self, request: &Request<T>) -> Result<Site, Status> {
        let context = self.context.of(request)?;
        let cluster = match &context.caller.kind {
            PrincipalKind::Agent(agent) => match agent.identity.holder {
                IdentityHolder::ClusterAgent { .. } => agent.identity.cluster.clone(),
                IdentityHolder::General { .. } => {
                    return Err(Status::permission_denied(
                        "the certificate is that of a general: expected a cluster agent's",
                    ));
                }
            },
            PrincipalKind::Local => {
                let said = request.metadata().get(CLUSTER_HEADER).and_then(|value| value.to_str().ok());
                let said = said.ok_or_else(|| {
                    let text = format!("{CLUSTER_HEADER}: is required where callers are not asked who they are");
                    Status::invalid_argument(text)
                })?;
                parsed(said, CLUSTER_HEADER).map_err(status::invalid)?
            }
            _ => return Err(Status::permission_denied("expected the certificate of a cluster agent")),
        };
        Ok(Site { context, cluster })
    }
}

impl Site {
    fn key(&self, object: Option<ObjectRef>) -> Result<ObjectKey, Status> {
        let invalid = |field, accepted: &str| Status::from(status::invalid(Invalid::new(field, accepted)));
        let ObjectRef { kind, namespace, name } = object.ok_or_else(|| invalid("object", "is required"))?;
        let kind = match wire::ObjectKind::try_from(kind) {
            Ok(wire::ObjectKind::Cluster) => ObjectKind::Cluster,
            Ok(wire::ObjectKind::General) => ObjectKind::General,
            Ok(wire::ObjectKind::Route) => ObjectKind::Route,
            Ok(wire::ObjectKind::Budget) => ObjectKind::Budget,
            Ok(wire::ObjectKind::Unspecified) | Err(_) => {
                return Err(invalid("object.kind", "expected cluster, general, route or budget"));
            }
        };
        match kind {
            ObjectKind::Cluster if !namespace.is_empty() => {
                return Err(invalid("object.namespace", "expected none for a cluster"));
            }
            ObjectKind::Cluster => {}
            ObjectKind::General | ObjectKind::Route | ObjectKind::Budget => {
                let checked = Identity::check_namespace(&namespace);
                checked.map_err(|error| status::invalid(Invalid::new("object.namespace", error)))?;
            }
        }
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        if !(1..=253).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(invalid("object.name", "expected 1 to 253 of a-z, 0-9, `-` and `.`"));
        }
        let (tenant, cluster) = (self.context.tenant().clone(), self.cluster.clone());
        Ok(ObjectKey { tenant, cluster, kind, namespace: namespace.into(), name: name.into() })
    }

    /// All objects of the tenant, or those of the cluster.
    pub(super) async fn objects(&self, cluster: Option<ClusterName>) -> Result<Vec<Arc<Object>>, Status> {
        self.context.objects(cluster).await
    }

    async fn change(&self, change: ObjectChange) -> Result<bool, CallError> {
        let by: Arc<str> = match &change {
            ObjectChange::Apply { object, .. } => object.key.to_string().into(),
            ObjectChange::Remove { key, .. } => key.to_string().into(),
        };
        let from: Arc<str> = match &*self.context.from() {
            "" => self.context.by(),
            address => format!("{} {address}", self.context.by()).into(),
        };
        let change = Box::new(change);
        match self.context.handle.call(|request| Input::Object { request, change, by, from }).await? {
            Reply::Object { changed } => Ok(changed),
            // The plane answers an object with an object.
            _ => Ok(true),
        }
    }

    fn is_granted(&self, key: &ObjectKey) -> bool {
        let grants = self.context.clusters.get().map(|grants| grants.load_full()).unwrap_or_default();
        grants.allow(&key.tenant, &key.cluster, key.kind, &key.namespace)
    }

    async fn apply(&self, key: &ObjectKey, request: ApplyObjectRequest) -> Result<bool, Failed> {
        let ApplyObjectRequest { object: _, uid, generation, spec } = request;
        if !self.is_granted(key) {
            let message = format!(
                "the settings of the control plane do not grant this to namespace {} of cluster {}: see `clusters`",
                key.namespace, key.cluster
            );
            return Err(Failed::Refused(Refused { reason: "NotGranted", message, taken_back: true }));
        }
        if key.kind == ObjectKind::Cluster && *key.name != *key.cluster.as_str() {
            let message = format!("this is cluster {}: expected an object of that name", key.cluster);
            return Err(Failed::Refused(Refused { reason: "OtherCluster", message, taken_back: true }));
        }
        let Meant { made, with } = spec::read(key, &spec).map_err(|error| refused("Invalid", error))?;
        let object = Arc::new(Object { key: key.clone(), uid: uid.into(), generation, spec: spec.into(), made });
        for _ in 0..TRIES {
            let with = match &with {
                Brings::Nothing => With::Nothing,
                Brings::Budget(budget) => With::Budget(budget.clone()),
                Brings::Route { placement, order, route } => {
                    let (placement, order, route) = (*placement, *order, route.as_ref().clone());
                    self.table(key, Some(Placed { owner: key.clone(), placement, order, route })).await?
                }
            };
            let error = match self.change(ObjectChange::Apply { object: object.clone(), with }).await {
                Ok(changed) => {
                    self.learn(key).await?;
                    return Ok(changed);
                }
                Err(error) => error,
            };
            match error {
                CallError::Rejected(Rejection::RoutesChanged { .. }) => {}
                CallError::Rejected(Rejection::ObjectRenamed { .. }) if self.is_another(&object).await? => {
                    // It was made again under another uid while nobody looked: the old one goes first.
                    self.remove(key, None).await?;
                }
                CallError::Rejected(error @ Rejection::ObjectRenamed { .. }) => {
                    return Err(refused("Immutable", error));
                }
                CallError::Rejected(error @ Rejection::ObjectsFull { .. }) => return Err(refused("Full", error)),
                CallError::Rejected(error @ Rejection::Owned { .. }) => return Err(refused("Conflict", error)),
                CallError::Rejected(Rejection::Budget(error @ BudgetError { full: true, .. })) => {
                    return Err(refused("Full", error));
                }
                CallError::Rejected(Rejection::Budget(error)) => return Err(refused("Invalid", error)),
                CallError::Rejected(Rejection::Routes(error)) => return Err(refused("Invalid", error)),
                error => return Err(Status::from(status::call(&error)).into()),
            }
        }
        Err(Status::aborted("the routing table is changed by others all the time: try again").into())
    }

    async fn is_another(&self, object: &Object) -> Result<bool, Status> {
        let held = self.objects(Some(self.cluster.clone())).await?;
        Ok(held.iter().any(|held| held.key == object.key && held.uid != object.uid))
    }

    /// The table with the object's route as it is to be, or without it.
    async fn table(&self, key: &ObjectKey, wanted: Option<Placed>) -> Result<With, Status> {
        let (table, at) = self.context.routes_in_force().await?;
        let objects = self.objects(None).await?;
        let others = objects.iter().map(|object| object.as_ref()).filter(|object| object.key != *key);
        let mut all = placed(&table, others);
        all.extend(wanted);
        let own = objects.iter().filter(|object| object.key == *key).filter_map(|object| match &object.made {
            Made::Route { name, .. } => Some(name.clone()),
            _ => None,
        });
        let own: Vec<RouteName> = own.collect();
        // A name that is the table's own is not taken over: the plane says whose it is.
        let is_theirs = |placed: &Placed| {
            placed.owner == *key && !own.contains(&placed.route.name) && has(&table, &placed.route.name)
        };
        if all.iter().any(is_theirs) {
            return Ok(With::Routes(table, at));
        }
        Ok(With::Routes(Arc::new(arrange(&table, &own, all)), at))
    }

    /// Whoever publishes next finds events judged by a table that changed.
    async fn learn(&self, key: &ObjectKey) -> Result<(), Status> {
        if key.kind == ObjectKind::Route {
            let learnt = self.context.learn_routes(self.context.tenant()).await;
            learnt.map_err(|error| status::call(&error))?;
        }
        Ok(())
    }

    async fn remove(&self, key: &ObjectKey, uid: Option<Arc<str>>) -> Result<bool, Status> {
        for _ in 0..TRIES {
            let with = match key.kind {
                ObjectKind::Route => self.table(key, None).await?,
                ObjectKind::Cluster | ObjectKind::General | ObjectKind::Budget => With::Nothing,
            };
            let change = ObjectChange::Remove { key: key.clone(), uid: uid.clone(), with };
            match self.change(change).await {
                Ok(changed) => {
                    self.learn(key).await?;
                    return Ok(changed);
                }
                Err(CallError::Rejected(Rejection::RoutesChanged { .. })) => {}
                Err(error) => return Err(status::call(&error).into()),
            }
        }
        Err(Status::aborted("the routing table is changed by others all the time: try again"))
    }
}

impl Scoped {
    /// Objects of the tenant, or those of one cluster.
    pub(crate) async fn objects(&self, cluster: Option<ClusterName>) -> Result<Vec<Arc<Object>>, Status> {
        let query = Query::Objects { cluster, general: None };
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Objects(objects) => Ok(objects),
            other => Err(super::unexpected(&other)),
        }
    }

    /// A table that somebody wants, with the routes of objects where they belong: it need not name them.
    pub(super) async fn with_owned(&self, before: &RouteTable, wanted: RouteTable) -> Result<RouteTable, Status> {
        let objects = self.objects(None).await?;
        let owned = placed(before, objects.iter().map(AsRef::as_ref));
        // One that it names otherwise than it is stays so, and is refused by the plane.
        let is_left = |placed: &Placed| {
            let said = wanted.routes.iter().find(|route| route.name == placed.route.name);
            said.is_none_or(|said| *said == placed.route)
        };
        let owned: Vec<Placed> = owned.into_iter().filter(is_left).collect();
        if owned.is_empty() { Ok(wanted) } else { Ok(arrange(&wanted, &[], owned)) }
    }
}

fn has(table: &RouteTable, name: &RouteName) -> bool {
    table.routes.iter().any(|route| route.name == *name)
}

/// A condition as its message.
pub(super) fn condition(said: &Said) -> wire::Condition {
    let Said { kind, holds, reason, message } = said;
    let status = match holds {
        Holds::True => wire::ConditionStatus::True,
        Holds::False => wire::ConditionStatus::False,
        Holds::Unknown => wire::ConditionStatus::Unknown,
    };
    wire::Condition {
        r#type: kind.clone(),
        status: status.into(),
        reason: reason.clone(),
        message: message.chars().take(512).collect(),
    }
}

/// An object's name as its message.
pub(super) fn reference(key: &ObjectKey) -> ObjectRef {
    let kind = match key.kind {
        ObjectKind::Cluster => wire::ObjectKind::Cluster,
        ObjectKind::General => wire::ObjectKind::General,
        ObjectKind::Route => wire::ObjectKind::Route,
        ObjectKind::Budget => wire::ObjectKind::Budget,
    };
    ObjectRef { kind: kind.into(), namespace: key.namespace.to_string(), name: key.name.to_string() }
}

/// SHA-256 of a spec in lower case hex.
fn digest(spec: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(spec) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn uid(text: &str) -> Result<(), Status> {
    let fits = |byte: u8| byte.is_ascii_graphic();
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(());
    }
    Err(status::invalid(Invalid::new("uid", "expected 1 to 64 characters")).into())
}

/// Where a page goes on: behind an object.
fn after(token: &str) -> Result<Option<(ObjectKind, String, String)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let mut parts = token.splitn(3, '/');
    let kind = match parts.next() {
        Some("1") => Some(ObjectKind::Cluster),
        Some("2") => Some(ObjectKind::General),
        Some("3") => Some(ObjectKind::Route),
        Some("4") => Some(ObjectKind::Budget),
        _ => None,
    };
    match (kind, parts.next(), parts.next()) {
        (Some(kind), Some(namespace), Some(name)) => Ok(Some((kind, namespace.to_owned(), name.to_owned()))),
        _ => Err(Status::invalid_argument("page_token: is not one that was given out")),
    }
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    type WatchStatusStream = watch::Watched<WatchStatusResponse>;

    async fn apply_object(
        &self,
        request: Request<ApplyObjectRequest>,
    ) -> Result<Response<ApplyObjectResponse>, Status> {
        let site = self.site(&request)?;
        let mut request = request.into_inner();
        let key = site.key(request.object.take())?;
        uid(&request.uid)?;
        if request.spec.len() > OBJECT_SPEC_MAX {
            let accepted = format_args!("has {} bytes: expected at most {OBJECT_SPEC_MAX}", request.spec.len());
            return Err(status::invalid(Invalid::new("spec", accepted)).into());
        }
        match site.apply(&key, request).await {
            Ok(changed) => {
                let accepted = Said::new(ACCEPTED, true, "Accepted", "the control plane holds what it says");
                let conditions = vec![condition(&accepted)];
                Ok(Response::new(ApplyObjectResponse { accepted: true, conditions, status: "{}".to_owned(), changed }))
            }
            Err(Failed::Refused(Refused { reason, message, taken_back })) => {
                let changed = taken_back && site.remove(&key, None).await?;
                let conditions = vec![condition(&Said::new(ACCEPTED, false, reason, message))];
                Ok(Response::new(ApplyObjectResponse { accepted: false, conditions, status: "{}".to_owned(), changed }))
            }
            Err(Failed::Status(status)) => Err(*status),
        }
    }

    async fn delete_object(
        &self,
        request: Request<DeleteObjectRequest>,
    ) -> Result<Response<DeleteObjectResponse>, Status> {
        let site = self.site(&request)?;
        let DeleteObjectRequest { object, uid: text } = request.into_inner();
        let key = site.key(object)?;
        let of = match text.as_str() {
            "" => None,
            text => {
                uid(text)?;
                Some(Arc::from(text))
            }
        };
        let changed = site.remove(&key, of).await?;
        Ok(Response::new(DeleteObjectResponse { changed }))
    }

    async fn list_objects(
        &self,
        request: Request<ListObjectsRequest>,
    ) -> Result<Response<ListObjectsResponse>, Status> {
        let site = self.site(&request)?;
        let ListObjectsRequest { page_size, page_token } = request.into_inner();
        let size = super::page_size(page_size, usize::MAX)?;
        let after = after(&page_token)?;
        let objects = site.objects(Some(site.cluster.clone())).await?;
        let is_behind = |object: &&Arc<Object>| match &after {
            None => true,
            Some((kind, namespace, name)) => {
                let key = &object.key;
                (key.kind, &*key.namespace, &*key.name) > (*kind, namespace.as_str(), name.as_str())
            }
        };
        let held = |object: &Arc<Object>| HeldObject {
            object: Some(reference(&object.key)),
            uid: object.uid.to_string(),
            generation: object.generation,
            // What is granted no more is to be brought again, to hear that.
            spec_digest: if site.is_granted(&object.key) { digest(&object.spec) } else { String::new() },
        };
        let mut page: Vec<HeldObject> = objects.iter().filter(is_behind).take(size + 1).map(held).collect();
        let mut next_page_token = String::new();
        if page.len() > size {
            page.truncate(size);
            if let Some(ObjectRef { kind, namespace, name }) = page.last().and_then(|last| last.object.as_ref()) {
                next_page_token = format!("{kind}/{namespace}/{name}");
            }
        }
        Ok(Response::new(ListObjectsResponse { objects: page, next_page_token }))
    }

    async fn watch_status(
        &self,
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let site = self.site(&request)?;
        let (sender, watched) = watch::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = cluster_watch::show(&site, &sender) => {}
                () = sender.gone() => {}
            }
        });
        Ok(Response::new(watched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_behind_the_object_that_its_token_names() {
        assert_eq!(after("").unwrap(), None);
        assert_eq!(after("2/a/b.c").unwrap(), Some((ObjectKind::General, "a".to_owned(), "b.c".to_owned())));
        assert_eq!(after("1//eu").unwrap(), Some((ObjectKind::Cluster, String::new(), "eu".to_owned())));
        for token in ["x", "2", "2/a", "9/a/b"] {
            assert!(after(token).is_err(), "{token}");
        }
    }
}
