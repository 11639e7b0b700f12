//! Access: tokens, robots, grants.

use davit_distribution::wire::Scope;
use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    accounts::Secretive,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Text, Within, input, reply, words},
    text::{AnyName, Own, Paging, ScopeText, Who},
};
use crate::{
    auth::{
        AccountError, AddToken, OpaqueKind, OpaqueToken, RepositoryGlob, Role,
        accounts::{
            AddAccount, Kind, RemoveAccount, RevokeToken, SetGrant, Subject, TokenRow, grants,
            tokens,
        },
    },
    db::values,
};

/// Days of a token's life at most.
const MOST_DAYS: u64 = 3650;
const DAY_MS: i64 = 24 * 3600 * 1000;

reply! {
    /// A credential; the secret itself is known to nobody.
    Token {
        /// Its number.
        id: i64,
        /// `pat`, `robot`, `refresh` (a client that logged in), `session` (a browser), `invite`.
        kind: String,
        /// What its owner calls it.
        name: String,
        /// To what it is limited; none: to nothing less than the account.
        scopes: Vec<String>,
        /// When it was made.
        created_at: Moment,
    } maybe {
        /// When it ends.
        expires_at: Moment,
        /// When it was last used, to the minute.
        last_used_at: Moment,
    }
}

reply! {
    /// A machine's account.
    Robot {
        /// Its name, `OWNER+NAME`.
        name: String,
        /// `active` or `disabled`.
        state: String,
        /// When it was made.
        created_at: Moment,
    }
}

reply! {
    /// A role on repositories.
    Grant {
        /// Who has it: `alice`, `acme+ci`, `acme/dev` (a team), `members:acme`, `everyone`.
        subject: String,
        /// On what: a name or pattern.
        repositories: String,
        /// Which role.
        role: String,
        /// Whether tags may be made but not moved.
        create_only: bool,
    }
}

input! {
    /// A new token.
    NewToken {} maybe {
        /// What to call it.
        name: Prose<100>,
        /// To what it is limited; absent or empty: to nothing less than the account.
        scopes: Vec<ScopeText>,
        /// Days until it ends; absent: it does not end.
        expires_days: Within<1, MOST_DAYS>,
    }
}

input! {
    /// A new robot.
    NewRobot {
        /// Its own name, without the owner's.
        name: Own,
    }
}

words! {
    /// What someone is to a repository; each role includes those before it.
    RoleWord {
        /// May read.
        Pull = "pull",
        /// May write.
        Push = "push",
        /// May remove, undo, and set retention.
        Maintain = "maintain",
        /// May set visibility and give roles.
        Admin = "admin",
    }
}

input! {
    /// A role to give.
    NewGrant {
        /// Who gets it.
        subject: Text<Who>,
        /// On what: a name or pattern within the namespace.
        repositories: Text<RepositoryGlob>,
        /// Which role.
        role: RoleWord,
    } maybe {
        /// Whether tags may be made but not moved.
        create_only: bool,
    }
}

