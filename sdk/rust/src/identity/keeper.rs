//! The task that keeps an agent a member: does what the pure `Membership` asks for, with keys, files and calls.

use std::sync::Arc;
use std::time::Duration;

use mindos_sidecar_core::membership::{Means, Membership, Moment, Phase, Step, Trouble};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::exchange::{self, Issued};
use super::key::Key;
use super::store::{Kept, Learned, Store};
use super::workload::{self, Svid};
use super::{IdentityError, Joining, Proof, Signals, Standing, Trust, Who, is_untrusted, proof, x509};
use crate::dial::Dialer;
use crate::event::random;
use crate::plane_clock::PlaneClock;
use crate::tls::{Roots, Tls};

/// How often a file that is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest sleep, so that a clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Keeper {
    tls: Tls,
    clock: PlaneClock,
    api: Dialer,
    trust: Trust,
    /// What the control plane said last about its roots, and whether that is what is trusted.
    learned: Option<Learned>,
    by_learned: bool,
    proof: Proof,
    /// Proof and roots, as their files were when they were looked at last.
    files_seen: (Option<[u8; 32]>, Option<String>),
    issuer_hint: String,
    who: Who,
    store: Option<Store>,
    /// The certificate that is shown, and its key.
    held: Option<Kept>,
    /// Key of the join that is under way: the same for every try, by which the control plane knows a repetition.
    pending: Option<Key>,
    membership: Membership,
    identity: Option<Arc<str>>,
    standing: watch::Sender<Standing>,
    signals: Signals,
}

impl Keeper {
    pub(super) fn new(
        agents: &Dialer,
        joining: Joining,
        who: Who,
        signals: Signals,
    ) -> Result<(Keeper, watch::Receiver<Standing>), IdentityError> {
        let Joining { api, trust, proof, dir, issuer_hint } = joining;
        let api = match api {
            Some(api) => Dialer::new(&api)?,
            None => api_of(agents, &proof)?,
        };
        if !api.is_tls() {
            return Err(IdentityError::InClear { url: api.url().to_string() });
        }
        let clock = PlaneClock::start();
        let store = dir.map(Store::open).transpose()?;
        let learned = store.as_ref().map(Store::bundle).transpose()?.flatten();
        // Who brings the certificate brings the roots as well, unless some are given.
        let brings_roots = matches!(proof, Proof::Workload(_)) && trust == Trust::System;
        let roots = if brings_roots { None } else { configured(&trust)? };
        let tls = match (&learned, roots) {
            (Some(learned), _) => Tls::with_clock(&Roots::Certificates(learned.roots.clone()), clock.clone())?,
            (None, Some(roots)) => Tls::with_clock(&roots, clock.clone())?,
            (None, None) => Tls::without_roots(clock.clone()),
        };
        let kept = store.as_ref().map(Store::identity).transpose()?.flatten();
        let kept = kept.filter(|Kept { chain, .. }| fits(&chain[0], &who));
        let pending = store.as_ref().map(Store::pending).transpose()?.flatten();
        let term = kept.as_ref().and_then(|kept| x509::term(&kept.chain[0]));
        let means = match &proof {
            Proof::None => Means::Renew,
            Proof::Workload(_) => Means::Brought,
            Proof::JoinToken(_) | Proof::JoinTokenFile(_) | Proof::ServiceAccountToken(_) => Means::Join,
        };
        let now = Moment { own: clock.own(), plane: clock.now() };
        let membership = Membership::new(means, term.filter(|_| means != Means::Brought), now, random());
        if let Some(Kept { key, chain }) = &kept {
            tls.present(chain.clone(), key.to_der())?;
        }
        let identity = kept.as_ref().and_then(|kept| x509::spiffe_id(&kept.chain[0])).map(Arc::from);
        let (standing, receiver) = watch::channel(Standing {
            phase: membership.phase(),
            is_good: membership.is_good(now),
            identity: identity.clone(),
            not_after: membership.not_after(),
            problem: membership.problem(now),
        });
        let files_seen = (proof::digest(&proof), digest(&trust));
        let keeper = Keeper {
            api: api.tls(tls.clone()),
            tls,
            clock,
            trust,
            by_learned: learned.is_some(),
            learned,
            files_seen,
            proof,
            issuer_hint,
            who,
            store,
            held: kept,
            pending,
            membership,
            identity,
            standing,
            signals,
        };
        Ok((keeper, receiver))
    }

    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    pub(super) async fn run(mut self) {
        if let Proof::Workload(socket) = &self.proof {
            let socket = socket.clone();
            return self.follow(workload::Source::new(socket)).await;
        }
        loop {
            let now = self.now();
            if let Some(step) = self.membership.step(now) {
                let was_good = self.membership.is_good(now);
                match self.attempt(step).await {
                    Ok(()) => self.renewed(step, was_good),
                    Err(trouble) => self.failed(trouble),
                }
            } else {
                self.publish();
                self.sleep().await;
            }
        }
    }

