//! Bodies of requests: one that was begun has to arrive in its time, and what is half there has a bound for all together.
//!
//! A stream may rest for as long as it likes between two messages, and not within one. Invariant: what is added to an account of memory
//! is taken off it when the message is whole, or its body is gone.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::doorkeeper::{Doorkeeper, Visitor};

/// Paths of RPCs whose callers send a stream.
static STREAMS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let sets = [mindos_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok()).flat_map(|set| set.file);
    let mut paths = HashSet::new();
    for file in files {
        let package = file.package.unwrap_or_default();
        for service in file.service {
            let name = service.name.unwrap_or_default();
            for method in service.method.iter().filter(|method| method.client_streaming()) {
                paths.insert(format!("/{package}.{name}/{}", method.name()));
            }
        }
    }
    for version in ["v1", "v1alpha"] {
        paths.insert(format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    }
    paths
});

/// How the body of a request is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One whole.
    Whole,
    /// One message of gRPC.
    Message,
    /// Messages of gRPC, for as long as the stream lasts.
    Messages,
}

impl Form {
    pub(super) fn of(is_grpc: bool, path: &str) -> Form {
        match is_grpc {
            false => Form::Whole,
            true if STREAMS.contains(path) => Form::Messages,
            true => Form::Message,
        }
    }
}

/// Follows the frames of gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Messages {
    head: [u8; 5],
    /// Bytes of the head that are there.
    seen: usize,
    /// Bytes of the message that are still to come.
    left: u32,
    /// Messages that were whole.
    whole: u64,
}

impl Messages {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let len = bytes.len().min(5 - self.seen);
                self.head[self.seen..self.seen + len].copy_from_slice(&bytes[..len]);
                self.seen += len;
                bytes = &bytes[len..];
                if self.seen < 5 {
                    return;
                }
                self.seen = 0;
                self.left = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]);
                self.whole += u64::from(self.left == 0);
                continue;
            }
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(self.left);
            self.left -= len;
            bytes = &bytes[len as usize..];
            self.whole += u64::from(self.left == 0);
        }
    }

    fn is_within(&self) -> bool {
        self.left > 0 || self.seen > 0
    }
}

/// The body of a request.
pub(super) struct Inbound<B> {
    body: B,
    form: Form,
    messages: Messages,
    visitor: Arc<Visitor>,
    keeper: Arc<Doorkeeper>,
    /// For a body or message that was begun.
    time: Duration,
    memory_max: u64,
    /// Since when the one that is being read is.
    since: Option<Instant>,
    late: Option<Pin<Box<Sleep>>>,
    held: usize,
}

impl<B> Inbound<B> {
    pub(super) fn new(
        body: B,
        form: Form,
        visitor: Arc<Visitor>,
        keeper: Arc<Doorkeeper>,
        time: Duration,
        memory_max: u64,
    ) -> Inbound<B> {
        let since = (form != Form::Messages).then(Instant::now);
        let messages = Messages::default();
        Inbound { body, form, messages, visitor, keeper, time, memory_max, since, late: None, held: 0 }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        self.held += bytes;
        self.visitor.unread.fetch_add(bytes, Ordering::Relaxed);
        let before = self.keeper.reading.fetch_add(bytes, Ordering::Relaxed);
        if (before + bytes) as u64 > self.memory_max {
            return Err(Status::resource_exhausted("too many messages are half there: try again"));
        }
        Ok(())
    }

    fn let_go(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.visitor.unread.fetch_sub(held, Ordering::Relaxed);
        self.keeper.reading.fetch_sub(held, Ordering::Relaxed);
    }

    /// Takes note of bytes that came.
    fn came(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if self.form == Form::Whole {
            return Ok(());
        }
        let whole = self.messages.whole;
        self.messages.see(bytes);
        if self.messages.whole != whole {
            self.let_go();
            self.since = None;
            self.late = None;
        }
        if self.messages.is_within() {
            self.since = self.since.or_else(|| Some(Instant::now()));
            // What is before the message in these bytes is not told apart: it is small, or it is gone with the next bytes.
            self.hold(bytes.len())?;
        }
        Ok(())
    }
}

