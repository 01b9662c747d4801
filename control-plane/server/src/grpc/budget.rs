//! Budgets: `mindos.budget.v1.BudgetService`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mindos_core::budget::Limit;
use mindos_core::input::{BudgetChange, Input, Query};
use mindos_core::output::{BudgetView, Reply};
use mindos_journal::encode::budget::{from_message, of_amount, of_level, to_message};
use mindos_model::{BudgetName, Timestamp};
use mindos_proto::budget::v1::budget_service_server::BudgetService;
use mindos_proto::budget::v1::{
    AcknowledgeBudgetRequest, AcknowledgeBudgetResponse, BudgetStatus, DeleteBudgetRequest, DeleteBudgetResponse,
    GetBudgetRequest, GetBudgetResponse, GetUsageRequest, GetUsageResponse, ListBudgetsRequest, ListBudgetsResponse,
    SetBudgetRequest, SetBudgetResponse, UsageDimension, UsageRow,
};
use mindos_proto::convert::{Invalid, parsed, time, timestamp};
use tonic::{Request, Response, Status};

use super::{Context, status};
use crate::access::Scoped;
use crate::views::history::{Spending, SpendingBy};

/// What usage is asked for unless somebody says since when.
const USAGE_SPAN: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows of one answer where nobody says how many, and at most.
const USAGE_ROWS: usize = 100;
const USAGE_ROWS_MAX: usize = 1000;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Budgets {
    pub(super) context: Arc<Context>,
}

impl Scoped {
    pub(super) async fn budget_views(&self) -> Result<Vec<BudgetView>, Status> {
        let ask = |request| Input::Query { request, tenant: self.tenant().clone(), query: Query::Budgets };
        match self.handle.call(ask).await.map_err(|error| status::call(&error))? {
            Reply::Budgets(views) => Ok(views),
            other => Err(super::unexpected(&other)),
        }
    }

    async fn named_budget(&self, name: &BudgetName) -> Result<BudgetStatus, Status> {
        let view = self.budget_views().await?.into_iter().find(|view| view.budget.name == *name);
        let unknown = || {
            let what = format!("budget {name}");
            status::rejection(&mindos_core::output::Rejection::UnknownTarget { what })
        };
        Ok(standing(&view.ok_or_else(unknown)?))
    }

    pub(super) async fn change_budget(&self, change: BudgetChange) -> Result<(), Status> {
        let (tenant, by, from) = (self.tenant().clone(), self.by(), self.from());
        let input = |request| Input::Budget { request, tenant, change, by, from };
        match self.handle.call(input).await.map_err(|error| status::call(&error))? {
            Reply::Done { at: _ } => Ok(()),
            other => Err(super::unexpected(&other)),
        }
    }
}

fn name(text: &str) -> Result<BudgetName, Status> {
    Ok(parsed(text, "name").map_err(status::invalid)?)
}

fn standing(view: &BudgetView) -> BudgetStatus {
    let BudgetView { budget, since: _, began, resets, charged, reserved, level, acknowledged, parked } = view;
    // One for runs has its limit for each of them: there is no share of all.
    let limit = if budget.scope == mindos_core::budget::Scope::Run { Limit::default() } else { budget.limit };
    BudgetStatus {
        budget: Some(to_message(budget)),
        charged: Some(of_amount(*charged)),
        reserved: Some(of_amount(*reserved)),
        level: of_level(*level),
        period_began_at: Some(time(*began)),
        resets_at: resets.map(time),
        acknowledged: *acknowledged,
        parked: *parked,
        used_percent: limit.percent(charged.plus(*reserved)),
    }
}

#[tonic::async_trait]
impl BudgetService for Budgets {
    async fn set_budget(&self, request: Request<SetBudgetRequest>) -> Result<Response<SetBudgetResponse>, Status> {
        let context = self.context.of(&request)?;
        let budget =
            request.into_inner().budget.ok_or_else(|| status::invalid(Invalid::new("budget", "is required")))?;
        let budget = from_message(budget).map_err(|error| status::invalid(error.within("budget")))?;
        budget.check().map_err(|error| status::budget(&error))?;
        let name = budget.name.clone();
        context.change_budget(BudgetChange::Set(Arc::new(budget))).await?;
        Ok(Response::new(SetBudgetResponse { budget: Some(context.named_budget(&name).await?) }))
    }

