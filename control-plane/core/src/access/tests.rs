//! Decisions of access, through the plane as a server drives it.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{ClusterName, GeneralName, InstanceId, Role, Seq, TenantName, Timestamp, limits};

use super::*;
use crate::durable::Durable;
use crate::input::{Entropy, Input, RequestId};
use crate::output::{Output, Rejection, Reply};
use crate::plane::{Limits, Plane};
use crate::record::{Entry, EpochCause, Record};
use crate::route::Pattern;
use crate::snapshot::Item;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    plane: Plane,
    now: Timestamp,
    /// What was there before the journal.
    base: Durable,
    journal: Vec<Entry>,
    requests: u64,
}

impl World {
    fn new() -> World {
        World::on(Vec::new())
    }

    /// A plane that starts with this.
    fn on(items: Vec<AccessItem>) -> World {
        let header = Item::Header { seq: Seq(100_000), at: NOW, epoch: 1 };
        let base = Durable::import([header].into_iter().chain(items.into_iter().map(Item::Access)));
        let plane = Plane::new(base.clone(), Limits::default(), "0.1.0", EpochCause::Start, NOW);
        World { plane, now: NOW, base, journal: Vec::new(), requests: 0 }
    }

    /// The answers to inputs that arrive together, before anything of them is durable.
    fn together(&mut self, inputs: Vec<Input>) -> Vec<Result<Reply, Rejection>> {
        for input in inputs {
            self.plane.offer(input, self.now, Entropy(1));
        }
        let mut outputs = self.plane.ready(self.now);
        while let Some(batch) = self.plane.seal() {
            outputs.extend(self.plane.synced(batch.last(), self.now));
            self.journal.extend(batch.entries);
        }
        let replies = outputs.into_iter().filter_map(|output| match output {
            Output::Reply { reply, .. } => Some(*reply),
            Output::Send { .. } | Output::Close { .. } | Output::DropPrefix { .. } => None,
        });
        replies.collect()
    }

    fn ask(&mut self, input: Input) -> Result<Reply, Rejection> {
        self.together(vec![input]).pop().expect("a request is answered")
    }

    fn change_in(&mut self, within: Scope, change: AccessChange) -> Result<Reply, Rejection> {
        self.requests += 1;
        let (by, from) = (Arc::from("token:1"), Arc::from("192.0.2.7:9"));
        self.ask(Input::Access { request: RequestId(self.requests), within, change: Box::new(change), by, from })
    }

    fn change(&mut self, change: AccessChange) -> Result<Reply, Rejection> {
        self.change_in(Scope::Plane, change)
    }

    fn join_token(&mut self, secret: u8, holder: Holder, uses: u32) -> TokenId {
        let (namespace, expires) =
            (Some(Arc::from("agents")).filter(|_| holder != Holder::ClusterAgent), self.now + HOUR);
        made(self.change(AccessChange::CreateJoinToken {
            hash: [secret; 32],
            tenant: tenant("acme"),
            cluster: cluster("eu"),
            namespace,
            holder,
            uses,
            expires,
        }))
    }

    fn join(&mut self, secret: u8, to: &str, holder: IdentityHolder) -> Result<Reply, Rejection> {
        self.ask(join(secret, to, holder))
    }

