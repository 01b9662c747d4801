//! Holds templates against the Job that runs them.
//!
//! Every variable that a template names has to be known, every file that a script demands has to be mounted, every variable of the
//! environment that a script reads has to be set, and no free text may stand in a script. What the earlier system never did: its script
//! demanded files that no Job mounted.

use std::collections::BTreeSet;

use handlebars::template::{BlockParam, HelperTemplate, Parameter, TemplateElement};
use handlebars::{Path, Template};
use k8s_openapi::api::batch::v1::Job;

use super::config::{ControllerConfig, JobSettings};
use super::plan::{Kind, Run, RunSpec};
use super::templates::{Form, Templates};
use super::{job, variables};

/// Something about a template that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{template}: {what}")]
pub struct Fault {
    /// Its key.
    pub template: String,
    pub what: String,
}

/// All faults in one line.
pub(super) fn said(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Checks both sets against Jobs as they would be made: by key and by token.
#[must_use]
pub fn check(templates: &Templates, config: &ControllerConfig, settings: &JobSettings) -> Vec<Fault> {
    let mut faults = BTreeSet::new();
    for url in ["https://github.com/acme/service", "git@github.com:acme/service.git"] {
        for kind in [Kind::Code, Kind::Docs] {
            let run = sample(kind, url);
            let job = job::job(&run, config, settings, false, "");
            faults.extend(against(templates, kind, &job));
            if let Err(error) = templates.render(kind, &variables::of(&run, config, settings)) {
                faults.insert(Fault { template: kind.as_str().to_owned(), what: error.to_string() });
            }
        }
    }
    faults.into_iter().collect()
}

/// A run to try templates with.
pub(super) fn sample(kind: Kind, url: &str) -> Run {
    let spec = match kind {
        Kind::Code => RunSpec::Code(super::CodeRunSpec {
            task_id: 5,
            service: "trader".to_owned(),
            repository_url: url.to_owned(),
            docs_repository_url: url.to_owned(),
            model: "claude-sonnet-4-20250514".to_owned(),
            github_user: "ada".to_owned(),
            docs_branch: "main".to_owned(),
            branch: "main".to_owned(),
            context_version: 1,
            ..super::CodeRunSpec::default()
        }),
        Kind::Docs => RunSpec::Docs(super::DocsRunSpec {
            repository_url: url.to_owned(),
            working_directory: ".".to_owned(),
            source_branch: "main".to_owned(),
            github_user: "ada".to_owned(),
            ..super::DocsRunSpec::default()
        }),
    };
    Run {
        name: "sample".to_owned(),
        namespace: "orchestrator".to_owned(),
        uid: "00000000-0000-0000-0000-000000000000".to_owned(),
        spec,
        context: 1,
        retries: 0,
    }
}

/// Checks the templates of a kind against a Job.
pub(super) fn against(templates: &Templates, kind: Kind, job: &Job) -> Vec<Fault> {
    let Some(set) = templates.sets.get(&kind) else { return Vec::new() };
    let files: BTreeSet<&str> = set.keys().map(String::as_str).collect();
    let env = environment(job);
    let mut faults = Vec::new();
    for (file, one) in set {
        let mut fault = |what: String| faults.push(Fault { template: one.key.clone(), what });
        let form = Form::of(file);
        let mut named = Named { locals: Vec::new(), found: Vec::new() };
        named.walk(&one.parsed);
        for Use { name, is_quoted, is_raw } in named.found {
            if !variables::is_known(kind, &name) {
                fault(format!("the variable `{name}` is not known"));
            } else if form == Form::Shell && !is_quoted && variables::FREE.contains(&name.as_str()) {
                fault(format!("the text `{name}` stands in a script as it is: expected `{{{{sh {name}}}}}`"));
            } else if form == Form::Json && is_raw && !is_quoted {
                fault(format!(
                    "`{name}` stands in JSON as it is: expected `{{{{{name}}}}}` within quotes, or `{{{{{{json {name}}}}}}}`"
                ));
            }
        }
        if form == Form::Text {
            continue;
        }
        for path in demanded(&one.text) {
            if let Some(what) = missing(&path, job, &files) {
                fault(what);
            }
        }
        if form == Form::Shell {
            let texts = [one.text.as_str(), set.get("common.sh").map_or("", |common| common.text.as_str())];
            for name in read_variables(&one.text) {
                if !env.contains(name.as_str()) && !SHELL.contains(&name.as_str()) && !is_assigned(&texts, &name) {
                    fault(format!("the variable ${name} of the environment is set by nobody"));
                }
            }
        }
    }
    if !files.contains("container.sh") {
        faults.push(Fault {
            template: format!("{}_container.sh", kind.as_str()),
            what: "is missing: the Job runs it".into(),
        });
    }
    faults
}

fn environment(job: &Job) -> BTreeSet<&str> {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let container = pod.and_then(|pod| pod.containers.first());
    let env = container.and_then(|container| container.env.as_ref());
    env.into_iter().flatten().map(|variable| variable.name.as_str()).collect()
}

/// Variables that a shell or a program has by itself, or that are optional settings of one.
const SHELL: [&str; 12] = [
    "PATH",
    "PWD",
    "OLDPWD",
    "SECONDS",
    "RANDOM",
    "UID",
    "EUID",
    "PIPESTATUS",
    "BASH_SOURCE",
    "FUNCNAME",
    "LINENO",
    "HOSTNAME",
];

/// Whether a file that a script demands is there in the Job.
fn missing(path: &str, job: &Job, files: &BTreeSet<&str>) -> Option<String> {
    const SYSTEM: [&str; 12] = [
        "/bin/", "/usr/", "/dev/", "/proc/", "/sys/", "/lib/", "/opt/", "/var/", "/sbin/", "/run/", "/home/", "/root/",
    ];
    if SYSTEM.iter().any(|folder| path.starts_with(folder))
        || path.starts_with("/etc/") && !path.starts_with("/etc/claude-code")
    {
        return None;
    }
    let pod = job.spec.as_ref()?.template.spec.as_ref()?;
    let mounts = pod.containers.first()?.volume_mounts.as_ref()?;
    let below = |mount: &str| path == mount || path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'));
    // Those of secrets depend on the form of the address.
    if path.starts_with(job::SSH) {
        return None;
    }
    let mount = mounts.iter().filter(|mount| below(&mount.mount_path)).max_by_key(|mount| mount.mount_path.len());
    let Some(mount) = mount else { return Some(format!("{path} is demanded, and the Job mounts nothing there")) };
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
    volume.config_map.as_ref()?;
    let file = match &mount.sub_path {
        Some(sub) => sub.as_str(),
        None => path.strip_prefix(mount.mount_path.as_str())?.trim_start_matches('/'),
    };
    if file.is_empty() || file.contains(['*', '$', '?']) || files.contains(file) {
        return None;
    }
    Some(format!("{path} is demanded, and no template becomes `{file}`"))
}

/// Absolute paths that a text names.
fn demanded(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let bytes = line.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let begins = bytes[at] == b'/' && (at == 0 || b" \t\"'=(<>`:".contains(&bytes[at - 1]));
            if !begins {
                at += 1;
                continue;
            }
            let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._*$?".contains(byte);
            let length = bytes[at..].iter().take_while(|byte| fits(byte)).count();
            let path = line[at..at + length].trim_end_matches(['.', '/']);
            // Two at least: `/x` alone is more often something else, such as a part of a pattern.
            if path.len() > 2 && !path.contains("//") && path[1..].contains('/') {
                found.insert(path.to_owned());
            }
            at += length.max(1);
        }
    }
    found
}

