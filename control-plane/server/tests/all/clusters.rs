//! `mindos.cluster.v1.ClusterService` as a cluster agent sees it: what is taken, what is refused and by which word, and who may call.

use std::collections::BTreeMap;

use crate::support::{Directory, PATIENCE, Running};
use mindos_proto::cluster::v1::cluster_service_client::ClusterServiceClient;
use mindos_proto::cluster::v1::{
    ApplyObjectRequest, ApplyObjectResponse, DeleteObjectRequest, ListObjectsRequest, ObjectKind, ObjectRef,
    WatchStatusRequest,
};
use mindos_proto::route::v1::{ApplyRequest, GetRequest};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

struct Site(ClusterServiceClient<Channel>, &'static str);

fn object(kind: ObjectKind, name: &str) -> Option<ObjectRef> {
    let namespace = if kind == ObjectKind::Cluster { "" } else { "platform" };
    Some(ObjectRef { kind: kind.into(), namespace: namespace.to_owned(), name: name.to_owned() })
}

impl Site {
    async fn of(server: &Running, cluster: &'static str) -> Site {
        let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
        Site(ClusterServiceClient::new(channel), cluster)
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("mindos-cluster", self.1.parse().unwrap());
        request
    }

    async fn apply(
        &mut self,
        kind: ObjectKind,
        name: &str,
        uid: &str,
        spec: &str,
    ) -> Result<ApplyObjectResponse, Status> {
        let (uid, spec) = (uid.to_owned(), spec.to_owned());
        let request = self.ask(ApplyObjectRequest { object: object(kind, name), uid, generation: 1, spec });
        Ok(self.0.apply_object(request).await?.into_inner())
    }

    /// Whether it was accepted, the reason, and whether anything was recorded.
    async fn said(&mut self, kind: ObjectKind, name: &str, uid: &str, spec: &str) -> (bool, String, bool) {
        let answer = self.apply(kind, name, uid, spec).await.unwrap();
        (answer.accepted, answer.conditions[0].reason.clone(), answer.changed)
    }

    async fn delete(&mut self, kind: ObjectKind, name: &str, uid: &str) -> bool {
        let request = self.ask(DeleteObjectRequest { object: object(kind, name), uid: uid.to_owned() });
        self.0.delete_object(request).await.unwrap().into_inner().changed
    }

    /// Names of what is held, page by page, with their digests.
    async fn held(&mut self, page_size: u32) -> Vec<(String, bool)> {
        let (mut held, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = self.ask(ListObjectsRequest { page_size, page_token });
            let page = self.0.list_objects(request).await.unwrap().into_inner();
            held.extend(page.objects.into_iter().map(|one| (one.object.unwrap().name, !one.spec_digest.is_empty())));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return held;
            }
        }
    }
}

async fn routes(server: &Running) -> Vec<String> {
    let table = server.routes().await.get(GetRequest {}).await.unwrap().into_inner().table.unwrap();
    table.routes.into_iter().map(|route| route.name).collect()
}

async fn granted(directory: &Directory) -> Running {
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.with_extension("yaml");
    std::fs::write(&settings, "clusters: [{name: eu, routes: [platform], budgets: ['*']}]").unwrap();
    Running::with(directory, &["--settings", settings.to_str().unwrap()]).await
}

const ROUTE: &str = r#"{"match":{"kinds":["a"]},"targets":{"types":["t"]},"placement":"First"}"#;

