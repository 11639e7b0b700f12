//! `davit registry replicate`

use std::time::Duration;

use davit_registry::{
    auth::{GlobError, audit::Actor},
    bandwidth::SLOWEST,
    config::{Limits, Places},
    db::{Database, DbError},
    events::{Subscription, SubscriptionError, SubscriptionKind, subscriptions},
    registry::Registry,
    replication::{self, Direction, NewRule, NewRuleError, RuleSettings},
    store::StoreError,
};
use serde::Serialize;

use super::{date, mirror, open_store, user::Names, webhook::for_each, with_database};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry replicate`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A rule that pushes sends images as they are pushed here, and with `run` all that it means. One that
pulls fetches them with `run`, and with --every by the clock. What is there already is not sent
again. With --deletions, one that pushes deletes there what is deleted here; one that pulls deletes
here what is not there, also tags that were pushed here. Servers on the database do the work; `run`
takes part in it until nothing is due."
)]
pub(crate) enum ReplicateCommand {
    /// Add a rule
    Add(AddArgs),
    /// List rules, and what came of their last runs
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove rules
    Rm(Names),
    /// Copy all that rules mean now
    Run(Names),
}

// Arguments of `davit registry replicate add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// What to call it
    name: String,
    /// push or pull
    #[arg(value_parser = ["push", "pull"])]
    direction: String,
    /// The other registry
    #[arg(value_name = "HOST[:PORT]")]
    registry: String,
    /// Which repositories, as they are called where they come from
    #[arg(long, value_name = "PATTERN")]
    repositories: String,
    /// Which tags
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    tags: String,
    /// What to put in front of names where they go to
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Pull so often, in minutes
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=525_600))]
    every: Option<u64>,
    /// Account there
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the account's password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Take plain HTTP and certificates that do not verify
    #[arg(long)]
    insecure: bool,
    /// Delete where images go to what is deleted where they come from
    #[arg(long)]
    deletions: bool,
    /// Bytes of blobs that a server sends or fetches in a second at most, from 65536
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(SLOWEST..))]
    bytes_per_second: Option<u64>,
}

// Arguments of `davit registry replicate ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    format: ListFormat,
}

/// Why a verb is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplicateFault {
    #[error(transparent)]
    Rule(#[from] NewRuleError),
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    #[error(transparent)]
    Glob(#[from] GlobError),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `davit registry replicate`: exit code 1 when a run could not copy everything.
///
/// # Errors
/// The database's, or what is wrong with the arguments.
pub(super) fn run(command: ReplicateCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        ReplicateCommand::Add(args) => add(args, places)?,
        ReplicateCommand::Ls(args) => list(&args, places)?,
        ReplicateCommand::Rm(args) => for_each(args, places, async |database, name| {
            replication::remove(database, Actor::operator(), name).await
        })?,
        ReplicateCommand::Run(args) => return run_now(args, places),
    }
    Ok(0)
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let account = mirror::account(args.username)?;
    let direction = if args.direction == "push" { Direction::Push } else { Direction::Pull };
    if direction == Direction::Push && args.every.is_some() {
        return Err(CliError::usage("--every is for rules that pull: pushes follow events"));
    }
    let every = args.every.map(|minutes| Duration::from_secs(60 * minutes));
    let name = args.name.clone();
    with_database(places, async |database| {
        let new = NewRule {
            name: args.name,
            direction,
            registry: args.registry,
            repositories: args.repositories.parse()?,
            tags: args.tags.parse()?,
            prefix: args.prefix,
            every,
            account,
            insecure: args.insecure,
            deletions: args.deletions,
            bytes_per_second: args.bytes_per_second,
        };
        replication::add(database, Actor::operator(), new).await?;
        Ok::<_, ReplicateFault>(())
    })?;
    printer::line(&name)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    direction: String,
    registry: String,
    repositories: String,
    tags: String,
    prefix: String,
    every: String,
    deletions: bool,
    next_run: String,
    failing_since: String,
    result: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| {
        subscriptions(database, SubscriptionKind::Replication).await
    })?;
    let row = |rule: Subscription| {
        let settings = RuleSettings::of(&rule);
        let of = |get: fn(&RuleSettings) -> String| settings.as_ref().map(get).unwrap_or_default();
        Row {
            direction: of(|settings| match settings.direction {
                Direction::Push => "push".to_owned(),
                Direction::Pull => "pull".to_owned(),
            }),
            registry: of(|settings| settings.registry.clone()),
            prefix: of(|settings| settings.prefix.clone()),
            every: of(|settings| {
                settings
                    .every_seconds
                    .map(|every| format!("{} min", every / 60))
                    .unwrap_or_default()
            }),
            deletions: settings.as_ref().is_some_and(|settings| settings.deletions),
            repositories: rule.repositories.to_string(),
            tags: rule.tags.to_string(),
            next_run: rule.next_run.map(date).unwrap_or_default(),
            failing_since: rule.failing_since.map(date).unwrap_or_default(),
            result: rule.result.unwrap_or_default(),
            name: rule.name,
        }
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Name}}\t{{.Direction}}\t{{.Registry}}\t{{.Repositories}}\t{{.Tags}}\t{{.NextRun}}\t{{.FailingSince}}\t{{.Result}}";
    let heads =
        &[("NextRun", "NEXT RUN"), ("FailingSince", "FAILING SINCE"), ("Result", "LAST RESULT")];
    List { table, heads }.print(&args.format, &rows, &rows)
}

fn run_now(args: Names, places: &Places) -> Result<u8, CliError> {
    let failed = with_database(places, async |database| work(database, places, args).await)?;
    Ok(u8::from(failed))
}

/// Asks for the rules' runs, and does what is due; tells whether something failed.
async fn work(database: &Database, places: &Places, rules: Names) -> Result<bool, ReplicateFault> {
    for rule in &rules.names {
        replication::request(database, rule).await?;
    }
    let registry = Registry::new(database.clone(), open_store(places)?, Limits::default());
    let mut failed = false;
    while let Some(report) = replication::run_one(&registry).await? {
        failed |= report.failed > 0;
        printer::note(&report.to_string());
    }
    Ok(failed)
}