/// Upper case variables that a script reads without saying what else to take.
fn read_variables(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('$') {
        let is_braced = bytes.get(at + 1) == Some(&b'{');
        let from = at + 1 + usize::from(is_braced);
        let length = bytes[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || **byte == b'_')
            .count();
        let name = &text[from..from + length];
        let next = bytes.get(from + length).copied().unwrap_or(b' ');
        let has_default = is_braced && matches!(next, b':' | b'-' | b'+');
        let goes_on = next.is_ascii_lowercase();
        if name.starts_with(|letter: char| letter.is_ascii_uppercase()) && !has_default && !goes_on {
            found.insert(name.to_owned());
        }
    }
    found
}

fn is_assigned(texts: &[&str], name: &str) -> bool {
    texts.iter().any(|text| {
        text.lines().any(|line| {
            let words = line.split([' ', '\t', ';', '(', '"']);
            words.clone().any(|word| word.strip_prefix(name).is_some_and(|rest| rest.starts_with(['=', '+', '['])))
                || line.contains(&format!("read {name}"))
                || line.contains(&format!("for {name} in"))
        })
    })
}

/// A variable that a template names.
struct Use {
    name: String,
    /// By a helper that makes it harmless.
    is_quoted: bool,
    /// In three braces.
    is_raw: bool,
}

