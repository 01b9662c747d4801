//! How far a sink has come: one small file, replaced as a whole.
//!
//! Invariant: what stands in it was sent and answered; after a crash a little may be sent twice, and nothing is left out.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mindos_model::Seq;

/// A sink's place in the journal.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    /// The journal that the place is in.
    plane_id: String,
}

impl Cursor {
    pub(super) fn new(dir: &Path, name: &str, plane_id: &str) -> Cursor {
        Cursor { path: dir.join(format!("{name}.cursor")), plane_id: plane_id.to_owned() }
    }

    /// The first record that was not sent; `None` for a sink that was never there, or was there with another journal.
    pub(super) fn read(&self) -> io::Result<Option<Seq>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let place = text.trim().split_once(' ').filter(|(plane_id, _)| *plane_id == self.plane_id);
        Ok(place.and_then(|(_, seq)| seq.parse().ok()).map(Seq))
    }

    pub(super) fn write(&self, next: Seq) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = self.path.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{} {}", self.plane_id, next.0)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_for_the_journal_it_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let cursor = Cursor::new(dir.path(), "ops", "j1");
        assert_eq!(cursor.read().unwrap(), None);
        cursor.write(Seq(7)).unwrap();
        cursor.write(Seq(81)).unwrap();
        assert_eq!(Cursor::new(dir.path(), "ops", "j1").read().unwrap(), Some(Seq(81)));
        assert_eq!(Cursor::new(dir.path(), "ops", "j2").read().unwrap(), None);
        cursor.remove().unwrap();
        cursor.remove().unwrap();
        assert_eq!(cursor.read().unwrap(), None);
    }
}
