//! A plan: all that one attempt at a run makes in a cluster.
//!
//! Invariant: the same run, context and settings give the same plan, so that whoever is started again finds what it made before.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::code_run::{CodeRunSpec, Tools};
use super::config::{ControllerConfig, JobSettings};
use super::docs_run::DocsRunSpec;
use super::request::DOCS_MODEL;
use super::templates::{TemplateError, Templates};
use super::{GROUP, check, job, names, tools, variables};

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Code,
    Docs,
}

impl Kind {
    /// Its word: `code` or `docs`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Code => "code",
            Kind::Docs => "docs",
        }
    }

    /// The kind of its object.
    #[must_use]
    pub fn object(self) -> &'static str {
        match self {
            Kind::Code => "CodeRun",
            Kind::Docs => "DocsRun",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
// Runs are held one by one.
#[allow(clippy::large_enum_variant)]
pub enum RunSpec {
    Code(CodeRunSpec),
    Docs(DocsRunSpec),
}

impl RunSpec {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            RunSpec::Code(_) => Kind::Code,
            RunSpec::Docs(_) => Kind::Docs,
        }
    }

    #[must_use]
    pub fn repository_url(&self) -> &str {
        match self {
            RunSpec::Code(spec) => &spec.repository_url,
            RunSpec::Docs(spec) => &spec.repository_url,
        }
    }

    #[must_use]
    pub fn github_user(&self) -> &str {
        match self {
            RunSpec::Code(spec) => &spec.github_user,
            RunSpec::Docs(spec) => &spec.github_user,
        }
    }

    #[must_use]
    pub fn model(&self) -> &str {
        match self {
            RunSpec::Code(spec) => &spec.model,
            RunSpec::Docs(spec) => spec.model.as_deref().unwrap_or(DOCS_MODEL),
        }
    }

    /// How often it may be tried again, where it says so.
    #[must_use]
    pub fn max_retries(&self) -> Option<u32> {
        match self {
            RunSpec::Code(spec) => spec.max_retries,
            RunSpec::Docs(spec) => spec.max_retries,
        }
    }

    /// All addresses that are cloned.
    #[must_use]
    pub fn addresses(&self) -> Vec<&str> {
        match self {
            RunSpec::Code(spec) => vec![&spec.repository_url, &spec.docs_repository_url],
            RunSpec::Docs(spec) => vec![&spec.repository_url],
        }
    }

    /// The service whose workspace it takes; none where it has one of its own.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            RunSpec::Code(spec) => Some(&spec.service),
            RunSpec::Docs(_) => None,
        }
    }
}

/// One attempt at a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub name: String,
    pub namespace: String,
    /// Of its object.
    pub uid: String,
    pub spec: RunSpec,
    /// Its context: that of the spec and one more for every attempt after the first.
    pub context: u32,
    /// Attempts before this one.
    pub retries: u32,
}

impl Run {
    /// The tools of its agent.
    #[must_use]
    pub fn tools(&self) -> Tools {
        match &self.spec {
            RunSpec::Code(spec) => tools::of_run(
                spec.tool_config,
                spec.tools.as_ref(),
                spec.local_tools.as_deref(),
                spec.remote_tools.as_deref(),
            ),
            RunSpec::Docs(_) => Tools::default(),
        }
    }

    /// The name of its Job.
    #[must_use]
    pub fn job_name(&self) -> String {
        let Run { name, namespace, uid, spec, context, .. } = self;
        match spec {
            RunSpec::Code(spec) => names::code_job(namespace, name, uid, spec.task_id, *context),
            RunSpec::Docs(_) => names::docs_job(namespace, name, uid, *context),
        }
    }

    /// The name of its ConfigMap; `apart` where the contract's name is another run's.
    #[must_use]
    pub fn files_name(&self, apart: bool) -> String {
        let Run { name, namespace, uid, spec, context, .. } = self;
        match spec {
            RunSpec::Code(spec) => {
                names::code_files(&spec.service, spec.task_id, *context, if apart { uid } else { "" })
            }
            RunSpec::Docs(_) => names::docs_files(namespace, name, uid, *context),
        }
    }

    /// The name of its workspace's claim.
    #[must_use]
    pub fn workspace_name(&self) -> Option<String> {
        self.spec.service().map(names::workspace)
    }

    /// Says that an object is this run's.
    #[must_use]
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{GROUP}/v1"),
            kind: self.spec.kind().object().to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// All that one attempt makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub files: ConfigMap,
    /// The workspace of its service; it stays.
    pub workspace: Option<PersistentVolumeClaim>,
    pub job: Job,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("templates do not fit the Job: {}", check::said(.0))]
    Faults(Vec<check::Fault>),
    #[error("the files have {found} bytes: expected at most 1048576")]
    Size { found: usize },
}

impl Plan {
    /// Renders a run. `apart` gives its ConfigMap a name of its own.
    ///
    /// # Errors
    /// When the configuration names no image, or a template does not fit.
    pub fn new(
        run: &Run,
        config: &ControllerConfig,
        settings: &JobSettings,
        templates: &Templates,
        apart: bool,
    ) -> Result<Plan, PlanError> {
        config.image(settings).map_err(PlanError::Config)?;
        let kind = run.spec.kind();
        let files = templates.render(kind, &variables::of(run, config, settings))?;
        let found = files.values().map(String::len).sum();
        if found > 1 << 20 {
            return Err(PlanError::Size { found });
        }
        let plan = Plan {
            files: job::files(run, files, apart),
            workspace: job::workspace(run, config),
            job: job::job(run, config, settings, apart, &templates.version(kind)),
        };
        let faults = check::against(templates, kind, &plan.job);
        if faults.is_empty() { Ok(plan) } else { Err(PlanError::Faults(faults)) }
    }

    /// The files by their names.
    #[must_use]
    pub fn rendered(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.files.data.as_ref().unwrap_or(&NONE)
    }
}
