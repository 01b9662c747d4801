//! How a pool is scaled: what the trigger's metadata says of it, else the General object of the cluster, else nothing.
//!
//! Invariant: what is said wrong in the metadata is named, whatever the object says.

use std::collections::BTreeMap;
use std::time::Duration;

use mindos_kube::duration;
use mindos_kube::mindos::{GeneralScale, GeneralSpec};
use tonic::Status;

use super::service::invalid;

/// Slots that one replica may be said to have.
const SLOTS_MAX: u32 = 1000;
/// Replicas.
const REPLICAS_MAX: u32 = 10_000;

/// What the metadata of a trigger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    slots: Option<u32>,
    min: Option<u32>,
    max: Option<u32>,
    idle: Option<Duration>,
}

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    /// Work that one replica takes.
    pub(super) slots: u32,
    min: u32,
    max: Option<u32>,
    /// How long a pool without work is wanted still.
    pub(super) idle: Duration,
}

impl Said {
    /// Reads the metadata.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub(super) fn read(metadata: &BTreeMap<String, String>) -> Result<Said, Status> {
        let number = |field: &'static str, least: u32, most: u32| match metadata.get(field).map(|text| text.parse()) {
            None => Ok(None),
            Some(Ok(number)) if (least..=most).contains(&number) => Ok(Some(number)),
            Some(_) => Err(invalid(field, &format!("expected a number, {least} to {most}"))),
        };
        let (min, max) = (number("min", 0, REPLICAS_MAX)?, number("max", 1, REPLICAS_MAX)?);
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            return Err(invalid("min", "is above max"));
        }
        let idle = metadata.get("idle").map(|text| duration::parse(text)).transpose();
        let idle = idle.map_err(|error| invalid("idle", &error.to_string()))?;
        Ok(Said { slots: number("slots", 1, SLOTS_MAX)?, min, max, idle })
    }

    /// What holds where the cluster has this object for the general.
    pub(super) fn over(&self, object: Option<&GeneralSpec>) -> Scale {
        let bounds: Option<&GeneralScale> = object.and_then(|object| object.scale.as_ref());
        let idle = || bounds.and_then(|bounds| duration::parse(&bounds.idle).ok());
        let slots = self.slots.or(object.map(|object| object.slots));
        Scale {
            slots: slots.unwrap_or(1).clamp(1, SLOTS_MAX),
            min: self.min.or(bounds.map(|bounds| bounds.min)).unwrap_or(0),
            max: self.max.or(bounds.map(|bounds| bounds.max)),
            idle: self.idle.or_else(idle).unwrap_or_default(),
        }
    }
}

impl Scale {
    /// What KEDA is told of so much work, so that it wants no fewer replicas than the least and no more than the most.
    pub(super) fn bounded(&self, work: u64) -> u64 {
        let of = |replicas: u32| u64::from(replicas) * u64::from(self.slots);
        work.max(of(self.min)).min(self.max.map_or(u64::MAX, of))
    }

    /// Whether the pool is wanted, also without work.
    pub(super) fn is_standing(&self) -> bool {
        self.min > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Result<Said, String> {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Said::read(&metadata).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn the_object_says_what_the_metadata_does_not() {
        let scale = GeneralScale { min: 1, max: 3, idle: "2m".to_owned() };
        let object = GeneralSpec { slots: 4, scale: Some(scale), ..GeneralSpec::default() };
        let none = said(&[]).unwrap();
        let scale = none.over(Some(&object));
        assert_eq!((scale.slots, scale.idle, scale.is_standing()), (4, Duration::from_secs(120), true));
        assert_eq!([0, 5, 100].map(|work| scale.bounded(work)), [4, 5, 12]);
        let scale = said(&[("slots", "2"), ("min", "0"), ("max", "10"), ("idle", "0s")]).unwrap().over(Some(&object));
        assert_eq!((scale.slots, scale.idle, scale.is_standing()), (2, Duration::ZERO, false));
        assert_eq!([0, 5, 100].map(|work| scale.bounded(work)), [0, 5, 20]);
        let scale = none.over(None);
        assert_eq!((scale.slots, scale.idle, scale.bounded(7)), (1, Duration::ZERO, 7));
        // The least of the one above the most of the other: no more than the most.
        let max = GeneralScale { max: 2, ..GeneralScale::default() };
        let object = GeneralSpec { scale: Some(max), ..GeneralSpec::default() };
        assert_eq!(said(&[("min", "5")]).unwrap().over(Some(&object)).bounded(0), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pairs, named) in [
            (&[("slots", "0")][..], "scalerMetadata.slots: expected a number, 1 to 1000"),
            (&[("max", "0")], "scalerMetadata.max: expected a number, 1 to 10000"),
            (&[("min", "-1")], "scalerMetadata.min: expected a number, 0 to 10000"),
            (&[("min", "3"), ("max", "2")], "scalerMetadata.min: is above max"),
            (&[("idle", "soon")], "scalerMetadata.idle: "),
        ] {
            let error = said(pairs).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
