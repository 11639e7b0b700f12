//! `davit registry webhook`

use davit_registry::{
    auth::{GlobError, Secret, audit::Actor},
    config::Places,
    db::Database,
    events::{KindError, Resume, Subscription, SubscriptionError, SubscriptionKind, subscriptions},
    webhooks::{
        self, DeliveryRow, FormatError, NewWebhook, Redeliver, Sender, WebhookError,
        WebhookSettings, history,
    },
};
use serde::Serialize;

use super::{date, user::Names, with_database};
use crate::{
    commands::login,
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry webhook`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
Events are push (a manifest came, or a tag moved), tag.delete, delete (of a manifest), pull,
repository.create, repository.delete, blob.push, blob.mount and blob.delete. Without --events all
but those of blobs and pulls are sent. Deliveries are signed with the secret that add prints, as
the Standard Webhooks specification says (webhook-id, webhook-timestamp, webhook-signature)."
)]
pub(crate) enum WebhookCommand {
    /// Send events to a URL; prints the secret that signs them
    Add(AddArgs),
    /// List webhooks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove webhooks, with what waits for them and their histories
    Rm(Names),
    /// Let webhooks work again that were given up
    Enable(Names),
    /// Send a test event now, and show the answer
    Test(TestArgs),
    /// List the newest deliveries of a webhook, newest first
    Deliveries(DeliveriesArgs),
    /// Send deliveries once more
    Redeliver(RedeliverArgs),
}

// Arguments of `davit registry webhook add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// What to call it
    name: String,
    /// Where to send events
    url: String,
    /// Only of these repositories: a name or pattern (acme/web, acme/web-*, acme/**)
    #[arg(long, value_name = "PATTERN", default_value = "**")]
    repositories: String,
    /// Only of these tags: a name or pattern (v1, v1.*)
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    tags: String,
    /// Which events
    #[arg(long, value_name = "EVENT", value_delimiter = ',')]
    events: Vec<String>,
    /// cloudevents, cloudevents-binary, distribution or docker-hub
    #[arg(long, default_value = "cloudevents")]
    format: String,
    /// Read the secret from standard input instead of making one
    #[arg(long)]
    secret_stdin: bool,
    /// Also send to addresses of private networks and of this machine
    #[arg(long)]
    allow_private: bool,
}

// Arguments of `davit registry webhook ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry webhook test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Name of the webhook
    name: String,
    /// URL of the registry, as the event shall tell it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5000")]
    public_url: String,
}

