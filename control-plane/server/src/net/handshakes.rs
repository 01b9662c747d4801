//! Handshakes of TLS, on a thread of their own: what they cost in signatures is not taken from who is connected already.
//!
//! An address shakes so many hands at a time, and its others wait. Invariant: the wait and the handshake each end within their time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::background::Background;
use crate::limits::{AddressKey, Shares};
use crate::tls::accept::PortTls;
use crate::tls::identity::AgentIdentity;

/// How far the thread stands back behind those that serve.
const NICENESS: i32 = 5;

/// A connection after its handshake.
pub(super) type Shaken = (TlsStream<TcpStream>, Option<Arc<AgentIdentity>>);

/// The thread, and who waits for it.
#[derive(Debug)]
pub struct Handshakes {
    thread: Background,
    shares: Shares<AddressKey>,
}

impl Handshakes {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn start() -> io::Result<Handshakes> {
        Ok(Handshakes { thread: Background::start("handshakes", NICENESS, || {})?, shares: Shares::default() })
    }

    /// Shakes hands; `None` when that failed or took too long, which is counted where it is known why.
    pub(super) async fn shake(
        &self,
        tls: &PortTls,
        stream: TcpStream,
        peer: SocketAddr,
        most: u32,
        time: Duration,
    ) -> Result<Option<Shaken>, Late> {
        let share = self.shares.of(peer.ip().into(), most as usize);
        let waited = tokio::time::timeout(time, async {
            // Who says nothing takes nobody's turn.
            stream.readable().await.ok()?;
            share.acquire_owned().await.ok()
        });
        let Some(turn) = waited.await.map_err(|_| Late)? else { return Ok(None) };
        let tls = tls.clone().within(time);
        let shaking = async move {
            let shaken = tls.accept(stream, peer).await;
            drop(turn);
            shaken
        };
        match self.thread.handle().spawn(shaking).await {
            Ok(Ok(shaken)) => Ok(Some(shaken)),
            Ok(Err(refused)) => {
                // Nobody waits for it but its own connection.
                refused.linger().await;
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }
}

/// Nothing was said, or no turn came, in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late;
