//! The certificates of a cluster, and kubeconfigs that hold them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// Who signs for a cluster, and the folder where everything is written.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, with the key of service accounts beside it.
    ///
    /// # Errors
    /// When files cannot be written or openssl is missing.
    pub fn new(folder: &Path) -> Result<Authority> {
        let mut params = named("kube-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Authority { folder: folder.to_owned(), issuer };
        authority.write("ca.crt", &authority.issuer.pem())?;
        authority.write("ca.key", &authority.issuer.key().serialize_pem())?;
        // RSA, as clusters in the field have it.
        authority.openssl(&["genrsa", "-out", "sa.key", "2048"])?;
        authority.openssl(&["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"])?;
        Ok(authority)
    }

    /// `<file>.crt` and `<file>.key` of a server on loopback, by these names too.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn server(&self, file: &str, names: &[&str]) -> Result<()> {
        let names = ["127.0.0.1", "localhost"].iter().chain(names).map(|name| (*name).to_owned());
        let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, &params)
    }

    /// `<file>.crt` and `<file>.key` of a client with this user name and group.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let mut params = named(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, &params)
    }

    /// `<file>.kubeconfig` for the server at `url`, with the certificate of `file`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, file: &str, url: &str) -> Result<PathBuf> {
        let at = |ending: &str| self.folder.join(format!("{file}.{ending}")).display().to_string();
        let user = json!({"client-certificate": at("crt"), "client-key": at("key")});
        write_kubeconfig(&self.folder.join(format!("{file}.kubeconfig")), url, &self.folder.join("ca.crt"), user)
    }

    fn sign(&self, file: &str, params: &CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output();
        let output = output.context("failed to run openssl")?;
        ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, user);
    params
}

/// Writes a kubeconfig with one user.
///
/// # Errors
/// When it cannot be written.
pub fn write_kubeconfig(path: &Path, url: &str, ca: &Path, user: serde_json::Value) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "only",
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
        "clusters": [{"name": "only", "cluster": {"server": url, "certificate-authority": ca}}],
        "users": [{"name": "only", "user": user}],
    });
    std::fs::write(path, format!("{config:#}\n")).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path.to_owned())
}
