//! Looking after the authority: `mindos.access.v1.AuthorityService`.
//!
//! Invariant: what is in use is on record. The file of the keys changes first, and where the process ends before the record is
//! written, the next start writes it.

use std::sync::Arc;

use mindos_core::access::{AccessChange, AuthorityChange, Scope};
use mindos_core::input::Input;
use mindos_core::output::Reply;
use mindos_model::{Seq, Timestamp};
use mindos_proto::access::v1::authority_service_server::AuthorityService;
use mindos_proto::access::v1::{
    AuthorityKey, AuthorityPart, CertificateRoot, GetAuthorityRequest, GetAuthorityResponse, RetireAuthorityRequest,
    RetireAuthorityResponse, RotateAuthorityRequest, RotateAuthorityResponse,
};
use mindos_proto::convert::{Invalid, time};
use mindos_proto::rpc;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

use super::{failed, status};
use crate::access::Caller;
use crate::access::view::AccessView;
use crate::driver::{CallError, Handle};
use crate::tls::authority::{AGENT_LIFE_MAX, Authority, AuthorityError, ROOT_BACKDATED, RootId, root_id};
use crate::tls::identity::Read;
use crate::tls::renew::RENEW_LATE_MAX;
use crate::tls::server_config::Tls;

/// What the service needs.
#[derive(Clone)]
pub struct Authorities {
    pub handle: Handle,
    pub access: Arc<AccessView>,
    /// Unset where nothing is encrypted.
    pub tls: Option<Arc<Tls>>,
}

/// Who changes something.
struct Changer {
    by: Arc<str>,
    from: Arc<str>,
}

impl Authorities {
    fn built_in(&self) -> Result<(&Arc<Tls>, &Arc<Authority>), Status> {
        let tls = self.tls.as_ref();
        tls.and_then(|tls| tls.authority().map(|authority| (tls, authority)))
            .ok_or_else(|| precondition("NO_AUTHORITY", "the built-in authority is not in use"))
    }

    /// Puts a change on record.
    async fn record(&self, id: RootId, retired: bool, changer: Changer) -> Result<Seq, CallError> {
        let change = AuthorityChange::CertificateKey { id: id.0, retired };
        let change = Box::new(AccessChange::ChangeAuthority(change));
        let (within, Changer { by, from }) = (Scope::Plane, changer);
        match self.handle.call(|request| Input::Access { request, within, change, by, from }).await? {
            Reply::Done { at } => Ok(at),
            _ => Ok(Seq(0)),
        }
    }

