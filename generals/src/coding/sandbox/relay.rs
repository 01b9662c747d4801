//! The inner end of the way out: a port of the sandbox's loopback whose connections go to the proxy's socket.
//!
//! Runs in process 1. It passes bytes on and judges nothing: who may be reached is decided outside, by the proxy.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{PROXY_PORT, PROXY_SOCKET};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;

pub(super) fn bind() -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", PROXY_PORT))
}

pub(super) fn serve(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for inner in listener.incoming().flatten() {
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        let Ok(outer) = UnixStream::connect(PROXY_SOCKET) else { continue };
        open.fetch_add(1, Ordering::Relaxed);
        let open = Arc::clone(&open);
        thread::spawn(move || {
            let _ = both_ways(&inner, &outer);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn both_ways(inner: &TcpStream, outer: &UnixStream) -> io::Result<()> {
    let (mut up_from, mut up_to) = (inner.try_clone()?, outer.try_clone()?);
    let up = thread::spawn(move || {
        let _ = io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    let (mut down_from, mut down_to) = (outer.try_clone()?, inner.try_clone()?);
    let _ = io::copy(&mut down_from, &mut down_to);
    let _ = inner.shutdown(Shutdown::Both);
    let _ = outer.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(())
}
