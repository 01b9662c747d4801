//! The table for agents: every RPC on their port, under every kind of certificate. Only what agents may ask passes, and for themselves alone.

use std::time::Duration;

use crate::support;
use crate::support::raw::Raw;
use crate::support::tls::{Holder, channel, client, ders, published, request};
use crate::support::{Agent, Directory, PATIENCE, Running};
use bytes::Bytes;
use http::uri::PathAndQuery;
use mindos_control_plane::access::permission::{Permission, RPCS};
use mindos_proto::access::v1 as access;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::identity::v1 as identity;
use mindos_proto::identity::v1::identity_service_client::IdentityServiceClient;
use mindos_proto::identity::v1::join_request::Proof;
use mindos_proto::rpc;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// As short as a certificate's life may be.
const LIFE: Duration = Duration::from_secs(10);

/// Whether a call got behind the gate.
async fn passes(channel: &Channel, name: &str) -> bool {
    let mut client = tonic::client::Grpc::new(channel.clone());
    if client.ready().await.is_err() {
        return false;
    }
    let path: PathAndQuery = format!("/{name}").parse().unwrap();
    let answer = client.streaming(Request::new(tokio_stream::iter([Bytes::new()])), path, Raw);
    match tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{name} was not answered")) {
        Ok(_) => true,
        Err(status) => {
            // What the connection ended with is no answer.
            if std::error::Error::source(&status).is_some() {
                return false;
            }
            let reason = rpc::Status::from(&status).detail::<rpc::ErrorInfo>().map(|info| info.reason);
            let reason = reason.unwrap_or_default();
            let by_gate = reason.starts_with("UNAUTHENTICATED")
                || ["PERMISSION_DENIED", "TENANT_WITHOUT_ROLE"].contains(&&*reason);
            // What is not served on this port is not there for anybody.
            !by_gate && ![Code::Unavailable, Code::Unimplemented, Code::Unknown].contains(&status.code())
        }
    }
}

struct Plane {
    server: Running,
    directory: Directory,
    roots: Vec<CertificateDer<'static>>,
    api: Channel,
}

impl Plane {
    async fn start() -> Plane {
        let directory = Directory::new();
        let life = format!("{}s", LIFE.as_secs());
        let options = ["--tls", "authority", "--access", "open", "--certificate-life", &life];
        let server = Running::with(&directory, &options).await;
        let roots = published(&directory.0);
        let api = channel(&server.api, client(&roots, None)).await.unwrap();
        Plane { server, directory, roots, api }
    }

    async fn joined(&self, cluster: &str, instance: &str) -> Holder {
        let holder = access::JoinHolder { holder: Some(access::join_holder::Holder::ClusterAgent(true)) };
        let asked = access::CreateJoinTokenRequest {
            cluster: cluster.to_owned(),
            holder: Some(holder),
            uses: 1,
            ..Default::default()
        };
        let made = AccessServiceClient::new(self.api.clone()).create_join_token(asked).await.unwrap().into_inner();
        let key = KeyPair::generate().unwrap();
        let asked = identity::JoinRequest {
            proof: Some(Proof::JoinToken(made.text)),
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
            certificate_request: request(&key).into(),
            ..Default::default()
        };
        let joined = IdentityServiceClient::new(self.api.clone()).join(asked).await.unwrap().into_inner();
        Holder { key, issued: joined.issued.unwrap() }
    }

    async fn deny(&self, cluster: &str, instance: &str) {
        let pattern = access::AgentPattern {
            cluster: cluster.to_owned(),
            instance_id: instance.to_owned(),
            ..Default::default()
        };
        let target = Some(access::deny_agent_request::Target::Agent(pattern));
        let asked = access::DenyAgentRequest { target, reason: "stolen".to_owned() };
        AccessServiceClient::new(self.api.clone()).deny_agent(asked).await.unwrap();
    }
}

#[tokio::test]
async fn only_what_agents_may_ask_passes_and_for_themselves_alone() {
    let (plane, foreign) = (Plane::start().await, Plane::start().await);
    let expired = plane.joined("c1", "expired").await;
    tokio::time::sleep(LIFE + Duration::from_millis(1500)).await;
    let stranger = foreign.joined("c1", "i1").await;
    let denied = plane.joined("c1", "denied").await;
    plane.deny("c1", "denied").await;
    let (right, others) = (plane.joined("c1", "i1").await, plane.joined("c2", "i1").await);
    assert!(!ders(&right.issued.trust_bundle).is_empty());

    let (mut cases, mut wrong) = (0, Vec::new());
    let mut judge = |kind: &str, name: &str, passed: bool, expected: bool| {
        cases += 1;
        if passed != expected {
            wrong.push(format!("{name} with {kind} certificate: passed {passed}"));
        }
    };
    // Who is not let in at all: nothing passes, whatever is asked.
    let outsiders = [
        ("no", None),
        ("another authority's", Some(&stranger)),
        ("an expired", Some(&expired)),
        ("a denied", Some(&denied)),
    ];
    for (kind, holder) in outsiders {
        for (name, _) in RPCS {
            let passed = match channel(&plane.server.agents, client(&plane.roots, holder)).await {
                Ok(channel) => passes(&channel, name).await,
                Err(_) => false,
            };
            judge(kind, name, passed, false);
        }
    }
    // What an agent may ask. `Hello` of another cluster than the certificate's is refused on the stream.
    for (kind, holder, own) in [("its own", &right, true), ("another cluster's", &others, false)] {
        let channel = channel(&plane.server.agents, client(&plane.roots, Some(holder))).await.unwrap();
        for (name, permission) in RPCS {
            let may = match permission {
                Permission::Agent => true,
                Permission::Needs(right) => right.agent,
                Permission::Public | Permission::Anyone | Permission::Webhook | Permission::Surface(_) => continue,
            };
            judge(kind, name, passes(&channel, name).await, may);
        }
        let greeted = Agent::over(channel, support::hello("b1", Vec::new())).await;
        judge(kind, "hello of c1/i1", greeted.is_ok(), own);
    }
    println!("{cases} cases: {} RPCs, 6 kinds of certificate", RPCS.len());
    assert!(wrong.is_empty(), "{} of {cases} are not as the table says:\n{}", wrong.len(), wrong.join("\n"));
    let Plane { server, directory: _directory, .. } = plane;
    server.stop().await;
    foreign.server.stop().await;
}
