//! Replays, feedback and what is compared, as messages and back.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::feedback::Voices;
use mindos_core::record::{
    About, Feedback, FeedbackVerdict, GeneralKey, Replay, Role, Variant, VersionWanted, Weighing,
};
use mindos_core::snapshot::Item;
use mindos_model::TenantName;
use mindos_proto::convert::{Invalid, required};
use mindos_proto::delivery::v1 as delivery;
use mindos_proto::journal::v1::{self as pb, event_accepted::About as Message, snapshot_item::Item as Piece};
use mindos_proto::route::v1 as route_pb;

use super::names::Names;
use super::read::{delivery_id, fixed};
use super::record::{general_to_message, tenant};

pub(crate) fn to_message(about: &About) -> Message {
    match about {
        About::Replay(replay) => Message::Replay(of_replay(replay)),
        About::Feedback(feedback) => Message::Feedback(of_feedback(feedback)),
    }
}

pub(crate) fn from_message(names: &mut Names, tenant: &TenantName, message: Message) -> Result<About, Invalid> {
    Ok(match message {
        Message::Replay(message) => About::Replay(replay(names, message)?),
        Message::Feedback(message) => About::Feedback(feedback(names, tenant, message)?),
    })
}

pub(crate) fn of_replay(replay: &Replay) -> pb::Replay {
    let Replay { of, id, route, version } = replay;
    let (version, or_later) = match version {
        None => (String::new(), false),
        Some(VersionWanted::Exactly(version)) => (version.to_string(), false),
        Some(VersionWanted::AtLeast(version)) => (version.to_string(), true),
    };
    let route = route.as_ref().map(ToString::to_string).unwrap_or_default();
    pb::Replay { of: of.0, id: id.to_string(), route, version, or_later }
}

pub(crate) fn replay(names: &mut Names, message: pb::Replay) -> Result<Replay, Invalid> {
    let pb::Replay { of, id, route, version, or_later } = message;
    let version = match (version.is_empty(), or_later) {
        (true, _) => None,
        (false, false) => Some(VersionWanted::Exactly(names.text(&version))),
        (false, true) => Some(VersionWanted::AtLeast(names.text(&version))),
    };
    let route = if route.is_empty() { None } else { Some(names.route(&route)?) };
    Ok(Replay { of: mindos_model::Seq(of), id: names.text(&id), route, version })
}

fn of_feedback(feedback: &Feedback) -> pb::Feedback {
    let Feedback { delivery, verdict, voice, general, variant } = feedback;
    pb::Feedback {
        delivery: Some((*delivery).into()),
        verdict: of_verdict(*verdict),
        voice: Bytes::copy_from_slice(voice),
        general: Some(general_to_message(general)),
        variant: Some(of_variant(variant)),
    }
}

fn feedback(names: &mut Names, tenant: &TenantName, message: pb::Feedback) -> Result<Feedback, Invalid> {
    let pb::Feedback { delivery, verdict, voice, general, variant } = message;
    let general = required(general, "general")?;
    Ok(Feedback {
        delivery: delivery_id(delivery)?,
        verdict: self::verdict(verdict)?,
        voice: fixed(&voice, "voice")?,
        general: names.general(tenant, &general.cluster, &general.name)?,
        variant: self::variant(names, required(variant, "variant")?)?,
    })
}

fn of_verdict(verdict: FeedbackVerdict) -> i32 {
    (match verdict {
        FeedbackVerdict::Accepted => delivery::FeedbackVerdict::Accepted,
        FeedbackVerdict::Dismissed => delivery::FeedbackVerdict::Dismissed,
        FeedbackVerdict::Reverted => delivery::FeedbackVerdict::Reverted,
    }) as i32
}

fn verdict(number: i32) -> Result<FeedbackVerdict, Invalid> {
    match delivery::FeedbackVerdict::try_from(number) {
        Ok(delivery::FeedbackVerdict::Accepted) => Ok(FeedbackVerdict::Accepted),
        Ok(delivery::FeedbackVerdict::Dismissed) => Ok(FeedbackVerdict::Dismissed),
        Ok(delivery::FeedbackVerdict::Reverted) => Ok(FeedbackVerdict::Reverted),
        Ok(delivery::FeedbackVerdict::Unspecified) | Err(_) => {
            Err(Invalid::new("verdict", format_args!("value {number} is not accepted here")))
        }
    }
}

/// A role as its word.
#[must_use]
pub fn of_role(role: Role) -> i32 {
    (match role {
        Role::Live => route_pb::VariantRole::Live,
        Role::Shadow => route_pb::VariantRole::Shadow,
        Role::Replay => route_pb::VariantRole::Replay,
    }) as i32
}

pub(crate) fn of_variant(variant: &Variant) -> pb::Variant {
    let Variant { route, role, arm, version } = variant;
    pb::Variant { route: route.to_string(), role: of_role(*role), arm: arm.to_string(), version: version.to_string() }
}

pub(crate) fn variant(names: &mut Names, message: pb::Variant) -> Result<Variant, Invalid> {
    let pb::Variant { route, role, arm, version } = message;
    let role = match route_pb::VariantRole::try_from(role) {
        Ok(route_pb::VariantRole::Unspecified | route_pb::VariantRole::Live) => Role::Live,
        Ok(route_pb::VariantRole::Shadow) => Role::Shadow,
        Ok(route_pb::VariantRole::Replay) => Role::Replay,
        Err(_) => return Err(Invalid::new("role", format_args!("value {role} is not known"))),
    };
    Ok(Variant { route: names.route(&route)?, role, arm: names.text(&arm), version: names.text(&version) })
}

pub(crate) fn of_weighing(weighing: &Weighing) -> pb::Weighing {
    let Weighing { left_out, generals, instances } = weighing.clone();
    pb::Weighing { left_out, generals, instances }
}

pub(crate) fn weighing(message: pb::Weighing) -> Weighing {
    let pb::Weighing { left_out, generals, instances } = message;
    Weighing { left_out, generals, instances }
}

pub(crate) fn of_opinion(general: &Arc<GeneralKey>, version: &str, voices: Voices) -> Piece {
    let Voices { accepted, dismissed, reverted } = voices;
    let (tenant, general) = (tenant(&general.tenant), Some(general_to_message(general)));
    Piece::Opinion(pb::OpinionState { tenant, general, version: version.to_owned(), accepted, dismissed, reverted })
}

pub(crate) fn opinion(names: &mut Names, message: pb::OpinionState) -> Result<Item, Invalid> {
    let pb::OpinionState { tenant, general, version, accepted, dismissed, reverted } = message;
    let (tenant, general) = (names.tenant(&tenant)?, required(general, "general")?);
    let general = names.general(&tenant, &general.cluster, &general.name)?;
    Ok(Item::Opinion { general, version: names.text(&version), voices: Voices { accepted, dismissed, reverted } })
}

pub(crate) fn of_voice(voice: &[u8], verdict: FeedbackVerdict) -> Piece {
    Piece::Voice(pb::VoiceState { voice: Bytes::copy_from_slice(voice), verdict: of_verdict(verdict) })
}

pub(crate) fn voice(message: pb::VoiceState) -> Result<Item, Invalid> {
    let pb::VoiceState { voice, verdict } = message;
    Ok(Item::Voice { voice: fixed(&voice, "voice")?, verdict: self::verdict(verdict)? })
}