    /// Takes what somebody else brings.
    async fn follow(mut self, mut source: workload::Source) {
        loop {
            self.publish();
            let wait = self.membership.wait(self.now()).unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
            tokio::select! {
                brought = source.next() => match brought.and_then(|svid| self.take_svid(svid)) {
                    Ok(was_good) => self.renewed(Step::Renew, was_good),
                    Err(trouble) => self.failed(trouble),
                },
                () = tokio::time::sleep(wait.max(Duration::from_millis(10))) => {
                    let now = self.now();
                    self.membership.step(now);
                }
            }
        }
    }

    fn take_svid(&mut self, svid: Svid) -> Result<bool, Trouble> {
        let Svid { identity, chain, key, bundle } = svid;
        let refused = |why: String| Trouble::Away { why, retry_after: None };
        let was_good = self.membership.is_good(self.now());
        let term =
            x509::term(&chain[0]).ok_or_else(|| refused("a certificate without dates was brought".to_owned()))?;
        self.tls.present(chain, key).map_err(|error| refused(error.to_string()))?;
        // Roots that were given by hand are the only ones then: those of the workload's domain need not be the control plane's.
        if self.trust == Trust::System && !bundle.is_empty() {
            self.tls.trust(&Roots::Certificates(bundle)).map_err(|error| refused(error.to_string()))?;
        }
        self.identity = Some(Arc::from(identity));
        let now = self.now();
        self.membership.issued(term, now);
        Ok(was_good)
    }

    async fn sleep(&mut self) {
        let now = self.now();
        let waits_for_files = matches!(self.membership.phase(), Phase::Joining | Phase::Lapsed | Phase::Refused);
        let most = if waits_for_files { LOOK_INTERVAL } else { SLEEP_MAX };
        let wait = self.membership.wait(now).unwrap_or(most).min(most).max(Duration::from_millis(1));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.signals.suspected.notified() => {
                let now = self.now();
                self.membership.suspect(now);
            }
        }
        if waits_for_files {
            let seen = (proof::digest(&self.proof), digest(&self.trust));
            if seen != self.files_seen {
                let now = self.now();
                if seen.1 != self.files_seen.1 {
                    self.trust_otherwise();
                }
                self.files_seen = seen;
                self.membership.files_changed(now);
            }
        }
    }

    async fn attempt(&mut self, step: Step) -> Result<(), Trouble> {
        if !self.tls.has_roots()
            && let Trust::Pin(pin) = &self.trust
        {
            let root = exchange::pinned(&self.api, &self.clock, pin).await?;
            self.tls.trust(&Roots::Certificates(vec![root])).map_err(own)?;
        }
        match step {
            Step::Join => {
                self.files_seen.0 = proof::digest(&self.proof);
                let presented = proof::present(&self.proof)?;
                let key = match self.pending.take() {
                    Some(key) => key,
                    None => self.make_pending()?,
                };
                let joined =
                    exchange::join(&self.api, &self.clock, &self.who, presented, &key, &self.issuer_hint).await;
                match joined {
                    Ok(issued) => self.take(issued, key),
                    Err(trouble) => {
                        self.pending = Some(key);
                        Err(trouble)
                    }
                }
            }
            Step::Renew => {
                let Some(Kept { key: old, chain }) = &self.held else {
                    return Err(Trouble::NoProof { why: "there is no certificate to renew".to_owned() });
                };
                let next = Key::make().map_err(own)?;
                let issued = exchange::renew(&self.api, &self.clock, chain, old, &next).await?;
                self.take(issued, next)
            }
        }
    }

    fn make_pending(&self) -> Result<Key, Trouble> {
        let key = Key::make().map_err(own)?;
        if let Some(store) = &self.store {
            store
                .keep_pending(&key)
                .map_err(|error| own(IdentityError::Kept(format!("failed to keep a key: {error}"))))?;
        }
        Ok(key)
    }

    fn take(&mut self, issued: Issued, key: Key) -> Result<(), Trouble> {
        let Issued { chain, bundle, identity, term } = issued;
        // A certificate for another key is found out here, before the old one is let go.
        self.tls.present(chain.clone(), key.to_der()).map_err(own)?;
        if let Some(store) = &self.store
            && let Err(error) = store.keep(&key, &chain)
        {
            warn!(%error, "failed to keep the certificate: a restart will have to join anew");
        }
        self.held = Some(Kept { key, chain });
        self.identity = Some(Arc::from(identity));
        self.learn(bundle)?;
        let now = self.now();
        self.membership.issued(term, now);
        Ok(())
    }

    /// Trusts from here on what the control plane says.
    fn learn(&mut self, bundle: Vec<CertificateDer<'static>>) -> Result<(), Trouble> {
        if bundle.is_empty() {
            return Ok(());
        }
        let learned = Learned { roots: bundle, from: digest(&self.trust).unwrap_or_default() };
        if self.learned.as_ref() == Some(&learned) && self.by_learned {
            return Ok(());
        }
        self.tls.trust(&Roots::Certificates(learned.roots.clone())).map_err(own)?;
        info!(roots = learned.roots.len(), "trust bundle replaced");
        if let Some(store) = &self.store
            && let Err(error) = store.keep_bundle(&learned)
        {
            warn!(%error, "failed to keep the trust bundle");
        }
        (self.learned, self.by_learned) = (Some(learned), true);
        Ok(())
    }

    fn renewed(&self, step: Step, was_good: bool) {
        let now = self.now();
        let identity = self.identity.as_deref().unwrap_or_default();
        let good_for_s = self.membership.not_after().map_or(0, |end| end.since(now.plane).as_secs());
        match step {
            Step::Join => info!(identity, good_for_s, "agent joined"),
            Step::Renew if was_good => debug!(identity, good_for_s, "certificate renewed"),
            Step::Renew => info!(identity, good_for_s, "certificate renewed after its end"),
        }
        self.publish();
        if !was_good {
            // Only who waits for it: a permit would let the first wait after any later break be skipped, by all agents at once.
            self.signals.revived.notify_waiters();
        }
    }

    fn failed(&mut self, trouble: Trouble) {
        let untrusted = matches!(&trouble, Trouble::Away { why, .. } if is_untrusted(why));
        let now = self.now();
        self.membership.failed(trouble, now);
        let problem = self.membership.problem(now).unwrap_or_default();
        let retry_in_ms = self.membership.wait(now).unwrap_or_default().as_millis() as u64;
        warn!(phase = self.membership.phase().as_str(), problem, retry_in_ms, "agent has no new certificate");
        if untrusted {
            self.trust_otherwise();
        }
        self.publish();
    }

    /// Nobody that is trusted answered: what was said last may be out of date, or what is configured. Each is tried in turn.
    ///
    /// What was configured when the control plane said something else never comes back by itself: a root that was retired because its
    /// key was stolen is still in that file. Only what somebody put there since counts.
    fn trust_otherwise(&mut self) {
        let to_learned = !self.by_learned && self.learned.is_some();
        if let Some(learned) = &self.learned
            && self.by_learned
            && self.trust != Trust::System
            && digest(&self.trust).is_none_or(|now| now == learned.from)
        {
            return;
        }
        let roots = match (&self.learned, configured(&self.trust)) {
            (Some(learned), _) if to_learned => Roots::Certificates(learned.roots.clone()),
            (_, Ok(Some(roots))) => roots,
            (_, Ok(None)) => {
                // Fetched by its digest before the next try.
                self.tls.trust_nobody();
                self.by_learned = false;
                return;
            }
            (_, Err(error)) => {
                warn!(error = %crate::error::chain(&error), "failed to read the roots again");
                return;
            }
        };
        match self.tls.trust(&roots) {
            Ok(()) => self.by_learned = to_learned,
            Err(error) => warn!(error = %crate::error::chain(&error), "failed to read the roots again"),
        }
    }

    fn publish(&self) {
        let now = self.now();
        let standing = Standing {
            phase: self.membership.phase(),
            is_good: self.membership.is_good(now),
            identity: self.identity.clone(),
            not_after: self.membership.not_after(),
            problem: self.membership.problem(now),
        };
        self.standing.send_if_modified(|was| {
            let changed = *was != standing;
            *was = standing;
            changed
        });
    }

    fn now(&self) -> Moment {
        Moment { own: self.clock.own(), plane: self.clock.now() }
    }
}

