//! Requests for runs, as they come over HTTP and from objects, and what of them is accepted.
//!
//! Invariant: what leaves here as a spec holds no text that means something to a shell, but for the free texts `prompt_modification`,
//! `task_requirements`, `acceptance_criteria` and the values of `env`, which templates get no way to put into one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::code_run::{CodeRunSpec, EnvFromSecret, PromptMode, Tools};
use super::docs_run::DocsRunSpec;
use super::tools::ToolConfig;

/// Longest address, branch or directory, in bytes.
const LINE_MAX: usize = 1024;
/// Longest free text, in bytes.
pub const TEXT_MAX: usize = 64 << 10;
/// Variables of a run.
const ENV_MAX: usize = 128;
/// How often a run may ask to be tried again.
pub const RETRIES_MAX: u32 = 9;
/// Tools that a run names.
const TOOLS_MAX: usize = 256;
/// The model of code runs where none is named.
pub const CODE_MODEL: &str = "claude-sonnet-4-20250514";
/// The model of documentation runs where none is named.
pub const DOCS_MODEL: &str = "claude-opus-4-20250514";

/// A field that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct RequestError {
    /// Its name, as the caller wrote it.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub reason: String,
}

impl RequestError {
    fn new(field: &str, reason: impl Into<String>) -> RequestError {
        RequestError { field: field.to_owned(), reason: reason.into() }
    }
}

/// A run as its event carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order<S> {
    /// Of the object.
    pub name: String,
    /// Where the object is.
    pub namespace: String,
    /// Of an object that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    pub spec: S,
}

/// Reads `POST /api/v1/pm/tasks`.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeRequest;

/// Reads `POST /api/v1/pm/docs/generate`.
#[derive(Clone, Debug, PartialEq)]
pub struct DocsRequest;

impl CodeRequest {
    /// Reads a request; members that are not known are passed over, as the earlier system did.
    ///
    /// # Errors
    /// Names the first member that is not accepted.
    pub fn read(object: &Map<String, Value>, model: &str) -> Result<CodeRunSpec, RequestError> {
        let fields = Fields(object);
        let older = |name: &'static str, older: &'static str| {
            if !object.contains_key(name) && object.contains_key(older) { older } else { name }
        };
        let docs_url = older("docs_repository_url", "platform_repository_url");
        let docs_directory = older("docs_project_directory", "platform_project_directory");
        let tool_config = match fields.text("tool_config")? {
            None => ToolConfig::Default,
            Some(word) => ToolConfig::named(&word)
                .ok_or_else(|| RequestError::new("tool_config", "expected default, minimal or advanced"))?,
        };
        let prompt_mode = match fields.text("prompt_mode")?.as_deref() {
            None | Some("append") => PromptMode::Append,
            Some("replace") => PromptMode::Replace,
            Some(_) => return Err(RequestError::new("prompt_mode", "expected append or replace")),
        };
        let spec = CodeRunSpec {
            task_id: fields.needed_number("task_id")?,
            service: fields.needed("service")?,
            repository_url: fields.needed("repository_url")?,
            docs_repository_url: fields.needed(docs_url)?,
            docs_project_directory: fields.text(docs_directory)?,
            working_directory: fields.text("working_directory")?,
            model: fields.text("model")?.unwrap_or_else(|| model.to_owned()),
            github_user: fields.needed("github_user")?,
            local_tools: fields.text("local_tools")?,
            remote_tools: fields.text("remote_tools")?,
            context_version: fields.number("context_version")?.unwrap_or(1),
            prompt_modification: fields.text("prompt_modification")?,
            docs_branch: fields.text("docs_branch")?.unwrap_or_else(|| "main".to_owned()),
            branch: fields.text("branch")?.unwrap_or_else(|| "main".to_owned()),
            continue_session: fields.flag("continue_session")?,
            overwrite_memory: fields.flag("overwrite_memory")?,
            fresh_workspace: fields.flag("fresh_workspace")?,
            env: fields.env()?,
            env_from_secrets: fields.env_from_secrets()?,
            tools: None,
            tool_config,
            prompt_mode,
            max_retries: fields.number("max_retries")?,
            service_account_name: None,
            task_requirements: fields.text("task_requirements")?,
            acceptance_criteria: fields.text("acceptance_criteria")?,
            others: BTreeMap::new(),
        };
        check_code(&spec).map_err(|error| error.in_words_of(object))?;
        Ok(spec)
    }
}

