//! Records as they stand in the journal, each kind of which decides what a start makes of the past.

use bytes::Bytes;
use mindos_core::record::{Entry, Payload};
use mindos_journal::encode::{Names, decode, encode};
use mindos_model::Seq;
use mindos_proto::cluster::v1::ObjectRef;
use mindos_proto::delivery::v1::{Effect, Usage};
use mindos_proto::journal::v1::entry::Record;
use mindos_proto::journal::v1::{self as pb, attempt_ended};
use mindos_proto::route::v1::{Route, RouteMatch, RouteTable, RouteTargets};
use prost::Message;

/// Where all of them stand.
const SEQ: Seq = Seq(9);

pub(super) fn record(input: &[u8]) {
    for payload in [None, Some(Payload { salt: [7; 16], bytes: Bytes::from_static(b"payload") })] {
        let mut names = Names::default();
        let Ok(Some(entry)) = decode(&mut names, SEQ, input, payload.clone()) else { continue };
        // Written again it is read as the same, also with names that were read before.
        let mut written = Vec::new();
        encode(&entry, &mut written);
        let payload = entry.record.payload().cloned();
        let again = decode(&mut names, SEQ, &written, payload).expect("its own encoding decodes");
        assert_eq!(again.as_ref().map(told), Some(told(&entry)), "encoded again");
    }
}

