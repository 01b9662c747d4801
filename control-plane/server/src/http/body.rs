//! Bodies: read whole, within bounds of size, of time and of memory for all requests together.
//!
//! Invariant: who is known by their body alone, as the senders of signed webhooks are, takes no memory from those who are known before it.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::error::HttpError;
use crate::limits::{AddressKey, Shares};
use crate::net::Connection;

/// What all bodies of those who are known may take together, in KiB, and what those of all others may.
const MEMORY_KIB: u32 = 64 * 1024;
/// How much of the latter one address may take: its largest body.
const ADDRESS_KIB: u32 = 25 * 1024;

/// Who sends a body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sender {
    /// Somebody who showed who they are, or need not.
    Known,
    /// Somebody at this address whose body has to show it.
    Unproven(IpAddr),
}

impl Sender {
    /// The other end of a connection, before its body has shown who it is.
    pub(crate) fn unproven(peer: Option<&Connection>) -> Sender {
        peer.map_or(Sender::Known, |peer| Sender::Unproven(peer.peer.ip()))
    }
}

/// Reads bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    memory: Semaphore,
    unproven: Semaphore,
    shares: Shares<AddressKey>,
    timeout: Duration,
}

/// A body, and the memory that it holds until this is dropped.
pub(crate) struct Held<'a> {
    pub bytes: Bytes,
    _memory: SemaphorePermit<'a>,
    _share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// `timeout` is how long a body may take to arrive, the wait for memory included.
    pub(crate) fn new(timeout: Duration) -> Bodies {
        let [memory, unproven] = [(); 2].map(|()| Semaphore::new(MEMORY_KIB as usize));
        Bodies { memory, unproven, shares: Shares::default(), timeout }
    }

    /// Reads a body of at most `max` bytes, which is not compressed.
    pub(crate) async fn read(
        &self,
        sender: Sender,
        headers: &HeaderMap,
        body: Body,
        max: usize,
    ) -> Result<Held<'_>, HttpError> {
        if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
            let message = format!("the body is compressed (Content-Encoding {coding:?}): send it as it is");
            return Err(HttpError::with_code(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "CONTENT_ENCODING_UNSUPPORTED",
                message,
            ));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > max) {
            return Err(too_large(max));
        }
        let kib = u32::try_from(length.unwrap_or(max).div_ceil(1024)).unwrap_or(MEMORY_KIB).clamp(1, MEMORY_KIB);
        let read = async {
            let unavailable =
                |_| HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "server is stopping");
            let (memory, share) = match sender {
                Sender::Known => (&self.memory, None),
                Sender::Unproven(address) => {
                    let share = self.shares.of(address.into(), ADDRESS_KIB as usize);
                    (&self.unproven, Some(share.acquire_many_owned(kib.min(ADDRESS_KIB)).await.map_err(unavailable)?))
                }
            };
            let memory = memory.acquire_many(kib).await.map_err(unavailable)?;
            match Limited::new(body, max).collect().await {
                Ok(collected) => Ok(Held { bytes: collected.to_bytes(), _memory: memory, _share: share }),
                Err(error) if error.is::<LengthLimitError>() => Err(too_large(max)),
                Err(error) => {
                    let message = format!("the body broke off: {error}");
                    Err(HttpError::with_code(StatusCode::BAD_REQUEST, "BODY_INCOMPLETE", message))
                }
            }
        };
        let slow = |_| {
            let message = format!("the body did not arrive within {} s", self.timeout.as_secs());
            HttpError::with_code(StatusCode::REQUEST_TIMEOUT, "BODY_TOO_SLOW", message)
        };
        tokio::time::timeout(self.timeout, read).await.map_err(slow)?
    }
}

fn too_large(max: usize) -> HttpError {
    let message = format!("the body has more than {max} bytes");
    HttpError::with_code(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_bounded_in_size_and_time() {
        let bodies = Bodies::new(Duration::from_millis(20));
        let read = async |headers: HeaderMap, body: Body| {
            let read = bodies.read(Sender::Known, &headers, body, 10).await;
            read.map(|held| held.bytes).map_err(|error| error.code().as_u16())
        };
        assert_eq!(read(HeaderMap::new(), Body::from("0123456789")).await, Ok(Bytes::from("0123456789")));
        assert_eq!(read(HeaderMap::new(), Body::from("0123456789a")).await, Err(413));
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, "104857600".parse().unwrap())]);
        let never = || Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(announced, never()).await, Err(413));
        assert_eq!(read(HeaderMap::new(), never()).await, Err(408));
        let coded = |coding: &str| HeaderMap::from_iter([(header::CONTENT_ENCODING, coding.parse().unwrap())]);
        assert_eq!(read(coded("gzip"), Body::from("0123456789")).await, Err(415));
        assert_eq!(read(coded("identity"), Body::from("0123456789")).await, Ok(Bytes::from("0123456789")));
        assert_eq!(bodies.memory.available_permits(), MEMORY_KIB as usize);
    }

    #[tokio::test]
    async fn who_is_not_known_yet_keeps_nobody_else_waiting() {
        let bodies = Bodies::new(Duration::from_secs(5));
        let announced = || HeaderMap::from_iter([(header::CONTENT_LENGTH, "26214400".parse().unwrap())]);
        let never = || Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
        let [one, other] = [1, 2].map(|last| Sender::Unproven(IpAddr::from([192, 0, 2, last])));
        // Two large bodies from one address that never come: the second waits for the first.
        let (headers, max) = (announced(), 25 << 20);
        let mut first = Box::pin(bodies.read(one, &headers, never(), max));
        let mut second = Box::pin(bodies.read(one, &headers, never(), max));
        for waiting in [&mut first, &mut second] {
            assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
        }
        for sender in [other, Sender::Known] {
            let read = bodies.read(sender, &headers, Body::from("here"), max);
            let read = tokio::time::timeout(Duration::from_secs(1), read).await.expect("it had to wait");
            assert_eq!(read.map(|held| held.bytes).unwrap(), "here");
        }
    }
}
