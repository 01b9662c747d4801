//! Sources: from where the paths of the contract may be called.
//!
//! Nobody who calls them says who they are, so the address has to do: a range of the settings has to hold it. While access is open this
//! machine may as well. Invariant: a refused request is answered before its body is read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::answer::Refusal;
use super::settings::GitlensSettings;
use crate::metrics::{Exposition, Kind};
use crate::net::Connection;
use crate::network::Network;

/// Ranges of one listener.
const RANGES_MAX: usize = 256;

/// The listeners that have paths of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    Aggregator,
    Orchestrator,
}

impl Listener {
    const ALL: [Listener; 2] = [Listener::Aggregator, Listener::Orchestrator];

    fn as_str(self) -> &'static str {
        match self {
            Listener::Aggregator => "aggregator",
            Listener::Orchestrator => "orchestrator",
        }
    }
}

/// Ranges of addresses by listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourcesSection {
    /// Who may call the aggregator's paths, such as `10.0.0.0/8`. When empty, this machine alone, and nobody where access is enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregator: Vec<Network>,
    /// Who may call the orchestrator's, which stand beside the API. When empty, this machine alone, and nobody where access is enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orchestrator: Vec<Network>,
}

impl SourcesSection {
    /// Checks what single ranges cannot say.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub(super) fn check(&self) -> Result<(), String> {
        for listener in Listener::ALL {
            let found = self.of(listener).len();
            if found > RANGES_MAX {
                let listener = listener.as_str();
                return Err(format!("gitlens.sources.{listener}: has {found} ranges: expected at most {RANGES_MAX}"));
            }
        }
        Ok(())
    }

    fn of(&self, listener: Listener) -> &[Network] {
        match listener {
            Listener::Aggregator => &self.aggregator,
            Listener::Orchestrator => &self.orchestrator,
        }
    }

    fn admits(&self, listener: Listener, peer: IpAddr, is_enforced: bool) -> bool {
        peer.is_loopback() && !is_enforced || self.of(listener).iter().any(|range| range.contains(peer))
    }
}

/// Requests that were refused for where they came from, by listener.
#[derive(Debug, Default)]
pub struct Turned([AtomicU64; 2]);

impl Turned {
    pub(super) fn expose(&self, into: &mut Exposition) {
        let help = "Requests refused for the address that they came from.";
        let mut family = into.family("mindos_gitlens_refused_sources_total", Kind::Counter, help);
        for listener in Listener::ALL {
            let count = self.0[listener as usize].load(Ordering::Relaxed);
            family.series(&[("listener", listener.as_str())], count);
        }
    }
}

/// Stands before the paths of one listener.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) listener: Listener,
    /// Callers have to say who they are, so that being on this machine is not enough.
    pub(super) is_enforced: bool,
    pub(super) settings: Arc<ArcSwap<GitlensSettings>>,
    pub(super) turned: Arc<Turned>,
}

/// Lets a request pass as the principal of the listener, or refuses it in the shape of the contract.
pub(super) async fn guard(State(guard): State<Guard>, mut request: Request<Body>, next: Next) -> Response {
    let Guard { listener, is_enforced, settings, turned } = guard;
    let at = request.extensions().get::<Connection>().map(|connection| connection.peer);
    let peer = at.map(|peer| peer.ip().to_canonical());
    let settings = settings.load_full();
    if peer.is_some_and(|peer| settings.sources.admits(listener, peer, is_enforced)) {
        request.extensions_mut().insert(Arc::new(settings.principal(at)));
        return next.run(request).await;
    }
    turned.0[listener as usize].fetch_add(1, Ordering::Relaxed);
    let listener = listener.as_str();
    let from = peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.to_string());
    let detail = format!("{from} may not call this: a range that holds it has to stand in gitlens.sources.{listener}");
    Refusal { code: StatusCode::FORBIDDEN, word: "Forbidden", detail, retry_after: None }.into_response()
}

/// Says at the start where paths are open to the network and nobody there may call them.
pub(crate) fn announce(settings: &GitlensSettings, aggregator: Option<SocketAddr>, api: SocketAddr) {
    for (listener, at) in [(Listener::Aggregator, aggregator), (Listener::Orchestrator, Some(api))] {
        if at.is_some_and(|at| !at.ip().is_loopback()) && settings.sources.of(listener).is_empty() {
            let setting = format!("gitlens.sources.{}", listener.as_str());
            warn!(
                setting,
                "paths of the GitLens contract answer this machine only: name the ranges that may call them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use tower::ServiceExt;

    use super::*;

    /// Asks as a peer would; status, body and what the header says.
    async fn ask(router: &Router, peer: Option<&str>) -> (u16, String, String) {
        let mut request = Request::post("/events").body(Body::from("{}")).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Connection::from(SocketAddr::new(peer.parse().unwrap(), 7)));
        }
        let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let detail = head.headers.get("x-mindos-error").map(|text| text.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(body, 1024).await.unwrap();
        (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), detail.unwrap_or_default())
    }

    #[tokio::test]
    async fn a_listener_answers_this_machine_and_its_own_ranges() {
        let settings: Arc<ArcSwap<GitlensSettings>> = Arc::default();
        let turned = Arc::new(Turned::default());
        let of = |listener, is_enforced| {
            let (settings, turned) = (Arc::clone(&settings), Arc::clone(&turned));
            let guarded = Guard { listener, is_enforced, settings, turned };
            Router::new().route("/events", post(async || "taken")).layer(from_fn_with_state(guarded, guard))
        };
        let (aggregator, orchestrator) = (of(Listener::Aggregator, false), of(Listener::Orchestrator, false));
        for here in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(ask(&aggregator, Some(here)).await.1, "taken", "{here}");
        }
        let (code, body, detail) = ask(&aggregator, Some("::ffff:10.0.0.9")).await;
        assert_eq!((code, &*body), (403, r#"{"error":"Forbidden"}"#));
        assert!(detail.starts_with("10.0.0.9 ") && detail.ends_with("gitlens.sources.aggregator"), "{detail}");
        assert_eq!(ask(&orchestrator, Some("fd00::9")).await.0, 403);
        assert_eq!(ask(&orchestrator, None).await.0, 403);

        // A change of the settings holds at once, for its listener alone.
        let sources = SourcesSection {
            aggregator: vec!["10.0.0.0/8".parse().unwrap()],
            orchestrator: vec!["fd00::/8".parse().unwrap()],
        };
        settings.store(Arc::new(GitlensSettings { sources, ..GitlensSettings::default() }));
        for (router, peer, code) in [
            (&aggregator, "10.0.0.9", 200),
            (&aggregator, "::ffff:10.0.0.9", 200),
            (&aggregator, "11.0.0.9", 403),
            (&aggregator, "fd00::9", 403),
            (&orchestrator, "fd00::9", 200),
            (&orchestrator, "10.0.0.9", 403),
            (&orchestrator, "::1", 200),
        ] {
            assert_eq!(ask(router, Some(peer)).await.0, code, "{peer}");
        }
        let enforced = of(Listener::Aggregator, true);
        assert_eq!((ask(&enforced, Some("127.0.0.1")).await.0, ask(&enforced, Some("10.0.0.9")).await.0), (403, 200));
        let mut shown = Exposition::default();
        turned.expose(&mut shown);
        let shown = shown.into_text();
        for line in ["{listener=\"aggregator\"} 4", "{listener=\"orchestrator\"} 3"] {
            assert!(shown.contains(&format!("mindos_gitlens_refused_sources_total{line}\n")), "{shown}");
        }
    }
}
