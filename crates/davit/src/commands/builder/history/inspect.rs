//! `davit builder history inspect`: one build, in the fields that buildx gives it.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_engine::{
    build::{BuildStatus, PastBuild, StepState},
    image::Timestamp,
};
use serde_json::{Map, Value, json};

use super::{attachment, find, ls::nanoseconds, pretty, show};
use crate::{
    cli::Context,
    commands::builder::Named,
    error::{CliError, io_error},
    format, printer,
};

/// Codes of gRPC, which buildx shows: unknown, and cancelled.
const UNKNOWN: u32 = 2;
const CANCELED: u32 = 1;
/// Options that are lists.
const LISTS: [&str; 2] = ["ExtraHosts", "NoCacheFilter"];
/// Options that are true or absent.
const FLAGS: [&str; 2] = ["MultiPlatform", "NoCache"];

// Arguments of `davit builder history inspect`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    attachment: Option<AttachmentCommand>,
    /// The build
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// pretty, json or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    format: String,
    #[command(flatten)]
    named: Named,
}

/// What else can be inspected.
#[derive(Debug, clap::Subcommand)]
enum AttachmentCommand {
    /// Print a document that a build gave
    Attachment(attachment::AttachmentArgs),
}

pub(super) fn run(args: &InspectArgs, context: &Context) -> Result<u8, CliError> {
    if let Some(AttachmentCommand::Attachment(args)) = &args.attachment {
        return attachment::run(args, context);
    }
    let engine = context.engine()?;
    let build = find(&engine, args.reference.as_deref())?;
    let build = engine.complete_build(build).map_err(io_error)?;
    match args.format.as_str() {
        "" | "pretty" => show(&pretty::text(&build))?,
        "json" => printer::line(&format::to_json(&fields(&build), true)?)?,
        template => printer::line(&format::render_fields(template, &whole(fields(&build)))?)?,
    }
    Ok(0)
}

/// The context and the Dockerfile: paths below the working directory from there on.
pub(super) fn places(build: &PastBuild) -> (String, &str) {
    let here = std::env::current_dir().ok();
    let context = Path::new(&build.spec.context);
    let below = here.as_deref().and_then(|here| context.strip_prefix(here).ok());
    let context = match below {
        Some(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Some(rest) => rest.display().to_string(),
        None => build.spec.context.clone(),
    };
    (context, &build.spec.dockerfile)
}

/// When the build ended, or now.
pub(super) fn end(build: &PastBuild) -> Timestamp {
    match build.status {
        BuildStatus::Running => Timestamp::now(),
        _ => build.finished.unwrap_or(build.started),
    }
}

fn fields(build: &PastBuild) -> Value {
    let spec = &build.spec;
    let (done, cached) = spec.counts();
    let (context, dockerfile) = places(build);
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| {
        if !is_empty(&value) {
            fields.insert(name.to_owned(), value);
        }
    };
    add("Name", json!(spec.name));
    add("Ref", json!(build.id));
    add("Context", json!(context));
    add("Dockerfile", json!(dockerfile));
    if let Some(repository) = &spec.repository {
        add("VCSRepository", json!(repository.url));
        add("VCSRevision", json!(repository.revision));
    }
    add("Target", json!(spec.target.clone().unwrap_or_default()));
    add("Platform", json!(spec.platforms));
    add("NamedContexts", pairs(&spec.named_contexts));
    add("StartedAt", json!(build.started.to_string()));
    add("CompletedAt", json!(build.finished.map(|it| it.to_string()).unwrap_or_default()));
    add("Duration", json!(nanoseconds(build.started, end(build))));
    add("Status", json!(status(build.status)));
    add("Error", problem(build));
    add("BuildArgs", pairs(&spec.build_args));
    add("Labels", pairs(&spec.labels));
    let materials = spec.materials.iter();
    add("Materials", materials.map(|it| json!({"URI": it.uri, "Digests": it.digests})).collect());
    let attachments = spec.results.iter().map(|result| {
        let platform = result.platform.clone().unwrap_or_default();
        json!({"Digest": result.digest.to_string(), "Platform": platform, "Type": result.kind})
    });
    add("Attachments", attachments.collect());
    add("Warnings", json!(spec.warnings));
    add("DroppedLogBytes", json!(spec.dropped_bytes));
    fields.insert("NumCompletedSteps".to_owned(), json!(done));
    fields.insert("NumTotalSteps".to_owned(), json!(spec.steps.len()));
    fields.insert("NumCachedSteps".to_owned(), json!(cached));
    fields.insert("Config".to_owned(), config(&spec.options));
    fields.insert("Steps".to_owned(), steps(build));
    Value::Object(fields)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    }
}

