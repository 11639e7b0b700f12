//! LDAP directories whose passwords count, and their groups that are teams.
//!
//! The searcher's password is taken and never told. One that is absent stays as it was, for the same
//! searcher at the same address alone.

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    identity::remove,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Text, Within, input, reply, words},
    text::{Account, AnyName, OwnName, SecretText},
};
use crate::auth::{
    ldap::{
        AddGroupMap, LdapRow, LdapSource, RemoveGroupMap, SetLdap, SyncJob, SyncMode, group_maps,
        last_sync, ldap_sources,
    },
    oidc::ProviderKind,
};

/// Minutes between two comparisons at most: a year.
const MOST_MINUTES: u64 = 525_600;

reply! {
    /// A directory whose passwords count for names that have none here.
    Directory {
        /// Its name here.
        name: String,
        /// Where it is.
        url: String,
        /// Whether `ldap://` turns to TLS before anything is said.
        start_tls: bool,
        /// Who searches.
        bind_dn: String,
        /// Below which people are.
        users: String,
        /// Class of people.
        user_class: String,
        /// Attribute that is the name here.
        user_attribute: String,
        /// Attribute that is another for each entry and never changes.
        id_attribute: String,
        /// Attribute that is a group's name.
        group_attribute: String,
        /// Attribute with the DN of each member.
        member_attribute: String,
        /// Whether everyone whom it knows may have an account, whatever sign-up is set to.
        signs_up: bool,
        /// Minutes between two comparisons with the accounts; 0: never.
        sync_minutes: u32,
    } maybe {
        /// Below which groups are.
        groups: String,
        /// Certificates that are trusted instead of the system's.
        certificates: String,
        /// When it is compared next.
        sync_at: Moment,
        /// When it was compared last.
        synced_at: Moment,
        /// What came of the last try.
        sync_result: String,
        /// The last comparison that was asked for, by a person or the clock.
        comparison: Comparison,
    }
}

words! {
    /// How far a comparison is.
    ComparisonState {
        /// Its turn comes.
        Waiting = "waiting",
        /// The directory is asked.
        Running = "running",
        /// It is done.
        Done = "done",
        /// The directory was not compared.
        Failed = "failed",
    }
}

reply! {
    /// A group whose members are members of a team.
    GroupMap {
        /// The directory.
        directory: String,
        /// The group's name there.
        group: String,
        /// The team: `ORG/TEAM`.
        team: String,
    }
}

reply! {
    /// A comparison of accounts with a directory.
    Comparison {
        /// How far it is.
        state: ComparisonState,
        /// Whether nothing is changed.
        dry_run: bool,
        /// The same, and what came of it, in a sentence.
        told: String,
        /// When it was asked for.
        asked_at: Moment,
    } maybe {
        /// When it ended.
        ended_at: Moment,
        /// Accounts that came from it.
        accounts: u64,
        /// Those that are not there any more, and were the last time.
        gone: Vec<String>,
        /// Those that are in other groups than before.
        moved: Vec<String>,
    }
}

input! {
    /// A directory whose passwords count for names that have none here.
    NewDirectory {
        /// `ldaps://HOST[:PORT]`, or `ldap://HOST[:PORT]`.
        url: Prose<2048>,
        /// Who searches.
        bind_dn: Prose<1024>,
        /// Below which people are.
        users: Prose<1024>,
    } maybe {
        /// The searcher's password; absent: as before, for the same searcher at the same address.
        bind_password: SecretText<4096>,
        /// Turn to TLS before anything is said; off on this machine only. It does if absent.
        start_tls: bool,
        /// Certificates in PEM to trust instead of the system's.
        certificates: Prose<65536>,
        /// Class of people; `person` if absent.
        user_class: Prose<256>,
        /// Attribute that is the name here; `uid` if absent.
        user_attribute: Prose<256>,
        /// Attribute that is another for each entry and never changes; `entryUUID` if absent.
        id_attribute: Prose<256>,
        /// Below which groups are; absent: groups do not count.
        groups: Prose<1024>,
        /// Attribute that is a group's name; `cn` if absent.
        group_attribute: Prose<256>,
        /// Attribute with the DN of each member; `member` if absent.
        member_attribute: Prose<256>,
        /// Give everyone whom it knows an account, whatever sign-up is set to. It does if absent.
        signs_up: bool,
        /// Minutes between two comparisons with the accounts; 0: never. 60 if absent.
        sync_minutes: Within<0, MOST_MINUTES>,
    }
}

