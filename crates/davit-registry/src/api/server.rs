//! The server as a whole: health, settings, storage, garbage collection, check, audit log.

use davit_image::Digest;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{
    Call, Endpoint, Problem, Rule, Site,
    accounts::AuditEntry,
    collector::GcState,
    openapi,
    route::endpoint,
    schema::{Moment, Nothing, Page, input, reply, words},
    text::LogPaging,
};
use crate::{
    auth::{
        accounts::{SetSignUp, SignUpMode},
        audit::{self, Verdict},
    },
    check,
    db::{DbError, Row, Value as Column, values},
    gc::{self, GcSettings},
};

reply! {
    /// What this server is.
    Server {
        /// Version of the program.
        version: String,
        /// Whether callers are asked who they are.
        has_accounts: bool,
        /// Who may sign up.
        sign_up: SignUpRule,
    }
}

words! {
    /// Who may sign up.
    SignUpRule {
        /// Everyone.
        Open = "open",
        /// Whoever has an invitation.
        Invite = "invite",
        /// Nobody.
        Closed = "closed",
    }
}

reply! {
    /// Who the caller is.
    Me {
        /// `user`, `robot`, `everyone` (a server without accounts) or `anonymous`.
        kind: String,
        /// Whether the caller manages the server.
        is_admin: bool,
        /// Accounts whose namespace is the caller's own.
        namespaces: Vec<String>,
        /// Organisations in which the caller is.
        organisations: Vec<String>,
    } maybe {
        /// Name of the account.
        name: String,
    }
}

reply! {
    /// Whether the server works.
    Health {
        /// `ok`, or what is out of order.
        status: String,
        /// Version of the database's schema.
        schema: i64,
        /// Whether many servers may share the database.
        is_shared: bool,
    }
}

reply! {
    /// What the server keeps.
    Storage {
        /// Repositories.
        repositories: u64,
        /// Tags.
        tags: u64,
        /// Manifests.
        manifests: u64,
        /// Blobs, each once.
        blobs: u64,
        /// Bytes of those blobs.
        blob_bytes: u64,
        /// Removed blobs whose bytes are still there.
        trash: u64,
        /// Bytes of those.
        trash_bytes: u64,
        /// Uploads under way.
        uploads: u64,
        /// Blobs that wait for a push that heals them.
        suspect: u64,
        /// Accounts that hold most, and how much.
        largest: Vec<Holder>,
    }
}

reply! {
    /// What an account holds.
    Holder {
        /// Name of the account.
        account: String,
        /// Bytes that are charged to it.
        used_bytes: u64,
    } maybe {
        /// Bytes that it may have.
        quota_bytes: u64,
    }
}

reply! {
    /// Settings of the server.
    ServerSettings {
        /// Who may sign up.
        sign_up: SignUpRule,
    }
}

impl ServerSettings {
    /// Tells whether anyone may sign up, with an invitation or without.
    pub(crate) fn is_open(&self) -> bool {
        self.sign_up != SignUpRule::Closed
    }

    pub(crate) fn needs_invitation(&self) -> bool {
        self.sign_up == SignUpRule::Invite
    }
}

input! {
    /// Settings to change; what is absent stays.
    SetServerSettings {} maybe {
        /// Who may sign up.
        sign_up: SignUpRule,
    }
}

input! {
    /// How garbage is collected.
    RunGc {} maybe {
        /// Only count what would go, as things are now.
        dry_run: bool,
    }
}

input! {
    /// What is checked.
    RunCheck {} maybe {
        /// Read every blob's bytes.
        read: bool,
        /// Repair what can be repaired.
        repair: bool,
    }
}

reply! {
    /// What a check found.
    Findings {
        /// One line for each thing that is wrong; none if all is well.
        findings: Vec<String>,
    }
}

reply! {
    /// Why a digest's bytes stay, or when they go.
    Explanation {
        /// Line by line; none if nothing is known of it.
        lines: Vec<String>,
    }
}

