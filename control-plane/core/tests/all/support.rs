//! What instances and publishers send, as far as a test cares.

use std::sync::Arc;

use bytes::Bytes;
use mindos_core::input::{Hello, HelloGeneral, Input, NewEvent, RequestId, SessionId};
use mindos_core::record::{InstanceKey, Payload};
use mindos_model::{BootId, ClusterName, GeneralName, GeneralType, InstanceId, TenantName};

/// An instance opens its stream; each of its generals has so many slots.
pub(crate) fn hello(tenant: &TenantName, session: u64, instance: &str, generals: &[&str], slots: u32) -> Input {
    let general = |name: &&str| HelloGeneral {
        name: GeneralName::new(name).unwrap(),
        ty: GeneralType::new("general-purpose-general").unwrap(),
        labels: Vec::new(),
        slots,
    };
    Input::Hello(Box::new(Hello {
        session: SessionId(session),
        key: Arc::new(InstanceKey {
            tenant: tenant.clone(),
            cluster: ClusterName::new("eu").unwrap(),
            instance: InstanceId::new(instance).unwrap(),
        }),
        boot: BootId::new("b1").unwrap(),
        version: "0.1.0".into(),
        region: None,
        cluster_labels: Vec::new(),
        pod: Default::default(),
        generals: generals.iter().map(general).collect(),
        keeps_ceilings: false,
        held: Vec::new(),
    }))
}

/// An event of a kind that no route names is published; its number tells it from all others.
pub(crate) fn publish(tenant: &TenantName, number: u64, lane: &str, repository: Option<&str>) -> Input {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    let event = NewEvent {
        tenant: tenant.clone(),
        source: "test".into(),
        id: number.to_string().into(),
        ty: "other".into(),
        kind: "other".into(),
        subject: None,
        lane: lane.into(),
        repository: repository.map(Arc::from),
        priority: None,
        not_before: None,
        actor: None,
        time: None,
        key,
        digest: [1; 16],
        payload: Payload { salt: [0; 16], bytes: Bytes::new() },
        routed: true,
        asked: None,
        seen: None,
        about: None,
        trust: None,
        judged: None,
    };
    Input::Publish { request: RequestId(number), event: Box::new(event) }
}