impl DocsRequest {
    /// Reads a request; members that are not known are passed over.
    ///
    /// # Errors
    /// Names the first member that is not accepted.
    pub fn read(object: &Map<String, Value>, model: &str) -> Result<DocsRunSpec, RequestError> {
        let fields = Fields(object);
        let spec = DocsRunSpec {
            repository_url: fields.needed("repository_url")?,
            working_directory: fields.needed("working_directory")?,
            source_branch: fields.needed("source_branch")?,
            github_user: fields.needed("github_user")?,
            model: Some(fields.text("model")?.unwrap_or_else(|| model.to_owned())),
            max_retries: fields.number("max_retries")?,
            service_account_name: None,
            others: BTreeMap::new(),
        };
        check_docs(&spec).map_err(|error| error.in_words_of(object))?;
        Ok(spec)
    }
}

impl RequestError {
    /// The error with its field in snake case, as requests have it.
    fn in_words_of(self, object: &Map<String, Value>) -> RequestError {
        let mut field = String::new();
        for letter in self.field.chars() {
            if letter.is_ascii_uppercase() {
                field.push('_');
            }
            field.push(letter.to_ascii_lowercase());
        }
        if !object.contains_key(&field) {
            field = field.replacen(
                "docs_",
                "platform_",
                usize::from(object.contains_key(&field.replacen("docs_", "platform_", 1))),
            );
        }
        RequestError { field, ..self }
    }
}

/// Checks what may stand in a code run, whichever way it came. Fields are named as in the spec.
///
/// # Errors
/// Names the first field that is not accepted.
pub fn check_code(spec: &CodeRunSpec) -> Result<(), RequestError> {
    let CodeRunSpec {
        task_id: _,
        service,
        repository_url,
        docs_repository_url,
        model,
        github_user,
        working_directory,
        docs_project_directory,
        docs_branch,
        branch,
        context_version,
        prompt_modification,
        prompt_mode: _,
        continue_session: _,
        overwrite_memory: _,
        fresh_workspace: _,
        env,
        env_from_secrets,
        tools,
        local_tools,
        remote_tools,
        tool_config: _,
        max_retries,
        service_account_name,
        task_requirements,
        acceptance_criteria,
        others: _,
    } = spec;
    word("service", service)?;
    address("repositoryUrl", repository_url)?;
    address("docsRepositoryUrl", docs_repository_url)?;
    word("model", model)?;
    login("githubUser", github_user)?;
    directory("workingDirectory", working_directory.as_deref().unwrap_or("."))?;
    directory("docsProjectDirectory", docs_project_directory.as_deref().unwrap_or("."))?;
    git_branch("docsBranch", docs_branch)?;
    git_branch("branch", branch)?;
    if *context_version == 0 || *context_version > 1_000_000 {
        return Err(RequestError::new("contextVersion", "expected 1 to 1000000"));
    }
    retries(*max_retries)?;
    for (field, text) in [
        ("promptModification", prompt_modification),
        ("taskRequirements", task_requirements),
        ("acceptanceCriteria", acceptance_criteria),
    ] {
        free(field, text.as_deref().unwrap_or_default())?;
    }
    if env.len() + env_from_secrets.len() > ENV_MAX {
        return Err(RequestError::new("env", format!("expected at most {ENV_MAX} variables")));
    }
    for (name, value) in env {
        variable("env", name)?;
        free("env", value)?;
    }
    for EnvFromSecret { name, secret_name, secret_key } in env_from_secrets {
        variable("envFromSecrets", name)?;
        secret("envFromSecrets", secret_name)?;
        secret("envFromSecrets", secret_key)?;
    }
    let lists = tools.as_ref().map(|Tools { local, remote }| local.iter().chain(remote).map(String::as_str));
    let strings = [local_tools, remote_tools].into_iter().flatten().flat_map(|list| list.split(','));
    let named: Vec<&str> = lists.into_iter().flatten().chain(strings).map(str::trim).collect();
    if named.len() > TOOLS_MAX {
        return Err(RequestError::new("tools", format!("expected at most {TOOLS_MAX}")));
    }
    for name in named.into_iter().filter(|name| !name.is_empty()) {
        word("tools", name)?;
    }
    service_account_name.as_deref().map_or(Ok(()), |name| secret("serviceAccountName", name))
}