    fn refused(&mut self, secret: u8, to: &str, holder: IdentityHolder) -> JoinRefusal {
        match self.join(secret, to, holder) {
            Err(Rejection::JoinRefused(refused)) => refused.reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn joins(&self) -> usize {
        let joined = |entry: &&Entry| entry.record.kind() == "AgentJoined";
        self.journal.iter().filter(joined).count()
    }

    /// What a start on the journal, and one on a snapshot, know.
    fn assert_recovers(&self) {
        let mut replayed = self.base.clone();
        replayed.apply_all(&self.journal);
        let live = self.plane.durable().access();
        assert_eq!(replayed.access(), live);
        let imported = Durable::import(self.plane.durable().export());
        assert_eq!(imported.access(), live);
        let mut followed = Access::clone(self.base.access());
        self.journal.iter().for_each(|entry| followed.fold(entry));
        assert_eq!(&followed, live.as_ref());
    }
}

fn made(reply: Result<Reply, Rejection>) -> TokenId {
    match reply {
        Ok(Reply::TokenMade { id }) => id,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn done(reply: Result<Reply, Rejection>) -> Seq {
    match reply {
        Ok(Reply::Done { at }) => at,
        other => panic!("expected that it is done, got {other:?}"),
    }
}

fn error(reply: Result<Reply, Rejection>) -> AccessError {
    match reply {
        Err(Rejection::Access(error)) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn field(reply: Result<Reply, Rejection>) -> &'static str {
    match error(reply) {
        AccessError::Invalid { field, .. } => field,
        other => panic!("expected a field, got {other:?}"),
    }
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn general(namespace: &str, name: &str) -> IdentityHolder {
    IdentityHolder::General {
        namespace: Arc::from(namespace),
        general: GeneralName::new(name).unwrap(),
        instance: InstanceId::new("pod-1").unwrap(),
    }
}

fn agent() -> IdentityHolder {
    IdentityHolder::ClusterAgent { instance: InstanceId::new("agent-1").unwrap() }
}

fn join(secret: u8, to: &str, holder: IdentityHolder) -> Input {
    Input::Join(Box::new(Join {
        request: RequestId(1),
        presented: Presented::Token { hash: [secret; 32] },
        cluster: cluster(to),
        holder,
        key: [7; 32],
        not_after: NOW + HOUR,
        from: Arc::from("192.0.2.8:9"),
    }))
}

fn api_token(secret: u16, scope: Scope) -> AccessChange {
    let mut hash = [1; 32];
    hash[..2].copy_from_slice(&secret.to_le_bytes());
    let (roles, expires) = (vec![Role::Viewer], NOW + HOUR);
    AccessChange::CreateApiToken { name: Arc::from("ci"), hash, scope, roles, sources: Vec::new(), expires }
}

fn named(name: &str) -> Holder {
    Holder::General(GeneralName::new(name).unwrap())
}

#[test]
fn a_join_token_lets_in_as_many_as_it_may_and_no_more() {
    let mut world = World::new();
    let id = world.join_token(1, named("triage"), 2);

    for _ in 0..2 {
        let Ok(Reply::Joined { identity, .. }) = world.join(1, "eu", general("agents", "triage")) else {
            panic!("it may join")
        };
        assert_eq!(identity.to_string(), "tenant/acme/cluster/eu/ns/agents/general/triage/instance/pod-1");
    }

    assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::UsedUp);
    assert_eq!(world.joins(), 2);
    assert_eq!(world.plane.durable().access().join_token(id).unwrap().uses_left, 0);
    world.assert_recovers();
}

#[test]
fn of_many_that_come_at_once_exactly_as_many_join() {
    let mut world = World::new();
    world.join_token(1, Holder::AnyGeneral, 3);

    let replies = world.together((0..20).map(|_| join(1, "eu", general("agents", "triage"))).collect());

    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 3);
    assert_eq!((replies.len(), world.joins()), (20, 3));
    world.assert_recovers();
}

#[test]
fn a_join_token_lets_nobody_in_elsewhere_or_as_something_else() {
    let mut world = World::new();
    world.join_token(1, named("triage"), 9);
    world.join_token(2, Holder::AnyGeneral, 9);
    world.join_token(3, Holder::ClusterAgent, 9);

    let fits = general("agents", "triage");
    assert_eq!(world.refused(1, "us", fits.clone()), JoinRefusal::WrongCluster);
    assert_eq!(world.refused(1, "eu", general("other", "triage")), JoinRefusal::WrongNamespace);
    assert_eq!(world.refused(1, "eu", general("agents", "security")), JoinRefusal::WrongGeneral);
    assert_eq!(world.refused(1, "eu", agent()), JoinRefusal::NotClusterAgent);
    assert_eq!(world.refused(2, "eu", agent()), JoinRefusal::NotClusterAgent);
    assert_eq!(world.refused(2, "eu", general("other", "triage")), JoinRefusal::WrongNamespace);
    assert_eq!(world.refused(3, "eu", fits.clone()), JoinRefusal::WrongGeneral);
    assert_eq!(world.join(9, "eu", fits).unwrap_err(), Rejection::JoinUnknown);

    assert_eq!(world.joins(), 0);
    assert!(world.join(2, "eu", general("agents", "security")).is_ok());
    assert!(world.join(3, "eu", agent()).is_ok());
    let uses = world.plane.durable().access().join_tokens().map(|token| token.uses_left);
    assert_eq!(uses.collect::<Vec<_>>(), [9, 8, 8]);
    world.assert_recovers();
}

#[test]
fn a_join_token_ends_at_its_time_to_the_millisecond() {
    let mut world = World::new();
    world.join_token(1, Holder::AnyGeneral, 9);

    world.now = NOW + HOUR - Duration::from_millis(1);
    assert!(world.join(1, "eu", general("agents", "triage")).is_ok());
    world.now = NOW + HOUR;
    assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::Expired);
    // A clock that is set back makes no token young again.
    world
        .change(AccessChange::ChangeSettings { what: "settings".into(), digest: [1; 32], summary: "".into() })
        .unwrap();
    world.now = NOW;
    assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::Expired);
}

#[test]
fn a_revoked_join_token_is_told_from_one_that_never_was() {
    let mut world = World::new();
    let id = world.join_token(1, Holder::AnyGeneral, 9);

    let other = Scope::Tenant(tenant("other"));
    let unknown = error(world.change_in(other, AccessChange::RevokeJoinToken { token: id }));
    assert_eq!(unknown, AccessError::Unknown { what: format!("join token {id}") });
    let at = done(world.change(AccessChange::RevokeJoinToken { token: id }));
    assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::Revoked);
    // Revoked again, nothing is recorded.
    assert!(done(world.change(AccessChange::RevokeJoinToken { token: id })) >= at);
    assert_eq!(world.journal.iter().filter(|entry| entry.record.kind() == "JoinTokenRevoked").count(), 1);
    world.assert_recovers();
}

#[test]
fn who_is_denied_does_not_join_and_does_once_allowed() {
    let mut world = World::new();
    world.join_token(1, Holder::AnyGeneral, 99);
    world.join_token(2, Holder::ClusterAgent, 99);
    let target = |namespace: Option<&str>, general: Option<&str>, instance: Option<&str>| DenialTarget::Agent {
        tenant: tenant("acme"),
        cluster: cluster("eu"),
        namespace: namespace.map(Arc::from),
        general: general.map(|name| GeneralName::new(name).unwrap()),
        instance: instance.map(|name| InstanceId::new(name).unwrap()),
    };
    let acme = Scope::Tenant(tenant("acme"));
    // Each with whether it concerns the general and the agent of the cluster.
    let cases = [
        (acme.clone(), target(None, None, None), true, true),
        (acme.clone(), target(Some("agents"), None, None), true, false),
        (acme.clone(), target(Some("other"), None, None), false, false),
        (acme.clone(), target(None, Some("triage"), None), true, false),
        (acme.clone(), target(None, Some("security"), None), false, false),
        (acme.clone(), target(None, None, Some("pod-1")), true, false),
        (acme.clone(), target(None, None, Some("agent-1")), false, true),
        (acme.clone(), target(Some("agents"), Some("triage"), Some("pod-1")), true, false),
        (acme.clone(), target(Some("agents"), Some("triage"), Some("pod-2")), false, false),
        (Scope::Plane, target(None, None, None), true, true),
        (acme, DenialTarget::Key([7; 32]), true, true),
        (Scope::Plane, DenialTarget::Key([7; 32]), true, true),
        (Scope::Plane, DenialTarget::Key([8; 32]), false, false),
        // Another tenant's word is not heard.
        (Scope::Tenant(tenant("other")), DenialTarget::Key([7; 32]), false, false),
    ];
    for (scope, target, of_general, of_agent) in cases {
        let deny = AccessChange::Deny { scope, target: target.clone(), reason: Arc::from("stolen") };
        let at = done(world.change(deny.clone()));
        assert_eq!(world.join(1, "eu", general("agents", "triage")).is_err(), of_general, "{target}");
        assert_eq!(world.join(2, "eu", agent()).is_err(), of_agent, "{target}");
        if of_general {
            assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::Denied);
        }
        // Said again it is the same denial.
        assert_eq!(done(world.change(deny)), at);
        world.assert_recovers();
        done(world.change(AccessChange::Allow { denial: DenialId(at.0) }));
        assert!(world.join(1, "eu", general("agents", "triage")).is_ok());
    }
}

