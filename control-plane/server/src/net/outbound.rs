//! Bodies of answers, accounted for until they have left: so a peer that takes nothing is seen.
//!
//! Invariant: what is added to a visitor's account is taken off it in whatever way the bytes go.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::doorkeeper::Visitor;

/// The body of an answer. While it is there its request is under way.
#[derive(Debug)]
pub(super) struct Outbound {
    body: Body,
    visitor: Arc<Visitor>,
    /// It could go on, and nobody has asked since.
    blocked: bool,
}

impl Outbound {
    /// A body whose request was entered before.
    pub(super) fn new(body: Body, visitor: Arc<Visitor>) -> Outbound {
        let blocked = !body.is_end_stream();
        if blocked {
            visitor.blocked.fetch_add(1, Ordering::Relaxed);
        }
        Outbound { body, visitor, blocked }
    }

    fn block(&mut self, blocked: bool) {
        if blocked != self.blocked {
            self.blocked = blocked;
            match blocked {
                true => self.visitor.blocked.fetch_add(1, Ordering::Relaxed),
                false => self.visitor.blocked.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.block(false);
        self.visitor.leave();
    }
}

impl HttpBody for Outbound {
    type Data = Unsent;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Unsent>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.block(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled.map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| Unsent::new(bytes, Arc::clone(&self.visitor)))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes on their way.
#[derive(Debug)]
pub(super) struct Unsent {
    bytes: Bytes,
    visitor: Arc<Visitor>,
}

impl Unsent {
    fn new(bytes: Bytes, visitor: Arc<Visitor>) -> Unsent {
        visitor.unsent.fetch_add(bytes.len(), Ordering::Relaxed);
        Unsent { bytes, visitor }
    }

    fn took(&self, count: usize) {
        self.visitor.unsent.fetch_sub(count, Ordering::Relaxed);
        self.visitor.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl Buf for Unsent {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.took(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let bytes = self.bytes.copy_to_bytes(len);
        self.took(len);
        bytes
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        // Thrown away with its stream.
        self.visitor.unsent.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_made_counts_until_it_is_sent_or_thrown_away() {
        let visitor = Arc::new(Visitor::default());
        visitor.enter();
        let mut body = Outbound::new(Body::from("0123456789"), Arc::clone(&visitor));
        assert!(visitor.waits(), "nobody has asked for it");
        let mut data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(visitor.unsent.load(Ordering::Relaxed), 10);
        data.advance(3);
        assert_eq!((visitor.unsent.load(Ordering::Relaxed), visitor.sent.load(Ordering::Relaxed)), (7, 3));
        assert!(body.frame().await.is_none());
        drop(body);
        assert!(visitor.waits() && visitor.is_idle());
        drop(data);
        assert!(!visitor.waits());
    }

    #[tokio::test]
    async fn a_body_that_has_nothing_to_say_waits_for_nobody() {
        let visitor = Arc::new(Visitor::default());
        visitor.enter();
        let never = Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
        let mut body = Outbound::new(never, Arc::clone(&visitor));
        let asked = tokio::time::timeout(std::time::Duration::from_millis(5), body.frame()).await;
        assert!(asked.is_err() && !visitor.waits() && !visitor.is_idle());
    }
}