input! {
    /// A role to take back.
    OldGrant {
        /// Who has it.
        subject: Text<Who>,
        /// On what, as it was given.
        repositories: Text<RepositoryGlob>,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::ManageAccount;
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    vec![
        endpoint(
            (M::GET, "/accounts/{account}/tokens", ManageAccount),
            ("listTokens", "Credentials of a user or robot, oldest first"),
            async |call: Call, _: Nothing, _: Nothing| {
                account_tokens(&call.site, &call.account()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::POST, "/accounts/{account}/tokens", ManageAccount),
            ("createToken", "Make an access token of a user or robot; its secret is told once"),
            create_token,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/accounts/{account}/tokens/{id}", ManageAccount),
            ("revokeToken", "End a credential at once"),
            revoke,
        )
        .with(GONE),
        endpoint(
            (M::GET, "/accounts/{account}/robots", ManageAccount),
            ("listRobots", "Robots of an account, by name"),
            async |call: Call, page: Paging, _: Nothing| {
                robots(&call.site, &call.account()?, &page).await
            },
        ),
        endpoint(
            (M::POST, "/accounts/{account}/robots", ManageAccount),
            ("createRobot", "Make a robot; the secret of its first token is told once"),
            create_robot,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/accounts/{account}/robots/{robot}", ManageAccount),
            ("deleteRobot", "Remove a robot, its tokens and grants"),
            delete_robot,
        )
        .with(GONE),
    ]
}

/// Operations on grants.
pub(super) fn grant_endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::{ManageAccount, SiteAdmin};
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    vec![
        endpoint(
            (M::GET, "/accounts/{account}/grants", ManageAccount),
            ("listGrants", "Roles on the repositories of an account"),
            async |call: Call, _: Nothing, _: Nothing| {
                account_grants(&call.site, &call.account()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::PUT, "/accounts/{account}/grants", ManageAccount),
            ("setGrant", "Give a role on repositories of an account"),
            set_grant,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/accounts/{account}/grants", ManageAccount),
            ("removeGrant", "Take a role back"),
            remove_grant,
        )
        .with(GONE),
        endpoint(
            (M::GET, "/grants", SiteAdmin),
            ("listAllGrants", "Roles on all repositories"),
            async |call: Call, _: Nothing, _: Nothing| {
                let rows = grants(&call.site.registry.database, "").await?;
                Ok::<_, Problem>(Page::whole(rows.into_iter().map(Grant::of).collect()))
            },
        ),
        endpoint(
            (M::PUT, "/grants", SiteAdmin),
            ("setAnyGrant", "Give a role on any repositories"),
            async |call: Call, _: Nothing, new: NewGrant| put_grant(&call, new).await,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/grants", SiteAdmin),
            ("removeAnyGrant", "Take any role back"),
            async |call: Call, old: OldGrant, _: Nothing| take_grant(&call, old).await,
        )
        .with(GONE),
    ]
}

/// Credentials of an account, oldest first.
pub(crate) async fn account_tokens(site: &Site, account: &str) -> Result<Vec<Token>, Problem> {
    let rows = tokens(&site.registry.database, account).await?;
    let token = |row: TokenRow| Token {
        id: row.id,
        kind: row.kind,
        name: row.name,
        scopes: serde_json::from_str(&row.scopes).unwrap_or_default(),
        created_at: Moment(row.created_at),
        expires_at: row.expires_at.map(Moment),
        last_used_at: row.last_used_at.map(Moment),
    };
    Ok(rows.into_iter().map(token).collect())
}

async fn create_token(call: Call, _: Nothing, new: NewToken) -> Result<Secretive, Problem> {
    let account = call.account()?;
    add_token(&call, account, new).await
}

async fn add_token(call: &Call, account: String, new: NewToken) -> Result<Secretive, Problem> {
    let kind = if account.contains('+') { OpaqueKind::Robot } else { OpaqueKind::Personal };
    let token = OpaqueToken::new(kind);
    let name = new.name.unwrap_or_default().0;
    let scopes: Vec<Scope> =
        new.scopes.unwrap_or_default().into_iter().map(|scope| scope.0).collect();
    let days = new.expires_days.and_then(|days| i64::try_from(days.0).ok());
    let add = AddToken {
        by: call.actor(),
        account,
        kind,
        name: name.clone(),
        hash: token.hash(),
        scopes,
        life_ms: days.map(|days| days * DAY_MS),
    };
    let id = call.site.registry.database.write(add).await?;
    Ok(Secretive { name, secret: token.secret().clone(), id: Some(id) })
}

async fn revoke(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let revoke = RevokeToken { by: call.actor(), account: call.account()?, id: call.number()? };
    call.site.registry.database.write(revoke).await?;
    Ok(Nothing {})
}

/// Robots of an account, by name.
pub(crate) async fn robots(
    site: &Site,
    account: &str,
    page: &Paging,
) -> Result<Page<Robot>, Problem> {
    const ROBOTS: &str = "SELECT robot.name, robot.state, robot.created_at FROM account robot \
         JOIN account owner ON owner.id = robot.owner_id \
         WHERE owner.name = $1 AND robot.name > $2 ORDER BY robot.name LIMIT $3";
    let mut reader = site.registry.database.reader().await?;
    let rows = values![account, page.after(), page.most() as u64 + 1];
    let rows = reader.rows(ROBOTS, rows).await?;
    let robot = |row: &crate::db::Row| {
        let created_at = Moment(row.get(2)?);
        Ok(Robot { name: row.get(0)?, state: row.get(1)?, created_at })
    };
    let items = rows.iter().map(robot).collect::<Result<_, crate::db::DbError>>()?;
    Ok(Page::cut(items, page.most(), |robot: &Robot| robot.name.clone()))
}

async fn create_robot(call: Call, _: Nothing, new: NewRobot) -> Result<Secretive, Problem> {
    let name = format!("{}+{}", call.account()?, new.name.0);
    let add = AddAccount {
        by: call.actor(),
        name: name.clone(),
        kind: Kind::Robot,
        password: None,
        is_admin: false,
    };
    call.site.registry.database.write(add).await?;
    let token = NewToken { name: None, scopes: None, expires_days: None };
    let made = add_token(&call, name.clone(), token).await?;
    Ok(Secretive { name, ..made })
}

async fn delete_robot(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (owner, robot) = (call.account()?, call.named::<AnyName>("robot")?.0);
    if robot.split_once('+').is_none_or(|(of, _)| of != owner) {
        return Err(Problem::absent());
    }
    call.site.registry.database.write(RemoveAccount { by: call.actor(), name: robot }).await?;
    Ok(Nothing {})
}

impl Grant {
    pub(super) fn of(row: crate::auth::accounts::GrantRow) -> Self {
        // The command line prints it in words.
        let subject = row.subject.replace("team ", "").replace("members of ", "members:");
        Self { subject, repositories: row.glob, role: row.role, create_only: row.is_adding_only }
    }
}

/// Roles on the repositories of an account.
pub(crate) async fn account_grants(site: &Site, account: &str) -> Result<Vec<Grant>, Problem> {
    let rows = grants(&site.registry.database, &format!("{account}/")).await?;
    Ok(rows.into_iter().map(Grant::of).collect())
}

async fn set_grant(call: Call, _: Nothing, new: NewGrant) -> Result<Nothing, Problem> {
    stay_within(&call, &new.repositories.0)?;
    put_grant(&call, new).await
}

async fn remove_grant(call: Call, old: OldGrant, _: Nothing) -> Result<Nothing, Problem> {
    stay_within(&call, &old.repositories.0)?;
    take_grant(&call, old).await
}

/// Nobody gives roles on what is another's.
fn stay_within(call: &Call, glob: &RepositoryGlob) -> Result<(), Problem> {
    let account = call.account()?;
    if glob.is_within(&account) {
        return Ok(());
    }
    Err(AccountError::OutsideNamespace(glob.to_string(), account).into())
}

/// Gives a role; the caller has looked at whose repositories they are.
pub(super) async fn put_grant(call: &Call, new: NewGrant) -> Result<Nothing, Problem> {
    let role = match new.role {
        RoleWord::Pull => Role::Pull,
        RoleWord::Push => Role::Push,
        RoleWord::Maintain => Role::Maintain,
        RoleWord::Admin => Role::Admin,
    };
    let is_adding_only = new.create_only.unwrap_or_default();
    let (subject, glob) = (new.subject.0.0, new.repositories.0);
    write_grant(call, (subject, glob), Some((role, is_adding_only))).await
}

/// Takes a role back; the caller has looked at whose repositories they are.
pub(super) async fn take_grant(call: &Call, old: OldGrant) -> Result<Nothing, Problem> {
    write_grant(call, (old.subject.0.0, old.repositories.0), None).await
}

pub(super) async fn write_grant(
    call: &Call,
    (subject, glob): (Subject, RepositoryGlob),
    role: Option<(Role, bool)>,
) -> Result<Nothing, Problem> {
    let is_adding_only = role.is_some_and(|(_, is_adding_only)| is_adding_only);
    let role = role.map(|(role, _)| role);
    let set = SetGrant { by: call.actor(), subject, glob, role, is_adding_only };
    call.site.registry.database.write(set).await?;
    Ok(Nothing {})
}