#[test]
fn pods_join_by_what_their_issuer_grants() {
    let mut world = World::new();
    let pattern = |text: &str| Pattern::new(text).unwrap();
    let grants = vec![
        IssuerGrant {
            namespace: pattern("agents"),
            service_account: pattern("triage*"),
            generals: vec![pattern("triage")],
            cluster_agent: false,
        },
        IssuerGrant {
            namespace: pattern("mindos"),
            service_account: pattern("agent"),
            generals: Vec::new(),
            cluster_agent: true,
        },
    ];
    let issuer = Issuer {
        tenant: tenant("acme"),
        cluster: cluster("eu"),
        name: Arc::from("kube"),
        url: Arc::from("https://kubernetes.default.svc"),
        audience: Arc::from("mindos"),
        keys: Arc::from(""),
        grants,
    };
    done(world.change(AccessChange::RegisterIssuer(issuer.clone())));
    let mut joined = |to: &str, name: &str, namespace: &str, account: &str, holder: IdentityHolder| {
        let presented = Presented::ServiceAccount {
            tenant: tenant("acme"),
            issuer: Arc::from(name),
            namespace: Arc::from(namespace),
            service_account: Arc::from(account),
            pod: Arc::from("pod-1"),
        };
        let join = Join {
            request: RequestId(1),
            presented,
            cluster: cluster(to),
            holder,
            key: [7; 32],
            not_after: NOW + HOUR,
            from: Arc::from(""),
        };
        match world.ask(Input::Join(Box::new(join))) {
            Ok(Reply::Joined { .. }) => "joined",
            Err(Rejection::JoinRefused(refused)) => refused.reason.as_str(),
            Err(Rejection::JoinUnknown) => "unknown",
            other => panic!("{other:?}"),
        }
    };
    let triage = || general("agents", "triage");
    assert_eq!(joined("eu", "kube", "agents", "triage-7", triage()), "joined");
    assert_eq!(joined("eu", "kube", "agents", "other", triage()), "not_granted");
    assert_eq!(joined("eu", "kube", "agents", "triage", general("agents", "security")), "not_granted");
    assert_eq!(joined("eu", "kube", "other", "triage", general("other", "triage")), "not_granted");
    // The namespace is the pod's own, whatever it asks for.
    assert_eq!(joined("eu", "kube", "other", "triage", triage()), "wrong_namespace");
    assert_eq!(joined("eu", "kube", "agents", "triage", agent()), "not_granted");
    assert_eq!(joined("eu", "kube", "mindos", "agent", agent()), "joined");
    assert_eq!(joined("us", "kube", "agents", "triage", triage()), "unknown");
    assert_eq!(joined("eu", "other", "agents", "triage", triage()), "unknown");
    // Registered as it is, nothing is recorded; removed, nobody joins.
    done(world.change(AccessChange::RegisterIssuer(issuer)));
    assert_eq!(world.journal.iter().filter(|entry| entry.record.kind() == "IssuerRegistered").count(), 1);
    world.assert_recovers();
}

