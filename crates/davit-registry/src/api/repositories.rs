//! Repositories: search, make, describe, share, and what is kept how long.

use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Call, Endpoint, Problem, Rule, Site,
    access::{Grant, NewGrant, put_grant, write_grant},
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Schema, Schemas, Text, input, reply, words},
    text::{Most, Who, most},
};
use crate::{
    auth::{
        Action, Caller, RepositoryGlob,
        accounts::grants,
        audit::{self, Actor, Entry},
    },
    db::{Connection, DbError, Row, Transaction, values},
    gc,
    name::RepositoryName,
    registry::find_repo,
    settings::{RetentionRule, SetSettings, SettingsChange, TagPattern, repository_settings},
};

/// Characters of a README at most.
pub(crate) const README: usize = 64 << 10;
/// Rows that a search looks at, at once.
const AT_ONCE: u64 = 500;

words! {
    /// Who may pull.
    Visibility {
        /// Everyone.
        Public = "public",
        /// Those with a role.
        Private = "private",
    }
}

reply! {
    /// A repository.
    Repository {
        /// Its name.
        name: String,
        /// `public` or `private`.
        visibility: String,
        /// A sentence about it.
        description: String,
        /// When it was made.
        created_at: Moment,
        /// Tags that it has.
        tags: u64,
    } maybe {
        /// When a tag was last moved.
        updated_at: Moment,
        /// Its README, in Markdown; in lists it is absent.
        readme: String,
    }
}

reply! {
    /// What becomes of a tag by the rules of retention, and why.
    Verdict {
        /// The tag.
        tag: String,
        /// What it names.
        digest: String,
        /// Whether it stays.
        stays: bool,
    } maybe {
        /// Why it stays.
        reason: String,
    }
}

reply! {
    /// Settings of a repository.
    RepositoryConfig {
        /// Tags that are made once and then neither moved nor removed, as regular expressions.
        immutable_tags: Vec<String>,
        /// What keeps a tag.
        retention: Vec<RetentionRule>,
        /// Whether manifests stay that nothing holds any more.
        keep_untagged: bool,
    }
}

input! {
    /// Which repositories.
    Search {} maybe {
        /// Entries of the page; 100 if absent.
        limit: Most,
        /// The `next` of the page before.
        after: Prose<255>,
        /// A part of the name or description, in any case.
        search: Prose<100>,
        /// Only those of this account.
        namespace: Prose<64>,
    }
}

input! {
    /// What is set of a repository; what is absent stays.
    SetRepository {} maybe {
        /// Who may pull; private, if absent when the repository is made.
        visibility: Visibility,
        /// A sentence about it.
        description: Prose<200>,
        /// Its README, in Markdown.
        readme: Prose<README>,
    }
}

input! {
    /// What is set of a repository's settings; what is absent stays.
    SetConfig {} maybe {
        /// Tags that are made once, as regular expressions that match whole tags.
        immutable_tags: Vec<TagPattern>,
        /// What keeps a tag.
        retention: Vec<RetentionRule>,
        /// Whether manifests stay that nothing holds any more.
        keep_untagged: bool,
    }
}

input! {
    /// Who gets a role on this repository.
    RepositoryGrant {
        /// Who gets it.
        subject: Text<Who>,
        /// Which role.
        role: super::access::RoleWord,
    } maybe {
        /// Whether tags may be made but not moved.
        create_only: bool,
    }
}

input! {
    /// Who loses a role on this repository.
    RepositorySubject {
        /// Who has it.
        subject: Text<Who>,
    }
}

impl Schema for RetentionRule {
    fn schema(_: &mut Schemas) -> serde_json::Value {
        let number = |most: u32| json!({ "type": "integer", "minimum": 0, "maximum": most });
        let keeps = ["newest", "pushed_within_days", "pulled_within_days", "semver_newest"];
        json!({
            "type": "object",
            "properties": {
                "tags": { "type": "string", "maxLength": 256, "format": "regex" },
                "newest": number(u32::MAX),
                "pushed_within_days": number(36_500),
                "pulled_within_days": number(36_500),
                "semver_newest": number(u32::MAX),
                "semver_per": { "type": "string", "enum": ["all", "major", "minor"] },
            },
            "required": ["tags"],
            "anyOf": keeps.map(|name| json!({ "required": [name] })),
            "additionalProperties": false,
        })
    }
}

