//! Bodies: read whole, within bounds of size, of time and of memory for all requests together.
//!
//! Invariants: who is known by their body alone, as the senders of signed webhooks are, takes no memory from those who are known before it;
//! nobody who has memory waits for more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use mindos_proto::convert;
use mindos_proto::rpc::{RetryInfo, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Code;

use super::error::HttpError;
use crate::limits::{AddressKey, Shares};
use crate::net::Connection;

/// What all bodies of those who are known may take together, in KiB, and what those of all others may.
const MEMORY_KIB: u32 = 64 * 1024;
/// How much of the latter one address may take: its largest body.
const ADDRESS_KIB: u32 = 25 * 1024;
/// What the body of somebody unproven takes at a time, where it does not say how long it is.
const STEP_KIB: u32 = 256;
/// When to send one again for which there was no memory.
const RETRY: Duration = Duration::from_secs(1);

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
    _grant: Grant<'a>,
}

/// What a body has of the memory, until this is dropped.
struct Grant<'a> {
    memory: SemaphorePermit<'a>,
    /// Of what its address may take.
    share: Option<OwnedSemaphorePermit>,
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
        let most = kib(max);
        let first = match (length, sender) {
            (Some(length), _) => kib(length),
            (None, Sender::Known) => most,
            // Who does not say how much it is keeps no others of its address waiting for what may never come.
            (None, Sender::Unproven(_)) => STEP_KIB.min(most),
        };
        let read = async {
            let mut grant = self.grant(sender, first).await?;
            let bytes = self.collect(&mut grant, body, max).await?;
            Ok(Held { bytes, _grant: grant })
        };
        let slow = |_| {
            let message = format!("the body did not arrive within {} s", self.timeout.as_secs());
            HttpError::with_code(StatusCode::REQUEST_TIMEOUT, "BODY_TOO_SLOW", message)
        };
        tokio::time::timeout(self.timeout, read).await.map_err(slow)?
    }

    /// Waits for memory: for that of its address first. Who waits has none yet that others wait for, but such of its address.
    async fn grant(&self, sender: Sender, kib: u32) -> Result<Grant<'_>, HttpError> {
        let unavailable = |_| HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "server is stopping");
        let (memory, share) = match sender {
            Sender::Known => (&self.memory, None),
            Sender::Unproven(address) => {
                let share = self.shares.of(address.into(), ADDRESS_KIB as usize);
                (&self.unproven, Some(share.acquire_many_owned(kib.min(ADDRESS_KIB)).await.map_err(unavailable)?))
            }
        };
        let memory = memory.acquire_many(kib).await.map_err(unavailable)?;
        Ok(Grant { memory, share })
    }

    /// More memory for a body that grows beyond what it has, if there is some at once.
    fn grow<'a>(&'a self, grant: &mut Grant<'a>, kib: u32) -> Option<()> {
        let memory = match &mut grant.share {
            None => &self.memory,
            Some(share) => {
                let left = (ADDRESS_KIB as usize).saturating_sub(share.num_permits());
                let more = kib.min(u32::try_from(left).unwrap_or(ADDRESS_KIB));
                share.merge(Arc::clone(share.semaphore()).try_acquire_many_owned(more).ok()?);
                &self.unproven
            }
        };
        grant.memory.merge(memory.try_acquire_many(kib).ok()?);
        Some(())
    }

    async fn collect<'a>(&'a self, grant: &mut Grant<'a>, mut body: Body, max: usize) -> Result<Bytes, HttpError> {
        // Most bodies come in one piece, which is not copied.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let message = format!("the body broke off: {error}");
                HttpError::with_code(StatusCode::BAD_REQUEST, "BODY_INCOMPLETE", message)
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let length = first.len() + all.len() + data.len();
            if length > max {
                return Err(too_large(max));
            }
            let (has, wanted) = (u32::try_from(grant.memory.num_permits()).unwrap_or(MEMORY_KIB), kib(length));
            if wanted > has {
                let more = (wanted - has).next_multiple_of(STEP_KIB).min(kib(max) - has);
                self.grow(grant, more).ok_or_else(busy)?;
            }
            if length == data.len() {
                first = data;
            } else {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}

/// The memory that so many bytes take, in KiB.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(MEMORY_KIB).clamp(1, MEMORY_KIB)
}

