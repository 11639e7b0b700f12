//! What workers look at between builds: git repositories that are polled, base images, previews that end.
//!
//! Any number of workers may look: each takes one row at a time, and puts its next turn off first.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use davit_image::Digest;
use serde_json::json;
use tokio::sync::watch;

use super::{
    AutobuildError,
    child::{Scratch, ask},
    hook::pushed,
    queue::{Announce, Announced, Cause, Rebuild},
    rules::Revision,
    source::Credential,
    task::{References, Task, Work},
    worker::{WorkerSettings, namespace, tell},
};
use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, values},
    gc::RemoveTags,
    settings::RepositorySettings,
};

/// How often all is looked at.
const ROUND: Duration = Duration::from_secs(1);
/// How long a git host or registry may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How soon a base image of another registry is looked at again.
const LOOK_MS: i64 = 60 * 60 * 1000;
/// How soon a first look that failed is tried again.
const FIRST_LOOK_MS: i64 = 60 * 1000;
/// Rows of one round.
const MOST: i64 = 50;

/// Looks until it is told to stop.
pub(super) async fn run(
    database: Database,
    settings: Arc<WorkerSettings>,
    tasks: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    let watcher = Watcher { database, settings, tasks };
    while !*stopped.borrow() {
        tokio::select! {
            () = watcher.round() => {}
            _ = stopped.changed() => return,
        }
        // Either way the loop looks.
        let _stopped = tokio::time::timeout(ROUND, stopped.changed()).await;
    }
}

struct Watcher {
    database: Database,
    settings: Arc<WorkerSettings>,
    tasks: PathBuf,
}

impl Watcher {
    /// Looks at everything once; what fails does not keep the rest.
    async fn round(&self) {
        let looked = [
            self.expire().await,
            self.own_bases().await,
            self.foreign_base().await,
            self.poll().await,
        ];
        for error in looked.into_iter().filter_map(Result::err) {
            tell(&error, "sources of builds cannot be looked at");
        }
    }

    /// Tells whether a query finds anything that is due, without the lock of a change.
    async fn is_due(&self, sql: &'static str) -> Result<bool, DbError> {
        let mut reader = self.database.reader().await?;
        let now = reader.now_ms();
        Ok(reader.row(sql, values![now]).await?.is_some())
    }

    /// Asks one git repository whose turn it is.
    async fn poll(&self) -> Result<(), AutobuildError> {
        if !self.is_due("SELECT id FROM build_source WHERE poll_at <= $1 LIMIT 1").await? {
            return Ok(());
        }
        let Some(turn) = self.database.write(TakeTurn).await? else { return Ok(()) };
        let found = match self.references(&turn).await {
            Ok(found) => found,
            Err(error) => Err(error.to_string()),
        };
        let noted = Noted { source: turn.source, url: turn.url, found };
        let new = self.database.write(noted).await?;
        if new.is_empty() {
            return Ok(());
        }
        let (cause, actor) = (Cause::Poll, String::new());
        let announce = Announce { source: turn.source, revisions: new, cause, actor };
        let Announced { queued, discarded } = self.database.write(announce).await?;
        tracing::info!(source = turn.source, ?queued, discarded, "a poll found news");
        Ok(())
    }

    async fn references(&self, turn: &Turn) -> io::Result<Result<References, String>> {
        let scratch = self.scratch("poll")?;
        let access = self.settings.git(&turn.url, turn.credential.as_ref());
        let directory = scratch.path().to_owned();
        let task = Task { directory, work: Work::References(access) };
        ask(&self.settings.program, &task, PATIENCE).await
    }

    /// Looks at base images that this registry has.
    async fn own_bases(&self) -> Result<(), AutobuildError> {
        let sql = "SELECT b.rule_id, b.reference, b.image, b.digest, m.digest FROM build_base b \
                   JOIN repo r ON r.path = b.path JOIN tag t ON t.repo_id = r.id AND t.name = b.tag \
                   JOIN manifest m ON m.id = t.manifest_id WHERE m.digest <> b.digest LIMIT $1";
        let rows = self.database.reader().await?.rows(sql, values![MOST]).await?;
        for row in rows {
            let digests = (row.get(3)?, row.get(4)?);
            self.rebuild(row.get(0)?, row.get(1)?, row.get(2)?, digests).await?;
        }
        Ok(())
    }