input! {
    /// A group that is a team.
    NewGroupMap {
        /// The group's name in the directory.
        group: Prose<256>,
        /// The organisation.
        organisation: Account,
        /// Its team.
        team: Text<OwnName>,
    }
}

input! {
    /// Which group is none any more.
    OldGroupMap {
        /// The group's name in the directory.
        group: Prose<256>,
    }
}

input! {
    /// How a directory is compared.
    RunSync {} maybe {
        /// Only tell what would change.
        dry_run: bool,
        /// Also where more than half of the people are gone at once.
        force: bool,
    }
}

const ON: Rule = Rule::SiteAdmin;
const GONE: StatusCode = StatusCode::NO_CONTENT;

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    vec![
        endpoint(
            (M::GET, "/ldap", ON),
            ("listDirectories", "LDAP directories, by name"),
            async |call: Call, _: Nothing, _: Nothing| {
                directories(&call.site).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::PUT, "/ldap/{directory}", ON),
            ("setDirectory", "Make an LDAP directory known, or change it"),
            set_directory,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/ldap/{directory}", ON),
            ("deleteDirectory", "Remove an LDAP directory; accounts stay"),
            async |call: Call, _: Nothing, _: Nothing| {
                remove(call, "directory", ProviderKind::Ldap).await
            },
        )
        .with(GONE),
        endpoint(
            (M::POST, "/ldap/{directory}/sync", ON),
            ("syncDirectory", "Have accounts compared with the directory that they came from, now"),
            sync,
        )
        .with(StatusCode::ACCEPTED),
        endpoint(
            (M::GET, "/ldap/{directory}/sync", ON),
            ("getComparison", "The last comparison that was asked for"),
            comparison,
        ),
        endpoint(
            (M::GET, "/ldap-groups", ON),
            ("listGroupMaps", "Groups of directories that are teams"),
            async |call: Call, _: Nothing, _: Nothing| groups(&call.site).await.map(Page::whole),
        ),
        endpoint(
            (M::POST, "/ldap/{directory}/groups", ON),
            ("createGroupMap", "Make the members of a group members of a team"),
            map_group,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/ldap/{directory}/groups", ON),
            ("deleteGroupMap", "End that for a group"),
            unmap_group,
        )
        .with(GONE),
    ]
}

impl Directory {
    fn of(row: LdapRow) -> Self {
        let source = row.source;
        Self {
            name: row.name,
            url: source.url,
            start_tls: source.start_tls,
            bind_dn: source.bind_dn,
            users: source.users,
            user_class: source.user_class,
            user_attribute: source.user_attribute,
            id_attribute: source.id_attribute,
            group_attribute: source.group_attribute,
            member_attribute: source.member_attribute,
            signs_up: source.signs_up,
            sync_minutes: source.sync_minutes,
            groups: source.groups,
            certificates: source.certificates,
            sync_at: row.sync_at.map(Moment),
            synced_at: row.synced_at.map(Moment),
            sync_result: row.sync_result,
            comparison: None,
        }
    }

    /// One that is not there yet, as it usually is.
    pub(crate) fn usual() -> Self {
        Self::of(LdapRow {
            name: String::new(),
            source: LdapSource::default(),
            sync_at: None,
            synced_at: None,
            sync_result: None,
        })
    }
}

/// LDAP directories, by name.
pub(crate) async fn directories(site: &Site) -> Result<Vec<Directory>, Problem> {
    let database = &site.registry.database;
    let mut found = Vec::new();
    for row in ldap_sources(database).await? {
        let comparison = last_sync(database, &row.name).await?.map(Comparison::of);
        found.push(Directory { comparison, ..Directory::of(row) });
    }
    Ok(found)
}

