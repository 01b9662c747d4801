//! Where the programs of a cluster are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Folder that `.ci/kube/build.sh` printed.
const FOLDER: &str = "MINDOS_KUBE_ASSETS";
/// Folder as setup-envtest fills it.
const KUBEBUILDER: &str = "KUBEBUILDER_ASSETS";

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
    /// Minor version of the API server: 20 of 1.20.
    pub minor: u32,
}

impl Assets {
    /// Finds them by `MINDOS_KUBE_ASSETS`, else by `KUBEBUILDER_ASSETS`.
    ///
    /// # Errors
    /// When neither is set, or the folder lacks a program.
    pub fn find() -> Result<Assets> {
        let folder = std::env::var_os(FOLDER).or_else(|| std::env::var_os(KUBEBUILDER)).with_context(|| {
            format!("{FOLDER} is not set: it names the folder that `.ci/kube/build.sh CACHE_DIR` prints")
        })?;
        let mut assets = Assets { folder: folder.into(), minor: 0 };
        for program in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"] {
            let path = assets.program(program);
            ensure!(path.is_file(), "there is no {}: `.ci/kube/build.sh CACHE_DIR` makes it", path.display());
        }
        assets.minor = minor(&assets.program("kube-apiserver"))?;
        Ok(assets)
    }

    /// The path of one.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The program that stands in for a kubelet.
///
/// # Errors
/// When this is not run from a checkout.
pub fn kubelet() -> Result<PathBuf> {
    checkout(".ci/kube/fake_kubelet.py")
}

/// A path of the checkout that this was built from.
///
/// # Errors
/// When it is not there.
pub fn checkout(path: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    path.canonicalize().with_context(|| format!("there is no {}", path.display()))
}

/// `Kubernetes v1.20.2` gives 20.
fn minor(server: &Path) -> Result<u32> {
    let output = Command::new(server).arg("--version").output().context("failed to ask kube-apiserver's version")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let minor = said.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.with_context(|| format!("kube-apiserver says that its version is `{}`", said.trim()))
}
