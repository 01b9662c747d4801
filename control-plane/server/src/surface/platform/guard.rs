//! From where the platform's paths may be called: nobody who calls them says who they are, so the address has to do.
//!
//! Invariant: a refused request is answered before its body is read. The health of the server and the webhook, which has a
//! secret of its own, are for everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::{Request, StatusCode};

use super::Platform;
use super::answer;
use crate::metrics::{Exposition, Kind};
use crate::net::Connection;

/// Requests that were refused for where they came from.
#[derive(Clone, Debug, Default)]
pub struct Turned(Arc<AtomicU64>);

impl Turned {
    /// Writes the family.
    pub fn expose(&self, into: &mut Exposition) {
        let help = "Requests to the platform's paths refused for the address that they came from.";
        into.single("mindos_platform_refused_sources_total", Kind::Counter, help, self.0.load(Ordering::Relaxed));
    }
}

/// Lets a request pass as the principal of the listener, or refuses it.
pub(super) async fn guard(State(platform): State<Arc<Platform>>, mut request: Request<Body>, next: Next) -> Response {
    let at = request.extensions().get::<Connection>().map(|connection| connection.peer);
    let peer = at.map(|peer| peer.ip().to_canonical());
    let settings = platform.settings.load_full();
    if peer.is_some_and(|peer| settings.admits(peer, platform.is_enforced())) {
        request.extensions_mut().insert(Arc::new(settings.principal(at)));
        return next.run(request).await;
    }
    platform.turned.0.fetch_add(1, Ordering::Relaxed);
    let from = peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string());
    let message = format!("{from} may not call this: a range that holds it has to stand in platform.sources");
    answer::refused(StatusCode::FORBIDDEN, &message)
}
