//! Large payloads, by their digest.

use bytes::{Bytes, BytesMut};
use mindos_model::FailureKind;
use mindos_model::limits::BLOB_MAX;
use mindos_proto::blob::v1::blob_service_client::BlobServiceClient;
use mindos_proto::blob::v1::put_request::Part;
use mindos_proto::blob::v1::{GetRequest, PutHeader, PutRequest};
use sha2::{Digest, Sha256};

use crate::{Channel, Error, Failure, Retry};

/// Bytes of one part.
const CHUNK: usize = 256 * 1024;
const PREFIX: &str = "blob:sha256:";

/// The address of these bytes, `blob:sha256:<hex>`.
#[must_use]
pub fn blob_ref(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(PREFIX.to_owned(), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        text
    })
}

/// Where work puts what is too large for a message, from a piece of work's [`Work::blobs`](crate::Work::blobs).
#[derive(Clone, Debug)]
pub struct Blobs(pub(crate) Channel);

impl Blobs {
    /// Stores bytes; they are on stable storage when this returns their address, `blob:sha256:<hex>`.
    ///
    /// # Errors
    /// [`FailureKind::Transient`](mindos_model::FailureKind::Transient) when that cannot be done just then, else
    /// [`FailureKind::Poison`](mindos_model::FailureKind::Poison).
    pub async fn put(&self, bytes: impl Into<Bytes>, content_type: &str) -> Result<String, Failure> {
        let bytes = bytes.into();
        let stored = Retry::default().run(|| put(self.0.clone(), bytes.clone(), content_type)).await;
        stored.map_err(|error| {
            let kind = if error.is_temporary() { FailureKind::Transient } else { FailureKind::Poison };
            Failure::new(kind, format!("a blob cannot be stored: {}", crate::error::chain(&error)))
        })
    }
}

pub(crate) fn is_blob_ref(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Stores bytes; they are on stable storage when this returns their address.
pub(crate) async fn put(channel: Channel, bytes: Bytes, content_type: &str) -> Result<String, Error> {
    let header =
        PutHeader { r#ref: blob_ref(&bytes), length: bytes.len() as u64, content_type: content_type.to_owned() };
    let chunks = (0..bytes.len().div_ceil(CHUNK)).map(move |at| {
        let chunk = bytes.slice(at * CHUNK..bytes.len().min((at + 1) * CHUNK));
        PutRequest { part: Some(Part::Chunk(chunk)) }
    });
    let parts = std::iter::once(PutRequest { part: Some(Part::Header(header)) }).chain(chunks);
    let response = BlobServiceClient::new(channel).put(tokio_stream::iter(parts.collect::<Vec<_>>())).await?;
    Ok(response.into_inner().r#ref)
}

/// Fetches a blob and compares it with its name.
pub(crate) async fn get(channel: Channel, reference: &str) -> Result<Bytes, Error> {
    let request = GetRequest { r#ref: reference.to_owned(), offset: 0 };
    let mut parts = BlobServiceClient::new(channel).get(request).await?.into_inner();
    let mut bytes = BytesMut::new();
    while let Some(part) = parts.message().await? {
        bytes.extend_from_slice(&part.chunk);
        if bytes.len() as u64 > BLOB_MAX {
            return Err(Error::Protocol(format!("a blob of more than {BLOB_MAX} bytes came")));
        }
    }
    if blob_ref(&bytes) != reference {
        return Err(Error::Blob { reference: reference.to_owned() });
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_named_by_its_digest() {
        let name = blob_ref(b"abc");
        assert_eq!(name, "blob:sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(is_blob_ref(&name));
        assert!(!is_blob_ref("blob:sha256:00"));
    }
}
