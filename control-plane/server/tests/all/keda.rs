//! Who may ask as KEDA: the certificate of an authority that is named for it, under one of the names, from where it may ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mindos_proto::cluster::v1::cluster_service_client::ClusterServiceClient;
use mindos_proto::cluster::v1::{ApplyObjectRequest, ObjectKind, ObjectRef};
use mindos_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use mindos_proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use mindos_proto::fleet::v1::ListGeneralsRequest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support;
use crate::support::{Directory, Running};

/// An authority that makes KEDA's certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate under this name, and what a client with it dials by.
    fn client(&self, name: &str, roots: &[CertificateDer<'static>]) -> ClientConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.clone()).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let builder = builder.with_root_certificates(store);
        let mut config = builder.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn object(pairs: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ScaledObjectRef { name: "o".to_owned(), namespace: "n".to_owned(), scaler_metadata }
}

fn review() -> ScaledObjectRef {
    object(&[("general", "review"), ("cluster", "east")])
}

async fn ask(at: &str, config: ClientConfig, object: ScaledObjectRef) -> Result<bool, Status> {
    let channel = support::tls::channel(at, config).await.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = ExternalScalerClient::new(channel).is_active(object).await?;
    Ok(answer.into_inner().result)
}

fn written(directory: &Directory, authority: &Authority) -> PathBuf {
    std::fs::create_dir_all(&directory.0).unwrap();
    let path = directory.0.join("keda-ca.pem");
    std::fs::write(&path, &authority.pem).unwrap();
    path
}

#[tokio::test]
async fn who_shows_the_certificate_and_the_name_may_ask_and_nobody_else() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let ca = written(&directory, &authority);
    let options = ["--tls", "authority", "--access", "enforced", "--surface", "keda=127.0.0.1:0"];
    let more = ["--keda-client-ca", ca.to_str().unwrap(), "--keda-client-names", "keda-operator.keda.svc"];
    let server = Running::with(&directory, &[&options[..], &more].concat()).await;
    let at = format!("https://{}", server.keda.unwrap());
    let roots = support::tls::published(&directory.0);

    let right = |name| authority.client(name, &roots);
    assert!(!ask(&at, right("keda-operator.keda.svc"), review()).await.unwrap());
    for (who, config) in [
        ("no certificate", support::tls::client(&roots, None)),
        ("another name", right("other.svc")),
        ("another authority", Authority::new().client("keda-operator.keda.svc", &roots)),
    ] {
        let refused = ask(&at, config, review()).await.expect_err(who);
        assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Internal), "{who}: {refused:?}");
    }

    // Its certificate is good for nothing else, and its listener has nothing else.
    let channel = support::tls::channel(&at, right("keda-operator.keda.svc")).await.unwrap();
    let mut fleet = mindos_proto::fleet::v1::fleet_service_client::FleetServiceClient::new(channel);
    let refused = fleet.list_generals(ListGeneralsRequest::default()).await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unimplemented | Code::Unauthenticated), "{refused:?}");
    let api = server.api.replace("http://", "https://");
    let channel = support::tls::channel(&api, right("keda-operator.keda.svc")).await.unwrap();
    let refused = ExternalScalerClient::new(channel).is_active(review()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn ranges_tenants_and_clusters_are_held_to() {
    let directory = Directory::new();
    let options = ["--tls", "authority", "--access", "enforced", "--surface", "keda=127.0.0.1:0"];
    let elsewhere = [&options[..], &["--keda-sources", "10.0.0.0/8"]].concat();
    let server = Running::with(&directory, &elsewhere).await;
    let roots = support::tls::published(&directory.0);
    let at = format!("https://{}", server.keda.unwrap());
    let refused = ask(&at, support::tls::client(&roots, None), review()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    server.stop().await;

    let more = ["--keda-sources", "127.0.0.0/8", "--keda-clusters", "east", "--keda-tenants", "default"];
    let server = Running::with(&directory, &[&options[..], &more].concat()).await;
    let at = format!("https://{}", server.keda.unwrap());
    let client = || support::tls::client(&roots, None);
    assert!(!ask(&at, client(), review()).await.unwrap());
    let west = object(&[("general", "review"), ("cluster", "west")]);
    assert_eq!(ask(&at, client(), west).await.unwrap_err().code(), Code::PermissionDenied);
    let other = object(&[("general", "review"), ("cluster", "east"), ("tenant", "other")]);
    assert_eq!(ask(&at, client(), other).await.unwrap_err().code(), Code::PermissionDenied);
    let nothing = ask(&at, client(), object(&[("cluster", "east")])).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    assert!(nothing.message().contains("scalerMetadata.general"), "{nothing:?}");
    server.stop().await;

    let refused = Running::refused(&directory, &options).await.to_string();
    assert!(refused.contains("lets nobody in") && refused.contains("--keda-client-ca"), "{refused}");
}

#[tokio::test]
async fn what_is_asked_for_is_known_and_a_metric_has_its_name() {
    let server = Running::alone(&["--surface", "keda=127.0.0.1:0"]).await;
    let at = format!("http://{}", server.keda.unwrap());
    let mut keda = ExternalScalerClient::new(Channel::from_shared(at).unwrap().connect().await.unwrap());
    let spec = keda.get_metric_spec(review()).await.unwrap().into_inner().metric_specs;
    assert_eq!((spec.len(), spec[0].target_size), (1, 1));
    let asked = |metric_name: &str| GetMetricsRequest {
        scaled_object_ref: Some(review()),
        metric_name: metric_name.to_owned(),
    };
    let values = keda.get_metrics(asked(&spec[0].metric_name)).await.unwrap().into_inner().metric_values;
    assert_eq!(values[0].metric_value, 0);
    for wrong in [asked("other"), GetMetricsRequest { scaled_object_ref: None, metric_name: String::new() }] {
        assert_eq!(keda.get_metrics(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // Its general is known from being asked for.
    let generals = server.fleet().await.list_generals(ListGeneralsRequest::default()).await.unwrap().into_inner();
    assert!(generals.generals.iter().any(|general| general.name == "review" && general.cluster == "east"));
    let mut stream = keda.stream_metric_spec(review()).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().metric_specs, spec);
    server.stop().await;
    assert!(!matches!(stream.message().await, Ok(Some(_))), "streams end with the server");
}

/// Applies the object of the general `review` in the cluster `east`.
async fn general(server: &Running, generation: i64, spec: &str) {
    let channel = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let (kind, namespace) = (ObjectKind::General.into(), "agents".to_owned());
    let object = Some(ObjectRef { kind, namespace, name: "review".to_owned() });
    let (uid, spec) = ("u1".to_owned(), spec.to_owned());
    let mut request = tonic::Request::new(ApplyObjectRequest { object, uid, generation, spec });
    request.metadata_mut().insert("mindos-cluster", "east".parse().unwrap());
    assert!(ClusterServiceClient::new(channel).apply_object(request).await.unwrap().into_inner().accepted);
}

#[tokio::test]
async fn the_object_of_a_general_says_what_the_trigger_does_not() {
    let server = Running::alone(&["--surface", "keda=127.0.0.1:0"]).await;
    let at = format!("http://{}", server.keda.unwrap());
    let mut keda = ExternalScalerClient::new(Channel::from_shared(at).unwrap().connect().await.unwrap());
    async fn told(keda: &mut ExternalScalerClient<Channel>, object: ScaledObjectRef) -> (i64, i64, bool) {
        let spec = keda.get_metric_spec(object.clone()).await.unwrap().into_inner().metric_specs.remove(0);
        let scaled_object_ref = Some(object.clone());
        let asked = GetMetricsRequest { scaled_object_ref, metric_name: spec.metric_name.clone() };
        let value = keda.get_metrics(asked).await.unwrap().into_inner().metric_values[0].metric_value;
        (spec.target_size, value, keda.is_active(object).await.unwrap().into_inner().result)
    }
    assert_eq!(told(&mut keda, review()).await, (1, 0, false), "no object, no bounds");
    let mut pushed = keda.stream_is_active(review()).await.unwrap().into_inner();
    assert!(!pushed.message().await.unwrap().unwrap().result);

    general(&server, 1, r#"{"slots":3,"scale":{"min":2,"max":4,"idle":"1m"}}"#).await;
    assert_eq!(told(&mut keda, review()).await, (3, 6, true), "two that stand, with three slots each");
    let says = object(&[("general", "review"), ("cluster", "east"), ("slots", "2"), ("min", "0")]);
    assert_eq!(told(&mut keda, says).await, (2, 0, false), "what the trigger says goes before");

    // More than the most is nobody's to want, and after the work the pool is wanted for a while.
    general(&server, 2, r#"{"slots":3,"scale":{"min":0,"max":1,"idle":"2s"}}"#).await;
    let route = mindos_proto::route::v1::Route {
        name: "all".to_owned(),
        targets: Some(mindos_proto::route::v1::RouteTargets { types: vec!["review".to_owned()], ..Default::default() }),
        strategy: mindos_proto::route::v1::Strategy::LoadBalanced.into(),
        ..Default::default()
    };
    let table = mindos_proto::route::v1::RouteTable { routes: vec![route], ..Default::default() };
    let apply = mindos_proto::route::v1::ApplyRequest { table: Some(table), ..Default::default() };
    server.routes().await.apply(apply).await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..5 {
        let mut event = support::event(&number.to_string(), "x");
        event.source = format!("/lane/{number}");
        let accepted = server.publish(event).await.unwrap();
        deliveries.push(accepted.deliveries[0].delivery_id.clone());
    }
    assert_eq!(told(&mut keda, review()).await, (3, 3, true), "five wait, and one pod is the most");
    for id in deliveries {
        let target = Some(mindos_proto::delivery::v1::cancel_request::Target::DeliveryId(id));
        let cancel = mindos_proto::delivery::v1::CancelRequest { target, ..Default::default() };
        server.deliveries().await.cancel(cancel).await.unwrap();
    }
    let ended = std::time::Instant::now();
    assert_eq!(told(&mut keda, review()).await, (3, 0, true), "wanted still");
    while keda.is_active(review()).await.unwrap().into_inner().result {
        assert!(ended.elapsed() < support::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(ended.elapsed() >= std::time::Duration::from_millis(1500), "{:?}", ended.elapsed());
    // The stream said the same: that it is wanted, and that it is no more.
    assert!(pushed.message().await.unwrap().unwrap().result);
    assert!(!pushed.message().await.unwrap().unwrap().result);
    server.stop().await;
}
