//! What can go wrong with a call, as far as a caller can act on it.

use std::error::Error as StdError;
use std::time::Duration;

use mindos_proto::rpc;
use tonic::{Code, Status};

use crate::dial::AddressError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane's address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The control plane refused: trying again would not help.
    #[error("control plane refused ({code:?}): {message}")]
    Refused {
        /// Code of the refusal, such as `AlreadyExists` for an id that is taken by another event.
        code: Code,
        /// What is wrong, for people.
        message: String,
    },
    /// Not reached, or not able, in all the time that the retries were given.
    #[error("control plane could not do it ({code:?}): {message}")]
    Unavailable {
        /// Code of the last failure.
        code: Code,
        /// What was wrong, for people.
        message: String,
        /// When the control plane wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// An answer that does not follow the protocol.
    #[error("control plane answered against the protocol: {0}")]
    Protocol(String),
    /// The wait was not long enough.
    #[error("not all deliveries had ended after {waited_ms} ms")]
    Timeout {
        /// How long it was, in milliseconds.
        waited_ms: u64,
    },
    /// An event that cannot be published.
    #[error("event is not complete: {0}")]
    Event(&'static str),
    /// A blob whose bytes do not fit its name.
    #[error("blob `{reference}` is damaged or misnamed")]
    Blob {
        /// Its address.
        reference: String,
    },
}

impl Error {
    /// Whether another try may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Timeout { .. })
    }

    pub(crate) fn from_code(code: i32, message: String, retry_after: Option<Duration>) -> Error {
        let code = Code::from_i32(code);
        match code {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Unknown => {
                Error::Unavailable { code, message, retry_after }
            }
            _ => Error::Refused { code, message },
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::from(rpc::Status::from(&status))
    }
}

impl From<rpc::Status> for Error {
    fn from(status: rpc::Status) -> Error {
        let delay = status.detail::<rpc::RetryInfo>().and_then(|info| info.retry_delay);
        let retry_after = delay.and_then(|delay| mindos_proto::convert::duration(&delay, "retry_delay").ok());
        Error::from_code(status.code, status.message, retry_after)
    }
}

/// An error with everything that caused it, once each.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
