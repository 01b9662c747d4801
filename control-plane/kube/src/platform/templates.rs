//! Templates: what becomes the files of a run.
//!
//! ```text
//!  key of the ConfigMap              file of the run           at
//!  code_container.sh[.hbs]           container.sh              /task-files
//!  code_claude.md                    CLAUDE.md                 /task-files
//!  code_prompt, docs_prompt.md       prompt.md                 /task-files
//!  docs_hooks_stop-pr-creation.sh    hooks-stop-pr-creation.sh /task-files
//!  code_settings.json                settings.json             /task-files, /etc/claude-code/managed-settings.json
//! ```
//! The stock set is part of this program; a ConfigMap takes the place of single ones, or adds to them. Invariant: a text of a request is
//! escaped for the file that it stands in: JSON within JSON; in a shell script none can stand that means something there.

use std::collections::BTreeMap;

use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason, Template};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::plan::Kind;

/// Bytes of all templates of a ConfigMap: what Kubernetes keeps in one.
const BYTES_MAX: usize = 1 << 20;

type Stock = (&'static str, &'static str);

macro_rules! stock {
    ($folder:literal: $($file:literal),* $(,)?) => {
        [$(($file, include_str!(concat!("../../templates/", $folder, "/", $file)))),*]
    };
}

static SHARED: [Stock; 3] = [
    ("common.sh", include_str!("../../templates/common.sh")),
    ("known-hosts", include_str!("../../templates/known-hosts")),
    ("settings.json", include_str!("../../templates/settings.json")),
];
static CODE: [Stock; 11] = stock!("code":
    "container.sh", "claude.md", "mcp.json", "client-config.json", "coding-guidelines.md", "github-guidelines.md",
    "mcp-tools.md", "prompt.md", "acceptance-criteria.md", "task-requirements.yaml", "hooks_stop-pr-creation.sh");
static DOCS: [Stock; 5] =
    stock!("docs": "container.sh", "claude.md", "prompt.md", "toolman-catalog.md", "hooks_stop-pr-creation.sh");

/// A template that is not accepted, or cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "template `{key}`: expected a key that begins with `code_` or `docs_`, and then the path of a file with `_` for `/`"
    )]
    Key { key: String },
    #[error("template `{key}`: {reason}")]
    Syntax { key: String, reason: String },
    #[error("templates have {found} bytes: expected at most {BYTES_MAX}")]
    Size { found: usize },
    #[error("template `{key}` was not rendered: {reason}")]
    Render { key: String, reason: String },
}

/// What a file is, and with that how a text is written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Shell,
    Json,
    Text,
}

impl Form {
    pub(super) fn of(file: &str) -> Form {
        match file.rsplit_once('.').map(|(_, extension)| extension) {
            Some("sh" | "bash") => Form::Shell,
            Some("json") => Form::Json,
            _ => Form::Text,
        }
    }
}

/// One template.
#[derive(Clone, Debug)]
pub(super) struct One {
    /// The key that it would have in a ConfigMap.
    pub(super) key: String,
    pub(super) text: String,
    pub(super) parsed: Template,
}

/// The templates of both kinds of runs, by the file that each becomes.
#[derive(Clone, Debug)]
pub struct Templates {
    pub(super) sets: BTreeMap<Kind, BTreeMap<String, One>>,
}

impl Templates {
    /// The stock set.
    ///
    /// # Panics
    /// Never: the set is checked by a test.
    #[must_use]
    pub fn stock() -> Templates {
        let mut templates = Templates { sets: BTreeMap::new() };
        for (kind, set) in [(Kind::Code, &CODE[..]), (Kind::Docs, &DOCS[..])] {
            for (file, text) in SHARED.iter().chain(set) {
                let key = format!("{}_{file}", kind.as_str());
                templates.put(&key, text).expect("stock templates are read by a test");
            }
        }
        templates
    }

    /// The stock set, with those of a ConfigMap in their places.
    ///
    /// # Errors
    /// Names the key that is not accepted.
    pub fn with<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Templates, TemplateError> {
        let mut templates = Templates::stock();
        let mut found = 0;
        for (key, text) in given {
            found += text.len();
            if found > BYTES_MAX {
                return Err(TemplateError::Size { found });
            }
            templates.put(key, text)?;
        }
        Ok(templates)
    }

    fn put(&mut self, key: &str, text: &str) -> Result<(), TemplateError> {
        let (kind, file) = file_of(key).ok_or_else(|| TemplateError::Key { key: key.chars().take(128).collect() })?;
        let parsed = Template::compile(text)
            .map_err(|error| TemplateError::Syntax { key: key.to_owned(), reason: error.to_string() })?;
        self.sets.entry(kind).or_default().insert(file, One { key: key.to_owned(), text: text.to_owned(), parsed });
        Ok(())
    }

    /// The keys in use, for whoever lists them, each with its text.
    pub fn each(&self) -> impl Iterator<Item = (Kind, &str, &str)> {
        self.sets.iter().flat_map(|(kind, set)| set.values().map(|one| (*kind, one.key.as_str(), one.text.as_str())))
    }

