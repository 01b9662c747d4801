//! A TCP proxy that can be cut: what passes through it stands still or breaks off.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy on loopback.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: String,
    open: Arc<watch::Sender<bool>>,
}

impl Proxy {
    /// Passes everything on to `target`, such as `127.0.0.1:8091`.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(target: String) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind a proxy")?;
        let address = listener.local_addr().context("a bound socket has an address")?;
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, target.clone(), state.clone()));
            }
        });
        Ok(Proxy { address: format!("http://{address}"), open: Arc::new(open) })
    }

    /// Where to dial.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Breaks all connections and takes none until [`Proxy::mend`].
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn pass(mut from: TcpStream, target: String, mut state: watch::Receiver<bool>) {
    if !*state.borrow_and_update() {
        return;
    }
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    let cut = async { state.wait_for(|open| !open).await.map(|_| ()) };
    tokio::select! {
        _ = cut => {}
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
    }
}
