//! Webhook payloads of a folder, made into what GitHub sends: minified, signed, with an id.
//!
//! Invariant: the same file gives the same delivery id, so that a second replay is recognised as one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhook {
    /// The file it comes from.
    pub(crate) file: String,
    /// `X-GitHub-Event`: the part of the file's name before the first dot.
    pub(crate) event: String,
    /// `X-GitHub-Delivery`.
    pub(crate) delivery: String,
    /// The body, minified.
    pub(crate) body: Bytes,
}

impl Webhook {
    /// `X-Hub-Signature-256` under a secret.
    pub(crate) fn signature(&self, secret: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length is one");
        mac.update(&self.body);
        format!("sha256={}", hex(&mac.finalize().into_bytes()))
    }

    /// The headers GitHub sends with it.
    pub(crate) fn headers(&self, secret: &str) -> Vec<(&'static str, String)> {
        vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", "GitHub-Hookshot/mindos".to_owned()),
            ("x-github-event", self.event.clone()),
            ("x-github-delivery", self.delivery.clone()),
            ("x-hub-signature-256", self.signature(secret)),
        ]
    }
}

/// Reads every `<event>.<action>[.n].json` of a folder, by name. `salt` makes other delivery ids of the same files.
pub(crate) fn read_folder(folder: &Path, salt: &str) -> Result<Vec<Webhook>, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::usage(format!("cannot read {}: {error}", path.display())).hint("--replay takes a folder of JSON files")
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::not_found(format!("{} holds no .json files", folder.display()))
            .hint("files are named <event>.<action>.json, such as pull_request.opened.json"));
    }
    paths.iter().map(|path| read(path, salt)).collect()
}

fn read(path: &Path, salt: &str) -> Result<Webhook, Failure> {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes =
        std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let event = file.split('.').next().unwrap_or_default().to_owned();
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        return Err(Failure::usage(format!("{} is not JSON: {error}", path.display())));
    }
    let body = minify(&bytes);
    let delivery = guid(&[salt.as_bytes(), file.as_bytes(), &body]);
    Ok(Webhook { file, event, delivery, body: body.into() })
}

/// JSON without the white space between its tokens; numbers, order and escapes stay as they are.
fn minify(json: &[u8]) -> Vec<u8> {
    let mut small = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        small.push(byte);
    }
    small
}

/// A GUID from the digest of its parts.
fn guid(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hex = hex(&hasher.finalize());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minifying_keeps_every_token() {
        let json = br#"{ "a" : [ 1.50 , true ],
            "b c" : "x \" y \\" , "d": " " }"#;
        assert_eq!(minify(json), br#"{"a":[1.50,true],"b c":"x \" y \\","d":" "}"#);
    }

    #[test]
    fn an_id_follows_from_name_and_content() {
        let id = guid(&[b"", b"push.json", b"{}"]);
        assert_eq!(id, guid(&[b"", b"push.json", b"{}"]));
        assert_ne!(id, guid(&[b"", b"push.json", b"[]"]));
        assert_ne!(id, guid(&[b"salt", b"push.json", b"{}"]));
        assert_eq!((id.len(), id.matches('-').count()), (36, 4));
    }

    #[test]
    fn a_signature_is_that_of_the_documentation() {
        // The example of GitHub's page "Validating webhook deliveries".
        let webhook = Webhook {
            file: String::new(),
            event: "push".to_owned(),
            delivery: String::new(),
            body: Bytes::from_static(b"Hello, World!"),
        };
        assert_eq!(
            webhook.signature("It's a Secret to Everybody"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
