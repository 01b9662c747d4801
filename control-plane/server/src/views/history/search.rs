//! Questions as SQL: conditions that are put together from what a query names, and the values that go with them.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::HistoryError;
use super::file::{DeliveryColumns, Domain};
use super::row::{DeliveryQuery, EventQuery, reason_code, status_code};
use mindos_model::{Status, TenantName};

/// Conditions with their values, for one file.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub text: String,
    pub values: Vec<Value>,
    /// The query names something that the file has never heard of.
    pub nothing: bool,
    /// The rows come by the index of a repository.
    pub by_repository: bool,
    /// The rows come by the index of deliveries set aside.
    pub by_status: bool,
    /// How much of `text` and `values` is about the event alone.
    event_part: (usize, usize),
    /// What is asked of a delivery that settled with its whole event; none can fit when unset.
    pub settled: Option<Settled>,
}

/// What a delivery must fit that stands beside its event. Unset fits all.
#[derive(Debug, Default)]
pub(super) struct Settled {
    instance: Option<i64>,
    generals: Option<Vec<i64>>,
}

impl Settled {
    pub(super) fn fits(&self, delivery: &DeliveryColumns) -> bool {
        self.instance.is_none_or(|instance| delivery.instance == Some(instance))
            && self.generals.as_ref().is_none_or(|ids| delivery.general.is_some_and(|id| ids.contains(&id)))
    }
}

impl Conditions {
    /// The conditions on the event alone, with their values.
    pub(super) fn of_event(&self) -> (&str, &[Value]) {
        let (text, values) = self.event_part;
        (&self.text[..text], &self.values[..values])
    }

    fn and(&mut self, text: &str, values: impl IntoIterator<Item = Value>) {
        self.text.push_str(" AND ");
        self.text.push_str(text);
        self.values.extend(values);
    }

    fn name(
        &mut self,
        connection: &Connection,
        column: &str,
        domain: Domain,
        text: Option<&str>,
    ) -> Result<Option<i64>, HistoryError> {
        let Some(text) = text else { return Ok(None) };
        let mut select = connection.prepare_cached("SELECT id FROM names WHERE domain = ? AND text = ?")?;
        let id: Option<i64> = select.query_row((domain as i64, text), |row| row.get(0)).optional()?;
        match id {
            Some(id) => self.and(&format!("{column} = ?"), [Value::Integer(id)]),
            None => self.nothing = true,
        }
        Ok(id)
    }

    fn among(&mut self, column: &str, values: impl IntoIterator<Item = i64>) {
        // Numbers of our own, so they may stand in the text.
        let list: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
        self.and(&format!("{column} IN ({})", list.join(", ")), []);
    }

    fn event(
        &mut self,
        connection: &Connection,
        tenant: Option<&TenantName>,
        parts: EventParts<'_>,
    ) -> Result<(), HistoryError> {
        let EventParts { repository, kind, ty, source, subject, lane, actor, route } = parts;
        self.name(connection, "e.tenant", Domain::Tenant, tenant.map(TenantName::as_str))?;
        self.by_repository = repository.is_some();
        self.name(connection, "e.repository", Domain::Repository, repository)?;
        self.name(connection, "e.kind", Domain::Kind, kind)?;
        self.name(connection, "e.type", Domain::Type, ty)?;
        self.name(connection, "e.source", Domain::Source, source)?;
        self.name(connection, "e.actor", Domain::Actor, actor)?;
        self.name(connection, "e.route", Domain::Route, route)?;
        if let Some(subject) = subject {
            self.and("e.subject = ?", [Value::Text(subject.to_owned())]);
        }
        if let Some(lane) = lane {
            self.and("coalesce(e.lane, e.subject) = ?", [Value::Text(lane.to_owned())]);
        }
        Ok(())
    }

    /// What an event must fit.
    pub(super) fn of_events(
        connection: &Connection,
        tenant: Option<&TenantName>,
        query: &EventQuery,
    ) -> Result<Conditions, HistoryError> {
        let EventQuery { repository, kind, ty, source, subject, lane, actor, route, since: _, until: _, before: _ } =
            query;
        let parts = EventParts {
            repository: repository.as_deref(),
            kind: kind.as_deref(),
            ty: ty.as_deref(),
            source: source.as_deref(),
            subject: subject.as_deref(),
            lane: lane.as_deref(),
            actor: actor.as_deref(),
            route: route.as_deref(),
        };
        let mut conditions = Conditions::default();
        conditions.event(connection, tenant, parts)?;
        Ok(conditions)
    }

    /// What a delivery and its event must fit.
    pub(super) fn of_deliveries(
        connection: &Connection,
        tenant: &TenantName,
        query: &DeliveryQuery,
    ) -> Result<Conditions, HistoryError> {
        let DeliveryQuery {
            repository,
            kind,
            general,
            cluster,
            route,
            lane,
            statuses,
            reasons,
            instance,
            events,
            since: _,
            until: _,
            before: _,
        } = query;
        let mut conditions = Conditions::default();
        let parts = EventParts {
            repository: repository.as_deref(),
            kind: kind.as_deref(),
            lane: lane.as_deref(),
            route: route.as_ref().map(AsRef::as_ref),
            ..EventParts::default()
        };
        conditions.event(connection, Some(tenant), parts)?;
        if !events.is_empty() {
            conditions.among("e.seq", events.iter().map(|event| event.0 as i64));
        }
        conditions.event_part = (conditions.text.len(), conditions.values.len());
        let mut settled = Settled {
            instance: conditions.name(connection, "d.instance", Domain::Instance, instance.as_deref())?,
            generals: None,
        };
        if general.is_some() || cluster.is_some() {
            let fits = |text: &str| {
                text.split_once('/').is_some_and(|(its_cluster, its_name)| {
                    cluster.as_ref().is_none_or(|cluster| cluster.as_str() == its_cluster)
                        && general.as_ref().is_none_or(|general| general.as_str() == its_name)
                })
            };
            let mut select = connection.prepare_cached("SELECT id, text FROM names WHERE domain = ?")?;
            let mut rows = select.query([Domain::General as i64])?;
            let mut ids = Vec::new();
            while let Some(row) = rows.next()? {
                if row.get_ref(1)?.as_str().is_ok_and(fits) {
                    ids.push(row.get(0)?);
                }
            }
            conditions.nothing |= ids.is_empty();
            conditions.among("d.general", ids.iter().copied());
            settled.generals = Some(ids);
        }
        let shown = [Status::Parked, Status::Succeeded, Status::Cancelled];
        let wanted: Vec<_> =
            shown.into_iter().filter(|status| statuses.is_empty() || statuses.contains(status)).collect();
        conditions.nothing |= wanted.is_empty();
        conditions.by_status = !wanted.contains(&Status::Succeeded);
        conditions.among("d.status", wanted.into_iter().map(status_code));
        if !reasons.is_empty() {
            conditions.among("d.reason", reasons.iter().copied().map(reason_code));
        }
        conditions.settled = (!conditions.by_status && reasons.is_empty()).then_some(settled);
        Ok(conditions)
    }
}

/// The conditions that events and deliveries share.
#[derive(Clone, Copy, Debug, Default)]
struct EventParts<'a> {
    repository: Option<&'a str>,
    kind: Option<&'a str>,
    ty: Option<&'a str>,
    source: Option<&'a str>,
    subject: Option<&'a str>,
    lane: Option<&'a str>,
    actor: Option<&'a str>,
    route: Option<&'a str>,
}
