//! Roads: how the messages of a sink leave.

use std::time::Duration;

use mindos_model::ParkReason;

#[cfg(feature = "nats")]
use super::nats::Nats;
use super::post::Post;
use crate::logging::Chain;
use crate::notify::Place;
use mindos_outgoing::{Answer, OutgoingError};

/// Tries of the first of the notices in a row that a place refuses because of its settings; each behind it has one.
const NOTICE_TRIES_MAX: u32 = 3;

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
    /// How often a message is sent that the sink refuses because of its settings; unset for as long as it takes.
    ///
    /// A result waits until somebody has mended them, however long. A notice is worth little by then, and those behind it are late.
    pub(super) fn tries_max(&self) -> Option<u32> {
        match self {
            Road::Http(_) => None,
            #[cfg(feature = "nats")]
            Road::Nats(_) => None,
            Road::Notice(_) => Some(NOTICE_TRIES_MAX),
        }
    }

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
    /// For as long as nobody mends the sink's settings: who sends, or where to.
    Settings { reason: String },
    /// For now.
    Later { reason: String, wait: Option<Duration> },
}

impl Refused {
    /// What to tell of it.
    pub(super) fn into_reason(self) -> String {
        match self {
            Refused::Message { reason } | Refused::Settings { reason } | Refused::Later { reason, wait: _ } => reason,
        }
    }
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
        // These say something of the message.
        400 | 409 | 411 | 413 | 414 | 415 | 422 | 431 => Err(Refused::Message { reason }),
        408 | 421 | 425 | 429 => Err(Refused::Later { reason, wait: wait(&answer) }),
        // Such as 401, 403, 404 and 410; also a redirect, which is not followed.
        300..=499 => Err(Refused::Settings { reason }),
        _ => Err(Refused::Later { reason, wait: wait(&answer) }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn answers_say_something_of_the_message_the_settings_or_the_moment() {
        let of = |code: u16| {
            let status = StatusCode::from_u16(code).unwrap();
            let answer = Answer { status, headers: HeaderMap::new(), body: Bytes::new() };
            match judge(Ok(answer), "https://x", |_| Some(Duration::from_secs(7))) {
                Ok(()) => "taken",
                Err(Refused::Message { .. }) => "message",
                Err(Refused::Settings { .. }) => "settings",
                Err(Refused::Later { wait, .. }) => {
                    assert_eq!(wait, Some(Duration::from_secs(7)));
                    "later"
                }
            }
        };
        for (codes, meaning) in [
            (&[200, 202, 204][..], "taken"),
            (&[400, 413, 415, 422], "message"),
            (&[301, 308, 401, 402, 403, 404, 405, 410], "settings"),
            (&[408, 425, 429, 500, 502, 503, 504], "later"),
        ] {
            codes.iter().for_each(|code| assert_eq!(of(*code), meaning, "{code}"));
        }
    }
}