/// Checks what may stand in a documentation run. Fields are named as in the spec.
///
/// # Errors
/// Names the first field that is not accepted.
pub fn check_docs(spec: &DocsRunSpec) -> Result<(), RequestError> {
    let DocsRunSpec {
        repository_url,
        working_directory,
        source_branch,
        github_user,
        model,
        max_retries,
        service_account_name,
        others: _,
    } = spec;
    address("repositoryUrl", repository_url)?;
    directory("workingDirectory", working_directory)?;
    git_branch("sourceBranch", source_branch)?;
    login("githubUser", github_user)?;
    model.as_deref().map_or(Ok(()), |model| word("model", model))?;
    retries(*max_retries)?;
    service_account_name.as_deref().map_or(Ok(()), |name| secret("serviceAccountName", name))
}

/// How a repository is reached, and with that which secret opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `git@..` or `ssh://..`.
    Ssh,
    /// `https://..` or `http://..`.
    Https,
}

impl Reach {
    /// How an address is reached.
    #[must_use]
    pub fn of(url: &str) -> Option<Reach> {
        if url.starts_with("https://") || url.starts_with("http://") {
            Some(Reach::Https)
        } else if url.starts_with("ssh://") || url.starts_with("git@") {
            Some(Reach::Ssh)
        } else {
            None
        }
    }
}

fn retries(count: Option<u32>) -> Result<(), RequestError> {
    match count {
        Some(count) if count > RETRIES_MAX => {
            Err(RequestError::new("maxRetries", format!("is {count}: expected 0 to {RETRIES_MAX}")))
        }
        Some(_) | None => Ok(()),
    }
}

fn address(field: &str, url: &str) -> Result<(), RequestError> {
    const EXPECTED: &str =
        "expected https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH, without credentials or white space";
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/@%+".contains(&byte);
    let rest = match Reach::of(url) {
        Some(Reach::Https) => url.split_once("://").map(|(_, rest)| rest).filter(|rest| {
            // A password in an address would end up in logs and objects.
            !rest.split('/').next().unwrap_or_default().contains('@')
        }),
        Some(Reach::Ssh) => url.strip_prefix("ssh://").or_else(|| url.strip_prefix("git@")).filter(|rest| {
            !rest.split('/').next().unwrap_or_default().split('@').next().unwrap_or_default().contains(':')
                || url.starts_with("git@")
        }),
        None => None,
    };
    let is_fine = rest.is_some_and(|rest| rest.len() > 2 && rest.contains(['/', ':']) && !rest.starts_with(['/', '-']));
    if is_fine && url.len() <= LINE_MAX && url.bytes().all(fits) {
        Ok(())
    } else {
        Err(RequestError::new(field, EXPECTED))
    }
}

fn word(field: &str, text: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
    let is_fine = (1..=253).contains(&text.len())
        && text.bytes().all(fits)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.contains("..")
        && !(field == "service" && text.contains(['/', ':']));
    let letters = if field == "service" { "`-`, `.` and `_`" } else { "`-`, `.`, `_`, `:` and `/`" };
    if is_fine {
        Ok(())
    } else {
        Err(RequestError::new(field, format!("expected 1 to 253 of a-z, A-Z, 0-9, {letters}, a letter or digit first")))
    }
}

fn login(field: &str, text: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_fine =
        (1..=63).contains(&text.len()) && text.bytes().all(fits) && text.as_bytes()[0].is_ascii_alphanumeric();
    if is_fine {
        Ok(())
    } else {
        Err(RequestError::new(field, "expected a login: 1 to 63 of a-z, A-Z, 0-9, `-`, `.` and `_`"))
    }
}

