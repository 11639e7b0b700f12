//! `davit registry build rule`

use davit_registry::{
    auth::audit::Actor,
    autobuild::{
        rules::{RefKind, Rule, RuleError},
        source::{AddRule, RemoveRule, sources},
    },
    config::Places,
};
use serde::Serialize;

use super::{super::Fault, with_builds};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry build rule`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum RuleCommand {
    /// Add a rule
    Add(AddArgs),
    /// List rules
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove rules
    Rm(RmArgs),
}

// Arguments of `davit registry build rule add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SOURCE is a name, or a regular expression between slashes: /^v([0-9]+)\\.([0-9]+)$/
TAG may hold {sourceref}, {\\1} to {\\9} (groups of the expression), {commit} and, of a pull
request, {number}; several are joined by commas. Without --tag it is `latest` for main and master,
else {sourceref}, or pr-{number}.")]
pub(crate) struct AddArgs {
    /// Repository
    repository: String,
    /// Build these branches
    #[arg(long, value_name = "SOURCE", required_unless_present_any = ["git_tag", "pull_request"],
          conflicts_with_all = ["git_tag", "pull_request"])]
    branch: Option<String>,
    /// Build these tags of git
    #[arg(long, value_name = "SOURCE", conflicts_with = "pull_request")]
    git_tag: Option<String>,
    /// Build pull requests from these branches
    #[arg(long, value_name = "SOURCE")]
    pull_request: Option<String>,
    /// Tag the image so
    #[arg(short, long, value_name = "TAG")]
    tag: Option<String>,
    /// Dockerfile, from the context
    #[arg(short, long, value_name = "FILE", default_value = "Dockerfile")]
    file: String,
    /// Directory of the context, from the top; `` for that of the Dockerfile
    #[arg(long, value_name = "DIR", default_value = "/")]
    context: String,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Platforms to build for
    #[arg(long, value_name = "PLATFORM,...", value_delimiter = ',')]
    platform: Vec<String>,
    /// Build only where one of these paths changed; after a ! what does not matter
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    path: Vec<String>,
    /// Build only when asked to
    #[arg(long)]
    no_autobuild: bool,
    /// Run all steps each time
    #[arg(long)]
    no_cache: bool,
    /// Do not build a branch again when a base image changes
    #[arg(long)]
    no_rebuild: bool,
    /// Build pull requests from other repositories, too; they get no secrets
    #[arg(long, requires = "pull_request")]
    forks: bool,
    /// Remove the tags after this many days (pull requests: 14), and when the pull request is closed
    #[arg(long, value_name = "DAYS")]
    expires_days: Option<u32>,
}

// Arguments of `davit registry build rule ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only of repositories whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry build rule rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Repository
    repository: String,
    /// Numbers, as `rule ls` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
}

/// Runs `davit registry build rule`.
pub(super) fn run(command: RuleCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        RuleCommand::Add(args) => {
            let path = args.repository.parse().map_err(Fault::RepositoryName)?;
            let rule = rule(args).map_err(davit_registry::autobuild::AutobuildError::from);
            let add = AddRule { by: Actor::operator(), path, rule: rule.map_err(Fault::from)? };
            let id = with_builds(places, async |database| database.write(add).await)?;
            printer::line(&id.to_string())?;
        }
        RuleCommand::Ls(args) => list(&args, places)?,
        RuleCommand::Rm(args) => with_builds(places, async |database| {
            for id in args.ids {
                let (by, path) = (Actor::operator(), args.repository.parse()?);
                database.write(RemoveRule { by, path, id }).await?;
            }
            Ok(())
        })?,
    }
    Ok(0)
}

fn rule(args: AddArgs) -> Result<Rule, RuleError> {
    let (kind, source) = match (args.branch, args.git_tag, args.pull_request) {
        (Some(branch), ..) => (RefKind::Branch, branch),
        (_, Some(tag), _) => (RefKind::Tag, tag),
        (.., pull) => (RefKind::Pull, pull.unwrap_or_default()),
    };
    let mut rule = Rule::usual(kind, &source, args.tag.as_deref())?;
    rule.dockerfile = args.file;
    rule.context = Some(args.context).filter(|context| !context.is_empty());
    rule.target = args.target;
    rule.platforms = args.platform;
    rule.paths = args.path.iter().map(|path| path.parse()).collect::<Result<_, _>>()?;
    rule.autobuild = !args.no_autobuild;
    rule.caching = !args.no_cache;
    rule.rebuild &= !args.no_rebuild;
    rule.forks = args.forks;
    rule.expires_days = args.expires_days.or(rule.expires_days);
    Ok(rule)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    id: i64,
    repository: String,
    kind: &'static str,
    source: String,
    tag: String,
    dockerfile: String,
    context: String,
    autobuild: bool,
    caching: bool,
    rebuild: bool,
    paths: String,
    platforms: String,
    expires_days: Option<u32>,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_builds(places, async |database| sources(database, &args.prefix).await)?;
    let mut rows = Vec::new();
    for source in found {
        for (id, rule) in source.rules {
            rows.push(Row {
                id,
                repository: source.path.clone(),
                kind: match rule.kind {
                    RefKind::Branch => "branch",
                    RefKind::Tag => "tag",
                    RefKind::Pull => "pull request",
                },
                source: rule.source.to_string(),
                tag: rule.tag,
                dockerfile: rule.dockerfile,
                context: rule.context.unwrap_or_default(),
                autobuild: rule.autobuild,
                caching: rule.caching,
                rebuild: rule.rebuild,
                paths: rule.paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                platforms: rule.platforms.join(","),
                expires_days: rule.expires_days,
            });
        }
    }
    let table = "table {{.Id}}\t{{.Repository}}\t{{.Kind}}\t{{.Source}}\t{{.Tag}}\t{{.Context}}\t\
                 {{.Dockerfile}}\t{{.Autobuild}}\t{{.Caching}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)
}
