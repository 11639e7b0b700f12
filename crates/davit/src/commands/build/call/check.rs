//! `--check`: what the build checks find.

use std::path::Path;

use annotate_snippets::Renderer;
use davit_engine::build::{BuildError, Checked, Checks, Excerpt, Question, Span, Warning};
use serde_json::{Value, json};

use super::{Asked, Format, Status, fix, location, sarif};
use crate::{commands::build::warnings, error::CliError, printer};

/// Checks and shows what was found, or what is left of it after `file` is mended; 1 if there is
/// something.
pub(super) fn run(
    asked: &Asked<'_>,
    question: &mut Question<'_>,
    file: Option<&Path>,
) -> Result<u8, CliError> {
    let (checked, reasons) = match file {
        Some(path) => {
            let left = fix::run(asked, question, path)?;
            (left.checked, left.reasons)
        }
        None => {
            let checked = asked.engine.check_build(question);
            (checked.map_err(|error| asked.failed(error))?, Vec::new())
        }
    };
    match asked.call.format {
        Format::Text => printer::data(&text(&checked, &reasons))?,
        Format::Json => (asked.show)(&json(&checked))?,
        Format::Sarif => (asked.show)(&sarif::report(&checked))?,
    }
    let code = u8::from(!checked.checks.warnings.is_empty());
    match checked.error {
        Some(error) => Err(asked.failed(error)),
        None if asked.call.status == Status::Ignored => Ok(0),
        None => Ok(code),
    }
}

/// The warnings as pages; `reasons` say why a fix left them.
fn text(checked: &Checked, reasons: &[&str]) -> String {
    let color = printer::use_color_on_stdout();
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut pages = warnings::pages(&checked.checks, &renderer);
    for (page, reason) in pages.iter_mut().zip(reasons) {
        page.push_str(&format!("not fixed: {reason}\n"));
    }
    match pages.len() {
        0 if checked.error.is_some() => {}
        0 => pages.push("no warnings\n".to_owned()),
        1 => pages.push("1 warning\n".to_owned()),
        count => pages.push(format!("{count} warnings\n")),
    }
    pages.join("\n")
}

fn json(checked: &Checked) -> Value {
    let Checks { file, text, warnings } = &checked.checks;
    let warnings: Vec<Value> = warnings.iter().map(warning).collect();
    let mut answer = json!({"warnings": warnings, "sources": [super::source(file, text)]});
    if let Some(error) = &checked.error {
        answer["buildError"] = failure(error);
    }
    answer
}

fn warning(warning: &Warning) -> Value {
    let mut value = json!({
        "ruleName": warning.rule.name(),
        "description": warning.rule.description(),
    });
    if let Some(url) = warning.rule.url() {
        value["url"] = json!(url);
    }
    value["detail"] = json!(warning.detail);
    value["location"] = location(warning.span);
    value
}

fn failure(error: &BuildError) -> Value {
    let mut value = json!({"message": error.to_string()});
    if let Some(excerpt) = error.excerpt.as_deref() {
        value["location"] = location(lines(excerpt));
    }
    value
}

/// The lines that an excerpt underlines.
pub(super) fn lines(excerpt: &Excerpt) -> Span {
    let line = |offset: usize| {
        let above = excerpt.text[..offset].bytes().filter(|byte| *byte == b'\n').count();
        u32::try_from(excerpt.first_line + above).unwrap_or(u32::MAX)
    };
    let (first_line, last_line) = (line(excerpt.range.start), line(excerpt.range.end));
    Span { first_line, last_line, ..Span::default() }
}
