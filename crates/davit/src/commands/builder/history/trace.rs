//! `davit builder history trace`: the steps of a build as spans, in the JSON that Jaeger reads.

use davit_engine::{
    build::{BuildStatus, BuildStep, PastBuild, StepState},
    image::Digest,
};
use serde_json::{Value, json};

use super::{find, ls::nanoseconds};
use crate::{cli::Context, error::CliError, format::to_json, printer};

// Arguments of `davit builder history trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// The build
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// Is refused: davit shows no pages
    #[arg(long, hide = true, value_name = "ADDRESS", value_parser = refused)]
    addr: Option<String>,
    /// Print the trace of this build, too
    #[arg(long, value_name = "REF")]
    compare: Option<String>,
    #[command(flatten)]
    named: crate::commands::builder::Named,
}

fn refused(_address: &str) -> Result<String, String> {
    Err("davit shows no pages; the trace is printed, for Jaeger to read".to_owned())
}

pub(super) fn run(args: &TraceArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let mut traces = vec![trace(&find(&engine, args.reference.as_deref())?)?];
    if let Some(other) = &args.compare {
        traces.push(trace(&find(&engine, Some(other))?)?);
    }
    printer::line(&to_json(&json!({"data": traces}), true)?)?;
    Ok(0)
}

fn trace(build: &PastBuild) -> Result<Value, CliError> {
    let Some(end) = build.finished.filter(|_| build.status != BuildStatus::Running) else {
        let text =
            format!("the build `{}` is not completed, only such ones can be traced", build.id);
        return Err(CliError::user(text));
    };
    let begin_us = micros(build);
    let (trace, root) = (id(&build.id, 32), id(&format!("{} build", build.id), 16));
    let span = |span: &str, name: &str, parent: Option<&str>| {
        let parent =
            parent.map(|it| json!({"refType": "CHILD_OF", "traceID": trace, "spanID": it}));
        json!({
            "traceID": trace,
            "spanID": span,
            "operationName": name,
            "references": parent.into_iter().collect::<Vec<_>>(),
            "processID": "p1",
            "logs": [],
        })
    };
    let mut whole = span(&root, &format!("build {}", build.spec.name), None);
    whole["startTime"] = json!(begin_us);
    whole["duration"] = json!(nanoseconds(build.started, end) / 1000);
    whole["tags"] = json!([tag("ref", &build.reference())]);
    let mut spans = vec![whole];
    for step in build.spec.steps.iter().filter(|it| it.state != StepState::Waiting) {
        let own = id(&format!("{} {}", build.id, step.id.0), 16);
        let mut value = span(&own, &step.name, Some(&root));
        value["startTime"] = json!(begin_us + step.started_us);
        value["duration"] = json!(step.took_us);
        value["tags"] = json!(tags(step));
        spans.push(value);
    }
    let process = json!({"p1": {"serviceName": "davit", "tags": []}});
    Ok(json!({"traceID": trace, "spans": spans, "processes": process}))
}

fn tags(step: &BuildStep) -> Vec<Value> {
    let cached = json!({"key": "cached", "type": "bool", "value": step.state == StepState::Cached});
    let failed = json!({"key": "error", "type": "bool", "value": step.state == StepState::Failed});
    let lines = format!("{}-{}", step.lines.0, step.lines.1);
    vec![cached, failed, tag("lines", &lines)]
}

fn tag(key: &str, value: &str) -> Value {
    json!({"key": key, "type": "string", "value": value})
}

fn id(text: &str, digits: usize) -> String {
    Digest::of(text.as_bytes()).hex().chars().take(digits).collect()
}

/// When the build began, in µs since 1970.
fn micros(build: &PastBuild) -> u64 {
    let seconds = u64::try_from(build.started.unix_seconds()).unwrap_or(0);
    seconds * 1_000_000 + u64::from(build.started.nanoseconds() / 1000)
}
