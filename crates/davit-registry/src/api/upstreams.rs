//! Other registries: mirrors of them, and rules of replication.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Text, Within, input, reply, words},
    text::{HookName, MirrorName, SecretText},
};
use crate::{
    auth::{RepositoryGlob, Secret},
    bandwidth::SLOWEST,
    events::{Subscription, SubscriptionKind, TagGlob, subscriptions},
    mirror::{self, MirrorRow, MirrorSettings, Who},
    replication::{self, Direction, NewRule, RuleSettings},
};

const MOST_SECONDS: u64 = u32::MAX as u64;
const MOST_DAYS: u64 = 36_500;
/// Bytes a second at most: more than a network has.
const MOST_BYTES: u64 = 1 << 40;
/// Minutes between two runs at most: a year.
const MOST_MINUTES: u64 = 525_600;

words! {
    /// Who may do something with a mirror.
    WhoWord {
        /// Everyone.
        Everyone = "everyone",
        /// Every account of this registry.
        Accounts = "accounts",
        /// Who was given a role on the repositories.
        Granted = "granted",
    }
}

words! {
    /// Which way images go.
    Way {
        /// To the other registry, as they are pushed here.
        Push = "push",
        /// From the other registry, by the clock or when asked for.
        Pull = "pull",
    }
}

reply! {
    /// A registry from which is fetched, and kept, what clients pull.
    Mirror {
        /// What names of its repositories begin with here.
        name: String,
        /// The registry.
        upstream: String,
        /// Whether it is asked for names that are not hosted here.
        is_default: bool,
        /// Who may pull what is kept.
        pull: WhoWord,
        /// Who of them may have something fetched.
        fill: WhoWord,
        /// How long a tag is believed.
        ttl_seconds: u32,
        /// How long something stays after its last pull.
        keep_days: u32,
        /// Whether plain HTTP, and certificates that do not verify, are taken.
        insecure: bool,
    } maybe {
        /// The account there.
        username: String,
        /// Bytes of blobs that a server fetches from it in a second at most.
        bytes_per_second: u64,
    }
}

reply! {
    /// A rule by which images are copied to or from another registry.
    ReplicationRule {
        /// Its name.
        name: String,
        /// Which way.
        direction: Way,
        /// The other registry.
        registry: String,
        /// Which repositories, as they are called where they come from.
        repositories: String,
        /// Which tags.
        tags: String,
        /// What names get in front where they go to.
        prefix: String,
        /// Whether plain HTTP, and certificates that do not verify, are taken.
        insecure: bool,
        /// Whether deletions go on, too.
        deletions: bool,
        /// When it was made.
        created_at: Moment,
    } maybe {
        /// The account there.
        username: String,
        /// How often it runs by the clock.
        every_minutes: u64,
        /// When it runs next.
        next_run_at: Moment,
        /// Since when its runs fail.
        failing_since: Moment,
        /// What its last run brought.
        result: String,
        /// Bytes of blobs that a server sends or fetches for it in a second at most.
        bytes_per_second: u64,
    }
}

input! {
    /// A mirror to make.
    NewMirror {
        /// What names of its repositories begin with here, with a dot in it.
        name: Text<MirrorName>,
    } maybe {
        /// The registry, `HOST[:PORT]`, if it is not called so.
        upstream: Prose<255>,
        /// Ask it for names that are not hosted here.
        is_default: bool,
        /// Account there.
        username: Prose<256>,
        /// Its password or token.
        password: SecretText<4096>,
        /// Who may pull what is kept; accounts if absent.
        pull: WhoWord,
        /// Who of them may have something fetched; accounts if absent.
        fill: WhoWord,
        /// How long a tag is believed; 300 if absent.
        ttl_seconds: Within<0, MOST_SECONDS>,
        /// How long something stays after its last pull; 30 if absent.
        keep_days: Within<1, MOST_DAYS>,
        /// Take plain HTTP and certificates that do not verify.
        insecure: bool,
        /// Fetch so many bytes of blobs a second at most, on each server; absent: as many as come.
        bytes_per_second: Within<SLOWEST, MOST_BYTES>,
    }
}

