//! Records and a source of them, for the tests of views.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mindos_core::journal::JournalError;
use mindos_core::record::{
    AttemptEnded, Cause, Choice, DeliveryLeased, DeliverySettled, Entry, EventAccepted, GeneralKey, InstanceKey, Next,
    Payload, PlannedDelivery, Record, Usage,
};
use mindos_model::{
    BootId, ClusterName, DeliveryId, FailureKind, GeneralName, InstanceId, Priority, RouteName, Seq, Strategy,
    TenantName, Timestamp, Token,
};

use super::follow::Source;

/// Records in memory, numbered as they come, a millisecond apart.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<Vec<Entry>>);

impl Records {
    pub(crate) fn push(&self, record: Record) -> Seq {
        let mut entries = self.0.lock().unwrap();
        let seq = Seq(entries.len() as u64 + 1);
        entries.push(Entry { seq, at: Timestamp(1_000 + seq.0), record });
        seq
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }

    /// Accepts an event of `repository` for one delivery to each of `generals`.
    pub(crate) fn event(&self, repository: &str, kind: &str, generals: &[&Arc<GeneralKey>]) -> Seq {
        let planned = |general: &&Arc<GeneralKey>| PlannedDelivery {
            general: Some(Arc::clone(general)),
            parked: None,
            terms: None,
            degraded: None,
        };
        let seq = self.entries().len() as u64 + 1;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        self.push(Record::EventAccepted(Box::new(EventAccepted {
            tenant: TenantName::default_tenant(),
            source: format!("https://github.com/{repository}").into(),
            id: format!("event-{seq}").into(),
            ty: format!("com.example.{kind}").into(),
            kind: kind.into(),
            subject: Some("7".into()),
            lane: format!("{repository}/pr/7").into(),
            repository: Some(repository.into()),
            priority: Priority::Normal,
            actor: Some("octocat".into()),
            time: Some(Timestamp(500)),
            key,
            digest: [1; 16],
            payload: Payload { salt: [0; 16], bytes: Bytes::from_static(b"{}") },
            route: Some(RouteName::new("pr-created").unwrap()),
            strategy: Some(Strategy::Broadcast),
            judgement: None,
            deliveries: generals.iter().map(planned).collect(),
            fell_back_from: None,
            about: None,
        })))
    }

    pub(crate) fn leased(&self, delivery: DeliveryId, general: &Arc<GeneralKey>, attempt: u32) -> Seq {
        let instance = InstanceKey {
            tenant: TenantName::default_tenant(),
            cluster: general.cluster.clone(),
            instance: InstanceId::new("i-1").unwrap(),
        };
        self.push(Record::DeliveryLeased(Box::new(DeliveryLeased {
            delivery,
            token: Token::new(1, attempt),
            general: Arc::clone(general),
            instance: Arc::new(instance),
            boot: BootId::new("b-1").unwrap(),
            attempt,
            lease_ms: 25_000,
            choice: Choice::default(),
            reservation: None,
            degraded: None,
            variant: None,
        })))
    }

    pub(crate) fn settled(&self, delivery: DeliveryId) -> Seq {
        self.push(Record::DeliverySettled(Box::new(DeliverySettled {
            delivery,
            token: Token::new(1, 1),
            output: None,
            output_type: None,
            output_ref: None,
            usage: vec![Usage { model: "m".into(), input_tokens: 10, output_tokens: 3, cost_micros: 7 }],
            took_ms: 4,
            charged: None,
        })))
    }

    pub(crate) fn failed(&self, delivery: DeliveryId, counted: bool, next: Next) -> Seq {
        self.push(Record::AttemptEnded(Box::new(AttemptEnded {
            delivery,
            token: Token::new(1, 1),
            cause: Cause::Failed(FailureKind::Transient),
            message: "".into(),
            counted,
            next,
            usage: Vec::new(),
            charged: None,
            over: None,
        })))
    }
}

impl Source for Records {
    fn end(&self) -> Seq {
        Seq(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, from: Seq, visit: &mut dyn FnMut(&Entry) -> bool) -> Result<(), JournalError> {
        for entry in self.entries().iter().filter(|entry| entry.seq >= from) {
            if !visit(entry) {
                break;
            }
        }
        Ok(())
    }
}

/// A general by its names.
pub(crate) fn general(cluster: &str, name: &str) -> Arc<GeneralKey> {
    Arc::new(GeneralKey {
        tenant: TenantName::default_tenant(),
        cluster: ClusterName::new(cluster).unwrap(),
        name: GeneralName::new(name).unwrap(),
    })
}
