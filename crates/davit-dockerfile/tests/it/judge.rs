//! The judge: the parser inside the Python package `dockerfile`, which is BuildKit's own (v0.12.5).
//!
//! Recorded answers for the corpus lie beside it as data and are compared everywhere. Where the
//! package can be had, the corpus and thousands of generated files are given to it as well.
//! `tests/data/parse/DIFFERENCES.md` explains each difference that is allowed below.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use davit_dockerfile::{Heredoc, KEYWORDS, Node, Syntax, Word};
use serde_json::{Value, json};

use crate::{book, generate, project};

/// Reads one JSON string per line, answers one JSON value per line.
const DRIVER: &str = r#"
import dockerfile, json, sys
for line in sys.stdin:
    try:
        nodes = [
            {"keyword": c.cmd, "trigger": c.sub_cmd, "json": c.json, "flags": list(c.flags),
             "words": list(c.value), "lines": [c.start_line, c.end_line],
             "heredocs": [[h.name, h.file_descriptor, h.content] for h in c.heredocs]}
            for c in dockerfile.parse_string(json.loads(line))
        ]
        print(json.dumps(nodes))
    except ValueError:
        print("null")
"#;
const PACKAGE: &str = "dockerfile==3.4.0";
/// Names a Python interpreter that has the package.
const PYTHON_ENV: &str = "DAVIT_TEST_DOCKERFILE_PYTHON";
/// Makes the recorded answers anew.
const RECORD_ENV: &str = "DAVIT_TEST_RECORD";

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// An interpreter with the package: named by the environment, kept from an earlier run, or made.
fn python() -> Option<&'static Path> {
    static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let made = || davit_test::python_with("python-dockerfile", &[PACKAGE], "dockerfile");
        variable(PYTHON_ENV).or_else(made)
    });
    PYTHON.as_deref()
}

/// Asks the package about each text; `null` is an error.
fn ask(python: &Path, texts: &[String]) -> Vec<Value> {
    let mut child = Command::new(python)
        .args(["-c", DRIVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = texts.iter().map(|text| format!("{}\n", json!(text))).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the driver failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), texts.len());
    answers
}

/// What our parser makes of a text, in the judge's form.
fn ours(text: &str) -> Value {
    match Syntax::parse(text.as_bytes()) {
        Ok(syntax) => syntax.nodes.iter().map(node).collect(),
        Err(_) => Value::Null,
    }
}

fn node(node: &Node) -> Value {
    let texts = |words: &[Word]| words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let heredoc = |heredoc: &Heredoc| json!([heredoc.name, heredoc.descriptor, heredoc.content]);
    let inner = node.trigger.as_deref().unwrap_or(node);
    let known =
        |node: &Node| KEYWORDS.iter().any(|known| known.eq_ignore_ascii_case(&node.keyword.text));
    // The judge has one empty word for an unknown keyword and for a second trigger.
    let second = inner.trigger.is_some();
    let words = match texts(&inner.arguments) {
        words if known(inner) && !second => words,
        _ => vec![String::new()],
    };
    let keyword = Some(&node.keyword.text).filter(|text| !text.is_empty());
    let heredocs: Vec<Value> = match node.trigger {
        Some(_) => Vec::new(),
        None => node.heredocs.iter().map(heredoc).collect(),
    };
    json!({
        "keyword": keyword,
        "trigger": node.trigger.as_ref().map(|trigger| &trigger.keyword.text),
        "json": inner.json,
        "flags": texts(&node.flags),
        "words": words,
        "lines": [node.span.first_line, node.span.last_line],
        "heredocs": heredocs,
    })
}

/// Why a difference is right, if it is one of those that `DIFFERENCES.md` explains.
fn explained(text: &str, ours: &Value, theirs: &Value) -> Option<&'static str> {
    let nodes = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (one, other) = (nodes(ours), nodes(theirs));
    let flags = |node: &Value| nodes(&node["flags"]);
    let beyond_ascii = |flag: &Value| flag.as_str().is_some_and(|flag| !flag.is_ascii());
    if one.iter().chain(&other).any(|node| flags(node).iter().any(beyond_ascii)) {
        return Some("flags beyond ASCII");
    }
    if text.lines().any(is_check) {
        return Some("check directive");
    }
    // The judge is older than the frontend that davit follows.
    let delimiters = text.match_indices("<<").filter_map(|(at, _)| text[at + 2..].chars().next());
    if delimiters.clone().any(|c| " \t\r\\`".contains(c)) {
        return Some("older: blank before a delimiter");
    }
    if text.contains("<<${") {
        return Some("substitution in a delimiter");
    }
    let words = one.iter().flat_map(|node| nodes(&node["words"]));
    let joined = words.filter_map(|word| word.as_str().map(has_text_behind_array)).any(|has| has);
    if joined || text.match_indices('[').any(|(at, _)| has_text_behind_array(&text[at..])) {
        return Some("older: text behind an array");
    }
    if (text.contains("=`") || text.contains("= `")) && text.contains("--") {
        return Some("older: escape in flags");
    }
    if text.contains('\0') {
        return Some("NUL");
    }
    let odd_blank = text.contains(['\u{a0}', '\u{85}']);
    if odd_blank && text.to_ascii_lowercase().contains("healthcheck") {
        return Some("bytes of a blank beyond ASCII");
    }
    None
}

fn has_text_behind_array(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Vec<Value>>();
    let whole = matches!(values.next(), Some(Ok(_)));
    let rest = text.get(values.byte_offset()..).and_then(|rest| rest.lines().next());
    whole && rest.is_some_and(|rest| !rest.trim().is_empty())
}

