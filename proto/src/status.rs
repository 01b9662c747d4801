//! Errors with details: `google.rpc.Status`, as every surface of the API answers.
//!
//! ```text
//!   Status::new(code, message).with(ErrorInfo {..}).with(RetryInfo {..})  -->  tonic::Status, with the details in its trailer
//! ```
//! Invariant: a detail is found again under the type it was put in by, on either side of the wire.

#[cfg(any(feature = "client", feature = "server"))]
use prost::Message;
use prost::Name;
use prost_types::Any;

use crate::rpc::{
    BadRequest, ErrorInfo, PreconditionFailure, QuotaFailure, RequestInfo, ResourceInfo, RetryInfo, Status,
};

/// Where the reasons of our `ErrorInfo` are unique.
pub const ERROR_DOMAIN: &str = "mindos";
/// The code of a request that is malformed.
pub const INVALID_ARGUMENT: i32 = 3;

impl Status {
    /// An error with a gRPC status code (0 to 16) and a message for developers.
    pub fn new(code: i32, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), details: Vec::new() }
    }

    /// The same error with one more detail.
    #[must_use]
    pub fn with<D: Name>(mut self, detail: D) -> Status {
        self.details.push(Any { type_url: D::type_url(), value: detail.encode_to_vec() });
        self
    }

    /// The same error with an `ErrorInfo` of our domain: a constant reason and the facts it is about.
    #[must_use]
    pub fn with_reason<'a>(self, reason: &str, facts: impl IntoIterator<Item = (&'a str, String)>) -> Status {
        let metadata = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
        self.with(ErrorInfo { reason: reason.to_owned(), domain: ERROR_DOMAIN.to_owned(), metadata })
    }

    /// The first detail of a type; `None` when there is none that can be read.
    #[must_use]
    pub fn detail<D: Name + Default>(&self) -> Option<D> {
        let wanted = D::full_name();
        let named = |any: &&Any| any.type_url.rsplit('/').next() == Some(wanted.as_str());
        self.details.iter().find(named).and_then(|any| D::decode(any.value.as_slice()).ok())
    }
}

macro_rules! named {
    ($($detail:ident),+) => {$(
        impl Name for $detail {
            const NAME: &'static str = stringify!($detail);
            const PACKAGE: &'static str = "google.rpc";

            fn type_url() -> String {
                concat!("type.googleapis.com/google.rpc.", stringify!($detail)).to_owned()
            }
        }
    )+};
}

named!(BadRequest, ErrorInfo, PreconditionFailure, QuotaFailure, RequestInfo, ResourceInfo, RetryInfo);

#[cfg(any(feature = "client", feature = "server"))]
impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        let details = status.encode_to_vec();
        tonic::Status::with_details(tonic::Code::from_i32(status.code), status.message, details.into())
    }
}

#[cfg(any(feature = "client", feature = "server"))]
impl From<&tonic::Status> for Status {
    fn from(status: &tonic::Status) -> Self {
        let code = i32::from(status.code());
        let details = Status::decode(status.details()).map(|inner| inner.details).unwrap_or_default();
        Status { code, message: status.message().to_owned(), details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Status {
        let wait = prost_types::Duration { seconds: 3, nanos: 0 };
        Status::new(8, "the lane is full")
            .with_reason("LANE_FULL", [("lane", "octocat/hello-world/pr/7".to_owned())])
            .with(RetryInfo { retry_delay: Some(wait) })
    }

    #[test]
    fn details_are_found_by_their_type() {
        let status = full();
        assert_eq!(status.detail::<ErrorInfo>().unwrap().reason, "LANE_FULL");
        assert_eq!(status.detail::<RetryInfo>().unwrap().retry_delay.unwrap().seconds, 3);
        assert_eq!(status.detail::<BadRequest>(), None);
    }

    #[cfg(any(feature = "client", feature = "server"))]
    #[test]
    fn details_travel_with_the_status_of_grpc() {
        let sent = tonic::Status::from(full());
        assert_eq!(sent.code(), tonic::Code::ResourceExhausted);
        assert_eq!(Status::from(&sent), full());
    }

    #[cfg(any(feature = "client", feature = "server"))]
    #[test]
    fn a_status_with_noise_for_details_keeps_code_and_message() {
        let noise = tonic::Status::with_details(tonic::Code::Aborted, "gone", vec![0xff; 9].into());
        assert_eq!(Status::from(&noise), Status::new(10, "gone"));
    }
}
