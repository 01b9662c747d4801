//! What tells a process to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Ends when the process is told to, by SIGTERM or SIGINT, both of which are heard from the call on.
///
/// # Errors
/// When they cannot be listened for.
pub fn told_to_end() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
