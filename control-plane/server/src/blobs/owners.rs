//! Whose a blob is: of every tenant that has put its bytes.
//!
//! The same bytes are kept once, whoever puts them, and nobody learns from that who else has them. Beside a blob stands a file with the
//! names of its tenants, one in a line; without that it is of the tenant `default` alone, as all blobs were before there were others.
//! Invariant: a tenant that has not put the bytes is told that they are not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mindos_model::TenantName;

use super::{BlobError, BlobRef, BlobStore, failed};

/// Where the names stand.
pub(super) fn beside(blob: &Path) -> PathBuf {
    blob.with_extension("of")
}

impl BlobStore {
    /// Whether a blob is there for a tenant.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn is_of(&self, blob: &BlobRef, tenant: &TenantName) -> Result<bool, BlobError> {
        let path = self.path(blob);
        Ok(path.exists() && owners(&path)?.iter().any(|owner| owner == tenant.as_str()))
    }

    /// Makes a blob a tenant's too. To be called before a blob that comes new has its name, by who holds [`Self::one_at_a_time`].
    pub(super) fn claim(&self, path: &Path, tenant: &TenantName) -> Result<(), BlobError> {
        let beside = beside(path);
        let is_new = !path.exists() && !beside.exists();
        let mut owners = if is_new { Vec::new() } else { owners(path)? };
        if owners.iter().any(|owner| owner == tenant.as_str()) || is_new && *tenant == TenantName::default_tenant() {
            return Ok(());
        }
        owners.push(tenant.to_string());
        write(path, &owners)
    }

    /// Takes a blob from a tenant; its bytes go with the last one that has it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn disown(&self, blob: &BlobRef, tenant: &TenantName) -> Result<(), BlobError> {
        let path = self.path(blob);
        let _one_at_a_time = self.one_at_a_time();
        if !path.exists() {
            return Ok(());
        }
        let mut owners = owners(&path)?;
        owners.retain(|owner| owner != tenant.as_str());
        if owners.is_empty() { self.remove(blob) } else { write(&path, &owners) }
    }
}

fn write(path: &Path, owners: &[String]) -> Result<(), BlobError> {
    let beside = beside(path);
    let temporary = beside.with_extension("of-new");
    let written = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(owners.join("\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &beside)
    };
    written().map_err(failed("write", &beside))
}

/// The names of the tenants whose a blob is.
fn owners(path: &Path) -> Result<Vec<String>, BlobError> {
    let beside = beside(path);
    match fs::read_to_string(&beside) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![TenantName::default_tenant().to_string()]),
        Err(error) => Err(failed("read", &beside)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Announced, Stored};
    use super::*;

    fn put(store: &BlobStore, tenant: Option<&str>) -> Stored {
        let tenant = tenant.map(|name| name.parse().unwrap());
        let mut writer = store.begin(Announced { tenant, ..Announced::default() }).unwrap();
        writer.write(b"abc").unwrap();
        writer.finish().unwrap()
    }

    fn is_of(store: &BlobStore, blob: &BlobRef, tenant: &str) -> bool {
        store.is_of(blob, &tenant.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_blob_is_there_for_who_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path(), 100).unwrap();
        let first = put(&store, Some("acme"));
        assert!(is_of(&store, &first.blob, "acme") && !is_of(&store, &first.blob, "default"));
        let second = put(&store, None);
        assert!(!second.existed, "somebody else has it, which is not to be told");
        assert!(is_of(&store, &first.blob, "default") && !is_of(&store, &first.blob, "other"));
        assert!(put(&store, Some("acme")).existed);
        assert_eq!(store.used(), 3, "its bytes are kept once");
        assert!(store.remove_if(&first.blob, |_| true).unwrap());
        assert!(!is_of(&store, &first.blob, "acme"));
        assert!(!put(&store, None).existed && !is_of(&store, &first.blob, "acme"), "nothing of it is remembered");
    }

    #[test]
    fn bytes_go_with_the_last_tenant_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path(), 100).unwrap();
        let blob = put(&store, Some("acme")).blob;
        put(&store, None);
        store.disown(&blob, &"acme".parse().unwrap()).unwrap();
        assert!(is_of(&store, &blob, "default") && !is_of(&store, &blob, "acme"));
        store.disown(&blob, &"other".parse().unwrap()).unwrap();
        assert!(is_of(&store, &blob, "default"));
        store.disown(&blob, &TenantName::default_tenant()).unwrap();
        assert!(store.stat(&blob).unwrap().is_none() && store.used() == 0);
        store.disown(&blob, &TenantName::default_tenant()).unwrap();
    }

    #[test]
    fn a_blob_from_before_there_were_tenants_is_that_of_the_default_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path(), 100).unwrap();
        let old = put(&store, None);
        assert!(!beside(&store.path(&old.blob)).exists());
        put(&store, Some("acme"));
        assert!(is_of(&store, &old.blob, "default") && is_of(&store, &old.blob, "acme"));
    }
}