#[test]
fn api_tokens_are_made_used_and_revoked_within_a_scope() {
    let mut world = World::new();
    let acme = Scope::Tenant(tenant("acme"));
    let id = made(world.change_in(acme.clone(), api_token(1, acme.clone())));
    let other = made(world.change(api_token(2, Scope::Plane)));
    let access = world.plane.durable().access().clone();
    let token = access.api_token_by_hash(&access.api_token(id).unwrap().hash).unwrap();
    assert_eq!((token.id, &*token.by, token.created, token.last_used), (id, "token:1", NOW, None));

    assert_eq!(
        error(world.change(api_token(1, Scope::Plane))),
        AccessError::Exists { what: "a token of the same text" }
    );
    assert!(matches!(
        error(world.change_in(acme.clone(), api_token(3, Scope::Plane))),
        AccessError::OutsideScope { .. }
    ));
    let unknown = error(world.change_in(acme.clone(), AccessChange::RevokeApiToken { token: other }));
    let never = error(world.change_in(acme.clone(), AccessChange::RevokeApiToken { token: TokenId(999) }));
    assert_eq!(unknown.to_string().replace(&other.to_string(), "999"), never.to_string());

    for (after, uses) in [(0, 1), (59 * 60, 1), (60 * 60, 2)] {
        world.now = NOW + Duration::from_secs(after);
        done(world.change(AccessChange::UseApiToken { token: id }));
        assert_eq!(world.journal.iter().filter(|entry| entry.record.kind() == "ApiTokenUsed").count(), uses);
    }
    let used = world.plane.durable().access().api_token(id).unwrap().last_used;
    assert_eq!(used, Some(NOW + HOUR));
    world.assert_recovers();
    done(world.change_in(acme, AccessChange::RevokeApiToken { token: id }));
    assert!(world.plane.durable().access().api_token(id).is_none());
    assert_eq!(
        error(world.change(AccessChange::UseApiToken { token: id })).to_string(),
        format!("API token {id} is not known")
    );
    world.assert_recovers();
}

