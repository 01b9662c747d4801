//! Check runs on commits. One is known by its `external_id`, and holds as many annotations as there are, 50 to a request.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::comment::{excerpt, on};
use super::forge::{Forge, part};
use super::parameters::{Fields, Invalid};
use super::text;
use super::wanted::{EffectFailure, Outcome, Wanted};

/// Pages of check runs of one name.
const PAGES_MAX: usize = 10;
/// Annotations that GitHub takes in one request.
const ANNOTATIONS_PER_REQUEST: usize = 50;
/// Annotations of one check.
const ANNOTATIONS_MAX: usize = 500;
/// Bytes of summary and text; GitHub takes 65,535 characters.
const TEXT_MAX: usize = 60_000;
/// Bytes of an annotation's message; GitHub takes 64 KiB.
const MESSAGE_MAX: usize = 16 << 10;

const CONCLUSIONS: [&str; 7] =
    ["success", "failure", "neutral", "cancelled", "skipped", "timed_out", "action_required"];

#[derive(Deserialize)]
struct CheckRuns {
    check_runs: Vec<CheckRun>,
}

#[derive(Deserialize)]
struct CheckRun {
    id: u64,
    external_id: Option<String>,
    html_url: Option<String>,
    output: Option<Output>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    annotations_count: usize,
}

struct Parameters {
    name: String,
    conclusion: &'static str,
    title: String,
    summary: String,
    text: Option<String>,
    annotations: Vec<Value>,
}

impl Parameters {
    fn read(parameters: Value) -> Result<Parameters, Invalid> {
        let mut fields = Fields::of(parameters, "")?;
        let name = fields.needed("name", 255)?;
        let conclusion = fields.word("conclusion", &CONCLUSIONS)?;
        let Some(conclusion) = conclusion else {
            return Err(fields.wrong("conclusion", format!("is missing: expected one of {}", CONCLUSIONS.join(", "))));
        };
        let title = text::title(&fields.needed("title", 1024)?);
        let summary = harmless(&fields.needed("summary", 64 << 10)?);
        let text = fields.text("text", 64 << 10)?.map(|text| harmless(&text));
        let mut annotations = Vec::new();
        for mut one in fields.objects("annotations", ANNOTATIONS_MAX)? {
            let path = one.needed("path", 4096)?;
            let start = one.number("start_line")?;
            let start = start.ok_or_else(|| one.wrong("start_line", "is missing: expected a number from 1"))?;
            let end = one.number("end_line")?.unwrap_or(start);
            if end < start {
                return Err(one.wrong("end_line", format!("is before `start_line`, {start}")));
            }
            let level = one.word("level", &["notice", "warning", "failure"])?.unwrap_or("notice");
            let message = text::plain(&one.needed("message", MESSAGE_MAX)?);
            one.end("path, start_line, end_line, level, message")?;
            annotations.push(json!({
                "path": path, "start_line": start, "end_line": end, "annotation_level": level, "message": message,
            }));
        }
        fields.end("name, conclusion, title, summary, text, annotations")?;
        Ok(Parameters { name, conclusion, title, summary, text, annotations })
    }

    /// What is shown, with some of the annotations; GitHub adds them to those that are there.
    fn output(&self, from: usize) -> Value {
        let to = self.annotations.len().min(from + ANNOTATIONS_PER_REQUEST);
        let mut output = json!({ "title": self.title, "summary": self.summary });
        if let Some(text) = &self.text {
            output["text"] = json!(text);
        }
        if from < to {
            output["annotations"] = json!(self.annotations[from..to]);
        }
        output
    }
}

fn harmless(text: &str) -> String {
    let text = text::harmless(text);
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

pub(super) async fn carry_out(forge: &Forge, wanted: &Wanted) -> Result<Outcome, EffectFailure> {
    let sha = wanted.target.commit()?;
    let parameters = Parameters::read(wanted.parameters.clone())?;
    let repository = wanted.target.repository.path();
    let id = format!("mindos/{}", wanted.hash);
    let path = format!("{repository}/commits/{sha}/check-runs?check_name={}&filter=all", part(&parameters.name));

    let mut found: Option<CheckRun> = None;
    let looked = forge.list(&path, PAGES_MAX, |page: CheckRuns| {
        // Only the App that made a check can give it an id and change it.
        found = page.check_runs.into_iter().find(|run| run.external_id.as_deref() == Some(&id));
        found.is_none()
    });
    looked.await.map_err(|error| on(error, &wanted.target.to_string()))?;

    let whole = parameters.annotations.len();
    if forge.is_dry_run {
        let Parameters { name, conclusion, summary, .. } = &parameters;
        let what = json!({ "name": name, "conclusion": conclusion, "summary": excerpt(summary), "annotations": whole });
        return Ok(match found {
            Some(run) => Outcome::done("found", json!({ "id": run.id, "url": run.html_url, "sha": sha })),
            None => Outcome::would("create", what),
        });
    }
    let (mut run, action, mut there) = match found {
        Some(run) => {
            let there = run.output.as_ref().map_or(0, |output| output.annotations_count);
            (run, "found", there)
        }
        None => {
            let body = json!({
                "name": parameters.name, "head_sha": sha, "external_id": id, "status": "completed",
                "conclusion": parameters.conclusion, "output": parameters.output(0),
            });
            let run: CheckRun = forge.write(Method::POST, &format!("{repository}/check-runs"), &body).await?;
            (run, "created", whole.min(ANNOTATIONS_PER_REQUEST))
        }
    };
    while there < whole {
        let path = format!("{repository}/check-runs/{}", run.id);
        run = forge.write(Method::PATCH, &path, &json!({ "output": parameters.output(there) })).await?;
        there = (there + ANNOTATIONS_PER_REQUEST).min(whole);
    }
    Ok(Outcome::done(action, json!({ "id": run.id, "url": run.html_url, "sha": sha, "annotations": whole })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let error = |parameters: Value| Parameters::read(parameters).err().unwrap().to_string();
        assert!(error(json!({ "name": "n" })).starts_with("conclusion: is missing"));
        let base = |annotation: Value| json!({ "name": "n", "conclusion": "neutral", "title": "t", "summary": "s", "annotations": [annotation] });
        let annotation = json!({ "path": "a", "start_line": 3, "end_line": 2, "message": "m" });
        assert_eq!(error(base(annotation)), "annotations[0].end_line: is before `start_line`, 3");
        let annotation = json!({ "path": "a", "start_line": 3, "level": "bad", "message": "m" });
        assert!(error(base(annotation)).starts_with("annotations[0].level: expected one of"));
    }
}
