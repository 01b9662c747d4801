//! Attempts: one try of one effect, from what the plane knows of it to what the plane is told.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::effect::{EffectOutcome, EffectReport, EffectView};
use mindos_model::limits::EFFECT_OBSERVED_MAX;
use mindos_model::{TenantName, Timestamp};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::accounts::{Accounts, Need};
use super::broker::observed;
use super::mark::effect_hash;
use super::parameters::Invalid;
use super::rest::{ForgeError, clean};
use super::settings::Mode;
use super::wanted::{EffectFailure, Kind, Outcome, Repository, Subject, Wanted};
use super::{carry_out, placeholders};
use crate::blobs::{BlobError, BlobRef};
use crate::grpc::Context;
use crate::ingest::event::{Extension, extensions};
use crate::logging::Chain;
use crate::payloads::Unread;

/// After a write whose end nobody saw, GitHub gets this long to be done with it before it is looked for.
const UNCLEAR_WAIT: Duration = Duration::from_secs(5);
/// How long GitHub is left alone that does not accept the credentials.
const UNAUTHORISED_WAIT: Duration = Duration::from_secs(60);
/// Bytes of a list of files that lies in the blob store.
const FILES_BYTES_MAX: u64 = 8 << 20;

/// What is needed for a try.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) accounts: Accounts,
    pub(super) context: Arc<Context>,
}

/// What came of one.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) report: EffectReport,
    /// Nothing of the same owner is tried until then.
    pub(super) hold: Option<Timestamp>,
}

impl Verdict {
    fn ended(outcome: EffectOutcome) -> Verdict {
        Verdict { report: EffectReport::Ended(outcome), hold: None }
    }

    fn failed(message: &str) -> Verdict {
        Verdict::ended(EffectOutcome::Failed { message: Arc::from(clean(message, 2000)) })
    }

    /// It is tried again, and this try counts.
    pub(super) fn later(until: Timestamp, why: &str) -> Verdict {
        let why = Arc::from(clean(why, 2000));
        Verdict { report: EffectReport::Defer { until, counted: true, why }, hold: None }
    }

    /// It is tried again, and this was none; the others of its owner wait too.
    fn held(until: Timestamp, why: &str) -> Verdict {
        let why = Arc::from(clean(why, 2000));
        Verdict { report: EffectReport::Defer { until, counted: false, why }, hold: Some(until) }
    }
}

impl Attempt {
    pub(super) async fn run(&self, view: EffectView) -> Verdict {
        let (id, kind, target) = (view.effect.to_string(), Arc::clone(&view.kind), Arc::clone(&view.target));
        let tried = self.attempt(view).await;
        let now = self.context.handle.now();
        let (kind, target) = (&*kind, &*target);
        match tried {
            Ok(Outcome::Done(observed)) => {
                let action = observed["action"].as_str().unwrap_or_default();
                info!(effect = id, kind, target, action, "effect was carried out");
                Verdict::ended(EffectOutcome::Done { observed: bounded(observed) })
            }
            Ok(Outcome::Would(would)) => {
                let would = bounded(would);
                info!(effect = id, kind, target, would = &*would, "dry run: effect would be carried out");
                Verdict::ended(EffectOutcome::DryRun { would })
            }
            Err(Stop::Failure(EffectFailure::Invalid(invalid))) => {
                warn!(effect = id, kind, target, error = %invalid, "effect cannot be carried out");
                Verdict::failed(&invalid.to_string())
            }
            Err(Stop::Failure(EffectFailure::Forge(error))) => match error {
                ForgeError::Limited { until, .. } => Verdict::held(until, &error.to_string()),
                ForgeError::Unauthorised { .. } => {
                    warn!(effect = id, %error, "effects wait for credentials that GitHub accepts");
                    Verdict::held(now + UNAUTHORISED_WAIT, &error.to_string())
                }
                ForgeError::Transient { unclear, .. } => {
                    let wait = if unclear { UNCLEAR_WAIT } else { Duration::ZERO };
                    Verdict::later(now + wait, &error.to_string())
                }
                ForgeError::NotFound { .. } | ForgeError::Refused { .. } => {
                    warn!(effect = id, kind, target, %error, "effect failed");
                    Verdict::failed(&error.to_string())
                }
            },
            Err(Stop::Later(why)) => Verdict::later(now, &why),
        }
    }

