//! What agents say, checked and turned into inputs.
//!
//! Invariant: an input that leaves here names its session, and everything in it is within the bounds of the model.

use std::sync::Arc;

use mindos_core::access::{Access, Identity, IdentityHolder};
use mindos_core::budget::Limit;
use mindos_core::input::{
    AgentMessage, CeilingsWanted, Extend, Hello, HelloGeneral, Input, PodName, ReportedLoad, ReportedOutcome,
    ResultReport, SessionId,
};
use mindos_core::record::{InstanceKey, Labels, Payload, Usage};
use mindos_model::limits::{GENERALS_PER_AGENT_MAX, INLINE_MAX, SLOTS_MAX};
use mindos_model::{DeliveryId, FailureKind, GeneralName, Timestamp, Token};
use mindos_proto::agent::v1 as wire;
use mindos_proto::agent::v1::agent_message::Message;
use mindos_proto::convert::{Invalid, duration, failure_kind, lease, parsed};
use mindos_proto::delivery::v1 as outcome;

use super::agent_effects;
use crate::access::{Principal, PrincipalKind};
use crate::ingest::event::salt;

/// Versions of the protocol that are spoken here.
pub(super) const PROTOCOL_MIN: u32 = 1;
pub(super) const PROTOCOL_MAX: u32 = 1;
/// The capability of agents that take an event once for all assignments of a frame.
const SHARED_EVENT: &str = "shared_event";
/// The capability of agents whose generals report what they use in mid-run, and stop at their ceilings.
const CEILINGS: &str = "ceilings";
/// Leases that one agent may claim.
pub(super) const CLAIMS_MAX: usize = 100_000;
const LABELS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 253;
const USAGE_MAX: usize = 64;
const CHECKPOINT_MAX: usize = 64 * 1024;
/// What the journal keeps of a message about a failure, in bytes.
const MESSAGE_MAX: usize = 1024;
const WORD_MAX: usize = 255;

/// Reads the frames of one stream.
#[derive(Debug)]
pub(super) struct Up {
    session: SessionId,
    next_number: u64,
    generals: Vec<GeneralName>,
    /// For whom a cluster agent speaks on it, as whom they might have joined by themselves.
    stands_for: Vec<Identity>,
}

/// What the shell itself has to know of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// Numbers of the `Reconcile` messages, in order.
    pub(super) reconciles: Vec<u64>,
    /// `Hello` says that an event may come once for all assignments of a frame.
    pub(super) shares_events: bool,
}

/// Why a stream cannot begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HelloError {
    Invalid(Invalid),
    Version {
        min: u32,
        max: u32,
    },
    /// It is not who its certificate says.
    Identity(String),
}

impl From<Invalid> for HelloError {
    fn from(invalid: Invalid) -> HelloError {
        HelloError::Invalid(invalid)
    }
}

impl Up {
    /// Reads the first frame: `Hello`, and whatever came with it.
    pub(super) fn open(
        session: SessionId,
        caller: &Principal,
        frame: wire::ConnectRequest,
        now: Timestamp,
        inputs: &mut Vec<Input>,
    ) -> Result<(Up, Noted), HelloError> {
        let wire::ConnectRequest { first_number, messages } = frame;
        let mut messages = messages.into_iter();
        let Some(Message::Hello(message)) = messages.next().and_then(|first| first.message) else {
            return Err(Invalid::new("messages", "the first message has to be `hello`").into());
        };
        if first_number != 1 {
            return Err(Invalid::new("first_number", format!("is {first_number}: expected 1")).into());
        }
        let shares_events = message.capabilities.iter().any(|capability| capability == SHARED_EVENT);
        let namespace = message.namespace.clone();
        let hello = hello(session, caller, message)?;
        let generals = hello.generals.iter().map(|general| general.name.clone()).collect();
        let stands_for = stands_for(caller, &hello, &namespace)?;
        let mut up = Up { session, next_number: 2, generals, stands_for };
        inputs.push(Input::Hello(Box::new(hello)));
        let noted = up.messages(messages, now, inputs)?;
        Ok((up, Noted { shares_events, ..noted }))
    }

