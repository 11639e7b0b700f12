//! Users: signing up, administration, passwords, usage and quota, and what the log has of an account.

use davit_distribution::Secret;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Within, input, reply},
    server,
    text::{Account, LogPaging, Paging, Password},
};
use crate::{
    auth::{
        AccountError, AddToken, OpaqueKind, OpaqueToken, PasswordHash,
        accounts::{AddAccount, Kind, RemoveAccount, SetPassword, SetStanding, SetState, Standing},
    },
    db::{DbError, Row, values},
};

/// How long an invitation is good, in milliseconds.
const INVITATION_MS: i64 = 14 * 24 * 3600 * 1000;

reply! {
    /// An account.
    AccountInfo {
        /// Its name.
        name: String,
        /// `user`, `org` or `robot`.
        kind: String,
        /// `active`, `invited` or `disabled`.
        state: String,
        /// Whether it manages the server.
        is_admin: bool,
        /// When it was made.
        created_at: Moment,
        /// Bytes that its repositories hold, each blob once.
        used_bytes: u64,
    } maybe {
        /// Bytes that they may hold.
        quota_bytes: u64,
    }
}

reply! {
    /// What the repositories of an account hold.
    Usage {
        /// Bytes, each blob once.
        used_bytes: u64,
        /// Repositories.
        repositories: u64,
        /// Tags.
        tags: u64,
        /// Those that hold most.
        largest: Vec<RepositoryUsage>,
    } maybe {
        /// Bytes that they may hold; absent: there is no bound.
        quota_bytes: u64,
    }
}

reply! {
    /// What one repository holds.
    RepositoryUsage {
        /// Its name.
        repository: String,
        /// Bytes of its blobs, which it may share with others.
        bytes: u64,
    }
}

reply! {
    /// One entry of the audit log.
    AuditEntry {
        /// Its number.
        id: i64,
        /// When.
        at: Moment,
        /// Who did it.
        actor: String,
        /// What was done.
        action: String,
        /// To what.
        object: String,
        /// The rest.
        detail: Value,
    } maybe {
        /// From where.
        address: String,
    }
}

reply! {
    /// A secret that is shown once.
    Secretive {
        /// What it is of.
        name: String,
        /// The secret.
        secret: Secret,
    } maybe {
        /// Its number, by which it is revoked.
        id: i64,
    }
}

input! {
    /// A new user.
    NewUser {
        /// Its name, which is its namespace too.
        name: Account,
        /// Its password.
        password: Password,
    } maybe {
        /// Whether it manages the server.
        is_admin: bool,
    }
}

input! {
    /// Whoever signs up.
    NewAccount {
        /// The name, which is the namespace too.
        name: Account,
        /// The password.
        password: Password,
    } maybe {
        /// An invitation.
        invitation: Prose<200>,
    }
}

input! {
    /// What is changed of a user or organisation; what is absent stays.
    ChangeAccount {} maybe {
        /// Whether it may do anything.
        is_active: bool,
        /// Whether it manages the server.
        is_admin: bool,
        /// Bytes that its repositories may hold; 0: there is no bound.
        quota_bytes: Within<0, { i64::MAX as u64 }>,
    }
}

