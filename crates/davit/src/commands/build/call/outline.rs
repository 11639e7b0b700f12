//! `--call=outline`, `--call=targets` and `--call=subrequests.describe`.

use davit_engine::build::{Outline, OutlineArgument, OutlineInput, Question, Stage};
use serde_json::{Map, Value, json};

use super::{Asked, Format, location};
use crate::{
    error::CliError,
    format::{align, visible},
    printer,
};

/// What can be asked, as BuildKit calls it, each with its version and what it gives.
const QUESTIONS: [(&str, &str); 4] = [
    ("frontend.outline", "What a target can be given"),
    ("frontend.targets", "The stages that can be built"),
    ("frontend.lint", "What the build checks find"),
    ("frontend.subrequests.describe", "What can be asked about a Dockerfile"),
];
const VERSION: &str = "1.0.0";

/// Shows what a target takes.
pub(super) fn outline(asked: &Asked<'_>, question: &mut Question<'_>) -> Result<u8, CliError> {
    let outline = asked.engine.outline_build(question).map_err(|error| asked.failed(error))?;
    match asked.call.format {
        Format::Json => {
            let bytes = &question.request.dockerfile.bytes;
            (asked.show)(&outline_json(&outline, bytes))?;
        }
        _ => printer::data(&outline_text(&outline))?,
    }
    Ok(0)
}

fn outline_json(outline: &Outline, source: &[u8]) -> Value {
    let mut value = Map::new();
    for (key, text) in [("name", &outline.name), ("description", &outline.description)] {
        value.extend(text.iter().map(|text| (key.to_owned(), json!(text))));
    }
    let lists = [
        ("args", outline.arguments.iter().map(argument).collect::<Vec<Value>>()),
        ("secrets", outline.secrets.iter().map(input).collect()),
        ("ssh", outline.ssh.iter().map(input).collect()),
    ];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        value.insert(key.to_owned(), json!(list));
    }
    value.insert("sources".to_owned(), json!([super::base64(source)]));
    Value::Object(value)
}

fn argument(argument: &OutlineArgument) -> Value {
    let mut value = json!({"name": argument.name});
    if let Some(description) = &argument.description {
        value["description"] = json!(description);
    }
    if let Some(text) = argument.value.as_ref().filter(|value| !value.is_empty()) {
        value["value"] = json!(text);
    }
    value["location"] = location(argument.span);
    value
}

fn input(input: &OutlineInput) -> Value {
    let mut value = json!({"name": input.name});
    if input.required {
        value["required"] = json!(true);
    }
    value["location"] = location(input.span);
    value
}

fn outline_text(outline: &Outline) -> String {
    let mut tables = Vec::new();
    if let Some(name) = &outline.name {
        let mut lines = vec![row(&["TARGET:", name])];
        let description = outline.description.as_deref();
        lines.extend(description.map(|text| row(&["DESCRIPTION:", text])));
        tables.push(align(&lines));
    }
    let mut table = |head: &str, rows: Vec<String>| {
        if !rows.is_empty() {
            let lines: Vec<String> = std::iter::once(head.to_owned()).chain(rows).collect();
            tables.push(align(&lines));
        }
    };
    let argument = |it: &OutlineArgument| {
        let (value, description) = (it.value.as_deref(), it.description.as_deref());
        row(&[&it.name, value.unwrap_or_default(), description.unwrap_or_default()])
    };
    let arguments = outline.arguments.iter().map(argument).collect();
    table("BUILD ARG\tVALUE\tDESCRIPTION", arguments);
    let input = |it: &OutlineInput| row(&[&it.name, if it.required { "true" } else { "" }]);
    table("SECRET\tREQUIRED", outline.secrets.iter().map(input).collect());
    table("SSH\tREQUIRED", outline.ssh.iter().map(input).collect());
    tables.join("\n")
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| visible(cell).replace('\t', " ")).collect();
    cells.join("\t")
}

/// Shows the stages.
pub(super) fn targets(asked: &Asked<'_>, question: &mut Question<'_>) -> Result<u8, CliError> {
    let stages = asked.engine.build_targets(question).map_err(|error| asked.failed(error))?;
    match asked.call.format {
        Format::Json => {
            let targets: Vec<Value> =
                stages.iter().map(|stage| target(stage, stages.len())).collect();
            let source = super::base64(&question.request.dockerfile.bytes);
            (asked.show)(&json!({"targets": targets, "sources": [source]}))?;
        }
        _ => printer::data(&targets_text(&stages))?,
    }
    Ok(0)
}

fn target(stage: &Stage, count: usize) -> Value {
    let mut value = Map::new();
    let mut set = |key: &str, item: Value| value.insert(key.to_owned(), item);
    if let Some(name) = &stage.name {
        set("name", json!(name.text));
    }
    if stage.index + 1 == count {
        set("default", json!(true));
    }
    if let Some(description) = stage.description() {
        set("description", json!(description));
    }
    set("base", json!(stage.base.text));
    if let Some(platform) = &stage.platform {
        set("platform", json!(platform.text));
    }
    set("location", location(stage.span));
    Value::Object(value)
}

fn targets_text(stages: &[Stage]) -> String {
    let mut lines = vec!["TARGET\tDESCRIPTION".to_owned()];
    lines.extend(stages.iter().map(|stage| {
        let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
        let name = match (name, stage.index + 1 == stages.len()) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        row(&[&name, stage.description().unwrap_or_default()])
    }));
    align(&lines)
}

/// Shows what can be asked.
pub(super) fn describe(format: Format) -> Result<u8, CliError> {
    if format == Format::Json {
        let question = |(name, description): &(&str, &str)| {
            let results = json!([{"name": "result.json"}, {"name": "result.txt"}]);
            let version = VERSION;
            let options: &[Value] = match *name {
                "frontend.outline" => &[json!({"name": "target", "description": "Stage to build"})],
                _ => &[],
            };
            json!({"name": name, "version": version, "type": "rpc", "description": description,
                   "opts": options, "inputs": null, "metadata": results, "refs": null})
        };
        let questions: Vec<Value> = QUESTIONS.iter().map(question).collect();
        super::print_json(&json!(questions))?;
        return Ok(0);
    }
    let mut lines = vec!["NAME\tVERSION\tDESCRIPTION".to_owned()];
    lines.extend(QUESTIONS.iter().map(|(name, description)| {
        let name = name.strip_prefix("frontend.").unwrap_or(name);
        row(&[name, VERSION, description])
    }));
    printer::data(&align(&lines))?;
    Ok(0)
}