    /// Asks another registry for one base image whose turn it is.
    async fn foreign_base(&self) -> Result<(), AutobuildError> {
        let sql = "SELECT image FROM build_base WHERE look_at <= $1 AND path IS NULL LIMIT 1";
        if !self.is_due(sql).await? {
            return Ok(());
        }
        let Some(base) = self.database.write(TakeBase).await? else { return Ok(()) };
        let looked = async {
            let scratch = self.scratch("base")?;
            let davit = self.settings.davit(namespace(&base.path));
            let directory = scratch.path().to_owned();
            let task = Task { directory, work: Work::Digest(davit, base.image.clone()) };
            ask::<Result<String, String>>(&self.settings.program, &task, PATIENCE).await
        };
        match looked.await {
            Ok(Ok(digest)) if digest.parse::<Digest>().is_ok() && digest != base.digest => {
                let digests = (base.digest, digest);
                self.rebuild(base.rule, base.reference, base.image, digests).await
            }
            Ok(Ok(_)) => Ok(()),
            // The registry may be away: later.
            other => {
                tracing::debug!(?other, image = base.image, "a base image cannot be looked at");
                Ok(())
            }
        }
    }

    async fn rebuild(
        &self,
        rule: i64,
        reference: String,
        image: String,
        digests: (String, String),
    ) -> Result<(), AutobuildError> {
        let rebuild = Rebuild { rule, reference, image, digests };
        match self.database.write(rebuild).await {
            Ok(Some(build)) => tracing::info!(build, "a base image changed"),
            // Once there is room for it.
            Ok(None) | Err(AutobuildError::Full(..)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes previews that have ended.
    async fn expire(&self) -> Result<(), AutobuildError> {
        let sql = "SELECT e.repo_id, e.tag, e.digest, m.digest, t.version, r.settings \
                   FROM build_expiry e JOIN repo r ON r.id = e.repo_id \
                   LEFT JOIN tag t ON t.repo_id = e.repo_id AND t.name = e.tag \
                   LEFT JOIN manifest m ON m.id = t.manifest_id WHERE e.expires_at <= $1 LIMIT $2";
        let mut reader = self.database.reader().await?;
        let now = reader.now_ms();
        let rows = reader.rows(sql, values![now, MOST]).await?;
        drop(reader);
        for row in rows {
            let (repo_id, tag): (i64, String) = (row.get(0)?, row.get(1)?);
            let (built, named): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            let settings = row.get::<String>(5)?.parse::<RepositorySettings>();
            // Somebody may have pushed another image since, or made it immutable.
            let is_free = settings.is_ok_and(|settings| !settings.is_immutable(&tag));
            if let Some(version) = row.get::<Option<i64>>(4)?
                && is_free
                && named.as_ref() == Some(&built)
            {
                let tags = vec![(tag.clone(), version)];
                self.database.write(RemoveTags { repo_id, tags }).await?;
            }
            self.database.write(Forget { repo_id, tag, digest: built }).await?;
        }
        Ok(())
    }

    fn scratch(&self, name: &str) -> io::Result<Scratch> {
        Scratch::new(self.tasks.join(name))
    }
}

/// A git repository whose turn it is.
struct Turn {
    source: i64,
    url: String,
    credential: Option<Credential>,
}

/// Takes the turn of the source that has waited for longest.
struct TakeTurn;

impl Transaction for TakeTurn {
    type Output = Option<Turn>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Turn>, DbError> {
        let now = connection.now_ms();
        let sql = "SELECT id, url, credential, poll_ms FROM build_source WHERE poll_at <= $1 \
                   ORDER BY poll_at LIMIT 1";
        let rows = connection.rows_locked(sql, values![now], Lock::UpdateSkipLocked).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (source, poll_ms): (i64, Option<i64>) = (row.get(0)?, row.get(3)?);
        let next = poll_ms.map(|poll_ms| now + poll_ms);
        let sql = "UPDATE build_source SET poll_at = $1 WHERE id = $2";
        connection.execute(sql, values![next, source]).await?;
        let credential = row.get::<Option<String>>(2)?;
        let credential = credential.as_deref().and_then(Credential::of_row);
        Ok(Some(Turn { source, url: row.get(1)?, credential }))
    }
}

/// Notes what a look at a git repository found; tells what is new since the look before.
struct Noted {
    source: i64,
    /// Where it was looked: the source may have another address by now.
    url: String,
    found: Result<References, String>,
}

impl Transaction for Noted {
    type Output = Vec<Revision>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Vec<Revision>, DbError> {
        let found = match &self.found {
            Ok(found) => found,
            Err(error) => {
                let error: String = error.chars().take(500).collect();
                let sql = "UPDATE build_source SET error = $1 WHERE id = $2 AND url = $3";
                connection.execute(sql, values![error, self.source, &self.url]).await?;
                self.try_first_look_again(connection).await?;
                return Ok(Vec::new());
            }
        };
        let sql = "SELECT refs FROM build_source WHERE id = $1 AND url = $2";
        let turn = values![self.source, &self.url];
        let rows = connection.rows_locked(sql, turn, Lock::NoKeyUpdate).await?;
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        let known = row.get::<Option<String>>(0)?;
        let sql = "UPDATE build_source SET refs = $1, error = NULL WHERE id = $2";
        connection.execute(sql, values![json!(found).to_string(), self.source]).await?;
        // The first look only tells what was there before.
        let known = known.and_then(|text| serde_json::from_str::<References>(&text).ok());
        let Some(known) = known else { return Ok(Vec::new()) };
        let known: std::collections::HashSet<_> = known.into_iter().collect();
        let new = found.iter().filter(|pair| !known.contains(*pair));
        Ok(new.filter_map(|(name, commit)| pushed(name, commit)).collect())
    }
}

impl Noted {
    /// Without a first look that succeeds the news of the next one would count as what was there before:
    /// it comes again after as long as the source is there, a minute at least and an hour at most.
    async fn try_first_look_again(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "SELECT created_at FROM build_source WHERE id = $1 AND url = $2 AND refs IS NULL";
        let source = connection.row(sql, values![self.source, &self.url]).await?;
        let Some(source) = source else { return Ok(()) };
        let now = connection.now_ms();
        let next = now + (now - source.get::<i64>(0)?).clamp(FIRST_LOOK_MS, LOOK_MS);
        let sql = "UPDATE build_source SET poll_at = $1 \
                   WHERE id = $2 AND (poll_at IS NULL OR poll_at > $1)";
        connection.execute(sql, values![next, self.source]).await.map(drop)
    }
}

/// A base image of another registry.
struct Base {
    rule: i64,
    reference: String,
    image: String,
    digest: String,
    /// The repository that is built on it.
    path: String,
}

/// Takes the base image that was looked at longest ago.
struct TakeBase;

impl Transaction for TakeBase {
    type Output = Option<Base>;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<Option<Base>, DbError> {
        let now = connection.now_ms();
        let sql = "SELECT rule_id, reference, image, digest FROM build_base \
                   WHERE look_at <= $1 AND path IS NULL ORDER BY look_at LIMIT 1";
        let rows = connection.rows_locked(sql, values![now], Lock::UpdateSkipLocked).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (rule, reference, image): (i64, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let sql = "UPDATE build_base SET look_at = $1 \
                   WHERE rule_id = $2 AND reference = $3 AND image = $4";
        connection.execute(sql, values![now + LOOK_MS, rule, &reference, &image]).await?;
        let sql = "SELECT r.path FROM build_rule u JOIN build_source s ON s.id = u.source_id \
                   JOIN repo r ON r.id = s.repo_id WHERE u.id = $1";
        let path = connection.row(sql, values![rule]).await?;
        let path = path.map_or(Ok(String::new()), |row| row.get(0))?;
        Ok(Some(Base { rule, reference, image, digest: row.get(3)?, path }))
    }
}

/// Forgets a preview that was removed, or is none any more.
struct Forget {
    repo_id: i64,
    tag: String,
    digest: String,
}

impl Transaction for Forget {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "DELETE FROM build_expiry WHERE repo_id = $1 AND tag = $2 AND digest = $3";
        connection.execute(sql, values![self.repo_id, &self.tag, &self.digest]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use davit_test::TempDir;

    use super::*;
    use crate::{
        auth::{
            accounts::{AddAccount, Kind},
            audit::Actor,
        },
        autobuild::source::{AddSource, SourceSettings},
        db::Location,
    };

    /// A source that was looked at, with this outcome; tells whether another look follows.
    async fn looks_again_after(found: Result<References, String>) -> bool {
        let dir = TempDir::new();
        let database = Database::open(&Location::Sqlite(dir.join("db"))).await.unwrap();
        let (by, kind, name) = (Actor::operator(), Kind::User, "alice".to_owned());
        let add = AddAccount { by: by.clone(), name, kind, password: None, is_admin: false };
        database.write(add).await.unwrap();
        let (path, url) = ("alice/app".parse().unwrap(), "https://git.example/app");
        let add = AddSource::new(by, path, url, None, SourceSettings::default()).unwrap();
        database.write(add).await.unwrap();
        let turn = database.write(TakeTurn).await.unwrap().expect("the first look is due");
        let noted = Noted { source: turn.source, url: turn.url, found };
        assert!(database.write(noted).await.unwrap().is_empty());
        let sql = "SELECT poll_at FROM build_source WHERE poll_at IS NOT NULL";
        let mut reader = database.reader().await.unwrap();
        reader.row(sql, values![]).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_first_look_that_fails_comes_again() {
        assert!(looks_again_after(Err("the host is away".to_owned())).await);
        assert!(!looks_again_after(Ok(Vec::new())).await, "then only news are a reason");
    }
}