input! {
    /// A change of password.
    ChangePassword {
        /// The new one.
        password: Password,
    } maybe {
        /// The one until now: needed by whoever changes their own.
        current: Prose<1024>,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::{ManageAccount, Open, SeeAccount, SiteAdmin};
    vec![
        endpoint((M::POST, "/sign-up", Open), ("signUp", "Make an account for oneself"), sign_up)
            .with(StatusCode::CREATED),
        endpoint(
            (M::POST, "/invitations", SiteAdmin),
            ("createInvitation", "Invite one person, for two weeks"),
            invite,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::GET, "/users", SiteAdmin),
            ("listUsers", "Users, by name"),
            async |call: Call, page: Paging, _: Nothing| users(&call.site, &page).await,
        ),
        endpoint((M::POST, "/users", SiteAdmin), ("createUser", "Make a user"), create)
            .with(StatusCode::CREATED),
        endpoint(
            (M::GET, "/accounts/{account}", SeeAccount),
            ("getAccount", "One account"),
            async |call: Call, _: Nothing, _: Nothing| user(&call.site, &call.account()?).await,
        ),
        endpoint(
            (M::PATCH, "/accounts/{account}", SiteAdmin),
            ("changeAccount", "Change an account's state and quota"),
            change,
        ),
        endpoint(
            (M::DELETE, "/accounts/{account}", SiteAdmin),
            ("deleteAccount", "Remove an account, its tokens and grants"),
            delete,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::PUT, "/accounts/{account}/password", ManageAccount),
            ("setPassword", "Set a user's password, which ends its sessions"),
            set_password,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::GET, "/accounts/{account}/usage", SeeAccount),
            ("getUsage", "What an account's repositories hold"),
            async |call: Call, _: Nothing, _: Nothing| usage(&call.site, &call.account()?).await,
        ),
        endpoint(
            (M::GET, "/accounts/{account}/audit", ManageAccount),
            ("listAccountAudit", "What the audit log has of an account and its repositories"),
            async |call: Call, page: LogPaging, _: Nothing| {
                account_audit(&call.site, &call.account()?, &page).await
            },
        ),
    ]
}

async fn sign_up(call: Call, _: Nothing, new: NewAccount) -> Result<AccountInfo, Problem> {
    let site = &call.site;
    if !site.auth.settings().is_on {
        return Err(Problem::conflict("this server has no accounts"));
    }
    let invitation = new.invitation.map(|text| text.0).filter(|text| !text.is_empty());
    let invitation = invitation.as_deref().map(str::trim);
    let name = new.name.0.0;
    site.auth.sign_up(&name, &new.password.0, invitation, call.peer).await?;
    user(site, &name).await
}

async fn invite(call: Call, _: Nothing, _: Nothing) -> Result<Secretive, Problem> {
    let account = call.name().ok_or_else(|| Problem::conflict("this server has no accounts"))?;
    let token = OpaqueToken::new(OpaqueKind::Invite);
    let add = AddToken {
        by: call.actor(),
        account: account.to_owned(),
        kind: OpaqueKind::Invite,
        name: "invitation".to_owned(),
        hash: token.hash(),
        scopes: Vec::new(),
        life_ms: Some(INVITATION_MS),
    };
    let id = call.site.registry.database.write(add).await?;
    let (name, secret) = ("invitation".to_owned(), token.secret().clone());
    Ok(Secretive { name, secret, id: Some(id) })
}

/// Users, by name.
pub(crate) async fn users(site: &Site, page: &Paging) -> Result<Page<AccountInfo>, Problem> {
    const USERS: &str = "SELECT name, kind, state, is_admin, created_at, used_bytes, quota_bytes \
         FROM account WHERE kind = 'user' AND name > $1 ORDER BY name LIMIT $2";
    let mut reader = site.registry.database.reader().await?;
    let rows = reader.rows(USERS, values![page.after(), page.most() as u64 + 1]).await?;
    let items = rows.iter().map(info).collect::<Result<_, DbError>>()?;
    Ok(Page::cut(items, page.most(), |user: &AccountInfo| user.name.clone()))
}

fn info(row: &Row) -> Result<AccountInfo, DbError> {
    Ok(AccountInfo {
        name: row.get(0)?,
        kind: row.get(1)?,
        state: row.get(2)?,
        is_admin: row.get(3)?,
        created_at: Moment(row.get(4)?),
        used_bytes: row.get(5)?,
        quota_bytes: row.get(6)?,
    })
}

/// One account.
pub(crate) async fn user(site: &Site, name: &str) -> Result<AccountInfo, Problem> {
    const ONE: &str = "SELECT name, kind, state, is_admin, created_at, used_bytes, quota_bytes \
                       FROM account WHERE name = $1";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(ONE, values![name]).await?.ok_or_else(Problem::absent)?;
    Ok(info(&row)?)
}

async fn create(call: Call, _: Nothing, new: NewUser) -> Result<AccountInfo, Problem> {
    let name = new.name.0.0;
    let add = AddAccount {
        by: call.actor(),
        name: name.clone(),
        kind: Kind::User,
        password: Some(hash(&call.site, &new.password.0).await?),
        is_admin: new.is_admin.unwrap_or_default(),
    };
    call.site.registry.database.write(add).await?;
    user(&call.site, &name).await
}

