//! Pieces of the state of access in a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::access::AccessItem;
use mindos_core::snapshot::Item;
use mindos_model::Seq;
use mindos_proto::convert::{Invalid, required};
use mindos_proto::journal::v1::{self as pb, access_state::Piece as Which, snapshot_item::Item as Piece};

use super::parts::{
    api_token, binding, denial, issuer, join_token, of_api_token, of_binding, of_denial, of_issuer, of_join_token,
    of_quota, quota,
};
use super::{checkpoint, key, key_id, of_checkpoint, of_key};
use crate::encode::names::Names;
use crate::encode::read::fixed;
use crate::encode::record::tenant;

pub(crate) fn to_message(item: &AccessItem) -> Piece {
    let piece = match item {
        AccessItem::Binding(binding) => Which::Binding(of_binding(binding)),
        AccessItem::ApiToken(token) => Which::ApiToken(of_api_token(token)),
        AccessItem::JoinToken(token) => Which::JoinToken(of_join_token(token)),
        AccessItem::Issuer(issuer) => Which::Issuer(of_issuer(issuer)),
        AccessItem::Denial(denial) => Which::Denial(of_denial(denial)),
        AccessItem::Quota { tenant: of, quota } => {
            Which::Quota(pb::QuotaState { tenant: tenant(of), quota: Some(of_quota(*quota)) })
        }
        AccessItem::Settings { what, digest } => {
            let (what, digest) = (what.to_string(), Bytes::copy_from_slice(digest));
            Which::Settings(pb::SettingsState { what, digest })
        }
        AccessItem::CertificateKey { id, since } => {
            Which::CertificateKey(pb::CertificateKeyState { id: Bytes::copy_from_slice(id), since: since.0 })
        }
        AccessItem::SigningKey(key) => Which::LedgerKey(of_key(key)),
        AccessItem::Checkpoint { at, checkpoint } => {
            Which::Checkpoint(pb::CheckpointState { at: at.0, checkpoint: Some(of_checkpoint(checkpoint)) })
        }
    };
    Piece::Access(pb::AccessState { piece: Some(piece) })
}

pub(crate) fn from_message(names: &mut Names, message: pb::AccessState) -> Result<Item, Invalid> {
    Ok(Item::Access(match required(message.piece, "piece")? {
        Which::Binding(message) => AccessItem::Binding(Arc::new(binding(message)?)),
        Which::ApiToken(message) => AccessItem::ApiToken(Arc::new(api_token(message)?)),
        Which::JoinToken(message) => AccessItem::JoinToken(Arc::new(join_token(names, message)?)),
        Which::Issuer(message) => AccessItem::Issuer(Arc::new(issuer(names, message)?)),
        Which::Denial(message) => AccessItem::Denial(Arc::new(denial(names, message)?)),
        Which::Quota(pb::QuotaState { tenant, quota: set }) => {
            AccessItem::Quota { tenant: names.tenant(&tenant)?, quota: quota(required(set, "quota")?) }
        }
        Which::Settings(pb::SettingsState { what, digest }) => {
            AccessItem::Settings { what: Arc::from(what), digest: fixed(&digest, "settings.digest")? }
        }
        Which::CertificateKey(pb::CertificateKeyState { id, since }) => {
            AccessItem::CertificateKey { id: key_id(&id, "certificate_key.id")?, since: Seq(since) }
        }
        Which::LedgerKey(message) => AccessItem::SigningKey(key(&message)?),
        Which::Checkpoint(pb::CheckpointState { at, checkpoint: signed }) => {
            let signed = required(signed, "checkpoint")?;
            AccessItem::Checkpoint { at: Seq(at), checkpoint: checkpoint(&signed)? }
        }
    }))
}
