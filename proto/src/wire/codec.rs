//! The codec of the streams that are there by the ten thousand and mostly idle.

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// Bytes that a stream's buffers begin with; they grow with what passes. The usual 8 KiB each, touched once, would stay for as long as
/// the stream is open.
const BUFFER: usize = 512;
/// Bytes after which what is encoded is passed on.
const YIELD: usize = 32 * 1024;

/// Protobuf by prost, as the usual codec, with buffers that begin small.
#[derive(Clone, Debug)]
pub struct StreamCodec<T, U>(std::marker::PhantomData<(T, U)>);

impl<T, U> Default for StreamCodec<T, U> {
    fn default() -> StreamCodec<T, U> {
        StreamCodec(std::marker::PhantomData)
    }
}

impl<T, U> Codec for StreamCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = StreamEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> StreamEncoder<T> {
        StreamEncoder(std::marker::PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}

/// Encodes into room that is made once: a frame of many messages would otherwise be moved each time the buffer doubles.
#[derive(Clone, Debug)]
pub struct StreamEncoder<T>(std::marker::PhantomData<T>);

impl<T: Message> Encoder for StreamEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