    async fn attempt(&self, view: EffectView) -> Result<Outcome, Stop> {
        let settings = self.accounts.settings();
        let account = self.accounts.current().filter(|_| settings.mode != Mode::Off);
        let Some(account) = account else { return Err(Stop::Later("effects are off".to_owned())) };
        let is_dry_run = settings.mode == Mode::DryRun;
        let kind = Kind::read(&view.kind)?;
        let earlier = observed(&view);
        let filled = placeholders::fill(&view.target, "target", &earlier, is_dry_run)?;
        let is_filled = filled != *view.target;
        if is_dry_run && filled.contains("${effects.") {
            // It goes to what an earlier one would make.
            return Ok(Outcome::would("carry out", json!({ "kind": kind.as_str(), "target": filled })));
        }
        let target = Subject::read(&filled)?;
        self.may_touch(&view, &target.repository, &settings, &account.github).await?;
        let parameters = self.context.payloads.get(view.parameters.seq).await?;
        let parameters = parameters.ok_or_else(|| Invalid::new("parameters", "are not kept any more"))?;
        let mut parameters: Value = match parameters.is_empty() {
            true => json!({}),
            false => serde_json::from_slice(&parameters)
                .map_err(|error| Invalid::new("parameters", format!("expected a JSON object: {error}")))?,
        };
        placeholders::fill_in(&mut parameters, &earlier, is_dry_run)?;
        if kind == Kind::Branch {
            self.fetch_files(&mut parameters, &view.tenant).await?;
        }
        let wanted = Wanted {
            id: view.effect.to_string(),
            general: view.general_type.to_string(),
            hash: effect_hash(&self.context.plane_id, &view.tenant, &view.key),
            kind,
            target,
            parameters,
            at: view.intended,
        };
        let repository = &wanted.target.repository;
        let mut is_second = false;
        loop {
            let tried = match account.forge(repository, Need::Carry(kind), is_dry_run).await {
                Ok(forge) => carry_out(&forge, &wanted).await,
                Err(error) => Err(EffectFailure::Forge(error)),
            };
            match tried {
                // What was kept may have been revoked meanwhile.
                Err(EffectFailure::Forge(ForgeError::Unauthorised { .. })) if !is_second => {
                    account.forget(repository);
                    is_second = true;
                }
                // What was made a moment ago need not be known everywhere yet.
                Err(EffectFailure::Forge(error @ ForgeError::NotFound { .. })) if is_filled && view.attempts < 3 => {
                    return Err(Stop::Later(error.to_string()));
                }
                Err(error) => {
                    if matches!(error, EffectFailure::Forge(ForgeError::NotFound { .. } | ForgeError::Refused { .. })) {
                        account.forget(repository);
                    }
                    return Err(error.into());
                }
                Ok(outcome) => return Ok(outcome),
            }
        }
    }