    /// Names the set as it is: another one has another name.
    #[must_use]
    pub fn version(&self, kind: Kind) -> String {
        let mut digest = Sha256::new();
        for (file, one) in self.sets.get(&kind).into_iter().flatten() {
            for part in [file.as_bytes(), one.text.as_bytes()] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part);
            }
        }
        digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Renders all files of a kind. Those that come out blank are left out.
    ///
    /// # Errors
    /// Names the template that cannot be rendered.
    pub fn render(&self, kind: Kind, variables: &Value) -> Result<BTreeMap<String, String>, TemplateError> {
        let mut files = BTreeMap::new();
        for (file, one) in self.sets.get(&kind).into_iter().flatten() {
            let mut engine = Handlebars::new();
            engine.register_helper("json", Box::new(json_helper));
            engine.register_helper("sh", Box::new(shell_helper));
            match Form::of(file) {
                Form::Json => engine.register_escape_fn(json_text),
                Form::Shell | Form::Text => engine.register_escape_fn(handlebars::no_escape),
            }
            let failed = |error: &dyn std::fmt::Display| TemplateError::Render {
                key: one.key.clone(),
                reason: error.to_string(),
            };
            engine.register_template("file", one.parsed.clone());
            let text = engine.render("file", variables).map_err(|error| failed(&error))?;
            if !text.trim().is_empty() {
                files.insert(file.clone(), text);
            }
        }
        Ok(files)
    }
}

/// The kind and file that a key means.
fn file_of(key: &str) -> Option<(Kind, String)> {
    let (kind, path) = key.split_once('_')?;
    let kind = match kind {
        "code" => Kind::Code,
        "docs" => Kind::Docs,
        _ => return None,
    };
    let path = path.strip_suffix(".hbs").unwrap_or(path);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if path.is_empty() || path.len() > 200 || !path.bytes().all(fits) || path.starts_with('.') {
        return None;
    }
    let file = match path {
        "claude.md" => "CLAUDE.md".to_owned(),
        "prompt" => "prompt.md".to_owned(),
        path => match path.strip_prefix("hooks_") {
            Some(hook) => format!("hooks-{hook}"),
            None => path.to_owned(),
        },
    };
    Some((kind, file))
}

/// A text as it stands between the quotes of a JSON string.
fn json_text(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn json_helper(
    h: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = h.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("json", 0))?.value();
    out.write(&serde_json::to_string_pretty(value).map_err(RenderErrorReason::from)?)?;
    Ok(())
}

/// A text as one word of a shell.
fn shell_helper(
    h: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = h.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("sh", 0))?.value();
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    out.write(&format!("'{}'", text.replace('\'', "'\\''")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_hosts_are_those_that_github_publishes() {
        use base64::Engine;
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
        use sha2::{Digest, Sha256};
        // docs.github.com, "GitHub's SSH key fingerprints".
        let published = [
            ("ssh-ed25519", "+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"),
            ("ecdsa-sha2-nistp256", "p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM"),
        ];
        let lines: Vec<&str> = include_str!("../../templates/known-hosts").lines().collect();
        assert_eq!(lines.len(), published.len());
        for (line, (kind, fingerprint)) in lines.into_iter().zip(published) {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[..2], ["github.com", kind]);
            let key = STANDARD.decode(words[2]).unwrap();
            assert_eq!(STANDARD_NO_PAD.encode(Sha256::digest(key)), fingerprint);
        }
    }

    #[test]
    fn keys_name_files_as_the_contract_has_it() {
        for (key, kind, file) in [
            ("code_container.sh.hbs", Kind::Code, "container.sh"),
            ("code_claude.md", Kind::Code, "CLAUDE.md"),
            ("code_prompt", Kind::Code, "prompt.md"),
            ("docs_hooks_stop-commit.sh", Kind::Docs, "hooks-stop-commit.sh"),
            ("docs_toolman-catalog.md.hbs", Kind::Docs, "toolman-catalog.md"),
        ] {
            assert_eq!(file_of(key), Some((kind, file.to_owned())), "{key}");
        }
        for key in ["container.sh", "code_", "other_x", "code_a/b", "code_.hbs", "code_..", ""] {
            assert_eq!(file_of(key), None, "{key}");
        }
    }

    #[test]
    fn a_given_template_takes_the_place_of_the_stock_one_and_changes_the_version() {
        let stock = Templates::stock();
        let given = Templates::with([("code_claude.md.hbs", "for {{service}}")]).unwrap();
        let files = given.render(Kind::Code, &json!({"service": "trader"})).unwrap();
        assert_eq!(files["CLAUDE.md"], "for trader");
        assert_ne!(stock.version(Kind::Code), given.version(Kind::Code));
        assert_eq!(stock.version(Kind::Docs), given.version(Kind::Docs));
        let error = Templates::with([("code_x.md", "{{#if a}}")]).unwrap_err().to_string();
        assert!(error.starts_with("template `code_x.md`: "), "{error}");
        assert!(Templates::with([("x.md", "")]).is_err());
        let large = "x".repeat(BYTES_MAX + 1);
        assert!(matches!(Templates::with([("code_x.md", large.as_str())]), Err(TemplateError::Size { .. })));
    }

    #[test]
    fn texts_are_escaped_for_the_file_that_they_stand_in() {
        let given = [
            ("code_a.json", r#"{"a": "{{t}}", "b": {{{json t}}}}"#),
            ("code_a.sh", "x={{sh t}}"),
            ("code_a.md", "{{t}}"),
        ];
        let templates = Templates::with(given).unwrap();
        let text = "\"'$(id)\n";
        let files = templates.render(Kind::Code, &json!({"t": text})).unwrap();
        let value: Value = serde_json::from_str(&files["a.json"]).unwrap();
        assert_eq!((&value["a"], &value["b"]), (&json!(text), &json!(text)));
        assert_eq!(files["a.sh"], "x='\"'\\''$(id)\n'");
        assert_eq!(files["a.md"], text);
    }
}
