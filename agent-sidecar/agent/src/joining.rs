//! Settings of how a sidecar proves who it is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use mindos_sdk::model::Secret;
use mindos_sdk::{Joining, Proof, Trust};

/// How a sidecar proves who it is. Needs a control plane with `https`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct JoiningConfig {
    /// Address of the control plane's API, which gives out certificates [default: port 8090 at the host of --control-plane]
    #[arg(long, env = "MINDOS_API", value_name = "URL")]
    pub api: Option<String>,

    /// Roots to trust at the first contact, in PEM; later those count that the control plane names [default: the machine's]
    #[arg(long, env = "MINDOS_CA", value_name = "FILE", conflicts_with = "ca_sha256")]
    pub ca: Option<PathBuf>,

    /// SHA-256 of the root to trust at the first contact, instead of --ca: 64 hex digits
    #[arg(long, env = "MINDOS_CA_SHA256", value_name = "HEX")]
    pub ca_sha256: Option<Pin>,

    /// Join with the token in this file; the variable MINDOS_JOIN_TOKEN may hold the token itself
    #[arg(long, env = "MINDOS_JOIN_TOKEN_FILE", value_name = "FILE", conflicts_with = "service_account_token")]
    pub join_token_file: Option<PathBuf>,

    /// Join with the projected service account token of Kubernetes in this file, which is read at each use
    #[arg(long, env = "MINDOS_SERVICE_ACCOUNT_TOKEN", value_name = "FILE")]
    pub service_account_token: Option<PathBuf>,

    /// Issuer of the service account token, as `<tenant>/<name>` or `<name>`; keeps out those that others registered with its address
    #[arg(long, env = "MINDOS_ISSUER", value_name = "NAME", default_value = "")]
    pub issuer: String,

    /// Keep key, certificate and roots here, so that a restart needs no token [default: in memory only]
    #[arg(long, env = "MINDOS_IDENTITY_DIR", value_name = "DIR")]
    pub identity_dir: Option<PathBuf>,

    /// Answer GET /ready here: 200 when this sidecar may do its work, 503 and why when not. With MINDOS_DRAIN_TOKEN set, /drain as
    /// well: it answers when all work is finished or handed back
    #[arg(long, env = "MINDOS_READY_LISTEN", value_name = "ADDR:PORT")]
    pub ready_listen: Option<SocketAddr>,
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// What the environment says about identity, beside what is an option as well.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `MINDOS_JOIN_TOKEN`.
    pub join_token: Option<Secret>,
    /// `SPIFFE_ENDPOINT_SOCKET`.
    pub spiffe: Option<String>,
    /// `MINDOS_DRAIN_TOKEN`: who knows it may ask for a drain.
    pub drain_token: Option<Secret>,
}

/// Why identity cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoiningError {
    #[error("`{0}` is not a SHA-256: expected 64 hex digits")]
    Pin(String),
    #[error("{0} needs --control-plane https://<host>:<port>")]
    InClear(&'static str),
    #[error("MINDOS_JOIN_TOKEN and {0} are both given: expected one way to join")]
    Twice(&'static str),
    #[error("SPIFFE_ENDPOINT_SOCKET is `{0}`: expected unix:///<path>")]
    Socket(String),
}

impl FromStr for Pin {
    type Err = JoiningError;

    fn from_str(text: &str) -> Result<Pin, JoiningError> {
        let refused = || JoiningError::Pin(text.chars().take(100).collect());
        // As `openssl x509 -fingerprint` prints it, with colons, it is welcome as well.
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut pin = [0; 32];
        if digits.len() != 64 {
            return Err(refused());
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(refused);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| refused())?;
        }
        Ok(Pin(pin))
    }
}

impl Surroundings {
    /// Reads the environment.
    #[must_use]
    pub fn read() -> Surroundings {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        Surroundings {
            join_token: variable("MINDOS_JOIN_TOKEN").map(Secret::new),
            spiffe: variable("SPIFFE_ENDPOINT_SOCKET"),
            drain_token: variable("MINDOS_DRAIN_TOKEN").map(Secret::new),
        }
    }
}