fn directory(field: &str, text: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@+".contains(&byte);
    let is_fine = (1..=LINE_MAX).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with(['/', '-'])
        && !text.split('/').any(|part| part == ".." || part == ".git");
    if is_fine {
        Ok(())
    } else {
        Err(RequestError::new(
            field,
            "expected a directory within the repository: a-z, A-Z, 0-9, `-._/@+`, not above it",
        ))
    }
}

fn git_branch(field: &str, text: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/+#".contains(&byte);
    let is_fine = (1..=255).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with(['-', '/', '.', '#'])
        && !text.ends_with(['/', '.'])
        && !text.ends_with(".lock")
        && !text.contains("..")
        && !text.contains("//");
    if is_fine {
        Ok(())
    } else {
        Err(RequestError::new(field, "expected the name of a branch: a-z, A-Z, 0-9 and `-._/+#`"))
    }
}

fn free(field: &str, text: &str) -> Result<(), RequestError> {
    if text.len() > TEXT_MAX {
        return Err(RequestError::new(field, format!("has {} bytes: expected at most {TEXT_MAX}", text.len())));
    }
    if text.chars().any(|letter| letter == '\0' || letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')) {
        return Err(RequestError::new(field, "has a control character: expected text"));
    }
    Ok(())
}

fn variable(field: &str, name: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_fine = (1..=253).contains(&name.len()) && name.bytes().all(fits) && !name.as_bytes()[0].is_ascii_digit();
    // What the Job sets itself, and what would make its shell or git run something else.
    let is_ours = super::job::OWN_ENV.contains(&name)
        || name.starts_with("LD_")
        || name.starts_with("GIT_")
        || ["BASH_ENV", "ENV", "IFS", "PATH", "HOME", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND"].contains(&name);
    match (is_fine, is_ours) {
        (true, false) => Ok(()),
        (true, true) => {
            Err(RequestError::new(field, format!("`{name}` is set by the run itself: expected another name")))
        }
        (false, _) => {
            Err(RequestError::new(field, "expected names of variables: a-z, A-Z, 0-9 and `_`, no digit first"))
        }
    }
}

fn secret(field: &str, name: &str) -> Result<(), RequestError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_fine = (1..=253).contains(&name.len()) && name.bytes().all(fits);
    if is_fine {
        Ok(())
    } else {
        Err(RequestError::new(field, "expected names of a secret and its key: a-z, A-Z, 0-9 and `-._`"))
    }
}

