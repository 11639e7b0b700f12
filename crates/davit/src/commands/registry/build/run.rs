//! `davit registry build run`, `ls`, `show`, `logs`, `cancel`, `retry`

use std::time::Duration;

use davit_registry::{
    auth::audit::Actor,
    autobuild::{
        queue::{CancelBuild, RetryBuild, RunBuild},
        records::{self, BuildRow, build, builds},
        rules::{RefKind, Revision},
    },
    config::Places,
};
use serde::Serialize;
use serde_json::json;

use super::{super::date, with_builds};
use crate::{
    error::CliError,
    format::{List, ListFormat, Width},
    printer,
};

/// How often a log is looked at that goes on.
const FOLLOW: Duration = Duration::from_millis(300);

// Arguments of `davit registry build run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Repository
    repository: String,
    /// Build this branch
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "git_tag",
        conflicts_with = "git_tag"
    )]
    branch: Option<String>,
    /// Build this tag of git
    #[arg(long, value_name = "NAME")]
    git_tag: Option<String>,
    /// Build this commit of it, in full, and not its newest
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    /// By this rule alone
    #[arg(long, value_name = "ID")]
    rule: Option<i64>,
}

// Arguments of `davit registry build ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only of this repository
    repository: Option<String>,
    /// Show this many, the newest first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    last: u32,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry build show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Number, as `build ls` shows it
    id: i64,
}

// Arguments of `davit registry build logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Number, as `build ls` shows it
    id: i64,
    /// Go on until the build ends; the exit code tells whether it is done
    #[arg(short, long)]
    follow: bool,
}

// Arguments that name builds.
#[derive(Debug, clap::Args)]
pub(crate) struct IdArgs {
    /// Numbers, as `build ls` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
}

/// Runs `davit registry build run`.
pub(super) fn run(args: &RunArgs, places: &Places) -> Result<u8, CliError> {
    let (kind, name) = match (&args.branch, &args.git_tag) {
        (Some(branch), _) => (RefKind::Branch, branch),
        (None, tag) => (RefKind::Tag, tag.as_ref().unwrap_or(&args.repository)),
    };
    let revision = Revision::asked(kind, name, args.commit.clone());
    let revision = revision.map_err(|error| CliError::usage(error.to_string()))?;
    let (by, path) = (Actor::operator(), args.repository.clone());
    let run = RunBuild { by, path, revision, rule: args.rule };
    for id in with_builds(places, async |database| database.write(run).await)? {
        printer::line(&id.to_string())?;
    }
    Ok(0)
}

/// Runs `davit registry build cancel`.
pub(super) fn cancel(args: IdArgs, places: &Places) -> Result<u8, CliError> {
    with_builds(places, async |database| {
        for id in args.ids {
            database.write(CancelBuild { by: Actor::operator(), id }).await?;
        }
        Ok(())
    })?;
    Ok(0)
}

/// Runs `davit registry build retry`.
pub(super) fn retry(args: IdArgs, places: &Places) -> Result<u8, CliError> {
    let new = with_builds(places, async |database| {
        let mut new = Vec::new();
        for id in args.ids {
            new.push(database.write(RetryBuild { by: Actor::operator(), id }).await?);
        }
        Ok(new)
    })?;
    new.into_iter().try_for_each(|id| printer::line(&id.to_string()))?;
    Ok(0)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    id: i64,
    repository: String,
    state: String,
    cause: String,
    reference: String,
    commit: String,
    tags: String,
    created_at: String,
    seconds: String,
    digest: String,
    error: String,
}

impl Row {
    fn of(build: BuildRow, width: Width) -> Self {
        let times = build.started_at.zip(build.finished_at);
        Self {
            id: build.id,
            repository: build.path,
            state: build.state,
            cause: build.cause,
            reference: build.plan.name,
            commit: width.id(&build.commit.unwrap_or_default()),
            tags: build.plan.tags.join(","),
            created_at: date(build.created_at),
            seconds: times.map(|(from, to)| ((to - from) / 1000).to_string()).unwrap_or_default(),
            digest: build.digest.unwrap_or_default(),
            error: width.text(&build.error.unwrap_or_default(), 60),
        }
    }
}

/// Runs `davit registry build ls`.
pub(super) fn list(args: &LsArgs, places: &Places) -> Result<u8, CliError> {
    let found = with_builds(places, async |database| {
        builds(database, args.repository.as_deref(), None, args.last.min(1000)).await
    })?;
    let rows = |width: Width| -> Vec<Row> {
        found.iter().cloned().map(|build| Row::of(build, width)).collect()
    };
    let table = "table {{.Id}}\t{{.Repository}}\t{{.State}}\t{{.Cause}}\t{{.Reference}}\t{{.Commit}}\t\
                 {{.Tags}}\t{{.CreatedAt}}\t{{.Seconds}}\t{{.Error}}";
    let heads = &[("CreatedAt", "CREATED")];
    List { table, heads }.print(&args.format, &rows(Width::Cut), &rows(Width::Whole))?;
    Ok(0)
}

/// Runs `davit registry build show`.
pub(super) fn show(args: &ShowArgs, places: &Places) -> Result<u8, CliError> {
    let found = with_builds(places, async |database| build(database, args.id).await)?;
    let shown = json!({
        "Id": found.id,
        "Repository": found.path,
        "State": found.state,
        "Cause": found.cause,
        "By": found.actor,
        "Reference": found.reference,
        "Commit": found.commit,
        "CreatedAt": date(found.created_at),
        "StartedAt": found.started_at.map(date),
        "FinishedAt": found.finished_at.map(date),
        "Attempts": found.attempts,
        "Digest": found.digest,
        "Error": found.error,
        "LogBytes": found.log_bytes,
        "Plan": found.plan,
        "Report": found.report,
    });
    let text = serde_json::to_string_pretty(&shown).expect("JSON values are JSON");
    printer::line(&text)?;
    Ok(0)
}

/// Runs `davit registry build logs`.
pub(super) fn logs(args: &LogsArgs, places: &Places) -> Result<u8, CliError> {
    let mut at = 0;
    loop {
        // Whether it is over is asked first: what is read after that is all.
        let (found, piece) = with_builds(places, async |database| {
            let found = build(database, args.id).await?;
            Ok((found, records::log(database, args.id, at).await?))
        })?;
        at += i64::try_from(piece.len()).unwrap_or(0);
        printer::bytes(&piece)?;
        if piece.is_empty() {
            if found.is_over() || !args.follow {
                let is_done = matches!(&*found.state, "done" | "skipped");
                return Ok(u8::from(args.follow && !is_done));
            }
            std::thread::sleep(FOLLOW);
        }
    }
}
