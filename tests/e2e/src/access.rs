//! What an admin does: makes tokens to join with, turns agents away, rotates the authority; and what the ledger says of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::access::v1::authority_service_client::AuthorityServiceClient;
use mindos_proto::access::v1::deny_agent_request::Target;
use mindos_proto::access::v1::join_holder::Holder;
use mindos_proto::access::v1::{
    AgentPattern, AllowAgentRequest, AuthorityPart, CreateJoinTokenRequest, DenyAgentRequest, JoinHolder,
    RetireAuthorityRequest, RotateAuthorityRequest,
};
use mindos_proto::journal::v1::entry::Record;
use mindos_sdk::Channel;

use crate::client;
use crate::world::World;

/// Makes a token to join `cluster` as `worker` and writes it into `<folder>/<name>`.
///
/// # Errors
/// When it is refused.
pub async fn join_token(world: &World, name: &str, cluster: &str, uses: u32, ttl: Duration) -> Result<PathBuf> {
    let request = CreateJoinTokenRequest {
        cluster: cluster.to_owned(),
        holder: Some(JoinHolder { holder: Some(Holder::General("worker".to_owned())) }),
        uses,
        ttl: Some(prost_types::Duration { seconds: ttl.as_secs() as i64, nanos: ttl.subsec_nanos() as i32 }),
        ..CreateJoinTokenRequest::default()
    };
    let made = AccessServiceClient::new(world.channel()?).create_join_token(request).await;
    let path = world.folder().join(name);
    std::fs::write(&path, made.context("no join token was made")?.into_inner().text)
        .context("failed to write a token")?;
    Ok(path)
}

/// Turns an instance away; returns the id of the denial.
///
/// # Errors
/// When it is refused.
pub async fn deny(channel: &Channel, cluster: &str, instance: &str) -> Result<u64> {
    let agent = AgentPattern {
        cluster: cluster.to_owned(),
        namespace: "default".to_owned(),
        general: "worker".to_owned(),
        instance_id: instance.to_owned(),
        ..AgentPattern::default()
    };
    let request = DenyAgentRequest { target: Some(Target::Agent(agent)), reason: "a test".to_owned() };
    let denied = AccessServiceClient::new(channel.clone()).deny_agent(request).await.context("no denial was made")?;
    Ok(denied.into_inner().denial.context("an answer has its denial")?.id)
}

/// Lets it in again.
///
/// # Errors
/// When it is refused.
pub async fn allow(channel: &Channel, denial: u64) -> Result<()> {
    let request = AllowAgentRequest { id: denial };
    AccessServiceClient::new(channel.clone()).allow_agent(request).await.context("a denial was not ended")?;
    Ok(())
}

/// Makes another key for the authority; the former one stays trusted.
///
/// # Errors
/// When it is refused.
pub async fn rotate(channel: &Channel) -> Result<()> {
    let request = RotateAuthorityRequest { part: AuthorityPart::Certificates.into() };
    AuthorityServiceClient::new(channel.clone()).rotate_authority(request).await.context("no rotation")?;
    Ok(())
}

/// Trusts the former key no more, also within a day.
///
/// # Errors
/// When it is refused.
pub async fn retire(channel: &Channel) -> Result<()> {
    let request = RetireAuthorityRequest { force: true };
    AuthorityServiceClient::new(channel.clone()).retire_authority(request).await.context("nothing was retired")?;
    Ok(())
}

/// What the ledger says about joining.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// Instances that joined, in their order.
    pub joined: Vec<String>,
    /// Reasons of refusals, as the ledger names them.
    pub refused: Vec<i32>,
    /// Changes of the authority's certificate key.
    pub authority: usize,
}

/// Reads it.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn joins(channel: &Channel) -> Result<Joins> {
    let mut joins = Joins::default();
    for entry in client::ledger(channel, 0).await? {
        match entry.entry.and_then(|entry| entry.record) {
            Some(Record::AgentJoined(joined)) => joins.joined.push(format!("{:?}", joined.identity)),
            Some(Record::JoinRefused(refused)) => joins.refused.push(refused.reason),
            Some(Record::AuthorityChanged(_)) => joins.authority += 1,
            _ => {}
        }
    }
    Ok(joins)
}

/// Copies the roots of the moment, as somebody who installs sidecars does.
///
/// # Errors
/// When there are none.
pub fn copy_roots(world: &World, name: &str) -> Result<PathBuf> {
    let path = world.folder().join(name);
    std::fs::copy(world.roots(), &path).context("failed to copy the roots")?;
    Ok(path)
}

/// What a process said last about why it has no certificate.
///
/// # Errors
/// When the log cannot be read.
pub fn said(folder: &Path, instance: &str) -> Result<String> {
    std::fs::read_to_string(folder.join(format!("sidecar-{instance}.log"))).context("failed to read a log")
}