fn told(entry: &Entry) -> String {
    format!("{entry:?}")
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let delivery = || Some(pb::DeliveryRef { event: 7, ordinal: 1 });
    let token = || Some(pb::Token { epoch: 1, term: 2 });
    let general = || Some(pb::General { cluster: "eu".to_owned(), name: "triage-general".to_owned() });
    let text = |text: &str| text.to_owned();
    let object = || pb::ObjectState {
        cluster: text("eu"),
        object: Some(ObjectRef { kind: 2, namespace: text("a"), name: text("x") }),
        uid: text("u-1"),
        generation: 2,
        spec: text("{}"),
        made: text("x"),
        paused: true,
        ..pb::ObjectState::default()
    };
    let planned = pb::PlannedDelivery {
        ordinal: 1,
        general: general(),
        parked: 5,
        supersedes: vec![pb::DeliveryRef { event: 3, ordinal: 1 }],
        shadow: true,
        not_before_ms: 1_700_000_002_000,
        burst_since_ms: 1_700_000_000_000,
        expires_ms: 1_700_000_060_000,
        degraded: Some(pb::Degraded { budget: text("team"), percent: 80, from: vec![general().unwrap_or_default()] }),
    };
    let accepted = pb::EventAccepted {
        tenant: text("default"),
        source: text("https://api.github.com/repos/octocat/hello-world"),
        id: text("1"),
        r#type: text("com.github.push"),
        kind: text("commit_graph"),
        subject: text("refs/heads/main"),
        lane: text("octocat/hello-world/refs/heads/main"),
        repository: text("octocat/hello-world"),
        actor: text("octocat"),
        time_ms: 1_700_000_000_000,
        content_digest: vec![1; 16].into(),
        payload_len: 7,
        deliveries: vec![planned],
        route: text("commit-graph"),
        strategy: 1,
        dedupe_key: vec![2; 16].into(),
        ..pb::EventAccepted::default()
    };
    let leased = pb::DeliveryLeased {
        delivery: delivery(),
        token: token(),
        general: general(),
        instance: text("eu-0"),
        boot: text("b1"),
        attempt: 1,
        lease_ms: 25_000,
        candidates: vec![pb::Candidate {
            general: general(),
            instance: text("eu-0"),
            score_milli: 250,
            slots: 4,
            ..pb::Candidate::default()
        }],
        tenant: text("default"),
        free_instances: 3,
        connected_instances: 4,
        set_aside: 1,
        ..pb::DeliveryLeased::default()
    };
    let settled = pb::DeliverySettled {
        delivery: delivery(),
        token: token(),
        outcome: 1,
        usage: vec![Usage { model: text("m"), input_tokens: 10, ..Usage::default() }],
        effects: vec![Effect { key: text("k"), kind: text("comment"), ..Effect::default() }],
        output_len: 7,
        duration_ms: 12,
        output_content_type: text("application/json"),
        outcome_digest: vec![3; 16].into(),
        ..pb::DeliverySettled::default()
    };
    let ended = pb::AttemptEnded {
        delivery: delivery(),
        token: token(),
        cause: 2,
        message: text("lapsed"),
        instance: text("eu-0"),
        counted: true,
        next: Some(attempt_ended::Next::WaitingNotBeforeMs(1_700_000_001_000)),
        ended_by: 2,
        ..pb::AttemptEnded::default()
    };
    let route = Route {
        name: text("all"),
        r#match: Some(RouteMatch { kinds: vec![text("pr_*")], expr: text("data.size > 3"), ..RouteMatch::default() }),
        targets: Some(RouteTargets { types: vec![text("triage-general")], ..RouteTargets::default() }),
        strategy: 3,
        count: 2,
        attempts_max: 5,
        ..Route::default()
    };
    let asked = Route { name: text("asked.all"), ..route.clone() };
    let kinds = [
        Record::EventAccepted(accepted),
        Record::DeliveryLeased(leased),
        Record::DeliverySettled(settled),
        Record::AttemptEnded(ended),
        Record::LeaseExtended(pb::LeaseExtended {
            delivery: delivery(),
            token: token(),
            ..pb::LeaseExtended::default()
        }),
        Record::DeliveryCancelled(pb::DeliveryCancelled {
            delivery: delivery(),
            reason: 3,
            by: text("me"),
            message: text("no longer wanted"),
            ..pb::DeliveryCancelled::default()
        }),
        Record::CancelRequested(pb::CancelRequested {
            delivery: delivery(),
            token: token(),
            reason: 1,
            grace_ms: 10_000,
            message: text("no longer wanted"),
            ..pb::CancelRequested::default()
        }),
        Record::DeliveryParked(pb::DeliveryParked { delivery: delivery(), reason: 4, ..pb::DeliveryParked::default() }),
        Record::DeliveryRedriven(pb::DeliveryRedriven {
            delivery: delivery(),
            by: text("me"),
            place: 4,
            message: text("it works again"),
        }),
        Record::ResultRefused(pb::ResultRefused {
            delivery: delivery(),
            presented: token(),
            current: token(),
            instance: text("eu-0"),
            cluster: text("eu"),
            tenant: text("default"),
        }),
        Record::EpochStarted(pb::EpochStarted { epoch: 3, version: text("0.1.0"), reason: 1, oldest_reader: 1 }),
        Record::ClusterRegistered(pb::ClusterRegistered {
            cluster: text("eu"),
            region: text("eu-west-1"),
            tenant: text("default"),
            ..pb::ClusterRegistered::default()
        }),
        Record::GeneralRegistered(pb::GeneralRegistered {
            cluster: text("eu"),
            name: text("t"),
            r#type: text("triage-general"),
            tenant: text("default"),
            ..pb::GeneralRegistered::default()
        }),
        Record::GeneralRemoved(pb::GeneralRemoved {
            cluster: text("eu"),
            name: text("t"),
            tenant: text("default"),
            ..pb::GeneralRemoved::default()
        }),
        Record::HoldChanged(pb::HoldChanged {
            target: Some(pb::hold_changed::Target::Cluster(text("eu"))),
            hold: 1,
            on: true,
            reason: text("it is moved"),
            tenant: text("default"),
            ..pb::HoldChanged::default()
        }),
        Record::RoutesApplied(pb::RoutesApplied {
            table: Some(RouteTable { routes: vec![route], ..RouteTable::default() }),
            tenant: text("default"),
            ..pb::RoutesApplied::default()
        }),
        Record::RouteAsked(pb::RouteAsked { route: Some(asked), tenant: text("default"), ..pb::RouteAsked::default() }),
        Record::PayloadCarried(pb::PayloadCarried { event: 7, from_seq: 7, effect: 0 }),
        Record::PrefixDropped(pb::PrefixDropped { through: 6, link: vec![4; 32].into() }),
        Record::JournalTruncated(pb::JournalTruncated { kept_through: 6, lost_through: 8, by: text("me"), bytes: 100 }),
        Record::UpgradeFinalized(pb::UpgradeFinalized {
            version: text("0.1.0"),
            format: 1,
            by: text("me"),
            from: text(""),
        }),
        Record::JoinTokenCreated(pb::JoinTokenCreated {
            token: Some(pb::JoinToken {
                id: SEQ.0,
                hash: vec![5; 32].into(),
                cluster: text("eu"),
                namespace: text("agents"),
                holder: Some(pb::join_token::Holder::General(text("triage"))),
                uses_left: 3,
                expires_ms: 1_700_000_060_000,
                ..pb::JoinToken::default()
            }),
            from: text("192.0.2.7"),
        }),
        Record::ApiTokenCreated(pb::ApiTokenCreated {
            token: Some(pb::ApiToken {
                id: SEQ.0,
                name: text("ci"),
                hash: vec![6; 32].into(),
                scope: text("*"),
                roles: vec![2, 4],
                sources: vec![text("https://*")],
                expires_ms: 1_700_000_060_000,
                ..pb::ApiToken::default()
            }),
            from: text("192.0.2.7"),
        }),
        Record::AgentJoined(pb::AgentJoined {
            identity: Some(pb::AgentIdentity {
                cluster: text("eu"),
                namespace: text("agents"),
                general: text("triage"),
                instance: text("pod-1"),
                ..pb::AgentIdentity::default()
            }),
            key: vec![7; 32].into(),
            how: Some(pb::agent_joined::How::ServiceAccount(pb::JoinedByServiceAccount {
                issuer: text("eu"),
                namespace: text("agents"),
                service_account: text("triage"),
                pod: text("pod-1"),
            })),
            ..pb::AgentJoined::default()
        }),
        Record::RoleBound(pb::RoleBound {
            binding: Some(pb::RoleBinding {
                scope: text("acme"),
                subject: Some(pb::Subject { subject: Some(pb::subject::Subject::Group(text("oidc:corp#team"))) }),
                role: 3,
                sources: Vec::new(),
            }),
            by: text("token:7"),
            from: text("192.0.2.7"),
        }),
        Record::IssuerRegistered(pb::IssuerRegistered {
            issuer: Some(pb::Issuer {
                cluster: text("eu"),
                name: text("eu"),
                url: text("https://kubernetes.default.svc"),
                audience: text("mindos"),
                keys: text("{\"keys\":[]}"),
                grants: vec![pb::IssuerGrant {
                    namespace: text("agents"),
                    service_account: text("*"),
                    generals: vec![text("triage*")],
                    cluster_agent: true,
                }],
                ..pb::Issuer::default()
            }),
            ..pb::IssuerRegistered::default()
        }),
        Record::AgentDenied(pb::AgentDenied {
            denial: Some(pb::Denial {
                id: SEQ.0,
                scope: text("default"),
                target: Some(pb::denial::Target::Agent(pb::DeniedAgent {
                    cluster: text("eu"),
                    instance: text("pod-1"),
                    ..pb::DeniedAgent::default()
                })),
                ..pb::Denial::default()
            }),
            from: String::new(),
        }),
        Record::QuotaSet(pb::QuotaSet {
            quota: Some(pb::TenantQuota { open_max: Some(1000), ..pb::TenantQuota::default() }),
            ..pb::QuotaSet::default()
        }),
        Record::AuthorityChanged(pb::AuthorityChanged {
            what: Some(pb::authority_changed::What::LedgerKey(pb::LedgerKeyChanged {
                key: Some(pb::LedgerKey { id: vec![1; 8].into(), public_key: vec![2; 32].into(), since: SEQ.0 }),
                signed_by_old: vec![3; 64].into(),
            })),
            ..pb::AuthorityChanged::default()
        }),
        Record::CheckpointSigned(pb::CheckpointSigned {
            through: 8,
            link: vec![1; 32].into(),
            key: vec![2; 8].into(),
            signature: vec![3; 64].into(),
        }),
        Record::PayloadsRedacted(pb::PayloadsRedacted { events: vec![3, 7], why: text("asked"), ..Default::default() }),
        Record::EffectIntended(pb::EffectIntended {
            event: 7,
            delivery_ordinal: 1,
            epoch: 1,
            term: 1,
            cluster: text("eu"),
            general: text("g"),
            general_type: text("t"),
            ordinal: 1,
            of: 2,
            key: text("d7.1/1"),
            kind: text("comment"),
            target: text("o/r#7"),
            first: 9,
            ..Default::default()
        }),
        Record::EffectDeferred(pb::EffectDeferred { effect: 9, attempts: 1, counted: true, ..Default::default() }),
        Record::EffectEnded(pb::EffectEnded {
            effect: 9,
            outcome: Some(pb::effect_ended::Outcome::Cancelled(pb::EffectCancelled {
                why: text("asked"),
                by: text("ada"),
            })),
            ..Default::default()
        }),
        Record::EffectRevived(pb::EffectRevived { effect: 9, by: text("ada"), ..Default::default() }),
        Record::ObjectApplied(pb::ObjectApplied {
            object: Some(object()),
            by: text("kubernetes:eu/a/x"),
            ..Default::default()
        }),
        Record::ObjectRemoved(pb::ObjectRemoved {
            cluster: text("eu"),
            object: object().object,
            by: text("kubernetes:eu/a/x"),
            ..Default::default()
        }),
    ];
    let entry = |record| pb::Entry { seq: SEQ.0, at_ms: 1_700_000_000_000, oldest_reader: 0, record: Some(record) };
    kinds.into_iter().map(|record| entry(record).encode_to_vec()).collect()
}
