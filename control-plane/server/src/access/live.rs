//! Streams that are open: each was let in once, and ends when that would not be done again.
//!
//! ```text
//!   let in --> carried, at the cost of one look at a flag for each frame --> ended by its peer, or here: no longer let in
//! ```
//! All are looked at when access changes, and those whose credential ends by itself once a second. Invariant: a stream is known here as
//! long as its body is there, and no longer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use mindos_proto::rpc::Status;
use tokio::sync::Notify;

use super::permission::Permission;
use super::principal::Principal;

/// Streams between two breaths, so that many hold up nobody.
const BREATH: usize = 256;

/// A stream that is open.
#[derive(Debug)]
pub struct Stream {
    pub principal: Arc<Principal>,
    pub permission: Permission,
    is_ended: AtomicBool,
    why: OnceLock<Status>,
    ended: Notify,
    waker: Mutex<Option<Waker>>,
}

impl Stream {
    /// Ends the stream, with a status for its peer. The first one counts.
    pub fn end(&self, why: Status) {
        if self.why.set(why).is_ok() {
            self.is_ended.store(true, Ordering::Release);
            self.ended.notify_waiters();
            if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
                waker.wake();
            }
        }
    }

    fn why(&self) -> Option<&Status> {
        if self.is_ended.load(Ordering::Acquire) { self.why.get() } else { None }
    }

    async fn ended(&self) -> Status {
        loop {
            let notified = self.ended.notified();
            tokio::pin!(notified);
            // Registered before the look, so that an end in between is not missed.
            notified.as_mut().enable();
            if let Some(why) = self.why() {
                return why.clone();
            }
            notified.await;
        }
    }

    fn wake_by(&self, context: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }
}

/// All streams that are open.
#[derive(Debug, Default)]
pub struct Live {
    streams: Arc<Mutex<HashMap<u64, Arc<Stream>>>>,
    next: AtomicU64,
    ended: AtomicU64,
}

/// Forgets a stream with its body.
#[derive(Debug)]
struct Place {
    streams: Arc<Mutex<HashMap<u64, Arc<Stream>>>>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Live {
    /// Carries what a stream answers, until it ends or is ended.
    pub(super) async fn carry(
        &self,
        principal: Arc<Principal>,
        permission: Permission,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let stream = Arc::new(Stream {
            principal,
            permission,
            is_ended: AtomicBool::new(false),
            why: OnceLock::new(),
            ended: Notify::new(),
            waker: Mutex::default(),
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&stream));
        let place = Place { streams: Arc::clone(&self.streams), number };
        tokio::select! {
            response = answer => response.map(|body| {
                Body::new(Carried { body: Some(body), stream, _place: place })
            }),
            why = stream.ended() => tonic::Status::from(why).into_http::<Body>(),
        }
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many were ended here.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Looks at the streams that are wanted, and ends those that are not to go on.
    pub async fn look(&self, wanted: impl Fn(&Stream) -> bool, may_go_on: impl Fn(&Stream) -> Result<(), Status>) {
        let streams: Vec<Arc<Stream>> = {
            let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.values().filter(|stream| wanted(stream)).cloned().collect()
        };
        for (number, stream) in streams.iter().enumerate() {
            if let Err(why) = may_go_on(stream) {
                self.ended.fetch_add(1, Ordering::Relaxed);
                stream.end(why);
            }
            if number % BREATH == BREATH - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The body of a stream's answer.
struct Carried {
    /// Gone once it was ended, and with it whoever sends.
    body: Option<Body>,
    stream: Arc<Stream>,
    _place: Place,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        self.stream.wake_by(context);
        if let Some(why) = self.stream.why() {
            let mut trailers = HeaderMap::new();
            // A message that is no header is left out, and the code is what counts.
            let _ = tonic::Status::from(why.clone()).add_header(&mut trailers);
            self.body = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::access::refusal::Refused;

    fn principal() -> Arc<Principal> {
        Arc::new(Principal::local(None, None))
    }

    #[tokio::test]
    async fn a_stream_is_known_while_its_body_is_there_and_ends_with_a_status() {
        let live = Live::default();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, axum::Error>>(1);
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let response = live.carry(principal(), Permission::Anyone, async { Response::new(body) }).await;
        assert_eq!(live.len(), 1);
        let mut body = response.into_body();
        sender.send(Ok(Bytes::from_static(b"one"))).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");

        let waiting = tokio::spawn(async move {
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            (trailers, body.frame().await.is_none())
        });
        tokio::task::yield_now().await;
        live.look(|_| true, |_| Err(Refused::Expired.into())).await;
        let (trailers, is_over) = waiting.await.unwrap();
        assert_eq!((trailers["grpc-status"].to_str().unwrap(), is_over), ("16", true));
        assert!(sender.is_closed(), "whoever sends hears of it");
        assert!(live.is_empty() && live.ended() == 1);
    }

    #[tokio::test]
    async fn a_stream_that_was_not_answered_yet_is_ended_too() {
        let live = Live::default();
        let (response, ()) = tokio::join!(
            biased;
            live.carry(principal(), Permission::Anyone, std::future::pending()),
            live.look(|_| true, |_| Err(Refused::Expired.into())),
        );
        assert_eq!(response.headers()["grpc-status"], "16");
        assert!(live.is_empty());
    }
}
