//! Sizes, intervals and bounds that both sides of a connection rely on.

use std::time::Duration;

/// How often an agent with work reports.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How often an idle agent reports.
pub const HEARTBEAT_IDLE_INTERVAL: Duration = Duration::from_secs(15);
/// Missed heartbeats after which a stream counts as lost.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;
/// How long a lease runs unless it is extended.
///
/// Five heartbeats, so that one lost frame ends nothing, and short enough that a lost instance's work is elsewhere within 30 s.
pub const LEASE: Duration = Duration::from_secs(25);
const _: () = assert!(LEASE.as_millis() == 5 * HEARTBEAT_INTERVAL.as_millis());
/// How often an agent extends a lease: three tries within one lease.
pub const EXTEND_INTERVAL: Duration = Duration::from_secs(8);
/// What every lease gets on top of the gap after a start of the plane or a stall of it.
pub const LEASE_GRACE: Duration = Duration::from_secs(45);
/// A gap between two turns of the plane that counts as a stall.
pub const STALL: Duration = Duration::from_secs(1);
/// How long a general may work without progress before it is stopped.
pub const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// How long a lane's head may hold the lane up while it is not leased.
pub const BLOCK_MAX: Duration = Duration::from_secs(5 * 60);
/// First wait before another attempt; doubles up to [`RETRY_MAX`], with full jitter.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait between attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(100);
/// Attempts before a delivery is parked.
pub const ATTEMPTS_MAX: u32 = 5;
/// Deliveries that may wait in one lane of one queue.
pub const LANE_BACKLOG_MAX: u32 = 100;
/// Deliveries that may wait for one general or one route.
pub const QUEUE_BACKLOG_MAX: u32 = 10_000;
/// Deliveries of one tenant that may be open: half of what the plane takes, so that one tenant never fills it.
pub const TENANT_BACKLOG_MAX: u64 = 1_000_000;
/// Largest payload that travels inside a message; a larger one goes by the blob store.
pub const INLINE_MAX: usize = 256 * 1024;
/// Largest gRPC message and HTTP body.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Largest blob.
pub const BLOB_MAX: u64 = 64 * 1024 * 1024;
/// Journal batches are sealed at this many bytes.
pub const BATCH_MAX: usize = 512 * 1024;
/// A general without an instance for this long is forgotten once nothing waits for it.
pub const GENERAL_IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of an event's id, source, type or subject.
pub const ATTRIBUTE_MAX: usize = 1024;
/// Generals one agent may speak for.
pub const GENERALS_PER_AGENT_MAX: usize = 256;
/// Slots of one general at one instance.
pub const SLOTS_MAX: u32 = 65_536;
/// Deliveries of one event.
pub const FANOUT_MAX: usize = 4096;
/// API tokens that the plane keeps.
pub const API_TOKENS_MAX: usize = 10_000;
/// Join tokens that the plane keeps.
pub const JOIN_TOKENS_MAX: usize = 10_000;
/// Bindings of roles.
pub const BINDINGS_MAX: usize = 10_000;
/// Registered issuers of service account tokens.
pub const ISSUERS_MAX: usize = 1_000;
/// Denials of agents.
pub const DENIALS_MAX: usize = 10_000;
/// Tenants with a quota.
pub const QUOTAS_MAX: usize = 10_000;
/// One tenant gets at most this part of any of these, so that none fills them alone.
pub const ACCESS_SHARE: usize = 2;
/// Keys that certificates are trusted by, and the newest keys that signed the ledger, that are told of.
pub const AUTHORITY_KEYS_MAX: usize = 1_000;
/// Bytes of an issuer's keys.
pub const JWKS_MAX: usize = 64 * 1024;
/// Grants of one issuer, and patterns in one list of a grant, a binding or a token.
pub const GRANTS_MAX: usize = 100;
/// Longest life of an API token.
pub const API_TOKEN_LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Longest life of a join token.
pub const JOIN_TOKEN_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Agents that one join token may let in.
pub const JOIN_TOKEN_USES_MAX: u32 = 10_000;
/// Bytes of a reason, or of another text that a person gives along with a change.
pub const REASON_MAX: usize = 1024;
/// Events that one record redacts.
pub const REDACTED_MAX: usize = 1_000;
/// Effects that one result may ask for.
pub const EFFECTS_MAX: usize = 64;
/// Bytes of the parameters of one effect.
pub const EFFECT_PARAMETERS_MAX: usize = 64 * 1024;
/// Bytes of the parameters of all effects of one result.
pub const EFFECTS_PARAMETERS_MAX: usize = 256 * 1024;
/// Characters of an effect's key.
pub const EFFECT_KEY_MAX: usize = 256;
/// Characters of an effect's kind.
pub const EFFECT_KIND_MAX: usize = 63;
/// Characters of an effect's target.
pub const EFFECT_TARGET_MAX: usize = 512;
/// Bytes of what is recorded of the outcome of an effect.
pub const EFFECT_OBSERVED_MAX: usize = 4096;
/// Effects of one tenant that may be open, with the ended ones of results that still have an open one.
pub const EFFECTS_OPEN_MAX: usize = 10_000;
/// Tries before an effect has failed. A wait for a limit is none.
pub const EFFECT_ATTEMPTS_MAX: u32 = 8;
/// First wait before an effect is tried again; doubles up to [`EFFECT_RETRY_MAX`].
pub const EFFECT_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait between tries of an effect, but for limits.
pub const EFFECT_RETRY_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest wait for a limit before an effect is tried again.
pub const EFFECT_WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a failed effect holds up others on its target.
pub const EFFECT_BLOCK_MAX: Duration = Duration::from_secs(5 * 60);
/// Keys of effects that are remembered.
pub const EFFECT_KEYS_MAX: usize = 1_000_000;
/// How long a key of an effect is remembered.
pub const EFFECT_KEY_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Objects of one cluster that the control plane holds.
pub const OBJECTS_MAX: usize = 20_000;
/// Bytes of what an object says, as JSON.
pub const OBJECT_SPEC_MAX: usize = 64 * 1024;
/// Longest life of an agent's certificate.
pub const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(60 * 60);