impl JoiningConfig {
    /// How to join. `None` where the control plane is reached in the clear, which asks nobody who he is.
    ///
    /// # Errors
    /// When ways to join are given twice, or need an address with `https`.
    pub fn joining(self, control_plane: &str, around: Surroundings) -> Result<Option<Joining>, JoiningError> {
        let JoiningConfig {
            api,
            ca,
            ca_sha256,
            join_token_file,
            service_account_token,
            issuer,
            identity_dir,
            ready_listen: _,
        } = self;
        let Surroundings { join_token, spiffe, drain_token: _ } = around;
        if !control_plane.trim_start().to_ascii_lowercase().starts_with("https://") {
            for (given, name) in [
                (join_token_file.is_some(), "--join-token-file"),
                (service_account_token.is_some(), "--service-account-token"),
                (join_token.is_some(), "MINDOS_JOIN_TOKEN"),
                (identity_dir.is_some(), "--identity-dir"),
                (ca.is_some(), "--ca"),
                (ca_sha256.is_some(), "--ca-sha256"),
            ] {
                if given {
                    return Err(JoiningError::InClear(name));
                }
            }
            return Ok(None);
        }
        let trust = match (ca, ca_sha256) {
            (Some(file), _) => Trust::File(file),
            (None, Some(Pin(pin))) => Trust::Pin(pin),
            (None, None) => Trust::System,
        };
        let proof = match (join_token, join_token_file, service_account_token, spiffe) {
            (Some(_), Some(_), _, _) => return Err(JoiningError::Twice("--join-token-file")),
            (Some(_), _, Some(_), _) => return Err(JoiningError::Twice("--service-account-token")),
            (Some(token), None, None, _) => Proof::JoinToken(token),
            (None, Some(file), _, _) => Proof::JoinTokenFile(file),
            (None, None, Some(file), _) => Proof::ServiceAccountToken(file),
            (None, None, None, Some(socket)) => Proof::Workload(socket_path(&socket)?),
            (None, None, None, None) => Proof::None,
        };
        Ok(Some(Joining { api, trust, proof, dir: identity_dir, issuer_hint: issuer }))
    }
}

/// The path in `unix:/path`, `unix:///path` or `/path`.
fn socket_path(text: &str) -> Result<PathBuf, JoiningError> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.starts_with('/') { Ok(PathBuf::from(path)) } else { Err(JoiningError::Socket(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: &str = "https://mindos.example.com:8091";

    #[test]
    fn a_pin_is_64_hex_digits_with_or_without_colons() {
        let hex = "0a".repeat(32);
        assert_eq!(hex.parse(), Ok(Pin([10; 32])));
        assert_eq!(vec!["0A"; 32].join(":").parse(), Ok(Pin([10; 32])));
        for text in ["", "0a", &"0g".repeat(32), &"0a".repeat(33)] {
            assert!(text.parse::<Pin>().unwrap_err().to_string().contains("expected 64 hex digits"), "{text}");
        }
    }

    #[test]
    fn what_is_given_by_hand_comes_before_the_socket() {
        let around = || Surroundings { spiffe: Some("unix:///run/spire.sock".to_owned()), ..Surroundings::default() };
        let proof = |config: JoiningConfig, around| config.joining(TLS, around).unwrap().unwrap().proof;
        assert_eq!(proof(JoiningConfig::default(), around()), Proof::Workload("/run/spire.sock".into()));
        let file = JoiningConfig { join_token_file: Some("/token".into()), ..JoiningConfig::default() };
        assert_eq!(proof(file.clone(), around()), Proof::JoinTokenFile("/token".into()));
        let token = Surroundings { join_token: Some(Secret::new("mindos_join_x")), ..around() };
        assert_eq!(proof(JoiningConfig::default(), token.clone()), Proof::JoinToken(Secret::new("mindos_join_x")));
        let twice = file.joining(TLS, token).unwrap_err();
        assert!(twice.to_string().contains("MINDOS_JOIN_TOKEN and --join-token-file"));
        for (text, fits) in [("unix:/a", true), ("/a", true), ("tcp://127.0.0.1:1", false), ("unix:a", false)] {
            assert_eq!(socket_path(text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn nothing_is_proven_in_the_clear() {
        let clear = "http://127.0.0.1:8091";
        let around = Surroundings { spiffe: Some("unix:///run/spire.sock".to_owned()), ..Surroundings::default() };
        assert!(JoiningConfig::default().joining(clear, around.clone()).unwrap().is_none());
        let file = JoiningConfig { join_token_file: Some("/token".into()), ..JoiningConfig::default() };
        let error = file.joining(clear, around).unwrap_err().to_string();
        assert_eq!(error, "--join-token-file needs --control-plane https://<host>:<port>");
    }
}
