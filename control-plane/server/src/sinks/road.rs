//! Roads: how the messages of a sink leave.

use std::time::Duration;

#[cfg(feature = "nats")]
use super::nats::Nats;
use super::post::Post;

/// How messages leave, checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Road {
    /// By HTTP.
    Http(Post),
    /// To a stream of NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(Nats),
}

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// For good: this message, not the sink.
    Message { reason: String },
    /// For now.
    Later { reason: String, wait: Option<Duration> },
}
