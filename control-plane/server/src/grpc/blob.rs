//! Large payloads: put, got and looked at, in chunks of at most 256 KiB.
//!
//! Invariant: the answer to a put comes when the blob is on stable storage; what breaks off leaves nothing. So many threads wait for
//! clients, and no more.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use mindos_model::limits::{BLOB_MAX, INLINE_MAX};
use mindos_proto::blob::v1::blob_service_server::BlobService;
use mindos_proto::blob::v1::put_request::Part;
use mindos_proto::blob::v1::{GetRequest, GetResponse, PutHeader, PutRequest, PutResponse, StatRequest, StatResponse};
use mindos_proto::convert;
use mindos_proto::rpc::{QuotaFailure, RetryInfo, quota_failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Context, failed, status};
use crate::access::Scoped;
use crate::blobs::{Announced, BlobError, BlobRef, BlobStore, Stored};
use crate::limits::Shares;

/// Bytes of one message.
const CHUNK: usize = INLINE_MAX;
/// Chunks on their way between network and disk.
const CHUNKS_MAX: usize = 4;
/// How long a client may let a stream rest.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Streams at a time: each holds a thread, of which there are twice as many for all that waits for a disk.
const STREAMS_MAX: usize = 256;
/// Of one caller.
const STREAMS_EACH: usize = 32;

/// The service.
pub(crate) struct Blobs {
    pub(crate) context: Arc<Context>,
    pub(crate) store: Arc<BlobStore>,
    pub(crate) streams: Streams,
}

/// Who may hold a stream open.
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    shares: Shares<Arc<str>>,
    /// How long one waits for a turn.
    wait: Duration,
}

/// A stream that may be open until this is dropped.
type Turn = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Default for Streams {
    fn default() -> Streams {
        Streams { all: Arc::new(Semaphore::new(STREAMS_MAX)), shares: Shares::default(), wait: STALL_MAX }
    }
}

impl Streams {
    async fn turn(&self, caller: Arc<str>) -> Result<Turn, Status> {
        let waited = tokio::time::timeout(self.wait, async {
            let own = self.shares.of(caller, STREAMS_EACH).acquire_owned().await?;
            Arc::clone(&self.all).acquire_owned().await.map(|one| (own, one))
        });
        match waited.await {
            Ok(turn) => turn.map_err(|_| Status::unavailable("the control plane is stopping")),
            Err(_) => {
                let message = format!(
                    "blobs: {STREAMS_EACH} streams of a caller, and {STREAMS_MAX} of all, are open at a time, and none ended"
                );
                let later = RetryInfo { retry_delay: Some(convert::span(Duration::from_secs(5))) };
                let status = mindos_proto::rpc::Status::new(Code::ResourceExhausted as i32, message);
                Err(status.with_reason("BLOB_STREAMS", []).with(later).into())
            }
        }
    }
}

