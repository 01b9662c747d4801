//! Bodies: read whole, within bounds of size, of time and of memory for all requests together.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::HttpError;

/// What all bodies being read may take together, in KiB.
const MEMORY_KIB: u32 = 64 * 1024;

/// Reads bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    memory: Semaphore,
    timeout: Duration,
}

/// A body, and the memory that it holds until this is dropped.
pub(crate) struct Held<'a> {
    pub bytes: Bytes,
    _memory: SemaphorePermit<'a>,
}

impl Bodies {
    /// `timeout` is how long a body may take to arrive, the wait for memory included.
    pub(crate) fn new(timeout: Duration) -> Bodies {
        Bodies { memory: Semaphore::new(MEMORY_KIB as usize), timeout }
    }

    /// Reads a body of at most `max` bytes.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body, max: usize) -> Result<Held<'_>, HttpError> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > max) {
            return Err(too_large(max));
        }
        let kib = u32::try_from(length.unwrap_or(max).div_ceil(1024)).unwrap_or(MEMORY_KIB).clamp(1, MEMORY_KIB);
        let read = async {
            let unavailable =
                |_| HttpError::with_code(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "server is stopping");
            let memory = self.memory.acquire_many(kib).await.map_err(unavailable)?;
            match Limited::new(body, max).collect().await {
                Ok(collected) => Ok(Held { bytes: collected.to_bytes(), _memory: memory }),
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
            bodies.read(&headers, body, 10).await.map(|held| held.bytes).map_err(|error| error.code().as_u16())
        };
        assert_eq!(read(HeaderMap::new(), Body::from("0123456789")).await, Ok(Bytes::from("0123456789")));
        assert_eq!(read(HeaderMap::new(), Body::from("0123456789a")).await, Err(413));
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, "104857600".parse().unwrap())]);
        let never = || Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(announced, never()).await, Err(413));
        assert_eq!(read(HeaderMap::new(), never()).await, Err(408));
        assert_eq!(bodies.memory.available_permits(), MEMORY_KIB as usize);
    }
}
