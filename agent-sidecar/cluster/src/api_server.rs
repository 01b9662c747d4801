//! Calls to the API server: none is waited for without end, since a connection whose other end is gone says nothing.

use std::time::Duration;

use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// What is answered, or the error that nothing is.
pub(crate) async fn within<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("no answer from the API server".into())),
    }
}