    async fn get_budget(&self, request: Request<GetBudgetRequest>) -> Result<Response<GetBudgetResponse>, Status> {
        let context = self.context.of(&request)?;
        let budget = context.named_budget(&name(&request.into_inner().name)?).await?;
        Ok(Response::new(GetBudgetResponse { budget: Some(budget) }))
    }

    async fn list_budgets(
        &self,
        request: Request<ListBudgetsRequest>,
    ) -> Result<Response<ListBudgetsResponse>, Status> {
        let budgets = self.context.of(&request)?.budget_views().await?.iter().map(standing).collect();
        Ok(Response::new(ListBudgetsResponse { budgets }))
    }

    async fn delete_budget(
        &self,
        request: Request<DeleteBudgetRequest>,
    ) -> Result<Response<DeleteBudgetResponse>, Status> {
        let context = self.context.of(&request)?;
        context.change_budget(BudgetChange::Remove(name(&request.into_inner().name)?)).await?;
        Ok(Response::new(DeleteBudgetResponse {}))
    }

    async fn acknowledge_budget(
        &self,
        request: Request<AcknowledgeBudgetRequest>,
    ) -> Result<Response<AcknowledgeBudgetResponse>, Status> {
        let context = self.context.of(&request)?;
        let name = name(&request.into_inner().name)?;
        context.change_budget(BudgetChange::Acknowledge(name.clone())).await?;
        Ok(Response::new(AcknowledgeBudgetResponse { budget: Some(context.named_budget(&name).await?) }))
    }

    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Result<Response<GetUsageResponse>, Status> {
        let context = self.context.of(&request)?;
        let GetUsageRequest { dimension, limit, since, until } = request.into_inner();
        let limit = match limit as usize {
            0 => USAGE_ROWS,
            asked @ 1..=USAGE_ROWS_MAX => asked,
            asked => {
                let accepted = format_args!("is {asked}: expected at most {USAGE_ROWS_MAX}");
                return Err(status::invalid(Invalid::new("limit", accepted)).into());
            }
        };
        let at = |text: Option<prost_types::Timestamp>, field| {
            text.map(|at| timestamp(&at, field)).transpose().map_err(status::invalid)
        };
        let since = at(since, "since")?.unwrap_or_else(|| context.handle.now() - USAGE_SPAN);
        let until = at(until, "until")?.unwrap_or(Timestamp::MAX);
        let dimension = UsageDimension::try_from(dimension).map_err(|_| {
            let accepted = "expected repository, general_type, route, general or kind";
            status::invalid(Invalid::new("dimension", accepted))
        })?;
        let by = match dimension {
            UsageDimension::Repository => SpendingBy::Repository,
            UsageDimension::Route => SpendingBy::Route,
            UsageDimension::Kind => SpendingBy::Kind,
            UsageDimension::Unspecified | UsageDimension::GeneralType | UsageDimension::General => SpendingBy::General,
        };
        let read = context.blocking(move |context| context.history.spending(context.tenant(), by, since, until));
        let read = read.await?.map_err(|error| super::failed("the history was not read", &error))?;
        let (mut found, partial) = read;
        if matches!(dimension, UsageDimension::Unspecified | UsageDimension::GeneralType) {
            found = context.by_type(found).await?;
        }
        let mut rows: Vec<_> = found.into_iter().map(|(value, spending)| row(value, spending)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.cost_micros, row.input_tokens)));
        rows.truncate(limit);
        Ok(Response::new(GetUsageResponse { rows, partial }))
    }
}

impl Scoped {
    /// Generals by their types; one that is known no longer stays by its name.
    async fn by_type(&self, found: BTreeMap<String, Spending>) -> Result<BTreeMap<String, Spending>, Status> {
        let fleet = self.fleet().await?;
        let known = fleet.generals.iter().map(|general| (general.key.to_string(), general.ty.to_string()));
        let known: BTreeMap<String, String> = known.collect();
        let mut types = BTreeMap::<String, Spending>::new();
        for (general, spending) in found {
            let ty = known.get(&general).cloned().unwrap_or(general);
            types.entry(ty).or_default().add(spending);
        }
        Ok(types)
    }
}

fn row(value: String, spending: Spending) -> UsageRow {
    let Spending { cost_micros, input_tokens, output_tokens, time_ms, deliveries } = spending;
    UsageRow { value, cost_micros, input_tokens, output_tokens, time_ms, deliveries }
}