struct Named {
    /// Names of block parameters in force.
    locals: Vec<String>,
    found: Vec<Use>,
}

const HELPERS: [&str; 22] = [
    "if",
    "unless",
    "each",
    "with",
    "lookup",
    "raw",
    "log",
    "len",
    "eq",
    "ne",
    "gt",
    "gte",
    "lt",
    "lte",
    "and",
    "or",
    "not",
    "json",
    "sh",
    "else",
    "helperMissing",
    "blockHelperMissing",
];

impl Named {
    fn walk(&mut self, template: &Template) {
        for element in &template.elements {
            match element {
                TemplateElement::Expression(one) => self.helper(one, false, false),
                TemplateElement::HtmlExpression(one) => self.helper(one, true, false),
                TemplateElement::HelperBlock(block) => self.helper(block, false, true),
                TemplateElement::DecoratorExpression(one)
                | TemplateElement::DecoratorBlock(one)
                | TemplateElement::PartialExpression(one)
                | TemplateElement::PartialBlock(one) => {
                    for parameter in &one.params {
                        self.parameter(parameter, false, false);
                    }
                }
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                _ => {}
            }
        }
    }

    fn helper(&mut self, one: &HelperTemplate, is_raw: bool, is_block: bool) {
        let name = one.name.as_name();
        let is_helper = is_block || !one.params.is_empty() || !one.hash.is_empty();
        if !is_helper {
            return self.parameter(&one.name, false, is_raw);
        }
        let is_quoted = matches!(name, Some("json" | "sh")) || is_block;
        if let Some(name) = name
            && !HELPERS.contains(&name)
        {
            self.found.push(Use { name: name.to_owned(), is_quoted: true, is_raw: false });
        }
        for parameter in one.params.iter().chain(one.hash.values()) {
            self.parameter(parameter, is_quoted, is_raw);
        }
        // Within a list or another context names mean what is there.
        let is_inner = matches!(name, Some("each" | "with"));
        let before = self.locals.len();
        match &one.block_param {
            Some(BlockParam::Single(one)) => self.locals.extend(one.as_name().map(str::to_owned)),
            Some(BlockParam::Pair((one, two))) => {
                self.locals.extend([one, two].into_iter().filter_map(|name| name.as_name()).map(str::to_owned));
            }
            Some(_) | None => {}
        }
        for template in [&one.template, &one.inverse].into_iter().flatten() {
            if is_inner {
                let mut inner = Named { locals: self.locals.clone(), found: Vec::new() };
                inner.walk(template);
                // Only what reaches out of it can be judged.
                self.found.extend(
                    inner
                        .found
                        .into_iter()
                        .filter(|found| found.name.starts_with("../"))
                        .map(|found| Use { name: found.name.trim_start_matches("../").to_owned(), ..found }),
                );
            } else {
                self.walk(template);
            }
        }
        self.locals.truncate(before);
    }

