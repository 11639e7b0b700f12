//! Organisations, their members and teams.

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    schema::{Nothing, Page, input, reply, words},
    text::{Account, Own, Paging},
};
use crate::{
    auth::{
        AccountError, Caller, Identity,
        accounts::{
            AddAccount, AddTeam, Kind, OrgRole, RemoveAccount, RemoveTeam, SetMember,
            SetTeamMember, has_repositories, members, teams,
        },
        audit::Actor,
    },
    db::{Connection, Transaction, values},
};

reply! {
    /// An organisation.
    Organisation {
        /// Its name.
        name: String,
        /// Its members, by name.
        members: Vec<Member>,
        /// Its teams, by name.
        teams: Vec<Team>,
    }
}

reply! {
    /// An organisation in a list.
    OrganisationName {
        /// Its name.
        name: String,
    }
}

reply! {
    /// One member of an organisation.
    Member {
        /// Name of the user.
        name: String,
        /// `member` or `owner`.
        role: String,
    }
}

reply! {
    /// A team of an organisation.
    Team {
        /// Its name.
        name: String,
        /// Names of its members.
        members: Vec<String>,
    }
}

input! {
    /// A new organisation.
    NewOrganisation {
        /// Its name, which is its namespace too.
        name: Account,
    }
}

input! {
    /// A new team.
    NewTeam {
        /// Its name.
        name: Own,
    }
}

words! {
    /// What someone is in an organisation.
    MemberRole {
        /// Is in it; rights come by teams and grants.
        Member = "member",
        /// Owns its namespace.
        Owner = "owner",
    }
}

input! {
    /// What someone is from now on.
    SetRole {
        /// The role.
        role: MemberRole,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::{Credential, ManageAccount, SeeAccount, User};
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    vec![
        endpoint(
            (M::GET, "/organisations", Credential),
            ("listOrganisations", "Organisations in which the caller is; for administrators all"),
            async |call: Call, page: Paging, _: Nothing| {
                organisations(&call.site, &call.caller, &page).await
            },
        ),
        endpoint(
            (M::POST, "/organisations", User),
            ("createOrganisation", "Make an organisation that the caller owns"),
            create,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::GET, "/organisations/{account}", SeeAccount),
            ("getOrganisation", "An organisation with its members and teams"),
            async |call: Call, _: Nothing, _: Nothing| {
                organisation(&call.site, &call.account()?).await
            },
        ),
        endpoint(
            (M::DELETE, "/organisations/{account}", ManageAccount),
            ("deleteOrganisation", "Remove an organisation that has no repositories"),
            delete,
        )
        .with(GONE),
        endpoint(
            (M::PUT, "/organisations/{account}/members/{user}", ManageAccount),
            ("setMember", "Put a user into an organisation, or change the role"),
            set_member,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/organisations/{account}/members/{user}", ManageAccount),
            ("removeMember", "Take a user out of an organisation and all its teams"),
            remove_member,
        )
        .with(GONE),
        endpoint(
            (M::POST, "/organisations/{account}/teams", ManageAccount),
            ("createTeam", "Make a team"),
            create_team,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::DELETE, "/organisations/{account}/teams/{team}", ManageAccount),
            ("deleteTeam", "Remove a team and its grants"),
            delete_team,
        )
        .with(GONE),
        endpoint(
            (M::PUT, "/organisations/{account}/teams/{team}/members/{user}", ManageAccount),
            ("addTeamMember", "Put a member of the organisation into a team"),
            async |call: Call, _: Nothing, _: Nothing| set_team_member(&call, true).await,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/organisations/{account}/teams/{team}/members/{user}", ManageAccount),
            ("removeTeamMember", "Take someone out of a team"),
            async |call: Call, _: Nothing, _: Nothing| set_team_member(&call, false).await,
        )
        .with(GONE),
    ]
}