/// A body that grows does not wait for others that grow, and may wait for it: it is sent again.
fn busy() -> HttpError {
    let status = Status::new(Code::Unavailable as i32, "there is no memory for more of the body: other bodies have it");
    let later = RetryInfo { retry_delay: Some(convert::span(RETRY)) };
    HttpError::new(status.with_reason("BUSY", []).with(later))
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

    /// A body that comes in these pieces, and ends if it is to.
    fn pieces(pieces: &[usize], ends: bool) -> Body {
        let data: Vec<_> =
            pieces.iter().map(|length| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; *length]))).collect();
        let data = tokio_stream::iter(data);
        match ends {
            true => Body::from_stream(data),
            false => Body::from_stream(tokio_stream::StreamExt::chain(data, tokio_stream::pending())),
        }
    }

    #[tokio::test]
    async fn who_does_not_say_how_much_it_is_takes_what_it_sends_and_no_more() {
        let bodies = Bodies::new(Duration::from_secs(5));
        let (unsaid, max) = (HeaderMap::new(), 25 << 20);
        let one = Sender::Unproven(IpAddr::from([192, 0, 2, 1]));
        let taken = || {
            let share = bodies.shares.of(IpAddr::from([192, 0, 2, 1]).into(), ADDRESS_KIB as usize);
            let left = (share.available_permits(), bodies.unproven.available_permits());
            (ADDRESS_KIB as usize - left.0, MEMORY_KIB as usize - left.1)
        };
        // One that sends nothing more than this, and does not end.
        let mut slow = Box::pin(bodies.read(one, &unsaid, pieces(&[1], false), max));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut slow).await.is_err());
        assert_eq!(taken(), (256, 256));

        // Others of its address pass meanwhile, in one piece and in many.
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, "1048576".parse().unwrap())]);
        for (headers, sizes) in [(&announced, vec![1 << 20]), (&unsaid, vec![10, 300 << 10, 0, 1 << 20, 1])] {
            let read = bodies.read(one, headers, pieces(&sizes, true), max);
            let held = tokio::time::timeout(Duration::from_secs(1), read).await.expect("it had to wait").unwrap();
            let length: usize = sizes.iter().sum();
            assert_eq!((held.bytes.len(), held.bytes.iter().all(|byte| *byte == b'x')), (length, true));
            let (share, memory) = taken();
            assert!(share == memory && (share - 256) * 1024 >= length && share - 256 <= kib(length) as usize + 511);
        }
        assert_eq!(taken(), (256, 256), "what was read has been given back");

        let beyond = bodies.read(one, &unsaid, pieces(&[1 << 20, 1], true), 1 << 20).await;
        assert_eq!(beyond.map(|held| held.bytes.len()).map_err(|error| error.code().as_u16()), Err(413));
    }

    #[tokio::test]
    async fn who_grows_where_there_is_no_more_is_sent_away_and_waits_for_nobody() {
        let bodies = Bodies::new(Duration::from_secs(60));
        let (unsaid, max) = (HeaderMap::new(), 25 << 20);
        let one = Sender::Unproven(IpAddr::from([192, 0, 2, 1]));
        let large = HeaderMap::from_iter([(header::CONTENT_LENGTH, (24 << 20).to_string().parse().unwrap())]);
        let mut first = Box::pin(bodies.read(one, &large, pieces(&[], false), max));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut first).await.is_err());

        // Half of what is left, and then more than there is: at once, with when to try again.
        let grows = bodies.read(one, &unsaid, pieces(&[512 << 10, 600 << 10], true), max);
        let grows = tokio::time::timeout(Duration::from_secs(1), grows).await.expect("it waits with what it has");
        let refused = grows.map(|held| held.bytes.len()).unwrap_err();
        assert_eq!((refused.code().as_u16(), refused.retry_after()), (503, Some(1)));
        assert_eq!(refused.to_json()["details"][0]["reason"], "BUSY");
        // It has left what it had to others.
        let fits = bodies.read(one, &unsaid, pieces(&[512 << 10, 500 << 10], true), max);
        assert!(tokio::time::timeout(Duration::from_secs(1), fits).await.expect("it had to wait").is_ok());
    }
}
