//! People and programs that change who may do what, agents that join, and redactions, at random.

use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::{
    AccessChange, AuthorityChange, Binding, Checkpoint, DenialId, DenialTarget, Holder, IdentityHolder, Issuer,
    IssuerGrant, Join, JoinRefusal, JoinRefused, Presented, Scope, SigningKey, Subject, TenantQuota, TokenId,
};
use mindos_core::input::Input;
use mindos_core::route::Pattern;
use mindos_model::{ClusterName, GeneralName, InstanceId, Role, Seq};

use super::World;
use super::people::Asked;
use crate::script::access::bytes;
use crate::words;

/// Secrets of join tokens: few, so that they are made, used up, revoked and tried again.
const SECRETS: u64 = 40;

impl World {
    /// One change of access, a burst of agents that join, or a redaction.
    pub(super) fn meddle_with_access(&mut self) {
        match self.chance.below(10) {
            0..=4 => self.joins(),
            5 => self.redact(),
            _ => {
                let change = self.access_change();
                let within = match self.chance.below(4) {
                    0 => Scope::Tenant(words::tenant()),
                    _ => Scope::Plane,
                };
                self.change_access(within, change);
            }
        }
    }

    fn change_access(&mut self, within: Scope, change: AccessChange) {
        let request = self.request(Asked::Other);
        let (by, from) = (Arc::from("ann"), Arc::from("192.0.2.7"));
        self.input(Input::Access { request, within, change: Box::new(change), by, from });
    }

    /// Takes the quota away, so that all that waits goes on.
    pub(super) fn remove_quota(&mut self) {
        self.change_access(Scope::Plane, AccessChange::SetQuota { tenant: words::tenant(), quota: None });
    }

    /// Some agents at once, with the same token.
    fn joins(&mut self) {
        let (secret, cluster) = (self.chance.below(SECRETS), self.cluster());
        for _ in 0..self.chance.within(1, 4) {
            let request = self.request(Asked::Other);
            let presented = match self.chance.below(5) {
                0 => Presented::ServiceAccount {
                    tenant: words::tenant(),
                    issuer: Arc::from("kube"),
                    namespace: Arc::from("agents"),
                    service_account: Arc::from("runner"),
                    pod: Arc::from(""),
                },
                _ => Presented::Token { hash: bytes(secret) },
            };
            let instance = InstanceId::new(&format!("pod-{}", self.chance.below(5))).expect("a name of ours");
            let holder = match self.chance.below(6) {
                0 => IdentityHolder::ClusterAgent { instance },
                _ => {
                    let namespace = Arc::from(if self.chance.permille(900) { "agents" } else { "other" });
                    IdentityHolder::General { namespace, general: self.general_name(), instance }
                }
            };
            let (key, not_after) = (bytes(self.chance.below(9)), self.plane_time() + Duration::from_secs(3600));
            let join =
                Join { request, presented, cluster: cluster.clone(), holder, key, not_after, from: Arc::from("") };
            self.input(Input::Join(Box::new(join)));
        }
    }

    fn redact(&mut self) {
        let open = self.ledger.open.len() as u64;
        if self.chance.permille(700) || open == 0 {
            return;
        }
        let at = self.chance.below(open) as usize;
        let events: Vec<_> = self.ledger.open.iter().skip(at).take(2).map(|id| id.event).collect();
        let request = self.request(Asked::Other);
        let (why, by, from) = (Arc::from("asked"), Arc::from("ann"), Arc::from(""));
        self.input(Input::Redact { request, tenant: words::tenant(), events, why, by, from });
    }

    fn cluster(&mut self) -> ClusterName {
        ClusterName::new(if self.chance.permille(800) { "c1" } else { "c2" }).expect("a name of ours")
    }

    fn general_name(&mut self) -> GeneralName {
        let name = self.chance.pick(&["a", "b", "c"]).copied().unwrap_or("a");
        GeneralName::new(name).expect("a name of ours")
    }

    /// Ids of tokens and denials are sequences: one that may be one.
    fn id(&mut self, known: Option<u64>) -> u64 {
        known.filter(|_| self.chance.permille(900)).unwrap_or_else(|| self.chance.within(1, 500))
    }

