//! The codec of the streams that are there by the ten thousand and mostly idle.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

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
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}