    /// An effect goes to the repository of its event, or to one that the settings name, and never to another tenant's.
    async fn may_touch(
        &self,
        view: &EffectView,
        repository: &Repository,
        settings: &super::settings::EffectSettings,
        github: &super::settings::Github,
    ) -> Result<(), Stop> {
        if !github.lets(&view.tenant, repository) {
            let reason =
                format!("tenant {} may not touch {repository}: see `github.tenants` in the settings", view.tenant);
            return Err(Invalid::new("target", reason).into());
        }
        if settings.lets_elsewhere(repository) {
            return Ok(());
        }
        let Some(event) = self.context.payloads.get(view.event).await? else {
            let reason = format!("the event is not kept any more, so it is not known to be about {repository}");
            return Err(Invalid::new("target", reason).into());
        };
        let of_event = extensions(&event).into_iter().find_map(|(name, value)| match value {
            Extension::Text(text) if name == "repository" => Some(text.to_owned()),
            _ => None,
        });
        let is_own = |of_event: &String| Repository::read(of_event).is_some_and(|own| own.is(repository));
        match of_event {
            Some(of_event) if !is_own(&of_event) => {
                let of_event = clean(&of_event, 140);
                let reason =
                    format!("the event is about {of_event}, not {repository}: see `effects.elsewhere` in the settings");
                Err(Invalid::new("target", reason).into())
            }
            // An event about no repository comes from somebody of the tenant, not from a forge.
            _ => Ok(()),
        }
    }

    /// Puts the files in the place of the reference to them.
    async fn fetch_files(&self, parameters: &mut Value, tenant: &TenantName) -> Result<(), Stop> {
        let Some(members) = parameters.as_object_mut() else { return Ok(()) };
        let Some(reference) = members.remove("files_ref").filter(|value| !value.is_null()) else { return Ok(()) };
        let wrong = |reason: &'static str| Invalid::new("files_ref", reason);
        if members.get("files").is_some_and(|files| !files.is_null()) {
            return Err(wrong("stands beside `files`: expected one of them").into());
        }
        let blob = reference.as_str().and_then(|text| text.parse::<BlobRef>().ok());
        let blob = blob.ok_or_else(|| wrong("expected `blob:sha256:` and 64 hex digits"))?;
        let (store, tenant) = (Arc::clone(&self.context.blobs), tenant.clone());
        let read = self.context.blocking(move |_| -> Result<Result<Value, &'static str>, BlobError> {
            const NONE: &str = "names no blob of the tenant of at most 8 MiB";
            let found = if store.is_of(&blob, &tenant)? { store.read(&blob, 0)? } else { None };
            let Some((_, reader)) = found.filter(|(info, _)| info.length <= FILES_BYTES_MAX) else {
                return Ok(Err(NONE));
            };
            let files = serde_json::from_reader::<_, Value>(std::io::BufReader::new(reader.take(FILES_BYTES_MAX)));
            Ok(files.ok().filter(Value::is_array).ok_or("expected a blob that holds a list in JSON"))
        });
        let read = read.await.map_err(|status| Stop::Later(status.message().to_owned()))?;
        let files = read.map_err(|error| Stop::Later(format!("failed to read the files: {}", Chain(&error))))?;
        members.insert("files".to_owned(), files.map_err(wrong)?);
        Ok(())
    }
}

/// Why a try ended early.
enum Stop {
    Failure(EffectFailure),
    /// Something of ours was not there.
    Later(String),
}

impl From<EffectFailure> for Stop {
    fn from(failure: EffectFailure) -> Stop {
        Stop::Failure(failure)
    }
}

impl From<Invalid> for Stop {
    fn from(invalid: Invalid) -> Stop {
        Stop::Failure(invalid.into())
    }
}

impl From<Unread> for Stop {
    fn from(unread: Unread) -> Stop {
        Stop::Later(unread.to_string())
    }
}

/// As much of what was observed as is recorded.
fn bounded(observed: Value) -> Arc<str> {
    let text = observed.to_string();
    if text.len() <= EFFECT_OBSERVED_MAX {
        return Arc::from(text);
    }
    // What others name, and what fits.
    let mut kept = Map::new();
    for name in ["action", "number", "url", "sha", "id"] {
        if let Some(value) = observed.get(name).filter(|value| value.to_string().len() <= 700) {
            kept.insert(name.to_owned(), value.clone());
        }
    }
    kept.insert("cut".to_owned(), json!(true));
    Arc::from(Value::Object(kept).to_string())
}