    fn access_change(&mut self) -> AccessChange {
        let tenant = words::tenant();
        let (secret, number) = (self.chance.below(SECRETS), self.chance.below(3));
        let expires = self.plane_time() + Duration::from_secs(self.chance.skewed(1, 600));
        let subject = match number {
            0 => Subject::Principal(Arc::from("oidc:corp#alice")),
            _ => Subject::Group(Arc::from(format!("oidc:corp#team{number}"))),
        };
        let scope = if self.chance.permille(300) { Scope::Plane } else { Scope::Tenant(tenant.clone()) };
        let role = self.chance.pick(Role::ALL).copied().unwrap_or(Role::Viewer);
        let sources = || match role {
            Role::Publisher => vec![Pattern::new("p*").expect("a pattern")],
            Role::Viewer | Role::Operator | Role::Admin => Vec::new(),
        };
        match self.chance.below(24) {
            0..=5 => AccessChange::CreateJoinToken {
                hash: bytes(secret),
                tenant,
                cluster: self.cluster(),
                namespace: self.chance.permille(300).then(|| Arc::from("agents")),
                holder: match self.chance.below(4) {
                    0 => Holder::ClusterAgent,
                    1 => Holder::General(self.general_name()),
                    _ => Holder::AnyGeneral,
                },
                uses: self.chance.within(1, 3) as u32,
                expires,
            },
            6 => {
                let known = self.ledger.access.some_join_token(self.chance.below(1 << 20));
                AccessChange::RevokeJoinToken { token: TokenId(self.id(known)) }
            }
            7 | 8 => AccessChange::CreateApiToken {
                name: Arc::from("ci"),
                hash: bytes(secret),
                scope,
                roles: vec![role],
                sources: sources(),
                expires,
            },
            9 | 10 => {
                let known = self.ledger.access.api_tokens.first().copied();
                AccessChange::UseApiToken { token: TokenId(self.id(known)) }
            }
            11 => {
                let known = self.ledger.access.api_tokens.first().copied();
                AccessChange::RevokeApiToken { token: TokenId(self.id(known)) }
            }
            12 => {
                let (cluster, reason) = (self.cluster(), JoinRefusal::ALL[secret as usize % 9]);
                let token = self.ledger.access.some_join_token(secret).map(TokenId);
                AccessChange::NoteRefusal(JoinRefused { tenant, token, cluster, reason })
            }
            13 | 14 => AccessChange::BindRole(Binding { scope, subject, role, sources: sources() }),
            15 => AccessChange::UnbindRole { scope, subject, role },
            16 => {
                let pattern = |text| Pattern::new(text).expect("a pattern");
                let grant = IssuerGrant {
                    namespace: pattern("agents"),
                    service_account: pattern("run*"),
                    generals: vec![pattern(if secret % 2 == 0 { "a" } else { "*" })],
                    cluster_agent: false,
                };
                AccessChange::RegisterIssuer(Issuer {
                    tenant,
                    cluster: self.cluster(),
                    name: Arc::from("kube"),
                    url: Arc::from("https://kubernetes"),
                    audience: Arc::from("mindos"),
                    keys: Arc::from(""),
                    grants: vec![grant],
                })
            }
            17 => AccessChange::RemoveIssuer { tenant, cluster: self.cluster(), name: Arc::from("kube") },
            18 => {
                let target = match number {
                    0 => DenialTarget::Key(bytes(secret % 9)),
                    _ => DenialTarget::Agent {
                        tenant,
                        cluster: self.cluster(),
                        namespace: self.chance.permille(500).then(|| Arc::from("agents")),
                        general: self.chance.permille(500).then(|| self.general_name()),
                        instance: None,
                    },
                };
                AccessChange::Deny { scope, target, reason: Arc::from("") }
            }
            19 | 20 => {
                let known = self.ledger.access.denials.first().copied();
                AccessChange::Allow { denial: DenialId(self.id(known)) }
            }
            21 => {
                let open_max = self.chance.permille(500).then(|| self.chance.within(40, 400));
                let streams_max = self.chance.permille(300).then(|| self.chance.within(1, 8) as u32);
                let quota = TenantQuota { open_max, streams_max, ..TenantQuota::default() };
                AccessChange::SetQuota { tenant, quota: Some(quota) }
            }
            22 => AccessChange::ChangeSettings {
                what: Arc::from("settings"),
                digest: bytes(number),
                summary: Arc::from(""),
            },
            _ => {
                let key = SigningKey { id: bytes(number), public: bytes(number), since: Seq::ZERO };
                match secret % 3 {
                    0 => AccessChange::ChangeAuthority(AuthorityChange::SigningKey { key, signed_by_old: None }),
                    1 => {
                        let retired = self.chance.permille(500);
                        AccessChange::ChangeAuthority(AuthorityChange::CertificateKey { id: bytes(number), retired })
                    }
                    _ => {
                        let (through, link, signature) = (self.ledger.end, [0; 32], [0; 64]);
                        AccessChange::SignCheckpoint(Checkpoint { through, link, key: bytes(number), signature })
                    }
                }
            }
        }
    }
}
