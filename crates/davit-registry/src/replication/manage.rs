//! What people do with rules of replication: for the command line, the API and the pages.

use std::time::Duration;

use davit_distribution::Secret;
use serde_json::json;

use super::{Direction, RuleSettings, SHORTEST_INTERVAL};
use crate::{
    auth::{
        RepositoryGlob,
        audit::{Actor, Audited},
    },
    db::Database,
    events::{
        AddSubscription, EventKind, RemoveSubscription, SubscriptionError, SubscriptionKind,
        TagGlob,
    },
};

const KIND: SubscriptionKind = SubscriptionKind::Replication;

/// A rule that is asked for.
#[derive(Clone, Debug)]
pub struct NewRule {
    /// Its name.
    pub name: String,
    /// Which way.
    pub direction: Direction,
    /// The other registry: `HOST[:PORT]`.
    pub registry: String,
    /// Which repositories, as they are called where they come from.
    pub repositories: RepositoryGlob,
    /// Which tags.
    pub tags: TagGlob,
    /// What names get in front where they go to; empty: nothing.
    pub prefix: String,
    /// How often a rule that pulls runs by the clock.
    pub every: Option<Duration>,
    /// The account there.
    pub account: Option<(String, Secret)>,
    /// Whether the other registry may speak plain HTTP or show a certificate that does not verify.
    pub insecure: bool,
    /// Whether deletions go on, too.
    pub deletions: bool,
    /// Bytes of blobs a second at most.
    pub bytes_per_second: Option<u64>,
}

/// Why a rule is refused.
#[derive(Debug, thiserror::Error)]
pub enum NewRuleError {
    /// The other registry.
    #[error("`{0}` is no registry (HOST or HOST:PORT)")]
    Registry(String),
    /// The prefix.
    #[error("no name of a repository begins with `{0}/`")]
    Prefix(String),
    /// Pushes follow events.
    #[error("only rules that pull run by the clock")]
    Clock,
    /// Its name, or the database.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
}

impl NewRule {
    fn check(&self) -> Result<(), NewRuleError> {
        let short = |text: &str| text.chars().take(80).collect();
        let there = format!("{}/library/x", self.registry).parse::<davit_image::Repository>();
        if !there.is_ok_and(|repository| repository.registry() == self.registry) {
            return Err(NewRuleError::Registry(short(&self.registry)));
        }
        let named = format!("{}/x", self.prefix).parse::<crate::name::RepositoryName>();
        if !self.prefix.is_empty() && named.is_err() {
            return Err(NewRuleError::Prefix(short(&self.prefix)));
        }
        if self.direction == Direction::Push && self.every.is_some() {
            return Err(NewRuleError::Clock);
        }
        // Owners of names have webhooks, not the server's accounts elsewhere.
        if self.name.contains('/') {
            return Err(SubscriptionError::Name(short(&self.name)).into());
        }
        Ok(())
    }
}

/// Makes a rule, and tells of it in the audit log.
///
/// # Errors
/// See [`NewRuleError`].
pub async fn add(database: &Database, by: Actor, new: NewRule) -> Result<(), NewRuleError> {
    new.check()?;
    let every = new.every.map(|every| every.max(SHORTEST_INTERVAL));
    let detail = json!({
        "direction": new.direction,
        "registry": new.registry,
        "repositories": new.repositories.to_string(),
        "deletions": new.deletions,
    });
    let events = match new.direction {
        Direction::Push if new.deletions => {
            vec![EventKind::Push, EventKind::TagDelete, EventKind::Delete]
        }
        Direction::Push => vec![EventKind::Push],
        Direction::Pull => Vec::new(),
    };
    let settings = RuleSettings {
        direction: new.direction,
        registry: new.registry,
        prefix: new.prefix,
        insecure: new.insecure,
        account: new.account,
        every_seconds: every.map(|every| every.as_secs()),
        deletions: new.deletions,
        bytes_per_second: new.bytes_per_second,
    };
    let change = AddSubscription {
        name: new.name.clone(),
        kind: KIND,
        repositories: new.repositories,
        tags: new.tags,
        events,
        settings: settings.to_json(),
        first_run_ms: every.map(|_| 0),
    };
    let (action, object) = ("replication.add", new.name);
    database.write(Audited { change, by, action, object, detail }).await?;
    Ok(())
}

/// Removes a rule, and tells of it in the audit log.
///
/// # Errors
/// [`SubscriptionError::Unknown`], or the database's.
pub async fn remove(database: &Database, by: Actor, name: String) -> Result<(), SubscriptionError> {
    let (action, object, detail) = ("replication.remove", name.clone(), json!({}));
    let change = RemoveSubscription { kind: KIND, name };
    database.write(Audited { change, by, action, object, detail }).await
}
