//! Affinity and residency, in the words of a scenario.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::affinity::{Affinity, Place, Preference, Siting};
use mindos_core::record::Labels;
use mindos_core::route::Route;
use mindos_model::{ClusterName, Region};

use super::parse::{Parsed, number, text};

/// `key:value`, in a list.
pub(super) fn labels(word: Option<&str>) -> Parsed<Labels> {
    let label = |item: &str| {
        let (key, value) = item.split_once(':').ok_or_else(|| format!("`{item}` is not key:value"))?;
        Ok((Arc::from(key), Arc::from(value)))
    };
    items(word).map(label).collect()
}

/// The same, the other way.
pub(super) fn print_labels(out: &mut String, name: &str, labels: &Labels) {
    if !labels.is_empty() {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        let _ = write!(out, " {name}={}", labels.join(","));
    }
}

/// Reads `residency=eu,us require_regions=eu require_clusters=c1 require_labels=gpu:a100
/// prefer=40/region/eu,30/cluster/c1,20/label/gpu:a100`.
pub(super) fn read<'a>(route: &mut Route, take: &mut impl FnMut(&str) -> Option<&'a str>) -> Parsed<()> {
    let regions = |word| items(word).map(|item| Region::new(item).map_err(text)).collect::<Parsed<Vec<_>>>();
    route.policy.residency = regions(take("residency"))?;
    let clusters = items(take("require_clusters")).map(|item| ClusterName::new(item).map_err(text));
    let require = Place {
        clusters: clusters.collect::<Parsed<_>>()?,
        regions: regions(take("require_regions"))?,
        labels: labels(take("require_labels"))?,
    };
    let prefer = items(take("prefer")).map(preference).collect::<Parsed<Vec<_>>>()?;
    if !require.is_anywhere() || !prefer.is_empty() {
        route.policy.affinity = Some(Box::new(Affinity { require, prefer }));
    }
    Ok(())
}

fn preference(item: &str) -> Parsed<Preference> {
    let parts: Vec<_> = item.split('/').collect();
    let [weight, what, value] = parts[..] else { return Err(format!("`{item}` is not weight/what/value")) };
    let mut place = Place::default();
    match what {
        "region" => place.regions.push(Region::new(value).map_err(text)?),
        "cluster" => place.clusters.push(ClusterName::new(value).map_err(text)?),
        "label" => place.labels = labels(Some(value))?,
        _ => return Err(format!("`{what}` is not region, cluster or label")),
    }
    Ok(Preference { weight: number(weight)?, place })
}

fn items(word: Option<&str>) -> impl Iterator<Item = &str> {
    word.into_iter().flat_map(|list| list.split(','))
}

/// The same as [`read`], the other way.
pub(super) fn print(out: &mut String, route: &Route) {
    let mut list = |name: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = write!(out, " {name}={}", items.join(","));
        }
    };
    list("residency", route.policy.residency.iter().map(ToString::to_string).collect());
    let Some(Affinity { require: Place { clusters, regions, labels }, prefer }) = route.policy.affinity.as_deref()
    else {
        return;
    };
    list("require_clusters", clusters.iter().map(ToString::to_string).collect());
    list("require_regions", regions.iter().map(ToString::to_string).collect());
    let of = |labels: &Labels| labels.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>();
    list("require_labels", of(labels));
    // One of each, as [`read`] makes them.
    let line = |Preference { weight, place: Place { clusters, regions, labels } }: &Preference| {
        let clusters = clusters.iter().map(|one| format!("{weight}/cluster/{one}"));
        let regions = regions.iter().map(|one| format!("{weight}/region/{one}"));
        let labels = of(labels).into_iter().map(|one| format!("{weight}/label/{one}"));
        clusters.chain(regions).chain(labels).collect::<Vec<_>>()
    };
    list("prefer", prefer.iter().flat_map(line).collect());
}

/// What affinity and residency had to do with a choice.
pub(super) fn show(out: &mut String, siting: &Siting) -> std::fmt::Result {
    let Siting { kept_out, named, generals, instances } = siting;
    let list = |factors: &[u32]| factors.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if !generals.is_empty() || !instances.is_empty() {
        write!(out, " preferred={}/{}", list(generals), list(instances))?;
    }
    for (general, why) in named {
        write!(out, " kept_out={general}:{why:?}")?;
    }
    if *kept_out as usize > named.len() {
        write!(out, " kept_out={kept_out}")?;
    }
    Ok(())
}
