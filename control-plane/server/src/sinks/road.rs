//! Roads: how the messages of a sink leave.

use std::time::Duration;

use mindos_model::ParkReason;

#[cfg(feature = "nats")]
use super::nats::Nats;
use super::post::Post;
use crate::logging::Chain;
use crate::notify::Place;
use crate::outgoing::{Answer, OutgoingError};

/// How messages leave, checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Road {
    /// By HTTP.
    Http(Post),
    /// To a stream of NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(Nats),
    /// To people, as a notice.
    Notice(Place),
}

impl Road {
    /// Whether it has a form for this.
    pub(super) fn wants(&self, notice: &super::message::Notice) -> bool {
        match self {
            Road::Http(_) => true,
            #[cfg(feature = "nats")]
            Road::Nats(_) => true,
            // Work that waits for room comes back by itself, and is nobody's business.
            Road::Notice(_) => notice.parked.is_some_and(|reason| reason != ParkReason::BacklogFull),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// For good: this message, not the sink.
    Message { reason: String },
    /// For now.
    Later { reason: String, wait: Option<Duration> },
}

/// What an answer over HTTP means for the message; `wait` says for how long it asks to be left alone.
pub(super) fn judge(
    answered: Result<Answer, OutgoingError>,
    origin: &str,
    wait: impl Fn(&Answer) -> Option<Duration>,
) -> Result<(), Refused> {
    let answer = match answered {
        Ok(answer) => answer,
        // It was taken, and what was said to it does not matter.
        Err(OutgoingError::TooLarge { .. }) => return Ok(()),
        Err(error) => return Err(Refused::Later { reason: Chain(&error).to_string(), wait: None }),
    };
    let reason = format!("{origin} answered {}", answer.status.as_u16());
    match answer.status.as_u16() {
        200..=299 => Ok(()),
        // These say something of the message. Any other says something of the sink or of how it is configured.
        400 | 409 | 411 | 413 | 414 | 415 | 422 | 431 => Err(Refused::Message { reason }),
        _ => Err(Refused::Later { reason, wait: wait(&answer) }),
    }
}
