//! Objects of clusters, in the words of a scenario: `object apply CLUSTER/NAMESPACE/NAME kind=.. makes=.. ..` and `object remove ..`.
//!
//! Routes that stand before a line with `table=` are the table that the object brings, made from that of the record.

use std::fmt::Write as _;
use std::sync::Arc;

use mindos_core::input::{Input, RequestId};
use mindos_core::object::{Made, Object, ObjectChange, ObjectKey, ObjectKind, With};
use mindos_core::record::Holds;
use mindos_core::route::{Route, RouteTable};
use mindos_model::{ClusterName, Region, Seq};

use super::parse::{self, Parsed, Words, number, text};
use super::{print, siting};
use crate::words;

const KINDS: [(&str, ObjectKind); 4] = [
    ("cluster", ObjectKind::Cluster),
    ("general", ObjectKind::General),
    ("route", ObjectKind::Route),
    ("budget", ObjectKind::Budget),
];

impl Words<'_> {
    /// Reads a change; see [`print`] for how it is written.
    pub(super) fn object(&mut self) -> Parsed<Input> {
        let verb = self.next("apply or remove")?;
        let word = self.next("an object")?;
        let [cluster, namespace, name] = word.split('/').collect::<Vec<_>>()[..] else {
            return Err(format!("`{word}` is not cluster/namespace/name"));
        };
        let kind = self.take("kind").unwrap_or_default();
        let kind = KINDS.iter().find(|(word, _)| *word == kind).map(|(_, kind)| *kind);
        let kind = kind.ok_or("kind: expected cluster, general, route or budget")?;
        let key = ObjectKey {
            tenant: words::tenant(),
            cluster: ClusterName::new(cluster).map_err(text)?,
            kind,
            namespace: Arc::from(if namespace == "-" { "" } else { namespace }),
            name: Arc::from(name),
        };
        let table = self.take("table").map(number).transpose()?.map(Seq);
        // The routes come from the lines before.
        let table = table.map(|at| With::Routes(Arc::new(RouteTable { routes: Vec::new(), trust: None }), at));
        let (by, uid) = (Arc::from(key.to_string()), self.take("uid").map(Arc::from));
        let change = match verb {
            "apply" => self.applied(key, uid, table)?,
            "remove" => ObjectChange::Remove { key, uid, with: table.unwrap_or(With::Nothing) },
            _ => return Err(format!("`{verb}` is not apply or remove")),
        };
        Ok(Input::Object { request: RequestId(0), change: Box::new(change), by, from: Arc::from("") })
    }

    fn applied(&mut self, key: ObjectKey, uid: Option<Arc<str>>, table: Option<With>) -> Parsed<ObjectChange> {
        let makes = self.take("makes").unwrap_or(&key.name).to_owned();
        let holds = self.list("holds", |word| Ok(word.to_owned()))?;
        let holds = |word: &str| holds.iter().any(|held| held == word);
        let holds = Holds { paused: holds("paused"), cordoned: holds("cordoned"), draining: holds("draining") };
        let labels = siting::labels(self.take("labels"))?;
        let mut with = table.unwrap_or(With::Nothing);
        let made = match key.kind {
            ObjectKind::Cluster => {
                let region = self.take("region").map(Region::new).transpose().map_err(text)?;
                Made::Cluster { region, labels, holds }
            }
            ObjectKind::General => {
                let ty = self.take("type").map(str::parse).transpose().map_err(text)?;
                Made::General { name: makes.parse().map_err(text)?, ty, labels, holds }
            }
            ObjectKind::Route => Made::Route { name: makes.parse().map_err(text)?, holds },
            ObjectKind::Budget => {
                let name: mindos_model::BudgetName = makes.parse().map_err(text)?;
                with = With::Budget(Arc::new(self.budget_of(name.clone())?));
                Made::Budget { name }
            }
        };
        let generation = self.take("generation").map(number).transpose()?.unwrap_or(1);
        let spec = Arc::from(self.take("spec").unwrap_or("{}"));
        let uid = uid.unwrap_or_else(|| Arc::from("u1"));
        Ok(ObjectChange::Apply { object: Arc::new(Object { key, uid, generation, spec, made }), with })
    }
}

/// Gives an object the routes of the lines before it.
pub(super) fn bring(input: &mut Input, routes: &mut Vec<Route>) {
    let Input::Object { change, .. } = input else { return };
    let (ObjectChange::Apply { with, .. } | ObjectChange::Remove { with, .. }) = change.as_mut();
    if let With::Routes(table, _) = with {
        *table = parse::table(std::mem::take(routes), None);
    }
}

/// The lines that stand for a change.
pub(super) fn print(change: &ObjectChange) -> String {
    let (verb, key, with) = match change {
        ObjectChange::Apply { object, with } => ("apply", &object.key, with),
        ObjectChange::Remove { key, with, .. } => ("remove", key, with),
    };
    let ObjectKey { tenant: _, cluster, kind, namespace, name } = key;
    let mut text = String::new();
    if let With::Routes(table, _) = with {
        text.extend(table.routes.iter().map(|route| format!("{}\n", print::route(route))));
    }
    let namespace = if namespace.is_empty() { "-" } else { namespace };
    let kind = KINDS.iter().find(|(_, known)| known == kind).map_or("", |(word, _)| *word);
    let _ = write!(text, "object {verb} {cluster}/{namespace}/{name} kind={kind}");
    match change {
        ObjectChange::Apply { object, .. } => print_object(&mut text, object),
        ObjectChange::Remove { uid, .. } => {
            let _ = uid.iter().try_for_each(|uid| write!(text, " uid={uid}"));
        }
    }
    match with {
        With::Nothing => {}
        With::Routes(_, at) => text.push_str(&format!(" table={at}")),
        With::Budget(budget) => {
            let line = print::budget(budget);
            let _ = write!(text, " {}", line.split_once(' ').map_or("", |(_, rest)| rest));
        }
    }
    text
}

fn print_object(text: &mut String, object: &Object) {
    let Object { key: _, uid, generation, spec, made } = object;
    let _ = write!(text, " uid={uid} generation={generation} spec={spec}");
    let (labels, holds) = match made {
        Made::Cluster { region, labels, holds } => {
            let _ = region.iter().try_for_each(|region| write!(text, " region={region}"));
            (Some(labels), *holds)
        }
        Made::General { name, ty, labels, holds } => {
            let _ = write!(text, " makes={name}");
            let _ = ty.iter().try_for_each(|ty| write!(text, " type={ty}"));
            (Some(labels), *holds)
        }
        Made::Route { name, holds } => {
            let _ = write!(text, " makes={name}");
            (None, *holds)
        }
        Made::Budget { name } => {
            let _ = write!(text, " makes={name}");
            (None, Holds::NONE)
        }
    };
    if let Some(labels) = labels {
        siting::print_labels(text, "labels", labels);
    }
    let Holds { paused, cordoned, draining } = holds;
    let words = [(paused, "paused"), (cordoned, "cordoned"), (draining, "draining")];
    let words: Vec<_> = words.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word).collect();
    if !words.is_empty() {
        let _ = write!(text, " holds={}", words.join(","));
    }
}
