//! `--check` in SARIF 2.1.0, the form in which code hosts take the findings of checkers.
//!
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::collections::BTreeMap;

use davit_engine::build::{BuildError, Checked, Rule, Span, Warning};
use serde_json::{Value, json};

use super::check::lines;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn report(checked: &Checked) -> Value {
    let checks = &checked.checks;
    let mut rules: Vec<Rule> = checks.warnings.iter().map(|warning| warning.rule).collect();
    rules.sort();
    rules.dedup();
    let numbers: BTreeMap<Rule, usize> =
        rules.iter().enumerate().map(|(number, rule)| (*rule, number)).collect();
    let uri = uri(&checks.file);
    let result = |warning: &Warning| {
        json!({
            "ruleId": warning.rule.name(),
            "ruleIndex": numbers[&warning.rule],
            "level": "warning",
            "message": {"text": warning.detail},
            "locations": [place(&uri, region(warning.focus, &checks.text))],
        })
    };
    let results: Vec<Value> = checks.warnings.iter().map(result).collect();
    let notes: Vec<Value> = checked.error.iter().map(|error| note(error, &uri)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "davit",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.into_iter().map(rule).collect::<Vec<Value>>(),
            }},
            "invocations": [{
                "executionSuccessful": notes.is_empty(),
                "toolExecutionNotifications": notes,
            }],
            // Columns count characters, as editors do.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(rule: Rule) -> Value {
    let mut value = json!({
        "id": rule.name(),
        "name": rule.name(),
        "shortDescription": {"text": rule.description()},
        "defaultConfiguration": {"level": "warning"},
    });
    if let Some(url) = rule.url() {
        value["helpUri"] = json!(url);
    }
    value
}

/// What keeps the file from being built at all.
fn note(error: &BuildError, uri: &str) -> Value {
    let mut note = json!({"level": "error", "message": {"text": error.to_string()}});
    if let Some(excerpt) = error.excerpt.as_deref() {
        let span = lines(excerpt);
        let region = json!({"startLine": span.first_line, "endLine": span.last_line});
        note["locations"] = json!([place(uri, region)]);
    }
    note
}

fn place(uri: &str, region: Value) -> Value {
    json!({"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}})
}

/// Lines and columns from 1; the end column is the one behind the last character.
fn region(span: Span, text: &[u8]) -> Value {
    let column = |at: usize| {
        let at = at.min(text.len());
        let start = text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        String::from_utf8_lossy(&text[start..at]).chars().count() + 1
    };
    let part = span.text(text).trim_ascii_end();
    let below = part.iter().filter(|byte| **byte == b'\n').count();
    let last = span.first_line.saturating_add(u32::try_from(below).unwrap_or(u32::MAX));
    json!({
        "startLine": span.first_line,
        "startColumn": column(span.start),
        "endLine": last,
        "endColumn": column(span.start + part.len()),
    })
}

/// The file's name as a relative reference: what is no plain character is escaped.
fn uri(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let name = name.strip_prefix("./").unwrap_or(name);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_count_characters() {
        let text = "FROM x\nENV é=$a \\\n b\n".as_bytes();
        let span = |start: usize, end: usize| Span { start, end, first_line: 2, last_line: 3 };
        let expected = json!({"startLine": 2, "startColumn": 7, "endLine": 2, "endColumn": 9});
        assert_eq!(region(span(14, 16), text), expected);
        let expected = json!({"startLine": 2, "startColumn": 1, "endLine": 3, "endColumn": 3});
        assert_eq!(region(span(7, 22), text), expected);
        let far = region(span(100, 200), text);
        assert_eq!(far["startColumn"], 1);
    }

    #[test]
    fn names_become_references() {
        assert_eq!(uri("./a b/Dockerfile:é"), "a%20b/Dockerfile%3A%C3%A9");
        assert_eq!(uri("Dockerfile"), "Dockerfile");
    }
}
