//! What `git log` says of commits, in a form of our own asking.
//!
//! All is split by NUL, which no text of git holds: a mark, six fields, then the files that the commit touched, each of which has a
//! tab, so that neither a message nor a file's name can pass for the next commit.

use mindos_model::Timestamp;

use super::{COMMITS_MAX, Commit, FileKind, Touched};

/// The format that [`parse`] reads, for `git log -z --numstat -M`.
pub(crate) const FORMAT: &str = "--format=%x1e%x00%H%x00%P%x00%an%x00%ae%x00%aI%x00%B%x00";
const MARK: &str = "\u{1e}";
/// Longest message kept, in bytes.
pub(crate) const MESSAGE_MAX: usize = 16 << 10;
/// Most files of one commit that are kept.
const TOUCHED_MAX: usize = 5000;

/// Reads what git wrote in [`FORMAT`], newest first; gives the commits oldest first. The flag says whether some were left out.
pub(crate) fn parse(log: &[u8]) -> (Vec<Commit>, bool) {
    let text = String::from_utf8_lossy(log);
    let mut parts = text.split('\0').map(|part| part.trim_start_matches('\n')).peekable();
    let mut commits = Vec::new();
    let mut cut = false;
    while let Some(part) = parts.next() {
        if part != MARK {
            continue;
        }
        let mut fields = || parts.next();
        let (Some(sha), Some(parents), Some(author), Some(email), Some(time), Some(message)) =
            (fields(), fields(), fields(), fields(), fields(), fields())
        else {
            break;
        };
        let mut touched = Vec::new();
        while let Some(part) = parts.next_if(|part| *part != MARK) {
            // `added TAB removed TAB path`; for a new name the path is empty and both names follow.
            let mut columns = part.splitn(3, '\t');
            let (Some(added), Some(removed), Some(path)) = (columns.next(), columns.next(), columns.next()) else {
                continue;
            };
            let lines = added.parse().ok().zip(removed.parse().ok());
            let (path, kind) = match path.is_empty() {
                true => match (parts.next(), parts.next()) {
                    (Some(_), Some(new)) => (new, FileKind::Renamed),
                    _ => break,
                },
                false => (path, FileKind::Modified),
            };
            if touched.len() < TOUCHED_MAX {
                touched.push(Touched { path: path.to_owned(), kind, lines });
            }
        }
        if commits.len() == COMMITS_MAX {
            cut = true;
            break;
        }
        commits.push(Commit {
            sha: sha.to_owned(),
            parents: parents.split(' ').filter(|it| !it.is_empty()).map(str::to_owned).collect(),
            author: author.to_owned(),
            email: email.to_owned(),
            authored: time.parse::<Timestamp>().ok(),
            offset_minutes: offset(time),
            message: clip(message.trim_end(), MESSAGE_MAX).to_owned(),
            touched,
        });
    }
    commits.reverse();
    (commits, cut)
}

/// The beginning of a text, at most `max` bytes of it.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// How far a time's zone is ahead of UTC, in minutes.
pub(crate) fn offset(time: &str) -> Option<i32> {
    if time.ends_with('Z') {
        return Some(0);
    }
    let at = time.len().checked_sub(6)?;
    let zone = time.get(at..)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let minutes = hours.parse::<i32>().ok()?.checked_mul(60)? + minutes.parse::<i32>().ok()?;
    match zone.as_bytes()[0] {
        b'+' => Some(minutes),
        b'-' => Some(-minutes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_oldest_first() {
        let log = "\u{1e}\0b2\0a1 c3\0Ann\0a@x\u{0}2026-01-02T03:04:05+02:00\0Merge\n\nwhy \u{1e}\n\0\0\n3\t1\tsrc/a\0-\t-\ti.png\0\
                   0\t0\t\0\u{1e}\0new\0\u{1e}\0a1\0\0Bob\0b@x\u{0}2026-01-01T00:00:00Z\0first\0\0";
        let (commits, cut) = parse(log.as_bytes());
        assert!(!cut && commits.len() == 2);
        assert_eq!((&*commits[0].sha, commits[0].parents.len(), commits[0].touched.len()), ("a1", 0, 0));
        let merge = &commits[1];
        assert_eq!((merge.parents.len(), merge.title(), merge.offset_minutes), (2, "Merge", Some(120)));
        let touched: Vec<_> = merge.touched.iter().map(|it| (&*it.path, it.lines)).collect();
        assert_eq!(touched, [("src/a", Some((3, 1))), ("i.png", None), ("new", Some((0, 0)))]);
    }

    #[test]
    fn odd_logs_are_survived() {
        for log in [
            "",
            "\u{1e}",
            "\u{1e}\0a\0b",
            "x\0\u{1e}\0a\0b\0c\0d\0e\0f\u{0}1\t2\t\0",
            "é",
            "\u{1e}\0\0\0\0\0\0\0\u{1e}",
        ] {
            let _ = parse(log.as_bytes());
        }
        assert_eq!((offset("é"), offset("2026-01-01T00:00:00-05:30"), offset("")), (None, Some(-330), None));
    }
}
