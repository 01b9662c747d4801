//! Tasks: `mindos.task.v1.TaskService`, and what its JSON form over HTTP shares with it.
//!
//! A task is an event and what that leads to; nothing is kept of it beside those. Invariant: who is told that a task was taken is told
//! so once its event is durable.

use std::sync::Arc;

use mindos_core::output::{Published, Reply};
use mindos_model::{DeliveryId, Seq, TenantName};
use mindos_proto::cloudevents::v1::cloud_event::Data;
use mindos_proto::convert::{Invalid, delivery_id};
use mindos_proto::delivery::v1::{Delivery, DeliveryFilter};
use mindos_proto::event::v1::Event;
use mindos_proto::rpc;
use mindos_proto::task::v1::task_service_server::TaskService;
use mindos_proto::task::v1::{
    CancelTaskRequest, CancelTaskResponse, CommentKind, CreateTaskRequest, CreateTaskResponse, GetTaskRequest,
    GetTaskResponse, ListTasksRequest, ListTasksResponse, Mode, Task, TaskSpec, cancel_task_request, get_task_request,
};
use serde_json::{Map, Value};
use tonic::{Request, Response, Status};

use super::delivery_filter::Filter;
use super::{Context, delivery, delivery_list, event, page_size, status};
use crate::access::Scoped;
use crate::ingest::cloudevents::IncomingEvent;
use crate::ingest::event::accept_incoming;
use crate::ingest::github_trust::Origin;
use crate::tasks::task::{self, TASK_KIND, TASK_SOURCE, TASK_TYPE, TaskError};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    pub(super) context: Arc<Context>,
}

