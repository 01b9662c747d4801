//! Contexts: the control planes that a person works with, and how to sign in at each, in one file.
//!
//! ```yaml
//! current: prod
//! contexts:
//!   prod: {endpoint: "https://mindos.example.com:8090", ca: /etc/mindos/ca.pem, tenant: acme, token: ".."}
//! ```
//! Invariants: the file is its owner's alone (mode 0600), or it is not used; no secret of it is ever printed; it changes as a whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mindos_model::{Secret, TenantName, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::failure::Failure;

/// Bytes of the file.
const BYTES_MAX: u64 = 1 << 20;
/// Contexts in the file.
const CONTEXTS_MAX: usize = 1000;

/// A secret that stands in the file, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept(pub(crate) Secret);

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kept, D::Error> {
        String::deserialize(deserializer).map(|text| Kept(Secret::new(text)))
    }
}

/// How a token of an identity provider is had anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer_ca: Option<PathBuf>,
    /// Whether the access token is shown, and not the ID token.
    #[serde(default)]
    pub(crate) access_token: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<Kept>,
    /// When the token ends, in milliseconds since the epoch.
    pub(crate) expires_at_ms: u64,
}

impl Login {
    /// When the token ends.
    pub(crate) fn expires(&self) -> Timestamp {
        Timestamp(self.expires_at_ms)
    }
}

/// A control plane, and how to sign in there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) endpoint: String,
    /// Who vouches for its certificate; whom the machine trusts when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// For those who have roles in several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<TenantText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Kept>,
    /// File that holds the token, read at each command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Where the token came from, if from an identity provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<Login>,
}

impl Context {
    pub(crate) fn new(endpoint: String) -> Context {
        Context { endpoint, ca: None, tenant: None, token: None, token_file: None, login: None }
    }

    /// Forgets how to sign in; true where there was something to forget.
    pub(crate) fn forget(&mut self) -> bool {
        let known = self.token.is_some() || self.token_file.is_some() || self.login.is_some();
        (self.token, self.token_file, self.login) = (None, None, None);
        known
    }
}

/// A tenant's name, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TenantText(pub(crate) TenantName);

impl Serialize for TenantText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for TenantText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TenantText, D::Error> {
        let text = String::deserialize(deserializer)?;
        TenantName::new(&text).map(TenantText).map_err(serde::de::Error::custom)
    }
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Where the file is: `MINDOS_CONFIG`, else below `XDG_CONFIG_HOME`, else below `~/.config`.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = var("MINDOS_CONFIG") {
            return Ok(path);
        }
        let base = var("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let base = base.or_else(|| var("HOME").map(|home| home.join(".config")));
        base.map(|base| base.join("mindos").join("config.yaml"))
            .ok_or_else(|| Failure::usage("no place for contexts: set HOME, or name a file with MINDOS_CONFIG"))
    }

    /// Reads the file; nothing is in one that is not there.
    pub(crate) fn load() -> Result<Contexts, Failure> {
        match Contexts::path() {
            Ok(path) => Contexts::read(&path),
            // A service without a home has no contexts, and needs none.
            Err(_) => Ok(Contexts::default()),
        }
    }

    fn read(path: &Path) -> Result<Contexts, Failure> {
        let shown = path.display();
        let failed = |error: std::io::Error| Failure::usage(format!("failed to read `{shown}`: {error}"));
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(failed(error)),
        };
        // Of the open file, so that it cannot be another one by the time it is read.
        let data = file.metadata().map_err(failed)?;
        if !data.is_file() {
            return Err(Failure::usage(format!("`{shown}` is not a file")));
        }
        if data.mode() & 0o077 != 0 {
            let mode = data.mode() & 0o777;
            let message = format!("`{shown}` is not used: others may read or change it (mode {mode:04o})");
            return Err(Failure::usage(message)
                .hint(format!("run `chmod 600 {shown}`; whoever could read it may have its tokens")));
        }
        let me = rustix::process::geteuid();
        if data.uid() != me.as_raw() {
            return Err(Failure::usage(format!("`{shown}` is not used: it belongs to another user")));
        }
        if data.len() > BYTES_MAX {
            return Err(Failure::usage(format!("`{shown}` has more than 1 MiB")));
        }
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        if text.trim().is_empty() {
            return Ok(Contexts::default());
        }
        // What is wrong is not repeated: it may be a token.
        serde_norway::from_str(&text).map_err(|error| {
            let at = error.location().map(|at| format!(", line {}", at.line())).unwrap_or_default();
            let fields = "endpoint, ca, tenant, token, token_file and login";
            Failure::usage(format!("`{shown}` is not understood{at}: expected `current`, and `contexts` of {fields}"))
        })
    }

    /// Writes the file, as a whole.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        self.write(&Contexts::path()?)
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        if self.contexts.len() > CONTEXTS_MAX {
            return Err(Failure::usage(format!("there are more than {CONTEXTS_MAX} contexts")));
        }
        let shown = path.display();
        let failed = |error: std::io::Error| Failure::world(format!("failed to write `{shown}`: {error}"));
        let text = serde_norway::to_string(self).map_err(|_| Failure::world(format!("failed to write `{shown}`")))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        // A link stays a link: what it leads to is written.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let next = path.with_extension(format!("{}.tmp", std::process::id()));
        let _ = fs::remove_file(&next);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &path)
        })();
        written.map_err(|error| {
            let _ = fs::remove_file(&next);
            failed(error)
        })
    }

    /// One of them by name.
    pub(crate) fn named(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "there is none yet".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            Failure::not_found(format!("context {name} is not known: {known}"))
                .hint(format!("make it with `mindos contexts set {name} --endpoint https://HOST:PORT`"))
        })
    }
}

