//! `davit builder history ls`

use davit_engine::{
    build::{BuildStatus, PastBuild, repository_of},
    image::Timestamp,
};
use serde::Serialize;

use super::filter::HistoryFilters;
use crate::{
    cli::Context,
    commands::builder::Named,
    error::CliError,
    format::{List, ListFormat, Width, to_json},
    printer, units,
};

/// Longest name in a table.
const NAME_LENGTH: usize = 36;
const TABLE: List<'static> = List {
    table: "table {{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}",
    heads: &[("Ref", "BUILD ID"), ("CreatedAt", "CREATED AT"), ("FullRef", "FULL REF")],
};

// Arguments of `davit builder history ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only what fits, each one: status=, ref=, repository= (or !=); startedAt, completedAt and
    /// duration with <, <=, > or >=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Only builds of the repository that the working directory is part of
    #[arg(long)]
    local: bool,
    /// Show names in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    named: Named,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    r#ref: String,
    full_ref: String,
    name: String,
    status: &'static str,
    created_at: String,
    duration: String,
    link: &'static str,
}

/// A build as buildx writes it for programs.
#[derive(Serialize)]
struct Line {
    r#ref: String,
    name: String,
    status: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    total_steps: usize,
    completed_steps: usize,
    cached_steps: usize,
}

pub(super) fn run(args: &LsArgs, context: &Context) -> Result<u8, CliError> {
    let mut filters = HistoryFilters::parse(&args.filter)?;
    if args.local {
        let repository = repository_of(std::path::Path::new(".")).filter(|it| !it.url.is_empty());
        let repository = repository.ok_or_else(|| {
            CliError::user("the working directory is in no git repository with a remote")
        })?;
        filters.of_repository(&repository.url);
    }
    let mut builds = context.engine()?.past_builds()?;
    builds.retain(|build| filters.fit(build));
    // What runs comes first.
    builds.sort_by_key(|build| build.status != BuildStatus::Running);
    let lines: Vec<Line> = builds.iter().map(line).collect();
    if args.format.json {
        printer::line(&to_json(&lines, true)?)?;
        return Ok(0);
    }
    if matches!(args.format.template(), Some(text) if matches!(text.trim(), "json" | "{{json .}}"))
    {
        let all: String = TABLE.render("json", &lines)?;
        printer::data(&all)?;
        return Ok(0);
    }
    let width = Width::of(args.no_trunc || !args.format.is_table());
    let rows: Vec<Row> = builds.iter().map(|build| row(build, width)).collect();
    TABLE.print(&args.format, &rows, &lines)?;
    Ok(0)
}

/// The word for how a build ended.
pub(super) const fn status(build: &PastBuild) -> &'static str {
    match build.status {
        BuildStatus::Running => "Running",
        BuildStatus::Completed => "Completed",
        BuildStatus::Error | BuildStatus::Killed => "Error",
        BuildStatus::Canceled => "Canceled",
    }
}

fn row(build: &PastBuild, width: Width) -> Row {
    Row {
        r#ref: build.id.clone(),
        full_ref: build.reference(),
        name: match width {
            Width::Whole => build.spec.name.clone(),
            Width::Cut => end_of(&build.spec.name),
        },
        status: status(build),
        created_at: units::ago(Some(build.started)),
        duration: duration(build),
        link: "",
    }
}

/// The end of a name that is too long; where it begins is less telling.
fn end_of(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_LENGTH {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - NAME_LENGTH + 2).collect();
    format!("..{end}")
}

/// How long a build took, or runs; nothing where nobody knows.
pub(super) fn duration(build: &PastBuild) -> String {
    let (end, more) = match (build.status, build.finished) {
        (BuildStatus::Running, _) => (Timestamp::now(), "+"),
        (_, Some(end)) => (end, ""),
        _ => return String::new(),
    };
    let ns = nanoseconds(build.started, end);
    let seconds = ns / 1_000_000_000;
    if seconds < 60 {
        return format!("{seconds}.{}s{more}", ns / 100_000_000 % 10);
    }
    format!("{}m {:2}s{more}", seconds / 60, seconds % 60)
}

/// Nanoseconds from a time to a later one.
pub(super) fn nanoseconds(from: Timestamp, to: Timestamp) -> u64 {
    let of = |time: Timestamp| {
        i128::from(time.unix_seconds()) * 1_000_000_000 + i128::from(time.nanoseconds())
    };
    u64::try_from(of(to) - of(from)).unwrap_or(0)
}

fn line(build: &PastBuild) -> Line {
    let (completed_steps, cached_steps) = build.spec.counts();
    Line {
        r#ref: build.reference(),
        name: build.spec.name.clone(),
        status: status(build),
        created_at: build.started.to_string(),
        completed_at: build.finished.map(|time| time.to_string()),
        total_steps: build.spec.steps.len(),
        completed_steps,
        cached_steps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_beginning() {
        assert_eq!(end_of("short"), "short");
        let name = format!("{}{}", "a".repeat(30), "b".repeat(34));
        assert_eq!(end_of(&name), format!("..{}", "b".repeat(34)));
    }
}
