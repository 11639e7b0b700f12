//! Webhooks and their deliveries: an account's own, and those of the whole server.

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, LogPaging, Problem, Rule, Site,
    accounts::Secretive,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Text, input, reply, words},
    text::{HookName, SecretText},
};
use crate::{
    auth::{Need, RepositoryGlob},
    events::{EventKind, Resume, Subscription, SubscriptionKind, TagGlob, find, subscriptions},
    fault::in_words,
    webhooks::{
        self, DeliveryRow, Format, NewWebhook as New, Redeliver, Sender, WebhookError,
        WebhookSettings, history_before,
    },
};

const KIND: SubscriptionKind = SubscriptionKind::Webhook;

reply! {
    /// A webhook.
    Webhook {
        /// Its name.
        name: String,
        /// Where events are sent.
        url: String,
        /// Of which repositories.
        repositories: String,
        /// Of which tags.
        tags: String,
        /// Which events.
        events: Vec<String>,
        /// How they are written.
        format: String,
        /// Whether events are sent; else it failed for so long that it was given up.
        is_active: bool,
        /// Whether addresses of private networks are sent to.
        allow_private: bool,
        /// When it was made.
        created_at: Moment,
    } maybe {
        /// Since when every try fails.
        failing_since: Moment,
    }
}

reply! {
    /// An event on its way to a webhook, or its history.
    Delivery {
        /// Its number.
        id: i64,
        /// What happened.
        event: String,
        /// Where.
        repository: String,
        /// `waiting`, `delivered` or `failed`.
        state: String,
        /// Tries so far.
        attempts: i64,
        /// When it was made.
        created_at: Moment,
    } maybe {
        /// Which tag.
        tag: String,
        /// Which manifest or blob.
        digest: String,
        /// Status of the last answer.
        status: i64,
        /// The beginning of the last answer, or why there was none.
        reply: String,
        /// When the next try is due.
        next_at: Moment,
        /// When it ended.
        finished_at: Moment,
    }
}

reply! {
    /// What came of a test.
    TestAnswer {
        /// Whether the receiver took the event.
        is_taken: bool,
        /// What came of it, in a sentence.
        told: String,
    } maybe {
        /// Status of the answer.
        status: u16,
        /// The beginning of the answer, or why there was none.
        reply: String,
    }
}

words! {
    /// What may be told.
    EventWord {
        /// A manifest came, or a tag names another one.
        Push = "push",
        /// A tag was removed.
        TagDelete = "tag.delete",
        /// A manifest was removed.
        Delete = "delete",
        /// A manifest was read.
        Pull = "pull",
        /// A repository was made.
        RepositoryCreate = "repository.create",
        /// A repository was removed.
        RepositoryDelete = "repository.delete",
        /// A blob came.
        BlobPush = "blob.push",
        /// A blob of another repository was linked.
        BlobMount = "blob.mount",
        /// A blob was removed.
        BlobDelete = "blob.delete",
    }
}

words! {
    /// How events are written.
    FormatWord {
        /// CloudEvents 1.0, all in the body.
        Cloudevents = "cloudevents",
        /// CloudEvents 1.0, attributes as `ce-` headers.
        CloudeventsBinary = "cloudevents-binary",
        /// The notification envelope of the distribution registry.
        Distribution = "distribution",
        /// Docker Hub's webhook: pushes of tags only.
        DockerHub = "docker-hub",
    }
}

input! {
    /// A webhook to make.
    NewWebhook {
        /// What to call it.
        name: Text<HookName>,
        /// Where to send events: http or https.
        url: Prose<2048>,
    } maybe {
        /// Of which repositories; absent: of all of the account.
        repositories: Text<RepositoryGlob>,
        /// Of which tags; absent: of all.
        tags: Text<TagGlob>,
        /// Which events; absent or empty: all but those of blobs and pulls.
        events: Vec<EventWord>,
        /// How they are written; CloudEvents if absent.
        format: FormatWord,
        /// What signs them, `whsec_` and Base64 of 24 to 64 bytes; absent: it is made.
        secret: SecretText<200>,
        /// Also send to private networks and to this machine; for administrators of the server.
        allow_private: bool,
    }
}

