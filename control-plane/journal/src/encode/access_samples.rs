//! Records and items of access with drawn values, for tests.

use std::sync::Arc;

use mindos_core::access::*;
use mindos_core::record::{Entry, PayloadsRedacted, Record};
use mindos_core::route::Pattern;
use mindos_model::{ClusterName, GeneralName, InstanceId, Role, Seq};

use super::samples::{maybe, seq, tenant, text, time};
use crate::fault::Random;

/// How many kinds of records are made here.
pub(super) const KINDS: u64 = 18;

fn bytes<const N: usize>(random: &mut Random) -> [u8; N] {
    std::array::from_fn(|_| random.bits() as u8)
}

fn cluster(random: &mut Random) -> ClusterName {
    format!("cluster-{}", random.below(3)).parse().unwrap()
}

fn general(random: &mut Random) -> GeneralName {
    format!("general-{}", random.below(11)).parse().unwrap()
}

fn instance(random: &mut Random) -> InstanceId {
    format!("pod-{}", random.below(20)).parse().unwrap()
}

fn namespace(random: &mut Random) -> Arc<str> {
    Arc::from(format!("ns-{}", random.below(5)))
}

fn scope(random: &mut Random) -> Scope {
    if random.chance(30) { Scope::Plane } else { Scope::Tenant(tenant(random)) }
}

fn role(random: &mut Random) -> Role {
    Role::ALL[random.below(4) as usize]
}

fn patterns(random: &mut Random) -> Vec<Pattern> {
    (0..random.below(3)).map(|_| pattern(random)).collect()
}

fn pattern(random: &mut Random) -> Pattern {
    let end = if random.chance(50) { "*" } else { "" };
    Pattern::new(&format!("source/{}{end}", random.below(99))).unwrap()
}

fn subject(random: &mut Random) -> Subject {
    match random.chance(50) {
        true => Subject::Principal(text(random, "oidc:corp#alice")),
        false => Subject::Group(text(random, "oidc:corp#team")),
    }
}

fn binding(random: &mut Random) -> Arc<Binding> {
    Arc::new(Binding { scope: scope(random), subject: subject(random), role: role(random), sources: patterns(random) })
}

fn api_token(random: &mut Random) -> Arc<ApiToken> {
    Arc::new(ApiToken {
        id: TokenId(seq(random).0),
        name: text(random, "ci"),
        hash: bytes(random),
        scope: scope(random),
        roles: (0..1 + random.below(3)).map(|_| role(random)).collect(),
        sources: patterns(random),
        expires: time(random),
        created: time(random),
        by: text(random, "person"),
        last_used: maybe(random, time),
    })
}

fn join_token(random: &mut Random) -> Arc<JoinToken> {
    Arc::new(JoinToken {
        id: TokenId(seq(random).0),
        hash: bytes(random),
        tenant: tenant(random),
        cluster: cluster(random),
        namespace: maybe(random, namespace),
        holder: match random.below(3) {
            0 => Holder::General(general(random)),
            1 => Holder::AnyGeneral,
            _ => Holder::ClusterAgent,
        },
        uses_left: random.below(20) as u32,
        expires: time(random),
        created: time(random),
        by: text(random, "person"),
        revoked: random.chance(30),
    })
}

fn issuer(random: &mut Random) -> Arc<Issuer> {
    let grants = (0..1 + random.below(3)).map(|_| IssuerGrant {
        namespace: pattern(random),
        service_account: pattern(random),
        generals: patterns(random),
        cluster_agent: random.chance(50),
    });
    let grants = grants.collect();
    Arc::new(Issuer {
        tenant: tenant(random),
        cluster: cluster(random),
        name: text(random, "issuer"),
        url: text(random, "https://kubernetes.default.svc"),
        audience: text(random, "mindos"),
        keys: maybe(random, |random| text(random, "{\"keys\":[]}")).unwrap_or_default(),
        grants,
    })
}

fn denial(random: &mut Random) -> Arc<Denial> {
    Arc::new(Denial {
        id: DenialId(seq(random).0),
        scope: scope(random),
        target: match random.chance(70) {
            true => DenialTarget::Agent {
                tenant: tenant(random),
                cluster: cluster(random),
                namespace: maybe(random, namespace),
                general: maybe(random, general),
                instance: maybe(random, instance),
            },
            false => DenialTarget::Key(bytes(random)),
        },
        reason: text(random, "stolen"),
        at: time(random),
        by: text(random, "person"),
    })
}

fn quota(random: &mut Random) -> TenantQuota {
    let mut number = || random.chance(60).then(|| 1 + random.below(1 << 20) as u32);
    let (events_per_second, requests_per_second, streams_max) = (number(), number(), number());
    TenantQuota {
        events_per_second,
        requests_per_second,
        open_max: maybe(random, |r| 1 + r.below(1 << 50)),
        streams_max,
    }
}

fn key(random: &mut Random) -> SigningKey {
    SigningKey { id: bytes(random), public: bytes(random), since: seq(random) }
}

fn checkpoint(random: &mut Random) -> Checkpoint {
    Checkpoint { through: seq(random), link: bytes(random), key: bytes(random), signature: bytes(random) }
}