#[tonic::async_trait]
impl BlobService for Blobs {
    type GetStream = ReceiverStream<Result<GetResponse, Status>>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<PutResponse>, Status> {
        let context = self.context.of(&request)?;
        let mut parts = request.into_inner();
        let header = match next(&mut parts).await? {
            Some(PutRequest { part: Some(Part::Header(header)) }) => header,
            _ => return Err(Status::invalid_argument("part: the first message has to be the header")),
        };
        let PutHeader { r#ref, length, content_type } = header;
        let blob = if r#ref.is_empty() { None } else { Some(parse(&r#ref)?) };
        let length = Some(length).filter(|&length| length > 0);
        if let Some(blob) = blob
            && let Some(info) = self.stat_of(&context, blob).await?
            && length.is_none_or(|length| length == info.length)
            && self.renew(&context, blob).await?
        {
            let response = PutResponse { r#ref: blob.to_string(), length: info.length, existed: true };
            return Ok(Response::new(response));
        }
        let turn = self.streams.turn(context.by()).await?;
        let stored = self
            .receive(turn, parts, Announced { blob, length, content_type, tenant: Some(context.tenant().clone()) })
            .await?;
        let Stored { blob, length, existed } = stored;
        Ok(Response::new(PutResponse { r#ref: blob.to_string(), length, existed }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let context = self.context.of(&request)?;
        let GetRequest { r#ref, offset } = request.into_inner();
        let blob = parse(&r#ref)?;
        let info = self.stat_of(&context, blob).await?.ok_or_else(|| Status::from(status::not_found("blob", r#ref)))?;
        if offset > info.length {
            let message = format!("offset: is {offset}: the blob has {} bytes", info.length);
            return Err(Status::out_of_range(message));
        }
        let turn = self.streams.turn(context.by()).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let store = Arc::clone(&self.store);
        let (runtime, context) = (tokio::runtime::Handle::current(), Arc::clone(&self.context));
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let sent = send(&store, blob, offset, |response| {
                runtime.block_on(async {
                    tokio::select! {
                        sent = sender.send_timeout(Ok(response), STALL_MAX) => sent.map_err(|_| None),
                        () = context.drained() => Err(Some(Status::from(status::stopped(crate::driver::Stopped)))),
                    }
                })
            });
            if let Err(Some(status)) = sent {
                let _ = sender.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let context = self.context.of(&request)?;
        let StatRequest { r#ref } = request.into_inner();
        let blob = parse(&r#ref)?;
        let info = self.stat_of(&context, blob).await?.ok_or_else(|| Status::from(status::not_found("blob", r#ref)))?;
        let stored_at = Some(convert::time(info.stored));
        let response =
            StatResponse { r#ref: blob.to_string(), length: info.length, content_type: info.content_type, stored_at };
        Ok(Response::new(response))
    }
}

impl Blobs {
    /// What is known of a blob of the caller's tenant.
    async fn stat_of(&self, context: &Scoped, blob: BlobRef) -> Result<Option<crate::blobs::BlobInfo>, Status> {
        let store = Arc::clone(&self.store);
        let read = context.blocking(move |context| match store.is_of(&blob, context.tenant())? {
            true => store.stat(&blob),
            false => Ok(None),
        });
        read.await?.map_err(|error| refused(&error))
    }

    /// Has the age of a blob begin anew, so that it stays until it is named; false when it has gone meanwhile.
    async fn renew(&self, context: &Scoped, blob: BlobRef) -> Result<bool, Status> {
        let store = Arc::clone(&self.store);
        context.blocking(move |_| store.renew(&blob)).await?.map_err(|error| refused(&error))
    }

    /// Passes the chunks to a thread that writes them.
    async fn receive(
        &self,
        turn: Turn,
        mut parts: Streaming<PutRequest>,
        announced: Announced,
    ) -> Result<Stored, Status> {
        let (sender, mut chunks) = mpsc::channel::<Option<bytes::Bytes>>(CHUNKS_MAX);
        let store = Arc::clone(&self.store);
        let writing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut writer = store.begin(announced)?;
            loop {
                match chunks.blocking_recv() {
                    Some(Some(chunk)) => writer.write(&chunk)?,
                    Some(None) => return writer.finish().map(Some),
                    // Broken off: nothing is kept.
                    None => return Ok(None),
                }
            }
        });
        let mut broken = None;
        loop {
            let chunk = match next(&mut parts).await {
                Ok(None) => None,
                Ok(Some(PutRequest { part: Some(Part::Chunk(chunk)) })) if (1..=CHUNK).contains(&chunk.len()) => {
                    Some(chunk)
                }
                Ok(Some(_)) => {
                    broken = Some(Status::invalid_argument("part: expected a chunk of 1 byte to 256 KiB"));
                    break;
                }
                Err(status) => {
                    broken = Some(status);
                    break;
                }
            };
            let last = chunk.is_none();
            // The writer has gone where it refused: its answer says why.
            if sender.send(chunk).await.is_err() || last {
                break;
            }
        }
        drop(sender);
        match (writing.await, broken) {
            (Ok(Ok(Some(stored))), _) => Ok(stored),
            (Ok(Err(error)), _) => Err(refused(&error)),
            (Ok(Ok(None)), Some(status)) => Err(status),
            (Ok(Ok(None)), None) => Err(Status::cancelled("the stream broke off")),
            (Err(error), _) => Err(failed("a blob's writer panicked", &error)),
        }
    }
}

async fn next(parts: &mut Streaming<PutRequest>) -> Result<Option<PutRequest>, Status> {
    let slow = |_| Status::deadline_exceeded(format!("nothing came for {} s", STALL_MAX.as_secs()));
    tokio::time::timeout(STALL_MAX, parts.message()).await.map_err(slow)?
}

/// Reads a blob and hands it on; what `hand` returns as error ends it.
fn send(
    store: &BlobStore,
    blob: BlobRef,
    offset: u64,
    mut hand: impl FnMut(GetResponse) -> Result<(), Option<Status>>,
) -> Result<(), Option<Status>> {
    let read = store.read(&blob, offset).map_err(|error| Some(refused(&error)))?;
    let Some((info, mut file)) = read else { return Err(Some(status::not_found("blob", blob.to_string()).into())) };
    let mut first = true;
    let mut left = info.length - offset;
    while left > 0 || first {
        let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        file.read_exact(&mut chunk).map_err(|error| Some(failed("a blob was not read", &error)))?;
        left -= chunk.len() as u64;
        let (length, content_type) = if first { (info.length, info.content_type.clone()) } else { (0, String::new()) };
        hand(GetResponse { chunk: chunk.into(), length, content_type })?;
        first = false;
    }
    Ok(())
}

fn parse(text: &str) -> Result<BlobRef, Status> {
    text.parse().map_err(|error| refused(&error))
}

/// What a refusal of the store is to a caller.
fn refused(error: &BlobError) -> Status {
    let new =
        |code: Code, reason| mindos_proto::rpc::Status::new(code as i32, error.to_string()).with_reason(reason, []);
    let quota = |subject: &str| {
        let violation = quota_failure::Violation { subject: subject.to_owned(), description: error.to_string() };
        QuotaFailure { violations: vec![violation] }
    };
    match error {
        BlobError::Address { .. } => new(Code::InvalidArgument, "BLOB_ADDRESS").into(),
        BlobError::Empty { .. } => new(Code::InvalidArgument, "BLOB_EMPTY").into(),
        BlobError::Length { .. } => new(Code::InvalidArgument, "BLOB_LENGTH").into(),
        BlobError::Digest { .. } => new(Code::InvalidArgument, "BLOB_DIGEST").into(),
        BlobError::ContentType => new(Code::InvalidArgument, "BLOB_CONTENT_TYPE").into(),
        BlobError::TooLarge { .. } => new(Code::ResourceExhausted, "BLOB_TOO_LARGE")
            .with(quota(&format!("blob: at most {BLOB_MAX} bytes")))
            .into(),
        BlobError::Quota { .. } => {
            let later = RetryInfo { retry_delay: Some(convert::span(Duration::from_secs(60))) };
            new(Code::ResourceExhausted, "BLOB_QUOTA").with(later).with(quota("blobs")).into()
        }
        BlobError::Io { .. } => failed("a blob was not stored or read", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_caller_leaves_streams_to_the_others() {
        let streams = Streams { wait: Duration::from_millis(20), ..Streams::default() };
        let mut held = Vec::new();
        for _ in 0..STREAMS_EACH {
            held.push(streams.turn("one".into()).await.unwrap());
        }
        let refused = streams.turn("one".into()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(streams.turn("two".into()).await.is_ok());
        held.pop();
        assert!(streams.turn("one".into()).await.is_ok());
    }
}
