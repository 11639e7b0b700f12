//! Sources that are changed: rules, variables and the webhook's address stay.

use std::time::Duration;

use serde_json::json;

use super::{
    super::AutobuildError, Autotest, Credential, SourceSettings, address::address, find, parsed,
    tell,
};
use crate::{
    auth::{RepositoryGlob, audit::Actor},
    db::{Connection, Transaction, ms, values},
    name::RepositoryName,
};

/// What becomes of the credential that is kept.
#[derive(Clone, Debug, Default)]
pub enum NewCredential {
    /// It stays; for another address there is none to stay.
    #[default]
    Stays,
    /// There is none any more.
    None,
    /// This takes its place.
    Is(Credential),
}

/// What changes of a source; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct SourceChange {
    /// The address of the git repository.
    pub url: Option<String>,
    /// What gives access to it.
    pub credential: NewCredential,
    /// How often it is asked for news; `Some(None)`: by webhook only.
    pub poll: Option<Option<Duration>>,
    /// How images are tested.
    pub test: Option<Autotest>,
    /// Repositories of the same owner that builds may pull from, as patterns.
    pub pulls: Option<Vec<String>>,
}

/// Changes a source. Another address is another git repository: what was kept secret for the old one,
/// credential and secret variables, is not told to it, builds that wait for the old one end, and what is
/// there already is not news.
#[derive(Clone, Debug)]
pub struct ChangeSource {
    by: Actor,
    path: RepositoryName,
    change: SourceChange,
}

impl ChangeSource {
    /// Checks what is asked for. An account in the address becomes the credential.
    ///
    /// # Errors
    /// The address, or a pattern.
    pub fn new(
        by: Actor,
        path: RepositoryName,
        mut change: SourceChange,
    ) -> Result<Self, AutobuildError> {
        for pattern in change.pulls.iter().flatten() {
            pattern.parse::<RepositoryGlob>()?;
        }
        if let Some(text) = &change.url {
            let (url, found) = address(text.trim())?;
            change.url = Some(url);
            if let (NewCredential::Stays, Some(found)) = (&change.credential, found) {
                change.credential = NewCredential::Is(found);
            }
        }
        Ok(Self { by, path, change })
    }

    /// The credential's column, if it changes.
    fn credential(
        &self,
        is_elsewhere: bool,
        has_one: bool,
    ) -> Result<Option<Option<String>>, AutobuildError> {
        match &self.change.credential {
            NewCredential::Is(credential) => Ok(Some(Some(credential.to_row()))),
            NewCredential::None => Ok(Some(None)),
            NewCredential::Stays if is_elsewhere && has_one => Err(AutobuildError::Elsewhere),
            NewCredential::Stays => Ok(None),
        }
    }
}

impl Transaction for ChangeSource {
    type Output = ();
    type Error = AutobuildError;

    async fn run(&self, connection: &mut Connection) -> Result<(), AutobuildError> {
        let (source, repo) = find(connection, self.path.as_str()).await?;
        let sql = "SELECT url, SUBSTR(credential, 1, 3), settings FROM build_source WHERE id = $1";
        let row = connection.row(sql, values![source]).await?;
        let row = row.ok_or_else(|| AutobuildError::Unknown("source of", self.path.to_string()))?;
        let url: String = row.get(0)?;
        let has_one = row.get::<Option<String>>(1)?.is_some();
        let mut settings: SourceSettings = parsed(source, &row.get::<String>(2)?)?;
        let change = &self.change;
        let other = change.url.as_ref().filter(|other| **other != url);
        if let Some(credential) = self.credential(other.is_some(), has_one)? {
            let sql = "UPDATE build_source SET credential = $1 WHERE id = $2";
            connection.execute(sql, values![credential, source]).await?;
        }
        if let Some(other) = other {
            leave(connection, (source, repo), other).await?;
        }
        settings.test = change.test.clone().unwrap_or(settings.test);
        settings.pulls = change.pulls.clone().unwrap_or(settings.pulls);
        let sql = "UPDATE build_source SET settings = $1 WHERE id = $2";
        connection.execute(sql, values![json!(settings).to_string(), source]).await?;
        let now = connection.now_ms();
        if let Some(poll) = change.poll {
            let sql = "UPDATE build_source SET poll_ms = $1, poll_at = $2 WHERE id = $3";
            connection.execute(sql, values![poll.map(ms), now, source]).await?;
        }
        let told = json!({
            "url": change.url, "test": change.test.as_ref().map(Autotest::text),
            "pulls": change.pulls, "poll_ms": change.poll.map(|poll| poll.map(ms)),
            "credential": !matches!(change.credential, NewCredential::Stays),
        });
        tell(connection, &self.by, "source.change", (&self.path, &told.to_string())).await
    }
}

/// Turns a source to another git repository.
async fn leave(
    connection: &mut Connection,
    (source, repo): (i64, i64),
    url: &str,
) -> Result<(), AutobuildError> {
    let now = connection.now_ms();
    let sql = "UPDATE build_source SET url = $1, refs = NULL, error = NULL, poll_at = $2
               WHERE id = $3";
    connection.execute(sql, values![url, now, source]).await?;
    let sql = "DELETE FROM build_variable WHERE source_id = $1 AND is_secret = 1";
    connection.execute(sql, values![source]).await?;
    let sql = "UPDATE build SET state = 'cancelled', error = 'the source was changed',
               finished_at = $1 WHERE repo_id = $2 AND state = 'waiting'";
    connection.execute(sql, values![now, repo]).await?;
    Ok(())
}
