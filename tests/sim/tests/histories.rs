//! Journals of every release lead where they led when they were written.

use std::path::{Path, PathBuf};

use mindos_core::Durable;
use mindos_sim::histories::{STATE, replay, summary};

#[test]
fn journals_of_every_release_are_replayed_to_their_state() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../histories");
    let mut releases: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    releases.retain(|path| path.is_dir());
    releases.sort();
    assert!(!releases.is_empty());
    for release in releases {
        let copy = Copy::of(&release);

        let durable = replay(&copy.0).unwrap();

        let recorded = std::fs::read_to_string(release.join(STATE)).unwrap();
        assert_eq!(summary(&durable), recorded, "{}", release.display());
        assert_eq!(durable.check(), Ok(()));
        assert_eq!(summary(&Durable::import(durable.export())), recorded, "by a snapshot of {}", release.display());
    }
}

/// A copy of a journal, because opening one changes it. Goes away with the test.
struct Copy(PathBuf);

impl Copy {
    fn of(release: &Path) -> Copy {
        let name = release.file_name().unwrap().to_string_lossy();
        let path = std::env::temp_dir().join(format!("mindos-history-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for file in std::fs::read_dir(release).unwrap() {
            let file = file.unwrap();
            if file.file_name() != STATE {
                std::fs::copy(file.path(), path.join(file.file_name())).unwrap();
            }
        }
        Copy(path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