    fn parameter(&mut self, parameter: &Parameter, is_quoted: bool, is_raw: bool) {
        let raw = match parameter {
            Parameter::Name(name) => name.clone(),
            Parameter::Path(Path::Relative((_, raw))) => raw.clone(),
            Parameter::Path(_) | Parameter::Literal(_) => return,
            Parameter::Subexpression(inner) => {
                let is_quoted = is_quoted || matches!(inner.name(), "json" | "sh");
                for parameter in inner.params().into_iter().flatten() {
                    self.parameter(parameter, is_quoted, is_raw);
                }
                return;
            }
            _ => return,
        };
        let path = raw.trim_start_matches("./");
        if path.starts_with("../") {
            let name = format!("../{}", root(path.trim_start_matches("../")));
            return self.found.push(Use { name, is_quoted, is_raw });
        }
        let name = root(path);
        if name != "this" && !name.starts_with('@') && !self.locals.contains(&name) {
            self.found.push(Use { name, is_quoted, is_raw });
        }
    }
}

/// The first part of a path: the variable.
fn root(path: &str) -> String {
    let path = path.strip_prefix("this.").unwrap_or(path);
    path.split(['.', '/', '[']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ControllerConfig {
        ControllerConfig::read("agent: { image: { repository: ghcr.io/x/claude-code, tag: 1.0.56 } }").unwrap()
    }

    #[test]
    fn the_stock_set_fits() {
        assert_eq!(check(&Templates::stock(), &config(), &JobSettings::default()), []);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (key, text, what) in [
            ("code_claude.md", "{{servise}}", "the variable `servise` is not known"),
            ("code_claude.md", "{{#if a.b}}x{{/if}}", "the variable `a` is not known"),
            ("code_claude.md", "{{#each local_tools}}{{../oops}}{{/each}}", "the variable `oops` is not known"),
            ("docs_claude.md", "{{task_id}}", "the variable `task_id` is not known"),
            ("code_x.sh", "echo {{prompt_modification}}", "stands in a script as it is"),
            ("code_x.json", "{{{local_tools}}}", "stands in JSON as it is"),
            ("code_x.sh", "cat /config/claude.md", "/config/claude.md is demanded, and the Job mounts nothing there"),
            ("code_x.sh", "cat \"/task-files/nothing.md\"", "no template becomes `nothing.md`"),
            ("code_x.sh", "cat /etc/claude-code/other.json", "the Job mounts nothing there"),
            ("code_x.sh", "echo \"$NOBODY_SETS_ME\"", "$NOBODY_SETS_ME of the environment is set by nobody"),
            ("docs_x.sh", "echo $TASK_ID", "$TASK_ID of the environment is set by nobody"),
        ] {
            let templates = Templates::with([(key, text)]).unwrap();
            let faults = check(&templates, &config(), &JobSettings::default());
            assert!(faults.len() == 1 && faults[0].template == key, "{text}: {faults:?}");
            assert!(faults[0].what.contains(what), "{text}: {faults:?}");
        }
    }

    #[test]
    fn what_fits_passes() {
        for (key, text) in [
            ("code_claude.md", "{{#each remote_tools as |tool|}}{{tool}} {{this}} {{@index}} {{../service}}{{/each}}"),
            (
                "code_x.sh",
                "X=1; echo $X ${GITHUB_USER} ${LATER:-none} {{sh prompt_modification}} {{service}} https://x/y/z /task-files/*",
            ),
            (
                "code_x.sh",
                "cat /etc/claude-code/managed-settings.json /task-files/container.sh # /nowhere/at/all"
                    .split(" #")
                    .next()
                    .unwrap(),
            ),
            ("docs_x.md", "{{telemetry.enabled}} {{#with permissions}}{{allow}}{{/with}}"),
        ] {
            let templates = Templates::with([(key, text)]).unwrap();
            assert_eq!(check(&templates, &config(), &JobSettings::default()), [], "{text}");
        }
    }
}