fn identity(random: &mut Random) -> Identity {
    let holder = match random.chance(70) {
        true => {
            let (namespace, general, instance) = (namespace(random), general(random), instance(random));
            IdentityHolder::General { namespace, general, instance }
        }
        false => IdentityHolder::ClusterAgent { instance: instance(random) },
    };
    Identity { tenant: tenant(random), cluster: cluster(random), holder }
}

fn how(random: &mut Random) -> JoinedBy {
    match random.chance(50) {
        true => JoinedBy::Token(TokenId(seq(random).0)),
        false => JoinedBy::ServiceAccount {
            issuer: text(random, "issuer"),
            namespace: namespace(random),
            service_account: text(random, "account"),
            pod: maybe(random, |random| text(random, "pod")).unwrap_or_default(),
        },
    }
}

fn authority(random: &mut Random) -> AuthorityChange {
    match random.chance(50) {
        true => AuthorityChange::CertificateKey { id: bytes(random), retired: random.chance(50) },
        false => AuthorityChange::SigningKey { key: key(random), signed_by_old: maybe(random, bytes) },
    }
}

/// A record of a kind from 0 to 17.
pub(super) fn entry(random: &mut Random, kind: u64, seq_of_entry: Seq) -> Entry {
    let at = time(random);
    let (by, from) = (text(random, "token"), text(random, "192.0.2.7"));
    let access = |record| Record::Access(Box::new(record));
    let record = match kind {
        0 => access(AccessRecord::ApiTokenCreated { token: api_token(random), from }),
        1 => {
            let token = TokenId(seq(random).0);
            access(AccessRecord::ApiTokenUsed { scope: scope(random), token, at: time(random), from })
        }
        2 => {
            let token = TokenId(seq(random).0);
            access(AccessRecord::ApiTokenRevoked { scope: scope(random), token, by, from })
        }
        3 => access(AccessRecord::JoinTokenCreated { token: join_token(random), from }),
        4 => {
            let token = TokenId(seq(random).0);
            access(AccessRecord::JoinTokenRevoked { tenant: tenant(random), token, by, from })
        }
        5 => {
            let (identity, key, how, not_after) = (identity(random), bytes(random), how(random), time(random));
            access(AccessRecord::AgentJoined { identity, key, how, not_after, from })
        }
        6 => {
            let refused = JoinRefused {
                tenant: tenant(random),
                token: maybe(random, |random| TokenId(seq(random).0)),
                cluster: cluster(random),
                reason: JoinRefusal::ALL[random.below(9) as usize],
            };
            access(AccessRecord::JoinRefused { refused, from })
        }
        7 => access(AccessRecord::RoleBound { binding: binding(random), by, from }),
        8 => {
            let (scope, subject, role) = (scope(random), subject(random), role(random));
            access(AccessRecord::RoleUnbound { scope, subject, role, by, from })
        }
        9 => access(AccessRecord::IssuerRegistered { issuer: issuer(random), by, from }),
        10 => {
            let (tenant, cluster, name) = (tenant(random), cluster(random), text(random, "issuer"));
            access(AccessRecord::IssuerRemoved { tenant, cluster, name, by, from })
        }
        11 => access(AccessRecord::AgentDenied { denial: denial(random), from }),
        12 => {
            let denial = DenialId(seq(random).0);
            access(AccessRecord::AgentAllowed { scope: scope(random), denial, by, from })
        }
        13 => access(AccessRecord::QuotaSet { tenant: tenant(random), quota: maybe(random, quota), by, from }),
        14 => {
            let (what, digest, summary) = (text(random, "settings"), bytes(random), text(random, "limits"));
            access(AccessRecord::SettingsChanged { what, digest, summary, by, from })
        }
        15 => access(AccessRecord::AuthorityChanged { what: authority(random), by, from }),
        16 => access(AccessRecord::CheckpointSigned(checkpoint(random))),
        _ => {
            let events = (0..1 + random.below(5)).map(|_| seq(random)).collect();
            let why = text(random, "asked for");
            let redacted = PayloadsRedacted { tenant: tenant(random), events, why, by, from };
            Record::PayloadsRedacted(Box::new(redacted))
        }
    };
    Entry { seq: seq_of_entry, at, record }
}

/// A piece of the state of access.
pub(super) fn item(random: &mut Random) -> AccessItem {
    match random.below(10) {
        0 => AccessItem::Binding(binding(random)),
        1 => AccessItem::ApiToken(api_token(random)),
        2 => AccessItem::JoinToken(join_token(random)),
        3 => AccessItem::Issuer(issuer(random)),
        4 => AccessItem::Denial(denial(random)),
        5 => AccessItem::Quota { tenant: tenant(random), quota: quota(random) },
        6 => AccessItem::Settings { what: text(random, "settings"), digest: bytes(random) },
        7 => AccessItem::CertificateKey { id: bytes(random), since: seq(random) },
        8 => AccessItem::SigningKey(key(random)),
        _ => AccessItem::Checkpoint { at: seq(random), checkpoint: checkpoint(random) },
    }
}