// Arguments of `davit registry webhook deliveries`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeliveriesArgs {
    /// Name of the webhook
    name: String,
    /// How many
    #[arg(short = 'n', long, default_value_t = 50)]
    last: u16,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry webhook redeliver`.
#[derive(Debug, clap::Args)]
pub(crate) struct RedeliverArgs {
    /// Name of the webhook
    name: String,
    /// Numbers of deliveries, as `deliveries` lists them
    #[arg(required = true, value_name = "DELIVERY")]
    deliveries: Vec<i64>,
}

/// Why a verb is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookFault {
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Glob(#[from] GlobError),
    #[error(transparent)]
    Event(#[from] KindError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl From<SubscriptionError> for WebhookFault {
    fn from(error: SubscriptionError) -> Self {
        WebhookError::from(error).into()
    }
}

/// Runs `davit registry webhook`.
///
/// # Errors
/// The database's, or what is wrong with the arguments.
pub(super) fn run(command: WebhookCommand, places: &Places) -> Result<u8, CliError> {
    let kind = SubscriptionKind::Webhook;
    match command {
        WebhookCommand::Add(args) => add(args, places)?,
        WebhookCommand::Ls(args) => list(&args, places)?,
        WebhookCommand::Rm(args) => for_each(args, places, async |database, name| {
            webhooks::remove(database, Actor::operator(), name).await
        })?,
        WebhookCommand::Enable(args) => for_each(args, places, async |database, name| {
            database.write(Resume { kind, name }).await
        })?,
        WebhookCommand::Test(args) => return test(&args, places),
        WebhookCommand::Deliveries(args) => deliveries(&args, places)?,
        WebhookCommand::Redeliver(args) => with_database(places, async |database| {
            for id in args.deliveries {
                let webhook = args.name.clone();
                database.write(Redeliver { webhook, id }).await.map_err(WebhookFault::from)?;
            }
            Ok::<_, WebhookFault>(())
        })?,
    }
    Ok(0)
}

/// Does something with each name, and prints those that it was done with.
pub(super) fn for_each(
    args: Names,
    places: &Places,
    work: impl AsyncFn(&Database, String) -> Result<(), SubscriptionError>,
) -> Result<(), CliError> {
    let names = args.names.clone();
    with_database(places, async |database| {
        for name in names {
            work(database, name).await?;
        }
        Ok::<_, WebhookFault>(())
    })?;
    args.names.iter().try_for_each(|name| printer::line(name))
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let is_given = args.secret_stdin;
    let secret = if is_given { Some(Secret::new(login::read_password()?)) } else { None };
    let secret = with_database(places, async |database| {
        let events: Result<Vec<_>, KindError> =
            args.events.iter().map(|word| word.parse()).collect();
        let new = NewWebhook {
            name: args.name,
            url: args.url,
            repositories: args.repositories.parse()?,
            tags: args.tags.parse()?,
            events: events?,
            format: args.format.parse()?,
            secret,
            allow_private: args.allow_private,
        };
        Ok::<_, WebhookFault>(webhooks::add(database, Actor::operator(), new).await?)
    })?;
    // What is not shown now is never seen again.
    if is_given { Ok(()) } else { printer::line(secret.expose()) }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    url: String,
    repositories: String,
    tags: String,
    events: String,
    format: String,
    state: String,
    failing_since: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| {
        subscriptions(database, SubscriptionKind::Webhook).await
    })?;
    let row = |one: Subscription| {
        let settings = WebhookSettings::of(&one);
        let words: Vec<&str> = one.events.iter().map(|kind| kind.as_str()).collect();
        Row {
            url: settings.as_ref().map(|settings| settings.url.clone()).unwrap_or_default(),
            format: settings.map(|settings| settings.format.to_string()).unwrap_or_default(),
            repositories: one.repositories.to_string(),
            tags: one.tags.to_string(),
            events: words.join(","),
            state: if one.is_active { "active" } else { "given up" }.to_owned(),
            failing_since: one.failing_since.map(date).unwrap_or_default(),
            name: one.name,
        }
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Name}}\t{{.Url}}\t{{.Repositories}}\t{{.Tags}}\t{{.Format}}\t{{.State}}\t{{.FailingSince}}";
    List { table, heads: &[("Url", "URL"), ("FailingSince", "FAILING SINCE")] }.print(
        &args.format,
        &rows,
        &rows,
    )
}

fn test(args: &TestArgs, places: &Places) -> Result<u8, CliError> {
    let answer = with_database(places, async |database| {
        let sender = Sender::new(&args.public_url);
        Ok::<_, WebhookFault>(webhooks::test(database, &sender, &args.name).await?)
    })?;
    printer::line(format!("{} {}", answer.status, answer.body).trim_end())?;
    Ok(u8::from(!answer.is_success()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeliveryLine {
    id: i64,
    created_at: String,
    event: String,
    repository: String,
    tag: String,
    state: String,
    attempts: i64,
    status: String,
    reply: String,
    next_at: String,
}

fn deliveries(args: &DeliveriesArgs, places: &Places) -> Result<(), CliError> {
    let most = i64::from(args.last);
    let found = with_database(places, async |database| history(database, &args.name, most).await)?;
    let line = |delivery: DeliveryRow| DeliveryLine {
        id: delivery.id,
        created_at: date(delivery.created_at),
        event: delivery.event.kind.to_string(),
        repository: delivery.event.repository,
        tag: delivery.event.tag.unwrap_or_default(),
        attempts: delivery.attempts,
        status: delivery.status.map(|status| status.to_string()).unwrap_or_default(),
        reply: delivery.reply.unwrap_or_default(),
        next_at: match delivery.state.as_str() {
            "waiting" => date(delivery.run_after),
            _ => String::new(),
        },
        state: delivery.state,
    };
    let rows: Vec<DeliveryLine> = found.into_iter().map(line).collect();
    let table = "table {{.Id}}\t{{.CreatedAt}}\t{{.Event}}\t{{.Repository}}\t{{.Tag}}\t{{.State}}\t{{.Attempts}}\t{{.Status}}\t{{.NextAt}}";
    let heads = &[("Id", "DELIVERY"), ("CreatedAt", "CREATED"), ("NextAt", "NEXT TRY")];
    List { table, heads }.print(&args.format, &rows, &rows)
}
