//! What people do with webhooks: for the command line, the API and the pages.

use davit_distribution::Secret;
use serde_json::json;

use super::{
    Answer, Format, GuardError, SendError, Sender, WebhookSecretError, WebhookSettings, check_url,
    new_secret, secret_bytes, test_event,
};
use crate::{
    auth::{
        RepositoryGlob,
        audit::{Actor, Audited},
    },
    db::Database,
    events::{
        AddSubscription, EventKind, RemoveSubscription, SubscriptionError, SubscriptionKind,
        TagGlob, find,
    },
};

const KIND: SubscriptionKind = SubscriptionKind::Webhook;

/// A webhook that is asked for.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// Its name: [`AddSubscription::name`].
    pub name: String,
    /// Where to send events.
    pub url: String,
    /// Of which repositories.
    pub repositories: RepositoryGlob,
    /// Of which tags.
    pub tags: TagGlob,
    /// Which events; none here: the usual ones.
    pub events: Vec<EventKind>,
    /// How they are written.
    pub format: Format,
    /// What signs them; `None`: one is made.
    pub secret: Option<Secret>,
    /// Whether addresses of private networks and of this machine may be sent to.
    pub allow_private: bool,
}

/// Why something about a webhook is refused.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its name, its patterns, or the database.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// Its secret.
    #[error(transparent)]
    Secret(#[from] WebhookSecretError),
    /// Its address.
    #[error(transparent)]
    Url(#[from] GuardError),
    /// It does not answer.
    #[error("no answer from the webhook {0}")]
    Send(String, #[source] SendError),
    /// This version cannot read it.
    #[error("the webhook {0} was written by a later version")]
    Newer(String),
}

/// Makes a webhook; its secret.
///
/// # Errors
/// See [`WebhookError`].
pub async fn add(database: &Database, by: Actor, new: NewWebhook) -> Result<Secret, WebhookError> {
    let secret = new.secret.unwrap_or_else(new_secret);
    secret_bytes(&secret)?;
    check_url(&new.url)?;
    let events = match (new.events.is_empty(), new.format) {
        (true, Format::DockerHub) => vec![EventKind::Push],
        (true, _) => EventKind::USUAL.to_vec(),
        (false, _) => new.events,
    };
    let (url, format, allow_private) = (new.url, new.format, new.allow_private);
    let detail = json!({ "url": url, "repositories": new.repositories.to_string() });
    let settings = WebhookSettings { url, format, secret: secret.clone(), allow_private };
    let change = AddSubscription {
        name: new.name.clone(),
        kind: KIND,
        repositories: new.repositories,
        tags: new.tags,
        events,
        settings: settings.to_json(),
        first_run_ms: None,
    };
    let (action, object) = ("webhook.add", new.name);
    database.write(Audited { change, by, action, object, detail }).await?;
    Ok(secret)
}

/// Removes a webhook, with what waits for it and its history.
///
/// # Errors
/// [`SubscriptionError::Unknown`], or the database's.
pub async fn remove(database: &Database, by: Actor, name: String) -> Result<(), SubscriptionError> {
    let (action, object, detail) = ("webhook.remove", name.clone(), json!({}));
    let change = RemoveSubscription { kind: KIND, name };
    database.write(Audited { change, by, action, object, detail }).await
}

/// Sends a test event now; what the receiver says.
///
/// # Errors
/// See [`WebhookError`].
pub async fn test(
    database: &Database,
    sender: &Sender,
    name: &str,
) -> Result<Answer, WebhookError> {
    let webhook = find(database, KIND, name).await?;
    let newer = || WebhookError::Newer(name.to_owned());
    let settings = WebhookSettings::of(&webhook).ok_or_else(newer)?;
    let sent = sender.send(&settings, &test_event(settings.format)).await;
    sent.map_err(|error| WebhookError::Send(name.to_owned(), error))
}
