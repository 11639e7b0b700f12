//! `davit registry build source`

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use davit_registry::{
    auth::{Secret, audit::Actor},
    autobuild::source::{
        AddSource, Autotest, ChangeSource, Credential, NewCredential, RemoveSource, SetVariable,
        SourceChange, SourceRow, SourceSettings, hook_of, sources,
    },
    config::Places,
};
use serde::Serialize;

use super::{super::Fault, with_builds};
use crate::{
    commands::registry::token::life,
    error::{CliError, io_error},
    format::{List, ListFormat},
    printer,
};

/// Largest secret that is read from a file or from standard input, in bytes.
const SECRET_BYTES: u64 = 32 << 10;

/// Verbs of `davit registry build source`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum SourceCommand {
    /// Connect a repository to a git repository, and print the webhook for it
    Add(AddArgs),
    /// Change a source; its rules, variables and webhook stay
    Set(SetArgs),
    /// List sources
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Print the webhook of a source: its path on this server and its secret
    Hook(PathArgs),
    /// Set or remove variables of hooks and builds
    Env(EnvArgs),
    /// End the connection, with its rules and variables
    Rm(PathArgs),
}

// Arguments of `davit registry build source add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The webhook goes to the printed path of this server, with the printed secret: GitHub, Gitea and
Bitbucket sign with it, GitLab sends it as its token, and anything else may POST with
`Authorization: Bearer SECRET` to have the git repository looked at.")]
pub(crate) struct AddArgs {
    /// Repository, which is made if it is not there
    repository: String,
    /// Address of the git repository: https, http, ssh or git
    url: String,
    /// Look for news as often as this, too: 5m, 1h, 1d
    #[arg(long, value_name = "TIME", value_parser = life)]
    poll: Option<Duration>,
    /// Read a token (or password) for a private git repository from standard input
    #[arg(long, conflicts_with = "ssh_key")]
    token_stdin: bool,
    /// Private key for a git repository over ssh
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Test each image by this command in a container of it before it is pushed; `compose` asks for the
    /// service `sut` of docker-compose.test.yml
    #[arg(long, value_name = "COMMAND")]
    test: Option<String>,
    /// Let builds pull from these repositories of the same owner, too
    #[arg(long, value_name = "REPOSITORIES")]
    pull: Vec<String>,
}

// Arguments of `davit registry build source set`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Another address is another git repository: its credential must be given (or --no-credential), secret
variables are removed, and builds that wait end.")]
pub(crate) struct SetArgs {
    /// Repository
    repository: String,
    /// Address of the git repository
    #[arg(long)]
    url: Option<String>,
    /// Look for news as often as this, too
    #[arg(long, value_name = "TIME", value_parser = life)]
    poll: Option<Duration>,
    /// Hear of news by webhook only
    #[arg(long, conflicts_with = "poll")]
    no_poll: bool,
    /// Read a token (or password) from standard input
    #[arg(long, conflicts_with_all = ["ssh_key", "no_credential"])]
    token_stdin: bool,
    /// Private key for a git repository over ssh
    #[arg(long, value_name = "FILE", conflicts_with = "no_credential")]
    ssh_key: Option<PathBuf>,
    /// Forget the token or key
    #[arg(long)]
    no_credential: bool,
    /// Test each image by this command; '' for not at all
    #[arg(long, value_name = "COMMAND")]
    test: Option<String>,
    /// Let builds pull from these repositories of the same owner, and from no others
    #[arg(long, value_name = "REPOSITORIES")]
    pull: Vec<String>,
    /// Let builds pull from no other repository
    #[arg(long, conflicts_with = "pull")]
    no_pull: bool,
}

// Arguments of `davit registry build source ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only of repositories whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments that name a repository.
#[derive(Debug, clap::Args)]
pub(crate) struct PathArgs {
    /// Repository
    repository: String,
}

// Arguments of `davit registry build source env`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Plain variables are build arguments. Secret ones are hidden in logs, given to hooks, and to
`RUN --mount=type=secret,id=NAME`; they are not given to pull requests of other repositories.")]
pub(crate) struct EnvArgs {
    /// Repository
    repository: String,
    /// Variables, as NAME=VALUE
    #[arg(value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// Set this secret variable from standard input
    #[arg(long, value_name = "NAME")]
    secret_stdin: Option<String>,
    /// Remove variables
    #[arg(long, value_name = "NAME")]
    rm: Vec<String>,
}