impl Comparison {
    fn of(job: SyncJob) -> Self {
        let SyncJob { state, how, outcome, asked_at, ended_at } = job;
        let state = match &*state {
            "waiting" => ComparisonState::Waiting,
            "running" => ComparisonState::Running,
            "done" => ComparisonState::Done,
            _ => ComparisonState::Failed,
        };
        let begin = if how.dry_run { "Nothing was changed: " } else { "" };
        let told = match &outcome {
            None => "The comparison is under way.".to_owned(),
            Some(Ok(report)) => format!("{begin}{report}."),
            Some(Err(words)) => format!("The directory was not compared: {words}."),
        };
        let report = outcome.and_then(Result::ok);
        Self {
            state,
            dry_run: how.dry_run,
            told,
            asked_at: Moment(asked_at),
            ended_at: ended_at.map(Moment),
            accounts: report.as_ref().map(|report| report.accounts as u64),
            gone: report.as_ref().map(|report| report.gone.clone()),
            moved: report.map(|report| report.moved),
        }
    }
}

async fn set_directory(call: Call, _: Nothing, new: NewDirectory) -> Result<Nothing, Problem> {
    let usual = LdapSource::default();
    let given = |text: Option<Prose<256>>| text.map(|text| text.0).filter(|text| !text.is_empty());
    let minutes = new.sync_minutes.and_then(|minutes| u32::try_from(minutes.0).ok());
    let source = LdapSource {
        url: new.url.0.trim().to_owned(),
        start_tls: new.start_tls.unwrap_or(usual.start_tls),
        certificates: new.certificates.map(|text| text.0).filter(|text| !text.is_empty()),
        bind_dn: new.bind_dn.0,
        bind_password: new.bind_password.map(|it| it.0).unwrap_or_default(),
        users: new.users.0,
        user_class: given(new.user_class).unwrap_or(usual.user_class),
        user_attribute: given(new.user_attribute).unwrap_or(usual.user_attribute),
        id_attribute: given(new.id_attribute).unwrap_or(usual.id_attribute),
        groups: new.groups.map(|text| text.0).filter(|text| !text.is_empty()),
        group_attribute: given(new.group_attribute).unwrap_or(usual.group_attribute),
        member_attribute: given(new.member_attribute).unwrap_or(usual.member_attribute),
        signs_up: new.signs_up.unwrap_or(usual.signs_up),
        sync_minutes: minutes.unwrap_or(usual.sync_minutes),
    };
    let set = SetLdap { by: call.actor(), name: directory_name(&call)?, source };
    call.site.registry.database.write(set).await?;
    Ok(Nothing {})
}

fn directory_name(call: &Call) -> Result<String, Problem> {
    call.named::<AnyName>("directory").map(|name| name.0)
}

async fn sync(call: Call, _: Nothing, how: RunSync) -> Result<Comparison, Problem> {
    let dry_run = how.dry_run.unwrap_or_default();
    let mode = SyncMode { dry_run, force: how.force.unwrap_or_default() };
    let name = directory_name(&call)?;
    Ok(Comparison::of(call.site.auth.start_sync(&name, mode).await?))
}

async fn comparison(call: Call, _: Nothing, _: Nothing) -> Result<Comparison, Problem> {
    let job = last_sync(&call.site.registry.database, &directory_name(&call)?).await?;
    job.map(Comparison::of).ok_or_else(Problem::absent)
}

/// Groups of directories that are teams.
pub(crate) async fn groups(site: &Site) -> Result<Vec<GroupMap>, Problem> {
    let map = |(directory, group, team)| GroupMap { directory, group, team };
    Ok(group_maps(&site.registry.database).await?.into_iter().map(map).collect())
}

async fn map_group(call: Call, _: Nothing, new: NewGroupMap) -> Result<Nothing, Problem> {
    let add = AddGroupMap {
        by: call.actor(),
        source: directory_name(&call)?,
        group: new.group.0,
        team: (new.organisation.0.0, new.team.0.0),
    };
    call.site.registry.database.write(add).await?;
    Ok(Nothing {})
}

async fn unmap_group(call: Call, old: OldGroupMap, _: Nothing) -> Result<Nothing, Problem> {
    let (source, group) = (directory_name(&call)?, old.group.0);
    let remove = RemoveGroupMap { by: call.actor(), source, group };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}