/// Organisations that the caller may see, by name.
pub(crate) async fn organisations(
    site: &Site,
    caller: &Caller,
    page: &Paging,
) -> Result<Page<OrganisationName>, Problem> {
    const ALL: &str = "SELECT name FROM account WHERE kind = 'org' AND name > $1 \
                       ORDER BY name LIMIT $2";
    let sees_all = caller.standing.is_site_admin || caller.identity == Identity::Everyone;
    let names: Vec<String> = if sees_all && !caller.is_limited() {
        let mut reader = site.registry.database.reader().await?;
        let rows = reader.rows(ALL, values![page.after(), page.most() as u64 + 1]).await?;
        rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?
    } else {
        let own = caller.standing.organisations.iter();
        own.filter(|name| name.as_str() > page.after()).take(page.most() + 1).cloned().collect()
    };
    let items = names.into_iter().map(|name| OrganisationName { name }).collect();
    Ok(Page::cut(items, page.most(), |org: &OrganisationName| org.name.clone()))
}

async fn create(call: Call, _: Nothing, new: NewOrganisation) -> Result<Organisation, Problem> {
    let name = new.name.0.0;
    let owner = call.name().map(str::to_owned);
    let add = Found { by: call.actor(), name: name.clone(), owner };
    call.site.registry.database.write(add).await?;
    organisation(&call.site, &name).await
}

/// Makes an organisation together with its first owner.
struct Found {
    by: Actor,
    name: String,
    owner: Option<String>,
}

impl Transaction for Found {
    type Output = ();
    type Error = AccountError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AccountError> {
        // Otherwise whoever comes first would own what an administrator has put there.
        if has_repositories(connection, &self.name).await? {
            return Err(AccountError::Exists(self.name.clone()));
        }
        let account = AddAccount {
            by: self.by.clone(),
            name: self.name.clone(),
            kind: Kind::Organisation,
            password: None,
            is_admin: false,
        };
        account.run(connection).await?;
        let Some(owner) = &self.owner else { return Ok(()) };
        let member = SetMember {
            by: self.by.clone(),
            org: self.name.clone(),
            account: owner.clone(),
            role: Some(OrgRole::Owner),
        };
        member.run(connection).await
    }
}

/// An organisation with its members and teams.
pub(crate) async fn organisation(site: &Site, name: &str) -> Result<Organisation, Problem> {
    const KIND: &str = "SELECT name FROM account WHERE name = $1 AND kind = 'org'";
    let database = &site.registry.database;
    if database.reader().await?.row(KIND, values![name]).await?.is_none() {
        return Err(Problem::absent());
    }
    let member = |row: crate::auth::accounts::MemberRow| Member { name: row.name, role: row.role };
    let team = |row: crate::auth::accounts::TeamRow| Team { name: row.name, members: row.members };
    Ok(Organisation {
        name: name.to_owned(),
        members: members(database, name).await?.into_iter().map(member).collect(),
        teams: teams(database, name).await?.into_iter().map(team).collect(),
    })
}

async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let name = call.account()?;
    organisation(&call.site, &name).await?;
    call.site.registry.database.write(RemoveAccount { by: call.actor(), name }).await?;
    Ok(Nothing {})
}

async fn set_member(call: Call, _: Nothing, set: SetRole) -> Result<Nothing, Problem> {
    let role = match set.role {
        MemberRole::Member => OrgRole::Member,
        MemberRole::Owner => OrgRole::Owner,
    };
    put_member(&call, Some(role)).await
}

async fn remove_member(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    put_member(&call, None).await
}

async fn put_member(call: &Call, role: Option<OrgRole>) -> Result<Nothing, Problem> {
    let (org, account) = (call.account()?, call.user()?);
    let set = SetMember { by: call.actor(), org, account, role };
    call.site.registry.database.write(set).await?;
    Ok(Nothing {})
}

async fn create_team(call: Call, _: Nothing, new: NewTeam) -> Result<Team, Problem> {
    let name = new.name.0.0;
    let add = AddTeam { by: call.actor(), org: call.account()?, team: name.clone() };
    call.site.registry.database.write(add).await?;
    Ok(Team { name, members: Vec::new() })
}

async fn delete_team(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (org, team) = (call.account()?, call.team()?);
    call.site.registry.database.write(RemoveTeam { by: call.actor(), org, team }).await?;
    Ok(Nothing {})
}

async fn set_team_member(call: &Call, is_member: bool) -> Result<Nothing, Problem> {
    let (org, team, account) = (call.account()?, call.team()?, call.user()?);
    let set = SetTeamMember { by: call.actor(), org, team, account, is_member };
    call.site.registry.database.write(set).await?;
    Ok(Nothing {})
}