async fn change(call: Call, _: Nothing, change: ChangeAccount) -> Result<AccountInfo, Problem> {
    let (site, name) = (&call.site, call.account()?);
    let is_own = call.name() == Some(&name);
    if is_own && (change.is_active == Some(false) || change.is_admin == Some(false)) {
        return Err(Problem::conflict("nobody locks themselves out; ask another administrator"));
    }
    if let Some(is_active) = change.is_active {
        let set = SetState { by: call.actor(), name: name.clone(), is_active };
        site.registry.database.write(set).await?;
    }
    let standing = Standing {
        is_admin: change.is_admin,
        quota_bytes: change.quota_bytes.map(|bytes| bytes.0),
    };
    let set = SetStanding { by: call.actor(), name: name.clone(), standing };
    site.registry.database.write(set).await?;
    user(site, &name).await
}

async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let name = call.account()?;
    if call.name() == Some(&name) {
        return Err(Problem::conflict("nobody removes themselves; ask another administrator"));
    }
    call.site.registry.database.write(RemoveAccount { by: call.actor(), name }).await?;
    Ok(Nothing {})
}

async fn set_password(call: Call, _: Nothing, new: ChangePassword) -> Result<Nothing, Problem> {
    let (site, name) = (&call.site, call.account()?);
    if call.name() == Some(&name) {
        // A session that was left open is not enough to take the account over.
        let current = Secret::new(new.current.unwrap_or_default().0);
        site.auth.check_password(&name, &current, call.peer).await?;
    }
    let password = hash(site, &new.password.0).await?;
    site.registry.database.write(SetPassword { by: call.actor(), name, password }).await?;
    Ok(Nothing {})
}

async fn hash(site: &Site, password: &Secret) -> Result<PasswordHash, Problem> {
    Ok(site.auth.hash_password(password).await.map_err(AccountError::from)?)
}

/// What an account's repositories hold.
pub(crate) async fn usage(site: &Site, name: &str) -> Result<Usage, Problem> {
    const ACCOUNT: &str = "SELECT id, used_bytes, quota_bytes, \
         (SELECT COUNT(*) FROM repo WHERE owner_id = account.id AND path < '~'), \
         (SELECT COUNT(*) FROM tag JOIN repo ON repo.id = tag.repo_id \
          WHERE repo.owner_id = account.id) FROM account WHERE name = $1";
    const LARGEST: &str = "SELECT r.path, CAST(COALESCE(SUM(b.size_bytes), 0) AS BIGINT) AS held \
         FROM repo r JOIN repo_blob l ON l.repo_id = r.id JOIN blob b ON b.digest = l.digest \
         WHERE r.owner_id = $1 AND r.path < '~' GROUP BY r.path ORDER BY held DESC, r.path LIMIT 20";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(ACCOUNT, values![name]).await?.ok_or_else(Problem::absent)?;
    let rows = reader.rows(LARGEST, values![row.get::<i64>(0)?]).await?;
    let largest =
        rows.iter().map(|row| Ok(RepositoryUsage { repository: row.get(0)?, bytes: row.get(1)? }));
    Ok(Usage {
        used_bytes: row.get(1)?,
        quota_bytes: row.get(2)?,
        repositories: row.get(3)?,
        tags: row.get(4)?,
        largest: largest.collect::<Result<_, DbError>>()?,
    })
}

/// What the log has of an account, its robots, repositories and grants.
pub(crate) async fn account_audit(
    site: &Site,
    name: &str,
    page: &LogPaging,
) -> Result<Page<AuditEntry>, Problem> {
    // `0` is the byte after `/`, `,` the one after `+`.
    const OWN: &str = "SELECT id, at, actor, action, object, detail, address FROM audit \
         WHERE id < $1 AND (object = $3 OR (object >= $4 AND object < $5) \
         OR (object >= $6 AND object < $7)) ORDER BY id DESC LIMIT $2";
    let bounds = values![
        name,
        format!("{name}/"),
        format!("{name}0"),
        format!("{name}+"),
        format!("{name},")
    ];
    server::entries(site, page, OWN, bounds).await
}