impl<B> Drop for Inbound<B> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Inbound<B>
where
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let Some(since) = self.since else { return Poll::Pending };
            let until = since + self.time;
            let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            std::task::ready!(late.as_mut().poll(context));
            let message = format!("the message did not arrive within {} s", self.time.as_secs_f32());
            return Poll::Ready(Some(Err(Status::deadline_exceeded(message).into())));
        };
        match frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    let came = self.came(bytes);
                    came?;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                self.since = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Part = Result<Frame<Bytes>, std::io::Error>;

    fn inbound(
        form: Form,
        memory_max: u64,
    ) -> (mpsc::Sender<Bytes>, Inbound<impl HttpBody<Data = Bytes, Error = std::io::Error> + Unpin>) {
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let body = StreamBody::new(ReceiverStream::new(receiver).map(|bytes| -> Part { Ok(Frame::data(bytes)) }));
        let (visitor, keeper) = (Arc::default(), Arc::new(Doorkeeper::new(1)));
        (sender, Inbound::new(body, form, visitor, keeper, Duration::from_millis(50), memory_max))
    }

    fn code(error: &axum::BoxError) -> tonic::Code {
        error.downcast_ref::<Status>().expect("a status").code()
    }

    #[tokio::test]
    async fn what_was_begun_has_to_arrive_in_its_time() {
        for (form, begun) in [
            (Form::Whole, &b""[..]),
            (Form::Message, b""),
            (Form::Message, b"\0\0\0\0\x04ab"),
            (Form::Messages, b"\0\0"),
        ] {
            let (sender, mut body) = inbound(form, 1 << 20);
            if !begun.is_empty() {
                sender.send(Bytes::from_static(begun)).await.unwrap();
                body.frame().await.unwrap().unwrap();
            }
            let late = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("it waits for ever");
            assert_eq!(code(&late.unwrap().unwrap_err()), tonic::Code::DeadlineExceeded, "{form:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_may_rest_between_messages() {
        let (sender, mut body) = inbound(Form::Messages, 1 << 20);
        for _ in 0..2 {
            let rest = tokio::time::timeout(Duration::from_millis(120), body.frame()).await;
            assert!(rest.is_err(), "nothing was begun");
            sender.send(Bytes::from_static(b"\0\0\0\0\x01x\0\0\0\0\0")).await.unwrap();
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(body.messages.whole, 4);
    }

    #[tokio::test]
    async fn what_is_half_there_is_bounded_and_given_back() {
        let (sender, mut body) = inbound(Form::Messages, 100);
        let keeper = Arc::clone(&body.keeper);
        sender.send(Bytes::from([&[0, 0, 0, 1, 0][..], &[7; 50]].concat())).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(keeper.reading.load(Ordering::Relaxed), 55);
        sender.send(Bytes::from(vec![7; 206])).await.unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(keeper.reading.load(Ordering::Relaxed), 0, "it is whole");
        sender.send(Bytes::from([&[0, 0, 0, 1, 0][..], &[7; 150]].concat())).await.unwrap();
        assert_eq!(code(&body.frame().await.unwrap().unwrap_err()), tonic::Code::ResourceExhausted);
        drop(body);
        assert_eq!(keeper.reading.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_are_known_by_their_paths() {
        assert_eq!(Form::of(true, "/mindos.agent.v1.AgentService/Connect"), Form::Messages);
        assert_eq!(Form::of(true, "/mindos.event.v1.EventService/PublishStream"), Form::Messages);
        assert_eq!(Form::of(true, "/mindos.event.v1.EventService/Publish"), Form::Message);
        assert_eq!(Form::of(false, "/events"), Form::Whole);
    }
}