fn is_check(line: &str) -> bool {
    let line = line.trim_start_matches('\u{feff}').trim_start();
    let Some(directive) = line.strip_prefix('#') else { return false };
    let directive = directive.trim_start().to_ascii_lowercase();
    directive.strip_prefix("check").is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// Fails on any difference that is not explained; returns how often each explanation was needed.
fn compare(names: &[String], texts: &[String], answers: &[Value]) -> BTreeMap<&'static str, usize> {
    let mut reasons = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((name, text), theirs) in names.iter().zip(texts).zip(answers) {
        let ours = ours(text);
        if ours == *theirs {
            continue;
        }
        match explained(text, &ours, theirs) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => wrong.push(format!("{name}: {text:?}\n  ours   {ours}\n  theirs {theirs}")),
        }
    }
    let shown = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} differ:\n{shown}", wrong.len(), texts.len());
    reasons
}

fn record_path() -> PathBuf {
    book::folder().join("recorded.jsonl")
}

/// The corpus against the answers on record.
#[test]
fn corpus_equals_the_record() {
    let cases = book::cases();
    let record = fs_err::read_to_string(record_path()).unwrap();
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for line in record.lines() {
        let (name, answer): (String, Value) = serde_json::from_str(line).unwrap();
        answers.insert(name, answer);
    }
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let texts: Vec<String> = cases.iter().map(|case| case.text.clone()).collect();
    let missing = || panic!("a case has no record: run with {RECORD_ENV}=1");
    let answers: Vec<Value> =
        names.iter().map(|name| answers.remove(name).unwrap_or_else(missing)).collect();
    let reasons = compare(&names, &texts, &answers);
    assert!(reasons.values().sum::<usize>() <= 20, "{reasons:?}");
}

/// The corpus against the package itself.
#[test]
fn corpus_equals_the_judge() {
    let Some(python) = python() else {
        return davit_test::skip("needs the Python package `dockerfile`");
    };
    let cases = book::cases();
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let texts: Vec<String> = cases.iter().map(|case| case.text.clone()).collect();
    let answers = ask(python, &texts);
    if variable(RECORD_ENV).is_some() {
        let lines: String =
            names.iter().zip(&answers).map(|pair| format!("{}\n", json!(pair))).collect();
        fs_err::write(record_path(), lines).unwrap();
    }
    compare(&names, &texts, &answers);
}

/// Generated and mutated files against the package.
#[test]
fn generated_files_equal_the_judge() {
    let Some(python) = python() else {
        return davit_test::skip("needs the Python package `dockerfile`");
    };
    let cases = book::cases();
    let mut names = Vec::new();
    let mut texts = Vec::new();
    for seed in 0..6_000_u64 {
        names.push(format!("grammar {seed}"));
        texts.push(generate::file(seed));
    }
    for (index, case) in cases.iter().enumerate() {
        for round in 0..10_u64 {
            let seed = u64::try_from(index).unwrap() * 100 + round;
            names.push(format!("{} {seed}", case.name));
            texts.push(generate::mutate(&case.text, seed));
        }
    }
    assert!(texts.len() >= 10_000, "{}", texts.len());
    let answers = ask(python, &texts);
    let accepted = answers.iter().filter(|answer| !answer.is_null()).count();
    assert!(accepted * 2 > texts.len(), "only {accepted} files are read at all");
    let reasons = compare(&names, &texts, &answers);
    // Explanations must not become an excuse for most of the files.
    assert!(reasons.values().sum::<usize>() * 10 < texts.len(), "{reasons:?}");
}

/// Dockerfiles like those of real projects against the package.
#[test]
fn projects_equal_the_judge() {
    let Some(python) = python() else {
        return davit_test::skip("needs the Python package `dockerfile`");
    };
    let names: Vec<String> = (0..400).map(|number| format!("project {number}")).collect();
    let texts: Vec<String> = (0..400).map(project::file).collect();
    let different: std::collections::BTreeSet<&String> = texts.iter().collect();
    assert!(different.len() >= 390, "{}", different.len());
    let mut answers = ask(python, &texts);
    assert!(answers.iter().all(|answer| !answer.is_null()), "each of them is a Dockerfile");
    let reasons = compare(&names, &texts, &answers);
    assert!(reasons.values().sum::<usize>() * 20 < texts.len(), "{reasons:?}");
    // A judge that agrees with everything is none.
    let last = answers.last_mut().and_then(Value::as_array_mut).unwrap();
    last.last_mut().unwrap()["words"] = json!(["another"]);
    let verdict = std::panic::catch_unwind(|| compare(&names, &texts, &answers));
    assert!(verdict.is_err(), "a wrong word is seen");
}

/// All of them can be built, as far as their text goes.
#[test]
fn projects_are_dockerfiles() {
    for number in 0..400 {
        let text = project::file(number);
        let file = davit_dockerfile::Dockerfile::parse(text.as_bytes());
        let file = file.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert!(file.stages.len() >= 2, "{text}");
    }
}

/// Which cases of the corpus the frontend 1.26 refuses once their meaning is looked at.
#[test]
fn refusals_equal_the_record() {
    let record = fs_err::read_to_string(book::folder().join("refused.txt")).unwrap();
    let mut refused: Vec<String> = book::cases()
        .iter()
        .filter(|case| davit_dockerfile::Dockerfile::parse(case.text.as_bytes()).is_err())
        .map(|case| case.name.clone())
        .collect();
    refused.sort();
    assert_eq!(refused, record.lines().collect::<Vec<_>>());
}