/// The fields with those that are empty, which a template may ask for.
fn whole(mut fields: Value) -> Value {
    let texts =
        ["Name", "Context", "Dockerfile", "VCSRepository", "VCSRevision", "Target", "CompletedAt"];
    let lists = [
        "Platform",
        "NamedContexts",
        "BuildArgs",
        "Labels",
        "Attachments",
        "Warnings",
        "Materials",
    ];
    let missing = texts.iter().map(|name| (*name, json!("")));
    let missing = missing.chain(lists.iter().map(|name| (*name, json!([]))));
    let numbers = [("Duration", json!(0)), ("Error", json!(null)), ("DroppedLogBytes", json!(0))];
    if let Value::Object(fields) = &mut fields {
        for (name, value) in missing.chain(numbers) {
            fields.entry(name).or_insert(value);
        }
    }
    fields
}

fn pairs(entries: &BTreeMap<String, String>) -> Value {
    entries.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect()
}

fn config(options: &BTreeMap<String, String>) -> Value {
    let value = |(name, text): (&String, &String)| {
        let value = match name.as_str() {
            name if LISTS.contains(&name) => text.split(',').collect(),
            name if FLAGS.contains(&name) => json!(true),
            _ => json!(text),
        };
        (name.clone(), value)
    };
    Value::Object(options.iter().map(value).collect())
}

const fn status(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Running => "running",
        BuildStatus::Completed => "completed",
        BuildStatus::Error | BuildStatus::Killed => "failed",
        BuildStatus::Canceled => "canceled",
    }
}

/// What is said of a build that could not say itself why it ended.
pub(super) const KILLED: &str = "the build was killed";

fn problem(build: &PastBuild) -> Value {
    if build.status == BuildStatus::Killed {
        return json!({"Code": UNKNOWN, "Message": KILLED});
    }
    let Some(problem) = &build.spec.problem else { return Value::Null };
    let code = if build.status == BuildStatus::Canceled { CANCELED } else { UNKNOWN };
    let mut fields = json!({"Code": code, "Message": problem.message});
    if !problem.step.is_empty() {
        fields["Name"] = json!(problem.step);
    }
    if !problem.tail.is_empty() {
        fields["Logs"] = json!(problem.tail);
    }
    if !problem.source.is_empty() {
        fields["Sources"] = json!(BASE64.encode(&problem.source));
    }
    fields
}

/// The steps, which buildx does not show.
fn steps(build: &PastBuild) -> Value {
    let step = |step: &davit_engine::build::BuildStep| {
        let mut fields = json!({
            "Name": step.name,
            "Status": match step.state {
                StepState::Waiting => "waiting",
                StepState::Cached => "cached",
                StepState::Running => "running",
                StepState::Done => "done",
                StepState::Failed => "failed",
            },
            "StartedAfter": step.started_us * 1000,
            "Duration": step.took_us * 1000,
        });
        if step.lines.0 > 0 {
            fields["Lines"] = json!([step.lines.0, step.lines.1]);
        }
        fields
    };
    build.spec.steps.iter().map(step).collect()
}