input! {
    /// A rule to make.
    NewReplicationRule {
        /// What to call it.
        name: Text<HookName>,
        /// Which way.
        direction: Way,
        /// The other registry: `HOST[:PORT]`.
        registry: Prose<255>,
        /// Which repositories, as they are called where they come from.
        repositories: Text<RepositoryGlob>,
    } maybe {
        /// Which tags; absent: all.
        tags: Text<TagGlob>,
        /// What to put in front of names where they go to.
        prefix: Prose<200>,
        /// Pull so often, in minutes.
        every_minutes: Within<1, MOST_MINUTES>,
        /// Account there.
        username: Prose<256>,
        /// Its password or token.
        password: SecretText<4096>,
        /// Take plain HTTP and certificates that do not verify.
        insecure: bool,
        /// Delete where images go to what is deleted where they come from.
        deletions: bool,
        /// Send or fetch so many bytes of blobs a second at most; absent: as many as go.
        bytes_per_second: Within<SLOWEST, MOST_BYTES>,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    const ON: Rule = Rule::SiteAdmin;
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    vec![
        endpoint(
            (M::GET, "/mirrors", ON),
            ("listMirrors", "Registries that are mirrored, by name"),
            async |call: Call, _: Nothing, _: Nothing| mirrors(&call.site).await.map(Page::whole),
        ),
        endpoint(
            (M::POST, "/mirrors", ON),
            ("createMirror", "Fetch from another registry what clients pull, and keep it"),
            create_mirror,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/mirrors/{mirror}", ON),
            ("deleteMirror", "Remove a mirror; what it kept stays until nobody pulls it"),
            delete_mirror,
        )
        .with(GONE),
        endpoint(
            (M::GET, "/replication", ON),
            ("listReplicationRules", "Rules of replication, by name"),
            async |call: Call, _: Nothing, _: Nothing| {
                replication_rules(&call.site).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::POST, "/replication", ON),
            ("createReplicationRule", "Copy images to or from another registry"),
            create_rule,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/replication/{rule}", ON),
            ("deleteReplicationRule", "Remove a rule of replication"),
            delete_rule,
        )
        .with(GONE),
        endpoint(
            (M::POST, "/replication/{rule}/run", ON),
            ("runReplicationRule", "Copy all that a rule means, as soon as a server has time"),
            run_rule,
        )
        .with(GONE),
    ]
}

impl From<Who> for WhoWord {
    fn from(who: Who) -> Self {
        match who {
            Who::Everyone => Self::Everyone,
            Who::Accounts => Self::Accounts,
            Who::Granted => Self::Granted,
        }
    }
}

impl From<WhoWord> for Who {
    fn from(word: WhoWord) -> Self {
        match word {
            WhoWord::Everyone => Self::Everyone,
            WhoWord::Accounts => Self::Accounts,
            WhoWord::Granted => Self::Granted,
        }
    }
}

impl Mirror {
    fn of(row: MirrorRow) -> Self {
        let settings = row.settings;
        Self {
            name: row.name,
            upstream: row.upstream,
            is_default: row.is_default,
            pull: settings.pull.into(),
            fill: settings.fill.into(),
            ttl_seconds: settings.ttl_seconds,
            keep_days: settings.keep_days,
            insecure: settings.insecure,
            username: settings.account.map(|(name, _)| name),
            bytes_per_second: settings.bytes_per_second,
        }
    }
}

/// Mirrors, by name.
pub(crate) async fn mirrors(site: &Site) -> Result<Vec<Mirror>, Problem> {
    let rows = mirror::mirrors(&site.registry.database).await?;
    Ok(rows.into_iter().map(Mirror::of).collect())
}

type Password = SecretText<4096>;

/// The account at another registry: name and password, or neither.
fn account(
    username: Option<Prose<256>>,
    password: Option<Password>,
) -> Result<Option<(String, Secret)>, Problem> {
    match (username.filter(|name| !name.0.is_empty()), password) {
        (None, None) => Ok(None),
        (Some(name), Some(password)) => Ok(Some((name.0, password.0))),
        _ => Err(Problem::conflict("an account there has a name and a password")),
    }
}

async fn create_mirror(call: Call, _: Nothing, new: NewMirror) -> Result<Mirror, Problem> {
    let usual = MirrorSettings::default();
    let small = |number: Option<u64>, usual: u32| {
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(usual)
    };
    let settings = MirrorSettings {
        pull: new.pull.map_or(usual.pull, Who::from),
        fill: new.fill.map_or(usual.fill, Who::from),
        ttl_seconds: small(new.ttl_seconds.map(|ttl| ttl.0), usual.ttl_seconds),
        keep_days: small(new.keep_days.map(|days| days.0), usual.keep_days),
        insecure: new.insecure.unwrap_or_default(),
        account: account(new.username, new.password)?,
        bytes_per_second: new.bytes_per_second.map(|bytes| bytes.0),
    };
    let name = new.name.0.0;
    let upstream = new.upstream.map(|upstream| upstream.0).filter(|text| !text.is_empty());
    let upstream = upstream.unwrap_or_else(|| name.clone());
    let is_default = new.is_default.unwrap_or_default();
    let row = MirrorRow { name, upstream, is_default, settings };
    mirror::add(&call.site.registry.database, call.actor(), row.clone()).await?;
    Ok(Mirror::of(row))
}

async fn delete_mirror(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let name = call.named::<MirrorName>("mirror")?.0;
    mirror::remove(&call.site.registry.database, call.actor(), name).await?;
    Ok(Nothing {})
}

impl ReplicationRule {
    /// `None` where a later version wrote it.
    fn of(rule: Subscription) -> Option<Self> {
        let settings = RuleSettings::of(&rule)?;
        Some(Self {
            name: rule.name,
            direction: match settings.direction {
                Direction::Push => Way::Push,
                Direction::Pull => Way::Pull,
            },
            registry: settings.registry,
            repositories: rule.repositories.to_string(),
            tags: rule.tags.to_string(),
            prefix: settings.prefix,
            insecure: settings.insecure,
            deletions: settings.deletions,
            created_at: Moment(rule.created_at),
            username: settings.account.map(|(name, _)| name),
            every_minutes: settings.every_seconds.map(|seconds| seconds / 60),
            next_run_at: rule.next_run.map(Moment),
            failing_since: rule.failing_since.map(Moment),
            result: rule.result,
            bytes_per_second: settings.bytes_per_second,
        })
    }
}

/// Rules of replication, by name.
pub(crate) async fn replication_rules(site: &Site) -> Result<Vec<ReplicationRule>, Problem> {
    let kind = SubscriptionKind::Replication;
    let rules = subscriptions(&site.registry.database, kind).await?;
    Ok(rules.into_iter().filter_map(ReplicationRule::of).collect())
}

async fn create_rule(call: Call, _: Nothing, new: NewReplicationRule) -> Result<Nothing, Problem> {
    let new = NewRule {
        name: new.name.0.0,
        direction: match new.direction {
            Way::Push => Direction::Push,
            Way::Pull => Direction::Pull,
        },
        registry: new.registry.0,
        repositories: new.repositories.0,
        tags: new.tags.map_or_else(TagGlob::all, |glob| glob.0),
        prefix: new.prefix.map(|prefix| prefix.0).unwrap_or_default(),
        every: new.every_minutes.map(|minutes| Duration::from_secs(60 * minutes.0)),
        account: account(new.username, new.password)?,
        insecure: new.insecure.unwrap_or_default(),
        deletions: new.deletions.unwrap_or_default(),
        bytes_per_second: new.bytes_per_second.map(|bytes| bytes.0),
    };
    replication::add(&call.site.registry.database, call.actor(), new).await?;
    Ok(Nothing {})
}

fn rule_name(call: &Call) -> Result<String, Problem> {
    call.named::<HookName>("rule").map(|name| name.0)
}

async fn delete_rule(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let name = rule_name(&call)?;
    replication::remove(&call.site.registry.database, call.actor(), name).await?;
    Ok(Nothing {})
}

async fn run_rule(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    replication::request(&call.site.registry.database, &rule_name(&call)?).await?;
    Ok(Nothing {})
}