    /// Whether the stream is of a cluster agent, which speaks for others than itself.
    pub(super) fn speaks_for_others(&self) -> bool {
        !self.stands_for.is_empty()
    }

    /// Who of those that a cluster agent speaks for on this stream is kept out.
    pub(super) fn kept_out(&self, access: &Access) -> Option<&Identity> {
        // The key is the agent's own, which was asked about when its connection was made.
        self.stands_for.iter().find(|identity| access.denial_of(identity, &[0; 32]).is_some())
    }

    /// Reads a frame and appends what it says to `inputs`.
    pub(super) fn frame(
        &mut self,
        frame: wire::ConnectRequest,
        now: Timestamp,
        inputs: &mut Vec<Input>,
    ) -> Result<Noted, Invalid> {
        let wire::ConnectRequest { first_number, messages } = frame;
        if first_number != self.next_number || messages.is_empty() {
            let expected = format!("is {first_number} with {} messages: expected {}", messages.len(), self.next_number);
            return Err(Invalid::new("first_number", expected));
        }
        self.messages(messages.into_iter(), now, inputs)
    }

    fn messages(
        &mut self,
        messages: impl Iterator<Item = wire::AgentMessage>,
        now: Timestamp,
        inputs: &mut Vec<Input>,
    ) -> Result<Noted, Invalid> {
        let mut noted = Noted::default();
        for message in messages {
            let number = self.next_number;
            self.next_number += 1;
            self.message(message, now, inputs, &mut noted)
                .map_err(|invalid| invalid.within(&format!("message {number}")))?;
        }
        Ok(noted)
    }

    fn message(
        &self,
        message: wire::AgentMessage,
        now: Timestamp,
        inputs: &mut Vec<Input>,
        noted: &mut Noted,
    ) -> Result<(), Invalid> {
        let session = self.session;
        let mut push = |message| inputs.push(Input::Agent { session, message });
        match message.message {
            // A message of a later release, or an answer to something that this one never asks.
            None | Some(Message::Configured(_) | Message::Reply(_)) => {}
            Some(Message::Hello(_)) => return Err(Invalid::new("hello", "comes once, as the first message")),
            Some(Message::Grant(wire::Grant { generals, last_assign: _ })) => {
                for wire::GeneralGrant { general, capacity } in generals {
                    if capacity > SLOTS_MAX {
                        let accepted = format!("is {capacity}: expected 0 to {SLOTS_MAX}");
                        return Err(Invalid::new("grant.capacity", accepted));
                    }
                    push(AgentMessage::Grant { general: self.general(&general)?, capacity });
                }
            }
            Some(Message::Accept(wire::Accept { delivery_id, token })) => {
                let (delivery, token) = lease(&delivery_id, token)?;
                push(AgentMessage::Accept { delivery, token });
            }
            Some(Message::Decline(decline)) => push(self::decline(decline, now)?),
            Some(Message::Extend(extend)) => push(AgentMessage::Extend(Box::new(self::extend(extend, now)?))),
            Some(Message::Result(result)) => push(AgentMessage::Result(Box::new(self::result(result, now)?))),
            Some(Message::Heartbeat(wire::Heartbeat { loads, leases: _ })) => {
                let loads = loads.into_iter().map(|load| self.load(load)).collect::<Result<_, _>>()?;
                push(AgentMessage::Heartbeat { loads });
            }
            Some(Message::Reconcile(wire::Reconcile { request, claims, last_assign: _ })) => {
                noted.reconciles.push(request);
                push(AgentMessage::Reconcile { held: self::claims(claims)? });
            }
            // An answer to a question that the plane does not ask.
            Some(Message::Reconciled(_)) => {}
            Some(Message::Draining(_)) => push(AgentMessage::Draining),
        }
        Ok(())
    }

    /// The name as `Hello` gave it, so that it is stored once.
    fn general(&self, name: &str) -> Result<GeneralName, Invalid> {
        let known = self.generals.iter().find(|general| general.as_str() == name);
        known.cloned().ok_or_else(|| Invalid::new("general", "was not in `hello`"))
    }