#[test]
fn what_is_not_accepted_is_named() {
    let mut world = World::new();
    let create = |roles: &[Role], sources: &[&str], expires: Timestamp, name: &str| AccessChange::CreateApiToken {
        name: Arc::from(name),
        hash: [9; 32],
        scope: Scope::Plane,
        roles: roles.to_vec(),
        sources: sources.iter().map(|text| Pattern::new(text).unwrap()).collect(),
        expires,
    };
    let soon = NOW + HOUR;
    assert_eq!(field(world.change(create(&[], &[], soon, "ci"))), "roles");
    assert_eq!(field(world.change(create(&[Role::Viewer], &["*"], soon, "ci"))), "sources");
    assert_eq!(field(world.change(create(&[Role::Publisher], &["a"; 101], soon, "ci"))), "sources");
    assert_eq!(field(world.change(create(&[Role::Viewer], &[], NOW, "ci"))), "expires");
    let late = NOW + limits::API_TOKEN_LIFE_MAX + Duration::from_millis(1);
    assert_eq!(field(world.change(create(&[Role::Viewer], &[], late, "ci"))), "expires");
    for name in ["", "a\nb", &"x".repeat(257)] {
        assert_eq!(field(world.change(create(&[Role::Viewer], &[], soon, name))), "name");
    }
    let token = |uses, namespace: &str, holder, expires| AccessChange::CreateJoinToken {
        hash: [1; 32],
        tenant: tenant("acme"),
        cluster: cluster("eu"),
        namespace: Some(Arc::from(namespace)),
        holder,
        uses,
        expires,
    };
    assert_eq!(field(world.change(token(0, "a", Holder::AnyGeneral, soon))), "uses");
    assert_eq!(field(world.change(token(10_001, "a", Holder::AnyGeneral, soon))), "uses");
    assert_eq!(field(world.change(token(1, "A", Holder::AnyGeneral, soon))), "namespace");
    assert_eq!(field(world.change(token(1, "a", Holder::ClusterAgent, soon))), "namespace");
    let late = NOW + limits::JOIN_TOKEN_LIFE_MAX + Duration::from_millis(1);
    assert_eq!(field(world.change(token(1, "a", Holder::AnyGeneral, late))), "expires");
    let quota = Some(TenantQuota { streams_max: Some(0), ..TenantQuota::default() });
    assert_eq!(field(world.change(AccessChange::SetQuota { tenant: tenant("acme"), quota })), "quota.streams_max");
    let summary = Arc::from("x".repeat(1025));
    let change = AccessChange::ChangeSettings { what: "settings".into(), digest: [0; 32], summary };
    assert_eq!(field(world.change(change)), "summary");
    assert!(!world.journal.iter().any(|entry| matches!(entry.record, Record::Access(_))));
}

/// So many API tokens of a scope, with numbers from that on.
fn api_tokens(scope: &Scope, from: usize, count: usize) -> Vec<AccessItem> {
    let make = |number: usize| {
        let mut hash = [2; 32];
        hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
        AccessItem::ApiToken(Arc::new(ApiToken {
            id: TokenId(number as u64),
            name: Arc::from("ci"),
            hash,
            scope: scope.clone(),
            roles: vec![Role::Viewer],
            sources: Vec::new(),
            expires: NOW + HOUR,
            created: NOW,
            by: Arc::from("x"),
            last_used: None,
        }))
    };
    (from..from + count).map(make).collect()
}