/// Members of a request.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, RequestError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(RequestError::new(name, "expected a string")),
        }
    }

    fn needed(&self, name: &str) -> Result<String, RequestError> {
        self.text(name)?.ok_or_else(|| RequestError::new(name, "is missing: expected a string"))
    }

    fn number(&self, name: &str) -> Result<Option<u32>, RequestError> {
        let bad = || RequestError::new(name, "expected a whole number, 0 to 4294967295");
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()).map(Some).ok_or_else(bad),
        }
    }

    fn needed_number(&self, name: &str) -> Result<u32, RequestError> {
        self.number(name)?
            .ok_or_else(|| RequestError::new(name, "is missing: expected a whole number, 0 to 4294967295"))
    }

    fn flag(&self, name: &str) -> Result<bool, RequestError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(RequestError::new(name, "expected true or false")),
        }
    }

    fn env(&self) -> Result<BTreeMap<String, String>, RequestError> {
        let bad = || RequestError::new("env", "expected an object of strings");
        match self.0.get("env") {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(env)) => {
                env.iter().map(|(name, value)| Ok((name.clone(), value.as_str().ok_or_else(bad)?.to_owned()))).collect()
            }
            Some(_) => Err(bad()),
        }
    }

    fn env_from_secrets(&self) -> Result<Vec<EnvFromSecret>, RequestError> {
        match self.0.get("env_from_secrets") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(list) => Vec::deserialize(list).map_err(|_| {
                RequestError::new("env_from_secrets", "expected an array of {name, secretName, secretKey}, all strings")
            }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn code_request() -> Map<String, Value> {
        let request = json!({
            "task_id": 5, "service": "trader", "repository_url": "https://github.com/acme/trader",
            "docs_repository_url": "git@github.com:acme/docs.git", "github_user": "ada",
        });
        request.as_object().unwrap().clone()
    }

    #[test]
    fn a_request_has_the_defaults_of_the_contract() {
        let spec = CodeRequest::read(&code_request(), CODE_MODEL).unwrap();
        assert_eq!((spec.task_id, spec.context_version, spec.model.as_str()), (5, 1, CODE_MODEL));
        assert_eq!((spec.docs_branch.as_str(), spec.directory()), ("main", "trader"));
        let mut older = code_request();
        let url = older.remove("docs_repository_url").unwrap();
        older.insert("platform_repository_url".into(), url);
        assert_eq!(CodeRequest::read(&older, CODE_MODEL).unwrap(), spec);
        older.insert("platform_repository_url".into(), json!("x"));
        assert_eq!(CodeRequest::read(&older, CODE_MODEL).unwrap_err().field, "platform_repository_url");
    }

    #[test]
    fn what_is_not_accepted_is_named() {
        for (field, value) in [
            ("task_id", json!(null)),
            ("task_id", json!("5")),
            ("task_id", json!(-1)),
            ("service", json!("a b")),
            ("service", json!("../x")),
            ("service", json!("a/b")),
            ("service", json!("$(id)")),
            ("repository_url", json!("https://ada:pw@github.com/a/b")),
            ("repository_url", json!("https://github.com/a b")),
            ("repository_url", json!("file:///etc")),
            ("repository_url", json!("ext::sh -c id")),
            ("repository_url", json!("git@host:`id`")),
            ("repository_url", json!("--upload-pack=x")),
            ("docs_repository_url", json!(7)),
            ("github_user", json!("a/b")),
            ("model", json!("m; id")),
            ("working_directory", json!("/etc")),
            ("working_directory", json!("a/../../b")),
            ("docs_branch", json!("-x")),
            ("branch", json!("a..b")),
            ("context_version", json!(0)),
            ("max_retries", json!(10)),
            ("max_retries", json!("2")),
            ("continue_session", json!("yes")),
            ("env", json!({"A-B": "x"})),
            ("env", json!({"A": 1})),
            ("env", json!({"LD_PRELOAD": "x"})),
            ("env", json!({"GITHUB_TOKEN": "x"})),
            ("env", json!({"BASH_ENV": "x"})),
            ("env_from_secrets", json!([{"name": "A"}])),
            ("env_from_secrets", json!([{"name": "A", "secretName": "../x", "secretKey": "k"}])),
            ("tool_config", json!("all")),
            ("prompt_mode", json!("merge")),
            ("prompt_modification", json!("a\u{7}b")),
            ("prompt_modification", json!("x".repeat(TEXT_MAX + 1))),
        ] {
            let mut request = code_request();
            request.insert(field.to_owned(), value.clone());
            let error = CodeRequest::read(&request, CODE_MODEL).expect_err(&format!("{field} {value}"));
            let name = error.field.as_str();
            assert!(
                name == field || field == "env_from_secrets" && name == "env_from_secrets",
                "{field} {value}: {error}"
            );
            assert!(error.reason.contains("expected"), "{error}");
        }
    }

    #[test]
    fn addresses_say_how_they_are_reached() {
        for (url, reach) in [
            ("https://github.com/a/b.git", Reach::Https),
            ("git@github.com:a/b.git", Reach::Ssh),
            ("ssh://git@host:22/a/b", Reach::Ssh),
            ("http://git.example:3000/a/b", Reach::Https),
        ] {
            assert_eq!((address("u", url), Reach::of(url)), (Ok(()), Some(reach)), "{url}");
        }
    }

    #[test]
    fn a_documentation_request_needs_four_members() {
        let request = json!({"repository_url": "https://h/a/b", "working_directory": ".", "source_branch": "main", "github_user": "ada"});
        let spec = DocsRequest::read(request.as_object().unwrap(), DOCS_MODEL).unwrap();
        assert_eq!(spec.model.as_deref(), Some(DOCS_MODEL));
        for field in ["repository_url", "working_directory", "source_branch", "github_user"] {
            let mut request = request.as_object().unwrap().clone();
            request.remove(field);
            assert_eq!(DocsRequest::read(&request, DOCS_MODEL).unwrap_err().field, field);
        }
    }
}