/// The same operations on an account's webhooks, and on those of the server.
macro_rules! operations {
    ($base:literal, $rule:expr, $of:literal,
     [$list:literal, $get:literal, $create:literal, $delete:literal, $enable:literal, $test:literal,
      $deliveries:literal, $redeliver:literal]) => {
        vec![
            endpoint(
                (Method::GET, concat!($base, "/webhooks"), $rule),
                ($list, concat!("Webhooks of ", $of, ", by name")),
                async |call: Call, _: Nothing, _: Nothing| {
                    webhooks(&call.site, owner(&call)?.as_deref()).await.map(Page::whole)
                },
            ),
            endpoint(
                (Method::POST, concat!($base, "/webhooks"), $rule),
                ($create, concat!("Send events of ", $of, " to a URL; the secret is told once")),
                create,
            )
            .with(StatusCode::CREATED),
            endpoint(
                (Method::GET, concat!($base, "/webhooks/{webhook}"), $rule),
                ($get, concat!("A webhook of ", $of)),
                async |call: Call, _: Nothing, _: Nothing| {
                    webhook(&call.site, &full_name(&call)?).await
                },
            ),
            endpoint(
                (Method::DELETE, concat!($base, "/webhooks/{webhook}"), $rule),
                ($delete, concat!("Remove a webhook of ", $of, ", and what waits for it")),
                remove,
            )
            .with(StatusCode::NO_CONTENT),
            endpoint(
                (Method::POST, concat!($base, "/webhooks/{webhook}/enable"), $rule),
                ($enable, concat!("Let a webhook of ", $of, " work again that was given up")),
                enable,
            )
            .with(StatusCode::NO_CONTENT),
            endpoint(
                (Method::POST, concat!($base, "/webhooks/{webhook}/test"), $rule),
                ($test, concat!("Send a test event to a webhook of ", $of, " now")),
                test,
            ),
            endpoint(
                (Method::GET, concat!($base, "/webhooks/{webhook}/deliveries"), $rule),
                ($deliveries, concat!("Deliveries of a webhook of ", $of, ", the newest first")),
                async |call: Call, page: LogPaging, _: Nothing| {
                    deliveries(&call.site, &full_name(&call)?, &page).await
                },
            ),
            endpoint(
                (
                    Method::POST,
                    concat!($base, "/webhooks/{webhook}/deliveries/{id}/redeliver"),
                    $rule,
                ),
                ($redeliver, concat!("Send a delivery of a webhook of ", $of, " once more")),
                redeliver,
            )
            .with(StatusCode::NO_CONTENT),
        ]
    };
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    let mut all = operations!(
        "/accounts/{account}",
        Rule::ManageAccount,
        "an account",
        [
            "listWebhooks",
            "getWebhook",
            "createWebhook",
            "deleteWebhook",
            "enableWebhook",
            "testWebhook",
            "listDeliveries",
            "redeliver"
        ]
    );
    all.extend(operations!(
        "",
        Rule::SiteAdmin,
        "the server",
        [
            "listServerWebhooks",
            "getServerWebhook",
            "createServerWebhook",
            "deleteServerWebhook",
            "enableServerWebhook",
            "testServerWebhook",
            "listServerDeliveries",
            "redeliverForServer"
        ]
    ));
    all
}

/// The account whose webhooks are meant; `None`: the server's.
fn owner(call: &Call) -> Result<Option<String>, Problem> {
    let is_there = !call.names.get("account").is_empty();
    is_there.then(|| call.account()).transpose()
}

/// Name of a webhook in the database.
fn in_full(owner: Option<&str>, name: &str) -> String {
    owner.map_or_else(|| name.to_owned(), |owner| format!("{owner}/{name}"))
}

fn full_name(call: &Call) -> Result<String, Problem> {
    let name = call.named::<HookName>("webhook")?.0;
    Ok(in_full(owner(call)?.as_deref(), &name))
}

impl Webhook {
    fn of(one: Subscription) -> Self {
        let name = one.name.rsplit('/').next().unwrap_or_default().to_owned();
        let settings = WebhookSettings::of(&one);
        Self {
            name,
            url: settings.as_ref().map(|settings| settings.url.clone()).unwrap_or_default(),
            repositories: one.repositories.to_string(),
            tags: one.tags.to_string(),
            events: one.events.iter().map(ToString::to_string).collect(),
            format: settings.as_ref().map(|it| it.format.to_string()).unwrap_or_default(),
            is_active: one.is_active,
            allow_private: settings.is_some_and(|settings| settings.allow_private),
            created_at: Moment(one.created_at),
            failing_since: one.failing_since.map(Moment),
        }
    }

    /// Tells whether it hears of this repository.
    pub(crate) fn hears_of(&self, repository: &str) -> bool {
        self.repositories.parse().is_ok_and(|glob: RepositoryGlob| glob.matches(repository))
    }
}

