//! Who owns which files, as a CODEOWNERS file says it.

/// Longest file that is read, in bytes: GitHub's limit.
const OWNERS_MAX: usize = 3 << 20;
/// Most rules kept.
const RULES_MAX: usize = 10_000;

/// The rules of a CODEOWNERS file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(Vec<(String, Vec<String>)>);

impl Owners {
    /// Where GitHub looks for the file, in its order.
    pub const PLACES: [&str; 3] = [".github/CODEOWNERS", "CODEOWNERS", "docs/CODEOWNERS"];

    /// Reads the file. Lines that are not rules are left out, as on GitHub.
    #[must_use]
    pub fn parse(text: &str) -> Owners {
        let rule = |line: &str| {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with(['#', '!', '[']) {
                return None;
            }
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.map(str::to_owned).collect()))
        };
        let mut end = text.len().min(OWNERS_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Owners(text[..end].lines().filter_map(rule).take(RULES_MAX).collect())
    }

    /// The owners of a file: those of the last rule that fits. Empty where nobody owns it.
    #[must_use]
    pub fn of(&self, path: &str) -> &[String] {
        self.0.iter().rev().find(|(pattern, _)| fits(pattern, path)).map_or(&[], |(_, owners)| owners)
    }
}

/// A pattern as in `.gitignore`: `*` within a folder, `**` through folders, a slash at its begin or middle ties it to the root.
pub(crate) fn fits(pattern: &str, path: &str) -> bool {
    let tied = pattern.trim_end_matches('/').contains('/');
    let folder = pattern.ends_with('/');
    let bare = pattern.trim_start_matches('/').trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let wanted: Vec<&str> = bare.split('/').collect();
    let starts = if tied { 0..1 } else { 0..parts.len() };
    starts.into_iter().any(|start| {
        // A pattern that names a folder covers all in it; `docs/*` covers files right in it alone.
        let last_is_star = wanted.last() == Some(&"*") && wanted.len() > 1;
        (start + 1..=parts.len())
            .filter(|end| if last_is_star { *end == parts.len() } else { !folder || *end < parts.len() })
            .any(|end| path_fits(&wanted, &parts[start..end]))
    })
}

fn path_fits(wanted: &[&str], parts: &[&str]) -> bool {
    // Which beginnings of `parts` the part of the pattern so far fits.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    for part in wanted {
        let mut next = vec![false; parts.len() + 1];
        if *part == "**" {
            let first = reached.iter().position(|it| *it).unwrap_or(next.len());
            next[first..].fill(true);
        } else {
            for at in 0..parts.len() {
                next[at + 1] = reached[at] && name_fits(part.as_bytes(), parts[at].as_bytes());
            }
        }
        reached = next;
    }
    reached[parts.len()]
}

/// `*` and `?` within a name, in time that grows with the product of both lengths at most.
fn name_fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut on) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while on < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, on));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[on] => (at, on) = (at + 1, on + 1),
            _ => match star {
                Some((back, seen)) => {
                    star = Some((back, seen + 1));
                    (at, on) = (back + 1, seen + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_counts() {
        let owners = Owners::parse(
            "# all\n*       @all\n*.js    @js # scripts\n/build/logs/ @logs\ndocs/*  docs@example.com\napps/   @apps\n/scripts/**/*.sh @sh\n/free/\n!no @x\n",
        );
        for (path, owner) in [
            ("README", "@all"),
            ("a/b/c.js", "@js"),
            ("build/logs/x/y", "@logs"),
            ("x/build/logs/y", "@all"),
            ("docs/a.md", "docs@example.com"),
            ("docs/deep/a.md", "@all"),
            ("x/apps/a/b", "@apps"),
            ("scripts/a.sh", "@sh"),
            ("scripts/a/b/c.sh", "@sh"),
        ] {
            assert_eq!(owners.of(path), [owner], "{path}");
        }
        assert!(owners.of("free/x").is_empty() && Owners::default().of("x").is_empty());
    }

    #[test]
    fn patterns_of_stars_take_no_time_worth_mentioning() {
        assert!(!fits(&"*a".repeat(200), &"a".repeat(5000).replace("aaaaa", "aaab/")));
        assert!(fits("**/x", "a/b/x") && fits("a/**", "a/b/c") && !fits("a/**/z", "a/b"));
    }
}