/// Runs `davit registry build source`.
pub(super) fn run(command: SourceCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        SourceCommand::Add(args) => add(args, places)?,
        SourceCommand::Set(args) => set(args, places)?,
        SourceCommand::Ls(args) => list(&args, places)?,
        SourceCommand::Hook(args) => {
            let repository = args.repository;
            let hook = with_builds(places, async |database| hook_of(database, &repository).await)?;
            printer::line(&format!("{} {}", hook.path.expose(), hook.secret.expose()))?;
        }
        SourceCommand::Env(args) => environment(args, places)?,
        SourceCommand::Rm(args) => with_builds(places, async |database| {
            let path = args.repository.parse()?;
            database.write(RemoveSource { by: Actor::operator(), path }).await
        })?,
    }
    Ok(0)
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let credential = credential(args.ssh_key.as_deref(), args.token_stdin)?;
    let test = Autotest::of(args.test.as_deref().unwrap_or_default());
    let settings = SourceSettings { test, pulls: args.pull };
    let path = args.repository.parse().map_err(Fault::RepositoryName)?;
    let source = AddSource::new(Actor::operator(), path, &args.url, credential, settings);
    let source = source.map_err(Fault::from)?.polled(args.poll);
    let hook = source.hook();
    with_builds(places, async |database| database.write(source).await)?;
    printer::line(&format!("{} {}", hook.path.expose(), hook.secret.expose()))
}

fn credential(key: Option<&Path>, token_stdin: bool) -> Result<Option<Credential>, CliError> {
    Ok(match key {
        Some(file) => Some(Credential::Key(read(fs_err::File::open(file).map_err(io_error)?)?)),
        None if token_stdin => Some(Credential::Token(read(std::io::stdin())?)),
        None => None,
    })
}

fn set(args: SetArgs, places: &Places) -> Result<(), CliError> {
    let credential = match credential(args.ssh_key.as_deref(), args.token_stdin)? {
        Some(credential) => NewCredential::Is(credential),
        None if args.no_credential => NewCredential::None,
        None => NewCredential::Stays,
    };
    let has_pulls = args.no_pull || !args.pull.is_empty();
    let change = SourceChange {
        url: args.url,
        credential,
        poll: if args.no_poll { Some(None) } else { args.poll.map(Some) },
        test: args.test.as_deref().map(Autotest::of),
        pulls: has_pulls.then_some(args.pull),
    };
    let path = args.repository.parse().map_err(Fault::RepositoryName)?;
    let change = ChangeSource::new(Actor::operator(), path, change).map_err(Fault::from)?;
    with_builds(places, async |database| database.write(change).await)
}

/// A secret, without the end of its last line.
fn read(from: impl std::io::Read) -> Result<Secret, CliError> {
    let mut text = String::new();
    from.take(SECRET_BYTES + 1).read_to_string(&mut text).map_err(io_error)?;
    if text.len() as u64 > SECRET_BYTES {
        return Err(CliError::user("the secret is too long"));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(CliError::user("the secret is empty"));
    }
    Ok(Secret::new(text))
}

fn environment(args: EnvArgs, places: &Places) -> Result<(), CliError> {
    let path: davit_registry::name::RepositoryName =
        args.repository.parse().map_err(Fault::RepositoryName)?;
    let mut changes: Vec<(String, Option<(Secret, bool)>)> = Vec::new();
    for text in &args.variables {
        let pair = text.split_once('=');
        let (name, value) =
            pair.ok_or_else(|| CliError::usage(format!("`{text}` has no value")))?;
        changes.push((name.to_owned(), Some((Secret::new(value), false))));
    }
    if let Some(name) = args.secret_stdin {
        changes.push((name, Some((read(std::io::stdin())?, true))));
    }
    changes.extend(args.rm.into_iter().map(|name| (name, None)));
    with_builds(places, async |database| {
        for (name, value) in changes {
            let (by, path) = (Actor::operator(), path.clone());
            database.write(SetVariable { by, path, name, value }).await?;
        }
        Ok(())
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    url: String,
    credential: bool,
    poll: String,
    test: String,
    rules: usize,
    variables: String,
    error: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_builds(places, async |database| sources(database, &args.prefix).await)?;
    let variable = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("{name}=****"),
    };
    let row = |source: SourceRow| Row {
        repository: source.path,
        url: source.url,
        credential: source.has_credential,
        poll: source.poll_ms.map(|ms| format!("{}m", ms / 60_000)).unwrap_or_default(),
        test: source.settings.test.text().to_owned(),
        rules: source.rules.len(),
        variables: source.variables.iter().map(variable).collect::<Vec<_>>().join(" "),
        error: source.error.unwrap_or_default(),
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Repository}}\t{{.Url}}\t{{.Poll}}\t{{.Test}}\t{{.Rules}}\t{{.Error}}";
    List { table, heads: &[("Url", "SOURCE")] }.print(&args.format, &rows, &rows)
}