/// A name for a context: the alphabet of other names, so that it needs no quotes.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits { Ok(text.to_owned()) } else { Err("expected 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`".to_owned()) }
}

/// Reads a token from a file; white space around it does not count.
pub(crate) fn token_in(path: &Path) -> Result<Secret, Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| Failure::usage(format!("failed to read the token in `{shown}`: {error}"));
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(64 << 10).read_to_string(&mut text).map_err(failed)?;
    let token = Secret::new(text);
    if token.is_empty() {
        return Err(Failure::usage(format!("`{shown}` holds no token: it is empty")));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample() -> Contexts {
        let mut context = Context::new("https://mindos.example.com:8090".to_owned());
        context.token = Some(Kept(Secret::new("mindos_api_hush")));
        context.tenant = Some(TenantText(TenantName::new("acme").unwrap()));
        context.login = Some(Login {
            issuer: "https://login.example.com".to_owned(),
            client_id: "mindos".to_owned(),
            issuer_ca: None,
            access_token: false,
            refresh_token: Some(Kept(Secret::new("hush-too"))),
            expires_at_ms: 5,
        });
        Contexts { current: Some("prod".to_owned()), contexts: BTreeMap::from([("prod".to_owned(), context)]) }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("mindos-contexts-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn contexts_are_their_owners_alone_and_come_back() {
        let folder = Folder::new("back");
        let path = folder.0.join("mindos").join("config.yaml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        sample().write(&path).unwrap();
        sample().write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), sample());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let shown = format!("{:?}", sample());
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let folder = Folder::new("modes");
        let path = folder.0.join("config.yaml");
        sample().write(&path).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let failure = Contexts::read(&path).unwrap_err();
            assert!(failure.message.contains(&format!("mode {mode:04o}")), "{failure}");
            assert!(failure.hint.unwrap().contains("chmod 600"));
        }
        // Written again, it is in order.
        sample().write(&path).unwrap();
        assert!(Contexts::read(&path).is_ok());
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_and_not_repeated() {
        let folder = Folder::new("wrong");
        let path = folder.0.join("config.yaml");
        Contexts::default().write(&path).unwrap();
        for bad in [
            "contexts: hush",
            "contexts: {a: {endpoint: x, token: {hush: 1}}}",
            "contexts: {a: {endpoint: x, hush: 1}}",
            "contexts: {a: {token: hush}}",
            "contexts: {a: {endpoint: x, tenant: 'HUSH hush'}}",
            "hush",
        ] {
            fs::write(&path, bad).unwrap();
            let failure = Contexts::read(&path).unwrap_err();
            assert!(failure.message.contains("is not understood") && !failure.message.contains("hush"), "{failure}");
        }
    }

    #[test]
    fn names_need_no_quotes() {
        for good in ["prod", "eu-1", "A.b_c"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", &"x".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
