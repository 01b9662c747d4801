//! Reading what shows that an agent may join. Files are read at each use: projected tokens rotate.

use std::path::Path;

use mindos_model::Secret;
use mindos_proto::identity::v1::join_request::Proof as Presented;
use mindos_sidecar_core::membership::Trouble;
use sha2::{Digest, Sha256};

use super::Proof;

/// Bytes of a token, as the control plane takes them.
const TOKEN_MAX: u64 = 16 * 1024;

/// What to present.
pub(crate) fn present(proof: &Proof) -> Result<Presented, Trouble> {
    match proof {
        Proof::JoinToken(token) => Ok(Presented::JoinToken(token.expose().to_owned())),
        Proof::JoinTokenFile(path) => Ok(Presented::JoinToken(read(path)?.expose().to_owned())),
        Proof::ServiceAccountToken(path) => Ok(Presented::ServiceAccountToken(read(path)?.expose().to_owned())),
        Proof::None | Proof::Workload(_) => Err(Trouble::NoProof { why: "there is nothing to join with".to_owned() }),
    }
}

/// A digest of the file, to see that it changed.
pub(crate) fn digest(proof: &Proof) -> Option<[u8; 32]> {
    let (Proof::JoinTokenFile(path) | Proof::ServiceAccountToken(path)) = proof else { return None };
    read(path).ok().map(|token| Sha256::digest(token.expose()).into())
}

fn read(path: &Path) -> Result<Secret, Trouble> {
    let no = |why: String| Trouble::NoProof { why };
    let length =
        std::fs::metadata(path).map_err(|error| no(format!("failed to read `{}`: {error}", path.display())))?;
    if length.len() > TOKEN_MAX {
        return Err(no(format!(
            "`{}` has {} bytes: expected a token of at most {TOKEN_MAX}",
            path.display(),
            length.len()
        )));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| no(format!("failed to read `{}`: {error}", path.display())))?;
    let token = Secret::new(text);
    if token.is_empty() {
        return Err(no(format!("`{}` is empty: expected a token", path.display())));
    }
    Ok(token)
}