reply! {
    /// Whether the audit log is as it was written.
    AuditVerdict {
        /// `whole`, `broken` or `cut`.
        verdict: String,
    } maybe {
        /// Entries of a whole log, or the number of the first broken one.
        number: i64,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::{Credential, Open, SiteAdmin};
    vec![
        endpoint((M::GET, "/", Open), ("getServer", "What this server is"), get_server),
        endpoint(
            (M::GET, "/openapi.json", Open),
            ("getDocument", "This document"),
            async |_: Call, _: Nothing, _: Nothing| Ok::<Value, Problem>(openapi::document()),
        ),
        endpoint((M::GET, "/me", Credential), ("getMe", "Who the caller is"), get_me),
        endpoint(
            (M::GET, "/health", Open),
            ("getHealth", "Whether the server works"),
            async |call: Call, _: Nothing, _: Nothing| health(&call.site).await,
        ),
        endpoint(
            (M::GET, "/storage", SiteAdmin),
            ("getStorage", "What the server keeps"),
            async |call: Call, _: Nothing, _: Nothing| storage(&call.site).await,
        ),
        endpoint(
            (M::GET, "/settings", SiteAdmin),
            ("getSettings", "Settings of the server"),
            async |call: Call, _: Nothing, _: Nothing| settings(&call.site).await,
        ),
        endpoint(
            (M::PATCH, "/settings", SiteAdmin),
            ("setSettings", "Change settings of the server"),
            set_settings,
        ),
        endpoint(
            (M::GET, "/gc", SiteAdmin),
            ("getGc", "The last garbage collection, or the one that runs"),
            async |call: Call, _: Nothing, _: Nothing| {
                Ok::<_, Problem>(call.site.collector.state())
            },
        ),
        endpoint(
            (M::POST, "/gc", SiteAdmin),
            ("runGc", "Collect garbage now; a dry run only counts"),
            run_gc,
        )
        .with(StatusCode::ACCEPTED),
        endpoint(
            (M::GET, "/gc/explain/{digest}", SiteAdmin),
            ("explainDigest", "Why a digest's bytes stay, or when they go"),
            explain,
        ),
        endpoint(
            (M::POST, "/check", SiteAdmin),
            ("runCheck", "Compare the database with itself and with the stored blobs"),
            run_check,
        ),
        endpoint(
            (M::GET, "/audit", SiteAdmin),
            ("listAudit", "The audit log, newest first"),
            async |call: Call, page: LogPaging, _: Nothing| audit(&call.site, &page).await,
        ),
        endpoint(
            (M::GET, "/audit/check", SiteAdmin),
            ("checkAudit", "Whether the audit log is as it was written"),
            check_audit,
        ),
    ]
}

async fn get_server(call: Call, _: Nothing, _: Nothing) -> Result<Server, Problem> {
    Ok(Server {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        has_accounts: call.site.auth.settings().is_on,
        sign_up: settings(&call.site).await?.sign_up,
    })
}

async fn get_me(call: Call, _: Nothing, _: Nothing) -> Result<Me, Problem> {
    use crate::auth::Identity;

    let standing = &call.caller.standing;
    let kind = match &call.caller.identity {
        Identity::Account { name, .. } if name.contains('+') => "robot",
        Identity::Account { .. } => "user",
        Identity::Everyone => "everyone",
        Identity::Anonymous => "anonymous",
    };
    Ok(Me {
        kind: kind.to_owned(),
        is_admin: standing.is_site_admin,
        namespaces: standing.namespaces.clone(),
        organisations: standing.organisations.clone(),
        name: call.name().map(str::to_owned),
    })
}

/// Whether the database answers.
pub(crate) async fn health(site: &Site) -> Result<Health, Problem> {
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row("SELECT version FROM schema_version", values![]).await?;
    let schema = row.map_or(Ok(0), |row| row.get(0))?;
    let is_shared = site.registry.database.is_shared();
    Ok(Health { status: "ok".to_owned(), schema, is_shared })
}

/// What the server keeps.
pub(crate) async fn storage(site: &Site) -> Result<Storage, Problem> {
    const COUNTS: &str = "SELECT (SELECT COUNT(*) FROM repo WHERE path < '~'), (SELECT COUNT(*) FROM tag), \
         (SELECT COUNT(*) FROM manifest), (SELECT COUNT(*) FROM blob), \
         (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM blob), \
         (SELECT COUNT(*) FROM trash), \
         (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM trash), \
         (SELECT COUNT(*) FROM upload), (SELECT COUNT(*) FROM blob WHERE state = 'suspect')";
    const LARGEST: &str = "SELECT name, used_bytes, quota_bytes FROM account \
         WHERE used_bytes > 0 ORDER BY used_bytes DESC, name LIMIT 10";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(COUNTS, values![]).await?.ok_or(DbError::Closed)?;
    let holder = |row: &Row| {
        let quota_bytes = row.get(2)?;
        Ok(Holder { account: row.get(0)?, used_bytes: row.get(1)?, quota_bytes })
    };
    let largest = reader.rows(LARGEST, values![]).await?;
    Ok(Storage {
        repositories: row.get(0)?,
        tags: row.get(1)?,
        manifests: row.get(2)?,
        blobs: row.get(3)?,
        blob_bytes: row.get(4)?,
        trash: row.get(5)?,
        trash_bytes: row.get(6)?,
        uploads: row.get(7)?,
        suspect: row.get(8)?,
        largest: largest.iter().map(holder).collect::<Result<_, DbError>>()?,
    })
}

/// Settings of the server.
pub(crate) async fn settings(site: &Site) -> Result<ServerSettings, Problem> {
    let sign_up = match site.auth.sign_up_mode().await? {
        SignUpMode::Open => SignUpRule::Open,
        SignUpMode::Invite => SignUpRule::Invite,
        SignUpMode::Closed => SignUpRule::Closed,
    };
    Ok(ServerSettings { sign_up })
}

async fn set_settings(
    call: Call,
    _: Nothing,
    set: SetServerSettings,
) -> Result<ServerSettings, Problem> {
    if let Some(sign_up) = set.sign_up {
        let mode = match sign_up {
            SignUpRule::Open => SignUpMode::Open,
            SignUpRule::Invite => SignUpMode::Invite,
            SignUpRule::Closed => SignUpMode::Closed,
        };
        call.site.registry.database.write(SetSignUp { by: call.actor(), mode }).await?;
    }
    settings(&call.site).await
}

async fn run_gc(call: Call, _: Nothing, how: RunGc) -> Result<GcState, Problem> {
    let site = &call.site;
    if how.dry_run.unwrap_or_default() {
        return site.collector.count(&site.registry).await;
    }
    // It goes on when the caller has gone; whoever asks again sees how far it is.
    site.collector.start(&site.registry);
    Ok(site.collector.state())
}

async fn explain(call: Call, _: Nothing, _: Nothing) -> Result<Explanation, Problem> {
    let digest: Digest = call.named("digest")?;
    let registry = &call.site.registry;
    let settings = GcSettings::of(&registry.limits);
    Ok(Explanation { lines: gc::explain(&registry.database, &settings, &digest).await? })
}

async fn run_check(call: Call, _: Nothing, how: RunCheck) -> Result<Findings, Problem> {
    let registry = &call.site.registry;
    let depth =
        if how.read.unwrap_or_default() { check::Depth::Bytes } else { check::Depth::Sizes };
    let repair =
        if how.repair.unwrap_or_default() { check::Repair::Yes } else { check::Repair::No };
    let found = check::check(&registry.database, &registry.store, depth, repair).await?;
    Ok(Findings { findings: found.iter().map(ToString::to_string).collect() })
}

/// The audit log, newest first.
pub(crate) async fn audit(site: &Site, page: &LogPaging) -> Result<Page<AuditEntry>, Problem> {
    const ALL: &str = "SELECT id, at, actor, action, object, detail, address FROM audit \
                       WHERE id < $1 ORDER BY id DESC LIMIT $2";
    entries(site, page, ALL, values![]).await
}

/// Entries of the log by a statement whose first parameters are the number before and the count.
pub(super) async fn entries(
    site: &Site,
    page: &LogPaging,
    sql: &'static str,
    more: Vec<Column>,
) -> Result<Page<AuditEntry>, Problem> {
    let mut all = values![page.before(), page.most() as u64 + 1];
    all.extend(more);
    let mut reader = site.registry.database.reader().await?;
    let rows = reader.rows(sql, all).await?;
    let entry = |row: &Row| {
        let detail: String = row.get(5)?;
        Ok(AuditEntry {
            id: row.get(0)?,
            at: Moment(row.get(1)?),
            actor: row.get(2)?,
            action: row.get(3)?,
            object: row.get(4)?,
            detail: serde_json::from_str(&detail).unwrap_or_default(),
            address: row.get(6)?,
        })
    };
    let items = rows.iter().map(entry).collect::<Result<_, DbError>>()?;
    Ok(Page::cut(items, page.most(), |entry| entry.id.to_string()))
}

async fn check_audit(call: Call, _: Nothing, _: Nothing) -> Result<AuditVerdict, Problem> {
    let verdict = audit::verify(&call.site.registry.database).await?;
    let (verdict, number) = match verdict {
        Verdict::Whole(count) => ("whole", i64::try_from(count).ok()),
        Verdict::Broken(number) => ("broken", Some(number)),
        Verdict::Cut => ("cut", None),
    };
    Ok(AuditVerdict { verdict: verdict.to_owned(), number })
}
