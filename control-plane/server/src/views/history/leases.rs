//! The leases open at the history's mark: what an ending needs to know and its own record does not carry.
//!
//! They are kept as bytes beside the mark, in the same transaction, so that a restart goes on without reading back.

use std::sync::Arc;

use hashbrown::HashMap;
use mindos_core::record::{GeneralKey, InstanceKey};
use mindos_model::{ClusterName, DeliveryId, GeneralName, InstanceId, Seq, TenantName, Timestamp, Token};

/// A lease that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenLease {
    pub general: Arc<GeneralKey>,
    pub instance: Arc<InstanceKey>,
    pub token: Token,
    pub attempt: u32,
    pub since: Timestamp,
}

pub(super) type OpenLeases = HashMap<DeliveryId, OpenLease, foldhash::fast::RandomState>;

const VERSION: u8 = 1;

/// The leases as bytes.
pub(super) fn encode(leases: &OpenLeases) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let mut names = Names::default();
    let mut rows = Vec::with_capacity(leases.len() * 52);
    // Most leases share their general and instance, and not only by name.
    let mut generals: HashMap<*const GeneralKey, [u32; 3], foldhash::fast::RandomState> = HashMap::default();
    let mut instances: HashMap<*const InstanceKey, [u32; 2], foldhash::fast::RandomState> = HashMap::default();
    for (delivery, OpenLease { general, instance, token, attempt, since }) in leases {
        let [tenant, cluster, name] = *generals.entry(Arc::as_ptr(general)).or_insert_with(|| {
            [general.tenant.as_str(), general.cluster.as_str(), general.name.as_str()].map(|text| names.number(text))
        });
        let [instance_cluster, instance] = *instances
            .entry(Arc::as_ptr(instance))
            .or_insert_with(|| [instance.cluster.as_str(), instance.instance.as_str()].map(|text| names.number(text)));
        let words =
            [tenant, cluster, name, instance_cluster, instance, token.epoch, token.term, *attempt, delivery.ordinal];
        rows.extend_from_slice(&delivery.event.0.to_le_bytes());
        rows.extend_from_slice(&since.0.to_le_bytes());
        words.iter().for_each(|word| rows.extend_from_slice(&word.to_le_bytes()));
    }
    bytes.extend_from_slice(&(names.texts.len() as u32).to_le_bytes());
    for text in &names.texts {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&rows);
    bytes
}

/// Texts by the number of their first coming.
#[derive(Default)]
struct Names {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
}

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let (number, text) = (self.texts.len() as u32, Arc::<str>::from(text));
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }
}

/// The leases that the bytes hold; `None` when they are not of this shape.
pub(super) fn decode(bytes: &[u8]) -> Option<OpenLeases> {
    if bytes.is_empty() {
        return Some(OpenLeases::default());
    }
    let mut reader = Reader(bytes);
    if reader.take(1)? != [VERSION] {
        return None;
    }
    let count = reader.word()?;
    let mut texts: Vec<&str> = Vec::new();
    for _ in 0..count {
        let length = reader.word()? as usize;
        texts.push(std::str::from_utf8(reader.take(length)?).ok()?);
    }
    let mut leases = OpenLeases::default();
    // Most leases share their general and instance.
    let mut generals: HashMap<[u32; 3], Arc<GeneralKey>, foldhash::fast::RandomState> = HashMap::default();
    let mut instances: HashMap<[u32; 3], Arc<InstanceKey>, foldhash::fast::RandomState> = HashMap::default();
    while !reader.0.is_empty() {
        let (event, since) = (reader.long()?, reader.long()?);
        let mut words = [0; 9];
        for word in &mut words {
            *word = reader.word()?;
        }
        let [tenant, cluster, name, instance_cluster, instance, epoch, term, attempt, ordinal] = words;
        let text = |number: u32| texts.get(number as usize).copied();
        let general = match generals.get(&[tenant, cluster, name]) {
            Some(general) => Arc::clone(general),
            None => {
                let key = Arc::new(GeneralKey {
                    tenant: TenantName::new(text(tenant)?).ok()?,
                    cluster: ClusterName::new(text(cluster)?).ok()?,
                    name: GeneralName::new(text(name)?).ok()?,
                });
                generals.insert([tenant, cluster, name], Arc::clone(&key));
                key
            }
        };
        let instance = match instances.get(&[tenant, instance_cluster, instance]) {
            Some(instance) => Arc::clone(instance),
            None => {
                let key = Arc::new(InstanceKey {
                    tenant: TenantName::new(text(tenant)?).ok()?,
                    cluster: ClusterName::new(text(instance_cluster)?).ok()?,
                    instance: InstanceId::new(text(instance)?).ok()?,
                });
                instances.insert([tenant, instance_cluster, instance], Arc::clone(&key));
                key
            }
        };
        let lease = OpenLease { general, instance, token: Token::new(epoch, term), attempt, since: Timestamp(since) };
        leases.insert(DeliveryId::new(Seq(event), ordinal), lease);
    }
    Some(leases)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_back_as_written_and_noise_is_refused() {
        let tenant = TenantName::default_tenant();
        let cluster = ClusterName::new("eu").unwrap();
        let general = Arc::new(GeneralKey {
            tenant: tenant.clone(),
            cluster: cluster.clone(),
            name: GeneralName::new("g").unwrap(),
        });
        let instance = Arc::new(InstanceKey { tenant, cluster, instance: InstanceId::new("i-1").unwrap() });
        let lease = |number: u32| OpenLease {
            general: Arc::clone(&general),
            instance: Arc::clone(&instance),
            token: Token::new(1, number),
            attempt: number,
            since: Timestamp(5),
        };
        let leases: OpenLeases = (1..50).map(|number| (DeliveryId::new(Seq(7), number), lease(number))).collect();
        let bytes = encode(&leases);
        assert_eq!(decode(&bytes), Some(leases));
        assert_eq!(decode(&[]), Some(OpenLeases::default()));
        (1..bytes.len()).step_by(7).for_each(|end| {
            let _ = decode(&bytes[..end]);
        });
        assert!(decode(&bytes[..bytes.len() - 1]).is_none() && decode(&[9, 9]).is_none());
    }
}