/// What is trusted by configuration. `None` for a digest, whose root has to be fetched first.
fn configured(trust: &Trust) -> Result<Option<Roots>, crate::tls::TlsError> {
    Ok(match trust {
        Trust::System => Some(Roots::System),
        Trust::File(path) => Some(Roots::file(path)?),
        Trust::Pin(_) => None,
    })
}

/// A digest of what is configured. `None` while a file cannot be read.
fn digest(trust: &Trust) -> Option<String> {
    let bytes = match trust {
        Trust::System => b"system".to_vec(),
        Trust::File(path) => crate::tls::read(path).ok()?,
        Trust::Pin(pin) => pin.to_vec(),
    };
    Some(Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Whether what was kept is still what is wanted.
fn fits(leaf: &CertificateDer<'_>, who: &Who) -> bool {
    let identity = x509::spiffe_id(leaf).unwrap_or_default();
    let fits = identity.ends_with(&who.path());
    if !fits {
        warn!(identity, wanted = who.path(), "the certificate that was kept is for somebody else and is not used");
    }
    fits
}

/// The API beside the agents' port.
fn api_of(agents: &Dialer, proof: &Proof) -> Result<Dialer, IdentityError> {
    let url = agents.url();
    if url.port_u16() != Some(8091) {
        // Who has certificates brought asks nobody for any.
        return match proof {
            Proof::Workload(_) | Proof::None => Ok(agents.clone()),
            _ => Err(IdentityError::Api { url: url.to_string() }),
        };
    }
    Ok(Dialer::new(&format!("https://{}:8090", url.host().unwrap_or_default()))?)
}

fn own(error: impl std::error::Error) -> Trouble {
    Trouble::Away { why: crate::error::chain(&error), retry_after: None }
}