    fn load(&self, load: wire::GeneralLoad) -> Result<(GeneralName, ReportedLoad), Invalid> {
        let wire::GeneralLoad { general, in_flight, queued, latency, models } = load;
        let latency = latency.map(|latency| duration(&latency, "latency")).transpose()?.unwrap_or_default();
        let model = super::model_load::read(models)?.map(Box::new);
        Ok((self.general(&general)?, ReportedLoad { in_flight, queued, latency, model }))
    }
}

fn hello(session: SessionId, caller: &Principal, message: wire::Hello) -> Result<Hello, HelloError> {
    let wire::Hello {
        protocol_min,
        protocol_max,
        capabilities,
        version,
        cluster,
        region,
        cluster_labels,
        namespace,
        pod,
        instance_id,
        boot_id,
        generals,
        last_session: _,
        claims,
    } = message;
    if protocol_min > PROTOCOL_MAX || protocol_max < PROTOCOL_MIN || protocol_min > protocol_max {
        return Err(HelloError::Version { min: protocol_min, max: protocol_max });
    }
    if generals.is_empty() || generals.len() > GENERALS_PER_AGENT_MAX {
        let accepted = format!("there are {}: expected 1 to {GENERALS_PER_AGENT_MAX}", generals.len());
        return Err(Invalid::new("hello.generals", accepted).into());
    }
    let mut served = Vec::<HelloGeneral>::with_capacity(generals.len());
    for wire::ServedGeneral { r#type, name, labels, slots: _ } in generals {
        let name = if name.is_empty() { &r#type } else { &name };
        let general = HelloGeneral {
            name: parsed(name, "hello.generals.name")?,
            ty: parsed(&r#type, "hello.generals.type")?,
            labels: self::labels(labels, "hello.generals.labels")?,
            // What may be filled is said by `Grant`, once the general is ready.
            slots: 0,
        };
        if served.iter().any(|other| other.name == general.name) {
            return Err(Invalid::new("hello.generals", format!("`{name}` stands twice")).into());
        }
        served.push(general);
    }
    let key = InstanceKey {
        tenant: caller.tenant.clone(),
        cluster: parsed(&cluster, "hello.cluster")?,
        instance: parsed(&instance_id, "hello.instance_id")?,
    };
    if let PrincipalKind::Agent(agent) = &caller.kind {
        speaks_as(&agent.identity, &key, &namespace, &served)?;
    }
    Ok(Hello {
        session,
        key: Arc::new(key),
        boot: parsed(&boot_id, "hello.boot_id")?,
        version: Arc::from(clipped(&version, WORD_MAX)),
        pod: PodName { namespace: Arc::from(clipped(&namespace, WORD_MAX)), name: Arc::from(clipped(&pod, WORD_MAX)) },
        region: if region.is_empty() { None } else { Some(parsed(&region, "hello.region")?) },
        cluster_labels: labels(cluster_labels, "hello.cluster_labels")?,
        generals: served,
        keeps_ceilings: capabilities.iter().any(|capability| capability == CEILINGS),
        held: self::claims(claims)?,
    })
}

/// Checks that an agent says it is who its certificate says it is, and speaks for nobody else.
fn speaks_as(
    identity: &Identity,
    key: &InstanceKey,
    namespace: &str,
    generals: &[HelloGeneral],
) -> Result<(), HelloError> {
    let differs = |field: &str, found: &str, certified: &str| {
        Err(HelloError::Identity(format!("hello.{field}: is `{found}`: the certificate is for `{certified}`")))
    };
    if key.cluster != identity.cluster {
        return differs("cluster", key.cluster.as_str(), identity.cluster.as_str());
    }
    // A cluster agent speaks for every general of its cluster, and so for each of their instances that has no sidecar.
    if let IdentityHolder::General { namespace: certified, general, instance } = &identity.holder {
        if key.instance != *instance {
            return differs("instance_id", key.instance.as_str(), instance.as_str());
        }
        if namespace != &**certified {
            return differs("namespace", namespace, certified);
        }
        if let Some(other) = generals.iter().find(|other| !identity.speaks_for(&other.name)) {
            return differs("generals", other.name.as_str(), general.as_str());
        }
    }
    Ok(())
}

/// Whom a cluster agent speaks for.
fn stands_for(caller: &Principal, hello: &Hello, namespace: &str) -> Result<Vec<Identity>, HelloError> {
    let PrincipalKind::Agent(agent) = &caller.kind else { return Ok(Vec::new()) };
    let Identity { tenant, cluster, holder: IdentityHolder::ClusterAgent { .. } } = &agent.identity else {
        return Ok(Vec::new());
    };
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    Identity::check_namespace(namespace).map_err(|error| Invalid::new("hello.namespace", error))?;
    let namespace: Arc<str> = namespace.into();
    let one = |general: &HelloGeneral| {
        let (general, instance) = (general.name.clone(), hello.key.instance.clone());
        let holder = IdentityHolder::General { namespace: namespace.clone(), general, instance };
        Identity { tenant: tenant.clone(), cluster: cluster.clone(), holder }
    };
    Ok(hello.generals.iter().map(one).collect())
}

/// Sorted, because the map was.
fn labels(labels: std::collections::BTreeMap<String, String>, field: &'static str) -> Result<Labels, Invalid> {
    if labels.len() > LABELS_MAX {
        return Err(Invalid::new(field, format!("there are {}: expected at most {LABELS_MAX}", labels.len())));
    }
    let fits = |text: &String| text.len() <= LABEL_BYTES_MAX;
    if !labels.iter().all(|(name, value)| !name.is_empty() && fits(name) && fits(value)) {
        return Err(Invalid::new(field, format!("expected names and values of at most {LABEL_BYTES_MAX} bytes")));
    }
    Ok(labels.into_iter().map(|(name, value)| (Arc::from(name), Arc::from(value))).collect())
}

fn claims(claims: Vec<wire::LeaseClaim>) -> Result<Vec<(DeliveryId, Token)>, Invalid> {
    if claims.len() > CLAIMS_MAX {
        return Err(Invalid::new("claims", format!("there are {}: expected at most {CLAIMS_MAX}", claims.len())));
    }
    claims.into_iter().map(|wire::LeaseClaim { delivery_id, token }| lease(&delivery_id, token)).collect()
}

fn decline(decline: wire::Decline, now: Timestamp) -> Result<AgentMessage, Invalid> {
    let wire::Decline { delivery_id, token, failure } = decline;
    let (delivery, token) = lease(&delivery_id, token)?;
    let failure = failure.unwrap_or_default();
    let message = Arc::from(clipped(&failure.message, MESSAGE_MAX));
    let unspecified = failure.kind == i32::from(outcome::FailureKind::Unspecified);
    match failure_kind(&failure, now)? {
        FailureKind::RateLimited { until } => {
            Ok(AgentMessage::Decline { delivery, token, retry_at: Some(until), message })
        }
        _ if unspecified => Ok(AgentMessage::Decline { delivery, token, retry_at: None, message }),
        // Every other kind says how the attempt ended.
        kind => Ok(AgentMessage::Result(Box::new(ResultReport {
            delivery,
            token,
            outcome: ReportedOutcome::Failed { kind, message },
            usage: Vec::new(),
            effects: Vec::new(),
        }))),
    }
}

fn extend(extend: wire::Extend, now: Timestamp) -> Result<Extend, Invalid> {
    let wire::Extend { delivery_id, token, progress, usage, checkpoint, wanted, ceilings_wanted } = extend;
    let (delivery, token) = lease(&delivery_id, token)?;
    if checkpoint.len() > CHECKPOINT_MAX {
        let accepted = format!("has {} bytes: expected at most {CHECKPOINT_MAX}", checkpoint.len());
        return Err(Invalid::new("extend.checkpoint", accepted));
    }
    let progressed = !progress.is_empty() || !usage.is_empty() || !checkpoint.is_empty();
    Ok(Extend {
        delivery,
        token,
        // Agents report progress when there is some, so its time is a number that grows with it.
        progress: if progressed { now.0 } else { 0 },
        checkpoint: (!checkpoint.is_empty()).then(|| Payload { salt: salt(), bytes: own(checkpoint) }),
        usage: self::usage(usage)?,
        wanted: match (ceilings_wanted, wanted) {
            (Some(in_all), _) => Some(CeilingsWanted::InAll(limit(in_all, "extend.ceilings_wanted.time")?)),
            (None, Some(more)) => Some(CeilingsWanted::More(limit(more, "extend.wanted.time")?)),
            (None, None) => None,
        },
    })
}

fn limit(wanted: wire::Ceilings, field: &'static str) -> Result<Limit, Invalid> {
    let wire::Ceilings { cost_micros, tokens, calls: _, time } = wanted;
    let time = time.map(|time| duration(&time, field)).transpose()?;
    let time_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    Ok(Limit { micros: cost_micros, tokens, time_ms })
}

fn result(result: wire::Result, now: Timestamp) -> Result<ResultReport, Invalid> {
    let wire::Result {
        delivery_id,
        token,
        output,
        output_content_type,
        output_ref,
        usage,
        effects,
        duration: _,
        outcome,
    } = result;
    let (delivery, token) = lease(&delivery_id, token)?;
    let outcome = match outcome {
        Some(wire::result::Outcome::Succeeded(_)) => {
            if output.len() > INLINE_MAX {
                let accepted = format!("has {} bytes: expected at most {INLINE_MAX}; use a blob", output.len());
                return Err(Invalid::new("result.output", accepted));
            }
            let output_ref = if output_ref.is_empty() { None } else { Some(blob_ref(&output_ref)?) };
            let has_output = output_ref.is_none() && !output.is_empty();
            ReportedOutcome::Succeeded {
                output: has_output.then(|| Payload { salt: salt(), bytes: own(output) }),
                output_type: (!output_content_type.is_empty())
                    .then(|| Arc::from(clipped(&output_content_type, WORD_MAX))),
                output_ref,
            }
        }
        Some(wire::result::Outcome::Failure(failure)) => ReportedOutcome::Failed {
            kind: failure_kind(&failure, now)?,
            message: Arc::from(clipped(&failure.message, MESSAGE_MAX)),
        },
        Some(wire::result::Outcome::Cancelled(cancelled)) => ReportedOutcome::Failed {
            kind: FailureKind::Cancelled,
            message: Arc::from(clipped(&cancelled.message, MESSAGE_MAX)),
        },
        None => ReportedOutcome::Failed { kind: FailureKind::Transient, message: Arc::from("no outcome was reported") },
    };
    let usage = self::usage(usage)?;
    // A result whose intents make no sense is as bad as none, and no reason to end the stream of all others.
    let (outcome, effects) = match (outcome, agent_effects::intents(effects)) {
        (ReportedOutcome::Succeeded { .. }, Err(invalid)) => {
            let message = format!("its result is not accepted: {invalid}");
            let message = Arc::from(clipped(&message, MESSAGE_MAX));
            (ReportedOutcome::Failed { kind: FailureKind::Poison, message }, Vec::new())
        }
        (outcome @ ReportedOutcome::Succeeded { .. }, Ok(intents)) => (outcome, intents),
        // What failed wants nothing done.
        (outcome @ ReportedOutcome::Failed { .. }, _) => (outcome, Vec::new()),
    };
    Ok(ResultReport { delivery, token, outcome, usage, effects })
}

/// A copy of its own: a slice would keep the whole frame that it came in alive.
fn own(bytes: bytes::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&bytes)
}

fn usage(usage: Vec<outcome::Usage>) -> Result<Vec<Usage>, Invalid> {
    if usage.len() > USAGE_MAX {
        return Err(Invalid::new("usage", format!("there are {}: expected at most {USAGE_MAX}", usage.len())));
    }
    let one = |usage: outcome::Usage| {
        let outcome::Usage { model, input_tokens, output_tokens, cost_micros, cached_input_tokens: _, calls: _ } =
            usage;
        Usage { model: Arc::from(clipped(&model, WORD_MAX)), input_tokens, output_tokens, cost_micros }
    };
    Ok(usage.into_iter().map(one).collect())
}

fn blob_ref(text: &str) -> Result<[u8; 32], Invalid> {
    let invalid = || Invalid::new("result.output_ref", "expected `blob:sha256:` and 64 hexadecimal digits");
    let hex = text
        .strip_prefix("blob:sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .ok_or_else(invalid)?;
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| invalid())?;
    }
    Ok(digest)
}