#[test]
fn no_list_grows_beyond_its_bound_and_what_nobody_can_use_makes_room() {
    let share = limits::API_TOKENS_MAX / limits::ACCESS_SHARE;
    let (acme, other) = (Scope::Tenant(tenant("acme")), Scope::Tenant(tenant("other")));
    let mut items = api_tokens(&acme, 1, share);
    items.extend(api_tokens(&other, 1 + share, share - 1));
    let mut world = World::on(items);

    let full = error(world.change(api_token(1, acme.clone())));
    assert!(matches!(full, AccessError::TenantFull { max, .. } if max == share), "{full}");
    // One tenant that took all that it may leaves the others theirs.
    made(world.change(api_token(2, other.clone())));
    let full = error(world.change(api_token(3, Scope::Plane)));
    assert_eq!(full, AccessError::Full { what: "API tokens", max: limits::API_TOKENS_MAX });
    world.assert_recovers();

    // As long as there is room those that have expired are told from those that never were.
    world.now = NOW + HOUR;
    assert_eq!(world.plane.durable().access().api_tokens().count(), limits::API_TOKENS_MAX);
    let AccessChange::CreateApiToken { name, hash, scope, roles, sources, .. } = api_token(4, acme) else {
        panic!("it is one")
    };
    let expires = world.now + HOUR;
    made(world.change(AccessChange::CreateApiToken { name, hash, scope, roles, sources, expires }));
    assert_eq!(world.plane.durable().access().api_tokens().count(), 1);
    world.assert_recovers();
}

#[test]
fn spent_join_tokens_make_room_for_others() {
    let share = limits::JOIN_TOKENS_MAX / limits::ACCESS_SHARE;
    let make = |number: usize| {
        let mut hash = [3; 32];
        hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
        AccessItem::JoinToken(Arc::new(JoinToken {
            id: TokenId(number as u64),
            hash,
            tenant: tenant("acme"),
            cluster: cluster("eu"),
            namespace: None,
            holder: Holder::AnyGeneral,
            uses_left: 1,
            expires: NOW + HOUR,
            created: NOW,
            by: Arc::from("x"),
            revoked: false,
        }))
    };
    let mut world = World::on((1..=share - 2).map(make).collect());
    world.join_token(1, Holder::AnyGeneral, 1);
    let revoked = world.join_token(2, Holder::AnyGeneral, 1);
    let create = |secret: u8| AccessChange::CreateJoinToken {
        hash: [secret; 32],
        tenant: tenant("acme"),
        cluster: cluster("eu"),
        namespace: None,
        holder: Holder::AnyGeneral,
        uses: 1,
        expires: NOW + HOUR,
    };
    assert!(matches!(error(world.change(create(3))), AccessError::TenantFull { .. }));

    world.join(1, "eu", general("agents", "triage")).unwrap();
    done(world.change(AccessChange::RevokeJoinToken { token: revoked }));
    assert_eq!(world.refused(1, "eu", general("agents", "triage")), JoinRefusal::UsedUp);
    made(world.change(create(3)));
    made(world.change(create(4)));
    assert!(matches!(error(world.change(create(5))), AccessError::TenantFull { .. }));
    assert_eq!(world.plane.durable().access().join_tokens().count(), share);
    assert_eq!(world.join(1, "eu", general("agents", "triage")).unwrap_err(), Rejection::JoinUnknown);
    world.assert_recovers();
}

#[test]
fn roles_are_bound_once_and_unbound() {
    let mut world = World::new();
    let acme = Scope::Tenant(tenant("acme"));
    let subject = Subject::Group(Arc::from("oidc:corp#team"));
    let bind = |role, sources: &[&str]| {
        let sources = sources.iter().map(|text| Pattern::new(text).unwrap()).collect();
        AccessChange::BindRole(Binding { scope: acme.clone(), subject: subject.clone(), role, sources })
    };
    done(world.change_in(acme.clone(), bind(Role::Viewer, &[])));
    done(world.change_in(acme.clone(), bind(Role::Publisher, &["a"])));
    done(world.change_in(acme.clone(), bind(Role::Publisher, &["a"])));
    done(world.change_in(acme.clone(), bind(Role::Publisher, &["a", "b*"])));
    assert_eq!(world.journal.iter().filter(|entry| entry.record.kind() == "RoleBound").count(), 3);
    let access = world.plane.durable().access().clone();
    let roles = access.bindings_of(&acme, &subject).map(|binding| (binding.role, binding.sources.len()));
    assert_eq!(roles.collect::<Vec<_>>(), [(Role::Viewer, 0), (Role::Publisher, 2)]);
    assert_eq!(access.bindings_of(&Scope::Plane, &subject).count(), 0);

    let unbind = |role| AccessChange::UnbindRole { scope: acme.clone(), subject: subject.clone(), role };
    let other = Scope::Tenant(tenant("other"));
    assert!(matches!(error(world.change_in(other, unbind(Role::Viewer))), AccessError::Unknown { .. }));
    done(world.change(unbind(Role::Viewer)));
    assert!(matches!(error(world.change(unbind(Role::Viewer))), AccessError::Unknown { .. }));
    world.assert_recovers();
}

