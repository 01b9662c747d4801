//! Affinity and residency as messages and back: what routes say of them, and what they had to do with a lease.

use std::sync::Arc;

use mindos_core::affinity::{Affinity, KeptOut, Place, Preference, Siting};
use mindos_core::record::GeneralKey;
use mindos_model::{Region, TenantName};
use mindos_proto::convert::{Invalid, parsed, required};
use mindos_proto::journal::v1 as journal_pb;
use mindos_proto::route::v1 as pb;

use super::names::Names;
use super::record::general_to_message;
use super::route::{labels_from_message, labels_to_message};
use super::words;

/// What a route says of where its work goes.
#[must_use]
pub fn affinity_to_message(affinity: &Affinity) -> pb::RouteAffinity {
    let Affinity { require, prefer } = affinity;
    let prefer = prefer.iter().map(|Preference { weight, place }| {
        let pb::RoutePlace { clusters, regions, labels } = place_to_message(place);
        pb::RoutePreference { weight: *weight, clusters, regions, labels }
    });
    let require = (!require.is_anywhere()).then(|| place_to_message(require));
    pb::RouteAffinity { require, prefer: prefer.collect() }
}

/// The other way.
///
/// # Errors
/// Names the field that is not accepted.
pub fn affinity_from_message(affinity: pb::RouteAffinity) -> Result<Affinity, Invalid> {
    let pb::RouteAffinity { require, prefer } = affinity;
    let require = require.map(place_from_message).transpose();
    let require = require.map_err(|error| error.within("affinity.require"))?.unwrap_or_default();
    let preference = |(line, preference): (usize, pb::RoutePreference)| {
        let pb::RoutePreference { weight, clusters, regions, labels } = preference;
        let place = place_from_message(pb::RoutePlace { clusters, regions, labels });
        let place = place.map_err(|error| error.within(&format!("affinity.prefer[{line}]")))?;
        Ok(Preference { weight, place })
    };
    let prefer = prefer.into_iter().enumerate().map(preference).collect::<Result<_, Invalid>>()?;
    Ok(Affinity { require, prefer })
}

/// Regions in which work may be done.
///
/// # Errors
/// Names the one that is not accepted.
pub fn residency_from_message(regions: &[String]) -> Result<Vec<Region>, Invalid> {
    regions.iter().map(|region| parsed(region, "residency")).collect()
}

fn place_to_message(place: &Place) -> pb::RoutePlace {
    let Place { clusters, regions, labels } = place;
    pb::RoutePlace {
        clusters: clusters.iter().map(ToString::to_string).collect(),
        regions: regions.iter().map(ToString::to_string).collect(),
        labels: labels_to_message(labels),
    }
}

fn place_from_message(place: pb::RoutePlace) -> Result<Place, Invalid> {
    let pb::RoutePlace { clusters, regions, labels } = place;
    Ok(Place {
        clusters: clusters.iter().map(|text| parsed(text, "clusters")).collect::<Result<_, _>>()?,
        regions: regions.iter().map(|text| parsed(text, "regions")).collect::<Result<_, _>>()?,
        labels: labels_from_message(labels),
    })
}

pub(crate) fn to_message(siting: &Siting) -> journal_pb::Siting {
    let Siting { kept_out, named, generals, instances } = siting;
    let named = named.iter().map(|(general, why)| journal_pb::KeptOut {
        general: Some(general_to_message(general)),
        why: words::of_kept_out(*why),
    });
    journal_pb::Siting {
        kept_out: *kept_out,
        named: named.collect(),
        generals: generals.clone(),
        instances: instances.clone(),
    }
}

pub(crate) fn from_message(
    names: &mut Names,
    tenant: &TenantName,
    message: journal_pb::Siting,
) -> Result<Siting, Invalid> {
    let journal_pb::Siting { kept_out, named, generals, instances } = message;
    let mut one = |journal_pb::KeptOut { general, why }| -> Result<(Arc<GeneralKey>, KeptOut), Invalid> {
        let general = required(general, "siting.named.general")?;
        Ok((names.general(tenant, &general.cluster, &general.name)?, words::kept_out(why)?))
    };
    let named = named.into_iter().map(&mut one).collect::<Result<_, _>>()?;
    Ok(Siting { kept_out, named, generals, instances })
}