/// The beginning of a text, cut at a character.
fn clipped(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use crate::tls::identity::AgentIdentity;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_176_000_000);

    fn hello_frame() -> wire::ConnectRequest {
        let general = wire::ServedGeneral { r#type: "security-general".to_owned(), ..Default::default() };
        let hello = wire::Hello {
            protocol_min: 1,
            protocol_max: 3,
            cluster: "c".to_owned(),
            instance_id: "i".to_owned(),
            boot_id: "b".to_owned(),
            generals: vec![general],
            ..Default::default()
        };
        frame(1, vec![Message::Hello(hello)])
    }

    fn frame(first_number: u64, messages: Vec<Message>) -> wire::ConnectRequest {
        let messages = messages.into_iter().map(|message| wire::AgentMessage { message: Some(message) }).collect();
        wire::ConnectRequest { first_number, messages }
    }

    fn open() -> Up {
        let caller = Principal::local(None, None);
        Up::open(SessionId(1), &caller, hello_frame(), NOW, &mut Vec::new()).unwrap().0
    }

    #[test]
    fn an_agent_speaks_for_whom_its_certificate_names() {
        let open_as = |identity: &str, change: fn(&mut wire::Hello)| {
            let agent =
                AgentIdentity { identity: identity.parse().unwrap(), key: [7; 32], not_after: NOW, issuer: None };
            let mut frame = hello_frame();
            let Some(Message::Hello(hello)) = &mut frame.messages[0].message else { unreachable!() };
            change(hello);
            let caller = Principal::agent(&Arc::new(agent), "mindos.local", None);
            match Up::open(SessionId(1), &caller, frame, NOW, &mut Vec::new()) {
                Ok(_) => String::new(),
                Err(HelloError::Identity(message)) => message,
                Err(other) => panic!("{other:?}"),
            }
        };
        let general = "tenant/acme/cluster/c/ns/agents/general/security-general/instance/i";
        let agent = "tenant/acme/cluster/c/agent/i";
        let in_agents: fn(&mut wire::Hello) = |hello: &mut wire::Hello| hello.namespace = "agents".to_owned();
        assert_eq!(open_as(general, in_agents), "");
        assert_eq!(open_as(agent, |_| {}), "");
        assert_eq!(open_as(agent, |hello| hello.generals[0].name = "other".to_owned()), "");
        assert_eq!(open_as(agent, |hello| hello.instance_id = "triage-0.agents".to_owned()), "");
        for (identity, change, field) in [
            (general, (|_| {}) as fn(&mut wire::Hello), "hello.namespace"),
            (
                general,
                |hello| (hello.cluster, hello.namespace) = ("c2".to_owned(), "agents".to_owned()),
                "hello.cluster",
            ),
            (
                general,
                |hello| (hello.instance_id, hello.namespace) = ("i2".to_owned(), "agents".to_owned()),
                "hello.instance_id",
            ),
            (
                general,
                |hello| (hello.generals[0].name, hello.namespace) = ("other".to_owned(), "agents".to_owned()),
                "hello.generals",
            ),
            (agent, |hello| hello.cluster = "c2".to_owned(), "hello.cluster"),
        ] {
            let message = open_as(identity, change);
            assert!(message.starts_with(field) && message.contains("the certificate is for"), "{identity}: {message}");
        }
    }

    #[test]
    fn whom_a_cluster_agent_speaks_for_is_kept_out_as_if_it_had_joined_itself() {
        let agent: Identity = "tenant/acme/cluster/c/agent/i".parse().unwrap();
        let agent = AgentIdentity { identity: agent, key: [7; 32], not_after: NOW, issuer: None };
        let caller = Principal::agent(&Arc::new(agent), "mindos.local", None);
        let mut frame = hello_frame();
        if let Some(Message::Hello(hello)) = &mut frame.messages[0].message {
            (hello.namespace, hello.instance_id) = ("agents".to_owned(), "triage-0.agents".to_owned());
        }
        let (up, _) = Up::open(SessionId(1), &caller, frame.clone(), NOW, &mut Vec::new()).unwrap();
        let whom: Vec<String> = up.stands_for.iter().map(ToString::to_string).collect();
        let expected = "tenant/acme/cluster/c/ns/agents/general/security-general/instance/triage-0.agents";
        assert_eq!(whom, [expected]);
        assert!(up.kept_out(&Access::default()).is_none());
        if let Some(Message::Hello(hello)) = &mut frame.messages[0].message {
            hello.namespace = "Not One".to_owned();
        }
        let refused = Up::open(SessionId(1), &caller, frame, NOW, &mut Vec::new());
        assert!(matches!(refused, Err(HelloError::Invalid(_))));
    }

    #[test]
    fn a_stream_begins_with_hello() {
        let caller = Principal::local(None, None);
        let mut inputs = Vec::new();
        Up::open(SessionId(1), &caller, hello_frame(), NOW, &mut inputs).unwrap();
        assert!(matches!(&inputs[..], [Input::Hello(hello)] if hello.generals[0].name.as_str() == "security-general"));

        let early = frame(1, vec![Message::Heartbeat(wire::Heartbeat::default())]);
        assert!(matches!(Up::open(SessionId(1), &caller, early, NOW, &mut inputs), Err(HelloError::Invalid(_))));
        let mut late = hello_frame();
        if let Some(Message::Hello(hello)) = &mut late.messages[0].message {
            hello.protocol_min = 2;
        }
        assert!(matches!(Up::open(SessionId(1), &caller, late, NOW, &mut inputs), Err(HelloError::Version { .. })));
    }

    #[test]
    fn messages_are_numbered_without_gaps() {
        let mut up = open();
        let beat = || Message::Heartbeat(wire::Heartbeat::default());
        let mut inputs = Vec::new();
        up.frame(frame(2, vec![beat(), beat()]), NOW, &mut inputs).unwrap();
        up.frame(frame(4, vec![beat()]), NOW, &mut inputs).unwrap();
        assert_eq!(inputs.len(), 3);
        assert!(up.frame(frame(6, vec![beat()]), NOW, &mut inputs).is_err());
        assert!(up.frame(frame(4, vec![beat()]), NOW, &mut inputs).is_err());
    }

    #[test]
    fn a_message_of_a_later_release_is_passed_over() {
        let mut up = open();
        let unknown = wire::ConnectRequest { first_number: 2, messages: vec![wire::AgentMessage { message: None }] };
        let mut inputs = Vec::new();
        up.frame(unknown, NOW, &mut inputs).unwrap();
        assert!(inputs.is_empty());
        up.frame(frame(3, vec![Message::Draining(wire::Draining::default())]), NOW, &mut inputs).unwrap();
    }

    #[test]
    fn what_is_malformed_is_named_with_its_number() {
        let mut up = open();
        let accept = wire::Accept { delivery_id: "d1".to_owned(), token: None };
        let error = up.frame(frame(2, vec![Message::Accept(accept)]), NOW, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("message 2") && error.to_string().contains("delivery_id"), "{error}");
    }

    #[test]
    fn a_blob_is_named_by_its_digest() {
        assert_eq!(blob_ref(&format!("blob:sha256:{}", "0f".repeat(32))).unwrap(), [15; 32]);
        for text in ["", "sha256:00", "blob:sha256:zz", &format!("blob:sha256:{}", "+f".repeat(32))] {
            assert!(blob_ref(text).is_err(), "{text}");
        }
    }
}
