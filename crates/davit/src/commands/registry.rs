//! `davit registry VERB`: a registry's accounts and rights.

mod audit;
mod backup;
mod build;
mod check;
mod deleted;
mod gc;
mod grant;
mod identity;
mod import;
mod ldap;
mod mirror;
mod organisation;
mod replicate;
mod repository;
mod serve;
mod sign_up;
mod token;
mod user;
mod webhook;
mod worker;

use std::path::PathBuf;

use davit_engine::{Hint, Secret};
use davit_registry::{
    auth::{
        AccountError, AuthError, GlobError, NameError, PasswordError, RoleError, ScopeError,
        ldap::SyncError, oidc::TrustError,
    },
    config::Places,
    db::{Database, DbError, Location},
    events::SubscriptionError,
    mirror::MirrorError,
    store::{Store, StoreError, StoreLocation},
};

use crate::{cli::Context, error::CliError};

/// The hidden verb that a step of a worker is.
pub(crate) const TASK: &str = davit_registry::autobuild::TASK_VERB;

const ROOT: &str = "/var/lib/davit-registry";
/// The variable that names the database: unlike arguments, other users do not see it.
const DATABASE: &str = "DAVIT_REGISTRY_DB";

// Arguments of `davit registry`.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Database, if not in the registry's folder: postgres://USER:PASSWORD@HOST/NAME
    #[arg(long, global = true, value_name = "URL", env = DATABASE, hide_env = true)]
    db: Option<String>,
    /// Store of blobs: file:DIR, s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    #[command(subcommand)]
    command: RegistryCommand,
}

/// Verbs of `davit registry`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
The registry's folder is --root (default /var/lib/davit-registry; DAVIT_ROOT is not read here).
Changes count at once, also where a server is running on the same folder or database."
)]
pub(crate) enum RegistryCommand {
    /// Serve a registry of images
    Serve(serve::ServeArgs),
    /// Manage users
    #[command(subcommand)]
    User(user::UserCommand),
    /// Show or set who may sign up
    Signup(sign_up::SignUpArgs),
    /// Manage organisations
    #[command(subcommand)]
    Org(organisation::OrgCommand),
    /// Manage teams of organisations
    #[command(subcommand)]
    Team(organisation::TeamCommand),
    /// Manage what users, robots, teams and members may do with repositories
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    /// Manage robots: accounts of machines
    #[command(subcommand)]
    Robot(token::RobotCommand),
    /// Manage access tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage OpenID providers by which people log in
    #[command(subcommand)]
    Oidc(identity::OidcCommand),
    /// Manage LDAP directories by whose passwords people log in
    #[command(subcommand)]
    Ldap(ldap::LdapCommand),
    /// Manage build systems whose tokens stand for robots
    #[command(subcommand)]
    Trust(identity::TrustCommand),
    /// Manage repositories
    #[command(subcommand)]
    Repo(repository::RepoCommand),
    /// Manage webhooks: who is told by HTTP of what happens
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Manage the keys that sign bearer tokens
    #[command(subcommand)]
    Key(sign_up::KeyCommand),
    /// Manage mirrors: other registries, from which is fetched what clients pull
    #[command(subcommand)]
    Mirror(mirror::MirrorCommand),
    /// Manage rules by which images go to other registries, or come from them
    #[command(subcommand)]
    Replicate(replicate::ReplicateCommand),
    /// Build images from git repositories
    #[command(subcommand)]
    Build(build::BuildCommand),
    /// Run the builds that wait
    Worker(worker::WorkerArgs),
    /// Show or check the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Remove what nothing needs any more, as the server does by itself
    Gc(gc::GcArgs),
    /// Compare the database with itself and with the stored blobs
    Check(check::CheckArgs),
    /// Take over repositories from another registry's folder or from OCI image layouts
    Import(import::ImportArgs),
    /// Copy the registry into a folder, also while it serves
    Backup(backup::BackupArgs),
    /// Make a registry of a backup, where there is none
    Restore(backup::BackupArgs),
}

impl RegistryArgs {
    /// The arguments of the server, which writes a log of its own.
    pub(crate) const fn server(&self) -> Option<&serve::ServeArgs> {
        match &self.command {
            RegistryCommand::Serve(args) => Some(args),
            _ => None,
        }
    }
}