#[test]
fn settings_and_keys_are_noted_when_they_change_and_checkpoints_in_order() {
    let mut world = World::new();
    let settings = |digest| AccessChange::ChangeSettings {
        what: Arc::from("settings"),
        digest: [digest; 32],
        summary: Arc::from("limits"),
    };
    for (digest, records) in [(1, 1), (1, 1), (2, 2), (1, 3)] {
        done(world.change(settings(digest)));
        assert_eq!(world.journal.iter().filter(|entry| entry.record.kind() == "SettingsChanged").count(), records);
    }
    let acme = Scope::Tenant(tenant("acme"));
    assert!(matches!(error(world.change_in(acme.clone(), settings(9))), AccessError::OutsideScope { .. }));

    let key = |id: u8| SigningKey { id: [id; 8], public: [id; 32], since: Seq::ZERO };
    let signs = |id| AccessChange::ChangeAuthority(AuthorityChange::SigningKey { key: key(id), signed_by_old: None });
    let sign = |key: u8, through| {
        let (link, key, signature) = ([1; 32], [key; 8], [2; 64]);
        AccessChange::SignCheckpoint(Checkpoint { through, link, key, signature })
    };
    let end = world.plane.durable().seq();
    assert!(matches!(error(world.change(sign(1, end))), AccessError::Unknown { .. }));
    let since = done(world.change(signs(1)));
    assert!(matches!(error(world.change(signs(1))), AccessError::Exists { .. }));
    assert_eq!(world.plane.durable().access().signing_key().map(|key| key.since), Some(since));
    assert!(matches!(error(world.change(sign(1, since.next()))), AccessError::Checkpoint { .. }));
    done(world.change(sign(1, since)));
    assert!(matches!(error(world.change(sign(1, since))), AccessError::Checkpoint { .. }));
    let newest = done(world.change(signs(2)));
    assert_eq!(world.plane.durable().access().signing_key().map(|key| key.since), Some(newest));
    done(world.change(sign(2, newest)));
    let (_, last) = world.plane.durable().access().last_checkpoint().unwrap();
    assert_eq!((last.through, last.key), (newest, [2; 8]));

    let trust = |retired| AccessChange::ChangeAuthority(AuthorityChange::CertificateKey { id: [5; 8], retired });
    assert!(matches!(error(world.change(trust(true))), AccessError::Unknown { .. }));
    done(world.change(trust(false)));
    done(world.change(trust(false)));
    assert_eq!(world.plane.durable().access().certificate_keys().count(), 1);
    world.assert_recovers();
    done(world.change(trust(true)));
    assert_eq!(world.plane.durable().access().certificate_keys().count(), 0);
    world.assert_recovers();
}

#[test]
fn only_refusals_of_known_tokens_are_noted() {
    let mut world = World::new();
    let id = world.join_token(1, Holder::AnyGeneral, 1);
    let refused = |token, tenant_name: &str| {
        let (tenant, cluster, reason) = (tenant(tenant_name), cluster("us"), JoinRefusal::WrongCluster);
        AccessChange::NoteRefusal(JoinRefused { tenant, token, cluster, reason })
    };
    done(world.change(refused(Some(id), "acme")));
    done(world.change(refused(None, "acme")));
    assert!(matches!(error(world.change(refused(Some(id), "other"))), AccessError::Unknown { .. }));
    assert!(matches!(error(world.change(refused(Some(TokenId(999)), "acme"))), AccessError::Unknown { .. }));
    world.assert_recovers();
}
