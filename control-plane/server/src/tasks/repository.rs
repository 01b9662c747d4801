//! Names that a task gives to git: the address of a repository, and branches.
//!
//! Invariant: an address that passes has no credentials in it and names one repository of one host; a branch that passes is one to git
//! and no option of a command.

use super::task::TaskError;

/// The longest `owner/name`, in bytes.
const NAME_MAX: usize = 256;
/// The longest branch, in bytes, as GitHub has it.
const BRANCH_MAX: usize = 255;

/// The address as it is kept, and `owner/name`.
pub(super) fn repository(address: &str) -> Result<(String, String), TaskError> {
    let bad = |reason: &str| Err(TaskError::new("repo_url", reason));
    const EXPECTED: &str = "expected an http(s) address of a repository, such as https://github.com/octocat/hello";
    let address = address.trim();
    let lower = address.get(..8).unwrap_or(address).to_ascii_lowercase();
    let scheme = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else { return bad(EXPECTED) };
    let Some((host, path)) = address[scheme.len()..].split_once('/') else { return bad(EXPECTED) };
    if host.contains('@') {
        return bad("holds a user name or a password: expected an address without");
    }
    let is_host = !host.is_empty()
        && !host.starts_with(['-', '.', ':'])
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'));
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(['-', '.'])
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    if !is_host || path.len() > NAME_MAX || path.split('/').count() < 2 || !path.split('/').all(is_word) {
        return bad(EXPECTED);
    }
    Ok((format!("{scheme}{}/{path}", host.to_ascii_lowercase()), path.to_owned()))
}

/// Checks that a text is the name of a branch, by the rules of `git check-ref-format`.
pub(super) fn branch(field: &str, name: &str) -> Result<(), TaskError> {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let is_plain =
        |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let is_branch = (1..=BRANCH_MAX).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('.')
        && name != "@"
        && !name.contains("..")
        && !name.contains("@{")
        && name.chars().all(is_plain)
        && name.split('/').all(is_part);
    match is_branch {
        true => Ok(()),
        false => Err(TaskError::new(field, "expected the name of a branch")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_one_repository_and_hold_no_credentials() {
        for (address, kept, name) in [
            ("https://github.com/o/n", "https://github.com/o/n", "o/n"),
            ("HTTPS://GitHub.com/O/n.git/", "https://github.com/O/n", "O/n"),
            ("http://127.0.0.1:8080/o/n.git", "http://127.0.0.1:8080/o/n", "o/n"),
            ("https://gitlab.example.com/a/b/c", "https://gitlab.example.com/a/b/c", "a/b/c"),
        ] {
            assert_eq!(repository(address), Ok((kept.to_owned(), name.to_owned())), "{address}");
        }
        for address in [
            "",
            "https://",
            "https://github.com",
            "https://github.com/o",
            "https://github.com/o//n",
            "https://github.com/o/n?x=1",
            "https://github.com/o/n#readme",
            "https://github.com/../n",
            "https://github.com/-o/n",
            "https://github.com/o/n;rm",
            "https://tok@github.com/o/n",
            "ssh://git@github.com/o/n",
            "file:///etc/passwd",
            "https://git hub.com/o/n",
            "ähttps://github.com/o/n",
        ] {
            assert!(repository(address).is_err(), "{address}");
        }
    }

    #[test]
    fn branches_are_those_that_git_takes() {
        for name in ["main", "ai-agent/issue-7", "feature/ä", "v1.2"] {
            assert_eq!(branch("b", name), Ok(()), "{name}");
        }
        for name in
            ["", "-f", "a b", "a..b", "a.lock", ".a", "a/.b", "a/", "/a", "a~1", "a:b", "@", "a@{1}", "a\n", "a."]
        {
            assert!(branch("b", name).is_err(), "{name}");
        }
    }
}