/// Runs `davit registry`.
///
/// # Errors
/// The verb's.
pub(crate) fn run(args: RegistryArgs, context: &Context) -> Result<u8, CliError> {
    let places = places(&args, context)?;
    match args.command {
        RegistryCommand::Serve(args) => serve::run(args, places),
        RegistryCommand::User(command) => user::run(command, &places),
        RegistryCommand::Signup(args) => sign_up::run(&args, &places),
        RegistryCommand::Org(command) => organisation::run(command, &places),
        RegistryCommand::Team(command) => organisation::run_team(command, &places),
        RegistryCommand::Grant(command) => grant::run(command, &places),
        RegistryCommand::Robot(command) => token::run_robot(command, &places),
        RegistryCommand::Token(command) => token::run(command, &places),
        RegistryCommand::Oidc(command) => identity::run_oidc(command, &places),
        RegistryCommand::Ldap(command) => ldap::run(command, &places),
        RegistryCommand::Trust(command) => identity::run_trust(command, &places),
        RegistryCommand::Repo(command) => repository::run(command, &places),
        RegistryCommand::Webhook(command) => webhook::run(command, &places),
        RegistryCommand::Key(command) => sign_up::run_key(&command, &places),
        RegistryCommand::Mirror(command) => mirror::run(command, &places),
        RegistryCommand::Replicate(command) => replicate::run(command, &places),
        RegistryCommand::Build(command) => build::run(command, &places),
        RegistryCommand::Worker(args) => worker::run(args, &places),
        RegistryCommand::Audit(command) => audit::run(command, &places),
        RegistryCommand::Gc(args) => gc::run(&args, &places),
        RegistryCommand::Check(args) => check::run(&args, &places),
        RegistryCommand::Import(args) => import::run(&args, &places),
        RegistryCommand::Backup(args) => backup::run(&args, &places),
        RegistryCommand::Restore(args) => backup::run_restore(&args, &places),
    }
}

/// Opens the store of blobs.
fn open_store(places: &Places) -> Result<Store, StoreError> {
    Store::open(&places.store())
}

/// Where the registry is.
fn places(args: &RegistryArgs, context: &Context) -> Result<Places, CliError> {
    let database = match args.db.as_deref() {
        None => None,
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Some(Location::Postgres(Secret::new(url)))
        }
        // The URL may hold a password.
        Some(_) => return Err(CliError::usage("--db takes a URL of the form postgres://…")),
    };
    let root = context.given_root().map_or_else(|| PathBuf::from(ROOT), PathBuf::from);
    let store = args.store.as_deref().map(|url| StoreLocation::parse(url, environment()));
    let store = store.transpose().map_err(|error| CliError::usage(format!("--store: {error}")))?;
    Ok(Places { root, database, store })
}

/// Variables that are text; an object store's settings may be among them.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text)
}

/// Does something with the registry's database.
fn with_database<T, E: Into<Fault>>(
    places: &Places,
    work: impl AsyncFnOnce(&Database) -> Result<T, E>,
) -> Result<T, CliError> {
    if places.database.is_none() {
        make_root(&places.root)?;
    }
    let location = places.database();
    let outcome = davit_registry::server::block_on(async {
        let database = Database::open(&location).await.map_err(Fault::from)?;
        let outcome = work(&database).await.map_err(Into::into);
        database.close().await;
        outcome
    });
    let done: Result<T, Fault> = outcome.map_err(crate::error::io_error)?;
    Ok(done?)
}

/// The folder holds hashes of passwords and keys: it is its owner's alone.
fn make_root(root: &std::path::Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt as _;

    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(root).map_err(|error| {
        CliError::user(format!("cannot make the registry's folder {}: {error}", root.display()))
    })
}

/// Why a verb is refused.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Glob(#[from] GlobError),
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error(transparent)]
    Gc(#[from] gc::GcFault),
    #[error(transparent)]
    Check(#[from] check::CheckFault),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Replicate(#[from] replicate::ReplicateFault),
    #[error(transparent)]
    Webhook(#[from] webhook::WebhookFault),
    #[error(transparent)]
    Trash(#[from] deleted::TrashFault),
    #[error(transparent)]
    Settings(#[from] davit_registry::settings::SettingsError),
    #[error(transparent)]
    Builds(#[from] davit_registry::autobuild::AutobuildError),
    #[error(transparent)]
    RepositoryName(davit_registry::name::NameError),
    #[error(transparent)]
    Import(#[from] import::ImportFault),
    #[error(transparent)]
    Backup(#[from] davit_registry::backup::BackupError),
    #[error("{0}")]
    Text(String),
}

impl From<SubscriptionError> for Fault {
    fn from(error: SubscriptionError) -> Self {
        webhook::WebhookFault::from(error).into()
    }
}

impl Hint for Fault {
    fn hints(&self) -> Vec<String> {
        if let Self::Sync(SyncError::Most { .. }) = self {
            let first = "davit registry ldap sync --dry-run NAME tells who; --force does it";
            return vec![first.to_owned()];
        }
        let Self::Account(error) = self else { return Vec::new() };
        match error {
            AccountError::HasRepositories(name) => vec![
                format!("davit registry repo ls {name}/"),
                format!("davit registry user disable {name}, to keep the account out"),
            ],
            AccountError::LastOwner(_, org) => {
                vec![format!("davit registry org member add {org} USER --owner")]
            }
            AccountError::NotMember(account, org) => {
                vec![format!("davit registry org member add {org} {account}")]
            }
            AccountError::OutsideNamespace(_, owner) => {
                vec![format!("patterns such as {owner}/* or {owner}/** will do")]
            }
            AccountError::NotAdmin(name) => {
                vec![format!("davit registry user ls shows who does; {name} is not among them")]
            }
            _ => Vec::new(),
        }
    }
}

/// RFC 3339, in seconds of UTC.
fn date(milliseconds: i64) -> String {
    let time = davit_engine::image::Timestamp::from_unix_seconds(milliseconds / 1000);
    time.map(|time| time.to_string()).unwrap_or_default()
}
