//! Sources as they are listed.

use davit_distribution::Secret;

use super::{
    super::{AutobuildError, rules::Rule},
    HookAddress, SourceSettings, Variable, hook_path, parsed, rules_of, variables_of,
};
use crate::db::{Connection, Database, DbError, values};

/// The query of sources of some repositories.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT s.id, r.path, s.url, SUBSTR(s.credential, 1, 3), s.settings, s.poll_ms, s.error \
             FROM build_source s JOIN repo r ON r.id = s.repo_id WHERE ",
            $which,
            " ORDER BY r.path LIMIT 10000"
        )
    };
}

/// A source as it is listed: without secrets.
#[derive(Clone, Debug)]
pub struct SourceRow {
    /// The repository.
    pub path: String,
    /// Address of the git repository.
    pub url: String,
    /// Whether a credential is kept for it.
    pub has_credential: bool,
    /// What it says beside that.
    pub settings: SourceSettings,
    /// Milliseconds between looks.
    pub poll_ms: Option<i64>,
    /// Why the last look failed.
    pub error: Option<String>,
    /// Its rules, with their numbers.
    pub rules: Vec<(i64, Rule)>,
    /// Its variables: name, and value where that is no secret.
    pub variables: Vec<(String, Option<String>)>,
}

/// Lists sources of repositories whose names begin so.
///
/// # Errors
/// The database's, or a row that cannot be read.
pub async fn sources(database: &Database, prefix: &str) -> Result<Vec<SourceRow>, AutobuildError> {
    let sql = select!("SUBSTR(r.path, 1, LENGTH($1)) = $1 AND r.path < '~'");
    read_sources(database, sql, prefix).await
}

/// The source of a repository.
///
/// # Errors
/// There is none, the database's, or a row that cannot be read.
pub async fn source_of(database: &Database, path: &str) -> Result<SourceRow, AutobuildError> {
    let found = read_sources(database, select!("r.path = $1"), path).await?.into_iter().next();
    found.ok_or_else(|| AutobuildError::Unknown("source of", path.to_owned()))
}

async fn read_sources(
    database: &Database,
    sql: &'static str,
    name: &str,
) -> Result<Vec<SourceRow>, AutobuildError> {
    let mut reader = database.reader().await?;
    let mut found = Vec::new();
    for row in reader.rows(sql, values![name]).await? {
        let id = row.get(0)?;
        found.push(SourceRow {
            path: row.get(1)?,
            url: row.get(2)?,
            has_credential: row.get::<Option<String>>(3)?.is_some(),
            settings: parsed(id, &row.get::<String>(4)?)?,
            poll_ms: row.get(5)?,
            error: row.get(6)?,
            rules: rules_of(&mut reader, id).await?,
            variables: shown_variables(&mut reader, id).await?,
        });
    }
    Ok(found)
}

/// Address and secret of the webhook of a repository's source.
///
/// # Errors
/// There is none, or the database's.
pub async fn hook_of(database: &Database, path: &str) -> Result<HookAddress, AutobuildError> {
    let mut reader = database.reader().await?;
    let sql = "SELECT s.hook_key, s.hook_secret FROM build_source s \
               JOIN repo r ON r.id = s.repo_id WHERE r.path = $1";
    let row = reader.row(sql, values![path]).await?;
    let row = row.ok_or_else(|| AutobuildError::Unknown("source of", path.to_owned()))?;
    let secret = Secret::new(row.get::<String>(1)?);
    Ok(HookAddress { path: hook_path(&row.get::<String>(0)?), secret })
}

async fn shown_variables(
    connection: &mut Connection,
    source: i64,
) -> Result<Vec<(String, Option<String>)>, DbError> {
    let variables = variables_of(connection, source).await?.into_iter();
    let shown = |variable: &Variable| variable.value.expose().to_owned();
    Ok(variables.map(|it| (it.name.clone(), (!it.is_secret).then(|| shown(&it)))).collect())
}
