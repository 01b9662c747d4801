//! Whether the generals beside this sidecar are still there, seen by whether anybody listens where they are.
//!
//! Beside a plain container Kubernetes ends nothing when the other one has ended, so that the pod of a Job would stay for ever. What counts is
//! that a connection is refused: a general that is busy and slow to accept is there.

use std::io;
use std::time::Duration;

use http::uri::Authority;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What is watched, and when it counts as gone.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) generals: Vec<Authority>,
    /// Without a connection for this long, after there was one.
    pub(crate) after: Duration,
    /// Without any connection since the start.
    pub(crate) start_max: Duration,
}

impl Watched {
    /// Completes when all generals are gone.
    pub(crate) async fn gone(self) {
        let Watched { generals, after, start_max } = self;
        let begun = Instant::now();
        let mut seen: Option<Instant> = None;
        loop {
            let mut there = false;
            for general in &generals {
                there |= is_there(general).await;
            }
            if there {
                seen = Some(Instant::now());
            }
            let is_gone = match seen {
                Some(at) => !there && at.elapsed() >= after,
                None => begun.elapsed() >= start_max,
            };
            if is_gone {
                info!(was_there = seen.is_some(), "generals are gone");
                return;
            }
            sleep(LOOK).await;
        }
    }
}

async fn is_there(general: &Authority) -> bool {
    let host = general.host().trim_start_matches('[').trim_end_matches(']');
    match timeout(LOOK, TcpStream::connect((host, general.port_u16().unwrap_or(80)))).await {
        Ok(Err(error)) => error.kind() != io::ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn watched(listener: &TcpListener, after: u64, start_max: u64) -> Watched {
        let address = listener.local_addr().unwrap().to_string();
        let [after, start_max] = [after, start_max].map(Duration::from_millis);
        Watched { generals: vec![address.parse().unwrap()], after, start_max }
    }

    #[tokio::test]
    async fn a_general_is_gone_when_it_listens_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::spawn(watched(&listener, 10, 60_000).gone());
        // One that never accepts is there.
        assert!(
            timeout(Duration::from_millis(1500), async {
                while !gone.is_finished() {
                    sleep(LOOK / 10).await
                }
            })
            .await
            .is_err()
        );
        drop(listener);
        timeout(Duration::from_secs(5), gone).await.expect("it was noticed").unwrap();
    }

    #[tokio::test]
    async fn a_general_that_never_came_is_gone_after_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let watched = watched(&listener, 60_000, 1200);
        drop(listener);
        let begun = Instant::now();
        timeout(Duration::from_secs(5), watched.gone()).await.expect("it was noticed");
        assert!(begun.elapsed() >= Duration::from_millis(1200));
    }
}