    /// Keeps on record which keys are in use and which certificate the server shows, until `drain` turns true.
    pub async fn keep_recorded(self, mut drain: watch::Receiver<bool>) {
        let Some(tls) = self.tls.clone() else { return };
        let mut replaced = tls.replaced();
        let recorded = async {
            self.handle.begun().await;
            self.reconcile().await;
            loop {
                let digest = *replaced.borrow_and_update();
                self.record_certificate(&tls, digest).await;
                if replaced.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = recorded => {}
            _ = drain.wait_for(|draining| *draining) => {}
        }
    }

    /// Records the server's certificate, where it comes from files: one of the built-in authority follows from its key.
    async fn record_certificate(&self, tls: &Tls, digest: [u8; 32]) {
        if !tls.is_from_files() {
            return;
        }
        let (what, summary) = (Arc::from("server_certificate"), Arc::from(format!("good until {}", tls.not_after())));
        let change = Box::new(AccessChange::ChangeSettings { what, digest, summary });
        let (within, by, from) = (Scope::Plane, Arc::from(""), Arc::from(""));
        if let Err(error) = self.handle.call(|request| Input::Access { request, within, change, by, from }).await {
            warn!(%error, "the server's certificate was not recorded");
        }
    }

    /// Records what a process before this one did not come to: keys in use that are not on record, and those on record that are
    /// gone, as where the authority was made again after its folder was lost.
    async fn reconcile(&self) {
        let Ok((_, authority)) = self.built_in() else { return };
        let trusted: Vec<RootId> = [Some(authority.id()), authority.former()].into_iter().flatten().collect();
        let recorded: Vec<RootId> = self.access.load().access.certificate_keys().map(|(id, _)| RootId(*id)).collect();
        let gone = recorded.iter().filter(|id| !trusted.contains(id)).map(|id| (*id, true));
        let there = trusted.iter().filter(|id| !recorded.contains(id)).map(|id| (*id, false));
        for (id, retired) in gone.chain(there) {
            let plane = Changer { by: Arc::from(""), from: Arc::from("") };
            match self.record(id, retired, plane).await {
                Ok(seq) => info!(%id, retired, %seq, "key of the authority is on record"),
                Err(error) => warn!(%error, %id, retired, "key of the authority was not recorded"),
            }
        }
    }

    async fn rotate(&self, changer: Changer) -> Result<RotateAuthorityResponse, Status> {
        let (tls, authority) = self.built_in()?;
        let (tls, made, now) = (Arc::clone(tls), Arc::clone(authority), self.handle.now());
        let former = authority.id();
        let rotated = tokio::task::spawn_blocking(move || {
            let id = made.rotate(now)?;
            tls.refresh().map(|()| id).map_err(Changing::Tls)
        });
        let id = changed(rotated.await)?;
        let Changer { by, from } = &changer;
        info!(%id, %former, %by, %from, "authority was rotated");
        let seq = self.record(id, false, changer).await.map_err(|error| status::call(&error))?;
        Ok(RotateAuthorityResponse { id: id.to_string(), former_id: former.to_string(), seq: seq.0 })
    }

    async fn retire(&self, force: bool, changer: Changer) -> Result<RetireAuthorityResponse, Status> {
        let (tls, authority) = self.built_in()?;
        let (now, rotated) = (self.handle.now(), authority.roots().first().and_then(since).unwrap_or_default());
        let good_at = rotated + AGENT_LIFE_MAX + RENEW_LATE_MAX;
        if !force && authority.former().is_some() && now < good_at {
            let left = good_at.since(now).as_secs() / 60;
            let message = format!(
                "agents that were away may still need the former root to renew, for {left} min: expected `force` to shut them out"
            );
            return Err(precondition("TOO_EARLY", message));
        }
        let (tls, made) = (Arc::clone(tls), Arc::clone(authority));
        let retired = tokio::task::spawn_blocking(move || {
            let id = made.retire()?;
            tls.refresh().map_err(Changing::Tls)?;
            tls.sweep();
            Ok(id)
        });
        let id = changed(retired.await)?;
        let Changer { by, from } = &changer;
        info!(%id, %by, %from, "former root of the authority was retired");
        let seq = self.record(id, true, changer).await.map_err(|error| status::call(&error))?;
        Ok(RetireAuthorityResponse { id: id.to_string(), seq: seq.0 })
    }
}

/// Why a change did not happen.
enum Changing {
    Authority(AuthorityError),
    Tls(crate::tls::server_config::TlsError),
}

impl From<AuthorityError> for Changing {
    fn from(error: AuthorityError) -> Changing {
        Changing::Authority(error)
    }
}

fn changed(done: Result<Result<RootId, Changing>, tokio::task::JoinError>) -> Result<RootId, Status> {
    match done.map_err(|error| failed("a change of the authority panicked", &error))? {
        Ok(id) => Ok(id),
        Err(Changing::Authority(error @ (AuthorityError::NotRetired | AuthorityError::NothingToRetire))) => {
            Err(precondition("AUTHORITY_STATE", error.to_string()))
        }
        Err(Changing::Authority(error)) => Err(failed("the authority did not change", &error)),
        Err(Changing::Tls(error)) => Err(failed("the authority changed and certificates did not follow", &error)),
    }
}

fn precondition(reason: &str, message: impl Into<String>) -> Status {
    rpc::Status::new(Code::FailedPrecondition as i32, message).with_reason(reason, []).into()
}

/// From when on a root is in use.
fn since(root: &rustls::pki_types::CertificateDer<'_>) -> Option<Timestamp> {
    Read::new(root).ok().map(|read| read.not_before() + ROOT_BACKDATED)
}

#[tonic::async_trait]
impl AuthorityService for Authorities {
    async fn get_authority(&self, _: Request<GetAuthorityRequest>) -> Result<Response<GetAuthorityResponse>, Status> {
        let tls = self.tls.as_ref();
        let roots = tls.and_then(|tls| tls.authority()).map(|authority| authority.roots()).unwrap_or_default();
        let root = |(place, root): (usize, &rustls::pki_types::CertificateDer<'_>)| CertificateRoot {
            id: root_id(root).map(|id| id.to_string()).unwrap_or_default(),
            certificate: bytes::Bytes::copy_from_slice(root),
            since: since(root).map(time),
            former: place > 0,
        };
        let known = self.access.load();
        let mut keys: Vec<_> = known.access.signing_keys().collect();
        keys.sort_by_key(|key| key.since);
        let ledger_keys = keys.into_iter().map(|key| AuthorityKey {
            id: RootId(key.id).to_string(),
            public_key: key.public.to_vec().into(),
            since_seq: key.since.0,
        });
        Ok(Response::new(GetAuthorityResponse {
            trust_domain: tls.map(|tls| tls.trust_domain().to_string()).unwrap_or_default(),
            issues_to_agents: tls.is_some_and(|tls| tls.authority().is_some() && tls.issues_to_agents()),
            roots: roots.iter().enumerate().map(root).collect(),
            server_certificate_expires_at: tls.map(|tls| time(tls.not_after())),
            ledger_keys: ledger_keys.collect(),
        }))
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<RotateAuthorityResponse>, Status> {
        let caller = Caller::of(&request)?;
        let changer = Changer { by: Arc::clone(&caller.name), from: Arc::clone(&caller.from) };
        match request.into_inner().part() {
            AuthorityPart::Certificates => self.rotate(changer).await.map(Response::new),
            AuthorityPart::Ledger => Err(precondition("NO_LEDGER_KEY", "the ledger is not signed")),
            AuthorityPart::Unspecified => {
                let reason = "is required: expected AUTHORITY_PART_CERTIFICATES or AUTHORITY_PART_LEDGER";
                Err(status::invalid(Invalid::new("part", reason)).into())
            }
        }
    }

    async fn retire_authority(
        &self,
        request: Request<RetireAuthorityRequest>,
    ) -> Result<Response<RetireAuthorityResponse>, Status> {
        let caller = Caller::of(&request)?;
        let changer = Changer { by: Arc::clone(&caller.name), from: Arc::clone(&caller.from) };
        self.retire(request.into_inner().force, changer).await.map(Response::new)
    }
}
