//! What the settings file says of anchors.
//!
//! ```yaml
//! anchors:
//!   - {file: /mnt/worm/mindos-checkpoints}
//!   - {webhook: "https://notary.example.com/mindos", secret: "whsec_.."}
//! ```

use std::path::PathBuf;

use serde::Deserialize;

use crate::ingest::base64;
use crate::sinks::Post;
use crate::sinks::settings::Format;
use mindos_outgoing::Target;

/// Anchors at a time.
const ANCHORS_MAX: usize = 8;

/// An anchor as the settings file has it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorSetting {
    file: Option<PathBuf>,
    webhook: Option<String>,
    #[serde(default)]
    insecure: bool,
    secret: Option<String>,
    previous: Option<String>,
}

/// Where checkpoints are noted.
#[derive(Clone, Debug, PartialEq)]
pub enum Anchor {
    File(PathBuf),
    Webhook(Box<Post>),
}

impl Anchor {
    /// What may be shown of it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Anchor::File(path) => path.display().to_string(),
            Anchor::Webhook(post) => post.target.origin(),
        }
    }
}

/// Checks all anchors.
///
/// # Errors
/// Names the field and what is accepted.
pub fn anchors(settings: &[AnchorSetting]) -> Result<Vec<Anchor>, String> {
    if settings.len() > ANCHORS_MAX {
        return Err(format!("`anchors` has {} anchors: at most {ANCHORS_MAX} are taken", settings.len()));
    }
    let one =
        |(at, setting): (usize, &AnchorSetting)| anchor(setting).map_err(|error| format!("`anchors[{at}]{error}"));
    settings.iter().enumerate().map(one).collect()
}

fn anchor(setting: &AnchorSetting) -> Result<Anchor, String> {
    let AnchorSetting { file, webhook, insecure, secret, previous } = setting;
    match (file, webhook) {
        (Some(path), None) if path.as_os_str().is_empty() => Err(".file`: is empty: expected a path".to_owned()),
        (Some(_), None) if secret.is_some() || previous.is_some() => Err(".secret`: is for a `webhook`".to_owned()),
        (Some(path), None) => Ok(Anchor::File(path.clone())),
        (None, Some(url)) => {
            let Some(secret) = secret else { return Err(".secret`: is needed for a `webhook`".to_owned()) };
            let key = |text: &String| match text.strip_prefix("whsec_") {
                None => Some(text.clone().into_bytes()),
                Some(coded) => base64::decode(coded),
            };
            let keys: Option<Vec<Vec<u8>>> = [secret].into_iter().chain(previous).map(key).collect();
            let keys = keys.ok_or_else(|| ".secret`: has no base64 behind `whsec_`".to_owned())?;
            if keys.iter().any(Vec::is_empty) {
                return Err(".secret`: is empty".to_owned());
            }
            let target = Target::parse(url, *insecure).map_err(|error| format!(".webhook`: {error}"))?;
            let headers = http::HeaderMap::new();
            Ok(Anchor::Webhook(Box::new(Post { target, format: Format::Webhook, keys, headers })))
        }
        (Some(_), Some(_)) | (None, None) => Err("`: expected either `file` or `webhook`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Vec<Anchor>, String> {
        anchors(&serde_norway::from_str::<Vec<AnchorSetting>>(yaml).unwrap())
    }

    #[test]
    fn anchors_are_files_or_signed_webhooks() {
        let read_two = read(r#"[{file: /a}, {webhook: "https://b.example", secret: x}]"#).unwrap();
        assert_eq!(read_two.iter().map(Anchor::name).collect::<Vec<_>>(), ["/a", "https://b.example"]);
        for (yaml, word) in [
            ("[{}]", "expected either `file` or `webhook`"),
            ("[{file: /a, webhook: 'https://b.example'}]", "expected either"),
            ("[{webhook: 'https://b.example'}]", "secret`: is needed"),
            ("[{webhook: 'http://b.example', secret: x}]", "webhook`"),
            ("[{file: /a, secret: x}]", "is for a `webhook`"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.starts_with("`anchors[0]") && error.contains(word), "{error}");
        }
    }
}
