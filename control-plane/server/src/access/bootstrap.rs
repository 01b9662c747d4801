//! The first credential: where access is enforced and nobody could administer the plane, an API token is made that can.
//!
//! Its text goes into a file of the data directory that its owner alone can read, and nowhere else. It is written
//! under another name before the token is on record, and gets its own once the token works. Invariants: a token that works is never
//! lost, and one that is found in the file works.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mindos_core::access::{AccessChange, Scope, TokenHash};
use mindos_core::input::Input;
use mindos_core::output::Reply;
use mindos_core::route::Pattern;
use mindos_model::{Role, Timestamp};
use tracing::{error, info};

use super::secret::{API_PREFIX, TokenText, hash};
use super::view::{AccessView, Known};
use crate::driver::{CallError, Handle};
use crate::logging::Chain;

/// Name of the file in the data directory.
pub const FILE: &str = "admin-token";
/// How long the token is good.
const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Who made it, for the ledger.
const BY: &str = "plane";

/// Why there is no first credential.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the system gave no random bytes")]
    Random(#[source] getrandom::Error),
    #[error("failed to write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("the plane did not take the token")]
    Refused(#[from] CallError),
}

/// Makes the first credential, where there is none. Says in the log what went wrong: the server serves all the same.
pub async fn run(view: Arc<AccessView>, handle: Handle, data_dir: PathBuf) {
    handle.begun().await;
    match ensure(&view, &handle, &data_dir).await {
        Ok(None) => {}
        Ok(Some(path)) => info!(path = %path.display(), "API token of the plane's admin written"),
        Err(error) => error!(error = %Chain(&error), "nobody can administer the plane"),
    }
}

async fn ensure(view: &AccessView, handle: &Handle, data_dir: &Path) -> Result<Option<PathBuf>, BootstrapError> {
    let now = handle.now();
    let path = data_dir.join(FILE);
    if has_admin(&view.load(), now) {
        let (known, at) = (view.load(), path.clone());
        // A process before this one may have ended between the record and the name.
        let is_left = move || match read(&aside(&at))? {
            Some(hash) if known.access.api_token_by_hash(&hash).is_some() => publish(&at).map(|()| true),
            _ => Ok(false),
        };
        let left = blocking(is_left).await.map_err(|source| BootstrapError::Write { path: path.clone(), source })?;
        return Ok(left.then_some(path));
    }
    let text = TokenText::random(API_PREFIX).map_err(BootstrapError::Random)?;
    let hash = text.hash();
    let failed = |source| BootstrapError::Write { path: path.clone(), source };
    let at = path.clone();
    blocking(move || write(&aside(&at), &text)).await.map_err(failed)?;
    let change = Box::new(AccessChange::CreateApiToken {
        name: Arc::from("admin of the plane, made at the start"),
        hash,
        scope: Scope::Plane,
        roles: vec![Role::Admin],
        sources: Vec::<Pattern>::new(),
        expires: now + LIFE,
    });
    let (by, from) = (Arc::from(BY), Arc::from(""));
    let make = |request| Input::Access { request, within: Scope::Plane, change, by, from };
    if let Reply::TokenMade { id } = handle.call(make).await? {
        view.seen(mindos_model::Seq(id.0)).await;
    }
    let at = path.clone();
    blocking(move || publish(&at)).await.map_err(failed)?;
    Ok(Some(path))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Where the token stands until it works.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Whether anybody could administer the plane.
fn has_admin(known: &Known, now: Timestamp) -> bool {
    let is_admin = |scope: &Scope, roles: &[Role]| *scope == Scope::Plane && roles.contains(&Role::Admin);
    let mut tokens = known.access.api_tokens().filter(|token| token.expires > now);
    tokens.any(|token| is_admin(&token.scope, &token.roles))
        || known.access.bindings().any(|binding| is_admin(&binding.scope, &[binding.role]))
}

/// Writes a file anew: only its owner may read it, also while it is written.
fn write(path: &Path, text: &TokenText) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.reveal().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    sync_folder(path)
}

/// Gives what stands aside its name.
fn publish(path: &Path) -> io::Result<()> {
    fs::rename(aside(path), path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The hash of the token that stands there; `None` where there is nothing.
fn read(path: &Path) -> io::Result<Option<TokenHash>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(hash(text.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let text = TokenText::random(API_PREFIX).unwrap();
        fs::write(aside(&path), "older").unwrap();
        write(&aside(&path), &text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(read(&aside(&path)).unwrap(), Some(text.hash()));
        publish(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", text.reveal()));
        assert!(read(&aside(&path)).unwrap().is_none());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
