//! Names that come again and again: each is checked and allocated once, later readings share it.
//!
//! Invariant: bounded; a name that has no room is made anew each time.

use std::str::FromStr;
use std::sync::Arc;

use mindos_core::record::{GeneralKey, InstanceKey};
use mindos_model::{BootId, ClusterName, GeneralName, InstanceId, RouteName, TenantName};
use mindos_proto::convert::{Invalid, parsed};

/// Places for each sort of name. A fleet has a few hundred generals and instances.
const PLACES: usize = 1024;

/// Shares what decoding reads over and over.
#[derive(Debug)]
pub struct Names {
    texts: Places<Arc<str>>,
    default_tenant: TenantName,
    tenants: Places<TenantName>,
    clusters: Places<ClusterName>,
    generals: Places<Arc<GeneralKey>>,
    instances: Places<Arc<InstanceKey>>,
    boots: Places<BootId>,
    routes: Places<RouteName>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            texts: Places::new(),
            default_tenant: TenantName::default_tenant(),
            tenants: Places::new(),
            clusters: Places::new(),
            generals: Places::new(),
            instances: Places::new(),
            boots: Places::new(),
            routes: Places::new(),
        }
    }
}

/// What an empty tenant means.
pub(crate) const DEFAULT_TENANT: &str = "default";

impl Names {
    /// A text that is likely to come again, such as a type or a content type.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        let made = self.texts.get(hash(&[text]), |known| **known == *text, || Ok(Arc::from(text)));
        made.unwrap_or_else(|_: Invalid| Arc::from(text))
    }

    /// A tenant; an empty text means `default`.
    pub(crate) fn tenant(&mut self, text: &str) -> Result<TenantName, Invalid> {
        if text.is_empty() {
            return Ok(self.default_tenant.clone());
        }
        named(&mut self.tenants, text, "tenant")
    }

    pub(crate) fn cluster(&mut self, text: &str) -> Result<ClusterName, Invalid> {
        named(&mut self.clusters, text, "cluster")
    }

    pub(crate) fn boot(&mut self, text: &str) -> Result<BootId, Invalid> {
        named(&mut self.boots, text, "boot")
    }

    pub(crate) fn route(&mut self, text: &str) -> Result<RouteName, Invalid> {
        named(&mut self.routes, text, "route")
    }

    pub(crate) fn general(
        &mut self,
        tenant: &TenantName,
        cluster: &str,
        name: &str,
    ) -> Result<Arc<GeneralKey>, Invalid> {
        let Names { generals, clusters, .. } = self;
        let is_it = |known: &Arc<GeneralKey>| {
            known.name.as_str() == name && known.cluster.as_str() == cluster && known.tenant == *tenant
        };
        generals.get(hash(&[tenant.as_str(), cluster, name]), is_it, || {
            let cluster = named(clusters, cluster, "cluster")?;
            let name: GeneralName = parsed(name, "name")?;
            Ok(Arc::new(GeneralKey { tenant: tenant.clone(), cluster, name }))
        })
    }

    pub(crate) fn instance(
        &mut self,
        tenant: &TenantName,
        cluster: &str,
        instance: &str,
    ) -> Result<Arc<InstanceKey>, Invalid> {
        let Names { instances, clusters, .. } = self;
        let is_it = |known: &Arc<InstanceKey>| {
            known.instance.as_str() == instance && known.cluster.as_str() == cluster && known.tenant == *tenant
        };
        instances.get(hash(&[tenant.as_str(), cluster, instance]), is_it, || {
            let cluster = named(clusters, cluster, "cluster")?;
            let instance: InstanceId = parsed(instance, "instance")?;
            Ok(Arc::new(InstanceKey { tenant: tenant.clone(), cluster, instance }))
        })
    }
}

fn named<T>(places: &mut Places<T>, text: &str, field: &'static str) -> Result<T, Invalid>
where
    T: Clone + AsRef<str> + FromStr,
    T::Err: std::fmt::Display,
{
    places.get(hash(&[text]), |known| known.as_ref() == text, || parsed(text, field))
}

/// A small table in which each value has one place; a newcomer takes it over.
#[derive(Debug)]
struct Places<T>(Vec<Option<T>>);

impl<T: Clone> Places<T> {
    fn new() -> Places<T> {
        Places(vec![None; PLACES])
    }

    fn get(
        &mut self,
        hash: u64,
        is_it: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> Result<T, Invalid>,
    ) -> Result<T, Invalid> {
        let place = &mut self.0[usize::try_from(hash % PLACES as u64).expect("below a thousand")];
        if let Some(known) = place.as_ref().filter(|known| is_it(known)) {
            return Ok(known.clone());
        }
        let made = make()?;
        *place = Some(made.clone());
        Ok(made)
    }
}

/// Over the texts and their lengths, eight bytes at a time. Who forges collisions only makes reading slower.
fn hash(texts: &[&str]) -> u64 {
    // Odd, and without a pattern: 2^64 over the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0;
    let mut mix = |word: u64| {
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        hash = product as u64 ^ (product >> 64) as u64;
    };
    for text in texts {
        mix(text.len() as u64 + 1);
        let (words, rest) = text.as_bytes().as_chunks();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_that_differ_little_are_spread() {
        let places = |texts: &dyn Fn(u32) -> [String; 2]| {
            let hashes = (0..512).map(texts).map(|[a, b]| hash(&[&a, &b]) % PLACES as u64);
            hashes.collect::<BTreeSet<_>>().len()
        };
        // Of 512 thrown at random into 1024 places, 403 get one of their own, give or take 12.
        assert!(places(&|number| ["prod-us".to_owned(), format!("general-{number}")]) > 350);
        assert!(places(&|number| [format!("c{number}"), "general".to_owned()]) > 350);
        assert!(places(&|number| [format!("{number:010}"), format!("{number}")]) > 350);
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a", ""]), hash(&["a"]));
    }
}