/// Which task is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskKey {
    Seq(Seq),
    Id(String),
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn create_task(&self, request: Request<CreateTaskRequest>) -> Result<Response<CreateTaskResponse>, Status> {
        let context = self.context.of(&request)?;
        let CreateTaskRequest { spec, repeat } = request.into_inner();
        let spec = spec.ok_or_else(|| status::invalid(Invalid::new("spec", "is required")))?;
        let within = |error: TaskError| {
            let field = if error.field == "repeat" { error.field } else { format!("spec.{}", error.field) };
            status::invalid(Invalid::new(&field, error.reason))
        };
        let wish = of_spec(spec, &context.by()).map_err(within)?;
        let (task, duplicate) = context.create_task(&wish, task::repeat(&repeat).map_err(within)?).await?;
        Ok(Response::new(CreateTaskResponse { task: Some(task), duplicate }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let context = self.context.of(&request)?;
        let GetTaskRequest { key, include_output } = request.into_inner();
        let key = match key {
            None => return Err(status::invalid(Invalid::new("key", "is required")).into()),
            Some(get_task_request::Key::Seq(seq)) => TaskKey::Seq(Seq(seq)),
            Some(get_task_request::Key::Id(id)) => TaskKey::Id(id),
        };
        let task = context.task(&key, include_output).await?;
        Ok(Response::new(GetTaskResponse { task: Some(task) }))
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let context = self.context.of(&request)?;
        context.tasks(request.into_inner()).await.map(Response::new)
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Result<Response<CancelTaskResponse>, Status> {
        let context = self.context.of(&request)?;
        let key = match request.into_inner().key {
            None => return Err(status::invalid(Invalid::new("key", "is required")).into()),
            Some(cancel_task_request::Key::Seq(seq)) => TaskKey::Seq(Seq(seq)),
            Some(cancel_task_request::Key::Id(id)) => TaskKey::Id(id),
        };
        context.cancel_task(&key).await.map(Response::new)
    }
}

impl Context {
    /// Takes a task's event: the answer comes once it is durable. One that was taken with other fields is a conflict.
    pub(crate) async fn take_task(
        self: &Arc<Self>,
        tenant: &TenantName,
        incoming: IncomingEvent,
    ) -> Result<Published, rpc::Status> {
        self.room()?;
        let accepted = accept_incoming(tenant, incoming);
        let accepted = accepted.inspect_err(|_| self.handle.admission().count(crate::admission::Verdict::Invalid));
        let mut event = Box::new(accepted.map_err(|error| status::event(&error))?);
        self.recall(&mut event).await;
        self.quota(&event)?;
        match self.publish_one(event).await.map_err(|error| status::call(&error))? {
            Reply::Published(published) => Ok(self.first_answer(tenant, published).await),
            other => Err(rpc::Status::from(&super::unexpected(&other))),
        }
    }
}

impl Scoped {
    /// Takes a task that somebody asks for.
    pub(crate) async fn create_task(
        &self,
        wish: &task::Task,
        repeat: Option<&str>,
    ) -> Result<(Task, bool), rpc::Status> {
        self.granted_source(TASK_SOURCE)?;
        let published = self.take_task(self.tenant(), wish.event(&Origin::default(), repeat)).await?;
        let Published { event, duplicate, route: _, deliveries } = published;
        let deliveries = deliveries.into_iter().map(|planned| Delivery {
            delivery_id: planned.delivery.to_string(),
            status: super::words::status(match planned.parked {
                Some(_) => mindos_model::Status::Parked,
                None => mindos_model::Status::Waiting,
            }),
            general: planned.general.as_deref().map(super::words::general_name),
            park_reason: super::words::park_reason(planned.parked),
            lane: wish.lane(),
            ..Delivery::default()
        });
        let deliveries: Vec<Delivery> = deliveries.collect();
        let task = Task {
            seq: event.0,
            id: wish.id(repeat),
            spec: Some(to_spec(wish)),
            repository: wish.repository.clone(),
            status: deliveries.first().map_or(0, |first| first.status),
            created_at: None,
            deliveries,
        };
        Ok((task, duplicate))
    }

    /// One task as it stands.
    pub(crate) async fn task(&self, key: &TaskKey, include_output: bool) -> Result<Task, Status> {
        let event = self.task_event(key).await?;
        let mut deliveries = Vec::with_capacity(event.deliveries.len());
        for planned in &event.deliveries {
            if let Ok(id) = delivery_id(&planned.delivery_id) {
                deliveries.push(self.delivery(id, include_output).await?);
            }
        }
        Ok(shown(&event, deliveries))
    }

    /// A page of tasks, the newest first.
    pub(crate) async fn tasks(&self, request: ListTasksRequest) -> Result<ListTasksResponse, Status> {
        let ListTasksRequest { repository, statuses, page_size: asked, page_token } = request;
        let limit = page_size(asked, 1000)?;
        let filter = DeliveryFilter { kind: TASK_KIND.to_owned(), repository, statuses, ..DeliveryFilter::default() };
        let before = delivery_list::token(&page_token)?;
        let (deliveries, next) = delivery_list::page(self, Filter::new(filter)?, before, limit).await?;
        let mut tasks: Vec<Task> = Vec::new();
        for delivery in deliveries {
            let Ok(DeliveryId { event: seq, .. }) = delivery_id(&delivery.delivery_id) else { continue };
            match tasks.last_mut().filter(|last| last.seq == seq.0) {
                // Downwards, within one event too.
                Some(last) => {
                    last.status = delivery.status;
                    last.deliveries.insert(0, delivery);
                }
                None => {
                    let event = event::event(self, seq).await?;
                    // Other events may have the kind; they are no tasks.
                    if is_task(&event) {
                        tasks.push(shown(&event, vec![delivery]));
                    }
                }
            }
        }
        Ok(ListTasksResponse { tasks, next_page_token: next.map(|next| next.to_string()).unwrap_or_default() })
    }

    /// Cancels what a task led to.
    pub(crate) async fn cancel_task(&self, key: &TaskKey) -> Result<CancelTaskResponse, Status> {
        let event = self.task_event(key).await?;
        let mut answer = CancelTaskResponse::default();
        let open = self.open_event(Seq(event.seq)).await?;
        for planned in &event.deliveries {
            let Ok(id) = delivery_id(&planned.delivery_id) else { continue };
            let Some(view) = open.iter().find(|view| view.delivery == id && !view.status.is_settled()) else {
                answer.unchanged += 1;
                continue;
            };
            match delivery::cancel_one(self, view).await? {
                delivery::Cancelled::AtOnce => answer.cancelled += 1,
                delivery::Cancelled::Requested => answer.requested += 1,
                delivery::Cancelled::Unchanged => answer.unchanged += 1,
            }
        }
        Ok(answer)
    }

    /// The event of a task, with its data.
    async fn task_event(&self, key: &TaskKey) -> Result<Event, Status> {
        let name = match key {
            TaskKey::Seq(seq) => seq.to_string(),
            TaskKey::Id(id) => id.clone(),
        };
        let unknown = || Status::from(status::not_found("task", name.clone()));
        let missed = |status: Status| if status.code() == tonic::Code::NotFound { unknown() } else { status };
        let seq = match key {
            TaskKey::Seq(seq) => *seq,
            TaskKey::Id(id) => event::seq_of(self, TASK_SOURCE, id).await.map_err(missed)?,
        };
        let event = event::event(self, seq).await.map_err(missed)?;
        if is_task(&event) { Ok(event) } else { Err(unknown()) }
    }
}

fn is_task(event: &Event) -> bool {
    event.event.as_ref().is_some_and(|event| event.r#type == TASK_TYPE && event.source == TASK_SOURCE)
}

fn shown(event: &Event, deliveries: Vec<Delivery>) -> Task {
    let encoded = event.event.as_ref();
    let data = match encoded.and_then(|event| event.data.as_ref()) {
        Some(Data::BinaryData(data)) => serde_json::from_slice::<Map<String, Value>>(data).ok(),
        Some(Data::TextData(text)) => serde_json::from_str(text).ok(),
        Some(Data::ProtoData(_)) | None => None,
    };
    let spec = data.and_then(|data| task::Task::read(&data, None).ok());
    Task {
        seq: event.seq,
        id: encoded.map(|event| event.id.clone()).unwrap_or_default(),
        spec: spec.as_ref().map(to_spec),
        repository: event.repository.clone(),
        status: deliveries.first().map_or(0, |first| first.status),
        created_at: event.accepted_at,
        deliveries,
    }
}

fn of_spec(spec: TaskSpec, caller: &str) -> Result<task::Task, TaskError> {
    let TaskSpec {
        repo_url,
        mode,
        trigger_user,
        issue_id,
        pr_number,
        pr_branch,
        pr_title,
        base_branch,
        comment_id,
        comment_kind,
        comment_url,
        refine_request,
    } = spec;
    let unknown = |field: &str| TaskError { field: field.to_owned(), reason: "is not known".to_owned() };
    let mode = match Mode::try_from(mode).map_err(|_| unknown("mode"))? {
        Mode::Unspecified => "",
        Mode::Plan => "plan",
        Mode::Quickfix => "quickfix",
        Mode::Implement => "implement",
        Mode::Refine => "refine",
    };
    let kind = match CommentKind::try_from(comment_kind).map_err(|_| unknown("comment_kind"))? {
        CommentKind::Unspecified => "",
        CommentKind::Issue => "issue",
        CommentKind::Review => "review",
    };
    let number = |number: u64| if number == 0 { Value::Null } else { Value::from(number) };
    // Through the reader of messages, so that every way in has the same rules.
    let members = [
        ("repo_url", Value::from(repo_url)),
        ("mode", Value::from(mode)),
        ("trigger_user", Value::from(trigger_user)),
        ("issue_id", number(issue_id)),
        ("pr_number", number(pr_number)),
        ("pr_branch", Value::from(pr_branch)),
        ("pr_title", Value::from(pr_title)),
        ("base_branch", Value::from(base_branch)),
        ("comment_id", number(comment_id)),
        ("comment_kind", Value::from(kind)),
        ("comment_url", Value::from(comment_url)),
        ("refine_request", Value::from(refine_request)),
    ];
    let object = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    task::Task::read(&object, Some(caller))
}

fn to_spec(task: &task::Task) -> TaskSpec {
    let task::Task { repo_url, repository: _, mode, about, trigger_user } = task.clone();
    let task::About {
        issue_id,
        pr_number,
        pr_branch,
        pr_title,
        base_branch,
        comment_id,
        comment_kind,
        comment_url,
        refine_request,
    } = about;
    let mode = match mode {
        task::Mode::Plan => Mode::Plan,
        task::Mode::Quickfix => Mode::Quickfix,
        task::Mode::Implement => Mode::Implement,
        task::Mode::Refine => Mode::Refine,
    };
    let kind = match comment_kind {
        None => CommentKind::Unspecified,
        Some(task::CommentKind::Issue) => CommentKind::Issue,
        Some(task::CommentKind::Review) => CommentKind::Review,
    };
    TaskSpec {
        repo_url,
        mode: mode.into(),
        trigger_user,
        issue_id: issue_id.unwrap_or_default(),
        pr_number: pr_number.unwrap_or_default(),
        pr_branch: pr_branch.unwrap_or_default(),
        pr_title: pr_title.unwrap_or_default(),
        base_branch: base_branch.unwrap_or_default(),
        comment_id: comment_id.unwrap_or_default(),
        comment_kind: kind.into(),
        comment_url: comment_url.unwrap_or_default(),
        refine_request: refine_request.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_comes_back_as_it_was_and_a_wrong_one_names_its_field() {
        let spec = TaskSpec {
            repo_url: "https://github.com/o/n".to_owned(),
            mode: Mode::Refine.into(),
            trigger_user: "ada".to_owned(),
            pr_number: 7,
            comment_id: 9,
            comment_kind: CommentKind::Review.into(),
            refine_request: "better".to_owned(),
            ..TaskSpec::default()
        };
        assert_eq!(to_spec(&of_spec(spec.clone(), "x").unwrap()), spec);
        let asked = TaskSpec { trigger_user: String::new(), ..spec.clone() };
        assert_eq!(of_spec(asked, "token:4").unwrap().trigger_user, "token:4");
        assert_eq!(of_spec(TaskSpec { mode: 0, ..spec.clone() }, "x").unwrap_err().field, "mode");
        assert_eq!(of_spec(TaskSpec { mode: 99, ..spec }, "x").unwrap_err().to_string(), "mode: is not known");
    }
}
