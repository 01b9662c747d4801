//! What the scenarios of one run share: a cluster, and a second one for those who need two.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// A folder with clusters. All of it goes when this is dropped.
#[derive(Debug)]
pub struct Bed {
    folder: PathBuf,
    first: Cluster,
    second: Option<Cluster>,
}

impl Bed {
    /// Starts the first cluster, named `eu`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> Result<Bed> {
        let folder = std::env::temp_dir().join(format!("mindos-kube-{}", std::process::id()));
        let first = Cluster::start(&folder, "eu").await?;
        Ok(Bed { folder, first, second: None })
    }

    /// The folder: a scenario makes one of its own in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder of this name in the bed's, made now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder_of(&self, scenario: &str) -> Result<PathBuf> {
        let folder = self.folder.join(scenario);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        Ok(folder)
    }

    /// The first cluster, `eu`.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.first
    }

    /// The first cluster, to hurt it.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.first
    }

    /// Both clusters, `eu` and `us`; the second is started when it is first asked for.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn both(&mut self) -> Result<(&mut Cluster, &mut Cluster)> {
        if self.second.is_none() {
            self.second = Some(Cluster::start(&self.folder, "us").await?);
        }
        let second = self.second.as_mut().context("a second cluster")?;
        Ok((&mut self.first, second))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !std::thread::panicking() && std::env::var_os("MINDOS_E2E_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