#[tokio::test]
async fn what_is_not_granted_is_refused_and_leaves_nothing() {
    let server = Running::alone(&[]).await;
    let mut site = Site::of(&server, "eu").await;
    for kind in [ObjectKind::Route, ObjectKind::Budget] {
        let said = site.said(kind, "mine", "u1", r#"{"tokens":1}"#).await;
        assert_eq!(said, (false, "NotGranted".to_owned(), false), "{kind:?}");
    }
    assert_eq!(site.said(ObjectKind::General, "g", "u1", "{}").await, (true, "Accepted".to_owned(), true));
    assert_eq!(site.said(ObjectKind::General, "g", "u1", "{}").await, (true, "Accepted".to_owned(), false));
    assert_eq!(site.said(ObjectKind::Cluster, "us", "u1", "{}").await.1, "OtherCluster");
    assert_eq!(site.held(1).await, [("g".to_owned(), true)]);
    server.stop().await;
}

#[tokio::test]
async fn a_route_of_an_object_stands_in_its_place_whatever_people_apply() {
    let directory = Directory::new();
    let server = granted(&directory).await;
    let mut site = Site::of(&server, "eu").await;
    assert_eq!(site.said(ObjectKind::Route, "mine", "u1", ROUTE).await, (true, "Accepted".to_owned(), true));
    assert_eq!(routes(&server).await[0], "mine");
    assert_eq!(
        site.said(ObjectKind::Route, "other", "u2", &ROUTE.replacen('{', r#"{"name":"mine","#, 1)).await.1,
        "Conflict"
    );
    assert_eq!(site.said(ObjectKind::Route, "wrong", "u3", "{}").await.1, "Invalid");

    // A table that does not name it keeps it; one that says it otherwise is refused.
    let mut people = server.routes().await;
    let mut table = people.get(GetRequest {}).await.unwrap().into_inner().table.unwrap();
    table.routes.retain(|route| route.name != "mine");
    let apply = |table| ApplyRequest { table: Some(table), ..ApplyRequest::default() };
    let answer = people.apply(apply(table)).await.unwrap().into_inner();
    assert!(answer.removed.is_empty() && routes(&server).await[0] == "mine", "{answer:?}");
    let mut table = people.get(GetRequest {}).await.unwrap().into_inner().table.unwrap();
    table.routes[0].attempts_max = 9;
    let status = people.apply(apply(table)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("kubernetes:eu/platform/mine"), "{status:?}");

    assert!(site.delete(ObjectKind::Route, "mine", "u1").await && !site.delete(ObjectKind::Route, "mine", "u1").await);
    assert!(!routes(&server).await.contains(&"mine".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn what_is_held_outlives_a_restart_and_a_grant_that_ends_is_told() {
    let directory = Directory::new();
    let server = granted(&directory).await;
    let mut site = Site::of(&server, "eu").await;
    for name in ["a", "b", "c"] {
        site.apply(ObjectKind::General, name, "u1", "{}").await.unwrap();
    }
    site.apply(ObjectKind::Route, "mine", "u1", ROUTE).await.unwrap();
    site.apply(ObjectKind::Budget, "team", "u1", r#"{"cost":"5"}"#).await.unwrap();
    let mut other = Site::of(&server, "us").await;
    assert_eq!(other.held(9).await, []);
    server.stop().await;

    let server = Running::start(&directory).await;
    let mut site = Site::of(&server, "eu").await;
    let held: BTreeMap<_, _> = site.held(2).await.into_iter().collect();
    let expected = [("a", true), ("b", true), ("c", true), ("mine", false), ("team", false)];
    assert_eq!(held, expected.map(|(name, digest)| (name.to_owned(), digest)).into());
    // Brought again, it hears that it is granted no more, and is taken back.
    assert_eq!(site.said(ObjectKind::Route, "mine", "u1", ROUTE).await, (false, "NotGranted".to_owned(), true));
    assert!(!routes(&server).await.contains(&"mine".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn statuses_come_whole_and_then_as_they_change() {
    let server = Running::alone(&[]).await;
    let mut site = Site::of(&server, "eu").await;
    site.apply(ObjectKind::General, "a", "u1", "{}").await.unwrap();
    let request = site.ask(WatchStatusRequest {});
    let mut stream = site.0.watch_status(request).await.unwrap().into_inner();
    let whole = stream.message().await.unwrap().unwrap();
    assert!(whole.caught_up && whole.objects.len() == 1);
    assert_eq!(
        whole.objects[0].conditions.iter().map(|one| &*one.reason).collect::<Vec<_>>(),
        ["Accepted", "NoInstance"]
    );
    site.apply(ObjectKind::General, "b", "u2", r#"{"paused":true}"#).await.unwrap();
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.objects[0].object, object(ObjectKind::General, "b"));
    assert_eq!(next.objects[0].conditions[1].reason, "Paused");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_named() {
    let server = Running::alone(&[]).await;
    let mut site = Site::of(&server, "eu").await;
    let mut refused = async |change: &dyn Fn(&mut ApplyObjectRequest)| {
        let mut request = ApplyObjectRequest {
            object: object(ObjectKind::General, "g"),
            uid: "u".to_owned(),
            generation: 1,
            spec: "{}".to_owned(),
        };
        change(&mut request);
        let request = site.ask(request);
        let status = site.0.apply_object(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.message().split(':').next().unwrap().to_owned()
    };
    let of =
        |change: fn(&mut ObjectRef)| move |request: &mut ApplyObjectRequest| change(request.object.as_mut().unwrap());
    assert_eq!(refused(&|request| request.object = None).await, "object");
    assert_eq!(refused(&of(|object| object.kind = 9)).await, "object.kind");
    assert_eq!(refused(&of(|object| object.namespace.clear())).await, "object.namespace");
    assert_eq!(refused(&of(|object| object.name = "A/B".to_owned())).await, "object.name");
    assert_eq!(refused(&|request| request.uid.clear()).await, "uid");
    assert_eq!(refused(&|request| request.spec = "x".repeat(64 * 1024 + 1)).await, "spec");

    let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let status = ClusterServiceClient::new(channel).list_objects(ListObjectsRequest::default()).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().starts_with("mindos-cluster"), "{status:?}");
    server.stop().await;
}