impl Search {
    /// So many after a name, by words and account; empty texts ask for nothing.
    pub(crate) fn new(limit: u64, after: &str, words: &str, namespace: &str) -> Self {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            limit: Some(Most::new(limit)),
            after: some(after).map(Prose),
            search: some(words).map(Prose),
            namespace: some(namespace).map(Prose),
        }
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::{Open, Repository as On};
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    vec![
        endpoint(
            (M::GET, "/repositories", Open),
            ("listRepositories", "Repositories that the caller may pull from, by name"),
            async |call: Call, search: Search, _: Nothing| {
                repositories(&call.site, &call.caller, &search).await
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}", On(Action::Pull)),
            ("getRepository", "One repository"),
            async |call: Call, _: Nothing, _: Nothing| {
                repository(&call.site, &call.repository()?).await
            },
        ),
        endpoint(
            (M::PUT, "/repositories/{repository}", On(Action::ChangeAccess)),
            ("setRepository", "Make or change a repository"),
            set,
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/settings", On(Action::ChangeSettings)),
            ("getRepositorySettings", "Settings of a repository"),
            async |call: Call, _: Nothing, _: Nothing| {
                repository_config(&call.site, &call.repository()?).await
            },
        ),
        endpoint(
            (M::PATCH, "/repositories/{repository}/settings", On(Action::ChangeSettings)),
            ("setRepositorySettings", "Change settings of a repository"),
            set_config,
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/retention", On(Action::ChangeSettings)),
            (
                "tryRetention",
                "Which tags the rules would remove now, and which one keeps the others",
            ),
            async |call: Call, _: Nothing, _: Nothing| {
                retention_verdicts(&call.site, &call.repository()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/grants", On(Action::ChangeAccess)),
            ("listRepositoryGrants", "Roles on a repository, by patterns too"),
            async |call: Call, _: Nothing, _: Nothing| {
                repository_grants(&call.site, &call.repository()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::PUT, "/repositories/{repository}/grants", On(Action::ChangeAccess)),
            ("setRepositoryGrant", "Give a role on a repository"),
            set_grant,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/repositories/{repository}/grants", On(Action::ChangeAccess)),
            ("removeRepositoryGrant", "Take a role on a repository back"),
            remove_grant,
        )
        .with(GONE),
    ]
}

const COLUMNS: usize = 6;

fn row_of(row: &Row) -> Result<Repository, DbError> {
    let updated_at: Option<i64> = row.get(5)?;
    Ok(Repository {
        name: row.get(0)?,
        visibility: row.get(1)?,
        description: row.get(2)?,
        created_at: Moment(row.get(3)?),
        tags: row.get(4)?,
        updated_at: updated_at.map(Moment),
        readme: None,
    })
}

impl Repository {
    /// The account to which it belongs by its name.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.name.split_once('/').map(|(owner, _)| owner)
    }
}

/// Repositories that the caller may pull from; others are passed over without a trace.
pub(crate) async fn repositories(
    site: &Site,
    caller: &Caller,
    search: &Search,
) -> Result<Page<Repository>, Problem> {
    const FIND: &str = "SELECT path, visibility FROM repo WHERE path > $1 AND path < $2 \
         AND ($3 = '' OR path LIKE $3 ESCAPE '!' OR LOWER(description) LIKE $3 ESCAPE '!') \
         ORDER BY path LIMIT $4";
    const ONE: &str = "SELECT path, visibility, description, created_at, \
         (SELECT COUNT(*) FROM tag WHERE repo_id = repo.id), \
         (SELECT MAX(updated_at) FROM tag WHERE repo_id = repo.id) FROM repo WHERE path = $1";
    let text = |text: &Option<Prose<64>>| text.as_ref().map_or_else(String::new, |t| t.0.clone());
    let (from, to) = match text(&search.namespace) {
        name if name.is_empty() => (String::new(), "{".to_owned()),
        name => (format!("{name}/"), format!("{name}0")),
    };
    let words = search.search.as_ref().map_or("", |words| words.0.trim());
    let pattern = if words.is_empty() { String::new() } else { like(words) };
    let after = search.after.as_ref().map_or("", |after| after.0.as_str());
    let (most, mut last) = (most(search.limit), from.max(after.to_owned()));
    let mut names: Vec<String> = Vec::new();
    let mut reader = site.registry.database.reader().await?;
    while names.len() <= most {
        let rows = reader.rows(FIND, values![&last, &to, &pattern, AT_ONCE]).await?;
        for row in &rows {
            let visibility: String = row.get(1)?;
            last = row.get(0)?;
            // By the credential, not by the account alone: a narrow token sees what it may pull.
            if caller.rights(&last, visibility == "public").allows(Action::Pull) {
                names.push(last.clone());
            }
        }
        if (rows.len() as u64) < AT_ONCE {
            break;
        }
    }
    let names = Page::cut(names, most, Clone::clone);
    let mut items = Vec::new();
    for name in &names.items {
        // Removed a moment ago, or there.
        if let Some(row) = reader.row(ONE, values![name]).await? {
            items.push(row_of(&row)?);
        }
    }
    Ok(Page { items, next: names.next })
}

/// A pattern of LIKE for a text anywhere, in lower case.
pub(super) fn like(words: &str) -> String {
    let mut pattern = String::from("%");
    for letter in words.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern + "%"
}

/// One repository.
pub(crate) async fn repository(site: &Site, name: &RepositoryName) -> Result<Repository, Problem> {
    const ONE: &str = "SELECT path, visibility, description, created_at, \
         (SELECT COUNT(*) FROM tag WHERE repo_id = repo.id), \
         (SELECT MAX(updated_at) FROM tag WHERE repo_id = repo.id), readme \
         FROM repo WHERE path = $1";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(ONE, values![name.as_str()]).await?.ok_or_else(Problem::absent)?;
    Ok(Repository { readme: Some(row.get(COLUMNS)?), ..row_of(&row)? })
}

async fn set(call: Call, _: Nothing, set: SetRepository) -> Result<Repository, Problem> {
    let name = call.repository()?;
    let change = Describe {
        by: call.actor(),
        name: name.clone(),
        visibility: set.visibility.map(Visibility::as_str),
        description: set.description.map(|text| text.0),
        readme: set.readme.map(|text| text.0),
    };
    call.site.registry.database.write(change).await?;
    repository(&call.site, &name).await
}

/// Makes a repository where it is absent, and sets what is given.
struct Describe {
    by: Actor,
    name: RepositoryName,
    visibility: Option<&'static str>,
    description: Option<String>,
    readme: Option<String>,
}

impl Transaction for Describe {
    type Output = ();
    type Error = Problem;

    async fn run(&self, connection: &mut Connection) -> Result<(), Problem> {
        let is_new = find_repo(connection, &self.name).await?.is_none();
        crate::registry::ensure_repo(connection, &self.name).await?;
        let sql = "UPDATE repo SET visibility = COALESCE($1, visibility),
                   description = COALESCE($2, description), readme = COALESCE($3, readme)
                   WHERE path = $4";
        let path = self.name.as_str();
        let values = values![self.visibility, self.description.clone(), self.readme.clone(), path];
        connection.execute(sql, values).await?;
        let detail = json!({ "visibility": self.visibility }).to_string();
        let action = match (is_new, self.visibility) {
            (true, _) => "repo.add",
            (false, Some(_)) => "repo.visibility",
            (false, None) => "repo.describe",
        };
        Ok(audit::append(connection, &self.by, Entry { action, object: path, detail: &detail })
            .await?)
    }
}

/// Settings of a repository.
pub(crate) async fn repository_config(
    site: &Site,
    name: &RepositoryName,
) -> Result<RepositoryConfig, Problem> {
    let settings = repository_settings(&site.registry.database, name).await?;
    Ok(RepositoryConfig {
        immutable_tags: settings.immutable_tags.iter().map(ToString::to_string).collect(),
        retention: settings.retention,
        keep_untagged: settings.keep_untagged,
    })
}

async fn set_config(call: Call, _: Nothing, set: SetConfig) -> Result<RepositoryConfig, Problem> {
    let repository = call.repository()?;
    let SetConfig { immutable_tags, retention, keep_untagged } = set;
    let change =
        SettingsChange { immutable_tags, retention, keep_untagged, ..SettingsChange::default() };
    let set = SetSettings { by: call.actor(), repository: repository.clone(), change };
    call.site.registry.database.write(set).await?;
    repository_config(&call.site, &repository).await
}

/// What the rules of retention do to each tag, as things are now.
pub(crate) async fn retention_verdicts(
    site: &Site,
    name: &RepositoryName,
) -> Result<Vec<Verdict>, Problem> {
    repository_config(site, name).await?;
    let all = gc::retention_verdicts(&site.registry.database).await?;
    let own = all.into_iter().filter(|verdict| verdict.repository == name.as_str());
    let verdict = |verdict: gc::RetentionVerdict| Verdict {
        tag: verdict.verdict.tag,
        digest: verdict.verdict.digest.to_string(),
        stays: verdict.verdict.kept.is_some(),
        reason: verdict.verdict.kept.map(|kept| kept.to_string()),
    };
    Ok(own.map(verdict).collect())
}

/// Roles on a repository, by patterns too.
pub(crate) async fn repository_grants(
    site: &Site,
    name: &RepositoryName,
) -> Result<Vec<Grant>, Problem> {
    let all = grants(&site.registry.database, "").await?;
    let matches =
        |glob: &str| glob.parse::<RepositoryGlob>().is_ok_and(|glob| glob.matches(name.as_str()));
    Ok(all.into_iter().filter(|row| matches(&row.glob)).map(Grant::of).collect())
}

async fn set_grant(call: Call, _: Nothing, new: RepositoryGrant) -> Result<Nothing, Problem> {
    let repositories = Text(own_glob(&call)?);
    let RepositoryGrant { subject, role, create_only } = new;
    put_grant(&call, NewGrant { subject, repositories, role, create_only }).await
}

async fn remove_grant(call: Call, old: RepositorySubject, _: Nothing) -> Result<Nothing, Problem> {
    let glob = own_glob(&call)?;
    write_grant(&call, (old.subject.0.0, glob), None).await
}

/// The pattern that means this repository only: its name has no stars.
fn own_glob(call: &Call) -> Result<RepositoryGlob, Problem> {
    call.repository()?;
    call.named("repository")
}