/// Webhooks of an account, or of the server, by name.
pub(crate) async fn webhooks(site: &Site, owner: Option<&str>) -> Result<Vec<Webhook>, Problem> {
    let mut all = subscriptions(&site.registry.database, KIND).await?;
    all.retain(|one| one.name.split_once('/').map(|(owner, _)| owner) == owner);
    Ok(all.into_iter().map(Webhook::of).collect())
}

/// A webhook by its name in full.
pub(crate) async fn webhook(site: &Site, name: &str) -> Result<Webhook, Problem> {
    Ok(Webhook::of(find(&site.registry.database, KIND, name).await?))
}

/// Deliveries of a webhook, the newest first.
pub(crate) async fn deliveries(
    site: &Site,
    name: &str,
    page: &LogPaging,
) -> Result<Page<Delivery>, Problem> {
    let most = page.most();
    let before = i64::try_from(page.before()).unwrap_or(i64::MAX);
    let wanted = (before, i64::try_from(most + 1).unwrap_or(i64::MAX));
    let rows = history_before(&site.registry.database, name, wanted).await?;
    let items = rows.into_iter().map(Delivery::of).collect();
    Ok(Page::cut(items, most, |delivery: &Delivery| delivery.id.to_string()))
}

impl Delivery {
    fn of(row: DeliveryRow) -> Self {
        let is_waiting = row.state == "waiting";
        Self {
            id: row.id,
            event: row.event.kind.to_string(),
            repository: row.event.repository,
            state: row.state,
            attempts: row.attempts,
            created_at: Moment(row.created_at),
            tag: row.event.tag,
            digest: row.event.digest,
            status: row.status,
            reply: row.reply.filter(|reply| !reply.is_empty()),
            next_at: is_waiting.then_some(Moment(row.run_after)),
            finished_at: row.finished_at.map(Moment),
        }
    }
}

async fn create(call: Call, _: Nothing, new: NewWebhook) -> Result<Secretive, Problem> {
    let owner = owner(&call)?;
    let allow_private = new.allow_private.unwrap_or_default();
    if allow_private {
        // Who does not run the server must not reach what only it can.
        call.site.admit(&call.caller, Need::SiteAdmin).await?;
    }
    let all = owner.as_ref().map_or_else(|| "**".to_owned(), |owner| format!("{owner}/**"));
    let repositories = new.repositories.map_or_else(|| all.parse(), |glob| Ok(glob.0));
    let events = new.events.unwrap_or_default();
    let format = new.format.unwrap_or(FormatWord::Cloudevents).as_str();
    let name = new.name.0.0;
    let new = New {
        name: in_full(owner.as_deref(), &name),
        url: new.url.0.trim().to_owned(),
        repositories: repositories.map_err(|error| Problem::conflict(error.to_string()))?,
        tags: new.tags.map_or_else(TagGlob::all, |glob| glob.0),
        events: events.iter().filter_map(|word| word.as_str().parse::<EventKind>().ok()).collect(),
        format: format.parse::<Format>().unwrap_or_default(),
        secret: new.secret.map(|secret| secret.0),
        allow_private,
    };
    let secret = webhooks::add(&call.site.registry.database, call.actor(), new).await?;
    Ok(Secretive { name, secret, id: None })
}

async fn remove(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    webhooks::remove(&call.site.registry.database, call.actor(), full_name(&call)?).await?;
    Ok(Nothing {})
}

async fn enable(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let resume = Resume { kind: KIND, name: full_name(&call)? };
    call.site.registry.database.write(resume).await?;
    Ok(Nothing {})
}

async fn redeliver(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (webhook, id) = (full_name(&call)?, call.number()?);
    call.site.registry.database.write(Redeliver { webhook, id }).await?;
    Ok(Nothing {})
}

async fn test(call: Call, _: Nothing, _: Nothing) -> Result<TestAnswer, Problem> {
    let sender = Sender::new(&call.site.base_url);
    match webhooks::test(&call.site.registry.database, &sender, &full_name(&call)?).await {
        Ok(answer) => Ok(TestAnswer {
            is_taken: answer.is_success(),
            told: format!("The receiver answered {}.", answer.status),
            status: Some(answer.status),
            reply: Some(answer.body),
        }),
        Err(WebhookError::Send(_, error)) => Ok(TestAnswer {
            is_taken: false,
            told: "There was no answer.".to_owned(),
            status: None,
            reply: Some(in_words(&error)),
        }),
        Err(error) => Err(error.into()),
    }
}
